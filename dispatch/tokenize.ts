/**
 * Deterministic keys: the same content gives the same 32 hex digits in every process and on every machine.
 *
 * Keys are made for every node of every graph, so the hash is quick rather than cryptographic: 128 bits, the mixing of
 * MurmurHash3 (x86, 128 bit) over 32-bit words. Two contents meet by chance once in 2^64 or so; somebody who wants a
 * collision can make one, which gains nothing on a cluster where who may submit may run anything. Code is named by
 * SHA-256, since it is checked before it runs.
 *
 * What is hashed is what travels. Order counts in objects, maps and sets, because a function can see it: equal keys
 * must mean equal results, while the reverse is only thrift.
 *
 * @module
 */
import { SerializationError } from "../protocol/errors.ts";
import { NDArray } from "../protocol/nd_array.ts";

/** Tags keep values of different kinds apart. */
const enum Tag {
  Null = 1,
  Undefined,
  True,
  False,
  Int,
  Float,
  BigInt,
  String,
  List,
  Object,
  Map,
  Set,
  Date,
  Bytes,
  NDArray,
  Reference,
}

/** Values nested deeper are refused; so are values that contain themselves. */
const DEPTH_MAX = 1000;

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const scratch = new Float64Array(1);
const scratchWords = new Uint32Array(scratch.buffer);

/** A running hash over tagged values. */
export class Tokenizer {
  // Four lanes, and the words that wait for a block of four.
  #a: number;
  #b: number;
  #c: number;
  #d: number;
  #w0 = 0;
  #w1 = 0;
  #w2 = 0;
  #words = 0;

  /** `domain` keeps hashes of different purposes apart. Domains repeat, so their state is remembered. */
  constructor(domain: string) {
    let state = domains.get(domain);
    if (state === undefined) {
      if (domains.size >= DOMAINS_MAX) domains.clear();
      state = domainState(domain);
      domains.set(domain, state);
    }
    this.#a = state[0];
    this.#b = state[1];
    this.#c = state[2];
    this.#d = state[3];
  }

  /** Adds a length or another small whole number. */
  count(n: number): this {
    this.#word(n);
    return this;
  }

  /** Opens a list of `length` values or references, which follow. */
  list(length: number): this {
    this.#word(Tag.List);
    this.#word(length);
    return this;
  }

  /** Adds a dependency by its key. */
  reference(key: string): this {
    this.#word(Tag.Reference);
    this.#string(key);
    return this;
  }

  /**
   * Adds a plain value. Throws a {@linkcode SerializationError} that names the place, below `place()`, of what cannot
   * be sent.
   */
  value(value: unknown, place: () => string): this {
    const trouble = this.#value(value, 0);
    if (trouble !== null) throw refusal(value, place());
    return this;
  }

