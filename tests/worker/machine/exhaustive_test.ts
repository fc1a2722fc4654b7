// deno-lint-ignore-file no-console -- figures and seeds are for people
/**
 * Every order of events, for two keys and two peers: breadth first from an idle worker, through everything that a
 * scheduler may ask and everything that executors, peers and timers may answer. Situations that differ in run ids and
 * times only are one situation and are gone into once, so the depth is a depth of situations, not of luck.
 *
 * In every situation the invariants hold, the instructions can be performed, and the way to rest is open: when what
 * is under way ends and both keys are freed, nothing is left.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { Address, Key } from "../../../worker/machine/events.ts";
import type { Instruction } from "../../../worker/machine/instructions.ts";
import {
  acquire,
  arrived,
  busy,
  cancelCompute,
  compute,
  dataAdded,
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
} from "../../support/machine.ts";

const DEPTH_MAX = 7;
const SITUATIONS_MAX = 12_000;

/** What the scheduler may say at any time. */
const ASKED: Readonly<Record<string, (run: number) => Untimed>> = {
  "compute x": (run) => compute("x", { run, needs: { d: ["p", "q"] } }),
  "compute d": (run) => compute("d", { run }),
  "free x": () => free("x"),
  "free d": () => free("d"),
  "free both": () => free("d", "x"),
  "steal x": (run) => steal("x", `steal-${run}`),
  "acquire d": () => acquire({ d: ["p"] }),
  "remove d": () => removeReplicas("d"),
  "nobody has d": () => refresh({ d: [] }),
  "q has d": () => refresh({ d: ["q"] }),
  "p is gone": () => removeWorker("p"),
  "cancel x": () => cancelCompute("x"),
  "d is given": () => dataAdded("d"),
};

/** A worker with everything around it, replayed from the names of what happened. */
class Situation {
  readonly worker = new TestWorker({ seed: 1 });
  readonly calls = new Map<
    Key,
    { readonly runId: number; begun: boolean; seceded: boolean; withdrawn: boolean }
  >();
  readonly transfers = new Map<Address, readonly Key[]>();
  readonly timers = new Set<string>();
  readonly store = new Set<Key>();
  readonly steals = new Map<string, number>();
  paused = false;
  #run = 0;

  constructor(path: readonly string[]) {
    for (const name of path) this.happen(name);
  }

  /** Names of what can happen now. */
  possible(): string[] {
    const names = Object.keys(ASKED).filter((name) => name !== "steal x" || this.#unanswered() < 2);
    names.push(this.paused ? "run" : "pause");
    for (const [key, call] of this.calls) {
      if (!call.begun) names.push(call.withdrawn ? `withdrawn ${key}` : `start ${key}`, `start ${key}`);
      else {
        names.push(`succeed ${key}`, `fail ${key}`, `reschedule ${key}`);
        if (!call.seceded) names.push(`secede ${key}`);
      }
    }
    for (const peer of this.transfers.keys()) {
      names.push(`arrive ${peer}`, `lack ${peer}`, `busy ${peer}`, `unreachable ${peer}`);
    }
    for (const name of this.timers) names.push(`timer ${name}`);
    return [...new Set(names)];
  }

  happen(name: string): void {
    const asked = ASKED[name];
    const [what = "", who = ""] = name.split(/ (.*)/);
    const call = this.calls.get(who);
    const keys = this.transfers.get(who) ?? [];
    if (asked !== undefined) {
      const event = asked(++this.#run);
      if (event.type === "steal-request") this.steals.set(event.stimulusId, 0);
      if (event.type === "data-added") this.store.add("d");
      return this.#handle(event);
    }
    switch (what) {
      case "run":
      case "pause":
        this.paused = what === "pause";
        return this.#handle(status(this.paused ? "paused" : "running"));
      case "start":
        call!.begun = true;
        return this.#handle(started(who, call!.runId));
      case "secede":
        call!.seceded = true;
        return this.#handle(seceded(who, call!.runId));
      case "withdrawn":
        this.calls.delete(who);
        return this.#handle(withdrawn(who, call!.runId));
      case "succeed":
        this.calls.delete(who);
        this.store.add(who);
        return this.#handle(succeeded(who, call!.runId));
      case "fail":
        this.calls.delete(who);
        return this.#handle(failed(who, call!.runId));
      case "reschedule":
        this.calls.delete(who);
        return this.#handle(rescheduled(who, call!.runId));
      case "timer":
        this.timers.delete(who);
        return this.#handle(timer(who as "find-missing"));
    }
    this.transfers.delete(who);
    switch (what) {
      case "arrive":
        for (const key of keys) this.store.add(key);
        return this.#handle(arrived(who, keys));
      case "lack":
        return this.#handle(arrived(who, keys, []));
      case "busy":
        return this.#handle(busy(who, ...keys));
      case "unreachable":
        return this.#handle(unreachable(who, ...keys));
      default:
        throw new TypeError(`What is ${name}?`);
    }
  }

  /** Lets everything end; then nothing may be left. */
  rest(): void {
    if (this.paused) this.happen("run");
    this.happen("free both");
    for (let i = 0; i < 30; i++) {
      const end = this.possible().find((name) => /^(withdrawn|start|succeed|arrive|timer)/.test(name));
      if (end === undefined) break;
      this.happen(end);
      this.happen("free both");
    }
    const { tasks, peers, occupied } = this.worker.machine.snapshot();
    assertEquals({ tasks, peers, occupied }, { tasks: {}, peers: {}, occupied: 0 });
    assertEquals([...this.store, ...this.timers, ...this.calls.keys(), ...this.transfers.keys()], []);
    for (const [id, answers] of this.steals) assertEquals(answers, 1, `${id} is answered once`);
  }

  /** The same for situations that differ in run ids, times and the past only. */
  fingerprint(): string {
    const names = /^(runId|placedAs|since|priority|order|counts|nbytes|needs)$/;
    return JSON.stringify(
      [
        this.worker.machine.snapshot(),
        [...this.calls],
        [...this.transfers],
        [...this.timers],
        [...this.store].sort(),
      ],
      (name, value) => names.test(name) ? undefined : name === "steals" ? value.length : value,
    );
  }

  #unanswered(): number {
    return [...this.steals.values()].filter((answers) => answers === 0).length;
  }

  #handle(event: Untimed): void {
    for (const instruction of this.worker.handle(event)) this.#perform(instruction);
    for (const key of ["x", "d"]) {
      if (this.worker.state(key) === "memory") {
        assert(this.store.has(key), `${key} is in memory, so it is in the store`);
      }
    }
  }

