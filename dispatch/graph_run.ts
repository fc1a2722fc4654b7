/**
 * One run of one graph, whatever its nodes are: each starts as soon as what it needs is there, in the order of
 * `order.ts`; failures reach all that depends on them; values go when nothing needs them any more.
 *
 * The law: each node ends once, as done or failed; a value is given back by `drop` exactly once, unless it is an
 * output's, which the caller gets. After the end nothing starts.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import {
  CancelledError,
  DaskError,
  DependencyError,
  TaskError,
  WorkerLostError,
} from "../protocol/errors.ts";
import type { TaskOptions } from "./node.ts";
import { order } from "./order.ts";
import { RETRIES_WITH_RETRY_ON, retryPauseMs } from "./retry.ts";

/** The event loop gets its turn this often, in milliseconds, also while functions do not wait for anything. */
const TURN_MS = 20;
/** How many processes one node may outlive. Beyond that it is the node that ends them. */
const LOSSES_MAX = 5;

/** What is run, by numbers: `before[i]` are the nodes that node `i` needs. `V`: a value, in whatever form it is kept. */
export interface Work<V> {
  readonly before: readonly (readonly number[])[];
  readonly outputs: readonly number[];
  /** How many nodes may run at a time. */
  readonly runningMax: number;
  /** Options of a node; none for what is no call of a user's. */
  optionsOf(i: number): TaskOptions;
  labelOf(i: number): string;
  keyOf(i: number): string;
  /** Starts a node, `attempt` from 1: gives its value at once, or what will. Throws when it fails at once. */
  start(i: number, attempt: number): V | Running<V>;
  /** What a failure of the node is told as. */
  errorOf(i: number, thrown: unknown): TaskError;
  /** A value is not needed any more. */
  drop(value: V): void;
}

/** A node that runs. */
export class Running<V> {
  readonly result: Promise<V>;
  /** Resolves when its time begins to count. Default: at once. */
  readonly began: Promise<void> | null;
  /** Nobody waits for it any more. */
  readonly stop: (reason: string) => void;

  constructor(
    result: Promise<V>,
    began: Promise<void> | null = null,
    stop: (reason: string) => void = () => {},
  ) {
    this.result = result;
    this.began = began;
    this.stop = stop;
  }
}

/** What a run is told beside its graph. */
export interface GraphRunOptions {
  readonly failFast: boolean;
  /** Cancels the run. */
  readonly signal: AbortSignal | undefined;
  readonly logger: Logger | undefined;
}

type State<V> =
  | { readonly type: "waiting" }
  | { readonly type: "running" }
  | { readonly type: "done"; readonly value: V }
  | { readonly type: "dropped" }
  | { readonly type: "failed"; readonly error: Error };

const WAITING = { type: "waiting" } as const;
const RUNNING = { type: "running" } as const;
const DROPPED = { type: "dropped" } as const;

/** How often a node did not come to its end. */
interface Setbacks {
  failures: number;
  losses: number;
}

/** One run of one graph. */
export class GraphRun<V> {
  readonly #work: Work<V>;
  readonly #options: GraphRunOptions;
  readonly #states: State<V>[];
  readonly #after: readonly (readonly number[])[];
  /** Dependencies that are not done yet; dependents that still need the value. */
  readonly #missing: Int32Array;
  readonly #users: Int32Array;
  readonly #ready: ReadyHeap;
  readonly #isOutput: Uint8Array;
  readonly #finish = Promise.withResolvers<void>();
  /** What runs, and ends with the run. */
  readonly #running = new Set<Running<V>>();
  readonly #timers = new Set<() => void>();
  readonly #setbacks = new Map<number, Setbacks>();
  #left: number;
  #pumping = false;
  #ended = false;

