/**
 * Actors as their users hold them: an object whose methods run elsewhere. The law: the calls of one handle are made in
 * the order in which they were written, each is answered or refused, and after the loss of the actor every call is.
 *
 * @module
 */
import { FUTURE, isFuture, isOp, type Result } from "../dispatch/node.ts";
import { describe } from "../dispatch/options.ts";
import { type ActorHandle, readActor } from "../protocol/actor.ts";
import type { Request } from "../comm/pool.ts";
import { type Serialized, serialized } from "../protocol/envelope.ts";
import {
  CancelledError,
  CommClosedError,
  DaskError,
  TaskError,
  WorkerLostError,
} from "../protocol/errors.ts";
import { keyText, keyToWire } from "../protocol/key.ts";
import { readRecord, readSerialized, readString } from "../protocol/read.ts";
import { readException } from "../protocol/remote_error.ts";
import { decodeValue, encodeValue } from "../protocol/value.ts";
import { remoteError } from "./failures.ts";
import { type Future, inMemory, type KeyState, stateOf } from "./future.ts";

/** How long a call under way waits for the worker's own word of a loss, when the scheduler tells of it, ms. */
const REASON_MS_MAX = 1_000;

/**
 * An actor on the cluster, made by {@linkcode Client.actor} or found by {@linkcode Client.remote}: its methods give
 * promises of their results, its fields are promises of their values.
 *
 * The instance lives in a process of its own on one worker, as long as somebody wants it. Calls go straight to that
 * worker and run one after the other in the order in which they come, of one handle in the order in which they were
 * written; an asynchronous method is awaited before the next call begins, so nothing changes the state between two of
 * its `await`s. (A method that waits for another call of its own actor waits for ever.) Calls take no slot.
 *
 * A method that throws rejects with a {@linkcode TaskError}. When the process or its worker dies, the state is lost with
 * it, and all calls reject with a {@linkcode WorkerLostError}. `await using` gives the actor up at the end of the block.
 * A handle cannot be an argument; give the key, and find the actor there by {@linkcode Client.remote}.
 *
 * @example
 * ```ts ignore
 * // counter.ts: export class Counter { constructor(public n: number) {} add(by: number) { return this.n += by; } }
 * const t = tasks<typeof import("./counter.ts")>(new URL("./counter.ts", import.meta.url));
 * await using counter = await client.actor(t.Counter, [10]);
 * await Promise.all([counter.add(1), counter.add(2)]);
 * console.log(await counter.n); // 13
 * ```
 */
export type Remote<I> =
  & AsyncDisposable
  & {
    readonly [
      K in keyof I as Exclude<K & string, "then">
    ]-?: I[K] extends (...args: infer A) => infer R ? (...args: A) => Promise<Result<R>>
      : Promise<I[K]>;
  };

/** What a handle needs of its client. */
export interface RemoteParts {
  /** Asks a worker something, straight. */
  readonly worker: (address: string, request: Request, signal: AbortSignal) => Promise<unknown>;
  /** Asks the scheduler something. */
  readonly scheduler: (request: Request, signal: AbortSignal) => Promise<unknown>;
}

/**
 * The handle of the actor whose future this is; the future is given up with it.
 *
 * @throws what the making of the actor ended with. @throws {DaskError} when it is no actor, or one of Python's.
 */
export async function remote<I>(
  future: Future<unknown>,
  parts: RemoteParts,
  signal: AbortSignal | undefined,
): Promise<Remote<I>> {
  const value = await future.result(signal === undefined ? {} : { signal });
  const handle = readActor(value);
  if (handle === null) {
    throw new DaskError(
      `Cannot use "${keyText(future.key)}" as an actor: expected one of a TypeScript class, got ${
        describe(value)
      }`,
    );
  }
  const actor = new RemoteActor(future, handle, parts);
  RemoteActor.refuseLost(actor);
  // What it has the type says and the handle knows: the proxy only looks names up.
  return new Proxy(actor, HANDLER) as unknown as Remote<I>;
}

