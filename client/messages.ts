/**
 * What may be asked of the client actor, the one that owns the machine and the connection with the scheduler, and what
 * it tells its owner.
 *
 * @module
 */
import type { Payload } from "../protocol/payload.ts";
import type { Address, ClientEvent, Key, TimerName } from "./machine/events.ts";
import type { Notice } from "./machine/instructions.ts";

/** A worker as the scheduler knows it. */
export interface WorkerInfo {
  /** Where it listens. */
  readonly address: string;
  /** Unique among the workers of the scheduler. */
  readonly name: string;
  /** How many tasks it runs at once. */
  readonly slots: number;
  /** What its tasks are written in. */
  readonly language: "typescript" | "python";
}

/** Where a failure came from. */
export interface Diagnosis {
  /** The task that failed first, or the one asked about. */
  readonly origin: Key;
  /** Workers that left while they were to run it, in order. */
  readonly left: readonly string[];
  /** The scheduler was lost while it was asked: the origin may be another task. */
  readonly interrupted?: boolean;
}

/** A value that has come. */
export interface Arrived {
  readonly key: Key;
  readonly payload: Payload;
}

/** Some items of a task that runs. */
export interface ItemBatch {
  /** Who runs it. */
  readonly worker: Address;
  /** A list of them. */
  readonly payload: Payload;
  /** The task has told that no item comes after these. */
  readonly last: boolean;
}

/** Messages of the client actor. */
export type ClientCalls = {
  /** Things that happened, in order; their instructions are performed before the next message is handled. */
  readonly events: { readonly ask: readonly ClientEvent[]; readonly answer: void };
  /** Messages of the scheduler's stream, as they came. */
  readonly received: { readonly ask: readonly unknown[]; readonly answer: void };
  /** Values came, or nobody had them. */
  readonly fetched: {
    readonly ask: { readonly arrived: readonly Arrived[]; readonly missing: readonly Key[] };
    readonly answer: void;
  };
  readonly timer: {
    readonly ask: { readonly name: TimerName | "heartbeat" | "workers" };
    readonly answer: void;
  };
  /** These workers are there now. */
  readonly workers: { readonly ask: readonly WorkerInfo[]; readonly answer: void };
  /** Where did the failure of a key come from? `lost`: it was given up because workers left. */
  readonly diagnose: {
    readonly ask: { readonly key: Key; readonly lost: boolean };
    readonly answer: Diagnosis;
  };
  /** Answered when at least so many workers are there. */
  readonly "wait-for-workers": {
    readonly ask: { readonly count: number; readonly number: number };
    readonly answer: void;
  };
  /** That one does not wait any more. */
  readonly "stop-waiting": { readonly ask: { readonly number: number }; readonly answer: void };
  /**
   * What does a task yield while it runs, from item `from` on? Answered when there is something. `worker` is asked first.
   */
  readonly items: {
    readonly ask: {
      readonly number: number;
      readonly key: Key;
      readonly from: number;
      readonly worker: Address | null;
    };
    readonly answer: ItemBatch;
  };
  /** That one does not wait for items any more. */
  readonly "stop-items": { readonly ask: { readonly number: number }; readonly answer: void };
  /** Say this on the stream, after all that happened before. */
  readonly say: { readonly ask: Readonly<Record<string, unknown>>; readonly answer: void };
  /** The stream of this number ended. */
  readonly "stream-ended": {
    readonly ask: { readonly reason: string; readonly stream: number };
    readonly answer: void;
  };
  /** The stream of this number stands in the place of one that broke; the scheduler does not know the keys `gone`. */
  readonly reattached: {
    readonly ask: { readonly clientId: string; readonly gone: readonly Key[]; readonly stream: number };
    readonly answer: void;
  };
  /** Figures of the machine. */
  readonly counts: { readonly ask: Record<never, never>; readonly answer: Readonly<Record<string, number>> };
};

/** News for futures; a value comes with its payload. */
export type News =
  | Exclude<Notice, { readonly type: "value" }>
  | { readonly type: "value"; readonly key: Key; readonly want: number; readonly payload: Payload };
