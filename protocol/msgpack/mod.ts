/**
 * MessagePack with dask's conventions, over a pinned library whose traps are closed here. The law:
 *
 * - text is text and bytes are bytes, by their type on the wire, never by guessing;
 * - maps are read as null-prototype objects; a map key that is no plain string (tuples, numbers, `__proto__`) becomes a
 *   canonical {@linkcode Key} and is written back as what it was;
 * - integers within ±(2^53-1) are numbers, others bigints;
 * - nothing is allocated for a length that the bytes at hand do not bear out, and nesting has a limit.
 *
 * Bytes in a decoded value are views on the input: give it a buffer that is not written again.
 *
 * @module
 */
import { decodeAscii } from "../ascii.ts";
import { Decoder, Encoder } from "../deps.ts";
import { ProtocolError } from "../errors.ts";
import { ESCAPE, keyToWire, mapKeyFromWire } from "../key.ts";

/** How deep arrays and maps may nest, both ways. */
export const DEPTH_MAX = 512;

/** An encoder buffer larger than this is not kept for the next message, bytes. */
const KEPT_BUFFER_BYTES_MAX = 1 << 18;

/** Replaces an object that carries a tag (`$`) before it is written; gives the object itself when it is not special. */
export type Replace = (tagged: object) => unknown;

/** Sees every map of a decoded value that holds some key beginning with `__`, innermost first, and gives what to put there. */
export type Revive = (map: Record<string, unknown>) => unknown;

/**
 * Writes one value: null, booleans, numbers, bigints of 64 bits, strings, `Uint8Array`, arrays, Maps, Sets and plain
 * objects (fields that are `undefined` are left out).
 *
 * @throws {ProtocolError} with side `"local"` when the value cannot be written.
 */
export function encodeMsgpack(value: unknown, replace?: Replace): Uint8Array {
  return encoder.run(value, replace ?? null);
}

/**
 * Reads the one value that `bytes` hold.
 *
 * @throws {ProtocolError} when bytes are missing, left over or make no sense.
 */
export function decodeMsgpack(bytes: Uint8Array, revive?: Revive): unknown {
  const value = decoder.run(bytes);
  return revive !== undefined && decoder.marked ? rewrite(value, revive) : value;
}

/** The first bytes of an array of `size` items. */
export function arrayHeader(size: number): Uint8Array {
  if (size < 16) return Uint8Array.of(0x90 + size);
  if (size < 0x10000) return Uint8Array.of(0xdc, size >> 8, size);
  return Uint8Array.of(0xdd, size >>> 24, size >> 16, size >> 8, size);
}

class DaskEncoder extends Encoder {
  #replace: Replace | null = null;
  #busy = false;

  constructor() {
    super({ maxDepth: DEPTH_MAX, initialBufferSize: 1024 });
  }

