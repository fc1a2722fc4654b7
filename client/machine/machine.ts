/**
 * The client's machine: which keys this client wants, what is known of each, and what is still to be sent.
 *
 * Rule 1: every change of a key's status happens here. Rule 2: nothing here waits, looks at a clock or touches values.
 * Rule 3: messages leave in the order in which their causes came; in one `handle` they leave as one batch. So a future
 * may be released right after it was used in a submission: the release stands behind the graph.
 *
 * Read `events.ts` (what can happen), `instructions.ts` (what may follow), then `HANDLERS` below.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import { keyText } from "../../protocol/key.ts";
import type {
  Address,
  Annotations,
  Cancelled,
  CancelledKeys,
  ClientEvent,
  Desired,
  Detached,
  FetchMissed,
  GraphHandled,
  Key,
  KeyInMemory,
  LostData,
  Reconnected,
  Released,
  Retried,
  RetryRefused,
  Scattered,
  SubmittedTask,
  TaskErred,
  TaskRetried,
  ValueUnwanted,
  ValueWanted,
  Want,
  WorkersChanged,
} from "./events.ts";
import { cutGraph, groupByAnnotations } from "./graph_groups.ts";
import type { FutureStatus, GraphForm, Instruction, Notice, ToScheduler } from "./instructions.ts";

/** Waiting that long for a first worker is worth a line in the log. */
export const NO_WORKERS_MS = 5_000;
/**
 * Releases are gathered for so long. Each makes the scheduler write to workers, and for some milliseconds after that
 * what it has to tell them waits: also the next task of a program that submits, waits and releases in turn.
 */
export const RELEASES_MS = 50;
/** Pause before a value that nobody had is looked for again: doubles from the first to the second. */
export const MISS_MS = 50;
const MISS_MS_MAX = 1_000;
/** Tells it once when a value has been looked for that many times. */
const MISSES_LOGGED = 8;
/** The name under which the scheduler keeps tasks that run without anybody's future. */
const FIRE_AND_FORGET = "fire-and-forget";

/** From which status a future may come into which. `cancelled` and `lost` end a want. */
const STATUSES: { readonly [From in FutureStatus]: readonly FutureStatus[] } = {
  pending: ["finished", "error", "cancelled", "lost"],
  finished: ["pending", "error", "cancelled", "lost"],
  error: ["pending", "finished", "cancelled", "lost"],
  cancelled: [],
  lost: [],
};

/** What is known of one task. It is kept while somebody here wants it, or while one that depends on it is kept. */
interface Task {
  readonly key: Key;
  /** Under which annotations it was submitted; null when it was not submitted here. */
  signature: string | null;
  dependencies: readonly Task[];
  /** With what it can be submitted again; null when that is not to be, or another made it. */
  submitted: SubmittedTask | null;
  /** Kept tasks that have this one among their dependencies. */
  dependents: number;
  /** The want that lives, or 0. */
  want: number;
  status: FutureStatus;
  holder: Address | null;
  valueWanted: boolean;
  fetching: boolean;
  /** Times in a row that nobody had the value. */
  misses: number;
  /** It was sent back to run again, and the scheduler has not yet said so. */
  retrying: boolean;
  /** It was in memory once, or put there by hand. */
  wasFinished: boolean;
}

/** Tasks of one `update-graph`, where the graph can be cut. */
const GRAPH_TASKS_MAX = 1_000;

/** A graph that waits to be sent. */
interface QueuedGraph {
  readonly op: "graph";
  readonly signature: string;
  readonly annotations: Annotations | null;
  readonly tasks: SubmittedTask[];
  readonly priorities: number[];
  readonly keys: Key[];
  /** All and only keys of `tasks`. */
  readonly taskKeys: Set<Key>;
  /**
   * Not to be joined with others: it depends on keys that this client does not hold, so that should they be unknown
   * nothing else is to fall with them; or it is part of a submission in two languages.
   */
  readonly alone: boolean;
  /** Number of the next submission's first task. */
  base: number;
}

type Queued = QueuedGraph | Exclude<ToScheduler, { readonly op: "update-graph" }>;

/** How the form of graphs is found out: the first graph is sent in the usual one, and the scheduler's event log tells. */
interface Form {
  form: GraphForm;
  state: "untried" | "asked" | "known" | "refused";
  /** Of the graph whose fate decides. */
  stimulusId: string;
}

/** Options of {@linkcode ClientMachine}. */
export interface ClientMachineOptions {
  /** The id under which this client registers. */
  readonly clientId: string;
  /**
   * After `disconnected` comes `reconnected`, and what is wanted then is submitted again. So the encoded calls of all
   * tasks behind wanted keys are kept. Default false.
   */
  readonly reconnect?: boolean;
  /** Checks all invariants after each event. For tests. */
  readonly validate?: boolean;
}

