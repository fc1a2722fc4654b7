/**
 * Values as they travel between tasks, whatever language made them: the payload of a `Serialize`d value. The law: every
 * value has one form, readable by Python and by us; bytes and arrays at the top travel as raw frames, uncopied; reading
 * gives what `pickle/globals.ts` lists and executes nothing.
 *
 * @module
 */
import { concatBytes, NO_BYTES } from "./bytes.ts";
import { mergeFrames } from "./compression.ts";
import { ProtocolError, SerializationError } from "./errors.ts";
import { decodeMsgpack, encodeMsgpack } from "./msgpack/mod.ts";
import { bytesOf, NDArray, readArray, type TypedArray } from "./nd_array.ts";
import type { Payload } from "./payload.ts";
import { decodePickle } from "./pickle/decode.ts";
import { encodePickle, ownBytes, STOP, withWriter } from "./pickle/encode.ts";
import { dtypeText, globalName, plain, PythonObject } from "./pickle/globals.ts";
import { isNode, pyGlobal, pyObject } from "./pickle/value.ts";

export { NDArray, PythonObject };
export type { TypedArray };

/**
 * Frames larger than this are split into shards. Python splits from 64 MiB on and reads frames of any size; a frame that
 * is whole reaches an executor without being joined, so ours are split late, well below the 2 GiB of one TLS write.
 */
export const SHARD_BYTES = 1 << 30;

/** How deep collections, whose elements are values of their own, may nest. */
const COLLECTION_DEPTH_MAX = 64;

/** A value in wire form whose frames are all at hand. */
export interface ReadablePayload {
  readonly header: Uint8Array;
  readonly frames: readonly Uint8Array[];
}

/**
 * Serializes a value. Large typed arrays and bytes are passed on as they are, so they must not change before they are
 * sent. `root` is what error messages call the value.
 *
 * @throws {SerializationError} when a part of it has no form in Python; `path` names it, as `value.rows[3].when`.
 *
 * @example
 * ```ts
 * import { decodeValue, encodeValue } from "./value.ts";
 *
 * const payload = encodeValue({ rows: [1, 2, 3] });
 * console.assert(payload.frames.length === 1);
 * ```
 */
export function encodeValue(value: unknown, root = "value"): Payload {
  if (ArrayBuffer.isView(value)) {
    if (value instanceof Uint8Array) return encodeBytes(bytesOf(value));
    if (!(value instanceof DataView)) {
      return encodeArray(new NDArray(value as TypedArray, [(value as TypedArray).length]));
    }
  } else if (value instanceof NDArray) {
    return encodeArray(value);
  }
  const { pickle, buffers, writeable } = encodePickle(value, { outOfBand: true, root });
  return picklePayload(pickle, buffers, writeable);
}

/** The payload of a pickle and its buffers. */
export function picklePayload(
  pickle: Uint8Array,
  buffers: readonly Uint8Array[] = [],
  writeable: readonly boolean[] = [],
): Payload {
  if (buffers.length === 0 && pickle.byteLength <= SHARD_BYTES) {
    return { header: PLAIN_PICKLE_HEADER, frames: [pickle] };
  }
  return sharded({ serializer: "pickle", writeable }, [pickle, ...buffers]);
}

/** `{"serializer": "pickle", "writeable": [], "num-sub-frames": 1}`: the smallest header there is. */
const PLAIN_PICKLE_HEADER = encodeMsgpack({ serializer: "pickle", writeable: [], "num-sub-frames": 1 });

function encodeBytes(bytes: Uint8Array): Payload {
  return sharded({
    serializer: "dask",
    type: "builtins.bytes",
    "type-serialized": typePickle("builtins", "bytes"),
    "sub-header": {},
  }, [ownBytes(bytes)]);
}

function encodeArray(array: NDArray): Payload {
  return sharded({
    serializer: "dask",
    type: "numpy.ndarray",
    "type-serialized": typePickle("numpy", "ndarray"),
    "sub-header": {
      dtype: [0, array.dtype],
      shape: array.shape,
      strides: array.strides,
      writeable: [true],
    },
  }, [ownBytes(bytesOf(array.data))]);
}

