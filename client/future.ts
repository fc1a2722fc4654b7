/**
 * Futures: handles on results that stay on the cluster. A future is not a promise: reading one is a transfer, so it is
 * written out, and a future can be returned from an `async` function without being fetched.
 *
 * The law: all futures of one key share one {@linkcode KeyState}; the key is wanted while one of them is neither
 * released nor collected as garbage. A promise that a future gave keeps the future.
 *
 * @module
 */
import { FUTURE, futureName, PART, type Waiting } from "../dispatch/node.ts";
import { describe } from "../dispatch/options.ts";
import { CancelledError, DaskError, TaskError } from "../protocol/errors.ts";
import { keyText } from "../protocol/key.ts";
import type { Payload } from "../protocol/payload.ts";
import { decodeValue } from "../protocol/value.ts";
import { type Failed, nextMoment, type RetryPolicy } from "./retries.ts";
import { showFuture } from "./display.ts";
import { endedError, type Failure, failureError } from "./failures.ts";
import type { Address, ClientEvent, Key } from "./machine/events.ts";
import type { FutureStatus } from "./machine/instructions.ts";
import type { Diagnosis, ItemBatch, News } from "./messages.ts";
import { streamOf } from "./stream.ts";

export { describe };
export type { FutureStatus };

/** What the states of keys need of their client. */
export interface KeyOwner {
  readonly schedulerVersion: string;
  /** Why nothing can be asked any more, or null. */
  readonly ended: Error | null;
  /** Somebody here begins to wait for a task. */
  waits(): void;
  /** Tells the actor, with all else that happens in this turn. */
  happened(event: ClientEvent): void;
  /** Resolves when the actor has done all that was told. */
  settled(): Promise<void>;
  diagnose(key: Key, lost: boolean): Promise<Diagnosis>;
  /** Items of a task that runs, from number `from` on; waits for them. `worker` is asked first. */
  items(key: Key, from: number, worker: Address | null, signal: AbortSignal): Promise<ItemBatch>;
  /** The last future of a key is gone. */
  forget(state: KeyState): void;
}

/** A pause before a failed task runs again, as one of those who wait for its end. */
interface Pause extends Failed {
  readonly end: () => void;
}

/** What is known here of one want of a key. */
export class KeyState {
  readonly key: Key;
  readonly want: number;
  readonly owner: KeyOwner;
  /** Retries that are decided here, by the key of the task that failed. */
  readonly policies: ReadonlyMap<Key, RetryPolicy> | null;
  /** Where and how it may run, as a text; `""` means anywhere. */
  readonly restrictions: string;
  /** It is the code of tasks, wanted by the client itself. */
  readonly isCode: boolean;
  status: FutureStatus = "pending";
  /** Why it was cancelled or lost. */
  #reason: string | null = null;
  #failure: Failure | null = null;
  #error: Promise<DaskError> | null = null;
  /** The scheduler was lost before it had said where the failure came from. */
  #interrupted = false;
  /** Futures that are neither released nor collected. */
  #futures = 0;
  /** The value, once somebody asked for it. */
  #value: PromiseWithResolvers<unknown> | null = null;
  #valueHere = false;
  /** Callers of `value` that wait. */
  #waiting = 0;
  readonly #listeners = new Set<() => void>();
  /** The pause before the failed task runs again, and who decided on it. */
  #pause: Pause | null = null;
  #failedPolicy: RetryPolicy | null = null;

  constructor(
    key: Key,
    want: number,
    owner: KeyOwner,
    details: {
      readonly policies?: ReadonlyMap<Key, RetryPolicy> | null;
      readonly restrictions?: string;
      readonly isCode?: boolean;
    } = {},
  ) {
    this.key = key;
    this.want = want;
    this.owner = owner;
    this.policies = details.policies ?? null;
    this.restrictions = details.restrictions ?? "";
    this.isCode = details.isCode ?? false;
  }

  /** Whether it came to some end: a result, a failure, or none. */
  get isDone(): boolean {
    return this.status !== "pending";
  }

