/**
 * Runs graphs in this process: every node as soon as what it needs is there, functions as they are, closures and all.
 * Nothing is serialized; values pass by reference, and are dropped when nothing needs them any more.
 *
 * @module
 */
import {
  CancelledError,
  DaskError,
  DependencyError,
  SerializationError,
  TaskError,
} from "../protocol/errors.ts";
import type { AnyFunction } from "./code.ts";
import type { Executor, RunOptions, Settled } from "./executor.ts";
import { DispatchGraph } from "./graph.ts";
import { freshToken } from "./host.ts";
import {
  type AnyOp,
  GraphNode,
  isFuture,
  isInput,
  nodeOf,
  type TaskOptions,
  type Values,
  walkBack,
} from "./node.ts";
import { order } from "./order.ts";
import { keyLabel } from "./tokenize.ts";

/** Where `current()` looks for the task that runs. */
const CURRENT = Symbol.for("dask.current");
/** Pause before the first repetition, in milliseconds; each next one is twice as long. */
const PAUSE_FIRST_MS = 50;
const PAUSE_MAX_MS = 10_000;
/** How often a failed node is repeated when `retryOn` is given and `retries` is not. */
const RETRIES_WITH_RETRY_ON = 5;
/** The event loop gets its turn this often, in milliseconds, also while functions do not wait for anything. */
const TURN_MS = 20;

/**
 * Runs graphs in this process.
 *
 * Options given here hold for all nodes, below those of a node. A node's `timeout` ends the waiting for it, not a
 * function that keeps the processor to itself. `workers`, `resources` and `permissions` mean nothing here.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, op } from "@dask/dask";
 * const four = op((x: number) => x, 4);
 * const [two] = await new AsyncExecutor().run([op((x: number) => Math.sqrt(x), four)]);
 * console.log(two); // 2
 * ```
 */
export class AsyncExecutor implements Executor {
  readonly #options: TaskOptions;
  readonly #runs = new Set<Run>();
  #closed = false;

  /** `options` hold for every node, below its own. */
  constructor(options: TaskOptions = {}) {
    this.#options = options;
  }

  run(graph: DispatchGraph, options?: RunOptions): Promise<unknown[]>;
  run<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Values<L>>;
  async run(nodes: readonly AnyOp[] | DispatchGraph, options: RunOptions = {}): Promise<unknown> {
    const settled = await this.#start(nodes instanceof DispatchGraph ? nodes.leaves : nodes, options, true);
    return settled.map((result) => {
      if (result.status === "rejected") throw result.reason;
      return result.value;
    });
  }

  async runSettled<const L extends readonly AnyOp[]>(
    nodes: L,
    options: RunOptions = {},
  ): Promise<Settled<L>> {
    // One result for each node, in order: what the type says.
    return await this.#start(nodes, options, false) as Settled<L>;
  }

  /** Cancels what still runs. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const run of this.#runs) run.cancel(new CancelledError("Cannot go on: the executor was closed"));
    return Promise.resolve();
  }

  async #start(
    nodes: readonly AnyOp[],
    options: RunOptions,
    failFast: boolean,
  ): Promise<PromiseSettledResult<unknown>[]> {
    if (this.#closed) throw new DaskError("Cannot run a graph: the executor is closed; make a new one");
    const run = new Run(nodes, this.#options, options, failFast);
    this.#runs.add(run);
    try {
      return await run.done();
    } finally {
      this.#runs.delete(run);
    }
  }
}

type State =
  | { readonly type: "waiting" }
  | { readonly type: "running" }
  | { readonly type: "done"; readonly value: unknown }
  | { readonly type: "dropped" }
  | { readonly type: "failed"; readonly error: Error };

const WAITING: State = { type: "waiting" };
const RUNNING: State = { type: "running" };
const DROPPED: State = { type: "dropped" };

/** One run of one graph. */
class Run {
  readonly #outputs: readonly GraphNode[];
  /** Values in the place of nodes. */
  readonly #given = new Map<GraphNode, unknown>();
  readonly #nodes: readonly GraphNode[];
  readonly #numbers: ReadonlyMap<GraphNode, number>;
  readonly #states: State[];
  readonly #before: readonly (readonly number[])[];
  readonly #after: readonly (readonly number[])[];
  /** Dependencies that are not done yet; dependents that still need the value. */
  readonly #missing: Int32Array;
  readonly #users: Int32Array;
  readonly #priorities: Int32Array;
  readonly #ready: ReadyHeap;
  readonly #isOutput: Uint8Array;
  readonly #defaults: TaskOptions;
  readonly #options: RunOptions;
  readonly #failFast: boolean;
  readonly #finish = Promise.withResolvers<void>();
  /** Ends what still waits when the run is over. */
  readonly #timers = new Set<() => void>();
  /** What `current().signal` of the run's tasks tells of. */
  readonly #stopped = new AbortController();
  readonly #localKeys = new Map<GraphNode, string>();
  #left: number;
  #pumping = false;
  #ended = false;

