/**
 * The records of the machine: one {@linkcode Task} per key, one {@linkcode Peer} per worker that holds something we
 * know of, one {@linkcode Run} per call that an executor has. A task's state carries what belongs to that state only;
 * the other fields are facts, true in every state.
 *
 * @module
 */
import type { Address, ExecuteFailed, Key, RunSpec } from "./events.ts";
import type { Heap, Urgency } from "./heap.ts";

/** A place in a queue; dies when its task leaves the state that put it there. */
export interface Node extends Urgency {
  readonly task: Task;
  live: boolean;
}

/** Amounts of named resources. */
export type Needs = readonly (readonly [name: string, amount: number])[];

/** What a client may read as the type of a value. */
export interface ValueType {
  readonly typename: string;
  readonly pythonType: Uint8Array;
}

/** A call that an executor has: from `execute` until `execute-withdrawn` or one of the ends. */
export interface Run {
  /** The run id in the instruction, hence in every event and instruction about this run. */
  readonly placedAs: number;
  /** The newest run id when the call began: the one that the scheduler hears of. */
  runId: number;
  /** `placed`: handed over, not begun; the task is `ready` or `constrained` for everybody else. */
  phase: "placed" | "executing" | "long-running";
  /** When it began, ms; 0 while placed. */
  since: number;
  /** What it holds until it ends. */
  readonly needs: Needs;
  /** `withdraw` was sent. */
  withdrawing: boolean;
  /** Stimulus ids of steal requests that wait for what `withdraw` comes to. */
  steals: string[];
  /** Release the task when `withdraw` comes in time. */
  giveUp: boolean;
}

/** Another worker. */
export interface Peer {
  readonly address: Address;
  /** On our own host. */
  readonly local: boolean;
  /** All and only tasks with this peer in `whoHas`. */
  readonly holds: Set<Task>;
  /** Living: all and only tasks in state `fetch` with this peer in `whoHas`. */
  readonly needed: Heap<Node>;
  /** Keys of the one open transfer from this peer. */
  request: readonly Key[] | null;
  /** The open transfer began before this peer was removed: how it ends says nothing of who has its address now. */
  stale: boolean;
  /** Was busy; is not asked until its timer fires. */
  held: boolean;
}

/** What a cancelled or resumed task is still busy with. */
export type Busy =
  | { readonly kind: "flight"; readonly peer: Peer }
  | { readonly kind: "run"; readonly run: Run };

/** Nothing here, nothing asked; remembered only because a task that is not waiting for it refers to it. */
export interface Released {
  readonly name: "released";
}
/** To be computed; a dependency is not in memory. */
export interface Waiting {
  readonly name: "waiting";
}
/** Wanted from a peer, in the queue of each holder. */
export interface Fetch {
  readonly name: "fetch";
  node: Node | null;
}
/** Wanted, and nobody is known to have it. */
export interface Missing {
  readonly name: "missing";
}
/** On its way from `peer`. */
export interface Flight {
  readonly name: "flight";
  readonly peer: Peer;
}
/** To be computed, dependencies at hand: in a queue (`node`), or placed in an executor (`run`), never both. */
export interface Ready {
  readonly name: "ready" | "constrained";
  node: Node | null;
  run: Run | null;
}
/** An executor runs it and it holds a slot. */
export interface Executing {
  readonly name: "executing";
  readonly run: Run;
}
/** An executor runs it and it gave up its slot. */
export interface LongRunning {
  readonly name: "long-running";
  readonly run: Run;
  /** Milliseconds it ran before that. */
  readonly computeDuration: number;
}
/** Its value is in the store. */
export interface Memory {
  readonly name: "memory";
  nbytes: number;
  readonly came: "computed" | "fetched" | "given";
  /** Unknown for values that were not computed here. */
  readonly type: ValueType | null;
  /** Until it is told. */
  startstop: { readonly start: number; readonly stop: number } | null;
}
/** Its run failed. */
export interface Erred {
  readonly name: "error";
  /** Until it is told. */
  failure: ExecuteFailed | null;
}
/** Nobody wants it, but a transfer, a placed call or a run has not ended yet. Those were told to stop. */
export interface Cancelled {
  readonly name: "cancelled";
  readonly busy: Busy;
}
/** As cancelled, and wanted again: `next` is what follows when `busy` ends without a value that can be used. */
export interface Resumed {
  readonly name: "resumed";
  readonly busy: Busy;
  readonly next: "fetch" | "waiting";
}
/** Between the end of a run that asked to go elsewhere and `released`; never seen from outside. */
export interface Rescheduled {
  readonly name: "rescheduled";
}
/** No longer known. */
export interface Forgotten {
  readonly name: "forgotten";
}

/** The state of a task, with what belongs to it. */
export type TaskState =
  | Released
  | Waiting
  | Fetch
  | Missing
  | Flight
  | Ready
  | Executing
  | LongRunning
  | Memory
  | Erred
  | Cancelled
  | Resumed
  | Rescheduled
  | Forgotten;
