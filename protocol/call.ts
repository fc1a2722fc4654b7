/**
 * A call of a TypeScript function as it travels inside a dask task: `Task(key, methodcaller("deno:op/<label>"),
 * <payload bytes>, TaskRef(dependency 0), TaskRef(dependency 1), …)`. The payload is opaque to the scheduler; the
 * dependencies stand beside it, so that dask sees them.
 *
 * The payload is the pickle of `(function, [argument, …])`, where the function is a tuple of plain values and a
 * dependency is a tuple of one number, or of two, when an item of the dependency is meant: plain values have no tuples,
 * so nothing of a user's can be mistaken for one.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";
import { decodePickle } from "./pickle/decode.ts";
import {
  APPENDS,
  EMPTY_LIST,
  MARK,
  NONE,
  type PickleWriter,
  STOP,
  TUPLE,
  TUPLE1,
  TUPLE2,
  withWriter,
} from "./pickle/encode.ts";
import { Converter } from "./pickle/globals.ts";
import { isNode, kindOf, type PyValue } from "./pickle/value.ts";

/** What is called: one function, or one for each of several calls. */
export type FunctionRef =
  | OneFunctionRef
  /**
   * Calls `function` several times and gives the list of the results. `args` are those of all calls, one call after the
   * other, each behind their number: `[2, a, b, 1, c]` are `f(a, b)` and `f(c)`.
   */
  | { readonly kind: "each"; readonly function: OneFunctionRef };

/** Where the code of a function is found. */
export type OneFunctionRef =
  /** Export of a bundle. The bundle's bytes are the value of dependency number `dependency`; `hash` is their SHA-256 in hex. */
  | {
    readonly kind: "bundle";
    readonly hash: string;
    readonly dependency: number;
    readonly export: string;
    readonly url: string;
  }
  /** A self-contained function by its source text; `hash` is the SHA-256 of that text in hex. */
  | { readonly kind: "source"; readonly hash: string; readonly source: string }
  /** Export of a module by URL, optionally with an integrity (`sha256-<base64>` or `sha256=<hex>`) checked by the executor. */
  | { readonly kind: "url"; readonly url: string; readonly export: string; readonly integrity: string | null }
  /**
   * Built in. `collect(...items)` gives the list of its arguments; `at(value, key)` the element; `identity(value)` the
   * value (DataNode, alias); `bundle(bytes)` the bytes of a bundle as a `Uint8Array`; `run(function, args, kwargs)` what
   * three pickles of a Python client ask to be called (`client.run`), null for no arguments. Of actors, in their own
   * executors: `construct(pickle, buffers, keys, values, key, address)` makes the instance that a task describes and gives
   * the pickle of its handle, `invoke(method, args, names, options)` calls it, `attribute(name)` gives a field.
   */
  | {
    readonly kind: "builtin";
    readonly name: "collect" | "at" | "identity" | "bundle" | "run" | "construct" | "invoke" | "attribute";
  };

/** Names of functions that every executor has. */
export type BuiltinName = Extract<OneFunctionRef, { kind: "builtin" }>["name"];
const BUILTIN_NAMES: readonly BuiltinName[] = [
  "collect",
  "at",
  "identity",
  "bundle",
  "run",
  "construct",
  "invoke",
  "attribute",
];

/** Stands in the arguments where the value of a dependency goes; one level into arrays is allowed. Tagged plain data. */
export interface DependencyRef {
  /** Which of the dependencies, from 0. */
  readonly $dependency: number;
  /** Which item of its value, a list; not there: all of it. */
  readonly part?: number;
}

/** One call. `args` holds plain values (see `value.ts`) and {@linkcode DependencyRef}s. */
export interface FunctionCall {
  /** What is called. */
  readonly function: FunctionRef;
  /** What it is called with. */
  readonly args: readonly unknown[];
}