/** See the module. */
export class ClientMachine {
  #clientId: string;
  readonly #reconnect: boolean;
  readonly #validating: boolean;
  /** In the order in which they came, so dependencies before dependents. */
  readonly #tasks = new Map<Key, Task>();
  /** Waits to be sent, in order. */
  #outbox: Queued[] = [];
  /** All and only keys that were released and are still to be told of. Later is safe, unless one is wanted again. */
  readonly #releases = new Set<Key>();
  /** All that was sent since the first graph, while it is not known whether its form was understood. */
  #journal: Queued[] = [];
  /** All and only tasks of graphs whose form was not understood, until it is known that the other one is. */
  readonly #misunderstood = new Set<Key>();
  #form: Form = { form: "reconstruct", state: "untried", stimulusId: "" };
  #graphs = 0;
  #connected = false;
  /** There was a stream, it broke, and there is no other yet. What is to be sent follows from the tasks then. */
  #broken = false;
  /** Place behind all tasks that can be submitted again. */
  #orders = 0;
  /** Wanted tasks that failed, are unknown to the scheduler that there is now, and can be computed from here alone. */
  readonly #absent = new Set<Task>();
  /** All and only pending tasks that are to run to their end whatever happens, where the machine can see to that. */
  readonly #mustRun = new Set<Task>();
  /** Of these, those of which no future is left: wanted by the machine itself. */
  readonly #orphans = new Set<Task>();
  /** Workers of both languages were there before the stream broke. */
  #mixed = false;
  #typescript: readonly Address[] = [];
  #python: readonly Address[] = [];
  /** Length of the outbox after the last sending: what was kept in it waits for workers. */
  #kept = 0;
  /** Languages for whose workers a graph waits here. */
  #awaited: ReadonlySet<Language> = NO_LANGUAGES;
  #warned: "no" | "waiting" | "said" = "no";
  /** Held keys whose status is pending. */
  #pending = 0;
  /** What this `handle` has come to so far. */
  #notices: Notice[] = [];
  #fetches = new Map<number, { readonly key: Key; readonly holder: Address | null }[]>();
  #rest: Instruction[] = [];

  constructor(options: ClientMachineOptions) {
    this.#clientId = options.clientId;
    this.#reconnect = options.reconnect ?? false;
    this.#validating = options.validate ?? false;
  }

