/**
 * Runs graphs in this process: every node as soon as what it needs is there, functions as they are, closures and all.
 * Nothing is serialized; values pass by reference, and are dropped when nothing needs them any more.
 *
 * @module
 */
import { CancelledError, DaskError, SerializationError, type TaskError } from "../protocol/errors.ts";
import type { AnyFunction } from "./code.ts";
import type { Executor, ExecutorOptions, RunOptions, Settled } from "./executor.ts";
import { DispatchGraph } from "./graph.ts";
import { GraphRun, Running, taskError, valueOf, type Work } from "./graph_run.ts";
import { freshToken } from "./host.ts";
import { checkOptions, NO_OPTIONS } from "./options.ts";
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
import { keyLabel } from "./tokenize.ts";

/** Where `current()` looks for the task that runs. */
const CURRENT = Symbol.for("dask.current");
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
  readonly #options: ExecutorOptions;
  readonly #runs = new Set<GraphRun<unknown>>();
  #closed = false;

  /**
   * `options` hold for every node, below its own.
   *
   * @throws {TypeError} when one of them makes no sense; so do runs.
   */
  constructor(options: ExecutorOptions = {}) {
    checkOptions(options, "AsyncExecutor", ["logger"]);
    this.#options = options;
  }

  /** The values of some nodes, or of the leaves of a graph, in the order asked. Rejects with the first failure. */
  run(graph: DispatchGraph, options?: RunOptions): Promise<unknown[]>;
  run<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Values<L>>;
  async run(nodes: readonly AnyOp[] | DispatchGraph, options: RunOptions = {}): Promise<unknown> {
    const settled = await this.#start(nodes instanceof DispatchGraph ? nodes.leaves : nodes, options, true);
    return settled.map(valueOf);
  }

  /** Runs to the end, whatever fails, and tells of each node how it ended. */
  async runSettled<const L extends readonly AnyOp[]>(
    nodes: L,
    options: RunOptions = {},
  ): Promise<Settled<L>> {
    // One result for each node, in order: what the type says.
    return await this.#start(nodes, options, false) as Settled<L>;
  }

  /** Cancels what runs. The executor can be used again at once. */
  reset(): Promise<void> {
    for (const run of this.#runs) run.cancel(new CancelledError("Cancelled: the executor was reset"));
    return Promise.resolve();
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
    checkOptions(options, "run", ["inputs"]);
    const { logger, ...defaults } = this.#options;
    const work = new LocalWork(nodes, defaults, options);
    const signal = options.signal ?? defaults.signal;
    const run = new GraphRun<unknown>(work, { failFast, signal, logger });
    work.run = run;
    this.#runs.add(run);
    try {
      return await run.done();
    } finally {
      this.#runs.delete(run);
    }
  }
}

/** Nodes as they are run in this process. */
class LocalWork implements Work<unknown> {
  readonly before: readonly (readonly number[])[];
  readonly outputs: readonly number[];
  readonly runningMax = Infinity;
  run: GraphRun<unknown> | null = null;
  readonly #nodes: readonly GraphNode[];
  readonly #numbers: ReadonlyMap<GraphNode, number>;
  /** Values in the place of nodes. */
  readonly #given = new Map<GraphNode, unknown>();
  readonly #isOutput: ReadonlySet<GraphNode>;
  readonly #defaults: TaskOptions;
  readonly #options: RunOptions;
  readonly #localKeys = new Map<GraphNode, string>();

  constructor(ops: readonly AnyOp[], defaults: TaskOptions, options: RunOptions) {
    this.#defaults = defaults;
    this.#options = options;
    const outputs = ops.map((op, i) => nodeOf(op, `node ${i} of the run`));
    for (const [op, value] of options.inputs ?? []) this.#given.set(nodeOf(op, "a key of inputs"), value);
    this.#nodes = walkBack(outputs, new Set(this.#given.keys()));
    for (const node of this.#nodes) checkOptions(node.options, `"${node.label}"`);
    this.#numbers = new Map(this.#nodes.map((node, i) => [node, i]));
    this.#isOutput = new Set(outputs);
    this.outputs = outputs.map((node) => this.#numbers.get(node)!);
    this.before = this.#nodes.map((node) =>
      this.#given.has(node) ? [] : node.dependencies.map((dependency) => this.#numbers.get(dependency)!)
    );
  }

  optionsOf(i: number): TaskOptions {
    const node = this.#nodes[i]!;
    if (node.content.kind !== "call" || this.#given.has(node)) return NO_OPTIONS;
    const own = { ...this.#defaults, ...node.options };
    return this.#isOutput.has(node) ? { ...own, ...this.#options } : own;
  }

  labelOf(i: number): string {
    return this.#nodes[i]!.label;
  }

  /**
   * The key for error messages: the node's own where it is known or costs nothing; code of modules counts by its URL,
   * since nothing is bundled here.
   */
  keyOf(i: number): string {
    const node = this.#nodes[i]!;
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

  errorOf(i: number, thrown: unknown): TaskError {
    return taskError(this.labelOf(i), this.keyOf(i), thrown);
  }

  drop(): void {}

  start(i: number, attempt: number): unknown {
    const node = this.#nodes[i]!;
    if (this.#given.has(node)) {
      const given = this.#given.get(node);
      return isFuture(given) ? new Running(given.result()) : given;
    }
    const { content } = node;
    switch (content.kind) {
      case "data":
        return content.value;
      case "collect":
        return content.items.map((item) => this.#value(item));
      case "cleanup":
        // The parent goes when its last user, this, is done.
        return undefined;
      case "at": {
        const whole = this.#value(content.parent);
        if (whole === null || whole === undefined) {
          throw new TypeError(`Cannot take part ${JSON.stringify(content.index)} of ${String(whole)}`);
        }
        return (whole as Record<string | number, unknown>)[content.index];
      }
      case "call": {
        const { code, args } = content;
        const fn = code.load();
        const stop = new Stop();
        let result: unknown;
        if (fn instanceof Promise || node.futures.length > 0) {
          result = (async () => {
            const values = await this.#arguments(args);
            return settleValue(this.#within(i, attempt, await fn, values, stop));
          })();
        } else {
          result = settleValue(this.#within(i, attempt, fn, this.#argumentsNow(args), stop));
        }
        return result instanceof Promise
          ? new Running<unknown>(result, null, (reason) => stop.now(reason))
          : result;
      }
    }
  }

  /** Calls a function while `current()` tells of its task, as an executor of a worker does. */
  #within(i: number, attempt: number, fn: AnyFunction, args: readonly unknown[], stop: Stop): unknown {
    const place = globalThis as { [CURRENT]?: unknown };
    const before = place[CURRENT];
    const keyOf = (): string => this.keyOf(i);
    place[CURRENT] = {
      get key() {
        return keyOf();
      },
      attempt,
      get signal() {
        return stop.signal;
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
    return this.run!.value(this.#numbers.get(node)!);
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

/** What `current().signal` tells of. */
class Stop {
  #controller: AbortController | null = null;

  get signal(): AbortSignal {
    return (this.#controller ??= new AbortController()).signal;
  }

  now(reason: string): void {
    (this.#controller ??= new AbortController()).abort(new DOMException(reason, "AbortError"));
  }
}
