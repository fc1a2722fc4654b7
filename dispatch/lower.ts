/**
 * From nodes to plain data: keys, calls, dependencies, priorities. Objects stop here; what comes out can be written to
 * the wire, sent to another actor, or compared in a test.
 *
 * Options of a node (`with`) bind that node; options of a submission bind the submitted nodes alone. What can be held
 * back is: keys that the caller holds are not made again, and small constants travel inside the calls that use them.
 *
 * @module
 */
import { DaskError } from "../protocol/errors.ts";
import type { DependencyRef, FunctionCall, FunctionRef } from "../protocol/call.ts";
import type { BundleTask } from "./code.ts";
import { freshToken } from "./host.ts";
import {
  type AnyOp,
  type FutureLike,
  futureName,
  GraphNode,
  isFuture,
  isInput,
  nodeOf,
  PART,
  partToken,
  type TaskOptions,
  walkBack,
} from "./node.ts";
import { order } from "./order.ts";
import { keyLabel, Tokenizer } from "./tokenize.ts";

/** What the caller of {@linkcode lower} knows. */
export interface LowerContext {
  /** Whether the caller holds this key by a future that lives: then it is a dependency and not made again. */
  held(key: string): boolean;
  /** Options of the submission: they bind the outputs. */
  readonly options?: TaskOptions;
  /** Options for every task that is made, below those of its node (`client.with`). */
  readonly defaults?: TaskOptions;
  /** Values (or futures) in the place of nodes; what only they needed is not run. */
  readonly inputs?: ReadonlyMap<AnyOp, unknown>;
  /** Whether the executor has the lists that futures stand for parts of; without it, each such future is a value. */
  readonly parts?: boolean;
  /** Whether tasks of Python may come out; without it they are refused. */
  readonly python?: boolean;
}

/** One task. */
export interface LoweredTask {
  /** Its key. */
  readonly key: string;
  /** Name for dashboards; the part of the key before the hash, unless the key was given. */
  readonly label: string;
  /** What is called, with references to dependencies by number. */
  readonly call: FunctionCall;
  /** Keys; {@linkcode DependencyRef}s in the call are indexes into this list. */
  readonly dependencies: readonly string[];
  /** Options that hold for it. */
  readonly options: TaskOptions;
  /** Set on calls of Python: then `call.function` means nothing, and `args` are the arguments. */
  readonly python?: { readonly module: string; readonly name: string };
}

/** A graph as plain data. */
export interface LoweredGraph {
  /** Dependencies first, each key once, without what is held. */
  readonly tasks: readonly LoweredTask[];
  /** The keys of the outputs, in the order asked. */
  readonly outputs: readonly string[];
  /** For every task, its place in the order in which one machine should run them. */
  readonly priorities: ReadonlyMap<string, number>;
  /** The futures among the dependencies and outputs: what is not made because it is on a cluster already. */
  readonly futures: readonly FutureLike<unknown>[];
}

/**
 * Lowers the graph behind `outputs`.
 *
 * @throws {SerializationError} When an argument cannot be sent; names `label(args[1].x)`.
 * @throws {TypeError} When a function cannot travel, or two different tasks claim one key.
 * @throws {DaskError} When a module cannot be bundled or lacks an export.
 * @throws {RangeError} When the graph has a cycle.
 */
export function lower(outputs: readonly AnyOp[], context: LowerContext): LoweredGraph {
  return new Lowering(outputs, context).result();
}

class Lowering {
  readonly #context: LowerContext;
  readonly #outputs: readonly GraphNode[];
  readonly #inputs = new Map<GraphNode, unknown>();
  /** Keys that differ from the nodes' own: below inputs, or fresh, or given for this submission. */
  readonly #keys = new Map<GraphNode, string>();
  readonly #tasks: LoweredTask[] = [];
  readonly #futures: FutureLike<unknown>[] = [];
  /** Which task has a key, and the node that it was made of. */
  readonly #made = new Map<string, { readonly index: number; readonly node: GraphNode | null }>();
  readonly #indexes: number[][] = [];