  /** Takes what happened, in order. The caller must perform every returned instruction, in order. */
  handle(events: readonly ClientEvent[]): readonly Instruction[] {
    for (const event of events) {
      this.#handleOne(event);
      if (this.#validating) this.validate();
    }
    return this.#take();
  }

  /** The tasks behind a key, itself included, each with its dependencies, as far as they were submitted here. */
  lineage(key: Key): ReadonlyMap<Key, readonly Key[]> {
    const found = new Map<Key, readonly Key[]>();
    const start = this.#tasks.get(key);
    const stack = start === undefined ? [] : [start];
    for (let task = stack.pop(); task !== undefined; task = stack.pop()) {
      if (found.has(task.key)) continue;
      found.set(task.key, task.dependencies.map((dependency) => dependency.key));
      stack.push(...task.dependencies);
    }
    return found;
  }

  /**
   * Kept keys that cannot be computed from what was submitted here alone: values that were put on workers, tasks of
   * others, and what depends on these. Whether the scheduler knows them is to be said with `reconnected`.
   */
  unsure(): readonly Key[] {
    const sure = this.#sure();
    return [...this.#tasks.values()].filter((task) => !sure.has(task)).map(({ key }) => key);
  }

  /** How many keys are held whose tasks have not come to an end. */
  get pending(): number {
    return this.#pending;
  }

  /** How many TypeScript workers there are. */
  get typescript(): number {
    return this.#typescript.length;
  }

  /** Figures for tests and logs. */
  counts(): Readonly<Record<"kept" | "held" | "pending" | "queued", number>> {
    let held = 0;
    for (const task of this.#tasks.values()) if (task.want !== 0) held++;
    return {
      kept: this.#tasks.size,
      held,
      pending: this.#pending,
      queued: this.#outbox.length + this.#releases.size,
    };
  }

  /** Throws when an invariant does not hold. */
  validate(): void {
    let pending = 0;
    const dependents = new Map<Task, number>();
    for (const task of this.#tasks.values()) {
      assert(this.#tasks.get(task.key) === task, `Task "${task.key}" is kept under its key`);
      assert(task.want !== 0 || task.dependents > 0, `Task "${task.key}" is kept for somebody`);
      assert(task.want !== 0 || !task.valueWanted, `Only a held key ("${task.key}") is waited for`);
      assert(
        task.want === 0 || (task.status !== "cancelled" && task.status !== "lost"),
        `Task "${task.key}" is not held after its end`,
      );
      if (task.want !== 0 && task.status === "pending") pending++;
      for (const dependency of task.dependencies) {
        assert(this.#tasks.get(dependency.key) === dependency, `A dependency of "${task.key}" is kept`);
        dependents.set(dependency, (dependents.get(dependency) ?? 0) + 1);
      }
    }
    for (const task of this.#tasks.values()) {
      assert(task.dependents === (dependents.get(task) ?? 0), `Dependents of "${task.key}" are counted`);
    }
    assert(pending === this.#pending, "Pending keys are counted");
    for (const task of this.#absent) {
      assert(task.want !== 0 && task.status === "error", `Only what failed ("${task.key}") may be absent`);
    }
    for (const task of this.#mustRun) {
      assert(task.want !== 0 && task.status === "pending", `Only a pending task ("${task.key}") is detached`);
    }
    for (const task of this.#orphans) assert(this.#mustRun.has(task), `Orphan "${task.key}" is detached`);
    const seen = new Set<Task>();
    for (const task of this.#tasks.values()) {
      assert(task.dependencies.every((one) => seen.has(one)), `Dependencies of "${task.key}" come before it`);
      seen.add(task);
    }
    assert(
      this.#form.state === "asked" || this.#journal.length === 0,
      "A journal is kept only while in doubt",
    );
  }

  #handleOne(event: ClientEvent): void {
    switch (event.type) {
      case "submitted":
        return this.#submitted(event.tasks, event.wants);
      case "desired":
        return this.#desired(event);
      case "scattered":
        return this.#scattered(event);
      case "released":
        return this.#released(event);
      case "cancelled":
        return this.#cancelled(event);
      case "detached":
        return this.#detached(event);
      case "retried":
        return this.#retried(event);
      case "retry-refused":
        return this.#retryRefused(event);
      case "value-wanted":
        return this.#valueWanted(event);
      case "value-unwanted":
        return this.#valueUnwanted(event);
      case "reset":
        return this.#reset(event.reason);
      case "key-in-memory":
        return this.#keyInMemory(event);
      case "task-erred":
        return this.#taskErred(event);
      case "cancelled-keys":
        return this.#cancelledKeys(event);
      case "lost-data":
        return this.#lostData(event);
      case "task-retried":
        return this.#taskRetried(event);
      case "restart":
        return this.#restart();
      case "graph-handled":
        return this.#graphHandled(event);
      case "connected":
        this.#connected = true;
        return;
      case "disconnected":
        return this.#disconnected();
      case "reconnected":
        return this.#reconnected(event);
      case "workers-changed":
        return this.#workersChanged(event);
      case "fetched":
        return this.#fetched(event.key);
      case "fetch-missed":
        return this.#fetchMissed(event);
      case "timer":
        return event.name === "releases" ? this.#tellReleases() : this.#noWorkersYet();
    }
  }

  // --- What the user does ---

  #submitted(tasks: readonly SubmittedTask[], wants: readonly Want[]): void {
    const wanted = new Map<Key, number>();
    for (const { key, want } of wants) wanted.set(key, want);
    const first = this.#orders;
    for (const task of tasks) {
      const kept = this.#keep(task.key, task.dependencies, task.signature);
      if (this.#reconnect && kept.submitted === null) this.#keepSubmitted(kept, task, first);
      if (kept.signature !== null && kept.signature !== task.signature && task.signature !== "") {
        // The scheduler passes over annotations of a task that it knows.
        this.#log(
          `Task "${
            keyText(task.key)
          }" is on the cluster already, with other options; the new ones are not used`,
        );
      }
      const want = wanted.get(task.key);
      if (want !== undefined) this.#hold(kept, want);
    }
    this.#queueGraphs(tasks, wanted);
    // Those that nobody holds and nothing depends on would not be found again.
    for (const task of tasks) this.#forgetIfUnwanted(this.#tasks.get(task.key));
  }

  /** Queues tasks, dependencies first; of their keys those in `wanted` are. See `QueuedGraph.alone`. */
  #queueGraphs(tasks: readonly SubmittedTask[], wanted: { has(key: Key): boolean }, alone = false): void {
    if (this.#broken) return;
    const inside = new Set<Key>();
    for (const task of tasks) {
      inside.add(task.key);
      for (const dependency of task.dependencies) {
        if (inside.has(dependency)) continue;
        const kept = this.#tasks.get(dependency);
        if (kept === undefined || kept.want === 0) alone = true;
        else if (this.#absent.has(kept)) this.#resubmit([kept], null);
      }
      if (task.python !== undefined) alone = true; // its parts may have to wait, each for other workers
    }
    const bridges: Key[] = [];
    for (const group of groupByAnnotations(tasks)) {
      const queued = this.#graphFor(group.signature, group.annotations, alone);
      const base = queued.base;
      for (const task of group.tasks) {
        if (wanted.has(task.key)) queued.keys.push(task.key);
        if (queued.taskKeys.has(task.key)) continue;
        queued.taskKeys.add(task.key);
        queued.tasks.push(task);
        queued.priorities.push(base + task.order);
        if (base + task.order >= queued.base) queued.base = base + task.order + 1;
      }
      for (const bridge of group.bridges) {
        if (wanted.has(bridge)) continue;
        queued.keys.push(bridge);
        bridges.push(bridge);
      }
    }
    if (bridges.length > 0) this.#queueRelease(bridges);
  }

  #desired({ key, want }: Desired): void {
    this.#hold(this.#keep(key, [], null), want);
    this.#outbox.push({ op: "client-desires-keys", keys: [key] });
    // A key that the scheduler does not know it would pass over in silence.
    this.#outbox.push({ op: "report-key", key });
  }

  #scattered({ key, want }: Scattered): void {
    const task = this.#keep(key, [], null);
    this.#hold(task, want);
    task.wasFinished = true;
    this.#turn(task, "finished");
  }

  #released({ key, want }: Released): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want !== want) return;
    if (!this.#mustRun.has(task)) return this.#release(task);
    this.#orphans.add(task);
    task.valueWanted = false;
  }

  #release(task: Task): void {
    if (this.#broken) return this.#letGo(task);
    if (this.#releases.size === 0) {
      this.#rest.push({ type: "set-timer", name: "releases", delayMs: RELEASES_MS });
    }
    this.#releases.add(task.key);
    this.#letGo(task);
  }

  /**
   * A cancelled task is released together with all held ones that depend on it, so that the scheduler has no reason
   * left to run it. (Its own op for cancelling ends the stream when a dependent is wanted by nobody.)
   */
  #cancelled({ key, want, reason }: Cancelled): void {
    const cancelled = this.#tasks.get(key);
    if (cancelled === undefined || cancelled.want !== want) return;
    const affected = this.#withDependents(cancelled);
    for (const task of affected) {
      if (task.want === 0) continue;
      this.#queueRelease([task.key]);
      this.#end(
        task,
        "cancelled",
        task === cancelled ? reason : `it depends on "${keyText(key)}", which was cancelled`,
      );
    }
  }

  #detached({ key, want }: Detached): void {
    const task = this.#tasks.get(key);
    // Of a finished task nothing remains to be run; kept for nobody it would stay for ever.
    if (task === undefined || task.want !== want || task.status !== "pending") return;
    this.#outbox.push({ op: "client-desires-keys", keys: [key], client: FIRE_AND_FORGET });
    if (task.submitted !== null) this.#mustRun.add(task);
  }

  #retried({ key, want, target = key }: Retried): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want !== want || task.status !== "error" || task.retrying) return;
    const failed = this.#tasks.get(target) ?? task;
    if (this.#broken || this.#absent.has(task)) {
      // The scheduler that is there knows of no failure. Those that failed with this one wait to be revived with it.
      const revived = [task, ...this.#withDependents(failed)].filter((one) =>
        one.want !== 0 && one.status === "error"
      );
      const own = revived.filter((one) => this.#absent.has(one));
      const others = revived.filter((one) => !this.#absent.has(one));
      for (const one of new Set(revived)) this.#turn(one, "pending");
      this.#resubmit(own, null);
      return this.#resubmit(others, null, true);
    }
    // The scheduler revives what failed with the target, and would leave those waiting for ever that depend on another
    // failed task, too: named as well, they bring that one back with them. Which of them failed it knows best.
    const keys = [...this.#withDependents(failed)]
      .filter((other) => other.want !== 0 && other.status !== "finished")
      .map((other) => other.key);
    // When news of the target's failure is still on its way, it is news of what is being repeated.
    const marked = failed.want !== 0 && failed.status === "pending" ? [task, failed] : [task];
    for (const one of marked) one.retrying = true;
    this.#rest.push({
      type: "retry",
      keys: [...new Set([target, key, ...keys])],
      marked: marked.map(({ key }) => key),
    });
    this.#turn(task, "pending");
  }

  #retryRefused({ keys }: RetryRefused): void {
    for (const key of keys) {
      const task = this.#tasks.get(key);
      if (task === undefined || task.want === 0 || !task.retrying) continue;
      task.retrying = false;
      // It is as it was before, or goes on already: the scheduler says which.
      this.#outbox.push({ op: "report-key", key });
    }
  }

