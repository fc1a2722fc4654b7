/**
 * What JavaScript makes of a pickle. The law is an allow-list: the names in this file become values of ours, by code in
 * this file; every other name stays a {@linkcode PythonObject} that tells what it would have been. Nothing is ever
 * looked up by a name from outside.
 *
 * | Python | here |
 * |---|---|
 * | `None`, `bool`, `str`, `float` | `null`, boolean, string, number |
 * | `int` | number within ±(2^53-1), bigint beyond |
 * | `bytes`, `bytearray` | `Uint8Array` |
 * | `list`, `tuple`, `collections.deque` | Array |
 * | `dict` and its kin (`OrderedDict`, `defaultdict`, `Counter`) | plain object when all keys are strings, else Map |
 * | `set`, `frozenset` | Set |
 * | `datetime.datetime` | Date; one without a time zone is taken as UTC; microseconds are dropped |
 * | `datetime.date`, `datetime.time` | ISO text, `"2026-01-31"`, `"13:05:00.250000"` |
 * | `decimal.Decimal`, `uuid.UUID` | text |
 * | `numpy` arrays and scalars | typed array or {@linkcode NDArray}; number, bigint, boolean, string |
 * | `complex`, `range`, `slice`, `timedelta`, classes, functions, all else | {@linkcode PythonObject} |
 *
 * @module
 */
import { ProtocolError } from "../errors.ts";
import { type NDArray, parseDtype, readArray, stridesOf, type TypedArray } from "../nd_array.ts";
import { isNode, kindOf, type PyDict, type PyNode, type PyObject, pyText, type PyValue } from "./value.ts";

/** How deep values may nest, both ways. */
export const DEPTH_MAX = 1000;

/** Marks a node whose arguments are being converted: it has no value yet, so it cannot be among them. */
const BUSY = Symbol("being converted");

/**
 * A Python value that has no counterpart here: data that names itself. It cannot be called, and it cannot be sent.
 *
 * @example What a Python task returned
 * ```ts
 * import { PythonObject } from "@dask/dask";
 *
 * function describe(value: unknown): string {
 *   return value instanceof PythonObject ? `${value.module}.${value.name}` : typeof value;
 * }
 * console.assert(describe(1) === "number");
 * ```
 */
export class PythonObject {
  /** Module of its class or function, `"decimal"`. */
  readonly module: string;
  /** Name of its class or function in the module, `"Context"`. */
  readonly name: string;
  /** What the class or function would be called with; `null` when the value is the class or function itself. */
  readonly args: readonly unknown[] | null;
  /** Keyword arguments of that call. */
  readonly kwargs: Readonly<Record<string, unknown>>;
  /** The state it would get afterwards; `undefined` when none. */
  readonly state: unknown;
  /** The items it would hold afterwards, of kinds of lists. */
  readonly items: readonly unknown[];
  /** The entries it would hold afterwards, of kinds of dicts. */
  readonly entries: ReadonlyMap<unknown, unknown>;
  readonly #node: PyValue;

  /** Made by the reader: there is no reason to make one. */
  constructor(node: PyValue, module: string, name: string, called: boolean) {
    this.module = module;
    this.name = name;
    this.args = called ? [] : null;
    this.kwargs = {};
    this.state = undefined;
    this.items = [];
    this.entries = new Map();
    this.#node = node;
  }

  /** One short line, about as Python's `repr` would give it. */
  toString(): string {
    return pyText(this.#node);
  }

  /** For `console.log`. */
  [Symbol.for("Deno.customInspect")](): string {
    return `PythonObject ${this.toString()}`;
  }

  /** Makes one whose parts follow, since they may hold it. */
  static of(node: PyValue, called: boolean): PythonObject {
    // Of a call of the result of a call (`getattr(os, "system")("…")`), the innermost name; of an exception as tblib
    // pickles it, its class.
    let callable = node;
    if (
      isNode(node, "object") && isNode(node.callable, "global") &&
      node.callable.module === "tblib.pickling_support"
    ) {
      callable = node.args[0] ?? node;
    }
    for (let hops = 0; isNode(callable, "object") && hops < DEPTH_MAX; hops++) callable = callable.callable;
    return isNode(callable, "global")
      ? new PythonObject(node, callable.module, callable.name, called)
      : new PythonObject(node, "", kindOf(callable), called);
  }
}

/** A chance to make something of a name that is not on the list below; `undefined`: no. */
export type ExtraGlobals = (name: string, node: PyObject, converter: Converter, depth: number) => unknown;

/** Turns one decoded pickle into values. Shared and cyclic references stay what they are. */
export class Converter {
  readonly #extra: ExtraGlobals | undefined;