  constructor(outputs: readonly AnyOp[], context: LowerContext) {
    this.#context = context;
    this.#outputs = outputs.map((op, i) => nodeOf(op, `output ${i}`));
    for (const [op, value] of context.inputs ?? []) this.#inputs.set(nodeOf(op, "a key of inputs"), value);
  }

  result(): LoweredGraph {
    const { options } = this.#context;
    const ends = new Set(this.#outputs);
    if (options?.key !== undefined && ends.size > 1) {
      throw new TypeError(
        `Cannot give the key "${options.key}" to ${ends.size} outputs: submit them one by one`,
      );
    }
    const nodes = walkBack(this.#outputs, new Set(this.#inputs.keys()));
    for (const node of nodes) this.#nameIfChanged(node, ends.has(node));
    const needed = this.#needed(nodes, ends);
    for (let i = 0; i < nodes.length; i++) {
      if (needed[i] === 1) this.#lowerNode(nodes[i]!, ends.has(nodes[i]!));
    }
    const priorities = order(this.#indexes);
    return {
      tasks: this.#tasks,
      outputs: this.#outputs.map((node) => this.#keyOf(node)),
      priorities: new Map(this.#tasks.map((task, i) => [task.key, priorities[i]!])),
      futures: this.#futures,
    };
  }

  readonly #keyOf = (node: GraphNode): string =>
    this.#keys.size === 0 ? node.key : this.#keys.get(node) ?? node.key;

  /** Notes the key of a node where it is not the node's own. */
  #nameIfChanged(node: GraphNode, isOutput: boolean): void {
    const { options, defaults } = this.#context;
    const pure = options?.pure ?? node.options.pure ?? defaults?.pure;
    if (this.#inputs.has(node)) {
      this.#keys.set(node, this.#inputKey(node));
    } else if (isOutput && options?.key !== undefined) {
      this.#keys.set(node, options.key);
    } else if (isOutput && pure === false && node.options.pure !== false && node.options.key === undefined) {
      this.#keys.set(node, `${keyLabel(options?.label ?? node.label)}-${freshToken()}`);
    } else if (this.#keys.size > 0 && node.dependencies.some((dependency) => this.#keys.has(dependency))) {
      this.#keys.set(node, node.keyGiven(this.#keyOf));
    } else if (isOutput && options?.label !== undefined && node.options.key === undefined) {
      this.#keys.set(node, `${keyLabel(options.label)}-${node.key.slice(-32)}`);
    }
  }

  #inputKey(node: GraphNode): string {
    const value = this.#inputs.get(node);
    if (isFuture(value)) return this.#isPart(value) ? partKey(value) : futureName(value);
    const place = `inputs.get(${node.label})`;
    return `${keyLabel(node.label)}-${new Tokenizer("data").value(value, () => place).digest()}`;
  }

  /** The nodes that must be made: reached from the outputs without passing what is held. */
  #needed(nodes: readonly GraphNode[], ends: ReadonlySet<GraphNode>): Uint8Array {
    const reached = new Set(ends);
    const needed = new Uint8Array(nodes.length);
    // Backwards, so that all who need a node come before it.
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]!;
      if (!reached.has(node)) continue;
      const input = this.#inputs.get(node);
      if (isFuture(input)) this.#futures.push(input);
      if ((isFuture(input) && !this.#isPart(input)) || this.#context.held(this.#keyOf(node))) continue;
      needed[i] = 1;
      if (this.#inputs.has(node)) continue;
      const { content } = node;
      // A cleanup only waits for its children.
      const before = content.kind === "cleanup" ? content.children : node.dependencies;
      for (const dependency of before) reached.add(dependency);
    }
    return needed;
  }

  #lowerNode(node: GraphNode, isOutput: boolean): void {
    const key = this.#keyOf(node);
    const before = this.#made.get(key);
    if (before !== undefined) {
      this.#refuseOtherContent(key, node, before.node);
      return;
    }
    const inputs = new Inputs(this.#keyOf, this.#inlined, this.#context.parts === true);
    let python: { module: string; name: string } | undefined;
    let call: FunctionCall;
    const { content } = node;
    if (this.#inputs.has(node)) {
      const input = this.#inputs.get(node);
      call = isFuture(input) ? this.#takePart(inputs, input) : builtin("identity", [input]);
    } else if (content.kind === "data") {
      if (!isOutput && isSmall(content.value)) return;
      call = builtin("identity", [content.value]);
    } else if (content.kind === "at") {
      call = builtin("at", [inputs.of(content.parent), content.index]);
    } else if (content.kind === "collect") {
      call = builtin("collect", content.items.map((item) => inputs.of(item)));
    } else if (content.kind === "cleanup") {
      for (const child of content.children) inputs.of(child);
      call = builtin("identity", [null]);
    } else {
      const travelled = content.code.travel();
      let fn: FunctionRef;
      switch (travelled.kind) {
        case "plain":
          fn = travelled.function;
          break;
        case "bundle":
          this.#lowerBundle(travelled.bundle);
          fn = travelled.function(inputs.key(travelled.bundle.key));
          break;
        case "python":
          if (this.#context.python !== true) {
            throw new DaskError(
              `Cannot send "${travelled.module}:${travelled.name}": tasks of Python are not supported here`,
            );
          }
          inputs.lowerPart = this.#lowerPart;
          python = { module: travelled.module, name: travelled.name };
          fn = { kind: "builtin", name: "identity" };
      }
      call = { function: fn, args: content.args.map((arg) => inputs.argument(arg)) };
      for (const future of node.futures) this.#futures.push(future);
    }
    this.#add(node, key, call, inputs.keys, isOutput, python);
  }

  /** Whether it is an item of a list that the executor has. */
  #isPart(future: FutureLike<unknown>): boolean {
    return future[PART] !== undefined && this.#context.parts === true;
  }

  #takePart(inputs: Inputs, future: FutureLike<unknown>): FunctionCall {
    return builtin("at", [{ $dependency: inputs.key(future.key) } satisfies DependencyRef, future[PART]]);
  }