  hold(): void {
    this.#futures++;
  }

  /** One future less. */
  drop(): void {
    if (--this.#futures > 0) return;
    this.#endPause();
    this.owner.forget(this);
    if (this.owner.ended !== null) return;
    this.owner.happened({ type: "released", key: this.key, want: this.want });
    if (this.isDone) return;
    // No more news will come. Whoever waits for it is told, as by dask.
    this.status = "cancelled";
    this.#reason = "its last future was released before it had ended";
    this.#refuse(endedError(this.key, this.status, this.#reason));
    this.#tellListeners();
  }

  /** Calls `listener` when the status changes or the client ends; gives the way to stop that. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The value, or its error. */
  value(signal: AbortSignal | undefined): Promise<unknown> {
    if (this.#valueHere) return this.#value!.promise;
    if (this.status === "error") return this.error().then((error) => Promise.reject(error));
    if (this.status === "cancelled" || this.status === "lost") {
      return Promise.reject(endedError(this.key, this.status, this.#reason));
    }
    const { ended } = this.owner;
    if (ended !== null) return Promise.reject(ended);
    this.owner.waits();
    if (this.#value === null) {
      this.#value = Promise.withResolvers();
      this.#value.promise.catch(() => {}); // those who wait hear of it
      this.owner.happened({ type: "value-wanted", key: this.key, want: this.want });
    }
    const { promise } = this.#value;
    if (signal === undefined) {
      this.#waiting = Infinity;
      return promise;
    }
    this.#waiting++;
    return abortable(promise, signal, () => {
      if (--this.#waiting > 0 || this.#value?.promise !== promise || this.#valueHere) return;
      this.#value = null;
      if (this.owner.ended === null) {
        this.owner.happened({ type: "value-unwanted", key: this.key, want: this.want });
      }
    });
  }

  /** The error of a failed task. */
  error(): Promise<DaskError> {
    return this.#error ??= failureError(
      this.key,
      this.#failure!,
      async (lost) => {
        const diagnosis = await this.owner.diagnose(this.key, lost);
        this.#interrupted = diagnosis.interrupted === true;
        return diagnosis;
      },
      this.owner.schedulerVersion,
    );
  }

  /** Takes news; those for another want of the key are not for this. */
  take(news: News): void {
    this.#endPause();
    switch (news.type) {
      case "status":
        if (news.status === "pending" && this.#failure !== null) this.#revive();
        this.status = news.status;
        this.#failure = null;
        this.#error = null;
        this.#reason = news.reason;
        if (news.status === "cancelled" || news.status === "lost") {
          this.owner.forget(this);
          this.#refuse(endedError(this.key, news.status, news.reason));
        }
        break;
      case "failed":
        this.#failure = news;
        this.#error = null;
        this.#interrupted = false;
        if (this.policies !== null) {
          this.#retryOrFail(news, this.policies);
          return;
        }
        this.#fail();
        return;
      case "value":
        return this.#keep(news.payload);
    }
    this.#tellListeners();
  }

  /** The client ended; nothing will come any more. */
  end(error: Error): void {
    this.#endPause();
    this.#refuse(error);
    this.#tellListeners();
  }

  #keep(payload: Payload): void {
    this.#value ??= Promise.withResolvers();
    try {
      this.#value.resolve(decodeValue(inMemory(payload)));
      this.#valueHere = true;
    } catch (error) {
      this.#refuse(error);
    }
  }

  #refuse(error: unknown): void {
    if (this.#value === null || this.#valueHere) return;
    this.#value.reject(error);
    this.#value = null;
    this.#waiting = 0;
  }

  #fail(): void {
    this.status = "error";
    if (this.#value !== null && !this.#valueHere) {
      const value = this.#value;
      this.#value = null;
      this.#waiting = 0;
      this.error().then(value.reject);
    }
    this.#tellListeners();
  }

  /** To the outside the task is pending until it is decided that it stays failed. */
  async #retryOrFail(failure: Failure, policies: ReadonlyMap<Key, RetryPolicy>): Promise<void> {
    const heardAt = nextMoment();
    const error = await this.error();
    if (this.#failure !== failure || this.owner.ended !== null) return;
    if (this.#interrupted) {
      // Who is to decide on a retry is not known; so it runs again, and fails again, by the next connection.
      this.owner.happened({ type: "retried", key: this.key, want: this.want });
      return;
    }
    if (!(error instanceof TaskError)) return this.#fail();
    const origin = originOf(error);
    const policy = policies.get(origin) ?? null;
    this.#failedPolicy = policy;
    const pause: Pause = {
      heardAt,
      end: () => policy?.leave(pause),
      runAgain: () => {
        this.#pause = null;
        const target = origin === this.key ? {} : { target: origin };
        this.owner.happened({ type: "retried", key: this.key, want: this.want, ...target });
      },
    };
    try {
      if (policy?.join(error, pause) !== true) return this.#fail();
      this.#pause = pause;
    } catch (thrown) {
      // A predicate that throws decides nothing; its error is shown with the failure.
      this.#error = Promise.resolve(
        new DaskError(
          `The retryOn of task "${keyText(origin)}" threw: ${String(thrown)}. ${error.message}`,
          { cause: error },
        ),
      );
      this.#fail();
    }
  }

  /** What had failed runs again. */
  #revive(): void {
    this.#failedPolicy?.revive();
    this.#failedPolicy = null;
    // A failure ends the wish for the value; those who wait here for a retry have it still.
    if (this.#value !== null && !this.#valueHere) {
      this.owner.happened({ type: "value-wanted", key: this.key, want: this.want });
    }
  }

  /** Nobody waits here for the end of a pause. */
  #endPause(): void {
    this.#pause?.end();
    this.#pause = null;
  }

