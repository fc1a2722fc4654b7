/**
 * A shell for the worker's machine that does nothing by itself: it performs instructions into plain records of calls,
 * transfers, timers and values, and whoever plays the world picks by name what happens next. So one walks at random and
 * another goes through every order.
 *
 * Law: the shell holds the machine to its contract. No instruction is impossible, no answer carries a run id that was not
 * asked for or was taken back, no run and no steal request is answered twice, and a value is in the store exactly while
 * the machine or something under way has it.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { Address, Key, TimerName } from "../../worker/machine/events.ts";
import type { Instruction, ToScheduler } from "../../worker/machine/instructions.ts";
import {
  arrived,
  busy,
  failed,
  rescheduled,
  seceded,
  started,
  succeeded,
  type TestWorker,
  timer,
  unreachable,
  type Untimed,
  withdrawn,
} from "./machine.ts";

/** A call that an executor has. */
export interface Call {
  readonly runId: number;
  /** Of the task behind the name: the first byte of its spec. */
  readonly version: number;
  readonly inputs: readonly Key[];
  phase: "placed" | "executing" | "long-running";
  withdrawing: boolean;
  aborted: boolean;
}

/** A transfer that is under way. */
export interface Transfer {
  readonly keys: readonly Key[];
  /** The peer died, or its connections were closed. */
  broken: boolean;
}

/** What became of the runs of one key. */
interface Runs {
  /** Asked by a compute-task that arrived. */
  readonly asked: Set<number>;
  readonly answered: Set<number>;
  /** Nothing up to this one may be reported any more. */
  takenBack: number;
  /** An answer is due: something was asked that was not answered, taken back or cancelled since. */
  open: boolean;
}

/** What a shell is made with. */
export interface ShellOptions {
  readonly slots: number;
  /** All keys there are. */
  readonly keys: readonly Key[];
  /** Hears what the scheduler is told. `version`: of the value in the store at that moment. */
  readonly hear?: (message: ToScheduler, version: number | undefined) => void;
  /** The version of the value that a peer sends; null: it has none. */
  readonly sent?: (peer: Address, key: Key) => number | null;
}

/** See the module. */
export class Shell {
  readonly worker: TestWorker;
  readonly calls = new Map<Key, Call>();
  readonly transfers = new Map<Address, Transfer>();
  readonly timers = new Set<TimerName>();
  /** Version of every value. */
  readonly store = new Map<Key, number>();
  /** Every steal request, and how often it was answered. */
  readonly steals = new Map<string, number>();
  /** The newest run id of the key when it was asked. */
  readonly #stealRuns = new Map<string, number>();
  /** Runs that an executor may yet call withdrawn, since they had ended when it was asked. */
  readonly late = new Map<Key, number[]>();
  /** How often each event met a key in each state. */
  readonly met = new Map<string, number>();
  events = 0;

  readonly #options: ShellOptions;
  readonly #runs = new Map<Key, Runs>();

  constructor(worker: TestWorker, options: ShellOptions) {
    this.worker = worker;
    this.#options = options;
    for (const key of options.keys) {
      this.#runs.set(key, { asked: new Set(), answered: new Set(), takenBack: 0, open: false });
    }
  }