  /** Python takes whole results; so a part of one becomes a task. */
  readonly #lowerPart = (future: FutureLike<unknown>): string => {
    const key = partKey(future);
    if (this.#made.has(key) || this.#context.held(key)) return key;
    const inputs = new Inputs(this.#keyOf, this.#inlined, true);
    const call = this.#takePart(inputs, future);
    const { defaults = {} } = this.#context;
    this.#push(null, { key, label: "at", call, dependencies: inputs.keys, options: defaults });
    return key;
  };

  #lowerBundle(bundle: BundleTask): void {
    if (this.#made.has(bundle.key) || this.#context.held(bundle.key)) return;
    const { defaults = {} } = this.#context;
    this.#push(null, {
      key: bundle.key,
      label: "code",
      call: builtin("bundle", [bundle.bytes]),
      dependencies: [],
      options: defaults,
    });
  }

  #add(
    node: GraphNode,
    key: string,
    call: FunctionCall,
    dependencies: readonly string[],
    isOutput: boolean,
    python: { module: string; name: string } | undefined,
  ): void {
    const { defaults, options } = this.#context;
    const submitted = isOutput ? options : undefined;
    this.#push(node, {
      key,
      label: keyLabel(submitted?.label ?? node.label),
      call,
      dependencies,
      options: defaults === undefined && submitted === undefined
        ? node.options
        : { ...defaults, ...node.options, ...submitted },
      ...python !== undefined && { python },
    });
  }

  #push(node: GraphNode | null, task: LoweredTask): void {
    const indexes: number[] = [];
    for (const dependency of task.dependencies) {
      const made = this.#made.get(dependency);
      if (made !== undefined) indexes.push(made.index);
    }
    this.#made.set(task.key, { index: this.#tasks.length, node });
    this.#tasks.push(task);
    this.#indexes.push(indexes);
  }

  /** A constant that travels inside the call, or nothing. */
  readonly #inlined = (node: GraphNode): { readonly value: unknown } | null => {
    const { content } = node;
    if (content.kind !== "data" || this.#inputs.has(node) || this.#made.has(this.#keyOf(node))) return null;
    return isSmall(content.value) ? content : null;
  };

  #refuseOtherContent(key: string, node: GraphNode, before: GraphNode | null): void {
    if (before === node || before === null) return;
    // Hashed keys are equal for equal content; given ones may be anything.
    const given = node.options.key === key || before.options.key === key ||
      this.#context.options?.key === key;
    if (!given) return;
    const own = contentKey(node, this.#keyOf);
    if (own !== contentKey(before, this.#keyOf)) {
      throw new TypeError(
        `Cannot use the key "${key}" for two different tasks (${before.label} and ${node.label}): give each its own`,
      );
    }
  }
}

