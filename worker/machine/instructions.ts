/**
 * Everything the machine may ask its shell to do. The shell performs every instruction, in order, and what an
 * instruction comes to returns as an event.
 *
 * @module
 */
import type { Payload } from "../../protocol/payload.ts";
import type { Address, Key, RunSpec, TimerName } from "./events.ts";

/** Messages for the scheduler; `wire.ts` writes them as dask spells them. */
export type ToScheduler =
  | {
    readonly op: "task-finished";
    readonly key: Key;
    readonly runId: number;
    readonly nbytes: number;
    readonly typename: string;
    readonly pythonType: Uint8Array;
    /** Milliseconds since the epoch, own clock; the shell adds the scheduler's clock difference. Absent when it did not run now. */
    readonly startstop?: { readonly start: number; readonly stop: number };
    readonly stimulusId: string;
  }
  | {
    readonly op: "task-erred";
    readonly key: Key;
    readonly runId: number;
    readonly exception: Payload;
    readonly traceback: Payload | null;
    readonly exceptionText: string;
    readonly tracebackText: string;
    readonly startstop?: { readonly start: number; readonly stop: number };
    readonly stimulusId: string;
  }
  | { readonly op: "add-keys"; readonly keys: readonly Key[]; readonly stimulusId: string }
  | { readonly op: "release-worker-data"; readonly key: Key; readonly stimulusId: string }
  | {
    readonly op: "long-running";
    readonly key: Key;
    readonly runId: number;
    /** Milliseconds. */
    readonly computeDuration: number;
    readonly stimulusId: string;
  }
  | { readonly op: "reschedule"; readonly key: Key; readonly stimulusId: string }
  /** `state` as dask names it, or null for "not here". */
  | {
    readonly op: "steal-response";
    readonly key: Key;
    readonly state: string | null;
    readonly stimulusId: string;
  }
  | { readonly op: "request-refresh-who-has"; readonly keys: readonly Key[]; readonly stimulusId: string };

/** Everything the machine may ask. */
export type Instruction =
  /**
   * Give the call to an executor. Up to `slots` of these run and up to `slots` more wait in executors; the task is
   * `ready` for everyone until `execute-started`. `dependencies` are in the store.
   */
  | {
    readonly type: "execute";
    readonly key: Key;
    readonly runId: number;
    readonly runSpec: RunSpec;
    readonly dependencies: readonly Key[];
    readonly annotations: Readonly<Record<string, unknown>>;
  }
  /** Take back a call that was given and has not been reported as started. Answered by `execute-withdrawn` or `execute-started`. */
  | { readonly type: "withdraw"; readonly key: Key; readonly runId: number }
  /** Stop a call that runs. It still ends with one `execute-…` event. */
  | { readonly type: "abort"; readonly key: Key; readonly runId: number; readonly reason: string }
  /** `get_data` of `keys` from `peer`. Answered by one `fetch-…` event. */
  | { readonly type: "fetch"; readonly peer: Address; readonly keys: readonly Key[] }
  /** Forget these values. */
  | { readonly type: "free"; readonly keys: readonly Key[] }
  /** Connections to this peer are of no use any more. */
  | { readonly type: "forget-peer"; readonly peer: Address }
  | { readonly type: "send"; readonly message: ToScheduler }
  /** (Re)set a timer; it comes back as `timer`. */
  | { readonly type: "set-timer"; readonly name: TimerName; readonly at: number };
