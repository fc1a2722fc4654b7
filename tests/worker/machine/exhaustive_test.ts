// deno-lint-ignore-file no-console -- figures are for people
/**
 * Every order of events, for two keys and two peers: breadth first from an idle worker, and from those that are deep in
 * a race, through everything that a scheduler may ask of either key and everything that executors, peers and timers may
 * answer. Situations that differ in
 * run ids and times only are one situation and are gone into once, so the depth is a depth of situations, not of luck.
 *
 * In every situation the invariants hold and the shell can perform what it is told (see `machine_shell.ts`), and the way
 * to rest is open: when what is under way ends and both keys are freed, nothing is left.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
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
} from "../../support/machine.ts";
import { Shell } from "../../support/machine_shell.ts";
import { EVENTS } from "../../support/machine_storm.ts";

const GPU = { GPU: 1 };

/** What may be asked at any time. `x` needs `d`, which wants a resource; `n` is a new number. */
const ASKED: Readonly<Record<string, (n: number) => Untimed>> = {
  "compute x, d is at p and q": (n) => compute("x", { run: n, needs: { d: ["p", "q"] } }),
  "compute x, d is nowhere": (n) => compute("x", { run: n, needs: { d: [] } }),
  "compute d": (n) => compute("d", { run: n, resources: GPU }),
  "free x": () => free("x"),
  "free d": () => free("d"),
  "free both": () => free("d", "x"),
  "steal x": (n) => steal("x", `steal-${n}`),
  "steal d": (n) => steal("d", `steal-${n}`),
  "cancel x": () => cancelCompute("x"),
  "cancel d": () => cancelCompute("d"),
  "acquire x from q": () => acquire({ x: ["q"] }),
  "acquire d from p": () => acquire({ d: ["p"] }),
  "acquire both from p": () => acquire({ d: ["p"], x: ["p"] }),
  "remove x": () => removeReplicas("x"),
  "remove d": () => removeReplicas("d"),
  "nobody has d": () => refresh({ d: [] }),
  "q has d": () => refresh({ d: ["q"] }),
  "q has x": () => refresh({ x: ["q"] }),
  "p is gone": () => removeWorker("p"),
  "q is gone": () => removeWorker("q"),
  "x is given": () => dataAdded("x"),
  "d is given": () => dataAdded("d"),
  "pause": () => status("paused"),
  "run": () => status("running"),
  "no GPU": () => resources({ GPU: 0 }),
  "a GPU": () => resources(GPU),
};

interface Start {
  /** All orders of up to this many events follow. */
  readonly depth: number;
  readonly path: readonly string[];
  /** States of x and d there. */
  readonly at: readonly [x: string, d: string];
}
const RUNNING = ["compute d", "start d"];
const STARTS: readonly Start[] = [
  { depth: 5, path: [], at: ["unknown", "unknown"] },
  ...deep(["compute d", "steal d"], ["unknown", "constrained(placed)"]),
  ...deep(["compute d", "free d", "compute d"], ["unknown", "resumed(placed->waiting)"]),
  ...deep(["compute d", "free d", "acquire d from p"], ["unknown", "resumed(placed->fetch)"]),
  ...deep([...RUNNING, "free d", "compute d"], ["unknown", "resumed(executing->waiting)"]),
  ...deep([...RUNNING, "free d", "compute x, d is nowhere"], ["waiting", "resumed(executing->fetch)"]),
  ...deep([...RUNNING, "secede d", "free d", "compute d"], ["unknown", "resumed(long-running->waiting)"]),
  ...deep([...RUNNING, "secede d", "free d", "acquire d from p"], [
    "unknown",
    "resumed(long-running->fetch)",
  ]),
  ...deep(["acquire d from p", "free d", "compute d"], ["unknown", "resumed(flight->waiting)"]),
  ...deep(["acquire d from p", "p is gone", "acquire x from q"], ["flight", "flight"]),
  ...deep([...RUNNING, "succeed d", "compute x, d is at p and q"], ["ready(placed)", "memory"]),
  ...deep([...RUNNING, "succeed d", "compute x, d is at p and q", "start x", "free d"], [
    "executing",
    "released",
  ]),
  ...deep([...RUNNING, "fail d", "compute x, d is at p and q"], ["waiting", "flight"]),
  ...deep([...RUNNING, "no GPU", "compute d"], ["unknown", "executing"]),
];

function deep(path: readonly string[], at: Start["at"]): Start[] {
  return [{ depth: 3, path, at }];
}

/** A worker with everything around it, replayed from the names of what happened. */
class Situation {
  readonly shell = new Shell(new TestWorker({ seed: 1, resources: GPU }), { slots: 1, keys: ["x", "d"] });
  #number = 0;

  constructor(path: readonly string[]) {
    for (const name of path) this.happen(name);
  }

  possible(): string[] {
    return [...Object.keys(ASKED), ...this.shell.reports()];
  }

  happen(name: string): void {
    const asked = ASKED[name];
    if (asked === undefined) this.shell.report(name);
    else this.shell.handle(asked(++this.#number));
  }

  /** Lets everything end; then nothing may be left. */
  rest(): void {
    this.happen("run");
    this.happen("a GPU");
    this.happen("free both");
    const next = () =>
      this.shell.reports().find((name) => /^(withdrawn|late|start|succeed|arrive|timer)/.test(name));
    for (let end = next(); end !== undefined; end = next()) this.happen(end);
    this.shell.assertEmpty();
  }

  /** The same for situations that differ in run ids, times and the past only. */
  fingerprint(): string {
    const { worker, calls, transfers, timers, store, late } = this.shell;
    const names = /^(runId|placedAs|since|priority|order|counts|nbytes|needs)$/;
    return JSON.stringify(
      [
        worker.machine.snapshot(),
        [...calls],
        [...transfers],
        [...timers],
        [...store.keys()].sort(),
        [...late.keys()],
      ],
      (name, value) => names.test(name) ? undefined : name === "steals" ? value.length : value,
    );
  }
}

Deno.test("W11 WorkerMachine is sound in every order of events of two keys and two peers", () => {
  const met = new Set<string>();
  for (const start of STARTS) explore(start, met);
  const happened = new Set([...met].map((pair) => pair.slice(pair.indexOf(" <- ") + 4)));
  assertEquals(EVENTS.filter((event) => !happened.has(event)), [], "every event happened");
});

function explore({ depth, path, at }: Start, met: Set<string>): void {
  const begin = new Situation(path);
  assertEquals(["x", "d"].map((key) => begin.shell.worker.state(key)), [...at], path.join(", "));
  const seen = new Set<string>([begin.fingerprint()]);
  let frontier: (readonly string[])[] = [path];
  let orders = 0;
  for (let i = 0; i < depth; i++) {
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
          for (const pair of situation.shell.met.keys()) met.add(pair);
        } catch (error) {
          throw new Error(`Failed: ${longer.join(", ")}`, { cause: error });
        }
      }
    }
    frontier = next;
  }
  console.log(
    `x ${at[0]}, d ${
      at[1]
    }: ${depth} events, ${orders} orders, ${seen.size} situations; ${met.size} pairs so far`,
  );
}
