/**
 * The invariants, by number and name; a broken one throws an error that says which, and the story of the key. The
 * first ten are those that dask's own worker checks, the others are ours. Costs a scan of everything: for tests, and
 * for hunting.
 *
 * @module
 */
import type { Key } from "./events.ts";
import {
  type Needs,
  type Node,
  type Run,
  runOf,
  sourceOf,
  STATE_NAMES,
  type StateName,
  type Task,
} from "./task.ts";
import type { World } from "./world.ts";

type Check = (belief: boolean, message: string, key?: Key) => void;
type Invariant = (world: World, check: Check) => void;

/** What is true of every world between two events. */
export const INVARIANTS: Readonly<Record<string, Invariant>> = {
  "1 one record a key": checkRecords,
  "2 links": checkLinks,
  "3 holders": checkHolders,
  "4 fetch and missing": checkWanted,
  "5 ready and constrained": checkQueues,
  "6 runs and transfers": checkBusy,
  "7 bytes": checkBytes,
  "8 resources": checkResources,
  "9 counts": checkCounts,
  "10 memory": checkMemory,
  "11 need": checkNeed,
  "12 slots": checkSlots,
  "13 withdrawals": checkWithdrawals,
  "14 nothing is left undone": checkDone,
};

/** Throws unless every invariant holds. */
export function validate(world: World): void {
  let invariant = "";
  const check: Check = (belief, message, key = "") => {
    if (!belief) throw world.bug(`Broken invariant ${invariant}: ${message}`, key);
  };
  for (invariant in INVARIANTS) INVARIANTS[invariant]!(world, check);
}

function checkRecords(world: World, check: Check): void {
  const known = (task: Task): void =>
    check(world.tasks.get(task.key) === task, "every task in an index is the one known by its key", task.key);
  for (const [key, task] of world.tasks) {
    check(task.key === key, "tasks are filed under their own key", key);
    task.dependencies.forEach(known);
    task.dependents?.forEach(known);
  }
  world.missing.forEach(known);
  world.runs.forEach(known);
  for (const { task } of world.ready.living()) known(task);
  for (const { queue } of world.demands.values()) for (const { task } of queue.living()) known(task);
  for (const [address, peer] of world.peers) {
    check(peer.address === address, "peers are filed under their own address", address);
    peer.holds.forEach(known);
    for (const { task } of peer.needed.living()) known(task);
  }
  for (const peer of world.askable) check(world.peers.get(peer.address) === peer, "askable peers are known");
}

const WAITED_FOR: ReadonlySet<StateName> = new Set<StateName>([
  "fetch",
  "missing",
  "flight",
  "resumed",
  "waiting",
  "ready",
  "constrained",
  "executing",
  "long-running",
]);
const COMPUTED: ReadonlySet<StateName> = new Set<StateName>([
  "waiting",
  "ready",
  "constrained",
  "executing",
  "long-running",
  "resumed",
]);

function checkLinks(world: World, check: Check): void {
  for (const [key, task] of world.tasks) {
    const waits = task.state.name === "waiting";
    let absent = 0;
    for (const dependency of task.dependencies) {
      check(dependency.dependents?.has(task) === true, "dependents mirror dependencies", key);
      if (dependency.state.name === "memory") continue;
      absent++;
      check(!waits || WAITED_FOR.has(dependency.state.name), "a waiting task waits for what will come", key);
    }
    let waiters = 0;
    for (const dependent of task.dependents ?? []) {
      check(dependent.dependencies.includes(task), "dependencies mirror dependents", key);
      if (dependent.state.name === "waiting") waiters++;
    }
    check(task.dependents === null || task.dependents.size > 0, "no set of dependents is empty", key);
    check(task.absent === absent, "absent counts the dependencies that are not in memory", key);
    check(task.waiters === waiters, "waiters counts the dependents that wait", key);
    check(!waits || absent > 0, "a waiting task waits for something", key);
    check(
      task.dependencies.length === 0 || COMPUTED.has(task.state.name),
      "only tasks to compute have dependencies",
      key,
    );
  }
}

