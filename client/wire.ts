/**
 * The border between the scheduler's spelling and ours: stream messages become events, what the machine says becomes
 * stream messages. The law: nothing else in this folder knows a field name of the stream.
 *
 * @module
 */
import { unreachable } from "../base/assert.ts";
import { type Serialized, serialized } from "../protocol/envelope.ts";
import { writeExprPayload, writeGraph } from "../protocol/graph_pickle.ts";
import { type Key, keyToWire } from "../protocol/key.ts";
import {
  type Fields,
  readArray,
  readKey,
  readKeys,
  readNullable,
  readNumber,
  readRecord,
  readString,
} from "../protocol/read.ts";
import { addressBehind } from "../protocol/whereabouts.ts";
import type { Address, Annotations, ClientEvent } from "./machine/events.ts";
import type { ToScheduler, UpdateGraph } from "./machine/instructions.ts";

/** What a message of the scheduler means. */
export type FromScheduler =
  | ClientEvent
  /** How often it wants to hear from us. */
  | { readonly type: "heartbeat-interval"; readonly ms: number }
  /** Somebody told a topic something. */
  | { readonly type: "topic"; readonly topic: string; readonly event: unknown }
  /** Something went wrong there; a line for the log. */
  | { readonly type: "scheduler-error"; readonly exception: unknown }
  /** The end: it will say nothing more. */
  | { readonly type: "stream-closed" }
  /** Nothing to do. `op` is worth a line in the log unless null. */
  | { readonly type: "ignore"; readonly op: string | null };

const NOTHING: FromScheduler = { type: "ignore", op: null };

/** What the reader of one stream remembers. */
export interface StreamMemory {
  readonly clientId: string;
  /** The last type that came with a result, and what was found in it: mostly the next is the same. */
  type?: Uint8Array;
  holder?: Address | null;
}

/**
 * Reads one message of the stream.
 *
 * @throws {ProtocolError} that names the field that makes no sense.
 */
export function readFromScheduler(message: unknown, memory: StreamMemory): FromScheduler {
  const fields = readRecord(message, "stream message");
  const op = readString(fields["op"], "op");
  switch (op) {
    case "key-in-memory":
      return {
        type: op,
        key: readKey(fields["key"], "key-in-memory.key"),
        holder: readHolder(fields, memory),
      };
    case "task-erred":
      return {
        type: op,
        key: readKey(fields["key"], "task-erred.key"),
        exception: fields["exception"],
        traceback: fields["traceback"],
      };
    case "cancelled-keys": {
      const reason = readNullable(fields["reason"], "cancelled-keys.reason", readString);
      const text = readNullable(fields["msg"], "cancelled-keys.msg", readString);
      return {
        type: op,
        keys: readKeys(fields["keys"], "cancelled-keys.keys"),
        reason: reason !== null && text !== null ? `${reason}: ${text}` : reason ?? text,
      };
    }
    case "lost-data":
      return { type: op, key: readKey(fields["key"], "lost-data.key") };
    case "task-retried":
      return { type: op, key: readKey(fields["key"], "task-retried.key") };
    case "restart":
      return { type: op };
    case "event":
      return readLogged(fields, memory.clientId);
    case "adjust-heartbeat-interval":
      return { type: "heartbeat-interval", ms: readNumber(fields["interval"], `${op}.interval`) * 1_000 };
    case "error":
      return { type: "scheduler-error", exception: fields["exception"] };
    case "stream-closed":
      return { type: op };
    case "stream-start":
      return NOTHING;
    default:
      return { type: "ignore", op };
  }
}

/** An entry of the scheduler's event log: under our own name it says what became of graphs. */
function readLogged(fields: Fields, clientId: string): FromScheduler {
  const topic = readString(fields["topic"], "event.topic");
  const [, entry] = readArray(fields["event"], "event.event", (item) => item);
  if (topic !== clientId) return { type: "topic", topic, event: entry };
  if (typeof entry !== "object" || entry === null) return NOTHING;
  const { action, stimulus_id: stimulusId, status } = entry as Fields;
  if (action !== "update-graph" || typeof stimulusId !== "string") return NOTHING;
  if (status !== "OK" && status !== "error" && status !== "cancelled") return NOTHING;
  return { type: "graph-handled", stimulusId, status };
}

