/**
 * The border between `get_data` as dask spells it and what the peer actor works with.
 *
 * @module
 */
import { type Serialized, serialized } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { type Key, keyToWire, type WireKey } from "../../protocol/key.ts";
import { isFileFrame, type Payload } from "../../protocol/payload.ts";
import {
  describe,
  readArray,
  readCount,
  readKeyMap,
  readKeys,
  readNullable,
  readRecord,
  readSerialized,
  readString,
} from "../../protocol/read.ts";
import type { Stored } from "../store/messages.ts";

/**
 * Named last among the serializers of a request it says: you are one of us and on this machine, so name the files in
 * which frames lie, and I take them from there. A Python worker, who serializes by the first that fits, never gets there.
 */
const FILES = "dask-ts-files";

/** A request as it is sent. The type is open because a pool takes any message with an `op`. */
export type GetData = {
  readonly op: "get_data";
  readonly keys: readonly WireKey[];
  readonly who: string;
  readonly serializers?: readonly string[];
};

/** Asks for values; `files`: large frames may come as names of files. */
export function writeGetData(keys: readonly Key[], who: string, files = false): GetData {
  const request = { op: "get_data", keys: keys.map(keyToWire), who } as const;
  return files ? { ...request, serializers: ["dask", "pickle", FILES] } : request;
}

/** What a peer replied. */
export type GetDataReply =
  | {
    readonly status: "OK";
    readonly data: ReadonlyMap<Key, Payload>;
    /** Those of `data` whose file frames are the sender's own files, named and not sent. */
    readonly named: ReadonlySet<Key>;
  }
  | { readonly status: "busy" };

/** A payload whose large frames are named, not sent. */
interface LinkedPayload {
  readonly header: Uint8Array;
  readonly linked: readonly (Uint8Array | readonly [file: string, byteLength: number])[];
}

/** @throws {ProtocolError} when the reply is neither values nor `busy`. */
export function readGetDataReply(reply: unknown): GetDataReply {
  const { status, data } = readRecord(reply, "get_data");
  if (status === "busy") return { status };
  if (status !== "OK") {
    throw new ProtocolError(
      `Cannot read "get_data.status": expected "OK" or "busy", got ${describe(status)}`,
    );
  }
  const isNamed = (value: unknown): value is object =>
    typeof value === "object" && value !== null && "linked" in value;
  const payloads = readKeyMap(
    data,
    "get_data.data",
    (value, path) => isNamed(value) ? readLinked(value, path) : readSerialized(value, path).payload,
  );
  const named = new Set(
    readKeyMap(data, "get_data.data", isNamed).entries().filter(([, is]) => is).map(([key]) => key),
  );
  return { status, data: payloads, named };
}

function readLinked(value: object, path: string): Payload {
  const { header, linked } = readRecord(value, path);
  if (!(header instanceof Uint8Array)) {
    throw new ProtocolError(`Cannot read "${path}.header": expected bytes`);
  }
  const frames = readArray(linked, `${path}.linked`, (frame, at) => {
    if (frame instanceof Uint8Array) return frame;
    const [file, byteLength] = readArray(frame, at, (item) => item);
    return { file: readString(file, at), byteLength: readCount(byteLength, at) };
  });
  return { header, frames };
}

/**
 * What ends a `get_data` on its connection: the bare word after values, and nothing after `busy` or after anything
 * else, where the other side would take it for the next request.
 */
export function acknowledgement(reply: unknown): "OK" | undefined {
  return typeof reply === "object" && reply !== null && "status" in reply && reply.status === "OK"
    ? "OK"
    : undefined;
}

/** What a peer asks of us. */
export interface GetDataRequest {
  readonly keys: readonly Key[];
  /** The address under which the asking worker is known; null for a client. */
  readonly who: string | null;
  /** Whether files may be named instead of sent. */
  readonly files: boolean;
}

/** @throws {ProtocolError} when the fields are not those of `get_data`. */
export function readGetData(fields: Readonly<Record<string, unknown>>, serializers: unknown): GetDataRequest {
  const keys = fields.keys instanceof Set ? [...fields.keys] : fields.keys;
  return {
    keys: readKeys(keys, "get_data.keys"),
    who: readNullable(fields.who ?? null, "get_data.who", readString),
    files: Array.isArray(serializers) && serializers.includes(FILES),
  };
}

/** The reply with the values that are here; those that are not are absent. `files`: name files instead of sending them. */
export function writeGetDataReply(
  found: readonly Stored[],
  files = false,
): { readonly status: "OK"; readonly data: ReadonlyMap<Key, Serialized | LinkedPayload> } {
  // What was spilled lies on another file system, from where no file can be taken over.
  const write = ({ payload, spilled }: Stored) =>
    files && !spilled && payload.frames.some(isFileFrame) ? link(payload) : serialized(payload);
  return { status: "OK", data: new Map(found.map((stored) => [stored.key, write(stored)])) };
}

function link({ header, frames }: Payload): LinkedPayload {
  return {
    header,
    linked: frames.map((frame) => isFileFrame(frame) ? [frame.file, frame.byteLength] : frame),
  };
}
