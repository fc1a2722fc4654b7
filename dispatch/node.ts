/**
 * Nodes: calls written down and not made. A node is immutable but for its label, which may change until its key is
 * known; nodes compare by identity and hold no results, so one graph can run many times and in many places.
 *
 * @module
 */
import { type Picture, svgOf } from "./draw.ts";
import { freshToken } from "./host.ts";
import { NO_OPTIONS } from "./options.ts";
import { keyLabel, Tokenizer } from "./tokenize.ts";
import type { Code } from "./code.ts";
import type { RetryPause } from "./retry.ts";
import type { TaskError } from "../protocol/errors.ts";

// --- Types: what users write ---

/** Options of everything that waits. */
export interface Waiting {
  /** Ends the waiting; in `submit` and `run` it also cancels the tasks. */
  readonly signal?: AbortSignal;
}

/**
 * Options of a task. Given to `with` they bind every node that it builds; given to `submit` the submitted node alone.
 *
 * @example
 * ```ts ignore
 * const patient = t.load.with({ retries: 3, timeout: 60_000 });
 * client.submit(t.total(patient("a.csv"), patient("b.csv")), { priority: 1 });
 * ```
 */
export interface TaskOptions extends Waiting {
  /** The key, as it is. Default: label and a hash of code, arguments and dependencies. */
  readonly key?: string;
  /** `false`: a fresh key for this node alone, so that it runs even when its like has run before. Default `true`. */
  readonly pure?: boolean;
  /** Name in keys, dashboards and messages. Default: the name of the function. */
  readonly label?: string;
  /** Higher runs sooner. Default 0. */
  readonly priority?: number;
  /** Milliseconds that one run may take; it is ended then and counts as failed. */
  readonly timeout?: number;
  /** How often a failed run is repeated. Default 0; with `retryOn` 5. The loss of a process does not count. */
  readonly retries?: number;
  /**
   * Whether to repeat after this error. Default: after any. On a cluster the client asks it, and repeats from here: what
   * depends on the task waits meanwhile. Another failed task that something depends on together with this one runs again
   * with it: the scheduler can only repeat both.
   */
  readonly retryOn?: (error: TaskError) => boolean;
  /**
   * The pauses between repetitions: 50 ms, 100 ms, 200 ms and so on, 10 s at most. On a cluster only with `retryOn`: for
   * `retries` alone the scheduler repeats at once.
   */
  readonly retryPause?: RetryPause;
  /** Addresses or names of the workers that may run it. */
  readonly workers?: readonly string[];
  /** With `workers`: others may run it when none of these is there. */
  readonly allowOtherWorkers?: boolean;
  /** What it takes of the workers' declared resources, `{ gpu: 1 }`. */
  readonly resources?: Readonly<Record<string, number>>;
  /** Deno permissions of the run, at most those of the worker. */
  readonly permissions?: Deno.PermissionOptions;
}

/** Marks futures, wherever they come from. */
export const FUTURE: unique symbol = Symbol("dask.future");

/** Which item of its key's list a future stands for. */
export const PART: unique symbol = Symbol("dask.part");

/** What the graph needs to know of a future: a result on the cluster, by key. */
export interface FutureLike<T> {
  /** Key of the task whose value it stands for. */
  readonly key: string;
  /** Marks it as a future. */
  readonly [FUTURE]: unknown;
  /** The value is this item of the list that has the key; not there: all of it. */
  readonly [PART]?: number | undefined;
  /** Fetches the value. */
  result(options?: Waiting): Promise<T>;
}

/** The result of a function as a task: a generator's is the list of what it yields. */
// deno-lint-ignore no-explicit-any
export type Result<R> = Awaited<R> extends AsyncIterable<infer U> | Generator<infer U, any, any> ? U[]
  : Awaited<R>;
/** The value behind a node or future. */
export type ValueOf<N> = N extends FutureLike<infer T> ? T
  : N extends { readonly __type?: infer T } ? T
  : never;