  #tellListeners(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

function originOf(error: TaskError): Key {
  return "origin" in error && typeof error.origin === "string" ? error.origin : error.key;
}

/** A payload that came over a connection of a client. */
export function inMemory(payload: Payload): { header: Uint8Array; frames: readonly Uint8Array[] } {
  // The client's connections put all frames into memory.
  return payload as { header: Uint8Array; frames: readonly Uint8Array[] };
}

/** Futures that became unreachable give up their share in the key. */
const collected = new FinalizationRegistry<KeyState>((state) => state.drop());
const NEW = Symbol("new");

/**
 * A handle on a result that stays on the cluster.
 *
 * The key is wanted until all futures of it are released, by {@linkcode Future.release}, by `using`, or because
 * nothing refers to them any more; then the cluster may forget the result.
 *
 * @example
 * ```ts ignore
 * using future = client.submit(t.add(1, 2));
 * console.log(future.status, await future.result());
 * ```
 */
export class Future<T> implements Disposable {
  readonly #state: KeyState;
  readonly #part: number | undefined;
  #released = false;

  /** Made by clients alone. `part`: of the list that is the key's value it stands for this item. */
  constructor(state: KeyState, mark: typeof NEW, part?: number) {
    if (mark !== NEW) throw new TypeError("Cannot make a Future: submit a node instead");
    this.#state = state;
    this.#part = part;
    state.hold();
    collected.register(this, state, this);
  }

  /** Marks futures for the graph. */
  get [FUTURE](): unknown {
    return this.#state;
  }

  /** Marks futures of single items of a chunk, for the graph. */
  get [PART](): number | undefined {
    return this.#part;
  }

  /**
   * The key under which scheduler, workers and dashboards know the task. Futures of items that were mapped with a
   * `chunkSize` have the key of their chunk.
   */
  get key(): string {
    return this.#state.key;
  }

  /** What is known of the task at this moment. Never waits. */
  get status(): FutureStatus {
    return this.#state.status;
  }