function checkHolders(world: World, check: Check): void {
  check(!world.peers.has(world.address), "we are not among the peers");
  for (const [key, task] of world.tasks) {
    check(task.whoHas === null || task.whoHas.size > 0, "no set of holders is empty", key);
    for (const peer of task.whoHas ?? []) {
      check(world.peers.get(peer.address) === peer, "holders are known", key);
      check(peer.holds.has(task), "holds mirrors whoHas", key);
    }
  }
  for (const peer of world.peers.values()) {
    for (const task of peer.holds) {
      check(task.whoHas?.has(peer) === true, "whoHas mirrors holds", task.key);
    }
    check(peer.holds.size > 0 || peer.request !== null || peer.held, "only peers that matter are known");
  }
}

function checkWanted(world: World, check: Check): void {
  for (const peer of world.peers.values()) {
    const queued = new Set(peer.needed.living());
    let fetched = 0;
    for (const task of peer.holds) {
      if (task.state.name !== "fetch") continue;
      fetched++;
      const { node } = task.state;
      check(node !== null && queued.has(node), "what is fetched is in the queue of each holder", task.key);
      check(
        peer.request !== null || peer.held || world.askable.has(peer),
        "who can be asked is askable",
        task.key,
      );
    }
    check(queued.size === fetched, "nothing else is in the queue of a holder");
    check(!world.askable.has(peer) || (peer.request === null && !peer.held), "askable peers are idle");
  }
  for (const [key, task] of world.tasks) {
    const { name } = task.state;
    check(name !== "fetch" || task.whoHas !== null, "what is fetched has holders", key);
    check(name !== "missing" || task.whoHas === null, "what is missing has no holders", key);
    check(world.missing.has(task) === (name === "missing"), "missing holds what is missing", key);
  }
  check(world.missing.size === 0 || world.searching, "what is missing is searched for");
}

function checkQueues(world: World, check: Check): void {
  const ready = new Set(world.ready.living());
  const constrained = new Map<Node, Needs>();
  for (const { needs, queue } of world.demands.values()) {
    for (const node of queue.living()) constrained.set(node, needs);
  }
  let readies = 0, constraineds = 0;
  for (const [key, { state, needs, absent }] of world.tasks) {
    if (state.name !== "ready" && state.name !== "constrained") continue;
    check((state.node === null) !== (state.run === null), "a ready task is queued or placed", key);
    check((state.name === "constrained") === (needs.length > 0), "constrained tasks want resources", key);
    if (state.node === null) continue;
    check(absent === 0, "a ready task has its dependencies", key);
    if (state.name === "ready") {
      readies++;
      check(ready.has(state.node), "a ready task is in its queue", key);
    } else {
      constraineds++;
      const queued = constrained.get(state.node);
      check(queued !== undefined, "a constrained task is in a queue", key);
      check(JSON.stringify(queued) === JSON.stringify(needs), "that queue is of its own needs", key);
    }
  }
  check(ready.size === readies, "only ready tasks are queued as ready");
  check(constrained.size === constraineds, "only constrained tasks are queued so");
}

function checkBusy(world: World, check: Check): void {
  let requests = 0;
  for (const [key, task] of world.tasks) {
    const { state } = task;
    const run = runOf(task);
    const source = sourceOf(task);
    check((run !== null) === world.runs.has(task), "runs holds the tasks that have one", key);
    check(source === null || source.request?.includes(key) === true, "what is on its way was asked for", key);
    if (state.name === "executing" || state.name === "long-running") {
      check(state.run.phase === state.name, "phase and state agree", key);
    } else if (state.name === "ready" || state.name === "constrained") {
      check(state.run === null || state.run.phase === "placed", "a ready task does not run", key);
    }
  }
  for (const peer of world.peers.values()) {
    check(peer.request !== null || !peer.stale, "only a transfer is stale");
    if (peer.request === null) continue;
    requests++;
    for (const key of peer.request) {
      const task = world.tasks.get(key);
      check(task !== undefined && sourceOf(task) === peer, "what was asked for is on its way", key);
    }
  }
  check(requests === world.requests, "requests counts the open transfers");
  check(requests <= world.transferPeersMax, "not more transfers are open than allowed");
}

function checkBytes(world: World, check: Check): void {
  let nbytes = 0;
  for (const { state } of world.tasks.values()) if (state.name === "memory") nbytes += state.nbytes;
  check(nbytes === world.nbytes, "nbytes is the sum of what is in memory");
}

