/**
 * `actor_execute` and `actor_attribute`: calls of instances that live here, as dask's clients and ours ask for them.
 * Loaded with the first such request. Arguments and results pass by unread.
 *
 * @module
 */
import { serialized } from "../protocol/envelope.ts";
import type { Payload } from "../protocol/payload.ts";
import {
  type Fields,
  readArray,
  readKey,
  readNullable,
  readRecord,
  readSerialized,
  readString,
} from "../protocol/read.ts";
import { absent, asPickle, type InstanceCall } from "./execute/stateful.ts";
import type { RpcParts } from "./rpc.ts";
import { writeOutcome } from "./run_function.ts";

/**
 * Calls a method.
 *
 * @throws {ProtocolError} when the request makes no sense.
 */
export function actorExecute(fields: Fields, parts: RpcParts, files: Set<string>): Promise<unknown> {
  const method = readString(fields["function"], "actor_execute.function");
  const args = readArray(fields["args"] ?? [], "actor_execute.args", readPayload);
  const options = new Map<string, Payload>();
  const named = readNullable(fields["kwargs"], "actor_execute.kwargs", readRecord) ?? {};
  for (const [name, value] of Object.entries(named)) {
    // Where to run, for Python's workers.
    if (name !== "separate_thread") options.set(name, readPayload(value, `actor_execute.kwargs.${name}`));
  }
  return call("actor_execute", fields, { method, args, options }, parts, files);
}

/**
 * Reads a field.
 *
 * @throws {ProtocolError} when the request makes no sense.
 */
export function actorAttribute(fields: Fields, parts: RpcParts, files: Set<string>): Promise<unknown> {
  const attribute = readString(fields["attribute"], "actor_attribute.attribute");
  return call("actor_attribute", fields, { attribute }, parts, files);
}

async function call(
  op: string,
  fields: Fields,
  what: InstanceCall,
  { stateful }: RpcParts,
  files: Set<string>,
): Promise<unknown> {
  const key = readKey(fields["actor"], `${op}.actor`);
  const there = await stateful();
  const outcome = await there?.call(key, what) ?? absent(key);
  if (outcome.type !== "failed") return writeOutcome(outcome, files);
  // Of a task Python's clients read the exception themselves, of an actor they raise what came.
  return { status: "error", exception: serialized(asPickle(outcome.exception)) };
}

function readPayload(value: unknown, path: string): Payload {
  return readSerialized(value, path).payload;
}
