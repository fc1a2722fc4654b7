/**
 * What runs user code, as the worker's shell sees it.
 *
 * @module
 */
import type { Payload } from "../../protocol/payload.ts";
import type { RunSpec } from "../machine/events.ts";
import type { ItemBatch } from "./items.ts";

/** Where task code can run. */
export const ISOLATIONS = ["process", "thread", "inline"] as const;
/** One of them. */
export type IsolationName = typeof ISOLATIONS[number];

/** One input of a call: a value of the store, under a lease that the shell holds until the call ended. */
export interface Input {
  readonly key: string;
  /** The store's id of these bytes; executors keep recently used inputs by it. */
  readonly id: number;
  readonly payload: Payload;
}

/** One call. (key, runId) names it. */
export interface ExecutorCall {
  readonly key: string;
  readonly runId: number;
  readonly runSpec: RunSpec;
  readonly inputs: readonly Input[];
  readonly annotations: Readonly<Record<string, unknown>>;
  /** Which try of the task this is, from 1. Default 1. */
  readonly attempt?: number;
}

/** How a call ended. Times are milliseconds since the epoch. */
export type Outcome =
  /** File frames of `payload` lie in the folder that the pool was given and now belong to the caller. */
  | {
    readonly type: "succeeded";
    readonly payload: Payload;
    readonly typename: string;
    readonly pythonType: Uint8Array;
    readonly start: number;
    readonly stop: number;
  }
  | {
    readonly type: "failed";
    readonly exception: Payload;
    readonly traceback: Payload | null;
    readonly exceptionText: string;
    readonly tracebackText: string;
    readonly start: number;
    readonly stop: number;
  }
  | { readonly type: "rescheduled" };

/** What the pool tells while it works. Never called from inside `place`, `withdraw` or `abort`. */
export interface ExecutorListener {
  /** The call began. */
  started(key: string, runId: number, at: number): void;
  /** The call will not run: `withdraw` came in time. */
  withdrawn(key: string, runId: number): void;
  /** The call gave up its slot after `computeDuration` ms. */
  seceded(key: string, runId: number, computeDuration: number): void;
  /** The call has something to say under a topic of the scheduler: plain data. */
  event(key: string, runId: number, topic: string, message: unknown): void;
  /** What `ask` wanted of a call that runs. */
  items(key: string, runId: number, ask: number, batch: ItemBatch): void;
  /** The call ended. `started` was told before. */
  ended(key: string, runId: number, outcome: Outcome): void;
}

/** One executor of a pool. */
export interface PoolExecutor {
  readonly pid: number;
  /** Names the call that runs in it; null: none does. */
  readonly call: string | null;
  /** What it said last of its memory, bytes; null: executors of this pool do not tell. */
  readonly reportedBytes: number | null;
}

/**
 * A pool of executors, one a slot. At most one call runs and one waits in each; a waiting call moves to an idle slot
 * by itself, and is placed again when its executor dies before it started.
 */
export interface ExecutorPool extends AsyncDisposable {
  /** One line for the log: isolation, slots, permissions, where large frames lie. */
  readonly description: string;
  /** Ids of the processes that run now, if executors are processes. */
  processes(): readonly number[];
  /** Resolves when every slot has a warm executor; rejects with a `DaskError` that names what is missing. */
  ready(): Promise<void>;
  place(call: ExecutorCall): void;
  /** Followed by `withdrawn`, or by `started` when it was too late. Unknown calls: `withdrawn`. */
  withdraw(key: string, runId: number): void;
  /** Stops a call: by its signal first, by the end of its executor after `graceMs`. Followed by `ended`. */
  abort(key: string, runId: number, reason: string): void;
  /**
   * Asks for the items that a call yields, from number `from` on. Followed by `items`, at once or when there are some, or
   * by the end of the call. An unknown call, or one that has not started, is passed over.
   */
  items(key: string, runId: number, ask: number, from: number): void;
  /** Whether it has calls that have not ended. */
  readonly busy: boolean;
  /** The processes of all executors that are there, also of those that are being ended. */
  executors(): readonly PoolExecutor[];
  /** Ends an executor that takes too much memory; its calls fail, as a `MemoryError` that says `reason`. */
  terminate(pid: number, reason: string): void;
  /** These store ids are gone: executors drop them from what they keep. */
  forget(ids: readonly number[]): void;
  /** Ends all executors; no process is left when it resolves. Idempotent. */
  close(): Promise<void>;
}
