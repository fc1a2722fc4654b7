/**
 * A small world around the worker's machine: a scheduler that follows dask's rules, and peers that may die. What both
 * sides say waits in queues, so that chance decides what meets what.
 *
 * Law: the model accounts for everything. After `settle` nothing is under way, every compute-task was answered or taken
 * back and both sides agree on who holds what; after `clear` nothing at all is left. See `machine_shell.ts` for what is
 * checked at every event.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { Address, Key } from "../../worker/machine/events.ts";
import type { ToScheduler } from "../../worker/machine/instructions.ts";
import {
  acquire,
  cancelCompute,
  compute,
  dataAdded,
  free,
  refresh,
  removeReplicas,
  removeWorker,
  resources,
  status,
  steal,
  TestWorker,
  type Untimed,
} from "./machine.ts";
import { Shell } from "./machine_shell.ts";

const ME = "tcp://one:1";
const PEERS: readonly Address[] = ["tcp://one:2", "tcp://two:1", "tcp://two:2"];
const SLOTS = 2;
const RESOURCES = { GPU: 1, DISK: 0.3 };

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

type Said = { readonly message: ToScheduler; readonly version: number | undefined };

export class Model {
  readonly shell: Shell;

  readonly #chance: Chance;
  readonly #known = new Map<Key, Known>();
  readonly #alive = new Set<Address>(PEERS);
  /** Peers that died; the scheduler does not know yet. */
  readonly #unnoticed = new Set<Address>();
  readonly #toWorker: Untimed[] = [];
  readonly #toScheduler: Said[] = [];
  #counter = 0;
  #paused = false;

  constructor(chance: Chance) {
    this.#chance = chance;
    const worker = new TestWorker({
      address: ME,
      slots: SLOTS,
      resources: RESOURCES,
      transferPeersMax: 2,
      transferBytesMax: 25,
      seed: chance.seed,
    });
    this.shell = new Shell(worker, {
      slots: SLOTS,
      keys: KEYS,
      hear: (message, version) => this.#toScheduler.push({ message, version }),
      sent: (peer, key) => {
        const { holders, version } = this.#known.get(key)!;
        return holders.has(peer) ? version % 256 : null;
      },
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
    if (dice < 24) return this.#deliver();
    if (dice < 40) return this.#hear();
    if (dice < 72) return this.#report(dice < 66 ? /^(start|withdrawn|arrive|succeed|timer)/ : /./);
    if (dice < 82) return this.#schedule();
    return this.#disturb();
  }

  /** Nothing goes wrong any more; whatever is under way comes to its end. */
  settle(): void {
    for (const peer of this.#unnoticed) this.#noticeDeath(peer);
    if (this.#paused) this.#pause(false);
    this.shell.handle(resources(RESOURCES));
    for (let round = 0; round < 3000; round++) {
      while (this.#hear());
      while (this.#deliver());
      if (this.#toScheduler.length > 0) continue;
      if (this.#report(/^(start|withdrawn|late|arrive|unreachable|succeed)/) || this.#schedule()) continue;
      if (!this.#onlySearches() && this.#report(/^timer/)) continue;
      this.#agree();
      return;
    }
    throw new Error(`Stuck: ${JSON.stringify(this.shell.worker.machine.snapshot(), null, 1)}`);
  }

  /** The scheduler forgets everything; so must the worker. */
  clear(): void {
    for (const known of this.#known.values()) known.wanted = false;
    for (const known of this.#known.values()) this.#release(known);
    this.settle();
    this.shell.assertEmpty();
  }

  #report(which: RegExp): boolean {
    for (const [peer, transfer] of this.shell.transfers) if (!this.#alive.has(peer)) transfer.broken = true;
    const names = this.shell.reports().filter((name) => which.test(name));
    if (names.length === 0) return false;
    this.shell.report(names[this.#chance.below(names.length)]!);
    return true;
  }

  #deliver(): boolean {
    const event = this.#toWorker.shift();
    if (event !== undefined) this.shell.handle(event);
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
    this.shell.handle(status(paused ? "paused" : "running"));
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
    if (known.steal !== id) return;
    known.steal = null;
    if (state === null || state === "released") this.#release(known);
    else if (/^(waiting|ready|constrained)$/.test(state)) this.#computeElsewhere(known);
  }

  /** Something that happens to a scheduler, or to a cluster. */
  #disturb(): boolean {
    const busy = [
      ...this.shell.calls.keys(),
      ...[...this.shell.transfers.values()].flatMap(({ keys }) => keys),
    ];
    const keys = this.#chance.below(2) === 0 && busy.length > 0 ? busy : KEYS;
    const known = this.#known.get(keys[this.#chance.below(keys.length)]!)!;
    const { key, state, holders } = known;
    const peer = PEERS[this.#chance.below(PEERS.length)]!;
    switch (this.#chance.below(16)) {
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
        this.shell.store.set(key, known.version % 256);
        this.shell.handle(dataAdded(key));
        holders.add(ME);
        return true;
      case 13:
        if (state !== "processing") return false;
        if (this.#chance.below(2) === 0) {
          this.#tell(cancelCompute(key));
          this.#release(known);
        } else this.#computeHere(known); // the same again, with a newer run id
        return true;
      case 14:
        if (this.#chance.below(2) === 0) return false;
        this.shell.handle(resources({
          GPU: [0, 0.5, 1, 2][this.#chance.below(4)]!,
          DISK: [0, 0.1, 0.3][this.#chance.below(3)]!,
        }));
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
    if (this.shell.timers.size !== 1 || !this.shell.timers.has("find-missing")) return false;
    const missing = KEYS.filter((key) => this.shell.worker.state(key) === "missing");
    return missing.length > 0 &&
      missing.every((key) => this.#isKnown(key) && this.#known.get(key)!.holders.size === 0);
  }

  /** At rest both sides believe the same. */
  #agree(): void {
    for (const { key, state, holders } of this.#known.values()) {
      const here = this.shell.worker.state(key);
      const message = `${key}: ${state} at the scheduler, ${here} at the worker`;
      assert(state !== "processing", message);
      assertEquals(here === "memory", state === "memory" && holders.has(ME), message);
      assertEquals(
        here === "memory",
        this.shell.store.has(key),
        `${message}, in the store: ${this.shell.store.has(key)}`,
      );
      if (here === "missing") assert(this.#onlySearches(), message);
      else assert(["memory", "error", "unknown"].includes(here), message);
      if (here === "error") assertEquals(state, "erred", message);
    }
    if (!this.#onlySearches()) assertEquals([...this.shell.timers], [], "no timer is left");
  }
}