/** The prefix of `methodcaller` names that carry a {@linkcode FunctionCall}. */
export const CALL_PREFIX = "deno:op/";
/** The prefix of `methodcaller` names that a Python client writes: `deno:<module URL>#<export>[?sha256=…]`. */
export const MODULE_PREFIX = "deno:";
/** How a bundle names the public face of this package: the executor's own takes its place. */
export const PACKAGE_MODULE = "dask-ts:package";
/** The same for those who want no more than `current` and `Reschedule`, which are there already. */
export const CURRENT_MODULE = "dask-ts:current";
/** Where an executor keeps the bundles that it has loaded, a `Map` of {@linkcode LoadedBundle}s by `import.meta.url`. */
export const LOADED_BUNDLES: unique symbol = Symbol.for("dask.bundles") as never;

/** A bundle in an executor. */
export interface LoadedBundle {
  /** The module that it was made of. */
  readonly url: string;
  readonly bytes: Uint8Array;
}

/**
 * The name of the TypeScript function that a pickled task or function mentions, as it stands there
 * (`deno:file:///mod.ts#area`), or null. Finds it without reading the pickle, so it may serve where strangers' pickles
 * are not read; good for people, not for decisions about what runs.
 */
export function functionNameIn(pickle: Uint8Array): string | null {
  for (let at = pickle.indexOf(PREFIX_CODES[0]!, 2); at >= 0; at = pickle.indexOf(PREFIX_CODES[0]!, at + 1)) {
    if (!PREFIX_CODES.every((code, i) => pickle[at + i] === code)) continue;
    // Python and we write texts of less than 256 bytes as this opcode and their length, longer ones by four bytes.
    const short = pickle[at - 2] === SHORT_BINUNICODE ? pickle[at - 1]! : null;
    const long = pickle[at - 5] === BINUNICODE
      ? pickle[at - 4]! + pickle[at - 3]! * 0x100 + pickle[at - 2]! * 0x10000
      : null;
    const length = short ?? long;
    if (length === null || at + length > pickle.byteLength) continue;
    return new TextDecoder().decode(pickle.subarray(at, at + Math.min(length, NAME_BYTES_MAX)));
  }
  return null;
}

const PREFIX_CODES = [...MODULE_PREFIX].map((character) => character.charCodeAt(0));
const SHORT_BINUNICODE = 0x8c;
const BINUNICODE = 0x58;
/** Bytes of a name that are shown. */
const NAME_BYTES_MAX = 500;

/** The opcodes of a function reference: they do not touch the memo, so they can be put into any pickle. */
const encodedFunctions = new WeakMap<FunctionRef, Uint8Array>();

/** `80 04`, which each pickle begins with and the opcodes above do not. */
const PROTO_BYTES = 2;

/**
 * The payload of a call. Calls that share a {@linkcode FunctionRef} (the same object) share the work of writing it.
 *
 * @throws {SerializationError} when an argument has no form in Python; `path` names it, as `args[1].when`.
 */
export function encodeCall(call: FunctionCall): Uint8Array {
  const fn = encodedFunctions.get(call.function) ?? encodeFunction(call.function);
  return withWriter((writer) => {
    writer.raw(fn);
    writer.op(EMPTY_LIST);
    writer.op(MARK);
    const { args } = call;
    for (let i = 0; i < args.length; i++) writeArgument(writer, args[i], i);
    writer.op(APPENDS);
    writer.op(TUPLE2);
    writer.op(STOP);
    return writer.bytes();
  });
}

function writeArgument(writer: PickleWriter, arg: unknown, index: number): void {
  if (typeof arg !== "object" || arg === null) return writer.value(arg, "args", index);
  if (isDependencyRef(arg)) return writeDependency(writer, arg);
  if (!Array.isArray(arg) || !arg.some(isDependencyRef)) return writer.value(arg, "args", index);
  writer.op(EMPTY_LIST);
  writer.op(MARK);
  for (let i = 0; i < arg.length; i++) {
    const item: unknown = arg[i];
    if (isDependencyRef(item)) writeDependency(writer, item);
    else writer.value(item, `args[${index}]`, i);
  }
  writer.op(APPENDS);
}

function writeDependency(writer: PickleWriter, ref: DependencyRef): void {
  writer.number(ref.$dependency);
  if (ref.part === undefined) return writer.op(TUPLE1);
  writer.number(ref.part);
  writer.op(TUPLE2);
}