  #valueWanted({ key, want }: ValueWanted): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want !== want) return;
    task.valueWanted = true;
    this.#fetchIfWanted(task);
  }

  #valueUnwanted({ key, want }: ValueUnwanted): void {
    const task = this.#tasks.get(key);
    if (task !== undefined && task.want === want) task.valueWanted = false;
  }

  #reset(reason: string): void {
    this.#tellReleases();
    for (const task of [...this.#tasks.values()]) {
      if (task.want === 0) continue;
      this.#queueRelease([task.key]);
      this.#end(task, "cancelled", reason);
    }
  }

  // --- What the scheduler says ---

  #keyInMemory({ key, holder }: KeyInMemory): void {
    // What is in memory was understood. (Nothing of a graph that was given up can be.)
    if (this.#form.state === "asked" && this.#isJournaled(key)) this.#formKnown();
    const task = this.#tasks.get(key);
    if (task === undefined || task.want === 0) return;
    if (holder !== null) task.holder = holder;
    task.retrying = false;
    task.wasFinished = true;
    if (task.status !== "finished") this.#turn(task, "finished");
    this.#fetchIfWanted(task);
  }

  #taskErred({ key, exception, traceback }: TaskErred): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want === 0 || task.status === "error" || task.retrying) return;
    if (this.#misunderstood.has(key)) return; // the graph is on its way in the other form
    this.#turn(task, "error", { exception, traceback });
  }

  #cancelledKeys({ keys, reason }: CancelledKeys): void {
    for (const key of keys) {
      const task = this.#tasks.get(key);
      if (task === undefined || task.want === 0) continue;
      // A key that the scheduler does not know comes without a reason, one that it is about to forget with this one.
      if (task.wasFinished && (reason === null || reason === "already forgotten")) {
        this.#end(task, "lost", "the last worker that had it is gone, and it cannot be computed again");
      } else this.#end(task, "cancelled", reason ?? "the scheduler does not know it");
    }
  }

  #lostData({ key }: LostData): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want === 0 || task.status !== "finished") return;
    task.holder = null;
    this.#turn(task, "pending");
    // Data that no task can bring back is forgotten in silence; so ask.
    this.#outbox.push({ op: "report-key", key });
  }

  #taskRetried({ key }: TaskRetried): void {
    const task = this.#tasks.get(key);
    if (task === undefined || task.want === 0) return;
    task.retrying = false;
    if (task.status === "error") this.#turn(task, "pending");
  }

  #restart(): void {
    for (const task of [...this.#tasks.values()]) {
      if (task.want !== 0) this.#end(task, "cancelled", "the scheduler was restarted and forgot all tasks");
    }
  }

  #graphHandled({ stimulusId, status }: GraphHandled): void {
    const form = this.#form;
    if (form.state === "known" || form.state === "untried") return;
    if (status !== "error") {
      // A graph of the other form may still be reported on after it was given up; it decides nothing.
      if (stimulusId.startsWith(form.form)) this.#formKnown();
      return;
    }
    if (form.state !== "asked" || stimulusId !== form.stimulusId) return;
    if (form.form === "reconstruct") {
      this.#form = { form: "newobj", state: "untried", stimulusId: "" };
      for (const queued of this.#journal) {
        if (queued.op === "graph") { for (const key of queued.taskKeys) this.#misunderstood.add(key); }
      }
      this.#outbox = [...this.#journal, ...this.#outbox];
      this.#kept = this.#outbox.length;
      this.#journal = [];
      return;
    }
    form.state = "refused";
    this.#journal = [];
    this.#misunderstood.clear();
  }

  // --- What the shell reports ---

  /** Nothing of what waits to be sent is: it would be the end of a talk with somebody who is gone. */
  #disconnected(): void {
    this.#connected = false;
    this.#broken = true;
    this.#mixed ||= this.#typescript.length > 0 && this.#python.length > 0;
    this.#typescript = NOTHING;
    this.#python = NOTHING;
    this.#clearOutbox();
  }

  #clearOutbox(): void {
    this.#outbox = [];
    this.#kept = 0;
    this.#journal = [];
    this.#misunderstood.clear();
    this.#form = { form: "reconstruct", state: "untried", stimulusId: "" };
    if (this.#releases.size === 0) return;
    this.#releases.clear();
    this.#rest.push({ type: "clear-timer", name: "releases" });
  }

  /**
   * What is wanted and has not failed is submitted again, with all that it depends on, whatever the scheduler may still
   * know of it: dask passes over what it has. What cannot be computed from here alone is asked for under its key, if the
   * scheduler knows it, and else lost.
   */
  #reconnected({ clientId, gone }: Reconnected): void {
    this.#clearOutbox();
    this.#clientId = clientId;
    this.#connected = true;
    this.#broken = false;
    this.#absent.clear();
    const unknown = new Set(gone);
    const sure = this.#sure();
    /** They can neither be computed nor are they there. */
    const lost = new Set<Task>();
    const computable = new Set<Task>();
    const own: Task[] = [];
    const mixed: Task[] = [];
    for (const task of this.#tasks.values()) {
      if (task.submitted !== null && !task.dependencies.some((one) => lost.has(one))) computable.add(task);
      else if (unknown.has(task.key)) lost.add(task);
      if (task.want === 0) continue;
      task.retrying = false;
      if (task.status === "error") {
        if (sure.has(task)) this.#absent.add(task);
        continue;
      }
      if (lost.has(task)) continue;
      task.misses = 0;
      task.holder = null;
      if (task.status === "finished") this.#turn(task, "pending");
      if (computable.has(task)) {
        task.wasFinished = false;
        (sure.has(task) ? own : mixed).push(task);
      } else {
        this.#outbox.push({ op: "client-desires-keys", keys: [task.key] });
        this.#outbox.push({ op: "report-key", key: task.key });
      }
    }
    this.#resubmit(own, computable);
    // Apart: these may yet fall with what they need of others.
    this.#resubmit(mixed, computable, true);
    for (const task of lost) {
      if (task.want === 0 || task.status === "error") continue;
      const origin = task.dependencies.find((one) => lost.has(one));
      const what = origin === undefined
        ? "it was put on the cluster, or submitted by another client"
        : `it depends on "${keyText(origin.key)}", which is lost`;
      this.#end(task, "lost", `${what}, and the scheduler that was connected with again does not know it`);
    }
  }

  /** Submits tasks again, with what they depend on as far as it was submitted here and is among `computable`, if given. */
  #resubmit(tasks: readonly Task[], computable: ReadonlySet<Task> | null, alone = false): void {
    if (tasks.length === 0 || this.#broken) return;
    const again = new Set<Task>();
    const stack = tasks.toReversed();
    for (let task = stack.at(-1); task !== undefined; task = stack.at(-1)) {
      const first = again.has(task)
        ? []
        : task.dependencies.filter((one) =>
          one.submitted !== null && !again.has(one) && (computable === null || computable.has(one))
        );
      for (const one of first.reverse()) stack.push(one);
      if (first.length > 0) continue;
      again.add(task);
      stack.pop();
    }
    const submitted: SubmittedTask[] = [];
    const mustRun: Key[] = [];
    for (const task of again) {
      if (task.submitted !== null) submitted.push(task.submitted);
      if (this.#absent.has(task)) this.#turn(task, "pending");
      if (this.#mustRun.has(task)) mustRun.push(task.key);
    }
    this.#queueGraphs(submitted, { has: (key) => this.#isHeld(key) }, alone);
    if (mustRun.length > 0) {
      this.#outbox.push({ op: "client-desires-keys", keys: mustRun, client: FIRE_AND_FORGET });
    }
  }

  /** Kept tasks that can be computed from what was submitted here alone. */
  #sure(): ReadonlySet<Task> {
    const sure = new Set<Task>();
    for (const task of this.#tasks.values()) {
      if (task.submitted !== null && task.dependencies.every((one) => sure.has(one))) sure.add(task);
    }
    return sure;
  }

  #workersChanged({ typescript, python }: WorkersChanged): void {
    this.#typescript = typescript;
    this.#python = python;
    if (typescript.length > 0 && python.length > 0) this.#mixed = false;
  }

  #fetched(key: Key): void {
    const task = this.#tasks.get(key);
    if (task === undefined) return;
    task.fetching = false;
    task.misses = 0;
    if (task.want === 0 || !task.valueWanted) return;
    task.valueWanted = false;
    this.#notices.push({ type: "value", key, want: task.want });
  }

  #fetchMissed({ key }: FetchMissed): void {
    const task = this.#tasks.get(key);
    if (task === undefined) return;
    task.fetching = false;
    task.holder = null;
    if (task.want === 0 || task.status !== "finished") return;
    task.misses++;
    if (task.misses === MISSES_LOGGED) {
      this.#log(`Looked ${task.misses} times for the value of "${keyText(key)}" in vain; looking on`);
    }
    this.#turn(task, "pending");
    this.#outbox.push({ op: "report-key", key });
  }

  #noWorkersYet(): void {
    const lacking = this.#lacking();
    if (this.#warned !== "waiting" || lacking === null) return;
    this.#warned = "said";
    const remedy = lacking.startsWith("no Python worker")
      ? `start one with "dask worker <scheduler address>"`
      : `start one with startWorker() or "deno run -A jsr:@dask/dask/worker <scheduler address>"`;
    this.#log(`${this.#pending} tasks wait: the scheduler has ${lacking}; ${remedy}`);
  }

  /** The workers for want of which nothing runs, in words; or null. */
  #lacking(): string | null {
    if (this.#pending === 0 || !this.#connected) return null;
    const [typescript, python] = [this.#typescript.length, this.#python.length];
    if (typescript + python === 0) return "no worker";
    if (this.#awaited.has("typescript")) return `no TypeScript worker (${python} of Python)`;
    return this.#awaited.has("python") ? `no Python worker (${typescript} of TypeScript)` : null;
  }

  // --- Keeping tasks ---

  #isHeld(key: Key): boolean {
    const task = this.#tasks.get(key);
    return task !== undefined && task.want !== 0;
  }

  #keep(key: Key, dependencies: readonly Key[], signature: string | null): Task {
    const known = this.#tasks.get(key);
    if (known !== undefined) return known;
    const task: Task = {
      key,
      signature,
      dependencies: dependencies.length === 0 ? NOTHING : dependencies.map((dependency) => {
        const kept = this.#keep(dependency, [], null);
        kept.dependents++;
        return kept;
      }),
      submitted: null,
      dependents: 0,
      want: 0,
      status: "pending",
      holder: null,
      valueWanted: false,
      fetching: false,
      misses: 0,
      retrying: false,
      wasFinished: false,
    };
    this.#tasks.set(key, task);
    return task;
  }

  /** From now on the task can be submitted again. `first` stands before the orders of all tasks of its submission. */
  #keepSubmitted(task: Task, submitted: SubmittedTask, first: number): void {
    const order = first + submitted.order;
    this.#orders = Math.max(this.#orders, order + 1);
    task.submitted = { ...submitted, order };
    if (task.signature !== null) return;
    // Another had made it, or it was only depended on: what stands before it in the map follows now.
    const affected = this.#withDependents(task);
    task.signature = submitted.signature;
    task.dependencies = submitted.dependencies.map((dependency) => {
      const kept = this.#keep(dependency, [], null);
      kept.dependents++;
      return kept;
    });
    for (const one of affected) {
      this.#tasks.delete(one.key);
      this.#tasks.set(one.key, one);
    }
  }

  #hold(task: Task, want: number): void {
    if (this.#orphans.has(task)) this.#adopt(task);
    assert(task.want === 0, `Key "${task.key}" is wanted once at a time`);
    if (this.#releases.has(task.key)) this.#tellReleases();
    task.want = want;
    task.status = "pending";
    task.valueWanted = false;
    task.misses = 0;
    task.retrying = false;
    task.wasFinished = false;
    task.holder = null;
    this.#pending++;
  }

  /** Somebody wants an orphan again. */
  #adopt(task: Task): void {
    this.#orphans.delete(task);
    this.#pending--;
    task.want = 0;
  }

  /** Ends a want without news for it. */
  #letGo(task: Task): void {
    if (task.status === "pending") this.#pending--;
    this.#absent.delete(task);
    this.#mustRun.delete(task);
    this.#orphans.delete(task);
    task.want = 0;
    task.valueWanted = false;
    this.#forgetIfUnwanted(task);
  }

  #forgetIfUnwanted(unwanted: Task | undefined): void {
    const stack = [unwanted];
    for (let task = stack.pop(); task !== undefined; task = stack.pop()) {
      if (task.want !== 0 || task.dependents > 0 || this.#tasks.get(task.key) !== task) continue;
      this.#tasks.delete(task.key);
      for (const dependency of task.dependencies) {
        dependency.dependents--;
        stack.push(dependency);
      }
    }
  }

  #withDependents(start: Task): Set<Task> {
    const affected = new Set([start]);
    if (start.dependents === 0) return affected;
    // Dependencies come before dependents, so one pass finds all.
    for (const task of this.#tasks.values()) {
      if (task.dependencies.some((dependency) => affected.has(dependency))) affected.add(task);
    }
    return affected;
  }

  /** A held key comes into another status that does not end its want. */
  #turn(
    task: Task,
    status: "pending" | "finished" | "error",
    failure: { readonly exception: unknown; readonly traceback: unknown } | null = null,
  ): void {
    assert(
      STATUSES[task.status].includes(status),
      `Key "${task.key}" turns from ${task.status} to ${status}`,
    );
    if (task.status === "pending") this.#pending--;
    if (status === "pending") this.#pending++;
    else this.#mustRun.delete(task);
    if (status !== "error") this.#absent.delete(task);
    task.status = status;
    const { key, want } = task;
    if (failure !== null) {
      task.valueWanted = false;
      this.#notices.push({
        type: "failed",
        key,
        want,
        ...failure,
        formRefused: this.#form.state === "refused",
      });
    } else if (status !== "error") {
      this.#notices.push({ type: "status", key, want, status, reason: null });
    }
    if (status !== "pending" && this.#orphans.delete(task)) this.#release(task);
  }

  /** Ends a want with news for it. */
  #end(task: Task, status: "cancelled" | "lost", reason: string | null): void {
    this.#notices.push({ type: "status", key: task.key, want: task.want, status, reason });
    this.#letGo(task);
  }

  #log(message: string): void {
    this.#rest.push({ type: "log", level: "warning", message });
  }

  // --- Values ---

  #fetchIfWanted(task: Task): void {
    if (!task.valueWanted || task.fetching || task.status !== "finished") return;
    task.fetching = true;
    const delayMs = task.misses === 0 ? 0 : Math.min(MISS_MS * 2 ** (task.misses - 1), MISS_MS_MAX);
    const wanted = { key: task.key, holder: task.holder };
    const batch = this.#fetches.get(delayMs);
    if (batch === undefined) this.#fetches.set(delayMs, [wanted]);
    else batch.push(wanted);
  }

  // --- Sending ---

  #graphFor(signature: string, annotations: Annotations | null, alone: boolean): QueuedGraph {
    const last = this.#outbox.at(-1);
    const fresh = this.#outbox.length > this.#kept;
    if (last?.op === "graph" && last.signature === signature && fresh && !alone && !last.alone) return last;
    const queued: QueuedGraph = {
      op: "graph",
      signature,
      annotations,
      tasks: [],
      priorities: [],
      keys: [],
      taskKeys: new Set(),
      alone,
      base: 0,
    };
    this.#outbox.push(queued);
    return queued;
  }

  #tellReleases(): void {
    if (this.#releases.size === 0) return;
    this.#queueRelease([...this.#releases]);
    this.#releases.clear();
    this.#rest.push({ type: "clear-timer", name: "releases" });
  }

  #queueRelease(keys: readonly Key[]): void {
    const last = this.#outbox.at(-1);
    if (last?.op === "client-releases-keys" && this.#outbox.length > this.#kept) {
      (last.keys as Key[]).push(...keys);
    } else this.#outbox.push({ op: "client-releases-keys", keys: [...keys] });
  }

  #isJournaled(key: Key): boolean {
    return this.#journal.some((queued) => queued.op === "graph" && queued.taskKeys.has(key));
  }

  #formKnown(): void {
    this.#form.state = "known";
    this.#journal = [];
    this.#misunderstood.clear();
    this.#outbox.push({ op: "unsubscribe-topic", topic: this.#clientId });
  }

  #take(): readonly Instruction[] {
    const instructions: Instruction[] = [];
    const messages = this.#takeMessages();
    if (messages.length > 0) instructions.push({ type: "send", messages });
    if (this.#notices.length > 0) {
      instructions.push({ type: "notify", notices: this.#notices });
      this.#notices = [];
    }
    if (this.#fetches.size > 0) {
      for (const [delayMs, wanted] of this.#fetches) instructions.push({ type: "fetch", wanted, delayMs });
      this.#fetches.clear();
    }
    const lacking = this.#lacking() !== null;
    if (lacking && this.#warned === "no") {
      this.#warned = "waiting";
      instructions.push({ type: "set-timer", name: "no-workers", delayMs: NO_WORKERS_MS });
    } else if (!lacking && this.#warned !== "no") {
      if (this.#warned === "waiting") instructions.push({ type: "clear-timer", name: "no-workers" });
      this.#warned = "no";
    }
    if (this.#rest.length > 0) {
      instructions.push(...this.#rest);
      this.#rest = [];
    }
    return instructions;
  }

  #takeMessages(): readonly ToScheduler[] {
    this.#awaited = NO_LANGUAGES;
    if (!this.#connected || this.#outbox.length === 0) return NOTHING;
    const messages: ToScheduler[] = [];
    const kept = new Kept();
    for (const queued of this.#outbox) {
      if (queued.op === "graph") {
        const route = this.#route(queued);
        if (route === "wait" || kept.delays(queued)) {
          kept.add(queued, route === "wait");
          continue;
        }
        if (this.#form.state === "untried") {
          messages.push({ op: "subscribe-topic", topic: this.#clientId });
        }
        for (const { tasks, keys, priorities } of cutGraph(queued, GRAPH_TASKS_MAX)) {
          const { form } = this.#form;
          const stimulusId = `${form}-${this.#clientId}-${++this.#graphs}`;
          if (this.#form.state === "untried") this.#form = { form, state: "asked", stimulusId };
          messages.push({
            op: "update-graph",
            tasks,
            keys,
            priorities,
            annotations: route,
            form,
            stimulusId,
          });
        }
      } else if (kept.delays(queued)) {
        kept.add(queued, false);
        continue;
      } else messages.push(queued);
      if (this.#form.state === "asked") this.#journal.push(queued);
    }
    this.#outbox = kept.queued;
    this.#kept = kept.queued.length;
    this.#awaited = kept.languages;
    return messages;
  }

  /**
   * The annotations under which a graph is sent. A restriction switches off the scheduler's back-pressure, so there is
   * none of ours while all workers are of one language. With only workers of the other one there, it waits here. Actors
   * are always restricted, and wait here for the first worker: the scheduler fails over those that it holds back.
   */
  #route(graph: QueuedGraph): Annotations | null | "wait" {
    const { annotations } = graph;
    const python = languageOf(graph) === "python";
    const [able, unable] = python ? [this.#python, this.#typescript] : [this.#typescript, this.#python];
    if (annotations?.workers !== undefined) return annotations;
    // After a loss those of the other language may be the first to come back. Actors wait for a worker in any case.
    const bound = unable.length > 0 || (this.#mixed && able.length === 0) || graph.tasks[0]?.actor === true;
    if (!bound) return annotations;
    return able.length === 0 ? "wait" : { ...annotations, workers: able };
  }
}

/** What a task is written in. */
type Language = "typescript" | "python";
const NO_LANGUAGES: ReadonlySet<Language> = new Set();

/** All tasks of a graph have one signature, and so one language. */
function languageOf({ tasks }: QueuedGraph): Language {
  return tasks[0]?.python === undefined ? "typescript" : "python";
}

/** What stays in the outbox, and so what has to stay behind it. */
class Kept {
  readonly queued: Queued[] = [];
  readonly languages = new Set<Language>();
  /** Keys that are unknown to the scheduler until then. */
  readonly #unsent = new Set<Key>();
  /** Keys that must stay wanted until then. */
  readonly #needed = new Set<Key>();

  add(queued: Queued, awaits: boolean): void {
    this.queued.push(queued);
    if (queued.op !== "graph") return;
    if (awaits) this.languages.add(languageOf(queued));
    for (const { key, dependencies } of queued.tasks) {
      this.#unsent.add(key);
      for (const dependency of dependencies) this.#needed.add(dependency);
    }
  }

  delays(queued: Queued): boolean {
    if (this.#unsent.size === 0) return false;
    switch (queued.op) {
      case "graph":
        return queued.tasks.some(({ key, dependencies }) =>
          this.#unsent.has(key) || dependencies.some((dependency) => this.#unsent.has(dependency))
        );
      case "client-releases-keys":
        return queued.keys.some((key) => this.#unsent.has(key) || this.#needed.has(key));
      case "client-desires-keys":
        return queued.keys.some((key) => this.#unsent.has(key));
      case "report-key":
        return this.#unsent.has(queued.key);
      case "subscribe-topic":
      case "unsubscribe-topic":
        return false;
    }
  }
}

const NOTHING: readonly never[] = [];
