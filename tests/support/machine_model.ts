/**
 * A small world around the worker's machine: a scheduler that follows dask's rules, two peers that may die, executors
 * and a store. Everything that is on its way waits in queues, so that chance decides what meets what.
 *
 * Law: the model accounts for everything. After `settle` nothing may be left under way, both sides must agree on who
 * holds what, and after `clear` nothing at all may be left.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { Address, Key, TimerName } from "../../worker/machine/events.ts";
import type { Instruction, ToScheduler } from "../../worker/machine/instructions.ts";
import {
  acquire,
  arrived,
  busy,
  cancelCompute,
  compute,
  failed,
  free,
  refresh,
  removeReplicas,
  removeWorker,
  rescheduled,
  seceded,
  started,
  status,
  steal,
  succeeded,
  TestWorker,
  timer,
  unreachable,
  type Untimed,
  withdrawn,
} from "./machine.ts";

const ME = "tcp://one:1";
const PEERS: readonly Address[] = ["tcp://one:2", "tcp://two:1", "tcp://two:2"];
const SLOTS = 2;

/** Dependencies and resources of every key. */
const GRAPH: Readonly<Record<Key, { needs: readonly Key[]; resources?: Readonly<Record<string, number>> }>> =
  {
    a: { needs: [] },
    b: { needs: [] },
    c: { needs: [], resources: { GPU: 1 } },
    d: { needs: [] },
    e: { needs: ["a", "b"] },
    f: { needs: ["b", "c"], resources: { GPU: 0.3, DISK: 0.1 } },
    g: { needs: ["e", "d"] },
    h: { needs: ["f", "a", "d"], resources: { GPU: 0.7 } },
  };
const KEYS = Object.keys(GRAPH);

/** Chance from a seed. */
export interface Chance {
  readonly seed: number;
  /** An integer from 0 to below `limit`. */
  below(limit: number): number;
}

/** The same chance for the same seed. */
export function chance(seed: number): Chance {
  let state = seed | 0;
  return {
    seed,
    below(limit) {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 * limit);
    },
  };
}

/** A key as the scheduler sees it. */
interface Known {
  readonly key: Key;
  state: "released" | "processing" | "memory" | "erred";
  wanted: boolean;
  runId: number;
  /** Of the task behind the name: a key that was cancelled may come back as another task. */
  version: number;
  readonly holders: Set<Address>;
  /** Stimulus id of the steal request that is out. */
  steal: string | null;
}

interface Call {
  readonly key: Key;
  readonly runId: number;
  readonly version: number;
  phase: "placed" | "executing" | "long-running";
  aborted: boolean;
}

type Said = { readonly message: ToScheduler; readonly version: number | undefined };

export class Model {
  readonly worker: TestWorker;
  /** How often each event met a key in each state. */
  readonly met = new Map<string, number>();
  events = 0;

  readonly #chance: Chance;
  readonly #known = new Map<Key, Known>();
  readonly #alive = new Set<Address>(PEERS);
  /** Peers that died; the scheduler does not know yet. */
  readonly #unnoticed = new Set<Address>();
  readonly #toWorker: Untimed[] = [];
  readonly #toScheduler: Said[] = [];
  readonly #fromShell: Untimed[] = [];
  readonly #calls: Call[] = [];
  readonly #transfers = new Map<Address, readonly Key[]>();
  readonly #timers = new Set<TimerName>();
  readonly #store = new Map<Key, number>();
  /** Every steal request, and how often it was answered. */
  readonly #steals = new Map<string, number>();
  #counter = 0;
  #paused = false;