/** Whether it is a {@linkcode DependencyRef}: an object with its fields and no other. */
export function isDependencyRef(value: unknown): value is DependencyRef {
  if (typeof value !== "object" || value === null) return false;
  try {
    if (!Object.hasOwn(value, "$dependency")) return false;
    const { $dependency, part } = value as DependencyRef;
    return isIndex($dependency) && (part === undefined || isIndex(part)) &&
      Object.keys(value).length === (part === undefined ? 1 : 2);
  } catch {
    return false; // a trap of the caller's: the writer will meet it again, and name it
  }
}

function isIndex(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function encodeFunction(ref: FunctionRef): Uint8Array {
  const one = ref.kind === "each" ? encodedFunctions.get(ref.function) ?? encodeFunction(ref.function) : null;
  const opcodes = withWriter((writer) => {
    writer.op(MARK);
    writer.text(ref.kind);
    switch (ref.kind) {
      case "each":
        writer.raw(one!);
        break;
      case "bundle":
        writer.text(ref.hash);
        writer.number(ref.dependency);
        writer.text(ref.export);
        writer.text(ref.url);
        break;
      case "source":
        writer.text(ref.hash);
        writer.text(ref.source);
        break;
      case "url":
        writer.text(ref.url);
        writer.text(ref.export);
        if (ref.integrity === null) writer.op(NONE);
        else writer.text(ref.integrity);
        break;
      case "builtin":
        writer.text(ref.name);
    }
    writer.op(TUPLE);
    return writer.bytes().slice(PROTO_BYTES);
  });
  encodedFunctions.set(ref, opcodes);
  return opcodes;
}

/**
 * Reads a call.
 *
 * @throws {ProtocolError} when the bytes are no call of ours.
 */
export function decodeCall(bytes: Uint8Array): FunctionCall {
  const whole = decodePickle(bytes);
  const [fn, args] = isNode(whole, "tuple") ? whole.items : [];
  if (!isNode(fn, "tuple") || !isNode(args, "list")) throw noCall("a function and its arguments", whole);
  const converter = new Converter();
  const convert = (item: PyValue) => readDependency(item) ?? converter.convert(item);
  return {
    function: decodeFunction(fn.items),
    args: args.items.map((arg) =>
      isNode(arg, "list") && arg.items.some(isNodeTuple) ? arg.items.map(convert) : convert(arg)
    ),
  };
}

function isNodeTuple(item: PyValue): boolean {
  return isNode(item, "tuple");
}

function readDependency(item: PyValue): DependencyRef | undefined {
  if (!isNode(item, "tuple")) return undefined;
  const [index, part] = item.items;
  if (!isIndex(index) || item.items.length > 2 || (item.items.length === 2 && !isIndex(part))) {
    throw noCall("a dependency as a tuple of one number or two", item);
  }
  return part === undefined ? { $dependency: index } : { $dependency: index, part: part as number };
}

function decodeFunction(items: readonly PyValue[]): FunctionRef {
  const [kind, one] = items;
  if (kind !== "each") return decodeOneFunction(items);
  if (!isNode(one, "tuple")) throw noCall("a function that is called for each", one);
  return { kind, function: decodeOneFunction(one.items) };
}

function decodeOneFunction(items: readonly PyValue[]): OneFunctionRef {
  const [kind, a, b, c, d] = items;
  switch (kind) {
    case "bundle":
      if (typeof a !== "string" || typeof b !== "number" || typeof c !== "string" || typeof d !== "string") {
        break;
      }
      return { kind, hash: a, dependency: b, export: c, url: d };
    case "source":
      if (typeof a !== "string" || typeof b !== "string") break;
      return { kind, hash: a, source: b };
    case "url":
      if (typeof a !== "string" || typeof b !== "string" || (typeof c !== "string" && c !== null)) break;
      return { kind, url: a, export: b, integrity: c };
    case "builtin": {
      const name = BUILTIN_NAMES.find((known) => known === a);
      if (name === undefined) break;
      return { kind, name };
    }
  }
  throw noCall("a function of a kind that is known here", kind);
}

function noCall(expected: string, found: PyValue | undefined): ProtocolError {
  return new ProtocolError(`Cannot read a call: expected ${expected}, got ${kindOf(found)}`);
}