  constructor(extra?: ExtraGlobals) {
    this.#extra = extra;
  }

  convert(value: PyValue, depth = 0): unknown {
    if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
    if (value.done !== undefined) {
      if (value.done === BUSY) {
        throw new ProtocolError(`Cannot read a pickle: ${kindOf(value)} is an argument of itself`);
      }
      return value.done;
    }
    if (depth > DEPTH_MAX) {
      throw new ProtocolError(
        `Cannot read a pickle: expected at most ${DEPTH_MAX} levels of nesting, got more`,
      );
    }
    switch (value.$) {
      case "list":
      case "tuple": {
        const out: unknown[] = [];
        value.done = out;
        this.#fill(out, value.items, depth);
        return out;
      }
      case "dict":
        return this.#dict(value, value.entries, depth);
      case "set": {
        const out = new Set<unknown>();
        value.done = out;
        for (const item of value.items) out.add(this.convert(item, depth + 1));
        return out;
      }
      case "global":
        return value.done = PythonObject.of(value, false);
      case "object":
        return this.#object(value, depth);
    }
  }

  #fill(out: unknown[], items: readonly PyValue[], depth: number): void {
    for (let i = 0; i < items.length; i++) {
      const item = items[i]!;
      out.push(typeof item === "object" && item !== null ? this.convert(item, depth + 1) : item);
    }
  }

  #dict(node: PyNode, entries: readonly PyValue[], depth: number): unknown {
    for (let i = 0; i < entries.length; i += 2) {
      if (typeof entries[i] !== "string") return this.#map(node, entries, depth);
    }
    const out: Record<string, unknown> = {};
    node.done = out;
    this.#assign(out, entries, depth);
    return out;
  }

  #assign(out: Record<string, unknown>, entries: readonly PyValue[], depth: number): void {
    for (let i = 0; i + 1 < entries.length; i += 2) {
      const key = entries[i] as string;
      const item = entries[i + 1]!;
      const value = typeof item === "object" && item !== null ? this.convert(item, depth + 1) : item;
      // Assigning `__proto__` would change what the object is.
      if (key === "__proto__") {
        Object.defineProperty(out, key, { value, writable: true, enumerable: true, configurable: true });
      } else {
        out[key] = value;
      }
    }
  }

  #map(node: PyNode, entries: readonly PyValue[], depth: number): Map<unknown, unknown> {
    const out = new Map<unknown, unknown>();
    node.done = out;
    this.#enter(out, entries, depth);
    return out;
  }

  #enter(out: Map<unknown, unknown>, entries: readonly PyValue[], depth: number): void {
    for (let i = 0; i + 1 < entries.length; i += 2) {
      out.set(this.convert(entries[i]!, depth + 1), this.convert(entries[i + 1]!, depth + 1));
    }
  }

  #object(node: PyObject, depth: number): unknown {
    const name = globalName(node.callable);
    if (name !== "") {
      node.done = BUSY;
      const made = this.#extra?.(name, node, this, depth) ?? this.#known(name, node, depth);
      if (made !== undefined) return node.done = made;
    }
    const out = PythonObject.of(node, true);
    node.done = out;
    // The class is read-only for everybody else.
    this.#fill(out.args as unknown[], node.args, depth);
    if (node.kwargs !== null) {
      const named = node.kwargs.entries.filter((_, i, all) => typeof all[i & ~1] === "string");
      this.#assign(out.kwargs as Record<string, unknown>, named, depth);
    }
    if (node.state !== undefined) (out as { state: unknown }).state = this.convert(node.state, depth + 1);
    this.#fill(out.items as unknown[], node.items, depth);
    this.#enter(out.entries as Map<unknown, unknown>, node.entries, depth);
    return out;
  }

  /** The allow-list. `undefined`: not on it, or not of the form that we know. */
  #known(name: string, node: PyObject, depth: number): unknown {
    const { args } = node;
    const first = args[0];
    switch (name) {
      case "_codecs.encode":
      case "builtins.bytes":
      case "builtins.bytearray":
        return toBytes(node);
      case "builtins.list":
      case "builtins.tuple": {
        if (args.length > 1 || node.state !== undefined || (args.length === 1 && !isSequence(first))) return;
        const out: unknown[] = [];
        node.done = out;
        this.#fill(out, isSequence(first) ? first.items : [], depth);
        this.#fill(out, node.items, depth);
        return out;
      }
      case "builtins.set":
      case "builtins.frozenset": {
        if (args.length > 1 || node.state !== undefined || (args.length === 1 && !isSequence(first))) return;
        const out = new Set<unknown>();
        node.done = out;
        for (const item of isSequence(first) ? first.items : []) out.add(this.convert(item, depth + 1));
        return out;
      }
      case "collections.deque": {
        const out: unknown[] = [];
        node.done = out;
        if (isSequence(first)) this.#fill(out, first.items, depth);
        this.#fill(out, node.items, depth);
        return out;
      }
      case "builtins.dict":
      case "collections.Counter":
      case "collections.OrderedDict":
      case "collections.defaultdict": {
        if (node.state !== undefined) return;
        const seed = args.find((arg) => isNode(arg, "dict"));
        const entries = isNode(seed, "dict") ? [...seed.entries, ...node.entries] : node.entries;
        return this.#dict(node, entries, depth);
      }
      case "datetime.datetime":
        return toDate(args);
      case "datetime.date":
        return dateText(args);
      case "datetime.time":
        return timeText(args);
      case "decimal.Decimal":
        return args.length === 1 && typeof first === "string" ? first : undefined;
      case "uuid.UUID":
        return uuidText(node);
      case "numpy._core.numeric._frombuffer":
        return fromBuffer(args);
      case "numpy._core.multiarray._reconstruct":
        return this.#reconstructed(node, depth);
      case "numpy._core.multiarray.scalar":
        return toScalar(args);
      case "numpy.ndarray":
        return fromConstructor(args);
      default:
        return undefined;
    }
  }

  /** numpy's form without out-of-band buffers: an empty array, filled by its state. */
  #reconstructed(node: PyObject, depth: number): unknown {
    if (globalName(node.args[0]) !== "numpy.ndarray" || !isNode(node.state, "tuple")) return;
    const [, shapeNode, dtypeNode, fortran, content] = node.state.items;
    const shape = toShape(shapeNode);
    const dtype = dtypeText(dtypeNode);
    if (shape === null || dtype === null) return;
    if (dtype === "|O") {
      if (shape.length !== 1 || !isNode(content, "list")) return;
      const out: unknown[] = [];
      node.done = out;
      this.#fill(out, content.items, depth);
      return out;
    }
    const bytes = asBytes(content);
    return bytes && readArray(bytes, { dtype, shape, strides: null, order: fortran === true ? "F" : "C" });
  }
}