  constructor(ops: readonly AnyOp[], defaults: TaskOptions, options: RunOptions, failFast: boolean) {
    this.#defaults = defaults;
    this.#options = options;
    this.#failFast = failFast;
    this.#outputs = ops.map((op, i) => nodeOf(op, `node ${i} of the run`));
    for (const [op, value] of options.inputs ?? []) this.#given.set(nodeOf(op, "a key of inputs"), value);
    this.#nodes = walkBack(this.#outputs, new Set(this.#given.keys()));
    this.#numbers = new Map(this.#nodes.map((node, i) => [node, i]));
    this.#before = this.#nodes.map((node) =>
      this.#given.has(node) ? [] : node.dependencies.map((dependency) => this.#numbers.get(dependency)!)
    );
    const after: number[][] = this.#nodes.map(() => []);
    this.#before.forEach((list, i) => list.forEach((dependency) => after[dependency]!.push(i)));
    this.#after = after;
    this.#missing = Int32Array.from(this.#before, (list) => list.length);
    this.#users = Int32Array.from(after, (list) => list.length);
    this.#priorities = order(this.#before);
    this.#ready = new ReadyHeap(this.#priorities);
    this.#states = this.#nodes.map(() => WAITING);
    this.#isOutput = new Uint8Array(this.#nodes.length);
    for (const output of this.#outputs) this.#isOutput[this.#numbers.get(output)!] = 1;
    this.#left = this.#nodes.length;
  }