  run(value: unknown, replace: Replace | null): Uint8Array {
    if (this.#busy) return new DaskEncoder().run(value, replace); // a `replace` that encodes something itself
    this.#busy = true;
    this.#replace = replace;
    try {
      this.pos = 0;
      this.doEncode(value, 1);
      if (this.bytes.byteLength <= KEPT_BUFFER_BYTES_MAX) return this.bytes.slice(0, this.pos);
      const large = this.bytes.subarray(0, this.pos);
      this.view = new DataView(new ArrayBuffer(1024));
      this.bytes = new Uint8Array(this.view.buffer);
      return large; // the large buffer goes with it, uncopied
    } catch (cause) {
      if (cause instanceof ProtocolError) throw cause;
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ProtocolError(`Cannot encode the message: ${reason}`, "local", { cause });
    } finally {
      this.#replace = null;
      this.#busy = false;
    }
  }

  protected override encodeObject(object: object | bigint | symbol, depth: number): void {
    if (typeof object === "bigint") return this.#encodeBigint(object);
    if (Array.isArray(object)) return this.encodeArray(object, depth);
    if (object instanceof Uint8Array) return this.encodeBinary(object);
    if (object instanceof Map) return this.#encodeMap(object, depth);
    if (object instanceof Set) {
      return this.doEncode({ __Set__: true, "as-list": [...object] }, depth);
    }
    if (typeof object !== "object") throw refused(typeof object);
    if (this.#replace !== null && "$" in object) {
      const replaced = this.#replace(object);
      if (replaced !== object) return this.doEncode(replaced, depth);
    }
    const prototype = Object.getPrototypeOf(object);
    if (prototype !== Object.prototype && prototype !== null) {
      throw refused(object.constructor?.name ?? "an object of a class");
    }
    this.#encodeRecord(object as Record<string, unknown>, depth);
  }

  // Text that is no text (lone surrogates) would make the Python side give up the whole connection.
  protected override encodeString(text: string): void {
    super.encodeString(text.isWellFormed() ? text : text.toWellFormed());
  }

  #encodeBigint(value: bigint): void {
    if (value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER) {
      this.doEncode(Number(value), 1);
    } else if (value > 0n && value < 1n << 64n) {
      this.writeU8(0xcf);
      this.writeBigUint64(value);
    } else if (value < 0n && value >= -(1n << 63n)) {
      this.writeU8(0xd3);
      this.writeBigInt64(value);
    } else {
      throw new ProtocolError(
        `Cannot encode the message: the integer ${value} needs more than 64 bits`,
        "local",
      );
    }
  }

  #encodeRecord(record: Record<string, unknown>, depth: number): void {
    const keys = Object.keys(record);
    let size = keys.length;
    for (let i = 0; i < keys.length; i++) if (record[keys[i]!] === undefined) size--;
    this.#writeMapHeader(size);
    for (let i = 0; i < keys.length; i++) {
      const value = record[keys[i]!];
      if (value === undefined) continue;
      this.#encodeKey(keys[i]!, depth);
      this.doEncode(value, depth + 1);
    }
  }

  #encodeMap(map: ReadonlyMap<unknown, unknown>, depth: number): void {
    this.#writeMapHeader(map.size);
    for (const [key, value] of map) {
      if (typeof key === "string") this.#encodeKey(key, depth);
      else this.doEncode(key, depth + 1);
      this.doEncode(value, depth + 1);
    }
  }

  #encodeKey(key: string, depth: number): void {
    if (key.charCodeAt(0) !== ESCAPE_CODE) this.encodeString(key);
    else this.doEncode(keyToWire(key), depth + 1);
  }

  #writeMapHeader(size: number): void {
    if (size < 16) {
      this.writeU8(0x80 + size);
    } else if (size < 0x10000) {
      this.writeU8(0xde);
      this.writeU16(size);
    } else {
      this.writeU8(0xdf);
      this.writeU32(size);
    }
  }
}

/**
 * A map that inherits nothing. `Object.create(null)` gives one, too, but the engine keeps such objects as hash tables:
 * three times the memory for a message, and slower fields. Only maps too large to be messages are better off so.
 */
function bareMap(size: number): Record<string, unknown> {
  return size > 64 ? Object.create(null) : Object.setPrototypeOf({}, null);
}

class DaskDecoder extends Decoder {
  /** Whether the last value had a map key that begins with `__`. */
  marked = false;
  /** Items promised by all container headers so far; each needs at least one byte. */
  #promised = 0;
  #emptyMap = false;

  constructor() {
    super({
      mapKeyConverter: (key) => {
        if (key === PROTO) return PROTO_KEY;
        if (typeof key !== "string") return mapKeyFromWire(key);
        const first = key.charCodeAt(0);
        if (first === UNDERSCORE_CODE && key.charCodeAt(1) === UNDERSCORE_CODE) this.marked = true;
        return first === ESCAPE_CODE || (first === TAG_CODE && key.length === 1) ? mapKeyFromWire(key) : key;
      },
    });
  }