/** The values behind a list of nodes or futures, one by one. */
export type Values<L extends readonly unknown[]> = { -readonly [K in keyof L]: ValueOf<L[K]> };
/** A value now, a value later in this graph, or a value already on the cluster; one level into arrays. */
export type Lift<T> =
  | T
  | Op<T>
  | FutureLike<T>
  | (T extends readonly (infer U)[] ? readonly (U | Op<U> | FutureLike<U>)[] : never);
/** {@linkcode Lift} of every argument. */
export type LiftAll<A extends readonly unknown[]> = { [K in keyof A]: Lift<A[K]> };

/** A function that lives elsewhere, typed. Calling it builds a node; nothing runs. */
export interface Task<A extends unknown[], R> {
  (...args: LiftAll<A>): Op<R>;
  /** The same task; the nodes that it builds carry `options`. */
  with(options: TaskOptions): Task<A, R>;
}

/** A class that lives elsewhere, typed: for `client.actor`. */
export interface ActorTask<A extends unknown[], I extends object> {
  /** Tells it from a task. */
  readonly actor: true;
  /** For the compiler alone: the constructor. Never there. */
  readonly __ctor?: (...args: A) => I;
}

/** The exports of a module as tasks. */
export type Tasks<M> = {
  // deno-lint-ignore no-explicit-any
  [K in keyof M]: M[K] extends new (...args: any[]) => object
    ? ActorTask<ConstructorParameters<M[K]>, InstanceType<M[K]>>
    : M[K] extends (...a: infer A) => infer R ? Task<A, Result<R>>
    : never;
};

/** What every node has. */
export interface Node<T> {
  /** Label and 32 hex digits; the same for the same code and arguments. Computing it may bundle the module behind it. */
  readonly key: string;
  /** Name in keys, dashboards and messages. May be set until the key is known. */
  label: string;
  /** The nodes among the arguments, each once. */
  readonly dependencies: readonly Op<unknown>[];
  /** The part `key` of this node's result, taken where the result is. */
  at<K extends keyof T>(key: K): Op<T[K]>;
  /** For the compiler alone: the type of the value. Never there. */
  readonly __type?: T;
}

/** A call that will give a `T`. Tuples can be destructured: `const [q, r] = t.divmod(7, 2)`. */
export type Op<T> =
  & Node<T>
  & (T extends readonly [unknown, ...unknown[]] ? { readonly [K in keyof T]: Op<T[K]> } : unknown);

/** A node of any type. */
// deno-lint-ignore no-explicit-any
export type AnyOp = Op<any>;

// --- The one class behind them ---

/** What a node stands for. In `args` and their arrays, nodes and futures stand where their values will go. */
export type Content =
  | { readonly kind: "call"; readonly code: Code; readonly args: readonly unknown[] }
  | { readonly kind: "at"; readonly parent: GraphNode; readonly index: string | number }
  | { readonly kind: "collect"; readonly items: readonly GraphNode[] }
  | { readonly kind: "data"; readonly value: unknown }
  | { readonly kind: "cleanup"; readonly parent: GraphNode; readonly children: readonly GraphNode[] };

/** Destructuring and spreading stop here: a node cannot know how long its result will be. */
const ITERATED_MAX = 64;

/** A node as this folder sees it; users see {@linkcode Op}. */
export class GraphNode {
  readonly content: Content;
  readonly options: TaskOptions;
  /** Nodes that must run before, each once, in order of appearance. */
  readonly dependencies: readonly GraphNode[];
  /** Futures among the arguments, in order of appearance. */
  readonly futures: readonly FutureLike<unknown>[];
  #label: string | undefined;
  #key: string | undefined;
  #parts: Map<string | number, GraphNode> | undefined;

  constructor(
    content: Content,
    options: TaskOptions,
    dependencies: readonly GraphNode[],
    futures: readonly FutureLike<unknown>[],
  ) {
    this.content = content;
    this.options = options;
    this.dependencies = dependencies;
    this.futures = futures;
    this.#label = options.label;
  }

  get label(): string {
    return this.#label ?? (this.content.kind === "call" ? this.content.code.label : this.content.kind);
  }

  set label(label: string) {
    if (this.#key !== undefined) {
      throw new TypeError(
        `Cannot relabel "${this.#key}": its key is known already; set the label before, or build the node by ` +
          `with({ label: "${label}" })`,
      );
    }
    this.#label = label;
  }

