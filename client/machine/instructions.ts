/**
 * Everything the machine may ask its shell to do. The shell performs all instructions of one `handle`, in order, and
 * what an instruction comes to returns as an event.
 *
 * @module
 */
import type { LogLevel } from "../../base/log.ts";
import type { Address, Annotations, Key, SubmittedTask, TimerName } from "./events.ts";

/** What a future says about itself; dask's words. */
export type FutureStatus = "pending" | "finished" | "error" | "cancelled" | "lost";

/** The two pickle forms of a graph: both mean the same, a release of dask may understand only one. */
export type GraphForm = "reconstruct" | "newobj";

/** One `update-graph`. */
export interface UpdateGraph {
  readonly op: "update-graph";
  readonly tasks: readonly SubmittedTask[];
  readonly keys: readonly Key[];
  /** Of each task, in the order of `tasks`. */
  readonly priorities: readonly number[];
  readonly annotations: Annotations | null;
  readonly form: GraphForm;
  readonly stimulusId: string;
}

/** Messages for the scheduler; `wire.ts` writes them as dask spells them. */
export type ToScheduler =
  | UpdateGraph
  | { readonly op: "client-releases-keys"; readonly keys: readonly Key[] }
  /** `client` is given when the interest is not this client's own. */
  | { readonly op: "client-desires-keys"; readonly keys: readonly Key[]; readonly client?: string }
  | { readonly op: "report-key"; readonly key: Key }
  | { readonly op: "subscribe-topic"; readonly topic: string }
  | { readonly op: "unsubscribe-topic"; readonly topic: string };

/** News for the futures of one want. */
export type Notice =
  | {
    readonly type: "status";
    readonly key: Key;
    readonly want: number;
    readonly status: Exclude<FutureStatus, "error">;
    /** Why, for "cancelled" and "lost". */
    readonly reason: string | null;
  }
  | {
    readonly type: "failed";
    readonly key: Key;
    readonly want: number;
    readonly exception: unknown;
    readonly traceback: unknown;
    /** The scheduler understood neither form of the graph. */
    readonly formRefused: boolean;
  }
  /** The shell adds the value. */
  | { readonly type: "value"; readonly key: Key; readonly want: number };

/** Everything the machine may ask. */
export type Instruction =
  /** One batch, in order. */
  | { readonly type: "send"; readonly messages: readonly ToScheduler[] }
  | { readonly type: "notify"; readonly notices: readonly Notice[] }
  /** Bring these values, after `delayMs`. Each is answered by `fetched` or `fetch-missed`. */
  | {
    readonly type: "fetch";
    readonly wanted: readonly { readonly key: Key; readonly holder: Address | null }[];
    readonly delayMs: number;
  }
  /**
   * Ask the scheduler to run those of `keys` again that have failed. For those of `marked` that do not run again,
   * `retry-refused` is to be said.
   */
  | { readonly type: "retry"; readonly keys: readonly Key[]; readonly marked: readonly Key[] }
  | { readonly type: "set-timer"; readonly name: TimerName; readonly delayMs: number }
  | { readonly type: "clear-timer"; readonly name: TimerName }
  | { readonly type: "log"; readonly level: LogLevel; readonly message: string };
