/**
 * What a worker does about its memory: thresholds and measurements in, decisions out, by dask's rules. Pure.
 *
 * | threshold   | of the limit | when the worker exceeds it                                                        |
 * |-------------|--------------|-----------------------------------------------------------------------------------|
 * | `target`    | 0.6          | by values alone: values are spilled, least recently used first, down to it        |
 * | `spill`     | 0.7          | by all its processes: values are spilled until all its processes are below target |
 * | `pause`     | 0.8          | by all its processes: nothing new begins until they are below it again            |
 * | `terminate` | 0.95         | by all its processes: the executor that grew most is ended, never the worker      |
 *
 * @module
 */

/** Shares of the memory limit; `false` switches one off. */
export interface MemoryThresholds {
  /** Values in memory beyond this are spilled. Default 0.6. */
  readonly target?: number | false;
  /** Memory of the worker's processes beyond this makes it spill down to `target`. Default 0.7. */
  readonly spill?: number | false;
  /** Memory of the worker's processes beyond this pauses it. Default 0.8. */
  readonly pause?: number | false;
  /** Memory of the worker's processes beyond this ends the executor that grew most. Default 0.95. */
  readonly terminate?: number | false;
}

/** Thresholds in bytes; null: switched off. */
export interface MemoryLimits {
  readonly limitBytes: number;
  readonly targetBytes: number | null;
  readonly spillBytes: number | null;
  /** Where spilling stops that `spillBytes` began. */
  readonly spillUntilBytes: number;
  readonly pauseBytes: number | null;
  readonly terminateBytes: number | null;
}

/** Dask's own. */
export const MEMORY_THRESHOLDS = { target: 0.6, spill: 0.7, pause: 0.8, terminate: 0.95 } as const;

/**
 * Thresholds in bytes of a limit.
 *
 * @throws {RangeError} for one that is neither `false` nor above 0 and at most 1.
 */
export function memoryLimits(limitBytes: number, thresholds: MemoryThresholds = {}): MemoryLimits {
  const bytes = (name: keyof MemoryThresholds): number | null => {
    const share = thresholds[name] ?? MEMORY_THRESHOLDS[name];
    if (share === false) return null;
    if (share > 0 && share <= 1) return Math.floor(limitBytes * share);
    throw new RangeError(
      `Cannot set the memory threshold "${name}" to ${share}: expected a share of the limit as 0.7, or false`,
    );
  };
  const targetBytes = bytes("target");
  const spillBytes = bytes("spill");
  return {
    limitBytes,
    targetBytes,
    spillBytes,
    spillUntilBytes: Math.min(targetBytes ?? Infinity, spillBytes ?? Infinity),
    pauseBytes: bytes("pause"),
    terminateBytes: bytes("terminate"),
  };
}

/** An executor as it was measured. */
export interface ExecutorMemory {
  /** Its process id. */
  readonly pid: number;
  readonly bytes: number;
  /** Names the call that runs in it; null: none does. */
  readonly call: string | null;
}

/** One measurement. */
export interface MemorySample {
  /** Of the worker's own process. */
  readonly workerBytes: number;
  /** Of the store: values in memory, RAM-backed files included. */
  readonly valueBytes: number;
  /** Of these, in RAM-backed files, which no process shows. */
  readonly fileBytes: number;
  readonly executors: readonly ExecutorMemory[];
  /** As the scheduler sees the worker. */
  readonly status: string;
}

/** What is remembered of an executor between measurements. */
interface Known {
  readonly bytes: number;
  readonly call: string | null;
  /** What it had when its call began; without one, when it was first seen. */
  readonly before: number;
  /** What it had when it was first seen. */
  readonly fresh: number;
}

/** What is remembered between measurements. */
export interface MemoryState {
  /** Whether the worker is spilling because of its processes. */
  readonly spilling: boolean;
  /** The executor that is being ended. */
  readonly ending: number | null;
  readonly executors: ReadonlyMap<number, Known>;
}

/** Nothing was measured yet. */
export const FIRST_MEMORY_STATE: MemoryState = { spilling: false, ending: null, executors: new Map() };

/** What follows from a measurement. */
export interface MemoryDecision {
  readonly state: MemoryState;
  /** Memory of all processes of the worker. */
  readonly processBytes: number;
  /** Bytes of values that may stay in memory; null: as many as `target` allows. */
  readonly keepBytes: number | null;
  /** The status to take, if another. */
  readonly status: "paused" | "running" | null;
  /** The executor to end. `blameless`: one should be, and none has grown enough to have caused it. */
  readonly terminate: { readonly pid: number; readonly bytes: number } | "blameless" | null;
}

/** An executor that was first seen with more than this had begun to work before, bytes. */
const FRESH_EXECUTOR_BYTES_MAX = 100e6;
/** Who has grown by less than this share of the limit is not to blame. */
const BLAME_SHARE_MIN = 0.1;

/** Decides what to do. */
export function decideMemory(limits: MemoryLimits, state: MemoryState, sample: MemorySample): MemoryDecision {
  const { workerBytes, valueBytes, fileBytes, executors } = sample;
  const processBytes = executors.reduce((sum, { bytes }) => sum + bytes, workerBytes + fileBytes);
  const known = new Map(executors.map((executor) => [executor.pid, remember(executor, state.executors)]));

  // Once begun, spilling goes on down to the target, else it would begin and end at every value.
  const spilling = limits.spillBytes !== null &&
    processBytes > (state.spilling ? limits.spillUntilBytes : limits.spillBytes);
  const keepBytes = spilling ? Math.max(0, valueBytes - (processBytes - limits.spillUntilBytes)) : null;

  const full = limits.pauseBytes !== null && processBytes > limits.pauseBytes;
  const status = limits.pauseBytes === null
    ? null
    : full && sample.status === "running"
    ? "paused"
    : !full && sample.status === "paused"
    ? "running"
    : null;

  let ending = state.ending !== null && known.has(state.ending) ? state.ending : null;
  let terminate: MemoryDecision["terminate"] = null;
  if (limits.terminateBytes !== null && processBytes > limits.terminateBytes && ending === null) {
    let most = limits.limitBytes * BLAME_SHARE_MIN;
    terminate = "blameless";
    for (const [pid, { bytes, before }] of known) {
      if (bytes - before <= most) continue;
      most = bytes - before;
      terminate = { pid, bytes };
      ending = pid;
    }
  }
  return { state: { spilling, ending, executors: known }, processBytes, keepBytes, status, terminate };
}

function remember({ pid, bytes, call }: ExecutorMemory, earlier: MemoryState["executors"]): Known {
  const known = earlier.get(pid);
  if (known === undefined) {
    const fresh = Math.min(bytes, FRESH_EXECUTOR_BYTES_MAX);
    return { bytes, call, before: fresh, fresh };
  }
  const { fresh } = known;
  if (call === null) return { bytes, call, before: fresh, fresh };
  // A call that is new has begun after the last measurement.
  return { bytes, call, before: call === known.call ? known.before : known.bytes, fresh };
}
