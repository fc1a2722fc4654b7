/**
 * Tasks as the scheduler hands them out: the pickled `run_spec` of a `compute-task`, written by our client, by Python's,
 * or by the scheduler itself. The law: what is a reference, what is a container that may hold references, and what is
 * plain data stay apart, so that no data of a user's is taken for a reference.
 *
 * Dask pickles a task in two ways: as a call of its class, or as its slots in alphabetical order. The slots at the
 * front differ by release; those that we need are found from the end.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";
import { type Key, keyFromWire } from "./key.ts";
import { decodePickle } from "./pickle/decode.ts";
import { Converter, globalName, PythonObject } from "./pickle/globals.ts";
import { isNode, kindOf, type PyDict, type PyObject, pyText, type PyValue } from "./pickle/value.ts";

/** What a task calls. */
export type SpecFunction =
  /** `dask.utils.methodcaller(name)`: how functions of ours are named. */
  | { readonly kind: "methodcaller"; readonly name: string }
  /** A Python function or class by its name. */
  | { readonly kind: "global"; readonly module: string; readonly name: string }
  /** Anything else, as text for error messages. */
  | { readonly kind: "opaque"; readonly text: string };

/** One task. */
export type TaskSpec =
  | {
    readonly kind: "call";
    readonly function: SpecFunction;
    readonly args: readonly SpecValue[];
    readonly kwargs: ReadonlyMap<string, SpecValue>;
  }
  /** The value of another key: what a Future in the arguments of a Python client becomes. */
  | { readonly kind: "alias"; readonly target: Key }
  | { readonly kind: "data"; readonly value: unknown }
  | { readonly kind: "container"; readonly container: SpecContainer };

/** A container that may hold references. */
export type SpecContainer =
  | { readonly kind: "list" | "tuple" | "set"; readonly items: readonly SpecValue[] }
  | { readonly kind: "dict"; readonly entries: readonly (readonly [SpecValue, SpecValue])[] };

/** An argument. */
export type SpecValue =
  | { readonly kind: "value"; readonly value: unknown }
  | { readonly kind: "ref"; readonly key: Key }
  | { readonly kind: "spec"; readonly spec: TaskSpec };

/** How deep tasks and containers may nest in each other. */
const NESTING_MAX = 200;

/**
 * How many parts a task may have: those that a few bytes refer to again and again count each time, so that a small
 * pickle cannot keep us busy. The first number is free, the second one for each byte.
 */
const PARTS_FREE = 10_000;
const PARTS_PER_BYTE = 4;

/**
 * Reads a `run_spec`.
 *
 * @throws {ProtocolError} when it is no task.
 */
export function readTaskSpec(pickle: Uint8Array, buffers: readonly Uint8Array[] = []): TaskSpec {
  const node = decodePickle(pickle, buffers);
  const spec = new SpecReader(PARTS_FREE + PARTS_PER_BYTE * pickle.byteLength).spec(node, 0);
  if (spec === undefined) {
    throw new ProtocolError(`Cannot read a run_spec: expected a task, got ${kindOf(node)}`);
  }
  return spec;
}

/** Pickles of `()` and of `{}`. */
const NO_ARGUMENTS = Uint8Array.of(0x80, 4, 0x29, 0x2e);
const NO_KEYWORDS = Uint8Array.of(0x80, 4, 0x7d, 0x2e);

/**
 * Reads a call whose function, arguments (a tuple) and keyword arguments (a dict) are pickled each by itself, as
 * `client.run` sends them; null for no arguments.
 *
 * @throws {ProtocolError} when one of them is something else.
 */
export function readPickledCall(
  fn: Uint8Array,
  args: Uint8Array | null,
  kwargs: Uint8Array | null,
): TaskSpec {
  const pickles = [fn, args ?? NO_ARGUMENTS, kwargs ?? NO_KEYWORDS] as const;
  const bytes = pickles.reduce((sum, pickle) => sum + pickle.byteLength, 0);
  return new SpecReader(PARTS_FREE + PARTS_PER_BYTE * bytes).call(
    decodePickle(pickles[0]),
    decodePickle(pickles[1]),
    decodePickle(pickles[2]),
  );
}

