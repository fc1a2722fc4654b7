/**
 * Every invariant is checked: a world that was sound is spoilt in one place, and the check names the invariant.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { BugError } from "../../../base/assert.ts";
import type { WorkerEvent } from "../../../worker/machine/events.ts";
import { react } from "../../../worker/machine/machine.ts";
import {
  FORGOTTEN,
  givenValue,
  MISSING,
  type Ready,
  type Run,
  STATE_NAMES,
  Task,
} from "../../../worker/machine/task.ts";
import { INVARIANTS, validate } from "../../../worker/machine/validate.ts";
import { TRANSITIONS_PER_TASK_MAX, World } from "../../../worker/machine/world.ts";
import { move, settle, TRANSITIONS } from "../../../worker/machine/transitions.ts";
import { acquire, arrived, compute, started, succeeded, type Untimed } from "../../support/machine.ts";

/**
 * A world with a task in many states: `held` in memory, `runs` executing, `placed` and `queued` ready, `gpu`
 * constrained, `waits` for `lost` (missing) and `far` (in flight from alice), `near` to be fetched from her later.
 */
function sound(): World {
  const world = new World({ address: "me", slots: 1, resources: { GPU: 1 } });
  const events: readonly Untimed[] = [
    acquire({ held: ["bob"] }),
    arrived("bob", ["held"]),
    compute("runs", { needs: { held: ["bob"] } }),
    started("runs"),
    compute("placed", { priority: [1] }),
    compute("queued", { priority: [2] }),
    compute("gpu", { priority: [3], resources: { GPU: 1 } }),
    compute("waits", { needs: { lost: [], far: ["alice"] } }),
    acquire({ near: ["alice"] }),
  ];
  for (const event of events) react(world, { ...event, at: 1 } as WorkerEvent);
  validate(world);
  return world;
}

const task = (world: World, key: string) => world.tasks.get(key)!;
const runOf = (world: World, key: string) => (task(world, key).state as Ready).run as Run;

/** By invariant, ways to break it. */
const SPOILT: Readonly<Record<string, readonly ((world: World) => void)[]>> = {
  "1 one record a key": [
    (world) => world.tasks.set("other", task(world, "held")),
    (world) => world.missing.add(new Task("lost")),
    (world) => world.peers.set("carol", world.peers.get("alice")!),
  ],
  "2 links": [
    (world) => task(world, "held").dependents = null,
    (world) => task(world, "waits").absent--,
    (world) => task(world, "far").waiters = 0,
    (world) => task(world, "near").dependents = new Set(),
  ],
  "3 holders": [
    (world) => world.peer("me"),
    (world) => world.peers.get("alice")!.holds.delete(task(world, "near")),
    (world) => task(world, "near").whoHas = null,
    (world) => world.peer("nobody"),
  ],
  "4 fetch and missing": [
    (world) => world.peers.get("alice")!.needed.pop(),
    (world) => world.missing.clear(),
    (world) => world.searching = false,
    (world) => world.askable.add(world.peers.get("alice")!),
  ],
  "5 ready and constrained": [
    (world) => world.ready.pop(),
    (world) => world.demands.clear(),
    (world) => world.ready.push({ task: task(world, "gpu"), live: true, priority: [0], order: 0 }),
    (world) => task(world, "queued").needs = [["GPU", 1]],
  ],
  "6 runs and transfers": [
    (world) => world.runs.delete(task(world, "runs")),
    (world) => world.requests++,
    (world) => runOf(world, "runs").phase = "long-running",
    (world) => world.peers.get("alice")!.request = ["far", "near"],
  ],
  "7 bytes": [(world) => world.nbytes++],
  "8 resources": [
    (world) => world.available.set("GPU", 0.5),
    (world) => world.overdrawn.add("GPU"),
    (world) => world.totals.set("TPU", 1),
  ],
  "9 counts": [
    (world) => world.counts.ready++,
    (world) => world.transitionsLeft = -1,
  ],
  "10 memory": [
    (world) => task(world, "held").nbytes++,
    (world) => task(world, "held").acquired = true,
  ],
  "11 need": [
    (world) => task(world, "near").acquired = false,
    (world) => task(world, "near").givenBytes = 3,
  ],
  "12 slots": [(world) => world.occupied++],
  "13 withdrawals": [
    (world) => runOf(world, "placed").steals.push("steal-1"),
    (world) => runOf(world, "placed").giveUp = true,
    (world) => world.status = "paused",
  ],
  "14 nothing is left undone": [
    (world) => world.touched.push(task(world, "held")),
    (world) => world.freed.push("held"),
    (world) => world.emit({ type: "forget-peer", peer: "alice" }),
  ],
};

for (const name of Object.keys(INVARIANTS)) {
  Deno.test(`validate finds a broken invariant ${name}`, () => {
    for (const spoil of SPOILT[name] ?? [() => {}]) {
      const world = sound();
      spoil(world);
      assertThrows(() => validate(world), BugError, `Broken invariant ${name}: `, String(spoil));
    }
  });
}

Deno.test("a change of state that is not in the table throws an error with the story of the key", () => {
  const world = sound();
  const error = assertThrows(() => move(world, task(world, "held"), MISSING), BugError);
  assert(/Cannot change from memory to missing[\s\S]*flight -> memory by fetch-arrived/.test(error.message));
  assertThrows(
    () => move(world, task(world, "runs"), FORGOTTEN),
    BugError,
    "Cannot change from executing to forgotten",
  );
});

Deno.test("the table has a row for every state, and its last row is empty", () => {
  assertEquals(Object.keys(TRANSITIONS).sort(), [...STATE_NAMES].sort());
  assertEquals(Object.keys(TRANSITIONS.forgotten), []);
});

Deno.test("tasks that never settle are a bug, not a hang", () => {
  const world = sound();
  world.transitionsLeft = TRANSITIONS_PER_TASK_MAX * world.tasks.size;
  const again = () => {
    // A consequence that contradicts another one.
    move(world, task(world, "lost"), givenValue(1));
    move(world, task(world, "lost"), { name: "released" });
    settle(world);
  };
  assertThrows(
    () => {
      for (;;) again();
    },
    BugError,
    "Tasks do not settle",
  );
});

Deno.test("an event takes as many transitions as it has tasks to change", () => {
  const world = new World({ address: "me", slots: 1 });
  const keys = Array.from({ length: 10_000 }, (_, i) => `d${i}`);
  const handle = (event: Untimed) => react(world, { ...event, at: 1 } as WorkerEvent);
  handle(compute("x", { needs: Object.fromEntries(keys.map((key) => [key, ["alice"]])) }));
  handle({ type: "data-added", nbytes: new Map(keys.map((key) => [key, 1])) });
  handle(arrived("alice", world.peers.get("alice")!.request!));
  handle(started("x"));
  handle(succeeded("x"));
  validate(world);
  handle({ type: "free-keys", keys: [...keys, "x"], stimulusId: "free-1" });
  validate(world);
  assertEquals(world.tasks.size, 0);
});