  #perform(instruction: Instruction): void {
    switch (instruction.type) {
      case "execute":
        assert(!this.calls.has(instruction.key), `${instruction.key} is in no executor`);
        for (const key of instruction.dependencies) {
          assert(this.store.has(key), `the input ${key} is in the store`);
        }
        this.calls.set(instruction.key, {
          runId: instruction.runId,
          begun: false,
          seceded: false,
          withdrawn: false,
        });
        break;
      case "withdraw": {
        const call = this.calls.get(instruction.key);
        assert(
          call !== undefined && !call.begun && !call.withdrawn,
          "only what waits is withdrawn, and once",
        );
        call.withdrawn = true;
        break;
      }
      case "abort":
        assert(this.calls.get(instruction.key)?.begun, "only what runs is aborted");
        break;
      case "fetch":
        assert(!this.transfers.has(instruction.peer), "one request to a peer at a time");
        this.transfers.set(instruction.peer, instruction.keys);
        break;
      case "free":
        for (const key of instruction.keys) {
          assert(this.store.delete(key), `${key} is in the store until it is freed`);
        }
        break;
      case "set-timer":
        this.timers.add(instruction.name);
        break;
      case "send":
        if (instruction.message.op === "steal-response") {
          const { stimulusId } = instruction.message;
          this.steals.set(stimulusId, this.steals.get(stimulusId)! + 1);
        }
    }
  }
}

Deno.test("WorkerMachine is sound in every order of events of two keys and two peers", () => {
  const seen = new Set<string>([new Situation([]).fingerprint()]);
  let frontier: (readonly string[])[] = [[]];
  let orders = 0;
  let depth = 0;
  for (; depth < DEPTH_MAX && seen.size < SITUATIONS_MAX; depth++) {
    const next: (readonly string[])[] = [];
    for (const path of frontier) {
      for (const name of new Situation(path).possible()) {
        const longer = [...path, name];
        orders++;
        try {
          const situation = new Situation(longer);
          const fingerprint = situation.fingerprint();
          if (seen.has(fingerprint)) continue;
          seen.add(fingerprint);
          next.push(longer);
          situation.rest();
        } catch (error) {
          throw new Error(`Failed: ${longer.join(", ")}`, { cause: error });
        }
      }
      if (seen.size >= SITUATIONS_MAX) break;
    }
    frontier = next;
  }
  console.log(`${orders} events in ${seen.size} situations, up to ${depth} deep`);
  assert(seen.size >= SITUATIONS_MAX || frontier.length === 0 || depth === DEPTH_MAX);
});
