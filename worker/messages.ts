/**
 * What may be asked of the worker actor, the one that owns the task machine.
 *
 * @module
 */
import type { Stored } from "../actors/store/messages.ts";
import type { Outcome } from "./execute/executor.ts";
import type { Key, WorkerEvent } from "./machine/events.ts";

/** What the worker is busy with, for heartbeats and for people. */
export interface WorkerCounts {
  /** Tasks by state. */
  readonly states: Readonly<Record<string, number>>;
  /** Running calls, with the time since which they run, ms since the epoch. */
  readonly executing: ReadonlyMap<Key, number>;
}

/** Messages of the worker actor. */
export type WorkerCalls = {
  /** Things that happened, in order; their instructions are performed before the next message is handled. */
  readonly events: { readonly ask: readonly WorkerEvent[]; readonly answer: void };
  /** The inputs of a call are at hand, under a lease. */
  readonly inputs: {
    readonly ask: {
      readonly key: Key;
      readonly runId: number;
      readonly lease: number;
      readonly found: readonly Stored[];
    };
    readonly answer: void;
  };
  /** An executor is done with a call. */
  readonly ended: {
    readonly ask: { readonly key: Key; readonly runId: number; readonly outcome: Outcome };
    readonly answer: void;
  };
  /** A call has something to say under a topic of the scheduler. */
  readonly event: {
    readonly ask: { readonly topic: string; readonly message: unknown };
    readonly answer: void;
  };
  /** A call came back from the pool without having run. */
  readonly withdrawn: { readonly ask: { readonly key: Key; readonly runId: number }; readonly answer: void };
  readonly counts: { readonly ask: Record<never, never>; readonly answer: WorkerCounts };
  /** The keys in memory. */
  readonly keys: { readonly ask: Record<never, never>; readonly answer: readonly Key[] };
  /** All that the machine knows, for people. */
  readonly snapshot: {
    readonly ask: Record<never, never>;
    readonly answer: Readonly<Record<string, unknown>>;
  };
  /** What happened to these keys, oldest first. */
  readonly story: { readonly ask: { readonly keys: readonly Key[] }; readonly answer: readonly unknown[] };
};