  get key(): string {
    if (this.#key === undefined) {
      // Dependencies first and without recursion: chains may be longer than the stack.
      if (!this.dependencies.every((node) => node.#key !== undefined)) {
        const keyed = (node: GraphNode): boolean => node.#key !== undefined;
        for (const node of walkBack([this], { has: keyed })) node.#key ??= node.keyGiven(ownKey);
      }
      this.#key ??= this.keyGiven(ownKey);
    }
    return this.#key;
  }

  /** Whether the key has been computed. */
  get keyed(): boolean {
    return this.#key !== undefined;
  }

  /**
   * The key if the dependencies' keys are what `keyOf` says. `local`: code counts by its place in this process, which
   * costs nothing to know.
   */
  keyGiven(keyOf: (dependency: GraphNode) => string, local = false): string {
    const { options } = this;
    if (options.key !== undefined) return options.key;
    const prefix = keyLabel(this.label);
    if (options.pure === false) return `${prefix}-${freshToken()}`;
    return `${prefix}-${tokenOf(this, keyOf, local)}`;
  }

  at(index: string | number): GraphNode {
    if (typeof index !== "string" && typeof index !== "number") {
      throw new TypeError(
        `Cannot take part ${String(index)} of "${this.label}": expected a string or a number`,
      );
    }
    const known = this.#parts?.get(index);
    if (known !== undefined) return known;
    refuseCleanup(this, `${this.label}.at(${JSON.stringify(index)})`);
    const part = new GraphNode({ kind: "at", parent: this, index }, NO_OPTIONS, [this], NO_FUTURES);
    (this.#parts ??= new Map()).set(index, part);
    return part;
  }

  *[Symbol.iterator](): IterableIterator<GraphNode> {
    for (let i = 0; i < ITERATED_MAX; i++) yield this.at(i);
    throw new RangeError(
      `Cannot iterate over "${this.label}": a node does not know the length of its result; take single parts by at(i)`,
    );
  }

  /** `Op add(number, Op divmod)`: the kind, the label and the types of the arguments. Never computes the key. */
  toString(): string {
    const { content } = this;
    switch (content.kind) {
      case "call":
        return `Op ${this.label}(${content.args.map(describe).join(", ")})`;
      case "at":
        return `Op ${content.parent.label}.at(${JSON.stringify(content.index)})`;
      case "collect":
        return `Op ${this.label}(${content.items.length} ${content.items.length === 1 ? "Op" : "Ops"})`;
      case "data":
        return `Op ${this.label}(${describe(content.value)})`;
      case "cleanup":
        return `Op ${this.label}(${describe(content.parent)}, after ${content.children.length})`;
    }
  }

  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /** What Jupyter shows: the graph behind it. */
  [Symbol.for("Jupyter.display")](): Record<string, string> {
    const picture = pictureOf(walkBack([this]), (node) => node.dependencies);
    return { "text/plain": this.toString(), "image/svg+xml": svgOf(picture) };
  }
}

/** Nodes as a picture: dependencies first, all that `parents` gives among them. */
export function pictureOf(
  nodes: readonly GraphNode[],
  parents: (node: GraphNode) => readonly GraphNode[],
): Picture {
  const number = new Map(nodes.map((node, i) => [node, i]));
  return {
    boxes: nodes.map(({ label, content: { kind } }) => ({ label, kind })),
    parents: nodes.map((node) => parents(node).map((parent) => number.get(parent)!)),
  };
}

// `node[0]` beside destructuring. On the prototype, so that nodes stay small.
for (let i = 0; i < ITERATED_MAX; i++) {
  Object.defineProperty(GraphNode.prototype, i, {
    get(this: GraphNode) {
      return this.at(i);
    },
  });
}

const ownKey = (node: GraphNode): string => node.key;
const NO_FUTURES: readonly FutureLike<unknown>[] = Object.freeze([]);
const NO_NODES: readonly GraphNode[] = Object.freeze([]);

/** The user's view of a node. The only place where the type of the result is claimed. */
export function asOp<T>(node: GraphNode): Op<T> {
  // The class cannot carry T: nothing in a node has that type until it runs.
  return node as unknown as Op<T>;
}

/** The node behind an `Op`. Throws a `TypeError` that names `place` and what was found there instead. */
export function nodeOf(op: unknown, place = "the node"): GraphNode {
  if (op instanceof GraphNode) return op;
  throw new TypeError(
    `Cannot use ${place}: expected an Op, got ${
      describe(op)
    }; build one by calling a task, op(), data() or collect()`,
  );
}

/** Whether `value` is a node. */
export function isOp(value: unknown): value is AnyOp {
  return value instanceof GraphNode;
}

/** Whether `value` is a future, of whatever client. */
export function isFuture(value: unknown): value is FutureLike<unknown> {
  return typeof value === "object" && value !== null && FUTURE in value;
}

/** What a future stands for, as a text: its key, or a place in the list of that key. */
export function futureName(future: FutureLike<unknown>): string {
  const part = future[PART];
  return part === undefined ? future.key : `${future.key}[${part}]`;
}

// --- Building ---

/** A node that calls `code`. Nodes and futures are found at the top level of `args` and one level inside arrays. */
export function callNode(code: Code, args: readonly unknown[], options: TaskOptions): GraphNode {
  const dependencies: GraphNode[] = [];
  const futures: FutureLike<unknown>[] = [];
  let kept = args;
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (typeof arg !== "object" || arg === null) continue;
    if (Array.isArray(arg)) {
      let lifted = false;
      for (let j = 0; j < arg.length; j++) {
        const item: unknown = arg[j];
        if (typeof item !== "object" || item === null) continue;
        if (addInput(item, dependencies, futures)) lifted = true;
        else refuseHidden(item, code.label, `args[${i}][${j}]`);
      }
      // Only a list of nodes must be kept from later changes; plain arguments are read when the node is submitted.
      if (lifted) {
        if (kept === args) kept = args.slice();
        (kept as unknown[])[i] = arg.slice();
      }
    } else if (!addInput(arg, dependencies, futures)) {
      refuseHidden(arg, code.label, `args[${i}]`);
    }
  }
  for (const node of dependencies) refuseCleanup(node, `${code.label}(…)`);
  return new GraphNode(
    { kind: "call", code, args: kept },
    options,
    dependencies.length > 1 ? unique(dependencies) : dependencies.length === 0 ? NO_NODES : dependencies,
    futures.length === 0 ? NO_FUTURES : futures,
  );
}

/**
 * A constant as a node: for `inputs`, for `collect`, and for a large value that several tasks share.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, data, op } from "@dask/dask";
 * const table = data([3, 4]);
 * const [sum] = await new AsyncExecutor().run([op((xs: number[]) => xs[0]! + xs[1]!, table)]);
 * console.log(sum); // 7
 * ```
 */
export function data<T>(value: T): Op<T> {
  if (value instanceof GraphNode || isFuture(value)) {
    throw new TypeError("Cannot make data of a node or a future: pass it on as it is");
  }
  if (typeof value === "object" && value !== null) refuseHidden(value, "data", "value");
  return asOp<T>(new GraphNode({ kind: "data", value }, NO_OPTIONS, NO_NODES, NO_FUTURES));
}

/**
 * One node for the list of the results of many.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, collect, data } from "@dask/dask";
 * const [pair] = await new AsyncExecutor().run([collect([data(1), data("a")])]);
 * console.log(pair); // [1, "a"]
 * ```
 */
export function collect<const L extends readonly AnyOp[]>(nodes: L): Op<Values<L>> {
  const items = Array.from(nodes as Iterable<unknown>, (item, i) => nodeOf(item, `collect()'s item ${i}`));
  for (const node of items) refuseCleanup(node, "collect(…)");
  return asOp<Values<L>>(new GraphNode({ kind: "collect", items }, NO_OPTIONS, unique(items), NO_FUTURES));
}

/**
 * Frees the result of `parent` once `children` are done. Results are freed without it as soon as nothing needs them;
 * it is for a parent that is asked for itself. In this process the value is dropped; on a cluster the node only
 * marks the moment, the results go when the futures are released. Its own result cannot be an argument.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, cleanup, op } from "@dask/dask";
 * const table = op(() => [3, 4]);
 * const sum = op((xs: number[]) => xs[0]! + xs[1]!, table);
 * const [value] = await new AsyncExecutor().run([sum, cleanup(table, [sum])]);
 * console.log(value); // 7
 * ```
 */
export function cleanup(parent: AnyOp, children: readonly AnyOp[]): Op<void> {
  const before = nodeOf(parent, "cleanup()'s parent");
  const after = children.map((child, i) => nodeOf(child, `cleanup()'s child ${i}`));
  const content: Content = { kind: "cleanup", parent: before, children: after };
  return asOp<void>(new GraphNode(content, NO_OPTIONS, unique([before, ...after]), NO_FUTURES));
}

/** Adds a node or future to what a call needs; false for a plain value. */
function addInput(
  value: object,
  dependencies: GraphNode[],
  futures: FutureLike<unknown>[],
): boolean {
  if (value instanceof GraphNode) dependencies.push(value);
  else if (isFuture(value)) futures.push(value);
  else return false;
  return true;
}

function unique(nodes: readonly GraphNode[]): readonly GraphNode[] {
  return nodes.length < 2 ? nodes : [...new Set(nodes)];
}

function refuseCleanup(node: GraphNode, by: string): void {
  if (node.content.kind !== "cleanup") return;
  throw new TypeError(`Cannot use a cleanup node in ${by}: it has no result; use its children instead`);
}

/** Throws if a node or future hides inside a plain value, where it would be sent as it is and never be replaced. */
function refuseHidden(value: object, label: string, path: string): void {
  const found = findHidden(value, path, 0);
  if (found === null) return;
  throw new TypeError(
    `Cannot take ${found.what} at ${label}(${found.path}): nodes and futures are replaced by their values only as ` +
      `arguments and one level inside arrays; bring it there, with collect() for many`,
  );
}

/** Hidden nodes are looked for this deep; a value that is deeper, or contains itself, is refused when it is sent. */
const HIDDEN_DEPTH_MAX = 64;

function findHidden(value: unknown, path: string, depth: number): { what: string; path: string } | null {
  if (typeof value !== "object" || value === null || depth > HIDDEN_DEPTH_MAX) return null;
  if (value instanceof GraphNode) return { what: `a node (${value.label})`, path };
  if (isFuture(value)) return { what: `a future (${value.key})`, path };
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof Date) return null;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const item: unknown = value[i];
      if (typeof item !== "object" || item === null) continue;
      const found = findHidden(item, `${path}[${i}]`, depth + 1);
      if (found !== null) return found;
    }
    return null;
  }
  if (value instanceof Map) {
    for (const [key, item] of value) {
      const found = findHidden(key, `${path}.keys()`, depth + 1) ??
        findHidden(item, `${path}.get(${describe(key)})`, depth + 1);
      if (found !== null) return found;
    }
    return null;
  }
  if (value instanceof Set) {
    for (const item of value) {
      const found = findHidden(item, `${path}.values()`, depth + 1);
      if (found !== null) return found;
    }
    return null;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return null;
  if (Object.hasOwn(value, "$dependency") && depth < 2) {
    return { what: `an object with the reserved field "$dependency"`, path };
  }
  for (const key of Object.keys(value)) {
    const found = findHidden((value as Record<string, unknown>)[key], `${path}.${key}`, depth + 1);
    if (found !== null) return found;
  }
  return null;
}