function checkResources(world: World, check: Check): void {
  const used = new Map<string, number>();
  for (const task of world.runs) {
    for (const [name, amount] of runOf(task)!.needs) used.set(name, (used.get(name) ?? 0) + amount);
  }
  check(world.available.size === world.totals.size, "what is available is a part of a total");
  for (const [name, total] of world.totals) {
    const available = world.available.get(name) ?? NaN;
    check(Math.abs(available + (used.get(name) ?? 0) - total) < 1e-6, `resource ${name} adds up`);
    check(used.has(name) || available === total, `resource ${name} is whole when nothing uses it`);
    check(
      (available < 0) === world.overdrawn.has(name),
      `resource ${name} is overdrawn only since its total was lowered`,
    );
  }
}

function checkCounts(world: World, check: Check): void {
  const counts = new Map<StateName, number>();
  for (const { state } of world.tasks.values()) counts.set(state.name, (counts.get(state.name) ?? 0) + 1);
  for (const name of STATE_NAMES) {
    check(world.counts[name] === (counts.get(name) ?? 0), `counts counts ${name}`);
  }
  check(world.transitionsLeft >= 0, "an event takes no more transitions than it may");
}

function checkMemory(world: World, check: Check): void {
  for (const [key, task] of world.tasks) {
    const { state } = task;
    if (state.name !== "memory") continue;
    check(task.nbytes === state.nbytes && state.nbytes >= 0, "the size of a value is known", key);
    check(!world.runs.has(task), "what is in memory does not run", key);
    check(task.absent === 0 && task.dependencies.length === 0, "what is in memory waits for nothing", key);
    check(!task.acquired, "what is in memory has been acquired", key);
    check(state.startstop === null, "a value was told of", key);
  }
}

function checkNeed(world: World, check: Check): void {
  for (const [key, task] of world.tasks) {
    const { state, needed } = task;
    switch (state.name) {
      case "released":
        check(!needed && task.dependents !== null, "a released task is referred to and not needed", key);
        break;
      case "fetch":
      case "missing":
      case "flight":
        check(needed, "what is to come here is needed", key);
        break;
      case "error":
        check(!needed, "nothing waits for what failed", key);
        check(state.failure === null, "a failure was told of", key);
        break;
      case "cancelled":
        check(!needed, "what is needed is not cancelled", key);
        break;
      case "resumed":
        check(state.next === "waiting" || needed, "what is resumed for its value is needed", key);
        check(
          state.next === "waiting" || state.busy.kind === "run",
          "no flight is resumed for a flight",
          key,
        );
        break;
      case "rescheduled":
      case "forgotten":
        check(false, `no task rests in ${state.name}`, key);
    }
    check(
      task.givenBytes === null || runOf(task) !== null || sourceOf(task) !== null,
      "a given value waits for something to end",
      key,
    );
  }
}

function checkSlots(world: World, check: Check): void {
  let occupied = 0;
  for (const task of world.runs) if (runOf(task)!.phase !== "long-running") occupied++;
  check(occupied === world.occupied, "occupied counts the runs in slots");
  check(occupied <= 2 * world.slots, "up to two runs are in a slot");
  const idle = world.status === "running" && world.occupied < world.slots;
  check(!idle || world.ready.peek() === null, "no slot is idle while a task is ready");
}

function checkWithdrawals(world: World, check: Check): void {
  for (const task of world.runs) {
    const run = runOf(task)!;
    const { key, state } = task;
    const placed = run.phase === "placed";
    check(run.steals.length === 0 || (placed && run.withdrawing), "who steals waits for a withdrawal", key);
    check(!run.giveUp || (placed && run.withdrawing), "what is given up is being withdrawn", key);
    if (!placed || run.withdrawing) continue;
    check(state.name !== "cancelled", "a placed call nobody wants is taken back", key);
    check(state.name !== "resumed", "a call that was to stop is never used", key);
    check(world.status === "running", "nothing stays placed while paused", key);
    check(!wantsOverdrawn(world, run), "nothing stays placed that wants more than there is", key);
  }
}

function wantsOverdrawn(world: World, run: Run): boolean {
  return run.needs.some(([name]) => world.overdrawn.has(name));
}

function checkDone(world: World, check: Check): void {
  const undone = world.touched.length + world.freed.length + world.announced.length + world.out.length;
  check(undone === 0, "nothing is left to say or to look at");
  if (world.status !== "running" || world.requests === world.transferPeersMax) return;
  for (const peer of world.askable) {
    check(peer.needed.peek() === null, "nobody who could be asked is left unasked", peer.address);
  }
}