/** Behind the proxy. No part of it is reached by a name that an actor may have. */
class RemoteActor {
  readonly #future: Future<unknown>;
  readonly #state: KeyState;
  readonly #handle: ActorHandle;
  readonly #parts: RemoteParts;
  readonly #methods = new Map<string, (...args: unknown[]) => Promise<unknown>>();
  readonly #fields: ReadonlySet<string>;
  readonly #end = new AbortController();
  readonly #unlisten: () => void;
  /** The end of the last call. */
  #last: Promise<unknown> = Promise.resolve();
  /** Whether the worker is reached straight; null: not tried yet. */
  #direct: boolean | null = null;
  /** Calls that were written and have not ended. */
  #calls = 0;
  /** Ends the waiting for the reason of a loss. */
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(future: Future<unknown>, handle: ActorHandle, parts: RemoteParts) {
    this.#future = future;
    this.#state = stateOf(future, "an actor's future");
    this.#handle = handle;
    this.#parts = parts;
    this.#fields = new Set(handle.fields);
    for (const name of handle.methods) {
      this.#methods.set(name, async (...args) => {
        const message = { op: "actor_execute", function: name, args: this.#write(name, args) };
        return await this.#call(name, message);
      });
    }
    // Weakly, or an actor that nobody refers to any more would never be given up.
    const weak = new WeakRef(this);
    this.#unlisten = this.#state.listen(() => {
      const actor = weak.deref();
      if (actor !== undefined) actor.#look();
    });
    this.#look();
  }

  get [Symbol.toStringTag](): string {
    return "Remote";
  }

  /** `Remote(Counter, "Counter-…")`. */
  [Symbol.for("Deno.customInspect")](): string {
    return `Remote(${this.#handle.className}, ${JSON.stringify(keyText(this.#handle.key))})`;
  }

  static get(actor: RemoteActor, name: string): unknown {
    const method = actor.#methods.get(name);
    if (method !== undefined) return method;
    if (actor.#fields.has(name)) return actor.#call(name, { op: "actor_attribute", attribute: name });
    if (name in Object.prototype) return Reflect.get(actor, name);
    throw new TypeError(`Cannot use "${name}" of ${actor.#text}: ${actor.#offer()}`);
  }

  static refuseLost(actor: RemoteActor): void {
    actor.#end.signal.throwIfAborted();
  }

  static refuseArgument(actor: RemoteActor): never {
    throw new TypeError(
      `Cannot use ${actor.#text} as an argument: give its key, as text, and find it where it is used by ` +
        `(await current().client()).remote(key); client.actor(…, { key }) chooses one`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#finish(new DaskError(`Cannot use ${this.#text}: it was released`));
    const { owner } = this.#state;
    if (owner.ended === null) await owner.settled();
  }

  get #text(): string {
    return `the actor "${keyText(this.#handle.key)}" (${this.#handle.className})`;
  }

  #offer(): string {
    const [methods, fields] = [[...this.#methods.keys()], [...this.#fields]];
    const list = (names: readonly string[]) => names.length === 0 ? "none" : names.join(", ");
    return `its methods are ${list(methods)}, its fields ${list(fields)}`;
  }

  /** Looks whether the actor is still there. */
  #look(): void {
    const { status, owner } = this.#state;
    if (owner.ended !== null) this.#finish(owner.ended);
    else if (status === "cancelled") {
      this.#finish(new CancelledError(`Cannot use ${this.#text}: it was cancelled`));
    } else if (status === "error" || status === "lost") {
      const finish = () => this.#finish(this.#lostError("its worker left the cluster, or its process ended"));
      if (this.#calls === 0) finish();
      else this.#timer ??= setTimeout(finish, REASON_MS_MAX);
    }
  }

  #finish(error: Error): void {
    if (this.#end.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#unlisten();
    this.#end.abort(error);
    // Also when it is lost: once nobody wants it, there can be another one under its key.
    this.#future.release();
  }

  #lostError(exit: string, cause?: unknown): WorkerLostError {
    const { key, address: worker } = this.#handle;
    return new WorkerLostError(`Lost ${this.#text} on ${worker}, and its state with it: ${exit}`, {
      key,
      worker,
      attempts: [{ worker, exit }],
      ...(cause === undefined ? {} : { cause }),
    });
  }

  /** One call after the other, since those that are under way at once may overtake each other. */
  #call(name: string, request: Request): Promise<unknown> {
    const call = async (): Promise<unknown> => {
      const { signal } = this.#end;
      signal.throwIfAborted();
      let reply: unknown;
      try {
        reply = await this.#ask(request);
      } catch (error) {
        signal.throwIfAborted();
        // Nobody there any more: the connection says so before the scheduler does, or the scheduler in its place.
        if (error instanceof CommClosedError || (this.#direct === false && error instanceof DaskError)) {
          const lost = this.#lostError(error.message, error);
          if (this.#state.status !== "finished") this.#finish(lost);
          throw lost;
        }
        throw error;
      }
      return this.#answer(name, reply);
    };
    this.#calls++;
    const called = this.#last.then(call).finally(() => this.#calls--);
    this.#last = called.catch(() => {});
    return called;
  }

  #write(name: string, args: readonly unknown[]): readonly Serialized[] {
    return args.map((arg, i) => {
      if (isOp(arg) || isFuture(arg)) {
        throw new TypeError(
          `Cannot call "${name}" of ${this.#text}: expected a value as argument ${i}, got ${
            describe(arg)
          }; ` +
            `await its result first`,
        );
      }
      return serialized(encodeValue(arg, `args[${i}]`));
    });
  }

  async #ask(request: Request): Promise<unknown> {
    const { key, address } = this.#handle;
    const { signal } = this.#end;
    const message = { ...request, actor: keyToWire(key) };
    this.#direct ??= await this.#parts.worker(address, { op: "ping" }, signal).then(() => true, (error) => {
      if (error instanceof CommClosedError && !signal.aborted) return false;
      throw error;
    });
    return this.#direct
      ? await this.#parts.worker(address, message, signal)
      : await this.#parts.scheduler({ op: "proxy", worker: address, msg: message }, signal);
  }

  #answer(name: string, reply: unknown): unknown {
    const { key, address: worker } = this.#handle;
    const fields = readRecord(reply, "the answer of an actor");
    if (readString(fields["status"], "the answer of an actor.status") === "OK") {
      return decodeValue(inMemory(readSerialized(fields["result"], "the answer of an actor.result").payload));
    }
    const data = readException(fields["exception"], fields["traceback"] ?? null);
    if (data.kind === "lost") {
      const error = this.#lostError(data.exit ?? data.message);
      this.#finish(error);
      throw error;
    }
    throw new TaskError(
      `Calling "${name}" of ${this.#text} failed on ${worker}: ${data.name}: ${data.message}`,
      {
        key,
        worker,
        remoteStack: data.stack,
        cause: remoteError(data),
      },
    );
  }
}

const HANDLER: ProxyHandler<RemoteActor> = {
  get(actor, name) {
    // `await` asks for `then`: a handle is no promise. What every object has is not looked for elsewhere.
    if (name === "then") return undefined;
    if (typeof name === "symbol") {
      const own = Reflect.get(actor, name, actor);
      return typeof own === "function" ? own.bind(actor) : own;
    }
    return RemoteActor.get(actor, name);
  },
  has(actor, name) {
    if (name === FUTURE) RemoteActor.refuseArgument(actor);
    return Reflect.has(actor, name);
  },
  set(_, name) {
    throw new TypeError(`Cannot set "${String(name)}" of an actor: give it a method that does`);
  },
};
