/**
 * The border between `get_data` as dask spells it and what the peer actor works with.
 *
 * @module
 */
import { type Serialized, serialized } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { type Key, keyToWire, type WireKey } from "../../protocol/key.ts";
import { type Payload } from "../../protocol/payload.ts";
import {
  describe,
  readKeyMap,
  readKeys,
  readNullable,
  readRecord,
  readSerialized,
  readString,
} from "../../protocol/read.ts";
import type { Stored } from "../store/messages.ts";

/** A request as it is sent. The type is open because a pool takes any message with an `op`. */
export type GetData = { readonly op: "get_data"; readonly keys: readonly WireKey[]; readonly who: string };

/** Asks for values. */
export function writeGetData(keys: readonly Key[], who: string): GetData {
  return { op: "get_data", keys: keys.map(keyToWire), who };
}

/** What a peer replied. */
export type GetDataReply =
  | { readonly status: "OK"; readonly data: ReadonlyMap<Key, Payload> }
  | { readonly status: "busy" };

/** @throws {ProtocolError} when the reply is neither values nor `busy`. */
export function readGetDataReply(reply: unknown): GetDataReply {
  const { status, data } = readRecord(reply, "get_data");
  if (status === "busy") return { status };
  if (status !== "OK") {
    throw new ProtocolError(
      `Cannot read "get_data.status": expected "OK" or "busy", got ${describe(status)}`,
    );
  }
  const payloads = readKeyMap(data, "get_data.data", (value, path) => readSerialized(value, path).payload);
  return { status, data: payloads };
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
}

/** @throws {ProtocolError} when the fields are not those of `get_data`. */
export function readGetData(fields: Readonly<Record<string, unknown>>): GetDataRequest {
  const keys = fields.keys instanceof Set ? [...fields.keys] : fields.keys;
  return {
    keys: readKeys(keys, "get_data.keys"),
    who: readNullable(fields.who ?? null, "get_data.who", readString),
  };
}

/** The reply with the values that are here; those that are not are absent. */
export function writeGetDataReply(
  found: readonly Stored[],
): { readonly status: "OK"; readonly data: ReadonlyMap<Key, Serialized> } {
  return { status: "OK", data: new Map(found.map(({ key, payload }) => [key, serialized(payload)])) };
}