/**
 * A worker that has the key. The scheduler tells it for values that were put on workers; for results our own workers
 * write their address behind the pickle of the result's type, where readers of pickles do not look.
 */
function readHolder(fields: Fields, memory: StreamMemory): Address | null {
  const workers = fields["workers"];
  if (Array.isArray(workers) && typeof workers[0] === "string") return workers[0];
  const type = fields["type"];
  if (!(type instanceof Uint8Array)) return null;
  if (memory.type === undefined || !sameBytes(memory.type, type)) {
    memory.type = type;
    memory.holder = addressBehind(type);
  }
  return memory.holder ?? null;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** A task that submits others. */
export interface SubmittingTask {
  readonly key: Key;
  /** How many tasks stand between it and a program: 0 when a program submitted it. */
  readonly depth: number;
}

/**
 * Dask gives all tasks that were submitted by tasks the same precedence, before all others of their priority. Among
 * them the deeper ones are to go first: each task that waits keeps a process, and so the fewest wait. This stands
 * between the numbers of two depths; those of one client are far below.
 */
const DEPTH_STEP = 1e9;

/** Writes one message for the stream. `submittingTask` gives the task that submits, if one does. */
export function writeToScheduler(
  message: ToScheduler,
  submittingTask: () => SubmittingTask | null = () => null,
): Readonly<Record<string, unknown>> {
  switch (message.op) {
    case "update-graph":
      return writeUpdateGraph(message, submittingTask());
    case "client-releases-keys":
      return { op: message.op, keys: message.keys.map(keyToWire) };
    case "client-desires-keys": {
      const { op, keys, client } = message;
      return { op, keys: keys.map(keyToWire), ...(client === undefined ? {} : { client }) };
    }
    case "report-key":
      return { op: message.op, key: keyToWire(message.key) };
    case "subscribe-topic":
    case "unsubscribe-topic":
      return { op: message.op, topic: message.topic };
    default:
      return unreachable(message);
  }
}

function writeUpdateGraph(
  message: UpdateGraph,
  submitting: SubmittingTask | null,
): Readonly<Record<string, unknown>> {
  const { tasks, priorities } = message;
  const depth = submitting === null ? 0 : submitting.depth + 1;
  const priority = new Map<string, number>();
  for (let i = 0; i < tasks.length; i++) priority.set(tasks[i]!.key, priorities[i]! - depth * DEPTH_STEP);
  return {
    op: "update-graph",
    expr_ser: writeExpression(message),
    keys: message.keys.map(keyToWire),
    internal_priority: priority,
    submitting_task: submitting === null ? null : keyToWire(submitting.key),
    span_metadata: {},
    // All that are wanted: actors are not mixed with others.
    ...(tasks[0]?.actor === true ? { actors: true } : {}),
    ...(message.annotations === null && depth === 0
      ? {}
      : { annotations: writeAnnotations(message.annotations ?? {}, depth) }),
    stimulus_id: message.stimulusId,
  };
}

/** The stimulus id serves as token, too: no other graph of any client has it. */
function writeExpression({ tasks, stimulusId, form }: UpdateGraph): Serialized {
  return serialized(writeExprPayload(writeGraph(tasks, stimulusId, form)));
}

function writeAnnotations(annotations: Annotations, depth: number): Readonly<Record<string, unknown>> {
  const { workers, allowOtherWorkers, resources, retries, priority, timeout, permissions } = annotations;
  const own = {
    ...(timeout === undefined ? {} : { timeout }),
    ...(permissions === undefined ? {} : { permissions }),
    ...(depth === 0 ? {} : { depth }),
  };
  return {
    ...(workers === undefined ? {} : { workers }),
    ...(allowOtherWorkers === undefined ? {} : { allow_other_workers: allowOtherWorkers }),
    ...(resources === undefined ? {} : { resources }),
    ...(retries === undefined ? {} : { retries }),
    ...(priority === undefined ? {} : { priority }),
    ...(Object.keys(own).length === 0 ? {} : { deno: own }),
  };
}