/** Adds the counts to a header, and splits frames of more than `shardBytes`. */
export function sharded(
  header: Readonly<Record<string, unknown>>,
  frames: readonly Uint8Array[],
  shardBytes: number = SHARD_BYTES,
): Payload {
  if (frames.every((frame) => frame.byteLength <= shardBytes)) {
    return { header: encodeMsgpack({ ...header, "num-sub-frames": frames.length }), frames };
  }
  const shards: Uint8Array[] = [];
  const counts: number[] = [];
  const offsets: number[] = [];
  for (const frame of frames) {
    offsets.push(shards.length);
    for (let at = 0; at === 0 || at < frame.byteLength; at += shardBytes) {
      shards.push(frame.subarray(at, at + shardBytes));
    }
    counts.push(shards.length - offsets[offsets.length - 1]!);
  }
  return {
    header: encodeMsgpack({
      ...header,
      "split-num-sub-frames": counts,
      "split-offsets": offsets,
      compression: shards.map(() => null),
      "num-sub-frames": shards.length,
    }),
    frames: shards,
  };
}

/**
 * Reads a value. Bytes and arrays in the result share memory with the frames where they can.
 *
 * @throws {ProtocolError} when header, frames and pickle contradict themselves.
 * @throws {SerializationError} when the sender could not write the value, or wrote it in a form that we do not read.
 */
export function decodeValue(payload: ReadablePayload): unknown {
  const header = decodeMsgpack(payload.header);
  if (!isRecord(header)) throw unreadable("expected a map as its header");
  return decodeFamily(header, payload.frames, 0);
}

function decodeFamily(
  header: Readonly<Record<string, unknown>>,
  shards: readonly Uint8Array[],
  depth: number,
): unknown {
  const frames = mergeFrames(header, shards);
  if (header["is-collection"] === true) return decodeCollection(header, frames, depth);
  switch (header.serializer) {
    case "pickle": {
      const [pickle, ...buffers] = frames;
      if (pickle === undefined) throw unreadable("expected a frame with its pickle, got none");
      return plain(decodePickle(pickle, buffers));
    }
    case "dask":
      return decodeDask(header, frames);
    case "msgpack":
      return decodeMsgpack(concatBytes(frames));
    case "error":
      throw new SerializationError(
        `Cannot read a value: its sender could not write it: ${
          new TextDecoder().decode(concatBytes(frames)).slice(0, 10_000)
        }`,
      );
    default:
      throw new SerializationError(
        `Cannot read a value: expected the serializer "pickle", "dask" or "msgpack", got ${
          JSON.stringify(header.serializer) ?? "none"
        }`,
      );
  }
}

function decodeDask(header: Readonly<Record<string, unknown>>, frames: readonly Uint8Array[]): unknown {
  const subHeader = header["sub-header"];
  const type = header["type-serialized"];
  const global = type instanceof Uint8Array ? decodePickle(type) : null;
  const name = globalName(global);
  if (!isRecord(subHeader)) throw unreadable('expected a map as its "sub-header"');
  switch (name) {
    case "builtins.bytes":
    case "builtins.bytearray":
    case "builtins.memoryview":
      return frames.length === 0 ? NO_BYTES : concatBytes(frames);
    case "numpy.matrix":
    case "numpy.matrixlib.defmatrix.matrix":
    case "numpy.ndarray":
      return decodeNumpy(subHeader, frames);
  }
  // A known family of an unknown type: its bytes are of no use without its library, its name is.
  const what = isNode(global, "global")
    ? global
    : pyGlobal("", String(header.type ?? "an unnamed type").slice(0, 200));
  return plain(pyObject(what, [...frames], null));
}

function decodeNumpy(subHeader: Readonly<Record<string, unknown>>, frames: readonly Uint8Array[]): unknown {
  const [first, ...others] = frames;
  if (first === undefined) throw unreadable("expected a frame with the elements of an array, got none");
  if (subHeader.pickle === true) return plain(decodePickle(first, others));
  const { dtype, shape, strides, broadcast_to: broadcast } = subHeader;
  const [isPickled, code] = Array.isArray(dtype) ? dtype : [];
  const text = isPickled === 0 || isPickled === false
    ? typeof code === "string" ? code : recordDtype(strides, code)
    : code instanceof Uint8Array
    ? dtypeText(decodePickle(code))
    : null;
  if (text === null) throw unreadable("its array has a dtype that numpy alone knows");
  const whole = Array.isArray(broadcast) && broadcast.length > 0 ? broadcast : shape;
  if (!isNumbers(whole) || !isNumbers(strides)) throw unreadable("expected a shape and strides of numbers");
  return readArray(others.length === 0 ? first : concatBytes(frames), {
    dtype: text,
    shape: whole,
    strides,
    order: "C",
  });
}