/** The keys that a task refers to, in the order of their first use. */
export function specDependencies(spec: TaskSpec): Key[] {
  const keys = new Set<Key>();
  const visitValue = (value: SpecValue): void => {
    if (value.kind === "ref") keys.add(value.key);
    else if (value.kind === "spec") visit(value.spec);
  };
  const visit = (one: TaskSpec): void => {
    switch (one.kind) {
      case "alias":
        keys.add(one.target);
        break;
      case "call":
        one.args.forEach(visitValue);
        one.kwargs.forEach(visitValue);
        break;
      case "container":
        if (one.container.kind === "dict") one.container.entries.flat().forEach(visitValue);
        else one.container.items.forEach(visitValue);
    }
  };
  visit(spec);
  return [...keys];
}

/** Carries out one call; may give a promise. */
export type CallFunction = (
  fn: SpecFunction,
  args: readonly unknown[],
  kwargs: ReadonlyMap<string, unknown>,
) => unknown;

/**
 * The value of a task: references are replaced by `inputs`, nested tasks are evaluated, and then `call` is called. Gives
 * a promise only when `call` gave one, be it for a nested task.
 *
 * @throws {ProtocolError} when a key that it refers to is not among `inputs`.
 */
export function evaluateSpec(spec: TaskSpec, inputs: ReadonlyMap<Key, unknown>, call: CallFunction): unknown {
  const inputOf = (key: Key): unknown => {
    if (!inputs.has(key)) {
      throw new ProtocolError(
        `Cannot run a task: it refers to "${key}", which is not among its ${inputs.size} inputs`,
      );
    }
    return inputs.get(key);
  };
  const valueOf = (value: SpecValue): unknown => {
    switch (value.kind) {
      case "value":
        return value.value;
      case "ref":
        return inputOf(value.key);
      case "spec":
        // A value that happens to have a `then` is no promise of ours: only calls give those.
        return evaluate(value.spec);
    }
  };
  const evaluate = (one: TaskSpec): unknown => {
    switch (one.kind) {
      case "alias":
        return inputOf(one.target);
      case "data":
        return one.value;
      case "container": {
        const { container } = one;
        const flat = container.kind === "dict" ? container.entries.flat() : container.items;
        return whenAll(flat.map(valueOf), (values) => build(container.kind, values));
      }
      case "call": {
        const values = one.args.map(valueOf);
        if (one.kwargs.size === 0) {
          return whenAll(values, (args) => {
            const built = buildByClass(one.function, args);
            return built === undefined ? call(one.function, args, NO_KWARGS) : built.value;
          });
        }
        const names = [...one.kwargs.keys()];
        for (const value of one.kwargs.values()) values.push(valueOf(value));
        return whenAll(values, (all) => {
          const kwargs = new Map(names.map((name, i) => [name, all[one.args.length + i]]));
          return call(one.function, all.slice(0, one.args.length), kwargs);
        });
      }
    }
  };
  return evaluate(spec);
}

const NO_KWARGS: ReadonlyMap<string, unknown> = new Map();

/**
 * Containers that dask's collections make by calling their class: `dict([[k, v], …])`, `list(x)`. `undefined` when the
 * call is anything else.
 */
function buildByClass(fn: SpecFunction, args: readonly unknown[]): { readonly value: unknown } | undefined {
  if (fn.kind !== "global" || fn.module !== "builtins" || args.length > 1) return undefined;
  const [items = []] = args;
  if (!Array.isArray(items) && !(items instanceof Set)) return undefined;
  switch (fn.name) {
    case "list":
    case "tuple":
      return { value: build("list", [...items]) };
    case "set":
    case "frozenset":
      return { value: build("set", [...items]) };
    case "dict": {
      const pairs = [...items];
      if (!pairs.every((pair) => Array.isArray(pair) && pair.length === 2)) return undefined;
      return { value: build("dict", pairs.flat(1)) };
    }
    default:
      return undefined;
  }
}

