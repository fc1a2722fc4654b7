/**
 * Everything that can happen to a client. Names are dask's ops for what the scheduler says, past tense for everything
 * else. The machine has no clock: what needs one comes as an event.
 *
 * A *want* is one life of a key at this client: from the submission (or the asking) for which the first future was
 * made until the last future of it is released. Wants are numbered from 1, so that late news of an earlier life is told apart.
 *
 * @module
 */
import type { Key } from "../../protocol/key.ts";
import type { PythonCall } from "../../protocol/python_call.ts";

export type { Key };
/** A worker's address, `tcp://host:port`. */
export type Address = string;

/** Where and how tasks are to run; all of one `update-graph` share them. Times are milliseconds. */
export interface Annotations {
  readonly workers?: readonly string[];
  readonly allowOtherWorkers?: boolean;
  readonly resources?: Readonly<Record<string, number>>;
  readonly retries?: number;
  readonly priority?: number;
  readonly timeout?: number;
  readonly permissions?: unknown;
}

/** A task on its way to the scheduler. */
export interface SubmittedTask {
  readonly key: Key;
  /** Full name of the function, `deno:op/add`. */
  readonly function: string;
  /** The encoded call. */
  readonly payload: Uint8Array;
  readonly dependencies: readonly Key[];
  /** Lower runs sooner, within its submission. */
  readonly order: number;
  /** `null`: no annotations. */
  readonly annotations: Annotations | null;
  /** Equal texts mean equal annotations, language and whether it is an actor; `""` means none, TypeScript, and a task. */
  readonly signature: string;
  /** A task of Python's: `function` and `payload` mean nothing then. */
  readonly python?: PythonCall;
  /** Its result is to stay where it was made. */
  readonly actor?: true;
}

/** A life of a key that begins. */
export interface Want {
  readonly key: Key;
  readonly want: number;
}

// --- What the user does ---

/** A graph is submitted. `tasks` come dependencies first; dependencies outside of it are on the cluster already. */
export interface Submitted {
  readonly type: "submitted";
  readonly tasks: readonly SubmittedTask[];
  readonly wants: readonly Want[];
}
/** A future of a key that somebody else made. */
export interface Desired extends Want {
  readonly type: "desired";
}
/** A value that lies on a worker already, put there for this client. */
export interface Scattered extends Want {
  readonly type: "scattered";
}
/** The last future of this want is gone. */
export interface Released extends Want {
  readonly type: "released";
}
/** The task is to stop, and all that depends on it. */
export interface Cancelled extends Want {
  readonly type: "cancelled";
  readonly reason: string | null;
}
/** The task is to run to its end, also without futures. */
export interface Detached extends Want {
  readonly type: "detached";
}
/** A failed task is to run again. */
export interface Retried extends Want {
  readonly type: "retried";
  /** The task that failed, when it is another one that this depends on. Default: `key` and what failed before it. */
  readonly target?: Key;
}
/** These tasks were not run again: the scheduler was not reached, or knows of no failure of theirs any more. */
export interface RetryRefused {
  readonly type: "retry-refused";
  readonly keys: readonly Key[];
}
/** Somebody waits for the value. */
export interface ValueWanted extends Want {
  readonly type: "value-wanted";
}
/** Nobody waits for the value any more. */
export interface ValueUnwanted extends Want {
  readonly type: "value-unwanted";
}
/** All keys are to be given up. */
export interface Reset {
  readonly type: "reset";
  /** Why, for those who wait. */
  readonly reason: string;
}

// --- What the scheduler says ---

export interface KeyInMemory {
  readonly type: "key-in-memory";
  readonly key: Key;
  /** A worker that has it, when the message tells. */
  readonly holder: Address | null;
}
export interface TaskErred {
  readonly type: "task-erred";
  readonly key: Key;
  /** As they came; read only when somebody asks. */
  readonly exception: unknown;
  readonly traceback: unknown;
}
export interface CancelledKeys {
  readonly type: "cancelled-keys";
  readonly keys: readonly Key[];
  readonly reason: string | null;
}
export interface LostData {
  readonly type: "lost-data";
  readonly key: Key;
}
export interface TaskRetried {
  readonly type: "task-retried";
  readonly key: Key;
}
/** The scheduler forgot everything. */
export interface Restart {
  readonly type: "restart";
}
/** What became of an `update-graph`, from the scheduler's event log. */
export interface GraphHandled {
  readonly type: "graph-handled";
  readonly stimulusId: string;
  readonly status: "OK" | "error" | "cancelled";
}

// --- What the shell reports ---

/** The stream stands; what is queued may go. */
export interface Connected {
  readonly type: "connected";
}
/** The stream broke. Another will come: see `ClientMachineOptions.reconnect`. */
export interface Disconnected {
  readonly type: "disconnected";
}
/** Another stream stands, with the same scheduler or a fresh one; what is still wanted is to be submitted again. */
export interface Reconnected {
  readonly type: "reconnected";
  /** The id under which this client is registered now. */
  readonly clientId: string;
  /** Of `ClientMachine.unsure`, those that the scheduler does not know. */
  readonly gone: readonly Key[];
}
/** Workers came or went. */
export interface WorkersChanged {
  readonly type: "workers-changed";
  readonly typescript: readonly Address[];
  /** All others. */
  readonly python: readonly Address[];
}
/** The value came; the shell has it. */
export interface Fetched {
  readonly type: "fetched";
  readonly key: Key;
}
/** Nobody had the value. */
export interface FetchMissed {
  readonly type: "fetch-missed";
  readonly key: Key;
}
/** A timer that the machine set has come. */
export interface TimerFired {
  readonly type: "timer";
  readonly name: TimerName;
}

/** Timers by name: when to say that nothing runs for want of workers, and when to send what was released. */
export type TimerName = "no-workers" | "releases";

/** Everything that can happen. */
export type ClientEvent =
  | Submitted
  | Desired
  | Scattered
  | Released
  | Cancelled
  | Detached
  | Retried
  | RetryRefused
  | ValueWanted
  | ValueUnwanted
  | Reset
  | KeyInMemory
  | TaskErred
  | CancelledKeys
  | LostData
  | TaskRetried
  | Restart
  | GraphHandled
  | Connected
  | Disconnected
  | Reconnected
  | WorkersChanged
  | Fetched
  | FetchMissed
  | TimerFired;