  constructor(work: Work<V>, options: GraphRunOptions) {
    const { before, outputs } = work;
    this.#work = work;
    this.#options = options;
    const after: number[][] = before.map(() => []);
    before.forEach((list, i) => list.forEach((dependency) => after[dependency]!.push(i)));
    this.#after = after;
    this.#missing = Int32Array.from(before, (list) => list.length);
    this.#users = Int32Array.from(after, (list) => list.length);
    this.#ready = new ReadyHeap(order(before));
    this.#states = before.map(() => WAITING);
    this.#isOutput = new Uint8Array(before.length);
    for (const output of outputs) this.#isOutput[output] = 1;
    this.#left = before.length;
  }

  /** Runs to the end. Gives the outcome of each output; their values are the caller's. */
  async done(): Promise<PromiseSettledResult<V>[]> {
    const { signal } = this.#options;
    const abort = (): void => this.cancel(cancelledBy(signal!.reason));
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
    try {
      if (this.#left === 0) this.#end();
      for (let i = 0; i < this.#missing.length; i++) if (this.#missing[i] === 0) this.#ready.push(i);
      void this.#pump();
      await this.#finish.promise;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    return this.#work.outputs.map((output): PromiseSettledResult<V> => {
      const state = this.#states[output]!;
      if (state.type === "done") return { status: "fulfilled", value: state.value };
      if (state.type === "failed") return { status: "rejected", reason: state.error };
      throw new DaskError(`Cannot find the result of "${this.#work.labelOf(output)}": it is ${state.type}`);
    });
  }

  /** The value of a node that is done. */
  value(i: number): V {
    const state = this.#states[i]!;
    if (state.type !== "done") {
      throw new DaskError(`Cannot find the value of "${this.#work.labelOf(i)}": it is ${state.type}`);
    }
    return state.value;
  }

  /** Ends the run: what has no value yet fails with `error`. */
  cancel(error: Error): void {
    if (this.#ended) return;
    for (let i = 0; i < this.#states.length; i++) {
      const { type } = this.#states[i]!;
      if (type === "waiting" || type === "running") this.#states[i] = { type: "failed", error };
    }
    for (const running of this.#running) running.stop(error.message);
    this.#end();
  }

  #end(): void {
    this.#ended = true;
    for (const stop of [...this.#timers]) stop();
    for (let i = 0; i < this.#states.length; i++) if (this.#isOutput[i] === 0) this.#drop(i);
    this.#finish.resolve();
  }

  /** Starts what is ready, in order; what gives its value at once is done at once. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    let since = performance.now();
    while (!this.#ended && this.#running.size < this.#work.runningMax) {
      const i = this.#ready.pop();
      if (i === undefined) break;
      if (this.#states[i] === WAITING) this.#start(i);
      const now = performance.now();
      if (now - since < TURN_MS) continue;
      await new Promise<void>((resolve) => this.#timer(0, resolve));
      since = performance.now();
    }
    this.#pumping = false;
  }

  #start(i: number): void {
    this.#states[i] = RUNNING;
    const options = this.#work.optionsOf(i);
    const { signal } = options;
    if (signal?.aborted) return this.#fail(i, this.#work.errorOf(i, cancelledBy(signal.reason)));
    const before = this.#setbacks.get(i);
    const attempt = before === undefined ? 1 : before.failures + before.losses + 1;
    this.#log("Runs", i, { attempt });
    let started: V | Running<V>;
    try {
      started = this.#work.start(i, attempt);
    } catch (thrown) {
      return this.#failed(i, thrown);
    }
    if (!(started instanceof Running)) return this.#succeed(i, started);
    const running = started;
    this.#running.add(running);
    const leave = this.#watch(i, running, options);
    running.result.then((value) => {
      const inTime = leave();
      if (inTime && !this.#ended) return this.#succeed(i, value);
      this.#work.drop(value);
      if (!this.#ended) this.#progress();
    }, (thrown) => {
      if (leave()) this.#failed(i, thrown);
      else if (!this.#ended) this.#progress();
    });
  }

  /**
   * Watches the time limit and the signal of an attempt. Gives a function that says that the attempt is over, and
   * tells whether it came in time.
   */
  #watch(i: number, running: Running<V>, { timeout, signal }: TaskOptions): () => boolean {
    let inTime = true;
    let stopTimer = (): void => {};
    const giveUp = (thrown: Error): void => {
      inTime = false;
      close();
      running.stop(thrown.message);
    };
    const onAbort = (): void => {
      const error = cancelledBy(signal!.reason);
      giveUp(error);
      this.#fail(i, this.#work.errorOf(i, error));
    };
    const begin = (): void => {
      if (!inTime || !this.#running.has(running) || this.#ended) return;
      stopTimer = this.#timer(timeout!, () => {
        const error = new DOMException(`Timed out after ${timeout} ms`, "TimeoutError");
        giveUp(error);
        this.#failed(i, error);
      });
    };
    const close = (): void => {
      stopTimer();
      signal?.removeEventListener("abort", onAbort);
      this.#timers.delete(close);
    };
    if (timeout !== undefined && timeout !== Infinity) {
      if (running.began === null) begin();
      else running.began.then(begin);
    }
    signal?.addEventListener("abort", onAbort);
    this.#timers.add(close);
    return () => {
      close();
      this.#running.delete(running);
      return inTime;
    };
  }

  /** A timer that ends with the run. */
  #timer(ms: number, then: () => void): () => void {
    const stop = (): void => {
      clearTimeout(timer);
      this.#timers.delete(stop);
    };
    const timer = setTimeout(() => {
      this.#timers.delete(stop);
      then();
    }, ms);
    this.#timers.add(stop);
    return stop;
  }

  /** An attempt failed: the node is run again, or has failed. */
  #failed(i: number, thrown: unknown): void {
    if (this.#ended || this.#states[i] !== RUNNING) return;
    const error = this.#work.errorOf(i, thrown);
    const { retries, retryOn, retryPause } = this.#work.optionsOf(i);
    const setbacks = this.#setbacks.get(i) ?? { failures: 0, losses: 0 };
    this.#setbacks.set(i, setbacks);
    let again: boolean;
    let count: number;
    if (error instanceof WorkerLostError) {
      count = ++setbacks.losses;
      again = count <= LOSSES_MAX;
    } else {
      count = ++setbacks.failures;
      again = count <= (retries ?? (retryOn === undefined ? 0 : RETRIES_WITH_RETRY_ON));
      if (again && retryOn !== undefined) {
        try {
          again = retryOn(error);
        } catch (thrown) {
          return this.#fail(i, this.#work.errorOf(i, thrown));
        }
      }
    }
    if (!again) return this.#fail(i, error);
    const pauseMs = retryPauseMs(count, retryPause);
    this.#log("Repeats", i, { pauseMs, reason: error.message });
    this.#timer(pauseMs, () => {
      if (this.#states[i] !== RUNNING) return;
      this.#states[i] = WAITING;
      this.#ready.push(i);
      this.#progress();
    });
    this.#progress();
  }

  #succeed(i: number, value: V): void {
    if (this.#ended || this.#states[i] !== RUNNING) return this.#work.drop(value);
    this.#log("Has run", i, {});
    this.#states[i] = { type: "done", value };
    this.#left--;
    for (const dependency of this.#work.before[i]!) this.#used(dependency);
    if (this.#users[i] === 0 && this.#isOutput[i] === 0) this.#drop(i);
    for (const dependent of this.#after[i]!) {
      if (--this.#missing[dependent]! === 0) this.#ready.push(dependent);
    }
    this.#progress();
  }

  #fail(i: number, error: TaskError): void {
    if (this.#ended || this.#states[i] !== RUNNING) return;
    this.#log("Failed", i, { reason: error.message });
    this.#states[i] = { type: "failed", error };
    this.#left--;
    for (const dependency of this.#work.before[i]!) this.#used(dependency);
    // What needs it fails with the error of the origin, however far away it is.
    const doomed = [...this.#after[i]!];
    let stop = this.#options.failFast && this.#isOutput[i] === 1;
    for (let next = doomed.pop(); next !== undefined; next = doomed.pop()) {
      if (this.#states[next] !== WAITING) continue;
      const label = this.#work.labelOf(next);
      const reason = error.message.replace(/^Task /, "");
      this.#states[next] = {
        type: "failed",
        error: new DependencyError(`Task "${label}" was not run: it needs ${reason}`, {
          key: this.#work.keyOf(next),
          origin: error.key,
          worker: error.worker,
          remoteStack: error.remoteStack,
          cause: error.cause,
        }),
      };
      this.#left--;
      stop ||= this.#options.failFast && this.#isOutput[next] === 1;
      for (const dependency of this.#work.before[next]!) this.#used(dependency);
      doomed.push(...this.#after[next]!);
    }
    if (stop) this.cancel(this.#firstError());
    else this.#progress();
  }

  /** The error that a run which stops at the first failure ends with. */
  #firstError(): Error {
    for (const output of this.#work.outputs) {
      const state = this.#states[output]!;
      if (state.type === "failed") return state.error;
    }
    return new DaskError("Cannot go on");
  }

  #progress(): void {
    if (this.#left === 0) this.#end();
    else void this.#pump();
  }

  #used(i: number): void {
    if (--this.#users[i]! === 0 && this.#isOutput[i] === 0) this.#drop(i);
  }

  #drop(i: number): void {
    const state = this.#states[i]!;
    if (state.type !== "done") return;
    this.#states[i] = DROPPED;
    this.#work.drop(state.value);
  }

  #log(what: string, i: number, fields: Readonly<Record<string, unknown>>): void {
    const { logger } = this.#options;
    logger?.log("debug", `${what} "${this.#work.labelOf(i)}"`, { node: i, ...fields });
  }
}

/** The value of an outcome; throws its reason. */
export function valueOf<T>(outcome: PromiseSettledResult<T>): T {
  if (outcome.status === "rejected") throw outcome.reason;
  return outcome.value;
}

/** A failure of a task in words, with its cause. */
export function taskError(label: string, key: string, cause: unknown): TaskError {
  const name = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new TaskError(`Task "${label}" failed: ${name}`, {
    key,
    remoteStack: cause instanceof Error ? cause.stack ?? "" : "",
    cause,
  });
}

function cancelledBy(reason: unknown): CancelledError {
  const why = reason instanceof Error ? reason.message : String(reason);
  return new CancelledError(`Cancelled by its signal: ${why}`, { cause: reason });
}

/** Numbers of tasks that are ready, lowest priority first. */
class ReadyHeap {
  readonly #items: number[] = [];
  readonly #priorities: Int32Array;

  constructor(priorities: Int32Array) {
    this.#priorities = priorities;
  }

  push(item: number): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#less(at, parent)) return;
      this.#swap(at, parent);
      at = parent;
    }
  }

  pop(): number | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (first === undefined || last === undefined || items.length === 0) return first;
    items[0] = last;
    for (let at = 0;;) {
      let least = at;
      if (2 * at + 1 < items.length && this.#less(2 * at + 1, least)) least = 2 * at + 1;
      if (2 * at + 2 < items.length && this.#less(2 * at + 2, least)) least = 2 * at + 2;
      if (least === at) return first;
      this.#swap(at, least);
      at = least;
    }
  }

  #less(a: number, b: number): boolean {
    return this.#priorities[this.#items[a]!]! < this.#priorities[this.#items[b]!]!;
  }

  #swap(a: number, b: number): void {
    const item = this.#items[a]!;
    this.#items[a] = this.#items[b]!;
    this.#items[b] = item;
  }
}