/** Goes on at once when nothing is to be awaited: most tasks are synchronous throughout. */
function whenAll(values: unknown[], then: (values: unknown[]) => unknown): unknown {
  return values.some((value) => value instanceof Promise) ? Promise.all(values).then(then) : then(values);
}

function build(kind: SpecContainer["kind"], values: unknown[]): unknown {
  switch (kind) {
    case "list":
    case "tuple":
      return values;
    case "set":
      return new Set(values);
    case "dict": {
      const entries: [unknown, unknown][] = [];
      for (let i = 0; i + 1 < values.length; i += 2) entries.push([values[i], values[i + 1]]);
      if (!entries.every(([key]) => typeof key === "string")) return new Map(entries);
      const out: Record<string, unknown> = {};
      for (const [key, value] of entries) {
        Object.defineProperty(out, key as string, {
          value,
          writable: true,
          enumerable: true,
          configurable: true,
        });
      }
      return out;
    }
  }
}

class SpecReader {
  // One converter for the whole task: values that are shared in the pickle are shared here.
  readonly #converter = new Converter();
  #partsLeft: number;

  constructor(partsMax: number) {
    this.#partsLeft = partsMax;
  }

  /** `undefined` when the node is no task. */
  spec(node: PyValue, depth: number): TaskSpec | undefined {
    if (!isNode(node, "object") || !isNode(node.callable, "global")) return undefined;
    if (node.callable.module !== "dask._task_spec") return undefined;
    if (depth > NESTING_MAX) {
      throw new ProtocolError(
        `Cannot read a run_spec: expected at most ${NESTING_MAX} levels of nesting, got more`,
      );
    }
    const { args } = node;
    switch (node.callable.name) {
      case "Task":
        return this.#task(node, depth);
      case "Alias": {
        const [key, target] = args;
        // `Alias(key)` stands for its own key.
        return { kind: "alias", target: this.#key(target === undefined || target === null ? key : target) };
      }
      case "DataNode":
        if (args.length !== 2) throw malformed("DataNode", "a key and a value");
        return { kind: "data", value: this.#convert(args[1]!) };
      case "List":
        return this.#container("list", node, depth);
      case "Tuple":
        return this.#container("tuple", node, depth);
      case "Set":
        return this.#container("set", node, depth);
      case "Dict":
        return this.#container("dict", node, depth);
      default:
        return undefined;
    }
  }

  #task(node: PyObject, depth: number): TaskSpec {
    let fn: PyValue | undefined;
    let args: readonly PyValue[];
    let kwargs: PyDict | null;
    if (node.state === undefined) {
      [, fn, ...args] = node.args;
      kwargs = node.kwargs;
    } else {
      const slots = slotsOf(node.state, "Task");
      const argsNode = slots.at(-4);
      const kwargsNode = slots.at(-1);
      fn = slots.at(-3);
      if (!isNode(argsNode, "tuple") || !isNode(kwargsNode, "dict")) {
        throw malformed("Task", "a tuple of arguments and a dict of keyword arguments");
      }
      args = argsNode.items;
      kwargs = kwargsNode;
    }
    if (fn === undefined) throw malformed("Task", "a function");
    return this.#call(fn, args, kwargs, depth);
  }

  /** What three pickles say apart. */
  call(fn: PyValue, args: PyValue, kwargs: PyValue): TaskSpec {
    if (!isNode(args, "tuple") && !isNode(args, "list")) throw malformed("call", "a tuple of arguments");
    if (!isNode(kwargs, "dict")) throw malformed("call", "a dict of keyword arguments");
    return this.#call(fn, args.items, kwargs, 0);
  }

  #call(fn: PyValue, args: readonly PyValue[], kwargs: PyDict | null, depth: number): TaskSpec {
    const specKwargs = new Map<string, SpecValue>();
    const specArgs: SpecValue[] = [];
    // `partial(partial(f, a), b)(c)` is `f(a, b, c)`; later keyword arguments win.
    const outer: { args: readonly PyValue[]; kwargs: PyDict | null }[] = [{ args, kwargs }];
    let inner = readPartial(fn);
    for (let hops = 0; inner !== undefined && hops < NESTING_MAX; hops++) {
      outer.unshift(inner);
      fn = inner.fn;
      inner = readPartial(fn);
    }
    for (const part of outer) {
      for (const arg of part.args) specArgs.push(this.#value(arg, depth));
      const entries = part.kwargs?.entries ?? [];
      for (let i = 0; i + 1 < entries.length; i += 2) {
        const name = entries[i];
        if (typeof name !== "string") throw malformed("Task", "text as names of keyword arguments");
        specKwargs.set(name, this.#value(entries[i + 1]!, depth));
      }
    }
    return this.#applied(fn, specArgs, specKwargs) ??
      { kind: "call", function: readFunction(fn), args: specArgs, kwargs: specKwargs };
  }

  /** Delayed calls with keyword arguments, as releases of 2025 write them: `_apply2(fn, *args, dask_kwargs={…})`. */
  #applied(fn: PyValue, args: SpecValue[], kwargs: Map<string, SpecValue>): TaskSpec | undefined {
    if (globalName(fn) !== "dask.delayed._apply2") return undefined;
    const [target, ...rest] = args;
    const named = staticEntries(kwargs.get("dask_kwargs"));
    if (target?.kind !== "value" || named === undefined || kwargs.size !== 1) return undefined;
    const { value } = target;
    if (!(value instanceof PythonObject)) return undefined;
    const [name] = value.args ?? [];
    const applied: SpecFunction = value.args === null
      ? { kind: "global", module: value.module, name: value.name }
      : `${value.module}.${value.name}` === "dask.utils.methodcaller" && typeof name === "string"
      ? { kind: "methodcaller", name }
      : { kind: "opaque", text: String(value) };
    return { kind: "call", function: applied, args: rest, kwargs: new Map(named) };
  }

  #container(kind: SpecContainer["kind"], node: PyObject, depth: number): TaskSpec {
    let items = node.args;
    if (node.state !== undefined) {
      const args = slotsOf(node.state, "container").at(-6);
      if (!isNode(args, "tuple")) throw malformed("container", "a tuple of items");
      items = args.items;
    } else if (kind === "dict" && items.length === 1 && isNode(items[0], "dict")) {
      items = items[0].entries;
    }
    const values = items.map((item) => this.#value(item, depth));
    if (kind !== "dict") return { kind: "container", container: { kind, items: values } };
    if (values.length % 2 !== 0) throw malformed("Dict", "keys and values by turns");
    const entries: [SpecValue, SpecValue][] = [];
    for (let i = 0; i + 1 < values.length; i += 2) entries.push([values[i]!, values[i + 1]!]);
    return { kind: "container", container: { kind, entries } };
  }

  #value(node: PyValue, depth: number): SpecValue {
    if (--this.#partsLeft < 0) {
      throw new ProtocolError("Cannot read a run_spec: it refers to its own parts too many times");
    }
    if (
      isNode(node, "object") && isNode(node.callable, "global") && node.callable.module === "dask._task_spec"
    ) {
      if (node.callable.name === "TaskRef") return { kind: "ref", key: this.#key(node) };
      const spec = this.spec(node, depth + 1);
      if (spec !== undefined) return { kind: "spec", spec };
    }
    return { kind: "value", value: this.#convert(node) };
  }

  /** A key, or the key of a reference. */
  #key(node: PyValue | undefined): Key {
    let key = node;
    for (let hops = 0; isNode(key, "object") && hops < NESTING_MAX; hops++) {
      const name = globalName(key.callable);
      if (name !== "dask._task_spec.TaskRef" && name !== "dask._task_spec.Alias") break;
      key = key.args.at(-1);
    }
    if (key === undefined || key === null || typeof key === "boolean") throw malformed("reference", "a key");
    return keyFromWire(this.#convert(key));
  }

  #convert(node: PyValue): unknown {
    return this.#converter.convert(node);
  }
}

/** The entries of a dict whose names are known before anything is evaluated; `undefined` when they are not. */
function staticEntries(dict: SpecValue | undefined): [string, SpecValue][] | undefined {
  if (dict === undefined) return undefined;
  if (dict.kind === "value") {
    const { value } = dict;
    if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
      return undefined;
    }
    return Object.entries(value).map(([name, item]) => [name, { kind: "value", value: item }]);
  }
  if (dict.kind !== "spec") return undefined;
  const { spec } = dict;
  let pairs: readonly (readonly SpecValue[] | undefined)[];
  if (spec.kind === "container" && spec.container.kind === "dict") {
    pairs = spec.container.entries;
  } else if (spec.kind === "call" && spec.function.kind === "global" && spec.function.name === "dict") {
    pairs = itemsOf(spec.args[0])?.map(itemsOf) ?? [undefined];
  } else {
    return undefined;
  }
  const entries: [string, SpecValue][] = [];
  for (const pair of pairs) {
    const [name, item] = pair ?? [];
    if (name?.kind !== "value" || typeof name.value !== "string" || item === undefined) return undefined;
    entries.push([name.value, item]);
  }
  return entries;
}

