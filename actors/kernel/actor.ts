/**
 * Actors: some state, a mailbox, and one handler per message type.
 *
 * Rule 1: an actor handles one message at a time, and a handler never waits. Slow work is started, and its end comes
 * back as a message to oneself (see `pipe.ts`); so nothing changes in the middle of a handler.
 * Rule 2: messages are plain data. References pass in production; `cloneMessages(true)` sends every message through
 * `structuredClone`, where a function throws and a class instance loses its methods. Only the error of a refusal
 * passes as it is.
 * Rule 3: a handler that throws is a bug. The actor stops, everyone who waits for it is refused, and `onCrash` decides
 * what that means. Expected failures are answers or refusals.
 *
 * @module
 */
import { assert, BugError } from "../../base/assert.ts";
import type { Answer, Ask, Asker, Calls, Handlers, Ref } from "./calls.ts";
import { ActorStoppedError, toError } from "./errors.ts";

/** Messages that may wait for one actor. More is a bug: somebody produces without regard to whoever consumes. */
export const MAILBOX_MESSAGES_MAX = 262_144;

/**
 * Messages that one actor handles before it lets timers and sockets have their turn. Microtasks alone would starve
 * them for as long as two actors have something to tell each other; a turn of the event loop costs about 2 µs.
 */
export const TURN_MESSAGES_MAX = 256;

/** Options of {@linkcode spawn}. */
export interface ActorOptions {
  /** Messages that may wait. Default {@linkcode MAILBOX_MESSAGES_MAX}. */
  readonly mailboxMessagesMax?: number;
  /** The actor has crashed with `error`. Without it the error is uncaught, and so ends the process. */
  readonly onCrash?: (error: Error) => void;
  /** The actor has ended, by `stop` or by a crash: give back what it owned. Called before `stopped` resolves. */
  readonly onStop?: () => void;
}

/** An actor, as its owner holds it. Others hold its `ref`. */
export interface Actor<C extends Calls> {
  /** Through which others send. */
  readonly ref: Ref<C>;
  /**
   * Ends the actor: the message that is being handled is handled to its end, those that wait are not handled any
   * more, and all who ask are refused with `ActorStoppedError`. Idempotent.
   */
  stop(): Promise<void>;
  /** Resolves when the actor has ended, by `stop` or by a crash. Never rejects. */
  readonly stopped: Promise<void>;
}

/** Starts an actor. `handlers` close over its state and are the only ones who touch it. */
export function spawn<C extends Calls>(
  name: string,
  handlers: Handlers<C>,
  options: ActorOptions = {},
): Actor<C> {
  return new RunningActor(name, handlers, options);
}

let cloning = false;

/** Switches, for all actors of this process, whether messages are cloned on their way. For tests. */
export function cloneMessages(on: boolean): void {
  cloning = on;
}

/** A message that waits. `number` names the ask that it belongs to; 0: nobody waits for an answer. */
interface Message {
  readonly type: string;
  readonly ask: unknown;
  readonly number: number;
}

/** Somebody who waits for an answer. */
interface Waiter {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** What the handler of a `tell` gets. */
const NOBODY: Asker<unknown> = { answer: () => {}, refuse: () => {} };

/** Empty slots that a mailbox may have before it is made anew: to do it after each message would double their price. */
const SLOTS_MIN = 64;

/** The cheapest way to be called in this turn but not now: `queueMicrotask` wraps what it calls. */
const RESOLVED = Promise.resolve();

class RunningActor<C extends Calls> implements Actor<C>, Ref<C> {
  readonly name: string;
  readonly stopped: Promise<void>;
  readonly #handlers: Handlers<C>;
  readonly #options: ActorOptions;
  readonly #mailboxMessagesMax: number;
  /** The mailbox is `#messages` from `#head` on; what is before has been handled, and its slots are empty. */
  #messages: (Message | undefined)[] = [];
  #head = 0;
  /** All and only asks that have been sent and neither answered nor refused. */
  readonly #waiters = new Map<number, Waiter>();
  #lastNumber = 0;
  /** Messages handled since the event loop last had its turn. */
  #turnMessages = 0;
  #state: "idle" | "scheduled" | "handling" | "stopping" | "stopped" = "idle";
  #stoppedBy: ActorStoppedError | null = null;
  #resolveStopped!: () => void;
  readonly #drain = (): void => this.#handleWaiting();
  readonly #drainNextTurn = (): void => {
    this.#turnMessages = 0;
    this.#handleWaiting();
  };