// --- Keys ---

/** Hash of what the node computes, given the keys of its dependencies. */
function tokenOf(node: GraphNode, keyOf: (dependency: GraphNode) => string, local: boolean): string {
  const { content } = node;
  switch (content.kind) {
    case "call": {
      const tokenizer = new Tokenizer(local ? content.code.localToken : content.code.token);
      const { args } = content;
      tokenizer.count(args.length);
      for (let i = 0; i < args.length; i++) {
        const arg = args[i];
        if (Array.isArray(arg) && arg.some(isInput)) {
          tokenizer.list(arg.length);
          for (let j = 0; j < arg.length; j++) input(tokenizer, arg[j], node, keyOf, i, j);
        } else {
          input(tokenizer, arg, node, keyOf, i, -1);
        }
      }
      return tokenizer.digest();
    }
    case "at":
      return partToken(keyOf(content.parent), content.index);
    case "collect": {
      const tokenizer = new Tokenizer("collect");
      tokenizer.count(content.items.length);
      for (const item of content.items) tokenizer.reference(keyOf(item));
      return tokenizer.digest();
    }
    case "data":
      return new Tokenizer("data").value(content.value, () => `${node.label}(value)`).digest();
    case "cleanup": {
      const tokenizer = new Tokenizer("cleanup").reference(keyOf(content.parent));
      for (const child of content.children) tokenizer.reference(keyOf(child));
      return tokenizer.digest();
    }
  }
}

