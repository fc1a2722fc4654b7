/**
 * The types of actors: what may be asked of one, and the reference through which it is asked.
 *
 * @module
 */

/** What an actor can be asked: per message type, what is sent and what is answered. Plain data only (see `spawn`). */
export type Calls = { readonly [type: string]: { readonly ask: unknown; readonly answer: unknown } };

/** What is sent with message `T`. */
export type Ask<C extends Calls, T extends keyof C> = C[T]["ask"];
/** What message `T` is answered with. */
export type Answer<C extends Calls, T extends keyof C> = C[T]["answer"];

/** All that others hold of an actor. */
export interface Ref<C extends Calls> {
  /** The name it was spawned under, for errors and logs. */
  readonly name: string;
  /** Sends without waiting. After the actor's end it does nothing. */
  tell<T extends keyof C & string>(type: T, ask: Ask<C, T>): void;
  /** Sends and waits. Rejects with what the handler refused with, or with `ActorStoppedError`. */
  ask<T extends keyof C & string>(type: T, ask: Ask<C, T>): Promise<Answer<C, T>>;
}

/** How a handler answers, now or in a later turn; at most once. On a `tell` both do nothing. */
export interface Asker<A> {
  answer(value: A): void;
  refuse(error: Error): void;
}

/** One handler per message type; total by type. A handler runs to its end without waiting. */
export type Handlers<C extends Calls> = {
  readonly [T in keyof C & string]: (ask: Ask<C, T>, asker: Asker<Answer<C, T>>) => void;
};
