/**
 * Everything that can happen to a worker. Each event carries `at`, milliseconds since the epoch: the machine has no
 * clock of its own. Names are dask's ops for what the scheduler asks, past tense for what our own instructions came to.
 *
 * @module
 */
import type { Payload } from "../../protocol/payload.ts";

/** A canonical key, see `protocol/key.ts`. */
export type Key = string;
/** A worker's address, `tcp://host:port`. */
export type Address = string;

/** The pickled `run_spec` of a task as it arrived: opaque here, read only where user code runs. */
export interface RunSpec {
  readonly pickle: Uint8Array;
  readonly buffers: readonly Uint8Array[];
  /** An actor of dask's: what it makes stays in its executor, and what is stored is a handle. */
  readonly stateful?: true;
}

/** Worker states that the machine distinguishes; only `running` starts executions and transfers. */
export type WorkerStatus = "init" | "running" | "paused" | "closing_gracefully" | "closing" | "closed";

interface At {
  readonly at: number;
}
interface Stimulus extends At {
  readonly stimulusId: string;
}

// --- What the scheduler asks ---
export interface ComputeTask extends Stimulus {
  readonly type: "compute-task";
  readonly key: Key;
  readonly runId: number;
  readonly priority: readonly number[];
  /** All dependencies, each with its holders (maybe none). */
  readonly whoHas: ReadonlyMap<Key, readonly Address[]>;
  readonly nbytes: ReadonlyMap<Key, number>;
  readonly runSpec: RunSpec;
  readonly resources: Readonly<Record<string, number>>;
  readonly annotations: Readonly<Record<string, unknown>>;
}
export interface FreeKeys extends Stimulus {
  readonly type: "free-keys";
  readonly keys: readonly Key[];
}
export interface RemoveReplicas extends Stimulus {
  readonly type: "remove-replicas";
  readonly keys: readonly Key[];
}
export interface AcquireReplicas extends Stimulus {
  readonly type: "acquire-replicas";
  readonly whoHas: ReadonlyMap<Key, readonly Address[]>;
  readonly nbytes: ReadonlyMap<Key, number>;
}
export interface RefreshWhoHas extends Stimulus {
  readonly type: "refresh-who-has";
  readonly whoHas: ReadonlyMap<Key, readonly Address[]>;
}
export interface StealRequest extends Stimulus {
  readonly type: "steal-request";
  readonly key: Key;
}
export interface CancelCompute extends Stimulus {
  readonly type: "cancel-compute";
  readonly key: Key;
}
export interface RemoveWorker extends Stimulus {
  readonly type: "remove-worker";
  readonly worker: Address;
}
/** Our own status changed (the shell has told the scheduler, or echoed it). */
export interface StatusChanged extends At {
  readonly type: "status-changed";
  readonly status: WorkerStatus;
}
/** Our amounts of named resources changed (`set_resources`): of those named here, the others stay. */
export interface ResourcesChanged extends At {
  readonly type: "resources-changed";
  /** New totals, each finite and at least 0. */
  readonly resources: Readonly<Record<string, number>>;
}
/** Values were put into the store by rpc (`update_data`, `gather`). */
export interface DataAdded extends At {
  readonly type: "data-added";
  readonly nbytes: ReadonlyMap<Key, number>;
}

// --- What our own instructions came to ---
/**
 * The executor began the call. Follows `execute`, unless `execute-withdrawn` does, or `execute-failed` because the
 * inputs could not be read. At most once per run, and before all that follows from it.
 */
export interface ExecuteStarted extends At {
  readonly type: "execute-started";
  readonly key: Key;
  readonly runId: number;
}
/** The result is in the store. `start`/`stop`: milliseconds since the epoch. */
export interface ExecuteSucceeded extends At {
  readonly type: "execute-succeeded";
  readonly key: Key;
  readonly runId: number;
  readonly nbytes: number;
  readonly typename: string;
  /** Pickle of the Python type that reads the value, for `task-finished.type`. */
  readonly pythonType: Uint8Array;
  readonly start: number;
  readonly stop: number;
}
/** The function threw, its executor died, or the call could not be read. */
export interface ExecuteFailed extends At {
  readonly type: "execute-failed";
  readonly key: Key;
  readonly runId: number;
  readonly exception: Payload;
  readonly traceback: Payload | null;
  readonly exceptionText: string;
  readonly tracebackText: string;
  readonly start: number;
  readonly stop: number;
}
/** The task asked to run elsewhere. */
export interface ExecuteRescheduled extends At {
  readonly type: "execute-rescheduled";
  readonly key: Key;
  readonly runId: number;
}
/**
 * `withdraw` came in time: the call will not run. (Too late is told by `execute-started`, which then comes at once.)
 * Also said of a call that had begun and ended before it was to be withdrawn; then it means nothing.
 */
export interface ExecuteWithdrawn extends At {
  readonly type: "execute-withdrawn";
  readonly key: Key;
  readonly runId: number;
}
/** The running task gave up its slot. */
export interface Seceded extends At {
  readonly type: "seceded";
  readonly key: Key;
  readonly runId: number;
  /** Milliseconds it had run. */
  readonly computeDuration: number;
}
/** A transfer ended; what came is in the store. */
export interface FetchArrived extends At {
  readonly type: "fetch-arrived";
  readonly peer: Address;
  /** What was asked. */
  readonly keys: readonly Key[];
  /** What came. The rest of `keys` the peer did not have. */
  readonly nbytes: ReadonlyMap<Key, number>;
}
export interface FetchBusy extends At {
  readonly type: "fetch-busy";
  readonly peer: Address;
  readonly keys: readonly Key[];
}
/** The peer is to be treated as dead. */
export interface FetchUnreachable extends At {
  readonly type: "fetch-unreachable";
  readonly peer: Address;
  readonly keys: readonly Key[];
}
/** A timer that the machine set has come. */
export interface TimerFired extends At {
  readonly type: "timer";
  readonly name: TimerName;
}

/** Timers by name: a hold on a busy peer (150 ms), and the search for keys that nobody has (1 s). */
export type TimerName = `peer-hold ${Address}` | "find-missing";

/** Everything that can happen. */
export type WorkerEvent =
  | ComputeTask
  | FreeKeys
  | RemoveReplicas
  | AcquireReplicas
  | RefreshWhoHas
  | StealRequest
  | CancelCompute
  | RemoveWorker
  | StatusChanged
  | ResourcesChanged
  | DataAdded
  | ExecuteStarted
  | ExecuteSucceeded
  | ExecuteFailed
  | ExecuteRescheduled
  | ExecuteWithdrawn
  | Seceded
  | FetchArrived
  | FetchBusy
  | FetchUnreachable
  | TimerFired;