  /** The 32 hex digits. The tokenizer is spent. */
  digest(): string {
    const words = this.#words;
    // Fill the last block; the count below tells padding from zeros.
    while ((this.#words & 3) !== 0) this.#word(0);
    let a = this.#a ^ words, b = this.#b ^ words, c = this.#c ^ words, d = this.#d ^ words;
    a = (a + b + c + d) | 0;
    b = (b + a) | 0;
    c = (c + a) | 0;
    d = (d + a) | 0;
    a = avalanche(a);
    b = avalanche(b);
    c = avalanche(c);
    d = avalanche(d);
    a = (a + b + c + d) | 0;
    b = (b + a) | 0;
    c = (c + a) | 0;
    d = (d + a) | 0;
    return hex(a) + hex(b) + hex(c) + hex(d);
  }

  /** The lanes, for remembering a domain. */
  state(): readonly [number, number, number, number] {
    while ((this.#words & 3) !== 0) this.#word(0);
    return [this.#a, this.#b, this.#c, this.#d];
  }

  /** Null, or a reason to look for the place that cannot be sent. */
  #value(value: unknown, depth: number): "refused" | null {
    switch (typeof value) {
      case "number":
        this.#number(value);
        return null;
      case "string":
        this.#word(Tag.String);
        this.#string(value);
        return null;
      case "boolean":
        this.#word(value ? Tag.True : Tag.False);
        return null;
      case "undefined":
        this.#word(Tag.Undefined);
        return null;
      case "bigint":
        this.#word(Tag.BigInt);
        this.#string(value.toString(36));
        return null;
      case "object":
        if (value === null) {
          this.#word(Tag.Null);
          return null;
        }
        return depth > DEPTH_MAX ? "refused" : this.#object(value, depth + 1);
      default:
        return "refused";
    }
  }

  #object(value: object, depth: number): "refused" | null {
    if (Array.isArray(value)) {
      this.list(value.length);
      for (let i = 0; i < value.length; i++) if (this.#value(value[i], depth) !== null) return "refused";
      return null;
    }
    if (ArrayBuffer.isView(value)) {
      if (value instanceof DataView) return "refused";
      this.#word(Tag.Bytes);
      this.#string(Object.prototype.toString.call(value));
      this.#bytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
      return null;
    }
    if (isPlain(value)) {
      this.#word(Tag.Object);
      return this.#fields(value, depth);
    }
    if (value instanceof Map) {
      this.#word(Tag.Map);
      this.#word(value.size);
      for (const [key, item] of value) {
        if (!isHashable(key) || this.#value(key, depth) !== null) return "refused";
        if (this.#value(item, depth) !== null) return "refused";
      }
      return null;
    }
    if (value instanceof Set) {
      this.#word(Tag.Set);
      this.#word(value.size);
      for (const item of value) if (!isHashable(item) || this.#value(item, depth) !== null) return "refused";
      return null;
    }
    if (value instanceof Date) {
      this.#word(Tag.Date);
      this.#number(value.getTime());
      return null;
    }
    if (value instanceof NDArray) {
      this.#word(Tag.NDArray);
      this.#string(`${value.dtype} ${value.order} ${value.shape.join(",")}`);
      return this.#value(value.data, depth);
    }
    return "refused";
  }

  #fields(value: object, depth: number): "refused" | null {
    const keys = Object.keys(value);
    this.#word(keys.length);
    for (const key of keys) {
      this.#string(key);
      if (this.#value((value as Record<string, unknown>)[key], depth) !== null) return "refused";
    }
    return null;
  }

  #number(value: number): void {
    if ((value | 0) === value && !Object.is(value, -0)) {
      this.#word(Tag.Int);
      this.#word(value);
      return;
    }
    this.#word(Tag.Float);
    scratch[0] = Number.isNaN(value) ? NaN : value;
    this.#word(scratchWords[0]!);
    this.#word(scratchWords[1]!);
  }

  #string(text: string): void {
    const { length } = text;
    this.#word(length);
    let i = 0;
    for (; i + 1 < length; i += 2) this.#word(text.charCodeAt(i) | (text.charCodeAt(i + 1) << 16));
    if (i < length) this.#word(text.charCodeAt(i));
  }

  #bytes(bytes: Uint8Array): void {
    const { byteLength } = bytes;
    this.#word(byteLength);
    this.#word(Math.floor(byteLength / 0x1_0000_0000));
    const whole = byteLength & ~3;
    if ((bytes.byteOffset & 3) === 0) {
      const words = new Uint32Array(bytes.buffer, bytes.byteOffset, whole >>> 2);
      for (let i = 0; i < words.length; i++) this.#word(words[i]!);
    } else {
      for (let i = 0; i < whole; i += 4) {
        this.#word(bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
      }
    }
    let rest = 0;
    for (let i = whole; i < byteLength; i++) rest |= bytes[i]! << (8 * (i - whole));
    if (whole < byteLength) this.#word(rest);
  }

  #word(word: number): void {
    switch (this.#words++ & 3) {
      case 0:
        this.#w0 = word;
        return;
      case 1:
        this.#w1 = word;
        return;
      case 2:
        this.#w2 = word;
        return;
      default: {
        let a = this.#a, b = this.#b, c = this.#c, d = this.#d;
        a ^= Math.imul(rotate(Math.imul(this.#w0, 0x239b961b), 15), 0xab0e9789);
        a = (Math.imul((rotate(a, 19) + b) | 0, 5) + 0x561ccd1b) | 0;
        b ^= Math.imul(rotate(Math.imul(this.#w1, 0xab0e9789), 16), 0x38b34ae5);
        b = (Math.imul((rotate(b, 17) + c) | 0, 5) + 0x0bcaa747) | 0;
        c ^= Math.imul(rotate(Math.imul(this.#w2, 0x38b34ae5), 17), 0xa1e38b93);
        c = (Math.imul((rotate(c, 15) + d) | 0, 5) + 0x96cd1c35) | 0;
        d ^= Math.imul(rotate(Math.imul(word, 0xa1e38b93), 18), 0x239b961b);
        d = (Math.imul((rotate(d, 13) + a) | 0, 5) + 0x32ac3b17) | 0;
        this.#a = a;
        this.#b = b;
        this.#c = c;
        this.#d = d;
      }
    }
  }
}

const domains = new Map<string, readonly [number, number, number, number]>([["", [0, 0, 0, 0]]]);
/** Domains are few: a handful of kinds, and one for each function. */
const DOMAINS_MAX = 10_000;

function domainState(domain: string): readonly [number, number, number, number] {
  return new Tokenizer("").reference(domain).state();
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

function avalanche(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function hex(word: number): string {
  return HEX[(word >>> 24) & 255]! + HEX[(word >>> 16) & 255]! + HEX[(word >>> 8) & 255]! + HEX[word & 255]!;
}

/** Python's sets and dictionary keys are hashed: what holds other values cannot be one. */
function isHashable(value: unknown): boolean {
  return typeof value !== "object" || value === null || value instanceof Uint8Array || value instanceof Date;
}

// --- Refusing ---

function refusal(value: unknown, place: string): SerializationError {
  const found = findTrouble(value, [], new Set());
  // `label(value)` and `label(args[0])`: the path goes on inside the parenthesis.
  const path = place.endsWith(")")
    ? `${place.slice(0, -1)}${found.path.join("")})`
    : place + found.path.join("");
  return new SerializationError(`Cannot send ${path}: ${found.what || "expected plain data"}`, path);
}

function findTrouble(
  value: unknown,
  path: readonly string[],
  above: Set<object>,
): { readonly what: string; readonly path: readonly string[] } {
  const fine = { what: "", path };
  if (typeof value === "function") {
    const name = value.name === "" ? "a function" : `the function "${value.name}"`;
    return { what: `expected plain data, got ${name}; make it a task of its own or part of the code`, path };
  }
  if (typeof value === "symbol") return { what: "expected plain data, got a symbol", path };
  if (typeof value !== "object" || value === null) return fine;
  if (above.has(value)) return { what: "the value contains itself", path };
  if (above.size > DEPTH_MAX) return { what: `the value is nested deeper than ${DEPTH_MAX} levels`, path };
  above.add(value);
  const children: [step: string, child: unknown][] = [];
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) children.push([`[${i}]`, value[i]]);
  } else if (value instanceof Map) {
    for (const [key, item] of value) {
      if (!isHashable(key)) return { what: "expected a key that Python can hash, got a container", path };
      const step = typeof key === "string" ? JSON.stringify(key) : String(key);
      children.push([".keys()", key], [`.get(${step})`, item]);
    }
  } else if (value instanceof Set) {
    for (const item of value) {
      if (!isHashable(item)) {
        return { what: "expected items that Python can hash, got a container in a Set; use an Array", path };
      }
      children.push([".values()", item]);
    }
  } else if (isPlain(value)) {
    for (const key of Object.keys(value)) children.push([field(key), Reflect.get(value, key)]);
  } else {
    const what = foreign(value);
    if (what !== null) return { what: `expected plain data, got ${what}`, path };
  }
  for (const [step, child] of children) {
    const found = findTrouble(child, [...path, step], above);
    if (found.what !== "") return found;
  }
  above.delete(value);
  return fine;
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** What an object is that is none of the plain ones, and the way out; null for those that can be sent. */
function foreign(value: object): string | null {
  if (value instanceof DataView || value instanceof ArrayBuffer || value instanceof SharedArrayBuffer) {
    return `${value instanceof DataView ? "a DataView" : "an ArrayBuffer"}; wrap it in a Uint8Array`;
  }
  if (ArrayBuffer.isView(value) || value instanceof Date || value instanceof NDArray) return null;
  if (value instanceof Promise) return "a Promise; await it first";
  const name = (value.constructor as { name?: string } | undefined)?.name ?? "";
  return `${
    name === "" ? "an object of an unnamed class" : `an instance of ${name}`
  }; send its fields as a plain object`;
}

function field(key: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
}

// --- Labels ---

/** The longest label in a key. */
const LABEL_MAX = 64;
const keyLabels = new Map<string, string>();

/**
 * A label as the first part of a key. Dask groups tasks by the part of the key before the first `-` that is not
 * followed by a word, and strips some characters: what it would cut is replaced, so that the group is the label.
 */
export function keyLabel(label: string): string {
  let known = keyLabels.get(label);
  if (known === undefined) {
    known = label
      .replace(/[\s"'()<>,\\\p{C}]+/gu, "_")
      .slice(0, LABEL_MAX)
      .replace(/-(?!\p{L}+(?:-|$))/gu, "_")
      .replace(/-(?=[0-9a-f]{8}(?:-|$))/gi, "_")
      .replace(/^_+|[_-]+$/g, "");
    if (known === "") known = "anonymous";
    if (keyLabels.size >= DOMAINS_MAX) keyLabels.clear();
    keyLabels.set(label, known);
  }
  return known;
}