/** The items of a list, be it plain or a container of references. */
function itemsOf(list: SpecValue | undefined): readonly SpecValue[] | undefined {
  if (list?.kind === "value" && Array.isArray(list.value)) {
    return list.value.map((value: unknown) => ({ kind: "value", value }));
  }
  if (list?.kind !== "spec" || list.spec.kind !== "container") return undefined;
  const { container } = list.spec;
  return container.kind === "list" || container.kind === "tuple" ? container.items : undefined;
}

/** The slots of a task that was pickled by its state. */
function slotsOf(state: PyValue, what: string): readonly PyValue[] {
  if ((isNode(state, "tuple") || isNode(state, "list")) && state.items.length >= 6) return state.items;
  throw malformed(what, "its slots, as distributed 2025.4.0 and later write them");
}

/** `functools.partial(fn, *args, **kwargs)`: a call of its class, then a state that says it all. */
function readPartial(
  node: PyValue,
): { fn: PyValue; args: readonly PyValue[]; kwargs: PyDict | null } | undefined {
  if (!isNode(node, "object") || globalName(node.callable) !== "functools.partial") return undefined;
  if (isNode(node.state, "tuple")) {
    const [fn, args, kwargs] = node.state.items;
    if (fn === undefined || !isNode(args, "tuple")) return undefined;
    return { fn, args: args.items, kwargs: isNode(kwargs, "dict") ? kwargs : null };
  }
  const [fn, ...args] = node.args;
  return fn === undefined ? undefined : { fn, args, kwargs: node.kwargs };
}

function readFunction(node: PyValue): SpecFunction {
  if (isNode(node, "global")) return { kind: "global", module: node.module, name: node.name };
  if (isNode(node, "object")) {
    const name = globalName(node.callable);
    const [first] = node.args;
    if (name === "dask.utils.methodcaller" && typeof first === "string") {
      return { kind: "methodcaller", name: first };
    }
    if (name === "cloudpickle.cloudpickle._make_function" && isNode(first, "object")) {
      // Of a code object the file, the name and, from Python 3.11, the qualified name come in this order.
      const qualified = first.args.findLast((arg) => typeof arg === "string");
      if (typeof qualified === "string") {
        return { kind: "opaque", text: `${qualified} (a Python function that was sent by value)` };
      }
    }
  }
  return { kind: "opaque", text: pyText(node) };
}

function malformed(what: string, expected: string): ProtocolError {
  return new ProtocolError(`Cannot read a run_spec: expected ${expected} in a ${what}`);
}