/** Reads the values of a decoded pickle with the allow-list of this file alone. */
export function plain(value: PyValue): unknown {
  return typeof value === "object" && value !== null ? new Converter().convert(value) : value;
}

/** `module.name` as Python 3 and numpy 2 say it today; `""` for what is no name. */
export function globalName(value: PyValue | undefined): string {
  if (!isNode(value, "global")) return "";
  let { module, name } = value;
  if (module === "__builtin__") {
    module = "builtins";
    if (name === "xrange") name = "range";
    if (name === "long") name = "int";
    if (name === "unicode") name = "str";
  } else if (module === "exceptions") {
    module = "builtins";
  } else if (module.startsWith("numpy.core.")) {
    module = `numpy._core.${module.slice(11)}`;
  }
  return `${module}.${name}`;
}

function isSequence(value: PyValue | undefined): value is PyNode & { $: "list" | "tuple" } {
  return isNode(value, "list") || isNode(value, "tuple");
}

/** Bytes as they stand, or in one of the forms in which older protocols write them. */
function asBytes(value: PyValue | undefined): Uint8Array | undefined {
  if (value instanceof Uint8Array) return value;
  return isNode(value, "object") ? toBytes(value) : undefined;
}

function toBytes(node: PyObject): Uint8Array | undefined {
  const [first, encoding] = node.args;
  switch (globalName(node.callable)) {
    case "_codecs.encode": {
      if (typeof first !== "string" || (encoding !== "latin1" && encoding !== "latin-1")) return;
      const bytes = new Uint8Array(first.length);
      for (let i = 0; i < first.length; i++) {
        const code = first.charCodeAt(i);
        if (code > 0xff) return;
        bytes[i] = code;
      }
      return bytes;
    }
    case "builtins.bytes":
    case "builtins.bytearray":
      if (node.args.length === 0) return new Uint8Array(0);
      if (isNode(first, "object") && globalName(first.callable) !== "_codecs.encode") return;
      return node.args.length === 1 ? asBytes(first) : undefined;
    default:
      return undefined;
  }
}

function isInteger(value: PyValue | undefined, min: number, max: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
}