  run(bytes: Uint8Array): unknown {
    this.marked = false;
    this.#promised = 0;
    this.#emptyMap = false;
    try {
      return this.decode(bytes);
    } catch (cause) {
      if (cause instanceof ProtocolError) throw cause;
      // The library throws RangeErrors when bytes are missing or left over, DecodeErrors otherwise.
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ProtocolError(
        `Cannot decode a msgpack value of ${bytes.byteLength} bytes: ${reason}`,
        "remote",
        {
          cause,
        },
      );
    } finally {
      // The decoder outlives the message: it must not keep its bytes alive.
      this.reinitializeState();
      this.bytes = NOTHING;
      this.view = NOTHING_VIEW;
    }
  }

  // The library makes `{}` for an empty map without asking; sent through the extension hook it becomes ours.
  protected override readHeadByte(): number {
    const head = super.readHeadByte();
    if (head !== EMPTY_FIXMAP) return head;
    this.#emptyMap = true;
    return FIXEXT_1;
  }

  protected override decodeExtension(size: number, headOffset: number): unknown {
    if (this.#emptyMap) {
      this.#emptyMap = false;
      return bareMap(0);
    }
    throw new ProtocolError(
      `Cannot decode a msgpack value: an extension of ${size + headOffset} bytes, expected none`,
    );
  }

  protected override pushArrayState(size: number): void {
    this.#promise(size);
    super.pushArrayState(size);
  }

  protected override pushMapState(size: number): void {
    this.#promise(2 * size);
    super.pushMapState(size);
    this.stack.top().map = bareMap(size);
  }

  protected override decodeUtf8String(byteLength: number, headerOffset: number): unknown {
    const { bytes } = this;
    const start = this.pos + headerOffset;
    const end = start + byteLength;
    if (end > bytes.byteLength) throw new RangeError("Insufficient data");
    this.pos = end;
    const text = decodeAscii(bytes, start, end);
    // The library's own is neither fatal, nor does it keep a byte order mark.
    if (text === null) return utf8.decode(bytes.subarray(start, end));
    // The library refuses this key before it asks the converter.
    return text === "__proto__" && this.stateIsMapKey() ? PROTO : text;
  }

  protected override readU64(): number | bigint {
    const value = this.view.getBigUint64(this.pos);
    this.pos += 8;
    return value <= MAX_SAFE ? Number(value) : value;
  }

  protected override readI64(): number | bigint {
    const value = this.view.getBigInt64(this.pos);
    this.pos += 8;
    return value <= MAX_SAFE && value >= -MAX_SAFE ? Number(value) : value;
  }

  #promise(items: number): void {
    this.#promised += items;
    if (this.#promised > this.bytes.byteLength) {
      throw new ProtocolError(
        `Cannot decode a msgpack value of ${this.bytes.byteLength} bytes: it announces ${this.#promised} items`,
      );
    }
    if (this.stack.length >= DEPTH_MAX) {
      throw new ProtocolError(`Cannot decode a msgpack value: it nests deeper than ${DEPTH_MAX}`);
    }
  }
}

const ESCAPE_CODE = ESCAPE.charCodeAt(0);
const UNDERSCORE_CODE = 95;
const TAG_CODE = 36; // "$"
const EMPTY_FIXMAP = 0x80;
const FIXEXT_1 = 0xd4;
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const NOTHING = new Uint8Array(0);
const NOTHING_VIEW = new DataView(NOTHING.buffer);
/** Stands for the map key `__proto__` between the two hooks of the decoder. */
const PROTO = Symbol("__proto__");
const PROTO_KEY = mapKeyFromWire("__proto__");
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new DaskEncoder();
const decoder = new DaskDecoder();

function rewrite(value: unknown, revive: Revive): unknown {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const item = value[i];
      if (typeof item === "object" && item !== null) value[i] = rewrite(item, revive);
    }
    return value;
  }
  const map = value as Record<string, unknown>;
  let marked = false;
  for (const key in map) {
    const item = map[key];
    if (typeof item === "object" && item !== null) map[key] = rewrite(item, revive);
    if (key.startsWith("__")) marked = true;
  }
  return marked ? revive(map) : map;
}

function refused(what: string): ProtocolError {
  return new ProtocolError(
    `Cannot encode the message: expected plain data, got ${what}; values of other kinds are serialized first`,
    "local",
  );
}