  async done(): Promise<PromiseSettledResult<unknown>[]> {
    const signal = this.#options.signal ?? this.#defaults.signal;
    const abort = (): void => this.cancel(cancelled(signal!.reason));
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
    try {
      if (this.#left === 0) this.#end();
      for (let i = 0; i < this.#nodes.length; i++) if (this.#missing[i] === 0) this.#ready.push(i);
      void this.#pump();
      await this.#finish.promise;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    return this.#outputs.map((output) => this.#result(this.#numbers.get(output)!));
  }

  /** Ends the run: what has no value yet fails with `error`. */
  cancel(error: Error): void {
    if (this.#ended) return;
    for (let i = 0; i < this.#nodes.length; i++) {
      const { type } = this.#states[i]!;
      if (type !== "waiting" && type !== "running") continue;
      this.#states[i] = { type: "failed", error };
    }
    this.#stopped.abort(error);
    this.#end();
  }

  #end(): void {
    this.#ended = true;
    for (const stop of this.#timers) stop();
    this.#timers.clear();
    this.#finish.resolve();
  }

  /** Starts what is ready, in order; functions that give their value at once are done at once. */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    let since = performance.now();
    for (let i = this.#ready.pop(); i !== undefined && !this.#ended; i = this.#ready.pop()) {
      if (this.#states[i] === WAITING) this.#begin(i);
      const now = performance.now();
      if (now - since < TURN_MS) continue;
      await new Promise<void>((resolve) => this.#timer(0, resolve));
      since = performance.now();
    }
    this.#pumping = false;
  }

  #begin(i: number): void {
    const node = this.#nodes[i]!;
    this.#states[i] = RUNNING;
    if (this.#given.has(node)) return this.#take(i, this.#given.get(node));
    const { content } = node;
    switch (content.kind) {
      case "data":
        return this.#succeed(i, content.value);
      case "collect":
        return this.#succeed(i, content.items.map((item) => this.#value(item)));
      case "cleanup":
        // The parent goes when its last user, this, is done.
        return this.#succeed(i, undefined);
      case "at": {
        const whole = this.#value(content.parent);
        if (whole === null || whole === undefined) {
          return this.#fail(
            i,
            new TypeError(`Cannot take part ${JSON.stringify(content.index)} of ${String(whole)}`),
          );
        }
        return this.#succeed(i, (whole as Record<string | number, unknown>)[content.index]);
      }
      case "call":
        return this.#call(i, 0);
    }
  }

  /** An input: its value, or the result of a future. */
  #take(i: number, given: unknown): void {
    if (!isFuture(given)) return this.#succeed(i, given);
    given.result().then((value) => this.#succeed(i, value), (error) => this.#fail(i, error));
  }

  #call(i: number, attempt: number): void {
    const node = this.#nodes[i]!;
    if (node.content.kind !== "call") return;
    const { code, args } = node.content;
    const { signal } = node.options;
    if (signal?.aborted) return this.#fail(i, cancelled(signal.reason));
    let result: unknown;
    try {
      const fn = code.load();
      if (fn instanceof Promise || node.futures.length > 0) {
        result = (async () => {
          const values = await this.#arguments(args);
          return settleValue(this.#within(i, attempt, await fn, values));
        })();
      } else {
        result = settleValue(this.#within(i, attempt, fn, this.#argumentsNow(args)));
      }
    } catch (error) {
      return this.#failed(i, error, attempt);
    }
    if (!(result instanceof Promise)) return this.#succeed(i, result);
    const deadline = this.#deadline(i, attempt);
    result.then((value) => {
      if (!deadline()) return;
      this.#succeed(i, value);
    }, (error) => {
      if (!deadline()) return;
      this.#failed(i, error, attempt);
    });
  }

  /** Calls a function while `current()` tells of its task, as an executor of a worker does. */
  #within(i: number, attempt: number, fn: AnyFunction, args: readonly unknown[]): unknown {
    const place = globalThis as { [CURRENT]?: unknown };
    const before = place[CURRENT];
    const keyOf = (): string => this.#keyOf(this.#nodes[i]!);
    const signalOf = (): AbortSignal => {
      const own = this.#nodes[i]!.options.signal;
      return own === undefined ? this.#stopped.signal : AbortSignal.any([this.#stopped.signal, own]);
    };
    place[CURRENT] = {
      get key() {
        return keyOf();
      },
      attempt: attempt + 1,
      get signal() {
        return signalOf();
      },
      progress: () => {},
      log: () => {},
      secede: () => {},
      client: () =>
        Promise.reject(
          new DaskError(
            "Cannot give this task a client: it runs in the process of an AsyncExecutor, on no worker",
          ),
        ),
    };
    try {
      return fn(...args);
    } finally {
      place[CURRENT] = before;
    }
  }

  /** Watches an attempt's time limit and signal. Gives a function that ends this, and tells whether it came in time. */
  #deadline(i: number, attempt: number): () => boolean {
    const { timeout } = this.#optionsOf(i);
    const { signal } = this.#nodes[i]!.options;
    if (timeout === undefined && signal === undefined) return () => true;
    let open = true;
    const stopTimer = timeout === undefined ? () => {} : this.#timer(timeout, () => {
      close();
      this.#failed(i, new DOMException(`Timed out after ${timeout} ms`, "TimeoutError"), attempt);
    });
    const abort = (): void => {
      close();
      this.#fail(i, cancelled(signal!.reason));
    };
    const close = (): void => {
      open = false;
      stopTimer();
      signal?.removeEventListener("abort", abort);
      this.#timers.delete(close);
    };
    signal?.addEventListener("abort", abort);
    this.#timers.add(close);
    return () => {
      const inTime = open;
      close();
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

  #argumentsNow(args: readonly unknown[]): unknown[] {
    return args.map((arg) =>
      arg instanceof GraphNode
        ? this.#value(arg)
        : Array.isArray(arg) && arg.some(isInput)
        ? arg.map((item) => item instanceof GraphNode ? this.#value(item) : item)
        : arg
    );
  }

  #arguments(args: readonly unknown[]): Promise<unknown[]> {
    const one = (value: unknown): unknown => isFuture(value) ? value.result() : value;
    return Promise.all(
      this.#argumentsNow(args).map((arg) =>
        Array.isArray(arg) && arg.some(isFuture) ? Promise.all(arg.map(one)) : one(arg)
      ),
    );
  }

  #value(node: GraphNode): unknown {
    const state = this.#states[this.#numbers.get(node)!]!;
    return state.type === "done" ? state.value : undefined;
  }

  #failed(i: number, cause: unknown, attempt: number): void {
    if (this.#ended) return;
    const { retries, retryOn } = this.#optionsOf(i);
    const most = retries ?? (retryOn === undefined ? 0 : RETRIES_WITH_RETRY_ON);
    const error = this.#taskError(i, cause);
    let again = attempt < most;
    if (again && retryOn !== undefined) {
      try {
        again = retryOn(error);
      } catch (thrown) {
        return this.#fail(i, thrown);
      }
    }
    if (!again) return this.#fail(i, cause, error);
    this.#timer(Math.min(PAUSE_FIRST_MS * 2 ** attempt, PAUSE_MAX_MS), () => this.#call(i, attempt + 1));
  }

