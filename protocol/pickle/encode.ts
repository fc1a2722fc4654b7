/**
 * Writes pickles. The law: plain data goes out as the Python value that means the same, anything else is refused with
 * its path and a way out; nothing of the caller's is kept or changed. A value that is reached twice is written once and
 * referred to (so it is one object in Python, too); one that holds itself is refused.
 *
 * | TypeScript | Python |
 * |---|---|
 * | `null`, `undefined` | `None` |
 * | boolean, string, bigint | `bool`, `str`, `int` |
 * | number | `int` when it is a safe integer (also `3.0`), else `float` |
 * | Array | `list` |
 * | plain object | `dict`; fields that are `undefined` are left out |
 * | Map, Set | `dict`, `set` |
 * | Date | `datetime.datetime` in UTC |
 * | `Uint8Array` | `bytes` |
 * | other typed arrays, {@linkcode NDArray} | `numpy.ndarray` |
 *
 * @module
 */
import { SerializationError } from "../errors.ts";
import { bytesOf, dtypeOf, NDArray, type TypedArray } from "../nd_array.ts";
import { INTEGER_BYTES_MAX } from "./decode.ts";
import { DEPTH_MAX, PythonObject } from "./globals.ts";

/** Bytes and arrays of at least this many bytes travel beside the pickle, where the caller allows it. */
export const OUT_OF_BAND_BYTES_MIN = 1024;

/** A pickle larger than this is refused: something endless is being written, or it belongs into typed arrays. */
export const PICKLE_BYTES_MAX = 2 ** 31 - 1;

/** A buffer larger than this is not kept for the next pickle. */
const KEPT_BUFFER_BYTES_MAX = 1 << 16;

/** Property names are written once and referred to, as many as this. */
const MEMOIZED_KEYS_MAX = 10_000;

const OPEN = -1;

/** A pickle and what travels beside it. `writeable` says of each buffer whether Python may write into it. */
export interface EncodedPickle {
  readonly pickle: Uint8Array;
  readonly buffers: readonly Uint8Array[];
  readonly writeable: readonly boolean[];
}

/** Writes one value; `root` is what error messages call it. With `outOfBand`, large bytes and arrays go beside the pickle, uncopied. */
export function encodePickle(
  value: unknown,
  options: { readonly outOfBand?: boolean; readonly root?: string } = {},
): EncodedPickle {
  return withWriter((writer) => {
    writer.outOfBand = options.outOfBand ?? false;
    writer.value(value, options.root ?? "value");
    writer.op(STOP);
    return { pickle: writer.bytes(), buffers: writer.buffers, writeable: writer.writeable };
  });
}

let idle: PickleWriter | undefined;

/** Lends a writer, the same one every time: small pickles then cost one allocation. Safe when `use` comes back here. */
export function withWriter<T>(use: (writer: PickleWriter) => T): T {
  const writer = idle ?? new PickleWriter();
  idle = undefined;
  writer.start();
  try {
    return use(writer);
  } finally {
    writer.release();
    idle = writer;
  }
}

export const MARK = 0x28;
export const EMPTY_TUPLE = 0x29;
export const STOP = 0x2e;
export const NONE = 0x4e;
export const REDUCE = 0x52;
export const EMPTY_LIST = 0x5d;
export const BUILD = 0x62;
export const APPENDS = 0x65;
export const TUPLE = 0x74;
export const SETITEMS = 0x75;
export const EMPTY_DICT = 0x7d;
export const TUPLE1 = 0x85;
export const TUPLE2 = 0x86;
export const NEWOBJ_EX = 0x92;
const EMPTY_SET = 0x8f;
const ADDITEMS = 0x90;
const STACK_GLOBAL = 0x93;
const MEMOIZE = 0x94;
const NEXT_BUFFER = 0x97;

const encoder = new TextEncoder();

