/**
 * Which calls go to executors, and what comes of taking them back. The law: up to `slots` calls execute and up to
 * `slots` more wait in executors, in order of priority; until an executor reports its beginning a placed call is
 * `ready` for everybody else and can be withdrawn. A task that wants resources is never placed ahead: it waits for
 * its resources *and* a slot, and while it is the most urgent one, nothing less urgent is placed ahead of it nor
 * takes the resources it waits for. Every `withdraw` is answered once: by its end (nothing ran) or by a beginning.
 *
 * @module
 */
import type { Key } from "./events.ts";
import { before } from "./heap.ts";
import { type Needs, type Node, type Ready, type Run, runOf, stateText, type Task } from "./task.ts";
import { abort, answerSteals, move, withdraw } from "./transitions.ts";
import type { World } from "./world.ts";

const NO_KEYS: readonly Key[] = [];

/** Hands calls to executors, as far as slots and resources allow. */
export function placeMore(world: World): void {
  while (world.status === "running" && world.occupied < 2 * world.slots) {
    const task = nextTask(world);
    if (task === null) return;
    place(world, task);
  }
}

function nextTask(world: World): Task | null {
  const free = world.ready.peek();
  const demanding = world.demands.size === 0 ? null : nextDemanding(world);
  if (demanding === null || (free !== null && !before(demanding, free))) return free && free.task;
  return world.occupied < world.slots ? demanding.task : null;
}

/** The most urgent task whose resources are there and not claimed by a more urgent one that still waits for more. */
function nextDemanding(world: World): Node | null {
  const tops: Node[] = [];
  for (const [signature, { queue }] of world.demands) {
    const top = queue.peek();
    if (top === null) world.demands.delete(signature);
    else tops.push(top);
  }
  tops.sort((a, b) => before(a, b) ? -1 : 1);
  const claimed = new Set<string>();
  for (const top of tops) {
    const { needs } = top.task;
    if (!fits(world.totals, needs)) continue; // never to be satisfied here: claims nothing
    if (fits(world.available, needs) && !needs.some(([name]) => claimed.has(name))) return top;
    for (const [name] of needs) claimed.add(name);
  }
  return null;
}

function fits(amounts: ReadonlyMap<string, number>, needs: Needs): boolean {
  return needs.every(([name, amount]) => (amounts.get(name) ?? 0) >= amount);
}

/** Amounts are counted in billionths, so that 0.1 + 0.2 given back leaves what was there. */
function change(world: World, name: string, amount: number): void {
  const available = Math.round(((world.available.get(name) ?? 0) + amount) * 1e9) / 1e9;
  world.available.set(name, available);
  if (available >= 0) world.overdrawn.delete(name);
}

/**
 * Changes how much there is of a resource. Runs that hold more than that go on, as in dask; calls that wait in
 * executors for a part of it are taken back.
 */
export function setTotal(world: World, name: string, total: number): void {
  change(world, name, total - (world.totals.get(name) ?? 0));
  world.totals.set(name, total);
  if (world.available.get(name)! >= 0) return;
  world.overdrawn.add(name);
  for (const task of world.runs) {
    const run = runOf(task)!;
    if (run.phase === "placed" && run.needs.some(([needed]) => needed === name)) withdraw(world, task, run);
  }
}

function place(world: World, task: Task): void {
  const state = task.state as Ready;
  const run: Run = {
    placedAs: task.runId,
    runId: task.runId,
    phase: "placed",
    since: 0,
    needs: task.needs,
    withdrawing: false,
    steals: [],
    giveUp: false,
  };
  state.node!.live = false;
  state.node = null;
  state.run = run;
  for (const [name, amount] of run.needs) change(world, name, -amount);
  world.runs.add(task);
  world.occupied++;
  world.note(task.key, state.name, stateText(state));
  world.emit({
    type: "execute",
    key: task.key,
    runId: run.placedAs,
    runSpec: task.runSpec,
    dependencies: task.dependencies.length === 0
      ? NO_KEYS
      : task.dependencies.map((dependency) => dependency.key),
    annotations: task.annotations,
  });
}

/** The call began: it is too late for whatever was asked meanwhile. */
export function begin(world: World, task: Task, run: Run): void {
  run.phase = "executing";
  run.since = world.at;
  run.runId = task.runId;
  run.giveUp = false;
  answerSteals(world, task, run, "executing");
  if (task.state.name === "ready" || task.state.name === "constrained") {
    move(world, task, { name: "executing", run });
  } else abort(world, task, run);
}

/** The run gave up its slot. */
export function freeSlot(world: World, run: Run): void {
  run.phase = "long-running";
  world.occupied--;
}

/** The run is over, whichever way; the state of its task must change next. */
export function retire(world: World, task: Task, run: Run): void {
  world.runs.delete(task);
  if (run.phase !== "long-running") world.occupied--;
  for (const [name, amount] of run.needs) change(world, name, amount);
}

/** Takes back every placed call: we were paused. */
export function withdrawAll(world: World): void {
  for (const task of world.runs) {
    const run = runOf(task)!;
    if (run.phase === "placed") withdraw(world, task, run);
  }
}
