/**
 * The border between the scheduler's spelling and ours: stream messages become events, what the machine says becomes
 * stream messages. Law: nothing else in this folder knows a field name of the stream. Times are seconds of the
 * scheduler's clock there, and milliseconds of our clock here.
 *
 * @module
 */
import { unreachable } from "../base/assert.ts";
import { serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { keyText, keyToWire } from "../protocol/key.ts";
import {
  type Fields,
  readArray,
  readCount,
  readInteger,
  readKey,
  readKeyMap,
  readKeys,
  readNullable,
  readNumber,
  readPickled,
  readRecord,
  readString,
} from "../protocol/read.ts";
import type { Payload } from "../protocol/payload.ts";
import { errorData, writeException } from "../protocol/exception.ts";
import { withAddress } from "../protocol/whereabouts.ts";
import type { Address, ExecuteFailed, Key, WorkerEvent, WorkerStatus } from "./machine/events.ts";
import type { ToScheduler } from "./machine/instructions.ts";

/** The shortest time that a task is said to have run, ms. */
const DURATION_MS_MIN = 0.001;

/** What a message of the scheduler means. */
export type FromScheduler =
  /** Something for the machine. */
  | { readonly type: "event"; readonly event: WorkerEvent }
  /** Take this status and say so. */
  | { readonly type: "status"; readonly status: WorkerStatus; readonly stimulusId: string }
  | { readonly type: "close"; readonly reason: string }
  /** A task that this worker cannot run: it is to be told so, the machine never sees it. */
  | { readonly type: "refuse"; readonly key: Key; readonly runId: number; readonly reason: string }
  /** Nothing to do. `op` is worth a line in the log unless null. */
  | { readonly type: "ignore"; readonly op: string | null };

const STATUSES: readonly WorkerStatus[] = ["running", "paused", "closing_gracefully"];

/**
 * Reads one message of the stream.
 *
 * @throws {ProtocolError} that names the field that makes no sense. The other messages are not touched by that.
 */
export function readFromScheduler(message: unknown, at: number): FromScheduler {
  const fields = readRecord(message, "stream message");
  const op = readString(fields["op"], "op");
  const event = (event: WorkerEvent): FromScheduler => ({ type: "event", event });
  const stimulusId = () => readString(fields["stimulus_id"], `${op}.stimulus_id`);
  const keys = () => readKeys(fields["keys"], `${op}.keys`);
  switch (op) {
    case "compute-task":
      return readComputeTask(fields, at);
    case "free-keys":
      return event({ type: "free-keys", keys: keys(), stimulusId: stimulusId(), at });
    case "remove-replicas":
      return event({ type: "remove-replicas", keys: keys(), stimulusId: stimulusId(), at });
    case "acquire-replicas":
      return event({
        type: "acquire-replicas",
        whoHas: readWhoHas(fields["who_has"], "acquire-replicas.who_has"),
        nbytes: readKeyMap(fields["nbytes"], "acquire-replicas.nbytes", readCount),
        stimulusId: stimulusId(),
        at,
      });
    case "refresh-who-has":
      return event({
        type: "refresh-who-has",
        whoHas: readWhoHas(fields["who_has"], "refresh-who-has.who_has"),
        stimulusId: stimulusId(),
        at,
      });
    case "steal-request":
      return event({
        type: "steal-request",
        key: readKey(fields["key"], "steal-request.key"),
        stimulusId: stimulusId(),
        at,
      });
    case "cancel-compute":
      return event({
        type: "cancel-compute",
        key: readKey(fields["key"], "cancel-compute.key"),
        stimulusId: stimulusId(),
        at,
      });
    case "remove-worker":
      return event({
        type: "remove-worker",
        worker: readString(fields["worker"], "remove-worker.worker"),
        stimulusId: stimulusId(),
        at,
      });
    case "worker-status-change": {
      const name = readString(fields["status"], "worker-status-change.status");
      const status = STATUSES.find((known) => known === name);
      if (status === undefined) return { type: "ignore", op: `worker-status-change to ${name}` };
      return { type: "status", status, stimulusId: stimulusId() };
    }
    case "close":
      return {
        type: "close",
        reason: readNullable(fields["reason"], "close.reason", readString) ?? "no reason given",
      };
    case "close-stream":
      return { type: "ignore", op: null };
    default:
      return { type: "ignore", op };
  }
}

/**
 * The key and run of a `compute-task` that could not be read, so that it can be refused instead of being lost; null
 * when not even these make sense, or when it is another message.
 */
export function readRefusable(message: unknown): { readonly key: Key; readonly runId: number } | null {
  try {
    const fields = readRecord(message, "stream message");
    if (fields["op"] !== "compute-task") return null;
    return {
      key: readKey(fields["key"], "compute-task.key"),
      runId: readInteger(fields["run_id"], "compute-task.run_id"),
    };
  } catch {
    return null;
  }
}

function readComputeTask(fields: Fields, at: number): FromScheduler {
  const key = readKey(fields["key"], "compute-task.key");
  const runId = readInteger(fields["run_id"], "compute-task.run_id");
  const { pickle, buffers } = readPickled(fields["run_spec"], "compute-task.run_spec");
  const resources = readNullable(
    fields["resource_restrictions"],
    "compute-task.resource_restrictions",
    (value, path) => readKeyMap(value, path, readNumber),
  );
  return {
    type: "event",
    event: {
      type: "compute-task",
      key,
      runId,
      priority: readArray(fields["priority"], "compute-task.priority", readNumber),
      whoHas: readWhoHas(fields["who_has"], "compute-task.who_has"),
      nbytes: readKeyMap(fields["nbytes"], "compute-task.nbytes", readCount),
      runSpec: fields["actor"] === true ? { pickle, buffers, stateful: true } : { pickle, buffers },
      resources: Object.fromEntries(resources ?? []),
      annotations: readNullable(fields["annotations"], "compute-task.annotations", readRecord) ?? {},
      stimulusId: readString(fields["stimulus_id"], "compute-task.stimulus_id"),
      at,
    },
  };
}

/** Reads a map from keys to the addresses that hold them. */
export function readWhoHas(value: unknown, path: string): ReadonlyMap<Key, readonly Address[]> {
  return readKeyMap(value, path, (holders, at) => readArray(holders, at, readString));
}

/** Writes one message for the stream. `clockMs` is the scheduler's clock minus ours, `address` our own. */
export function writeToScheduler(
  message: ToScheduler,
  clockMs: number,
  address: string,
): Record<string, unknown> {
  const { op, stimulusId: stimulus_id } = message;
  switch (message.op) {
    case "task-finished":
      return {
        op,
        key: keyToWire(message.key),
        run_id: message.runId,
        status: "OK",
        nbytes: message.nbytes,
        type: withAddress(message.pythonType, address),
        typename: message.typename,
        metadata: {},
        thread: null,
        startstops: writeStartStops(message.startstop, clockMs),
        stimulus_id,
      };
    case "task-erred":
      return {
        op,
        key: keyToWire(message.key),
        run_id: message.runId,
        status: "error",
        exception: serialized(withOrigin(message.exception, address)),
        traceback: message.traceback === null ? null : serialized(message.traceback),
        exception_text: message.exceptionText,
        traceback_text: message.tracebackText,
        thread: null,
        startstops: writeStartStops(message.startstop, clockMs),
        stimulus_id,
      };
    case "add-keys":
    case "request-refresh-who-has":
      return { op, keys: message.keys.map(keyToWire), stimulus_id };
    case "release-worker-data":
    case "reschedule":
      return { op, key: keyToWire(message.key), stimulus_id };
    case "long-running":
      return {
        op,
        key: keyToWire(message.key),
        run_id: message.runId,
        compute_duration: message.computeDuration / 1000,
        stimulus_id,
      };
    case "steal-response":
      return { op, key: keyToWire(message.key), state: message.state, stimulus_id };
    default:
      return unreachable(message);
  }
}

/** The exception with our address behind its pickle. One that is not a pickle of its own, in one frame, stays as it is. */
function withOrigin(exception: Payload, address: string): Payload {
  const [pickle, ...more] = exception.frames;
  if (!(pickle instanceof Uint8Array) || more.length > 0) return exception;
  return { header: exception.header, frames: [withAddress(pickle, address)] };
}

function writeStartStops(startstop: { start: number; stop: number } | undefined, clockMs: number): unknown[] {
  if (startstop === undefined) return [];
  const { start } = startstop;
  // A duration of nothing at all upsets the scheduler's averages, on which stealing rests.
  const stop = Math.max(startstop.stop, start + DURATION_MS_MIN);
  const seconds = (at: number) => (at + clockMs) / 1000;
  return [{ action: "compute", start: seconds(start), stop: seconds(stop) }];
}

/** Writes what a task says under a topic of the scheduler. */
export function writeLogEvent(topic: string, message: unknown): Record<string, unknown> {
  return { op: "log-event", topic, msg: message };
}

/** Writes our status. */
export function writeStatus(status: WorkerStatus, stimulusId: string): Record<string, unknown> {
  return { op: "worker-status-change", status, stimulus_id: stimulusId };
}

/** Writes the refusal of a task that the machine never saw. */
export function writeRefusal(
  key: Key,
  runId: number,
  reason: string,
  stimulusId: string,
  address: string,
): Record<string, unknown> {
  const { exception, exceptionText, tracebackText } = failureOf(`Cannot run "${keyText(key)}": ${reason}`);
  return writeToScheduler(
    { op: "task-erred", key, runId, exception, traceback: null, exceptionText, tracebackText, stimulusId },
    0,
    address,
  );
}

/** A call failed in our own hands, before or after user code ran. */
export function failureEvent(key: Key, runId: number, message: string, at: number): ExecuteFailed {
  return {
    type: "execute-failed",
    key,
    runId,
    ...failureOf(message),
    traceback: null,
    start: at,
    stop: at,
    at,
  };
}

function failureOf(message: string): ReturnType<typeof writeException> {
  return writeException({ ...errorData(new DaskError(message)), stack: "" });
}