/** Year to microsecond of the arguments of a datetime, whichever form they have. */
function dateFields(args: readonly PyValue[]): { fields: number[]; zone: PyValue | undefined } | undefined {
  const packed = asBytes(args[0]);
  if (packed !== undefined) {
    if (packed.length !== 10 || args.length > 2) return;
    const [high, low, month, day, hour, minute, second, us2, us1, us0] = packed as unknown as number[];
    return {
      // The top bit of the month is the `fold`.
      fields: [
        high! << 8 | low!,
        month! & 0x7f,
        day!,
        hour!,
        minute!,
        second!,
        us2! << 16 | us1! << 8 | us0!,
      ],
      zone: args[1] ?? undefined,
    };
  }
  const fields = args.slice(0, 7);
  if (fields.length < 3 || args.length > 8) return;
  if (!fields.every((field) => isInteger(field, 0, 999_999))) return;
  return { fields: [...fields, 0, 0, 0, 0].slice(0, 7) as number[], zone: args[7] ?? undefined };
}

function toDate(args: readonly PyValue[]): Date | undefined {
  const parts = dateFields(args);
  if (parts === undefined) return;
  const offset = parts.zone === undefined ? 0 : zoneOffset(parts.zone);
  if (offset === undefined) return;
  const [year, month, day, hour, minute, second, micros] = parts.fields;
  const date = new Date(0);
  date.setUTCFullYear(year!, month! - 1, day!); // unlike Date.UTC, takes the year 99 for the year 99
  date.setUTCHours(hour!, minute!, second!, Math.floor(micros! / 1000));
  return new Date(date.getTime() - offset);
}

/** The offset of a fixed time zone in milliseconds; of others it depends on the date, and on tables that we do not have. */
function zoneOffset(zone: PyValue): number | undefined {
  if (globalName(zone) === "datetime.timezone.utc") return 0;
  if (!isNode(zone, "object")) return;
  const name = globalName(zone.callable);
  if (name === "pytz._UTC") return 0;
  const [delta] = zone.args;
  if (name !== "datetime.timezone" || !isNode(delta, "object")) return;
  if (globalName(delta.callable) !== "datetime.timedelta") return;
  const [days = 0, seconds = 0, micros = 0] = delta.args;
  if (!isInteger(days, -1, 1) || !isInteger(seconds, 0, 86_400) || !isInteger(micros, 0, 999_999)) return;
  return days * 86_400_000 + seconds * 1000 + Math.floor(micros / 1000);
}

function dateText(args: readonly PyValue[]): string | undefined {
  const packed = asBytes(args[0]);
  const fields = packed !== undefined && packed.length === 4 && args.length === 1
    ? [packed[0]! << 8 | packed[1]!, packed[2]!, packed[3]!]
    : args;
  const [year, month, day] = fields;
  if (fields.length !== 3 || !isInteger(year, 1, 9999) || !isInteger(month, 1, 12)) return;
  return isInteger(day, 1, 31) ? `${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}` : undefined;
}

function timeText(args: readonly PyValue[]): string | undefined {
  const packed = asBytes(args[0]);
  if (packed === undefined || packed.length !== 6 || args.length !== 1) return;
  const [hour, minute, second, us2, us1, us0] = packed as unknown as number[];
  const micros = us2! << 16 | us1! << 8 | us0!;
  const text = `${pad(hour! & 0x7f, 2)}:${pad(minute!, 2)}:${pad(second!, 2)}`;
  return micros === 0 ? text : `${text}.${pad(micros, 6)}`;
}

function pad(value: number, digits: number): string {
  return String(value).padStart(digits, "0");
}