/** Hash of a part of the result of a task. */
export function partToken(key: string, index: string | number): string {
  return new Tokenizer("at").reference(key).value(index, () => "at").digest();
}

/** Whether a value will be replaced: a node or a future. */
export function isInput(value: unknown): value is GraphNode | FutureLike<unknown> {
  return typeof value === "object" && value !== null && (value instanceof GraphNode || FUTURE in value);
}

function input(
  tokenizer: Tokenizer,
  value: unknown,
  node: GraphNode,
  keyOf: (dependency: GraphNode) => string,
  arg: number,
  item: number,
): void {
  if (value instanceof GraphNode) tokenizer.reference(keyOf(value));
  else if (isFuture(value)) tokenizer.reference(futureName(value));
  else tokenizer.value(value, () => `${node.label}(args[${arg}]${item < 0 ? "" : `[${item}]`})`);
}

// --- Walking ---

/**
 * The nodes that `outputs` need, dependencies first, each once; nothing behind `inputs`. Throws a `RangeError` that
 * prints the cycle if there is one.
 */
export function walkBack(
  outputs: readonly GraphNode[],
  inputs?: Pick<ReadonlySet<GraphNode>, "has">,
): GraphNode[] {
  const done = new Set<GraphNode>();
  const open = new Set<GraphNode>();
  // The way from an output to here, and at each node the number of the dependency that comes next.
  const path: GraphNode[] = [];
  const next: number[] = [];
  for (const output of outputs) {
    if (done.has(output)) continue;
    path.push(output);
    next.push(0);
    open.add(output);
    while (path.length > 0) {
      const top = path.length - 1;
      const node = path[top]!;
      const before = inputs !== undefined && inputs.has(node) ? NO_NODES : node.dependencies;
      let i = next[top]!;
      while (i < before.length && done.has(before[i]!)) i++;
      next[top] = i + 1;
      if (i >= before.length) {
        path.pop();
        next.pop();
        open.delete(node);
        done.add(node);
        continue;
      }
      const dependency = before[i]!;
      if (open.has(dependency)) throw cycleError([...path.slice(path.indexOf(dependency)), dependency]);
      path.push(dependency);
      next.push(0);
      open.add(dependency);
    }
  }
  return [...done];
}

function cycleError(cycle: readonly GraphNode[]): RangeError {
  const names = cycle.map((node) => node.label).reverse();
  return new RangeError(`Cannot run a graph with a cycle: ${names.join(" -> ")}`);
}

/** A value in a few words: `number`, `Float64Array(3)`, `Op add`. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (value instanceof GraphNode) return `Op ${value.label}`;
  if (isFuture(value)) return `Future ${value.key}`;
  if (typeof value === "function") return value.name === "" ? "a function" : `function ${value.name}`;
  if (typeof value !== "object") return typeof value;
  if (Array.isArray(value)) return `Array(${value.length})`;
  const prototype: unknown = Object.getPrototypeOf(value);
  const name = prototype === null ? "object" : (value.constructor as { name?: string } | undefined)?.name;
  if (ArrayBuffer.isView(value) && "length" in value) return `${name}(${value.length})`;
  if (value instanceof Map || value instanceof Set) return `${name}(${value.size})`;
  return name === undefined || name === "" || name === "Object" ? "object" : name;
}