  constructor(name: string, handlers: Handlers<C>, options: ActorOptions) {
    this.name = name;
    this.#handlers = handlers;
    this.#options = options;
    this.#mailboxMessagesMax = options.mailboxMessagesMax ?? MAILBOX_MESSAGES_MAX;
    this.stopped = new Promise((resolve) => this.#resolveStopped = resolve);
  }

  get ref(): Ref<C> {
    return this;
  }

  tell<T extends keyof C & string>(type: T, ask: Ask<C, T>): void {
    if (this.#stoppedBy !== null) return;
    this.#put({ type, ask: cloning ? structuredClone(ask) : ask, number: 0 });
  }

  ask<T extends keyof C & string>(type: T, ask: Ask<C, T>): Promise<Answer<C, T>> {
    if (this.#stoppedBy !== null) return Promise.reject(this.#stoppedBy);
    const number = ++this.#lastNumber;
    this.#put({ type, ask: cloning ? structuredClone(ask) : ask, number });
    return new Promise((resolve, reject) => {
      // The handler of `type` answers with its answer type, as `Handlers` proves.
      this.#waiters.set(number, { resolve: resolve as (value: unknown) => void, reject });
    });
  }

  stop(): Promise<void> {
    if (this.#state === "handling") this.#state = "stopping";
    else this.#end(undefined);
    return this.stopped;
  }

  #put(message: Message): void {
    assert(
      this.#messages.length - this.#head < this.#mailboxMessagesMax,
      `The mailbox of actor "${this.name}" is full (mailboxMessagesMax ${this.#mailboxMessagesMax}) at "${message.type}"`,
    );
    this.#messages.push(message);
    if (this.#state === "idle") this.#schedule();
  }

  #schedule(): void {
    this.#state = "scheduled";
    if (this.#turnMessages < TURN_MESSAGES_MAX) RESOLVED.then(this.#drain);
    else setImmediate(this.#drainNextTurn);
  }

  #handleWaiting(): void {
    if (this.#state !== "scheduled") return;
    while (this.#turnMessages < TURN_MESSAGES_MAX) {
      const message = this.#messages[this.#head];
      if (message === undefined) break;
      this.#messages[this.#head++] = undefined;
      this.#turnMessages++;
      this.#state = "handling";
      try {
        this.#handle(message);
      } catch (thrown) {
        return this.#crash(toError(thrown));
      }
      // A handler may have called `stop`.
      if ((this.#state as string) === "stopping") return this.#end(undefined);
    }
    this.#forgetHandled();
    if (this.#head < this.#messages.length) this.#schedule();
    else this.#state = "idle";
  }

  #handle(message: Message): void {
    const handler = this.#handlers[message.type as keyof C & string];
    assert(typeof handler === "function", `Actor "${this.name}" has no handler for "${message.type}"`);
    // `tell` and `ask` are typed by `C`, so what waits in the mailbox under `type` is an ask of that type.
    const ask = message.ask as Ask<C, keyof C & string>;
    handler(ask, message.number === 0 ? NOBODY : this.#askerOf(message.number));
  }

  #askerOf(number: number): Asker<unknown> {
    return {
      answer: (value) => {
        const sent = cloning ? structuredClone(value) : value;
        this.#takeWaiter(number)?.resolve(sent);
      },
      refuse: (error) => this.#takeWaiter(number)?.reject(error),
    };
  }

  /** Who waits for ask `number`; nobody once the actor has stopped, since then all have been refused. */
  #takeWaiter(number: number): Waiter | undefined {
    const waiter = this.#waiters.get(number);
    if (waiter === undefined) {
      if (this.#stoppedBy === null) throw new BugError(`Actor "${this.name}" answered ask ${number} twice`);
      return undefined;
    }
    this.#waiters.delete(number);
    return waiter;
  }

  #forgetHandled(): void {
    if (this.#head < SLOTS_MIN) return;
    if (this.#head === this.#messages.length) {
      this.#messages = [];
      this.#head = 0;
    } else if (this.#head * 2 > this.#messages.length) {
      this.#messages.splice(0, this.#head);
      this.#head = 0;
    }
  }

  #crash(error: Error): void {
    const { onCrash } = this.#options;
    this.#end(error);
    if (onCrash !== undefined) onCrash(error);
    else {queueMicrotask(() => {
        throw error;
      });}
  }

  #end(cause: Error | undefined): void {
    if (this.#state === "stopped") return;
    this.#state = "stopped";
    this.#stoppedBy = new ActorStoppedError(this.name, cause);
    this.#messages = [];
    this.#head = 0;
    const waiters = [...this.#waiters.values()];
    this.#waiters.clear();
    for (const waiter of waiters) waiter.reject(this.#stoppedBy);
    try {
      this.#options.onStop?.();
    } finally {
      this.#resolveStopped();
    }
  }
}
