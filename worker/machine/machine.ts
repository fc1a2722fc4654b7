/**
 * The worker's task machine: a synchronous function of events. Rule 1: nothing in this folder waits, looks at a clock
 * or touches a value. Rule 2: a handler changes facts and moves the tasks that its event is about; what follows for
 * other tasks follows by `settle`. Rule 3: a call that was told to stop never answers a later compute-task:
 * who asks again gets a new run. Rule 4: every compute-task that is not taken back is answered by one `task-finished`,
 * `task-erred` or `reschedule`, with the run id that was the newest when the call began.
 *
 * Read `events.ts` (what can happen), `asked.ts` and `reported.ts` (what is done about it), `transitions.ts` (what
 * follows), `placement.ts` and `transfers.ts` (what is begun next), `validate.ts` (what must be true).
 *
 * @module
 */
import { ASKED } from "./asked.ts";
import type { Key, WorkerEvent } from "./events.ts";
import type { Instruction } from "./instructions.ts";
import { placeMore } from "./placement.ts";
import { REPORTED } from "./reported.ts";
import { runOf, STATE_NAMES, stateText } from "./task.ts";
import { fetchMore } from "./transfers.ts";
import { settle } from "./transitions.ts";
import { type StoryEntry, TRANSITIONS_PER_TASK_MAX, type WorkerMachineOptions, World } from "./world.ts";

export type { StoryEntry, WorkerMachineOptions } from "./world.ts";

type Handlers = { readonly [E in WorkerEvent as E["type"]]: (world: World, event: E) => void };

/** A type without a handler does not compile. */
const HANDLERS: Handlers = { ...ASKED, ...REPORTED };

const NOTHING: readonly Instruction[] = [];

/** One worker's view of its tasks. */
export class WorkerMachine {
  readonly #world: World;
  readonly #validate: WorkerMachineOptions["validate"];

  constructor(options: WorkerMachineOptions) {
    this.#world = new World(options);
    this.#validate = options.validate;
  }

  /**
   * Takes in what happened. The caller must perform every returned instruction, in order, before anything that
   * happens later reaches this method. Throws a `BugError` with the story of the key when the event is impossible
   * here or (with `validate`) when an invariant broke; the machine is then of no use any more.
   */
  handle(event: WorkerEvent): readonly Instruction[] {
    const instructions = react(this.#world, event);
    this.#validate?.(this.#world);
    return instructions;
  }

  /** Where this key stands, for people: `ready(placed)`, `resumed(flight->waiting)`; null for an unknown key. */
  state(key: Key): string | null {
    const task = this.#world.tasks.get(key);
    return task === undefined ? null : stateText(task.state);
  }

  /** What is remembered of this key, or of what this stimulus id caused, oldest first. */
  story(name: string): readonly StoryEntry[] {
    return this.#world.storyOf(name);
  }

  /** How many tasks are in each state that has any, by dask's names. */
  counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const name of STATE_NAMES) {
      const count = this.#world.counts[name];
      if (count > 0) counts[name] = count;
    }
    return counts;
  }

  /** The wanted calls that run now, each with its beginning in ms. */
  executing(): ReadonlyMap<Key, number> {
    const executing = new Map<Key, number>();
    for (const task of this.#world.runs) {
      const state = task.state;
      if (state.name === "executing" || state.name === "long-running") {
        executing.set(task.key, state.run.since);
      }
    }
    return executing;
  }

  /** Everything, as plain data for people to read. Costs a scan of everything. */
  snapshot(): Record<string, unknown> {
    const world = this.#world;
    const tasks: Record<string, unknown> = {};
    for (const [key, task] of world.tasks) {
      tasks[key] = {
        state: stateText(task.state),
        runId: task.runId,
        priority: task.priority,
        nbytes: task.nbytes,
        acquired: task.acquired,
        givenBytes: task.givenBytes,
        unwanted: task.unwanted,
        run: runOf(task),
        dependencies: task.dependencies.map((dependency) => dependency.key),
        dependents: [...task.dependents ?? []].map((dependent) => dependent.key),
        whoHas: [...task.whoHas ?? []].map((peer) => peer.address),
      };
    }
    const peers: Record<string, unknown> = {};
    for (const { address, held, request, stale, holds } of world.peers.values()) {
      peers[address] = { held, request, stale, holds: holds.size };
    }
    return {
      address: world.address,
      status: world.status,
      slots: world.slots,
      occupied: world.occupied,
      nbytes: world.nbytes,
      resources: Object.fromEntries(world.totals),
      searching: world.searching,
      available: Object.fromEntries(world.available),
      counts: this.counts(),
      tasks,
      peers,
    };
  }
}

/** All that an event does, without checking what it did. */
export function react(world: World, event: WorkerEvent): readonly Instruction[] {
  world.at = event.at;
  world.stimulusId = "stimulusId" in event ? event.stimulusId : null;
  world.cause = world.stimulusId ?? event.type;
  world.transitionsLeft = TRANSITIONS_PER_TASK_MAX * world.tasks.size;
  // The table's type ties each handler to its event; `event.type` picks the one of this event.
  (HANDLERS[event.type] as (world: World, event: WorkerEvent) => void)(world, event);
  settle(world);
  tellTogether(world);
  fetchMore(world);
  placeMore(world);
  settle(world);
  if (world.out.length === 0) return NOTHING;
  const instructions = world.out;
  world.out = [];
  return instructions;
}

/** One `free` and one `add-keys` for the whole event. */
function tellTogether(world: World): void {
  if (world.freed.length > 0) {
    world.emit({ type: "free", keys: world.freed });
    world.freed = [];
  }
  if (world.announced.length > 0) {
    world.say({ op: "add-keys", keys: world.announced, stimulusId: world.stimulus("add-keys") });
    world.announced = [];
  }
}