function uuidText(node: PyObject): string | undefined {
  if (typeof node.args[0] === "string" && node.args.length === 1) return node.args[0];
  const entries = isNode(node.state, "dict") ? node.state.entries : [];
  const int = entries[entries.indexOf("int") + 1];
  if (!entries.includes("int") || (typeof int !== "bigint" && typeof int !== "number")) return;
  if (int < 0 || int >= 1n << 128n) return;
  const hex = int.toString(16).padStart(32, "0");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** numpy's dtype string from the pickle of a dtype; `null` for one that has none. */
export function dtypeText(value: PyValue | undefined): string | null {
  if (typeof value === "string") return value;
  if (!isNode(value, "object") || globalName(value.callable) !== "numpy.dtype") return null;
  const [code] = value.args;
  if (typeof code !== "string") return null;
  if (code.startsWith("O")) return "|O";
  const state = isNode(value.state, "tuple") ? value.state.items : [];
  const order = state[1] === ">" || state[1] === "<" || state[1] === "|" ? state[1] : "|";
  const isTime = code === "M8" || code === "m8";
  return order + code + (isTime ? timeUnit(state[8]) : "");
}

/** `[ns]`, `[25s]`, or nothing, from the metadata of a date's dtype. */
function timeUnit(metadata: PyValue | undefined): string {
  const [, unit] = isNode(metadata, "tuple") ? metadata.items : [];
  const [name, count] = isNode(unit, "tuple") ? unit.items : [];
  const bytes = asBytes(name);
  const text = typeof name === "string"
    ? name
    : bytes === undefined
    ? ""
    : String.fromCharCode(...bytes.subarray(0, 16));
  return text === "" || text === "generic" ? "" : `[${isInteger(count, 2, 0x7fff_ffff) ? count : ""}${text}]`;
}

function toShape(value: PyValue | undefined): number[] | null {
  if (isInteger(value, 0, Number.MAX_SAFE_INTEGER)) return [value];
  if (!isSequence(value)) return null;
  const shape: number[] = [];
  for (const length of value.items) {
    if (!isInteger(length, 0, Number.MAX_SAFE_INTEGER)) return null;
    shape.push(length);
  }
  return shape;
}

/** `_frombuffer(buffer, dtype, shape, order[, axis_order])`: numpy's form with out-of-band buffers. */
function fromBuffer(args: readonly PyValue[]): TypedArray | NDArray | undefined {
  const [buffer, dtypeNode, shapeNode, order, axisOrder] = args;
  const bytes = asBytes(buffer);
  const dtype = dtypeText(dtypeNode);
  const shape = toShape(shapeNode);
  if (bytes === undefined || dtype === null || shape === null) return;
  if (order === "K" && axisOrder !== undefined && axisOrder !== null) {
    const axes = toShape(axisOrder);
    const type = parseDtype(dtype);
    if (axes === null || type === null || new Set(axes).size !== shape.length) return;
    if (axes.length !== shape.length || axes.some((axis) => axis >= shape.length)) return;
    const strides = stridesOf(shape, type.itemSize, "C");
    return readArray(bytes, {
      dtype,
      shape: axes.map((axis) => shape[axis]!),
      strides: axes.map((axis) => strides[axis]!),
      order: "C",
    });
  }
  return readArray(bytes, { dtype, shape, strides: null, order: order === "F" ? "F" : "C" });
}

/** `numpy.ndarray(shape, dtype, buffer[, offset, strides, order])`: the form that we write. */
function fromConstructor(args: readonly PyValue[]): TypedArray | NDArray | undefined {
  const [shapeNode, dtypeNode, buffer, offset = 0, strides = null, order = "C"] = args;
  const bytes = asBytes(buffer);
  const dtype = dtypeText(dtypeNode);
  const shape = toShape(shapeNode);
  if (bytes === undefined || dtype === null || shape === null || strides !== null) return;
  if (!isInteger(offset, 0, bytes.byteLength)) return;
  return readArray(bytes.subarray(offset), { dtype, shape, strides: null, order: order === "F" ? "F" : "C" });
}

function toScalar(args: readonly PyValue[]): unknown {
  const dtype = dtypeText(args[0]);
  const bytes = asBytes(args[1]);
  const type = dtype === null ? null : parseDtype(dtype);
  if (dtype === null || bytes === undefined || type === null || bytes.byteLength !== type.itemSize) return;
  switch (type.kind) {
    case "b":
      return bytes[0] !== 0;
    case "i":
    case "u":
    case "f": {
      if (type.view === null) break;
      const one = readArray(bytes, { dtype, shape: [1], strides: null, order: "C" }) as TypedArray;
      const value = one[0]!;
      return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
    }
    case "S":
      return bytes;
    case "U": {
      let text = "";
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      for (let i = 0; i + 4 <= bytes.byteLength; i += 4) {
        const code = view.getUint32(i, type.byteOrder !== ">");
        if (code > 0x10ffff) return;
        text += String.fromCodePoint(code);
      }
      return text;
    }
  }
  return readArray(bytes, { dtype, shape: [], strides: null, order: "C" });
}

/** The fields of a decoded dict whose keys are text. */
export function dictFields(dict: PyDict): ReadonlyMap<string, PyValue> {
  const fields = new Map<string, PyValue>();
  for (let i = 0; i + 1 < dict.entries.length; i += 2) {
    const key = dict.entries[i];
    if (typeof key === "string") fields.set(key, dict.entries[i + 1]!);
  }
  return fields;
}
