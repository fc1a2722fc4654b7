/**
 * Keys of tasks. Python's keys are strings, numbers and tuples of these; inside this project a key is always a string
 * in *canonical form*, so that it can index a map. The law: a string is its own canonical form, everything else (and
 * the few strings that could be mistaken for it) is written as {@linkcode ESCAPE} followed by JSON.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";

/** A key in canonical form. */
export type Key = string;

/** A key as msgpack carries it: tuples are arrays. */
export type WireKey = string | number | bigint | readonly WireKey[];

/** The first character of every canonical form that is not the key itself. */
export const ESCAPE = "\u0001";
const ESCAPE_CODE = 1;

/** How deep tuples may nest in a key. */
export const KEY_DEPTH_MAX = 64;

/**
 * The canonical form of a key from the wire.
 *
 * @throws {ProtocolError} when it is not a string, a number or an array of these.
 */
export function keyFromWire(wire: unknown): Key {
  if (typeof wire === "string") return isPlain(wire) ? wire : ESCAPE + JSON.stringify(wire);
  return ESCAPE + JSON.stringify(toJson(wire, 0, false));
}

/** As {@linkcode keyFromWire}, for keys of any map: those that cannot be keys of tasks (null, booleans, bytes) pass, too. */
export function mapKeyFromWire(wire: unknown): Key {
  if (typeof wire === "string") return isPlain(wire) ? wire : ESCAPE + JSON.stringify(wire);
  return ESCAPE + JSON.stringify(toJson(wire, 0, true));
}

/** The wire form of a key in canonical form: the inverse of {@linkcode keyFromWire}. */
export function keyToWire(key: Key): WireKey {
  if (key.charCodeAt(0) !== ESCAPE_CODE) return key;
  try {
    return fromJson(JSON.parse(key.slice(1)));
  } catch (cause) {
    throw new ProtocolError(
      `Cannot write the key ${
        JSON.stringify(key)
      }: expected a canonical key, got a string that only begins like one`,
      "local",
      { cause },
    );
  }
}

/** Keys of module code begin so; the hash of the code follows. */
export const CODE_KEY_PREFIX = "code-";

/** The key as Python would print it, for people: `x-1`, `('x', 0)`. */
export function keyText(key: Key): string {
  return key.charCodeAt(0) === ESCAPE_CODE ? pythonText(keyToWire(key), true) : key;
}

/** The name under which dask counts the tasks of one kind: `add` of `add-1f…`, `x` of `('x', 0)`. */
export function keyPrefix(key: Key): string {
  let wire = keyToWire(key);
  while (typeof wire === "object") wire = wire[0] ?? "";
  if (typeof wire !== "string") return "Other";
  const [first = "", ...words] = wire.split("-");
  let prefix = /^\p{L}/u.test(first)
    ? first
    : (first.split(",")[0] ?? "").replace(/^[_'()"]+|[_'()"]+$/g, "");
  for (const word of words) {
    // Eight letters that begin like a hash are taken for one.
    if (!/^\p{L}+$/u.test(word) || (word.length === 8 && /^[a-f]/.test(word))) break;
    prefix += `-${word}`;
  }
  if (first === "" || prefix === "") return "Other";
  if (/^[a-f0-9]{32}$/.test(prefix)) return "data";
  if (!prefix.startsWith("<")) return prefix;
  return prefix.replace(/^[<>]+|[<>]+$/g, "").split(/\s/)[0]!.split(".").at(-1)!;
}

/**
 * Whether a string is its own canonical form. `__proto__` is not, so that no map can be poisoned by it; nor is `$`, the
 * tag of `Serialized` and `Pickled`, so that no map from outside can pass for one and name a file of this machine.
 */
function isPlain(text: string): boolean {
  return text.charCodeAt(0) !== ESCAPE_CODE && text !== "__proto__" && text !== "$";
}

// JSON has neither NaN nor integers beyond 2^53 nor bytes: those travel as one-field objects.
type Json =
  | string
  | number
  | boolean
  | null
  | { readonly float: string }
  | { readonly int: string }
  | { readonly bytes: string }
  | readonly Json[];

function toJson(wire: unknown, depth: number, anyMap: boolean): Json {
  if (typeof wire === "string") return wire;
  if (typeof wire === "number") return Number.isFinite(wire) ? wire : { float: String(wire) };
  if (typeof wire === "bigint") return { int: String(wire) };
  if (Array.isArray(wire)) {
    if (depth === KEY_DEPTH_MAX) {
      throw new ProtocolError(`Cannot read a key: tuples nest deeper than ${KEY_DEPTH_MAX}`);
    }
    return wire.map((item) => toJson(item, depth + 1, anyMap));
  }
  if (anyMap) {
    if (wire === null || typeof wire === "boolean") return wire;
    if (wire instanceof Uint8Array) return { bytes: wire.toHex() };
  }
  throw new ProtocolError(
    `Cannot read a key: expected a string, a number or an array of these, got ${
      wire === null ? "null" : typeof wire
    }`,
  );
}

function fromJson(json: Json): WireKey {
  // The three that only maps in general have are no WireKey; whoever writes such a map wants them back all the same.
  if (typeof json !== "object" || json === null) return json as WireKey;
  if ("float" in json) return Number(json.float);
  if ("int" in json) return BigInt(json.int);
  if ("bytes" in json) return Uint8Array.fromHex(json.bytes) as unknown as WireKey;
  return json.map(fromJson);
}

function pythonText(wire: WireKey, outermost: boolean): string {
  if (typeof wire === "string") {
    return outermost ? wire : `'${wire.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  }
  if (!Array.isArray(wire)) return String(wire);
  const items = wire.map((item) => pythonText(item, false));
  return items.length === 1 ? `(${items[0]},)` : `(${items.join(", ")})`;
}
