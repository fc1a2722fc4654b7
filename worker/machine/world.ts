/**
 * What the machine knows. The law: tasks and peers are the truth; every other collection here is an index over them,
 * kept for speed, whose comment says "all and only" what it holds, and which `validate.ts` checks clause by clause.
 *
 * @module
 */
import { BugError } from "../../base/assert.ts";
import type { Address, Key, WorkerStatus } from "./events.ts";
import { Heap } from "./heap.ts";
import type { Instruction, ToScheduler } from "./instructions.ts";
import {
  type Needs,
  type Node,
  type Peer,
  STATE_NAMES,
  type StateName,
  Task,
  type ValueType,
} from "./task.ts";

/** What a machine is made with. */
export interface WorkerMachineOptions {
  /** Our own address, which is never among the holders of anything. */
  readonly address: Address;
  /** Calls that execute at a time; as many more wait in executors. */
  readonly slots: number;
  /** Amounts of named resources that tasks may hold while they run. */
  readonly resources?: Readonly<Record<string, number>>;
  /** Called after every event; `validate.ts` has one that checks every invariant. For tests: it scans everything. */
  readonly validate?: ((world: World) => void) | undefined;
  /** Default `"running"`. */
  readonly status?: WorkerStatus;
  /** Of the generator that chooses among equal holders. */
  readonly seed?: number;
  /** Peers that transfer to us at a time. Default 10. */
  readonly transferPeersMax?: number;
  /** Bytes asked for in one transfer, unless its first key is larger. Default 50 MB. */
  readonly transferBytesMax?: number;
  /** For how long a busy peer is left alone. Default 150. */
  readonly peerHoldMs?: number;
  /** How often the scheduler is asked for keys that nobody has. Default 1000. */
  readonly findMissingMs?: number;
  /** How many steps of the past are kept for `story`. Default 4096. */
  readonly storyEntriesMax?: number;
}

/** One step in the life of a key. */
export interface StoryEntry {
  readonly at: number;
  readonly key: Key;
  readonly from: string;
  readonly to: string;
  /** The stimulus id, or the type of an event without one. */
  readonly cause: string;
}

/** Tasks that want the same resources. */
export interface Demand {
  readonly needs: Needs;
  /** Living: all and only tasks in state `constrained`, not placed, with these needs. */
  readonly queue: Heap<Node>;
}

const TYPES_MAX = 256;
/** In one event, on average. */
export const TRANSITIONS_PER_TASK_MAX = 16;

/** The whole state of the machine; functions of the other files change it. */
export class World {
  readonly address: Address;
  readonly host: string;
  readonly slots: number;
  readonly totals: Map<string, number>;
  readonly transferPeersMax: number;
  readonly transferBytesMax: number;
  readonly peerHoldMs: number;
  readonly findMissingMs: number;
  status: WorkerStatus;

  /** All and only keys that are not forgotten. */
  readonly tasks = new Map<Key, Task>();
  /** All and only peers that hold something, send something or are held. */
  readonly peers = new Map<Address, Peer>();

  /** All and only tasks in state `missing`. */
  readonly missing = new Set<Task>();
  /** Living: all and only tasks in state `ready` that are not placed. */
  readonly ready = new Heap<Node>((node) => node.live);
  /** By needs: the queues of tasks in state `constrained` that are not placed. */
  readonly demands = new Map<string, Demand>();
  /** All and only tasks of which an executor has a call, begun or not. */
  readonly runs = new Set<Task>();
  /** How many of `runs` hold a slot or wait for one: placed or executing, not long-running. */
  occupied = 0;
  /** Totals less what `runs` hold. */
  readonly available: Map<string, number>;
  /** All and only resources of which `runs` hold more than there is: the total was lowered since they were placed. */
  readonly overdrawn = new Set<string>();
  /** All peers that can be asked for something now, and perhaps some with nothing to ask for. */
  readonly askable = new Set<Peer>();
  /** How many peers have a request. */
  requests = 0;
  /** How many tasks are in each state. */
  readonly counts: Record<StateName, number> = noCounts();
  /** Sum of `nbytes` of the tasks in memory. */
  nbytes = 0;
  /** Whether the timer `find-missing` is set. */
  searching = false;

  /** Value types seen, so that values of one type share one record. Not more than {@linkcode TYPES_MAX}. */
  readonly #types = new Map<string, ValueType>();

  /** Transitions that the event at hand may still take: a machine that never settles is a bug, not a hang. */
  transitionsLeft = 0;

  // Of the event at hand. All empty between events.
  at = 0;
  cause = "";
  stimulusId: string | null = null;
  /** Tasks of which a fact changed: their state may have to follow. */
  readonly touched: Task[] = [];
  /** Keys to be told in one `add-keys`. */
  announced: Key[] = [];
  /** Keys of one `free`. */
  freed: Key[] = [];
  out: Instruction[] = [];