/** Appends opcodes to one buffer. Memo indexes are counted by {@linkcode PickleWriter.memoize} alone. */
export class PickleWriter {
  outOfBand = false;
  buffers: Uint8Array[] = [];
  writeable: boolean[] = [];
  #buffer = new Uint8Array(1024);
  #view = new DataView(this.#buffer.buffer);
  #at = 0;
  #memoSize = 0;
  #names = new Map<string, number>();
  /** Memo indexes of property names. */
  #keys = new Map<string, number>();
  /** Memo indexes of containers and arrays; {@linkcode OPEN} while one is being written. */
  #seen: Map<object, number> | undefined;
  #root = "";
  #index = -1;
  /** Where we are in the value: property names and indexes, `#depth` of them. */
  readonly #path: unknown[] = [];
  #depth = 0;

  /** Begins a pickle of protocol 4; what needs protocol 5 raises it. */
  start(): void {
    this.#at = 0;
    this.#memoSize = 0;
    this.#depth = 0;
    this.outOfBand = false;
    this.#put2(0x80, 4);
  }

  /** Forgets everything that belongs to the caller. */
  release(): void {
    this.buffers = [];
    this.writeable = [];
    if (this.#names.size > 0) this.#names.clear();
    if (this.#keys.size > 0) this.#keys.clear();
    this.#seen = undefined;
    this.#path.length = 0;
    if (this.#buffer.length > KEPT_BUFFER_BYTES_MAX) {
      this.#buffer = new Uint8Array(1024);
      this.#view = new DataView(this.#buffer.buffer);
    }
  }

  /** A copy of what was written. */
  bytes(): Uint8Array {
    // A large buffer is not kept: let it go with its tail rather than copy it, unless half of it is tail.
    return this.#buffer.length > KEPT_BUFFER_BYTES_MAX && this.#at * 2 > this.#buffer.length
      ? this.#buffer.subarray(0, this.#at)
      : this.#buffer.slice(0, this.#at);
  }

  op(code: number): void {
    if (this.#at === this.#buffer.length) this.#grow(1);
    this.#buffer[this.#at++] = code;
  }

  /** Bytes of finished opcodes that do not touch the memo. */
  raw(opcodes: Uint8Array): void {
    this.#reserve(opcodes.length);
    this.#buffer.set(opcodes, this.#at);
    this.#at += opcodes.length;
  }

  /** Stores the top of the stack; gives its index for {@linkcode get}. */
  memoize(): number {
    this.op(MEMOIZE);
    return this.#memoSize++;
  }

  get(index: number): void {
    this.#reserve(5);
    if (index < 256) {
      this.#put2(0x68, index);
    } else {
      this.#buffer[this.#at] = 0x6a;
      this.#view.setUint32(this.#at + 1, index, true);
      this.#at += 5;
    }
  }

  /** The name of a class or function; `name` may be dotted. */
  global(module: string, name: string): void {
    const full = `${module} ${name}`;
    const index = this.#names.get(full);
    if (index !== undefined) return this.get(index);
    this.text(module);
    this.text(name);
    this.op(STACK_GLOBAL);
    this.#names.set(full, this.memoize());
  }

  /** A `str`. Lone surrogates are kept, as Python keeps them. */
  text(text: string): void {
    const length = text.length;
    if (length < 256) {
      this.#reserve(length + 2);
      const buffer = this.#buffer;
      const start = this.#at + 2;
      let all = 0;
      for (let i = 0; i < length; i++) all |= buffer[start + i] = text.charCodeAt(i);
      // Codes above 255 were cut when they were stored, but not in `all`.
      if (all < 0x80) {
        buffer[start - 2] = 0x8c;
        buffer[start - 1] = length;
        this.#at = start + length;
        return;
      }
    }
    this.#longText(text);
  }

  #longText(text: string): void {
    if (!text.isWellFormed() || text.length > 1 << 20) {
      const utf8 = text.isWellFormed() ? encoder.encode(text) : encodeSurrogates(text);
      this.#textHeader(utf8.length);
      this.raw(utf8);
      return;
    }
    this.#reserve(text.length * 3 + 5);
    const start = this.#at + 5;
    const { written } = encoder.encodeInto(text, this.#buffer.subarray(start));
    if (written < 256) {
      this.#put2(0x8c, written);
      this.#buffer.copyWithin(this.#at, start, start + written);
      this.#at += written;
    } else {
      this.#textHeader(written);
      this.#at += written;
    }
  }

  #textHeader(bytes: number): void {
    this.#reserve(9);
    if (bytes < 256) {
      this.#put2(0x8c, bytes);
    } else if (bytes < 0x1_0000_0000) {
      this.#buffer[this.#at] = 0x58;
      this.#view.setUint32(this.#at + 1, bytes, true);
      this.#at += 5;
    } else {
      this.#long(0x8d, bytes);
    }
  }

  /** `bytes`. */
  binary(bytes: Uint8Array): void {
    this.#reserve(9 + bytes.length);
    if (bytes.length < 256) {
      this.#put2(0x43, bytes.length);
    } else if (bytes.length < 0x1_0000_0000) {
      this.#buffer[this.#at] = 0x42;
      this.#view.setUint32(this.#at + 1, bytes.length, true);
      this.#at += 5;
    } else {
      this.#long(0x8e, bytes.length);
    }
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** An `int` from a safe integer, a `float` from any other number. */
  number(value: number): void {
    this.#reserve(11);
    const buffer = this.#buffer;
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      buffer[this.#at] = 0x47;
      this.#view.setFloat64(this.#at + 1, value);
      this.#at += 9;
    } else if (value >= 0 && value < 0x100) {
      this.#put2(0x4b, value);
    } else if (value >= 0 && value < 0x10000) {
      buffer[this.#at] = 0x4d;
      this.#view.setUint16(this.#at + 1, value, true);
      this.#at += 3;
    } else if (value === (value | 0)) {
      buffer[this.#at] = 0x4a;
      this.#view.setInt32(this.#at + 1, value, true);
      this.#at += 5;
    } else {
      this.#view.setBigInt64(this.#at + 2, BigInt(value), true);
      this.#longInteger(8);
    }
  }

  bigint(value: bigint): void {
    if (value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER) {
      return this.number(Number(value));
    }
    // Two's complement needs one bit more than the magnitude; -128 is the exception that fits in its byte.
    const magnitude = (value < 0n ? -value - 1n : value).toString(16);
    const bits = magnitude.length * 4 - Math.clz32(parseInt(magnitude[0]!, 16)) + 28;
    const bytes = Math.floor(bits / 8) + 1;
    if (bytes > INTEGER_BYTES_MAX) {
      throw this.#refused(
        `a bigint of ${bytes} bytes`,
        `write one of more than ${INTEGER_BYTES_MAX} as bytes`,
      );
    }
    this.#reserve(5 + bytes);
    const hex = BigInt.asUintN(bytes * 8, value).toString(16).padStart(bytes * 2, "0");
    const start = this.#at + (bytes <= 255 ? 2 : 5);
    for (let i = 0; i < bytes; i++) {
      this.#buffer[start + i] = parseInt(hex.slice((bytes - 1 - i) * 2, (bytes - i) * 2), 16);
    }
    if (bytes <= 255) return this.#longInteger(bytes);
    this.#buffer[this.#at] = 0x8b;
    this.#view.setUint32(this.#at + 1, bytes, true);
    this.#at = start + bytes;
  }

  /** Ends a LONG1 whose `bytes` digits were put two bytes ahead: drops those that only repeat the sign. */
  #longInteger(bytes: number): void {
    const first = this.#at + 2;
    let last = first + bytes - 1;
    while (last > first) {
      const digit = this.#buffer[last]!;
      const next = this.#buffer[last - 1]!;
      if (!((digit === 0 && next < 0x80) || (digit === 0xff && next >= 0x80))) break;
      last--;
    }
    this.#put2(0x8a, last - first + 1);
    this.#at = last + 1;
  }

  /** Any plain value, see the table at the top of this file. Error messages call it `root`, or `root[index]`. */
  value(value: unknown, root: string, index = -1): void {
    this.#root = root;
    this.#index = index;
    this.#depth = 0;
    try {
      this.#write(value);
    } catch (cause) {
      if (cause instanceof SerializationError) throw cause;
      // A getter or a proxy of the caller's threw.
      const reason = cause instanceof Error ? cause.message : "something that is no Error";
      throw new SerializationError(
        `Cannot write ${this.#where()}: reading it threw: ${reason}`,
        this.#where(),
        {
          cause,
        },
      );
    }
  }

  #write(value: unknown): void {
    switch (typeof value) {
      case "undefined":
        return this.op(NONE);
      case "boolean":
        return this.op(value ? 0x88 : 0x89);
      case "number":
        return this.number(value);
      case "string":
        return this.text(value);
      case "bigint":
        return this.bigint(value);
      case "object":
        return value === null ? this.op(NONE) : this.#object(value);
      case "function":
        throw this.#refused("a function", "send what it returns, or make a task of it");
      case "symbol":
        throw this.#refused("a symbol", "send its description as text");
    }
  }

  #object(value: object): void {
    const index = this.#seen?.get(value);
    if (index !== undefined) {
      if (index !== OPEN) return this.get(index);
      throw this.#refused("a value that holds itself", "break the cycle, or refer to parts by an id");
    }
    if (value instanceof Date) return this.#date(value);
    const seen = this.#seen ??= new Map();
    if (ArrayBuffer.isView(value)) {
      this.#typedArray(value);
      seen.set(value, this.memoize());
      return;
    }
    if (value instanceof NDArray) {
      this.#array(value.data, value.shape, value.dtype, value.order);
      seen.set(value, this.memoize());
      return;
    }
    if (this.#depth >= DEPTH_MAX) {
      throw this.#refused(
        `more than ${DEPTH_MAX} levels of nesting`,
        "flatten it, or refer to parts by an id",
      );
    }
    seen.set(value, OPEN);
    const depth = this.#depth++;
    let memo: number;
    if (Array.isArray(value)) memo = this.#list(value, depth);
    else if (value instanceof Map) memo = this.#map(value, depth);
    else if (value instanceof Set) memo = this.#set(value, depth);
    else if (isPlain(value)) memo = this.#record(value as Record<string, unknown>, depth);
    else throw (this.#depth--, this.#foreign(value));
    this.#depth = depth;
    seen.set(value, memo);
  }

  #list(list: readonly unknown[], depth: number): number {
    this.op(EMPTY_LIST);
    const memo = this.memoize();
    const { length } = list;
    if (length === 0) return memo;
    this.op(MARK);
    for (let i = 0; i < length; i++) {
      this.#path[depth] = i;
      this.#write(list[i]);
    }
    this.op(APPENDS);
    return memo;
  }