  /**
   * Waits for the task and brings its value here. The value is kept: asking again gives the same one.
   *
   * @param options `signal` ends the waiting alone; the task runs on.
   * @throws {TaskError} when the task failed; {@linkcode DependencyError} when one that it depends on did;
   * {@linkcode WorkerLostError} when the processes that ran it died.
   * @throws {CancelledError} when it was cancelled, here or elsewhere.
   * @throws {DaskError} when the client is closed, or the scheduler is lost.
   */
  async result(options: Waiting = {}): Promise<T> {
    const signal = signalOf(options);
    signal?.throwIfAborted();
    if (this.#released && !this.#state.isDone) {
      throw new DaskError(`Cannot wait for "${keyText(this.key)}": this future was released`);
    }
    try {
      const value = await this.#state.value(signal);
      // Whoever made a future of a part knows that the value is a list.
      return (this.#part === undefined ? value : (value as readonly unknown[])[this.#part]) as T;
    } finally {
      // A use after the waiting: whoever waits keeps the future, and so the key.
      void this.#released;
    }
  }

  /**
   * As {@linkcode Future.result}, as the outcome of the task: never rejects because the task failed or was cancelled.
   *
   * @example
   * ```ts ignore
   * const outcome = await future.settled();
   * console.log(outcome.status === "fulfilled" ? outcome.value : outcome.reason.message);
   * ```
   */
  async settled(options: Waiting = {}): Promise<PromiseSettledResult<T>> {
    try {
      return { status: "fulfilled", value: await this.result(options) };
    } catch (reason) {
      const { signal } = options;
      if (signal?.aborted === true && reason === signal.reason) throw reason;
      const outcome: PromiseSettledResult<T> = { status: "rejected", reason };
      if (isOutcome(outcome)) return outcome;
      throw reason;
    }
  }

  /**
   * The items of a list, one by one. Those of a generator task come while it runs, straight from the worker, in the order
   * in which it yields them, from the first one on, however late the stream is asked for; nothing is sent before somebody
   * reads. Any other task, and one that runs in Python or where this process cannot reach it, gives the items of its list
   * when it has ended. A result that is no list is one item.
   *
   * A task that is repeated goes on where the stream stands, so it should yield the same again. The stream keeps the key
   * as a future does, until it ends; any number of streams can read one task.
   *
   * @param options `signal` ends the listening alone, as `cancel()` of the stream does; the task runs on.
   * @returns A stream that errors with what {@linkcode Future.result} rejects with. Items that the task yielded just before
   * it failed may be missing then.
   * @throws {DaskError} when this future was released.
   * @example
   * ```ts ignore
   * const lines = client.submit(async function* (url: string) {
   *   for await (const chunk of (await fetch(url)).body!) yield chunk.length;
   * }, ["https://example.com/"]);
   * for await (const bytes of lines.stream()) console.log(bytes);
   * ```
   */
  stream(options: Waiting = {}): ReadableStream<T extends readonly (infer U)[] ? U : T> {
    const signal = signalOf(options);
    const state = this.#state;
    if (this.#released && !state.isDone) {
      throw new DaskError(`Cannot stream "${keyText(this.key)}": this future was released`);
    }
    const future = newFuture<unknown>(state, this.#part);
    return streamOf({ future, state, live: this.#part === undefined, signal }) as ReturnType<
      Future<T>["stream"]
    >;
  }

  /**
   * Stops the task, also when it runs already, and all that depends on it; results are dropped. Those who wait get a
   * `CancelledError`. Tasks that another client wants run on for it.
   *
   * @param reason Stands in the text of the error.
   * @example
   * ```ts ignore
   * const future = client.submit(t.search("all"));
   * await future.cancel("found it elsewhere");
   * ```
   */
  async cancel(reason?: unknown): Promise<void> {
    const { owner, key, want } = this.#state;
    if (owner.ended !== null) throw owner.ended;
    const text = reason === undefined ? null : reason instanceof Error ? reason.message : String(reason);
    owner.happened({ type: "cancelled", key, want, reason: text });
    await owner.settled();
  }

  /**
   * Runs a failed task again, with those that it depends on where they failed.
   *
   * @throws {DaskError} when it has not failed.
   */
  async retry(): Promise<void> {
    const { owner, key, want, status } = this.#state;
    if (owner.ended !== null) throw owner.ended;
    if (status !== "error") {
      throw new DaskError(
        `Cannot retry "${keyText(key)}": expected a task that failed, its status is "${status}"`,
      );
    }
    owner.happened({ type: "retried", key, want });
    await owner.settled();
  }

  /** The task runs to its end, even when all futures of it are released before; dask's `fire_and_forget`. */
  detach(): void {
    const { owner, key, want } = this.#state;
    if (owner.ended !== null) throw owner.ended;
    owner.happened({ type: "detached", key, want });
  }

  /** Gives up the share of this future in the key. A value that was read before stays readable. Idempotent. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    collected.unregister(this);
    this.#state.drop();
  }

  /** As {@linkcode Future.release}: `using future = …`. */
  [Symbol.dispose](): void {
    this.release();
  }

  /** `Future(finished, "add-…")`. */
  toString(): string {
    return `Future(${this.status}, ${JSON.stringify(keyText(futureName(this)))})`;
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /** What Jupyter shows: key and status. The value is not fetched. */
  [Symbol.for("Jupyter.display")](): Readonly<Record<string, string>> {
    return showFuture(this.toString(), keyText(this.key), this.status);
  }
}

/** Whether it is how a task ended, and not why that is not known. */
function isOutcome(outcome: PromiseSettledResult<unknown>): boolean {
  return outcome.status === "fulfilled" || outcome.reason instanceof TaskError ||
    outcome.reason instanceof CancelledError;
}

/** A future of a state. For clients. */
export function newFuture<T>(state: KeyState, part?: number): Future<T> {
  return new Future<T>(state, NEW, part);
}

/** The state behind a future. Throws a `TypeError` that names `place`. */
export function stateOf(future: unknown, place: string): KeyState {
  if (future instanceof Future) return future[FUTURE] as KeyState;
  throw new TypeError(`Cannot use ${place}: expected a Future, got ${describe(future)}`);
}

/** The futures of an iterable, each checked. */
export function futuresOf<T>(futures: Iterable<Future<T>>, call: string): readonly Future<T>[] {
  if (typeof futures !== "object" || futures === null || !(Symbol.iterator in futures)) {
    throw new TypeError(`Cannot use the argument of ${call}: expected futures, got ${describe(futures)}`);
  }
  const list = [...futures];
  list.forEach((future, i) => stateOf(future, `${call}'s future ${i}`));
  return list;
}

/** Options of {@linkcode asCompleted}. `signal` ends the waiting. */
export interface AsCompletedOptions extends Waiting {
  /**
   * Whether values come along, brought here as soon as their tasks are done. `true`: each item is `[future, value]`, and
   * the first failure is thrown; `"settled"`: each is `[future, outcome]`, and failures are outcomes. Default `false`:
   * the futures alone.
   */
  readonly withResults?: boolean | "settled";
}

/** What {@linkcode asCompleted} gives: an iterable to be walked once, one by one or in batches. */
export interface AsCompleted<T, Item> extends AsyncIterableIterator<Item> {
  /** Puts in another future while it is being walked. */
  add(future: Future<T>): void;
  /** The same items in lists: each time all that have come since, at least one. */
  batches(): AsyncIterableIterator<Item[]>;
}

/** A future that came to an end; with its outcome where values are wanted. */
interface Completed<T> {
  readonly future: Future<T>;
  readonly outcome: PromiseSettledResult<T> | null;
}

/**
 * Gives futures as they come to an end, whichever comes first.
 *
 * @param futures Futures of any clients.
 * @returns An iterable to be walked once; `add` puts in another future while it is being walked, `batches()` gives
 * lists.
 * @throws {DaskError} when a client is closed, or its scheduler lost, before.
 * @example
 * ```ts ignore
 * const futures = client.map((i: number) => t.add(i, 1), [1, 2, 3]);
 * for await (const [future, value] of asCompleted(futures, { withResults: true })) {
 *   console.log(future.key, value);
 * }
 * for await (const batch of asCompleted(futures).batches()) console.log(batch.length, "more");
 * ```
 */
export function asCompleted<T>(
  futures: Iterable<Future<T>>,
  options?: AsCompletedOptions & { readonly withResults?: false },
): AsCompleted<T, Future<T>>;
/** The same, with values; the first failure is thrown. */
export function asCompleted<T>(
  futures: Iterable<Future<T>>,
  options: AsCompletedOptions & { readonly withResults: true },
): AsCompleted<T, [Future<T>, T]>;
/** The same, with outcomes, of which failures are some. */
export function asCompleted<T>(
  futures: Iterable<Future<T>>,
  options: AsCompletedOptions & { readonly withResults: "settled" },
): AsCompleted<T, [Future<T>, PromiseSettledResult<T>]>;
export function asCompleted<T>(
  futures: Iterable<Future<T>>,
  options: AsCompletedOptions = {},
): AsCompleted<T, unknown> {
  const signal = signalOf(options);
  const { withResults = false } = options;
  if (typeof withResults !== "boolean" && withResults !== "settled") {
    throw new TypeError(
      `Cannot use the option "withResults" of asCompleted: expected true, false or "settled", got ${
        describe(withResults)
      }`,
    );
  }
  const ended = new AbortController();
  const wanted = { signal: signal === undefined ? ended.signal : AbortSignal.any([signal, ended.signal]) };
  const waiting = new Map<Future<T>, () => void>();
  const done: Completed<T>[] = [];
  let wake: PromiseWithResolvers<void> | null = null;
  const arrived = (future: Future<T>, outcome: PromiseSettledResult<T> | null): void => {
    if (!waiting.delete(future)) return; // nobody walks any more
    done.push({ future, outcome });
    wake?.resolve();
  };
  const add = (future: Future<T>): void => {
    const state = stateOf(future, "asCompleted's future");
    if (waiting.has(future)) return;
    const look = (): void => {
      if (!state.isDone && state.owner.ended === null) return;
      waiting.get(future)?.();
      if (withResults === false) return arrived(future, null);
      future.result(wanted).then(
        (value) => arrived(future, { status: "fulfilled", value }),
        (reason) => arrived(future, { status: "rejected", reason }),
      );
    };
    waiting.set(future, state.listen(look));
    look();
  };
  const stop = (): void => {
    for (const unlisten of waiting.values()) unlisten();
    waiting.clear();
    done.length = 0;
    ended.abort();
  };
  /** The next item that is there, or null. */
  const take = (): { readonly value: unknown } | null => {
    for (let next = done.shift(); next !== undefined; next = done.shift()) {
      const { future, outcome } = next;
      if (outcome === null) {
        const state = stateOf(future, "asCompleted's future");
        if (state.isDone) return { value: future };
        if (state.owner.ended !== null) throw state.owner.ended;
        add(future); // its value was lost before it was taken, and comes again
      } else if (withResults === "settled" && isOutcome(outcome)) {
        return { value: [future, outcome] };
      } else if (outcome.status === "fulfilled") {
        return { value: [future, outcome.value] };
      } else throw outcome.reason;
    }
    return null;
  };
  for (const future of futuresOf(futures, "asCompleted")) add(future);
  return {
    add,
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      try {
        for (;;) {
          signal?.throwIfAborted();
          const item = take();
          if (item !== null) return { done: false, value: item.value };
          const [next] = waiting.keys();
          if (next === undefined) return { done: true, value: undefined };
          stateOf(next, "asCompleted's future").owner.waits();
          wake = Promise.withResolvers();
          await (signal === undefined ? wake.promise : abortable(wake.promise, signal));
        }
      } catch (error) {
        stop();
        throw error;
      }
    },
    return() {
      stop();
      return Promise.resolve({ done: true, value: undefined });
    },
    async *batches() {
      try {
        for await (const first of this) {
          const batch = [first];
          let failure: { readonly error: unknown } | null = null;
          try {
            for (let item = take(); item !== null; item = take()) batch.push(item.value);
          } catch (error) {
            failure = { error }; // after those that came before it
          }
          yield batch;
          if (failure !== null) throw failure.error;
        }
      } finally {
        stop();
      }
    },
  };
}

/** Options of {@linkcode wait}. */
export interface WaitOptions extends Waiting {
  /** `"all"` (default): all came to an end. `"first"`: one did. `"error"`: one failed, or all came to an end. */
  readonly until?: "all" | "first" | "error";
}

/**
 * Waits for futures without bringing their values here. It resolves, too, when tasks fail; their `status` tells.
 *
 * @example
 * ```ts ignore
 * await wait(futures, { until: "first", signal: AbortSignal.timeout(10_000) });
 * const done = futures.filter((future) => future.status === "finished");
 * ```
 * @throws {DaskError} when a client is closed, or its scheduler lost, before.
 */
export async function wait(futures: Iterable<Future<unknown>>, options: WaitOptions = {}): Promise<void> {
  const { until = "all" } = options;
  if (until !== "all" && until !== "first" && until !== "error") {
    throw new TypeError(`Cannot wait until ${JSON.stringify(until)}: expected "all", "first" or "error"`);
  }
  const signal = signalOf(options);
  signal?.throwIfAborted();
  const states = futuresOf(futures, "wait").map((future) => stateOf(future, "wait's future"));
  const done = Promise.withResolvers<void>();
  const unlisten: (() => void)[] = [];
  let pending = 0;
  let enough = false;
  const isEnough = ({ status }: KeyState): boolean =>
    until === "first" || (until === "error" && status !== "finished");
  for (const state of states) {
    let wasDone = state.isDone;
    if (!wasDone) {
      if (state.owner.ended !== null) done.reject(state.owner.ended);
      pending++;
    } else if (isEnough(state)) {
      enough = true;
      done.resolve();
    }
    // One that is done may be pending again, when its value is lost.
    unlisten.push(state.listen(() => {
      if (state.owner.ended !== null && !state.isDone) return done.reject(state.owner.ended);
      if (state.isDone === wasDone) return;
      wasDone = state.isDone;
      pending += wasDone ? -1 : 1;
      if (pending === 0 || (wasDone && isEnough(state))) done.resolve();
    }));
  }
  if (pending === 0) done.resolve();
  else if (!enough) { for (const { owner } of states) owner.waits(); }
  try {
    await (signal === undefined ? done.promise : abortable(done.promise, signal));
  } finally {
    for (const stop of unlisten) stop();
    void futures; // whoever waits keeps the futures
  }
}

/** `promise`, or the reason of `signal` when that comes first; `aborted` is called then. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal, aborted?: () => void): Promise<T> {
  if (signal.aborted) {
    aborted?.();
    return Promise.reject(signal.reason);
  }
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      aborted?.();
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** A pause, or the reason of one of `ends` when that comes first. */
export function sleep(ms: number, ...ends: readonly (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      for (const end of ends) end?.removeEventListener("abort", stop);
      const ended = ends.find((end) => end?.aborted);
      if (ended === undefined) resolve();
      else reject(ended.reason);
    };
    const timer = setTimeout(stop, ms);
    for (const end of ends) end?.addEventListener("abort", stop);
    if (ends.some((end) => end?.aborted)) stop();
  });
}

/** The signal of some options, checked. */
export function signalOf(options: Waiting): AbortSignal | undefined {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`Cannot read the options: expected an object, got ${describe(options)}`);
  }
  const { signal } = options;
  if (signal === undefined || signal instanceof AbortSignal) return signal;
  throw new TypeError(`Cannot read the option "signal": expected an AbortSignal, got ${describe(signal)}`);
}