/** A record's dtype travels as a list of its fields: all we keep is how long a record is. */
function recordDtype(strides: unknown, fields: unknown): string | null {
  if (!Array.isArray(fields) || !isNumbers(strides) || strides.length === 0) return null;
  return `|V${Math.min(...strides)}`;
}

function decodeCollection(
  header: Readonly<Record<string, unknown>>,
  frames: readonly Uint8Array[],
  depth: number,
): unknown {
  const headers = header["sub-headers"];
  const lengths = header["frame-lengths"];
  const kind = header["type-serialized"];
  if (!Array.isArray(headers) || !Array.isArray(lengths) || headers.length !== lengths.length) {
    throw unreadable("expected as many sub-headers as frame-lengths in a collection");
  }
  if (depth >= COLLECTION_DEPTH_MAX) {
    throw unreadable(`its collections nest deeper than ${COLLECTION_DEPTH_MAX}`);
  }
  let at = 0;
  const items = headers.map((subHeader: unknown, i) => {
    const length: unknown = lengths[i];
    if (!isRecord(subHeader) || typeof length !== "number" || !(length >= 0) || at + length > frames.length) {
      throw unreadable("the parts of a collection do not fit its frames");
    }
    const part = frames.slice(at, at += length);
    // The shards were joined, and decompressed, for the collection as a whole.
    const { "split-num-sub-frames": _counts, "split-offsets": _offsets, compression: _names, ...own } =
      subHeader;
    return { key: subHeader.key, value: decodeFamily(own, part, depth + 1) };
  });
  switch (kind) {
    case "list":
    case "tuple":
      return items.map((item) => item.value);
    case "set":
    case "frozenset":
      return new Set(items.map((item) => item.value));
    case "dict": {
      if (!items.every((item) => typeof item.key === "string")) {
        return new Map(items.map((item) => [item.key, item.value]));
      }
      const out: Record<string, unknown> = {};
      for (const { key, value } of items) {
        Object.defineProperty(out, key as string, {
          value,
          writable: true,
          enumerable: true,
          configurable: true,
        });
      }
      return out;
    }
    default:
      throw unreadable(
        `expected a list, tuple, set or dict, got a collection of type ${JSON.stringify(kind) ?? "none"}`,
      );
  }
}

/** What Python calls the type of a value, and the pickle of that type. */
export interface TypeDescription {
  /** `"int"`, `"ndarray"`. */
  readonly typename: string;
  readonly pythonType: Uint8Array;
}

/** The Python type that a value has on the other side: what dashboards and clients are told about a result. */
export function typeOfValue(value: unknown): TypeDescription {
  return describe(pythonTypeOf(value));
}

function pythonTypeOf(value: unknown): string {
  switch (typeof value) {
    case "boolean":
      return "builtins bool";
    case "string":
      return "builtins str";
    case "bigint":
      return "builtins int";
    case "number":
      return Number.isSafeInteger(value) && !Object.is(value, -0) ? "builtins int" : "builtins float";
    case "object":
      if (value === null) break;
      if (value instanceof Uint8Array) return "builtins bytes";
      if (ArrayBuffer.isView(value) || value instanceof NDArray) return "numpy ndarray";
      if (Array.isArray(value)) return "builtins list";
      if (value instanceof Set) return "builtins set";
      if (value instanceof Date) return "datetime datetime";
      return "builtins dict";
  }
  return "builtins NoneType";
}

const types = new Map<string, TypeDescription>();

function describe(type: string): TypeDescription {
  let description = types.get(type);
  if (description === undefined) {
    const [module = "", name = ""] = type.split(" ");
    description = { typename: name, pythonType: typePickle(module, name) };
    types.set(type, description);
  }
  return description;
}

const typePickles = new Map<string, Uint8Array>();

/** The pickle of a type by its name. `NoneType` has no name in Python: it is `type(None)`. */
function typePickle(module: string, name: string): Uint8Array {
  const full = `${module}.${name}`;
  let pickle = typePickles.get(full);
  if (pickle === undefined) {
    pickle = withWriter((writer) => {
      if (name === "NoneType") {
        writer.global("builtins", "type");
        writer.op(0x4e);
        writer.op(0x85);
        writer.op(0x52);
      } else {
        writer.global(module, name);
      }
      writer.op(STOP);
      return writer.bytes();
    });
    typePickles.set(full, pickle);
  }
  return pickle;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof Uint8Array);
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => typeof item === "number");
}

function unreadable(problem: string): ProtocolError {
  return new ProtocolError(`Cannot read a value: ${problem}`);
}