/** The hash of what a node computes, whatever key it was given. */
function contentKey(node: GraphNode, keyOf: (node: GraphNode) => string): string {
  return new GraphNode(node.content, { label: "content" }, node.dependencies, node.futures).keyGiven(keyOf);
}

/** The key of an item of a list as a task of its own; that of `at(item)` of a node with the list's key. */
function partKey(future: FutureLike<unknown>): string {
  return `at-${partToken(future.key, future[PART]!)}`;
}

/** The inputs of one call: its keys, and what stands for them in the arguments. */
class Inputs {
  readonly keys: string[] = [];
  /** Makes a task of a future that is a part of a list, and gives its key; null: the call takes the part by itself. */
  lowerPart: ((future: FutureLike<unknown>) => string) | null = null;
  readonly #parts: boolean;
  readonly #keyOf: (node: GraphNode) => string;
  readonly #inlined: (node: GraphNode) => { readonly value: unknown } | null;

  constructor(
    keyOf: (node: GraphNode) => string,
    inlined: (node: GraphNode) => { readonly value: unknown } | null,
    parts: boolean,
  ) {
    this.#parts = parts;
    this.#keyOf = keyOf;
    this.#inlined = inlined;
  }

  /** The number of a dependency. */
  key(key: string): number {
    const known = this.keys.length < 16 ? this.keys.indexOf(key) : this.#numberOf(key);
    if (known >= 0) return known;
    this.#numbers?.set(key, this.keys.length);
    return this.keys.push(key) - 1;
  }

  of(node: GraphNode): unknown {
    const inlined = this.#inlined(node);
    return inlined !== null
      ? inlined.value
      : { $dependency: this.key(this.#keyOf(node)) } satisfies DependencyRef;
  }

  argument(arg: unknown): unknown {
    if (Array.isArray(arg) && arg.some(isInput)) return arg.map((item) => this.#one(item));
    return this.#one(arg);
  }

  #one(value: unknown): unknown {
    if (value instanceof GraphNode) return this.of(value);
    if (isFuture(value)) return this.#future(value);
    return value;
  }

  #future(future: FutureLike<unknown>): DependencyRef {
    const part = future[PART];
    if (part === undefined || !this.#parts) return { $dependency: this.key(futureName(future)) };
    if (this.lowerPart !== null) return { $dependency: this.key(this.lowerPart(future)) };
    return { $dependency: this.key(future.key), part };
  }

  #numbers: Map<string, number> | undefined;
  #numberOf(key: string): number {
    this.#numbers ??= new Map(this.keys.map((known, i) => [known, i]));
    return this.#numbers.get(key) ?? -1;
  }
}

function builtin(
  name: Extract<FunctionRef, { kind: "builtin" }>["name"],
  args: readonly unknown[],
): FunctionCall {
  return { function: { kind: "builtin", name }, args };
}

/** Constants up to this many characters travel inside the calls that use them. */
const INLINED_CHARS_MAX = 256;

function isSmall(value: unknown): boolean {
  switch (typeof value) {
    case "number":
    case "boolean":
    case "undefined":
      return true;
    case "string":
      return value.length <= INLINED_CHARS_MAX;
    default:
      return value === null;
  }
}
