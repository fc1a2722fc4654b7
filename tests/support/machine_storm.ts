/**
 * A scheduler that follows no rules: it asks anything of any key at any time, while calls, transfers and timers come to
 * whatever end. So every event meets every state in which it can happen; {@linkcode IMPOSSIBLE} names the others.
 *
 * Law: whatever was asked, once the asking ends everything comes to its end, every compute-task was answered or taken
 * back, and when all keys are freed the machine knows nothing.
 *
 * @module
 */
import { assert } from "@std/assert";
import type { Address, Key, WorkerEvent } from "../../worker/machine/events.ts";
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
  X_IN_STATE,
} from "./machine.ts";
import type { Chance } from "./machine_model.ts";
import { Shell } from "./machine_shell.ts";

const PEERS: readonly Address[] = ["tcp://one:2", "tcp://two:1"];
/** What every key needs. Two keys want resources. */
const GRAPH: Readonly<Record<Key, readonly Key[]>> = { a: [], b: ["a"], c: ["a", "b"], d: ["a", "b", "c"] };
const WANTS: Readonly<Record<Key, Readonly<Record<string, number>>>> = { b: { GPU: 0.6 }, d: { GPU: 0.5 } };
const KEYS = Object.keys(GRAPH);
const RESOURCES = { GPU: 1 };

/** See the module. */
export class Storm {
  readonly shell: Shell;
  readonly #chance: Chance;
  readonly #missing: Key[] = [];
  #counter = 0;

  constructor(chance: Chance) {
    this.#chance = chance;
    const slots = 1 + chance.below(2);
    const worker = new TestWorker({ address: "tcp://one:1", slots, resources: RESOURCES, seed: chance.seed });
    this.shell = new Shell(worker, {
      slots,
      keys: KEYS,
      hear: (message) => message.op === "request-refresh-who-has" && this.#missing.push(...message.keys),
    });
  }

  /** One event, of whatever kind. */
  step(): void {
    const { calls, transfers, late } = this.shell;
    const names = this.#chance.below(9) < 4
      ? this.shell.reports().filter((name) => !name.startsWith("late"))
      : [];
    if (names.length > 0) return this.shell.report(this.#among(names));
    // Mostly of what is under way or only referred to, for the rare states are those.
    const referred = KEYS.filter((key) => this.shell.worker.state(key) === "released");
    const sent = [...transfers.values()].flatMap(({ keys }) => keys);
    const busy = [...calls.keys(), ...late.keys(), ...sent, ...referred, ...referred];
    const key = this.#among(busy.length > 0 && this.#chance.below(4) > 0 ? busy : KEYS);
    if (late.has(key) && (referred.includes(key) || this.#chance.below(15) === 0)) {
      this.shell.report(`late ${key}`);
    } else this.shell.handle(this.#anything(key));
  }

  #anything(key: Key): Untimed {
    const id = `stimulus-${++this.#counter}`;
    switch (this.#chance.below(17)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return compute(key, {
          run: this.#counter,
          priority: [this.#chance.below(3)],
          needs: Object.fromEntries(GRAPH[key]!.map((need) => [need, this.#holders()])),
          resources: WANTS[key] ?? {},
        });
      case 4:
      case 5:
        return free(...KEYS.filter((other) => other === key || this.#chance.below(4) === 0));
      case 6:
      case 7:
        return acquire({ [key]: this.#holders() });
      case 8:
        return removeReplicas(key);
      case 9:
        return refresh({ [key]: this.#holders() });
      case 10:
      case 11:
        return steal(key, id);
      case 12:
        return cancelCompute(key);
      case 13:
        return removeWorker(this.#among(PEERS));
      case 14:
        return status(
          this.#among(["running", "running", "running", "paused", "closing_gracefully"] as const),
        );
      case 15:
        return resources({ GPU: this.#among([0, 0.5, 1, 2, 2, 2]) });
      default:
        return dataAdded(key);
    }
  }

  #holders(): Address[] {
    return PEERS.filter(() => this.#chance.below(2) === 0);
  }

  #among<T>(choices: readonly T[]): T {
    return choices[this.#chance.below(choices.length)]!;
  }

  /** Nothing is asked any more, and every search for a key is answered. */
  settle(): void {
    this.shell.handle(status("running"));
    this.shell.handle(resources(RESOURCES));
    for (let round = 0; round < 1000; round++) {
      const key = this.#missing.pop();
      if (key !== undefined) this.shell.handle(refresh({ [key]: PEERS }));
      else if (!this.#endSomething()) {
        for (const key of KEYS) {
          const state = this.shell.worker.state(key);
          assert(/^(memory|error|unknown)$/.test(state), `${key} has come to rest, but it is ${state}`);
        }
        return this.shell.assertQuiet();
      }
    }
    throw new Error(`Stuck: ${JSON.stringify(this.shell.worker.machine.snapshot(), null, 1)}`);
  }

  #endSomething(): boolean {
    const ends = this.shell.reports().filter((name) => {
      return /^(start|withdrawn|late|succeed|arrive|timer)/.test(name);
    });
    if (ends.length === 0) return false;
    this.shell.report(this.#among(ends));
    return true;
  }

  /** All keys are freed; so must the machine be. */
  clear(): void {
    this.shell.handle(free(...KEYS));
    while (this.#endSomething());
    this.shell.assertEmpty();
  }
}

/** Every state of a key as `WorkerMachine.state` says it. */
export const STATES: readonly string[] = Object.keys(X_IN_STATE);
type Why = readonly [where: (state: string) => boolean, reason: string];
const idle = (state: string) => !/placed|executing|long-running/.test(state);
const waits = (state: string) => state.includes("placed");
const begun = (state: string) => /executing|long-running/.test(state);
const NO_CALL: Why = [idle, "no executor has a call of this key"];
const NOT_BEGUN: Why = [waits, "executors tell the beginning of a call first"];
const NO_TRANSFER: Why = [(state) => !state.includes("flight"), "no peer was asked for this key"];

/** The pairs of state and event that our own shell rules out, with its reason. All others can happen. */
export const IMPOSSIBLE: { readonly [Event in WorkerEvent["type"]]: readonly Why[] } = {
  // What is asked may meet any state: messages of both sides cross.
  "compute-task": [],
  "free-keys": [],
  "remove-replicas": [],
  "acquire-replicas": [],
  "refresh-who-has": [],
  "steal-request": [],
  "cancel-compute": [],
  "remove-worker": [],
  "status-changed": [],
  "resources-changed": [],
  "data-added": [],
  "execute-started": [NO_CALL, [begun, "a call begins once"]],
  "execute-succeeded": [NO_CALL, NOT_BEGUN],
  "execute-failed": [NO_CALL], // also before it began: its inputs cannot be read
  "execute-rescheduled": [NO_CALL, NOT_BEGUN],
  "execute-withdrawn": [], // also of calls that had ended when it was asked for
  "seceded": [NO_CALL, NOT_BEGUN, [(state) => state.includes("long-running"), "a call secedes once"]],
  "fetch-arrived": [NO_TRANSFER],
  "fetch-busy": [NO_TRANSFER],
  "fetch-unreachable": [NO_TRANSFER],
  "timer": [],
};

/** Everything that can happen. */
export const EVENTS = Object.keys(IMPOSSIBLE) as readonly WorkerEvent["type"][];
