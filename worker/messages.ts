/**
 * What may be asked of the worker actor, the one that owns the task machine.
 *
 * @module
 */
import type { Stored } from "../actors/store/messages.ts";
import type { Outcome } from "./execute/executor.ts";
import type { ItemBatch } from "./execute/items.ts";
import type { Key, WorkerEvent } from "./machine/events.ts";
import type { StoryEntry } from "./machine/world.ts";

/** A call that runs, for people. */
export interface RunningCall {
  readonly key: Key;
  /** Since when, ms since the epoch. */
  readonly since: number;
  /** Its `run_spec` as it came. */
  readonly pickle: Uint8Array;
}

/** What the worker is busy with, for heartbeats and for people. */
export interface WorkerCounts {
  /** Tasks by state. */
  readonly states: Readonly<Record<string, number>>;
  /** Running calls, with the time since which they run, ms since the epoch. */
  readonly executing: ReadonlyMap<Key, number>;
  /** Seconds that tasks ran since the last time it was asked to count anew, by prefix of key. */
  readonly ranSeconds: Readonly<Record<string, number>>;
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
  /**
   * What does a task that runs here yield, from item `from` on? Answered when there is something, with null when the task
   * ends before, or does not run here.
   */
  readonly items: {
    readonly ask: { readonly key: Key; readonly from: number };
    readonly answer: ItemBatch | null;
  };
  /** A call has items for one who asked. */
  readonly yielded: {
    readonly ask: {
      readonly key: Key;
      readonly runId: number;
      readonly ask: number;
      readonly batch: ItemBatch;
    };
    readonly answer: void;
  };
  /** A call came back from the pool without having run. */
  readonly withdrawn: { readonly ask: { readonly key: Key; readonly runId: number }; readonly answer: void };
  /** `anew`: `ranSeconds` begins at nothing again. */
  readonly counts: { readonly ask: { readonly anew?: boolean }; readonly answer: WorkerCounts };
  /** What runs now. */
  readonly running: { readonly ask: Record<never, never>; readonly answer: readonly RunningCall[] };
  /** The keys in memory. */
  readonly keys: { readonly ask: Record<never, never>; readonly answer: readonly Key[] };
  /** All that the machine knows, for people. */
  readonly snapshot: {
    readonly ask: Record<never, never>;
    readonly answer: Readonly<Record<string, unknown>>;
  };
  /** What happened to these keys, and by these stimuli, oldest first. */
  readonly story: {
    readonly ask: { readonly names: readonly string[] };
    readonly answer: readonly StoryEntry[];
  };
};