  #record(record: Record<string, unknown>, depth: number): number {
    this.op(EMPTY_DICT);
    const memo = this.memoize();
    const keys = Object.keys(record);
    let marked = false;
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i]!;
      this.#path[depth] = key;
      const value = record[key];
      if (value === undefined) continue;
      if (!marked) this.op(MARK);
      marked = true;
      this.#key(key);
      this.#write(value);
    }
    if (marked) this.op(SETITEMS);
    return memo;
  }

  #key(key: string): void {
    const index = this.#keys.get(key);
    if (index !== undefined) return this.get(index);
    this.text(key);
    if (this.#keys.size < MEMOIZED_KEYS_MAX) this.#keys.set(key, this.memoize());
  }

  #map(map: ReadonlyMap<unknown, unknown>, depth: number): number {
    this.op(EMPTY_DICT);
    const memo = this.memoize();
    if (map.size === 0) return memo;
    this.op(MARK);
    for (const [key, value] of map) {
      this.#path[depth] = { key };
      // Python's keys must be hashable; of our containers only those that become tuples would be, and none does.
      if (typeof key === "object" && key !== null && !(key instanceof Date) && !isBytes(key)) {
        throw this.#refused("a container as the key of a Map", "use text, numbers, bytes or dates as keys");
      }
      this.#write(key);
      this.#write(value);
    }
    this.op(SETITEMS);
    return memo;
  }

  #set(set: ReadonlySet<unknown>, depth: number): number {
    this.op(EMPTY_SET);
    const memo = this.memoize();
    if (set.size === 0) return memo;
    this.op(MARK);
    let i = 0;
    for (const item of set) {
      this.#path[depth] = i++;
      if (typeof item === "object" && item !== null && !(item instanceof Date) && !isBytes(item)) {
        throw this.#refused(
          "a container in a Set",
          "Python can hash text, numbers, bytes and dates; use an Array",
        );
      }
      this.#write(item);
    }
    this.op(ADDITEMS);
    return memo;
  }

  #date(date: Date): void {
    const year = date.getUTCFullYear();
    if (!(year >= 1 && year <= 9999)) { // also an invalid date
      throw this.#refused(
        Number.isNaN(year) ? "an invalid Date" : `a Date in the year ${year}`,
        "Python knows the years 1 to 9999; send milliseconds as a number",
      );
    }
    this.global("datetime", "datetime");
    this.op(MARK);
    this.number(year);
    this.number(date.getUTCMonth() + 1);
    this.number(date.getUTCDate());
    this.number(date.getUTCHours());
    this.number(date.getUTCMinutes());
    this.number(date.getUTCSeconds());
    this.number(date.getUTCMilliseconds() * 1000);
    this.global("datetime", "timezone.utc");
    this.op(TUPLE);
    this.op(REDUCE);
  }

  #typedArray(view: ArrayBufferView): void {
    if (isBytes(view)) {
      if (!this.outOfBand || view.byteLength < OUT_OF_BAND_BYTES_MIN) return this.binary(bytesOf(view));
      // The buffer itself would be a memoryview in Python.
      this.global("builtins", "bytes");
      this.#beside(bytesOf(view), false);
      this.op(TUPLE1);
      this.op(REDUCE);
      return;
    }
    if (view instanceof DataView) throw this.#refused("a DataView", "wrap its buffer in a Uint8Array");
    const data = view as TypedArray;
    this.#array(data, [data.length], dtypeOf(data), "C");
  }

  /** `numpy.ndarray(shape, dtype, buffer, 0, None, order)`: public names only, the same in numpy 1 and 2. */
  #array(data: TypedArray, shape: readonly number[], dtype: string, order: "C" | "F"): void {
    this.global("numpy", "ndarray");
    this.op(MARK);
    this.op(MARK);
    for (const length of shape) this.number(length);
    this.op(TUPLE);
    this.text(dtype);
    const bytes = bytesOf(data);
    if (this.outOfBand && bytes.byteLength >= OUT_OF_BAND_BYTES_MIN) {
      this.#beside(bytes, true);
    } else {
      this.#buffer[1] = 5; // a bytearray, for an array that can be written to, came with protocol 5
      this.#reserve(9 + bytes.length);
      this.#long(0x96, bytes.length);
      this.#buffer.set(bytes, this.#at);
      this.#at += bytes.length;
    }
    if (order === "F") {
      this.number(0);
      this.op(NONE);
      this.text("F");
    }
    this.op(TUPLE);
    this.op(REDUCE);
  }

  #beside(bytes: Uint8Array, writeable: boolean): void {
    this.#buffer[1] = 5;
    this.buffers.push(ownBytes(bytes));
    this.writeable.push(writeable);
    this.op(NEXT_BUFFER);
  }

  #foreign(value: object): SerializationError {
    if (value instanceof PythonObject) {
      return this.#refused(`the Python object ${value}`, "keep it on Python's workers, or send its fields");
    }
    if (value instanceof Promise) return this.#refused("a Promise", "await it first");
    if (value instanceof ArrayBuffer || value instanceof SharedArrayBuffer) {
      return this.#refused("an ArrayBuffer", "wrap it in a Uint8Array");
    }
    if (value instanceof Error) return this.#refused("an Error", "throw it, or send its message");
    let name = "a class";
    try {
      const { constructor } = value;
      if (typeof constructor === "function" && constructor.name !== "") name = constructor.name;
    } catch {
      // A trap of the caller's: the class stays unnamed.
    }
    return this.#refused(`an instance of ${name}`, "send a plain object with the fields that matter");
  }

  #refused(found: string, wayOut: string): SerializationError {
    const where = this.#where();
    return new SerializationError(
      `Cannot write ${where}: expected plain data, got ${found}; ${wayOut}`,
      where,
    );
  }

  #where(): string {
    const steps = this.#path.slice(0, this.#depth);
    // The middle of a very long path says nothing.
    const shown = steps.length <= 24 ? steps.map(stepText) : [
      ...steps.slice(0, 12).map(stepText),
      "…",
      ...steps.slice(-12).map(stepText),
    ];
    return this.#root + (this.#index < 0 ? "" : `[${this.#index}]`) + shown.join("");
  }

  #put2(first: number, second: number): void {
    this.#reserve(2);
    this.#buffer[this.#at++] = first;
    this.#buffer[this.#at++] = second;
  }

  #long(code: number, length: number): void {
    this.#buffer[this.#at] = code;
    this.#view.setBigUint64(this.#at + 1, BigInt(length), true);
    this.#at += 9;
  }

  #reserve(bytes: number): void {
    if (this.#at + bytes > this.#buffer.length) this.#grow(bytes);
  }

  #grow(bytes: number): void {
    const needed = this.#at + bytes;
    if (needed > PICKLE_BYTES_MAX) {
      throw new SerializationError(
        `Cannot write ${this.#root}: its pickle has more than ${PICKLE_BYTES_MAX} bytes; send large data as typed arrays`,
        this.#root,
      );
    }
    const larger = new Uint8Array(Math.min(Math.max(needed, this.#buffer.length * 2), PICKLE_BYTES_MAX));
    larger.set(this.#buffer.subarray(0, this.#at));
    this.#buffer = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/** Bytes that may be handed to a socket later: shared memory could change under it, and sockets refuse it. */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  return bytes.buffer instanceof ArrayBuffer ? bytes : new Uint8Array(bytes);
}

/** Bytes proper: the clamped kind is an array of numbers. */
function isBytes(value: object): value is Uint8Array {
  return value instanceof Uint8Array;
}

/** Whether it is an object literal, of any realm, rather than an instance of a class. */
function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  if (prototype === Object.prototype || prototype === null) return true;
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, "isPrototypeOf");
}

function stepText(step: unknown): string {
  if (typeof step === "number") return `[${step}]`;
  if (typeof step === "string") {
    return /^[A-Za-z_$][\w$]*$/.test(step) ? `.${step}` : `[${JSON.stringify(step.slice(0, 100))}]`;
  }
  const key = (step as { key: unknown }).key;
  return typeof key === "string"
    ? `.get(${JSON.stringify(key.slice(0, 100))})`
    : typeof key === "object" || typeof key === "function" || typeof key === "symbol"
    ? `.get(${typeof key})`
    : `.get(${key})`;
}

/** UTF-8 in which lone surrogates stand as three bytes each, as Python's "surrogatepass" has it. */
function encodeSurrogates(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 3);
  let at = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code < 0xd800 || code > 0xdfff) {
      at += encoder.encodeInto(character, bytes.subarray(at)).written;
    } else {
      bytes[at++] = 0xed;
      bytes[at++] = 0x80 | code >> 6 & 0x3f;
      bytes[at++] = 0x80 | code & 0x3f;
    }
  }
  return bytes.subarray(0, at);
}
