/**
 * Readers of fields of messages. Each takes a value from outside and the path under which an error names it, and gives
 * the value typed or throws a {@linkcode ProtocolError}: `Cannot read "compute-task.priority": expected an array, got
 * a string`. Integrality and ranges are checked where they matter to a machine, here.
 *
 * @module
 */
import { isPickled, isSerialized, type Pickled, type Serialized } from "./envelope.ts";
import { ProtocolError } from "./errors.ts";
import { type Key, keyFromWire } from "./key.ts";

/** Fields of a map from the wire. */
export type Fields = Readonly<Record<string, unknown>>;

/** A reader of one value. */
export type Reader<T> = (value: unknown, path: string) => T;

/** A map. */
export function readRecord(value: unknown, path: string): Fields {
  return isMap(value) ? value : mismatch(path, "a map", value);
}

/** A text. */
export function readString(value: unknown, path: string): string {
  return typeof value === "string" ? value : mismatch(path, "a string", value);
}

/** A number; not NaN. */
export function readNumber(value: unknown, path: string): number {
  return typeof value === "number" && !Number.isNaN(value) ? value : mismatch(path, "a number", value);
}

/** An integer that a number holds exactly. */
export function readInteger(value: unknown, path: string): number {
  return Number.isSafeInteger(value) ? value as number : mismatch(path, "an integer", value);
}

/** A byte count or another integer that is not negative. */
export function readCount(value: unknown, path: string): number {
  return Number.isSafeInteger(value) && (value as number) >= 0
    ? value as number
    : mismatch(path, "an integer that is not negative", value);
}

/** A boolean. */
export function readBoolean(value: unknown, path: string): boolean {
  return typeof value === "boolean" ? value : mismatch(path, "a boolean", value);
}

/** Bytes. */
export function readBytes(value: unknown, path: string): Uint8Array {
  return value instanceof Uint8Array ? value : mismatch(path, "bytes", value);
}

/** An array (Python's lists and tuples), or a Set; each item by `item`. */
export function readArray<T>(value: unknown, path: string, item: Reader<T>): readonly T[] {
  const items = value instanceof Set ? [...value] : value;
  if (!Array.isArray(items)) return mismatch(path, "an array", value);
  const read = new Array<T>(items.length);
  for (let i = 0; i < items.length; i++) {
    try {
      read[i] = item(items[i], path);
    } catch {
      // Readers depend on nothing else: the second time it fails again, with the place in the path.
      read[i] = item(items[i], `${path}[${i}]`);
    }
  }
  return read;
}

/** A key of a task. */
export function readKey(value: unknown, path: string): Key {
  if (
    typeof value !== "string" && typeof value !== "number" && typeof value !== "bigint" &&
    !Array.isArray(value)
  ) {
    return mismatch(path, "a key", value);
  }
  try {
    return keyFromWire(value);
  } catch (cause) {
    throw new ProtocolError(`Cannot read "${path}": ${(cause as Error).message}`, "remote", { cause });
  }
}

/** Keys of tasks. */
export function readKeys(value: unknown, path: string): readonly Key[] {
  return readArray(value, path, readKey);
}

/** A map from keys of tasks (or any text); each value by `item`. */
export function readKeyMap<T>(value: unknown, path: string, item: Reader<T>): ReadonlyMap<Key, T> {
  const fields = readRecord(value, path);
  const read = new Map<Key, T>();
  for (const key in fields) {
    try {
      read.set(key, item(fields[key], path));
    } catch {
      read.set(key, item(fields[key], `${path}[${JSON.stringify(key)}]`));
    }
  }
  return read;
}

/** What `reader` reads, or null for null and for a field that is not there. */
export function readNullable<T>(value: unknown, path: string, reader: Reader<T>): T | null {
  return value === null || value === undefined ? null : reader(value, path);
}

/** A serialized value. */
export function readSerialized(value: unknown, path: string): Serialized {
  return isSerialized(value) ? value : mismatch(path, "a serialized value", value);
}

/** A pickle that travels inside a message. */
export function readPickled(value: unknown, path: string): Pickled {
  return isPickled(value) ? value : mismatch(path, "a pickle", value);
}

/** What a value from outside is, for errors: `a string`, `null`. */
export function describe(value: unknown): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (value instanceof Uint8Array) return "bytes";
  if (value instanceof Set) return "a set";
  if (isSerialized(value)) return "a serialized value";
  if (isPickled(value)) return "a pickle";
  if (typeof value === "object") return "a map";
  return typeof value === "bigint" ? `the integer ${value}` : `a ${typeof value}`;
}

/** Throws that `path` is not what was expected. */
export function mismatch(path: string, expected: string, value: unknown): never {
  throw new ProtocolError(`Cannot read "${path}": expected ${expected}, got ${describe(value)}`);
}

function isMap(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof Uint8Array) &&
    !(value instanceof Set) && !isSerialized(value) && !isPickled(value);
}