  #taskError(i: number, cause: unknown): TaskError {
    const node = this.#nodes[i]!;
    const name = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
    return new TaskError(`Task "${node.label}" failed: ${name}`, {
      key: this.#keyOf(node),
      remoteStack: cause instanceof Error ? cause.stack ?? "" : "",
      cause,
    });
  }

  #optionsOf(i: number): TaskOptions {
    const own = { ...this.#defaults, ...this.#nodes[i]!.options };
    return this.#isOutput[i] === 1 ? { ...own, ...this.#options } : own;
  }

  #succeed(i: number, value: unknown): void {
    if (this.#ended || this.#states[i] !== RUNNING) return;
    this.#states[i] = this.#users[i] === 0 && this.#isOutput[i] === 0 ? DROPPED : { type: "done", value };
    this.#left--;
    for (const dependency of this.#before[i]!) this.#used(dependency);
    for (const dependent of this.#after[i]!) {
      if (--this.#missing[dependent]! === 0) this.#ready.push(dependent);
    }
    this.#progress();
  }

  #fail(i: number, cause: unknown, error: TaskError = this.#taskError(i, cause)): void {
    if (this.#ended || this.#states[i] !== RUNNING) return;
    this.#states[i] = { type: "failed", error };
    this.#left--;
    for (const dependency of this.#before[i]!) this.#used(dependency);
    // What needs it fails with the error of the origin, however far away it is.
    const doomed = [...this.#after[i]!];
    let stop = this.#failFast && this.#isOutput[i] === 1;
    for (let next = doomed.pop(); next !== undefined; next = doomed.pop()) {
      if (this.#states[next] !== WAITING) continue;
      const node = this.#nodes[next]!;
      const reason = error.message.replace(/^Task /, "");
      this.#states[next] = {
        type: "failed",
        error: new DependencyError(`Task "${node.label}" was not run: it needs ${reason}`, {
          key: this.#keyOf(node),
          origin: error.key,
          remoteStack: error.remoteStack,
          cause: error.cause,
        }),
      };
      this.#left--;
      stop ||= this.#failFast && this.#isOutput[next] === 1;
      for (const dependency of this.#before[next]!) this.#used(dependency);
      doomed.push(...this.#after[next]!);
    }
    if (stop) this.cancel(this.#firstError());
    else this.#progress();
  }

  /** The error that a run which stops at the first failure ends with. */
  #firstError(): Error {
    for (const output of this.#outputs) {
      const state = this.#states[this.#numbers.get(output)!]!;
      if (state.type === "failed") return state.error;
    }
    return new DaskError("Cannot go on");
  }

  #progress(): void {
    if (this.#left === 0) this.#end();
    else if (!this.#pumping) void this.#pump();
  }

  #used(i: number): void {
    if (--this.#users[i]! === 0 && this.#isOutput[i] === 0 && this.#states[i]!.type === "done") this.#drop(i);
  }

  #drop(i: number): void {
    if (this.#isOutput[i] === 0) this.#states[i] = DROPPED;
  }

  #result(i: number): PromiseSettledResult<unknown> {
    const state = this.#states[i]!;
    return state.type === "failed"
      ? { status: "rejected", reason: state.error }
      : { status: "fulfilled", value: state.type === "done" ? state.value : undefined };
  }

  /**
   * The key for error messages: the node's own where it is known or costs nothing; code of modules counts by its URL,
   * since nothing is bundled here.
   */
  #keyOf(node: GraphNode): string {
    const keyOf = (dependency: GraphNode): string => this.#localKeys.get(dependency)!;
    for (const each of walkBack([node])) {
      if (this.#localKeys.has(each)) continue;
      let key: string;
      try {
        key = each.keyed ? each.key : each.keyGiven(keyOf, true);
      } catch (error) {
        // Here values need not be plain data; such a node has no key that says what it computes.
        if (!(error instanceof SerializationError)) throw error;
        key = `${keyLabel(each.label)}-${freshToken()}`;
      }
      this.#localKeys.set(each, key);
    }
    return keyOf(node);
  }
}

/** A generator's result is the list of what it yields. */
function settleValue(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Promise) return value.then(settleValue);
  if (Symbol.asyncIterator in value) return Array.fromAsync(value as AsyncIterable<unknown>);
  if (Object.prototype.toString.call(value) === "[object Generator]") return [...value as Iterable<unknown>];
  if ("then" in value && typeof value.then === "function") return Promise.resolve(value).then(settleValue);
  return value;
}

function cancelled(reason: unknown): CancelledError {
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