  /** Names of what may come of all that is under way; {@linkcode report} lets one happen. */
  reports(): string[] {
    const names: string[] = [];
    let executing = 0;
    for (const { phase } of this.calls.values()) if (phase === "executing") executing++;
    for (const [key, call] of this.calls) {
      if (call.phase === "placed") {
        names.push(`unreadable ${key}`);
        if (executing < this.#options.slots) names.push(`start ${key}`);
        if (call.withdrawing) names.push(`withdrawn ${key}`);
      } else {
        names.push(`succeed ${key}`, `fail ${key}`, `reschedule ${key}`);
        if (call.phase === "executing") names.push(`secede ${key}`);
      }
    }
    for (const key of this.late.keys()) names.push(`late ${key}`);
    for (const [peer, { keys, broken }] of this.transfers) {
      names.push(`arrive ${peer}`, `unreachable ${peer}`);
      if (broken) continue;
      names.push(`lack ${peer}`, `busy ${peer}`);
      if (keys.length > 1) names.push(`half ${peer}`);
    }
    for (const name of this.timers) names.push(`timer ${name}`);
    return names;
  }

  /** Lets happen what has this name among {@linkcode reports}. */
  report(name: string): void {
    const space = name.indexOf(" ");
    const what = name.slice(0, space), who = name.slice(space + 1);
    const call = this.calls.get(who);
    switch (what) {
      case "timer":
        this.timers.delete(who as TimerName);
        return this.handle(timer(who as TimerName));
      case "late": {
        const runs = this.late.get(who)!;
        const runId = runs.shift()!;
        if (runs.length === 0) this.late.delete(who);
        return this.handle(withdrawn(who, runId));
      }
      case "arrive":
      case "half":
      case "lack":
      case "busy":
      case "unreachable":
        return this.#endTransfer(what, who);
      case "start":
        assert(call !== undefined);
        call.phase = "executing";
        if (call.withdrawing) this.late.set(who, [...this.late.get(who) ?? [], call.runId]);
        return this.handle(started(who, call.runId));
      case "secede":
        assert(call !== undefined);
        call.phase = "long-running";
        return this.handle(seceded(who, call.runId));
    }
    assert(call !== undefined, name);
    this.calls.delete(who);
    switch (what) {
      case "succeed":
        this.store.set(who, call.version);
        return this.handle(succeeded(who, call.runId, 10));
      case "fail":
      case "unreadable":
        return this.handle(failed(who, call.runId));
      case "reschedule":
        return this.handle(rescheduled(who, call.runId));
      case "withdrawn":
        return this.handle(withdrawn(who, call.runId));
      default:
        throw new TypeError(`What is ${name}?`);
    }
  }

  #endTransfer(how: "arrive" | "half" | "lack" | "busy" | "unreachable", peer: Address): void {
    const { keys } = this.transfers.get(peer)!;
    this.transfers.delete(peer);
    if (how === "busy") return this.handle(busy(peer, ...keys));
    if (how === "unreachable") return this.handle(unreachable(peer, ...keys));
    const came: Key[] = [];
    for (const key of how === "lack" ? [] : how === "half" ? keys.slice(0, 1) : keys) {
      const version = this.#options.sent === undefined ? 0 : this.#options.sent(peer, key);
      if (version === null) continue;
      this.store.set(key, version);
      came.push(key);
    }
    this.handle(arrived(peer, keys, came));
  }

  /** One event; its instructions are performed. */
  handle(event: Untimed): void {
    this.events++;
    this.#noteBefore(event);
    const kept = event.type === "remove-replicas" ? this.#inputs() : [];
    for (const instruction of this.worker.handle(event)) this.#perform(instruction);
    for (const key of this.#options.keys) {
      if (this.worker.state(key) === "memory") {
        assert(this.store.has(key), `${key} is in memory, so it is in the store`);
      }
    }
    for (const key of kept) assert(this.store.has(key), `${key} is in use, so it is not removed`);
    for (const [key, { phase, withdrawing, aborted }] of this.calls) {
      const stopped = /^(cancelled|resumed)/.test(this.worker.state(key));
      if (phase !== "placed") assertEquals(aborted, stopped, `${key} is aborted when it is not wanted`);
      else assert(withdrawing || !stopped, `${key} is withdrawn when it is not wanted`);
    }
  }