  /** Steps so far; the newest are kept in `story`, a ring. */
  steps = 0;
  readonly story: StoryEntry[] = [];
  readonly #storyEntriesMax: number;
  #order = 0;
  #random: number;

  constructor(options: WorkerMachineOptions) {
    this.address = options.address;
    this.host = hostOf(options.address);
    this.slots = options.slots;
    this.totals = new Map(Object.entries(options.resources ?? {}));
    this.available = new Map(this.totals);
    this.status = options.status ?? "running";
    this.transferPeersMax = options.transferPeersMax ?? 10;
    this.transferBytesMax = options.transferBytesMax ?? 50_000_000;
    this.peerHoldMs = options.peerHoldMs ?? 150;
    this.findMissingMs = options.findMissingMs ?? 1000;
    this.#storyEntriesMax = options.storyEntriesMax ?? 4096;
    this.#random = options.seed ?? 0;
  }

  /** The record of this key, made if there is none. */
  task(key: Key): Task {
    let task = this.tasks.get(key);
    if (task === undefined) {
      task = new Task(key);
      this.tasks.set(key, task);
      this.counts.released++;
      this.transitionsLeft += TRANSITIONS_PER_TASK_MAX;
    }
    return task;
  }

  /** The record of this peer, made if there is none. */
  peer(address: Address): Peer {
    let peer = this.peers.get(address);
    if (peer === undefined) {
      const made: Peer = {
        address,
        local: hostOf(address) === this.host,
        holds: new Set(),
        needed: new Heap<Node>((node) =>
          node.live && node.task.whoHas !== null && node.task.whoHas.has(made)
        ),
        request: null,
        stale: false,
        held: false,
      };
      this.peers.set(address, made);
      peer = made;
    }
    return peer;
  }

  /** The queue of tasks with these needs, made if there is none. */
  demand(needs: Needs): Demand {
    const signature = JSON.stringify(needs);
    let demand = this.demands.get(signature);
    if (demand === undefined) {
      demand = { needs, queue: new Heap<Node>((node) => node.live) };
      this.demands.set(signature, demand);
    }
    return demand;
  }

  /** One record for equal types. */
  type(typename: string, pythonType: Uint8Array): ValueType {
    const known = this.#types.get(typename);
    if (known !== undefined && sameBytes(known.pythonType, pythonType)) return known;
    const type = { typename, pythonType };
    if (known === undefined && this.#types.size < TYPES_MAX) this.#types.set(typename, type);
    return type;
  }

  /** Has `settle` look at this task. */
  touch(task: Task): void {
    this.touched.push(task);
  }

  emit(instruction: Instruction): void {
    this.out.push(instruction);
  }

  say(message: ToScheduler): void {
    this.out.push({ type: "send", message });
  }

  /** The stimulus at hand; for what no stimulus of the scheduler caused, a new id. */
  stimulus(op: ToScheduler["op"]): string {
    return this.stimulusId ?? `${op}-${this.at / 1000}`;
  }

  /** Higher for what came later. */
  nextOrder(): number {
    return ++this.#order;
  }

  /** Uniform in [0, 1), the same for the same seed. */
  random(): number {
    this.#random = (this.#random + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#random ^ (this.#random >>> 15), 1 | this.#random);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  note(key: Key, from: string, to: string): void {
    this.story[this.steps++ % this.#storyEntriesMax] = { at: this.at, key, from, to, cause: this.cause };
  }

  /** What is remembered of this key, or of what this stimulus id caused, oldest first. */
  storyOf(name: string): StoryEntry[] {
    const oldest = this.steps <= this.#storyEntriesMax ? 0 : this.steps % this.#storyEntriesMax;
    return [...this.story.slice(oldest), ...this.story.slice(0, oldest)].filter((entry) =>
      entry.key === name || entry.cause === name
    );
  }

  /** An error about our own state that tells how the key came there. */
  bug(message: string, key: Key): BugError {
    const story = this.storyOf(key).map(({ at, from, to, cause }) => `  ${at} ${from} -> ${to} by ${cause}`);
    return new BugError(
      `${message} (key ${JSON.stringify(key)}). Its story:\n${story.join("\n") || "  nothing"}`,
    );
  }
}

function noCounts(): Record<StateName, number> {
  return Object.fromEntries(STATE_NAMES.map((name) => [name, 0])) as Record<StateName, number>;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function hostOf(address: Address): string {
  const start = address.indexOf("://");
  const end = address.lastIndexOf(":");
  return address.slice(start < 0 ? 0 : start + 3, end > start ? end : undefined);
}