  constructor(chance: Chance) {
    this.#chance = chance;
    this.worker = new TestWorker({
      address: ME,
      slots: SLOTS,
      resources: { GPU: 1, DISK: 0.3 },
      transferPeersMax: 2,
      transferBytesMax: 25,
      seed: chance.seed,
    });
    for (const key of KEYS) {
      this.#known.set(key, {
        key,
        state: "released",
        wanted: false,
        runId: 0,
        version: 0,
        holders: new Set(),
        steal: null,
      });
    }
  }

  /** Something happens. */
  step(): void {
    for (let tries = 0; tries < 50; tries++) if (this.#tryStep(this.#chance.below(100))) return;
  }

  #tryStep(dice: number): boolean {
    if (dice < 20) return this.#deliver();
    if (dice < 38) return this.#tellFromShell();
    if (dice < 53) return this.#hear();
    if (dice < 60) return this.#startCall();
    if (dice < 66) return this.#endCall(true);
    if (dice < 71) return this.#endTransfer(true);
    if (dice < 73) return this.#fireTimer();
    if (dice < 82) return this.#schedule();
    return this.#disturb();
  }

  /** Nothing goes wrong any more; whatever is under way comes to its end. */
  settle(): void {
    for (const peer of this.#unnoticed) this.#noticeDeath(peer);
    if (this.#paused) this.#pause(false);
    for (let round = 0; round < 3000; round++) {
      while (this.#hear());
      while (this.#deliver());
      while (this.#startCall());
      while (this.#tellFromShell());
      if (this.#toScheduler.length + this.#toWorker.length + this.#fromShell.length > 0) continue;
      if (this.#startCall() || this.#endCall(false) || this.#endTransfer(false) || this.#schedule()) continue;
      if (!this.#onlySearches() && this.#fireTimer()) continue;
      this.#agree();
      return;
    }
    throw new Error(`Stuck: ${JSON.stringify(this.worker.machine.snapshot(), null, 1)}`);
  }

  /** The scheduler forgets everything; so must the worker. */
  clear(): void {
    for (const known of this.#known.values()) known.wanted = false;
    for (const known of this.#known.values()) this.#release(known);
    this.settle();
    const snapshot = this.worker.machine.snapshot();
    assertEquals(snapshot["tasks"], {}, "no task is left");
    assertEquals(snapshot["peers"], {}, "no peer is left");
    assertEquals(snapshot["available"], snapshot["resources"], "all resources are back");
    assertEquals([snapshot["occupied"], snapshot["nbytes"]], [0, 0], "all slots and bytes are back");
    assertEquals([...this.#store.keys()], [], "the store is empty");
    for (const [id, answers] of this.#steals) assertEquals(answers, 1, `${id} is answered once`);
  }

  // --- The worker's side ---

  #handle(event: Untimed): void {
    this.events++;
    for (const key of keysOf(event)) {
      const pair = `${this.worker.state(key)} <- ${event.type}`;
      this.met.set(pair, (this.met.get(pair) ?? 0) + 1);
    }
    for (const instruction of this.worker.handle(event)) this.#perform(instruction);
    for (const key of KEYS) {
      if (this.worker.state(key) === "memory") {
        assert(this.#store.has(key), `${key} is in memory, so it is in the store`);
      }
    }
  }

  #perform(instruction: Instruction): void {
    switch (instruction.type) {
      case "execute": {
        const { key, runId, runSpec, dependencies } = instruction;
        assertEquals(this.#calls.filter((call) => call.key === key), [], `${key} is in no executor`);
        for (const dependency of dependencies) {
          assert(this.#store.has(dependency), `${key} has its input ${dependency}`);
        }
        this.#calls.push({ key, runId, version: runSpec.pickle[0]!, phase: "placed", aborted: false });
        assert(
          this.#calls.filter(({ phase }) => phase !== "long-running").length <= 2 * SLOTS,
          "two calls a slot",
        );
        break;
      }
      case "withdraw": {
        const call = this.#call(instruction.key, instruction.runId);
        if (call !== undefined && call.phase !== "placed") break; // too late: its event is under way
        if (call !== undefined) this.#calls.splice(this.#calls.indexOf(call), 1);
        this.#fromShell.push(withdrawn(instruction.key, instruction.runId)); // also of a call that has ended already
        break;
      }
      case "abort": {
        const call = this.#call(instruction.key, instruction.runId);
        if (call !== undefined) call.aborted = true;
        break;
      }
      case "fetch":
        assert(!this.#transfers.has(instruction.peer), `${instruction.peer} is asked once at a time`);
        assert(this.#transfers.size < 2, "two peers at a time");
        this.#transfers.set(instruction.peer, instruction.keys);
        break;
      case "free":
        for (const key of instruction.keys) {
          assert(this.#store.delete(key), `${key} is in the store until it is freed`);
        }
        break;
      case "forget-peer":
        break;
      case "send":
        this.#toScheduler.push({
          message: instruction.message,
          version: "key" in instruction.message ? this.#store.get(instruction.message.key) : undefined,
        });
        break;
      case "set-timer":
        this.#timers.add(instruction.name);
    }
  }

  #call(key: Key, runId: number): Call | undefined {
    return this.#calls.find((call) => call.key === key && call.runId === runId);
  }

  #startCall(): boolean {
    if (this.#calls.filter(({ phase }) => phase === "executing").length >= SLOTS) return false;
    const call = this.#calls.find(({ phase }) => phase === "placed");
    if (call === undefined) return false;
    call.phase = "executing";
    this.#fromShell.push(started(call.key, call.runId));
    return true;
  }

  #endCall(mayFail: boolean): boolean {
    const running = this.#calls.filter(({ phase }) => phase !== "placed");
    const call = running[this.#chance.below(Math.max(1, running.length))];
    if (call === undefined) return false;
    const { key, runId } = call;
    const dice = call.aborted ? 60 + this.#chance.below(80) : this.#chance.below(mayFail ? 100 : 80);
    if (mayFail && call.phase === "executing" && this.#chance.below(5) === 0) {
      call.phase = "long-running";
      this.#fromShell.push(seceded(key, runId));
      return true;
    }
    this.#calls.splice(this.#calls.indexOf(call), 1);
    if (dice < 80) {
      this.#store.set(key, call.version);
      this.#fromShell.push(succeeded(key, runId, 10));
    } else if (dice < 90) this.#fromShell.push(rescheduled(key, runId));
    else this.#fromShell.push(failed(key, runId));
    return true;
  }

  #endTransfer(mayFail: boolean): boolean {
    const open = [...this.#transfers];
    const transfer = open[this.#chance.below(Math.max(1, open.length))];
    if (transfer === undefined) return false;
    const [peer, keys] = transfer;
    this.#transfers.delete(peer);
    const dice = mayFail ? this.#chance.below(100) : 99;
    if (!this.#alive.has(peer) || dice < 5) this.#fromShell.push(unreachable(peer, ...keys));
    else if (dice < 25) this.#fromShell.push(busy(peer, ...keys));
    else {
      const came = keys.filter((key) => this.#known.get(key)!.holders.has(peer));
      for (const key of came) this.#store.set(key, this.#known.get(key)!.version);
      this.#fromShell.push(arrived(peer, keys, came));
    }
    return true;
  }

  #fireTimer(): boolean {
    const names = [...this.#timers];
    const name = names[this.#chance.below(Math.max(1, names.length))];
    if (name === undefined) return false;
    this.#timers.delete(name);
    this.#handle(timer(name));
    return true;
  }

  #tellFromShell(): boolean {
    const event = this.#fromShell.shift();
    if (event !== undefined) this.#handle(event);
    return event !== undefined;
  }

  #deliver(): boolean {
    const event = this.#toWorker.shift();
    if (event !== undefined) this.#handle(event);
    return event !== undefined;
  }

  // --- The scheduler's side ---

  #tell(event: Untimed): void {
    this.#toWorker.push(event);
  }

  /** Asks for one thing that can be computed and is wanted. */
  #schedule(): boolean {
    const due = new Set<Known>();
    const want = (key: Key): void => {
      const known = this.#known.get(key)!;
      if (known.state !== "released" || due.has(known)) return;
      const needs = GRAPH[key]!.needs.map((need) => this.#known.get(need)!);
      if (needs.some(({ state }) => state === "erred")) return;
      const absent = needs.filter(({ state }) => state !== "memory");
      if (absent.length === 0) due.add(known);
      for (const need of absent) want(need.key);
    };
    for (const { key, wanted } of this.#known.values()) if (wanted) want(key);
    const known = [...due][this.#chance.below(Math.max(1, due.size))];
    if (known === undefined) return false;
    if (this.#chance.below(4) === 0) this.#computeElsewhere(known);
    else this.#computeHere(known);
    return true;
  }

  #computeElsewhere(known: Known): void {
    const peers = [...this.#alive];
    known.state = "memory";
    known.runId = ++this.#counter;
    if (peers.length > 0) known.holders.add(peers[this.#chance.below(peers.length)]!);
    else this.#computeHere(known);
  }

  #computeHere(known: Known): void {
    known.state = "processing";
    known.runId = ++this.#counter;
    known.steal = null;
    const { needs, resources } = GRAPH[known.key]!;
    this.#tell(compute(known.key, {
      run: known.runId,
      priority: [0, KEYS.indexOf(known.key)],
      needs: Object.fromEntries(needs.map((need) => [need, [...this.#known.get(need)!.holders]])),
      spec: { pickle: Uint8Array.of(known.version % 256), buffers: [] },
      ...(resources === undefined ? {} : { resources }),
    }));
  }

  /** Neither processing nor in memory any more, and whoever is processing with it neither. */
  #release(known: Known): void {
    if (known.state === "released") return;
    const tellWorker = known.state === "memory" ? known.holders.has(ME) : true;
    known.state = "released";
    known.steal = null;
    known.holders.clear();
    if (tellWorker) this.#tell(free(known.key));
    for (const dependent of this.#known.values()) {
      if (dependent.state === "processing" && GRAPH[dependent.key]!.needs.includes(known.key)) {
        this.#release(dependent);
      }
    }
  }

  #loseHolder(known: Known, holder: Address): void {
    if (known.state === "memory" && known.holders.delete(holder) && known.holders.size === 0) {
      this.#release(known);
    }
  }

  #noticeDeath(peer: Address): void {
    this.#unnoticed.delete(peer);
    this.#tell(removeWorker(peer));
    for (const known of this.#known.values()) this.#loseHolder(known, peer);
    this.#alive.add(peer); // another one by the same address
  }

  #pause(paused: boolean): void {
    this.#paused = paused;
    this.#handle(status(paused ? "paused" : "running"));
  }

  /** Hears one message of the worker. */
  #hear(): boolean {
    const said = this.#toScheduler.shift();
    if (said === undefined) return false;
    const { message } = said;
    const known = "key" in message ? this.#known.get(message.key)! : null;
    switch (message.op) {
      case "task-finished":
        this.#hearFinished(known!, message, said.version);
        break;
      case "task-erred":
        if (known!.state !== "processing") break;
        if (known!.runId !== message.runId) this.#release(known!);
        else {
          known!.state = "erred";
          known!.steal = null;
        }
        break;
      case "add-keys":
        for (const key of message.keys) {
          const held = this.#known.get(key)!;
          if (held.state === "memory") held.holders.add(ME);
          else this.#tell(removeReplicas(key));
        }
        break;
      case "release-worker-data":
        this.#loseHolder(known!, ME);
        break;
      case "long-running":
        if (known!.runId === message.runId) known!.steal = null;
        break;
      case "reschedule":
        if (known!.state === "processing") this.#release(known!);
        break;
      case "steal-response":
        this.#hearSteal(known!, message.state, message.stimulusId);
        break;
      case "request-refresh-who-has":
        for (const key of message.keys) {
          const asked = this.#known.get(key)!;
          if (this.#isKnown(key)) this.#tell(refresh({ [key]: [...asked.holders] }));
          else this.#tell(free(key));
        }
    }
    return true;
  }

  #isKnown(key: Key): boolean {
    const known = this.#known.get(key)!;
    return known.wanted || known.state !== "released" ||
      KEYS.some((other) => GRAPH[other]!.needs.includes(key) && this.#isKnown(other));
  }

  #hearFinished(
    known: Known,
    message: ToScheduler & { readonly op: "task-finished" },
    version: number | undefined,
  ): void {
    if (known.state === "released" || known.state === "erred") this.#tell(free(known.key));
    else if (known.runId !== message.runId) {
      if (known.state === "processing") this.#release(known);
      else {
        known.holders.delete(ME);
        this.#tell(free(known.key));
      }
    } else {
      if (known.state === "processing" && message.startstop !== undefined) {
        assertEquals(
          version,
          known.version % 256,
          `the result of ${known.key} is of the run that was asked for`,
        );
      }
      known.state = "memory";
      known.steal = null;
      known.holders.add(ME);
    }
  }

  #hearSteal(known: Known, state: string | null, id: string): void {
    const answers = this.#steals.get(id)! + 1;
    assertEquals(answers, 1, `${id} is answered once`);
    this.#steals.set(id, answers);
    assert(
      state === null ||
        /^(released|waiting|ready|constrained|executing|long-running|memory|cancelled|resumed)$/.test(state),
      `the scheduler understands ${state}`,
    );
    if (known.steal !== id) return;
    known.steal = null;
    if (state === null || state === "released") this.#release(known);
    else if (/^(waiting|ready|constrained)$/.test(state)) this.#computeElsewhere(known);
  }

  /** Something that happens to a scheduler, or to a cluster. */
  #disturb(): boolean {
    const known = this.#known.get(KEYS[this.#chance.below(KEYS.length)]!)!;
    const { key, state, holders } = known;
    const peer = PEERS[this.#chance.below(PEERS.length)]!;
    switch (this.#chance.below(15)) {
      case 0:
      case 1:
      case 2:
        if (known.wanted) return false;
        known.wanted = true;
        if (state === "erred") this.#release(known);
        if (known.state === "released" && !this.#isInUse(key)) known.version++;
        return true;
      case 3:
      case 4:
      case 5:
        if (!known.wanted) return false;
        known.wanted = false;
        if (!this.#isInUse(key)) this.#release(known);
        return true;
      case 6:
      case 7:
        if (state !== "memory" || holders.has(ME)) return false;
        this.#tell(acquire({ [key]: [...holders] }));
        return true;
      case 8: // the active memory manager, seldom careless
        if (state !== "memory" || !holders.has(ME) || holders.size === 1) return false;
        if (this.#isInUse(key) && this.#chance.below(3) > 0) return false;
        holders.delete(ME);
        this.#tell(removeReplicas(key));
        return true;
      case 9:
        if (state !== "processing" || known.steal !== null) return false;
        known.steal = `steal-${++this.#counter}`;
        this.#steals.set(known.steal, 0);
        this.#tell(steal(key, known.steal));
        return true;
      case 10:
        if (this.#chance.below(3) > 0) return false;
        if (this.#unnoticed.has(peer)) this.#noticeDeath(peer);
        else {
          this.#alive.delete(peer);
          this.#unnoticed.add(peer);
        }
        return true;
      case 11:
        if (this.#chance.below(3) === 0) this.#pause(!this.#paused);
        return true;
      case 12: // a copy is given to us by rpc, which dask does not do while that may cross with others of the key
        if (state !== "memory" || holders.has(ME) || this.#isUnderWay(key)) return false;
        this.#store.set(key, known.version % 256);
        this.#handle({ type: "data-added", nbytes: new Map([[key, 10]]) });
        holders.add(ME);
        return true;
      case 13:
        if (state !== "processing") return false;
        if (this.#chance.below(2) === 0) {
          this.#tell(cancelCompute(key));
          this.#release(known);
        } else this.#computeHere(known); // the same again, with a newer run id
        return true;
      default: // a peer drops a copy
        if (state !== "memory" || holders.size < 2) return false;
        return holders.delete(peer);
    }
  }

  #isUnderWay(key: Key): boolean {
    return this.#toScheduler.some(({ message }) => "key" in message && message.key === key) ||
      this.#toWorker.some((event) => "keys" in event && event.keys.includes(key));
  }

  #isInUse(key: Key): boolean {
    return KEYS.some((other) => {
      const { state, wanted } = this.#known.get(other)!;
      return GRAPH[other]!.needs.includes(key) && (state === "processing" || wanted);
    });
  }

  /** Whether nothing is left but the search for copies of what the scheduler knows and nobody has. */
  #onlySearches(): boolean {
    if (this.#timers.size !== 1 || !this.#timers.has("find-missing")) return false;
    const missing = KEYS.filter((key) => this.worker.state(key) === "missing");
    return missing.length > 0 &&
      missing.every((key) => this.#isKnown(key) && this.#known.get(key)!.holders.size === 0);
  }

  /** At rest both sides believe the same. */
  #agree(): void {
    for (const { key, state, holders } of this.#known.values()) {
      const here = this.worker.state(key);
      const message = `${key}: ${state} at the scheduler, ${here} at the worker`;
      assert(state !== "processing", message);
      assertEquals(here === "memory", state === "memory" && holders.has(ME), message);
      assertEquals(
        here === "memory",
        this.#store.has(key),
        `${message}, in the store: ${this.#store.has(key)}`,
      );
      if (here === "missing") assert(this.#onlySearches(), message);
      else assert(["memory", "error", "unknown"].includes(here), message);
      if (here === "error") assertEquals(state, "erred", message);
    }
    if (!this.#onlySearches()) assertEquals([...this.#timers], [], "no timer is left");
  }
}

function keysOf(event: Untimed): readonly Key[] {
  switch (event.type) {
    case "status-changed":
    case "resources-changed":
    case "timer":
    case "remove-worker":
      return [];
    case "acquire-replicas":
    case "refresh-who-has":
      return [...event.whoHas.keys()];
    case "data-added":
      return [...event.nbytes.keys()];
    default:
      return "keys" in event ? event.keys : [event.key];
  }
}