  /** What the calls that are wanted use. */
  #inputs(): Key[] {
    const wanted = [...this.calls].filter(([key]) => !/^(cancelled|resumed)/.test(this.worker.state(key)));
    return wanted.flatMap(([, { inputs }]) => inputs).filter((key) => this.worker.state(key) === "memory");
  }

  #noteBefore(event: Untimed): void {
    for (const key of keysOf(event, this.#options.keys)) {
      const pair = `${this.worker.state(key)} <- ${event.type}`;
      this.met.set(pair, (this.met.get(pair) ?? 0) + 1);
    }
    switch (event.type) {
      case "compute-task":
        this.#runs.get(event.key)!.asked.add(event.runId);
        this.#runs.get(event.key)!.open = true;
        break;
      case "free-keys":
        event.keys.forEach((key) => this.#takeBack(key));
        break;
      case "cancel-compute":
        this.#runs.get(event.key)!.open = false; // it may run nevertheless
        break;
      case "steal-request":
        this.steals.set(event.stimulusId, 0);
        this.#stealRuns.set(event.stimulusId, this.#newest(event.key));
        break;
      case "data-added":
        for (const key of event.nbytes.keys()) this.store.set(key, this.store.get(key) ?? 0);
    }
  }

  #takeBack(key: Key): void {
    const runs = this.#runs.get(key)!;
    runs.takenBack = this.#newest(key);
    runs.open = false;
  }

  #newest(key: Key): number {
    return Math.max(0, ...this.#runs.get(key)!.asked);
  }

  #perform(instruction: Instruction): void {
    switch (instruction.type) {
      case "execute": {
        const { key, runId, runSpec, dependencies } = instruction;
        assert(!this.calls.has(key), `${key} is in no executor`);
        for (const dependency of dependencies) {
          assert(this.store.has(dependency), `${key} has its input ${dependency}`);
        }
        const version = runSpec.pickle[0]!;
        this.calls.set(key, {
          runId,
          version,
          inputs: dependencies,
          phase: "placed",
          withdrawing: false,
          aborted: false,
        });
        let inSlots = 0;
        for (const { phase } of this.calls.values()) if (phase !== "long-running") inSlots++;
        assert(inSlots <= 2 * this.#options.slots, "up to two calls a slot");
        break;
      }
      case "withdraw": {
        const call = this.#call(instruction.key, instruction.runId);
        assert(call.phase === "placed" && !call.withdrawing, "only what waits is withdrawn, and once");
        call.withdrawing = true;
        break;
      }
      case "abort": {
        const call = this.#call(instruction.key, instruction.runId);
        assert(call.phase !== "placed" && !call.aborted, "only what runs is aborted, and once");
        call.aborted = true;
        break;
      }
      case "fetch":
        assert(!this.transfers.has(instruction.peer), "one request to a peer at a time");
        this.transfers.set(instruction.peer, { keys: instruction.keys, broken: false });
        break;
      case "free":
        for (const key of instruction.keys) {
          assert(this.store.delete(key), `${key} is in the store until it is freed`);
        }
        break;
      case "forget-peer": {
        const transfer = this.transfers.get(instruction.peer);
        if (transfer !== undefined) transfer.broken = true;
        break;
      }
      case "send":
        this.#checkMessage(instruction.message);
        break;
      case "set-timer":
        this.timers.add(instruction.name);
    }
  }

  #call(key: Key, runId: number): Call {
    const call = this.calls.get(key);
    assert(call !== undefined && call.runId === runId, `run ${runId} of ${key} is in an executor`);
    return call;
  }

  #checkMessage(message: ToScheduler): void {
    switch (message.op) {
      case "steal-response": {
        const { key, state, stimulusId } = message;
        assert(
          state === null ||
            /^(waiting|ready|constrained|executing|long-running|memory|cancelled|resumed)$/.test(state),
          `the scheduler understands ${state}`,
        );
        const answers = (this.steals.get(stimulusId) ?? NaN) + 1;
        assertEquals(answers, 1, `${stimulusId} is asked, and answered once`);
        this.steals.set(stimulusId, answers);
        if (!/^(waiting|ready|constrained)$/.test(state ?? "")) break;
        assertEquals(this.#newest(key), this.#stealRuns.get(stimulusId), `${key} was not asked for again`);
        this.#takeBack(key);
        break;
      }
      case "reschedule":
        this.#runs.get(message.key)!.open = false;
        break;
      case "task-finished":
      case "task-erred": {
        const { key, runId } = message;
        const runs = this.#runs.get(key)!;
        assert(runs.asked.has(runId), `run ${runId} of ${key} was asked for`);
        assert(runId > runs.takenBack, `run ${runId} of ${key} was not taken back`);
        assert(!runs.answered.has(runId), `run ${runId} of ${key} is answered once`);
        runs.answered.add(runId);
        runs.open = false;
      }
    }
    this.#options.hear?.(message, "key" in message ? this.store.get(message.key) : undefined);
  }

  /** Every change of state that the machine remembers, by dask's names. */
  transitions(): Set<string> {
    const name = (state: string) => state.replace(/\(.*/, "");
    const story = this.#options.keys.flatMap((key) => this.worker.machine.story(key));
    return new Set(story.map(({ from, to }) => `${name(from)} -> ${name(to)}`));
  }

  /** At rest nothing is under way, and what was asked is answered or was taken back. */
  assertQuiet(): void {
    assertEquals([...this.calls.keys()], [], "no call is left");
    assertEquals([...this.transfers.keys()], [], "no transfer is left");
    for (const [id, answers] of this.steals) assertEquals(answers, 1, `${id} is answered once`);
    for (const [key, { open }] of this.#runs) assert(!open, `what was asked of ${key} is answered`);
    for (const key of this.#options.keys) {
      assertEquals(this.store.has(key), this.worker.state(key) === "memory", `${key} is in the store`);
    }
  }

  /** When all keys are freed the machine knows nothing any more. */
  assertEmpty(): void {
    this.assertQuiet();
    const { tasks, peers, available, resources, occupied, nbytes } = this.worker.machine.snapshot();
    assertEquals(tasks, {}, "no task is left");
    assertEquals(peers, {}, "no peer is left");
    assertEquals(available, resources, "all resources are back");
    assertEquals([occupied, nbytes], [0, 0], "all slots and bytes are back");
    assertEquals([...this.store.keys()], [], "the store is empty");
    assertEquals([...this.timers], [], "no timer is left");
  }
}

/** The keys that an event is about; what is about none is about all. */
function keysOf(event: Untimed, all: readonly Key[]): readonly Key[] {
  switch (event.type) {
    case "status-changed":
    case "resources-changed":
    case "timer":
    case "remove-worker":
      return all;
    case "acquire-replicas":
    case "refresh-who-has":
      return [...event.whoHas.keys()];
    case "data-added":
      return [...event.nbytes.keys()];
    default:
      return "keys" in event ? event.keys : [event.key];
  }
}