/** Dask's names of them. */
export type StateName = TaskState["name"];
/** The state of this name. */
export type StateOf<N extends StateName> = TaskState extends infer S
  ? S extends { readonly name: infer M } ? N extends M ? S : never : never
  : never;

/** All names, in the order of a task's usual life. */
export const STATE_NAMES = [
  "released",
  "waiting",
  "fetch",
  "missing",
  "flight",
  "ready",
  "constrained",
  "executing",
  "long-running",
  "memory",
  "error",
  "cancelled",
  "resumed",
  "rescheduled",
  "forgotten",
] as const satisfies readonly StateName[];

export const RELEASED: Released = { name: "released" };
export const WAITING: Waiting = { name: "waiting" };
export const MISSING: Missing = { name: "missing" };
export const RESCHEDULED: Rescheduled = { name: "rescheduled" };
export const FORGOTTEN: Forgotten = { name: "forgotten" };

const NO_TASKS: readonly Task[] = [];
const NO_NEEDS: Needs = [];
const NO_PRIORITY: readonly number[] = [Infinity];
const NO_SPEC: RunSpec = { pickle: new Uint8Array(0), buffers: [] };
const NO_ANNOTATIONS: Readonly<Record<string, unknown>> = {};

/** Everything known about one key. */
export class Task implements Urgency {
  readonly key: Key;
  state: TaskState = RELEASED;

  // What the scheduler asked.
  /** Of the newest compute-task; -1 before the first. */
  runId = -1;
  runSpec: RunSpec = NO_SPEC;
  annotations: Readonly<Record<string, unknown>> = NO_ANNOTATIONS;
  needs: Needs = NO_NEEDS;
  /** Of its compute-task; of the most urgent dependent for what is only fetched. */
  priority: readonly number[] = NO_PRIORITY;
  order = 0;
  /** The scheduler wants a copy here (acquire-replicas), whether or not a task needs it. */
  acquired = false;

  // Links. A task has dependencies from its compute-task on until it is computed or given up.
  dependencies: readonly Task[] = NO_TASKS;
  /** All and only tasks with this one among their dependencies; null for none. */
  dependents: Set<Task> | null = null;
  /** How many dependencies are not in memory. */
  absent = 0;
  /** How many dependents are in state `waiting`. */
  waiters = 0;

  /** All and only known holders, never ourselves; null for none. */
  whoHas: Set<Peer> | null = null;
  /** As told by the scheduler; in state `memory` as measured. */
  nbytes = 0;
  /** Size of a value that somebody gave us while a call or a transfer went on; it counts when that has ended. */
  givenBytes: number | null = null;
  /** Such a value is not wanted any more. It is freed at that end too, lest what comes then is freed instead. */
  unwanted = false;

  constructor(key: Key) {
    this.key = key;
  }

  /** Whether this key has to come here from somewhere. */
  get needed(): boolean {
    return this.waiters > 0 || this.acquired;
  }

  /** Forgets how it is computed; the other ends of its links are the caller's. */
  dropCall(): void {
    this.dependencies = NO_TASKS;
    this.absent = 0;
    this.runSpec = NO_SPEC;
    this.annotations = NO_ANNOTATIONS;
  }
}

/** A value of which nothing is known but its size. */
export function givenValue(nbytes: number): Memory {
  return { name: "memory", nbytes, came: "given", type: null, startstop: null };
}

/** Whether the task waits to be computed: for dependencies, resources, a slot, or in an executor. */
export function isQueued(task: Task): boolean {
  const { name } = task.state;
  return name === "waiting" || name === "ready" || name === "constrained";
}

/** The call that an executor has for this task, begun or not. */
export function runOf(task: Task): Run | null {
  const state = task.state;
  switch (state.name) {
    case "ready":
    case "constrained":
    case "executing":
    case "long-running":
      return state.run;
    case "cancelled":
    case "resumed":
      return state.busy.kind === "run" ? state.busy.run : null;
    default:
      return null;
  }
}

/** The peer from which this task is on its way. */
export function sourceOf(task: Task): Peer | null {
  const state = task.state;
  if (state.name === "flight") return state.peer;
  if ((state.name === "cancelled" || state.name === "resumed") && state.busy.kind === "flight") {
    return state.busy.peer;
  }
  return null;
}

/** The state as people read it: `cancelled(executing)`, `resumed(flight->waiting)`, `ready(placed)`. */
export function stateText(state: TaskState): string {
  switch (state.name) {
    case "ready":
    case "constrained":
      return state.run === null ? state.name : PLACED[state.name];
    case "cancelled":
      return `cancelled(${busyText(state.busy)})`;
    case "resumed":
      return `resumed(${busyText(state.busy)}->${state.next})`;
    default:
      return state.name;
  }
}

const PLACED = { ready: "ready(placed)", constrained: "constrained(placed)" } as const;

function busyText(busy: Busy): string {
  return busy.kind === "flight" ? "flight" : busy.run.phase;
}
