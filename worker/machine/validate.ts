/**
 * The invariants, clause by clause; a broken one throws an error that carries the story of the key. Costs a scan of
 * everything: for tests, and for hunting.
 *
 * @module
 */
import { type Needs, type Peer, runOf, sourceOf, STATE_NAMES, type StateName, type Task } from "./task.ts";
import type { World } from "./world.ts";

/** Throws unless every index holds all and only what its comment says. */
export function validate(world: World): void {
  for (const [key, task] of world.tasks) {
    const check = (belief: boolean, message: string): void => {
      if (!belief) throw world.bug(`Broken: ${message}`, key);
    };
    check(task.key === key, "tasks are filed under their own key");
    validateLinks(world, task, check);
    validateState(world, task, check);
  }
  validatePeers(world);
  validateQueues(world);
  validateRuns(world);
  validateSums(world);
}

type Check = (belief: boolean, message: string) => void;

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

function validateLinks(world: World, task: Task, check: Check): void {
  let present = 0;
  for (const dependency of task.dependencies) {
    check(world.tasks.get(dependency.key) === dependency, "dependencies are known");
    check(
      dependency.dependents !== null && dependency.dependents.has(task),
      "dependents mirror dependencies",
    );
    if (dependency.state.name === "memory") present++;
    else if (task.state.name === "waiting") {
      check(
        WAITED_FOR.has(dependency.state.name),
        `a waiting task does not wait for one ${dependency.state.name}`,
      );
    }
  }
  check(
    task.absent === task.dependencies.length - present,
    "absent counts the dependencies that are not in memory",
  );
  check(
    task.dependencies.length === 0 || COMPUTED.has(task.state.name),
    "only tasks to compute have dependencies",
  );
  let waiters = 0;
  for (const dependent of task.dependents ?? []) {
    check(dependent.dependencies.includes(task), "dependencies mirror dependents");
    if (dependent.state.name === "waiting") waiters++;
  }
  check(task.dependents === null || task.dependents.size > 0, "no empty set of dependents");
  check(task.waiters === waiters, "waiters counts the dependents that wait");
  check(task.whoHas === null || task.whoHas.size > 0, "no empty set of holders");
  for (const peer of task.whoHas ?? []) {
    check(peer.address !== world.address, "we are not among the holders");
    check(world.peers.get(peer.address) === peer && peer.holds.has(task), "holds mirrors whoHas");
  }
}

function validateState(world: World, task: Task, check: Check): void {
  const state = task.state;
  const run = runOf(task);
  const source = sourceOf(task);
  check((run !== null) === world.runs.has(task), "runs holds all and only tasks with a call in an executor");
  if (source !== null) {
    check(source.request !== null && source.request.includes(task.key), "what is on its way was asked for");
  }
  check(
    task.givenBytes === null || run !== null || source !== null,
    "a given value waits for something to end",
  );
  check(world.missing.has(task) === (state.name === "missing"), "missing holds all and only missing tasks");
  switch (state.name) {
    case "released":
      check(!task.needed && task.dependents !== null, "a released task is referred to and not needed");
      break;
    case "waiting":
      check(task.absent > 0, "a waiting task waits for something");
      break;
    case "fetch":
      check(task.needed, "what is fetched is needed");
      check(task.whoHas !== null, "what is fetched has holders");
      check(state.node !== null && state.node.live && state.node.task === task, "what is fetched is queued");
      for (const peer of task.whoHas ?? []) {
        check(peer.needed.living().includes(state.node!), "what is fetched is in the queue of each holder");
        check(peer.request !== null || peer.held || world.askable.has(peer), "who can be asked is askable");
      }
      break;
    case "missing":
      check(task.needed, "what is missing is needed");
      check(task.whoHas === null, "what is missing has no holders");
      check(world.searching, "what is missing is searched for");
      break;
    case "flight":
      check(task.needed, "what is in flight is needed");
      break;
    case "ready":
    case "constrained":
      check((state.node === null) !== (state.run === null), "a ready task is queued or placed");
      check((state.name === "constrained") === (task.needs.length > 0), "constrained tasks want resources");
      if (state.node !== null) {
        check(task.absent === 0, "a ready task has its dependencies");
        const queue = state.name === "ready" ? world.ready : world.demand(task.needs).queue;
        check(state.node.live && queue.living().includes(state.node), "a ready task is in its queue");
      } else check(state.run!.phase === "placed", "a ready task does not run");
      break;
    case "executing":
    case "long-running":
      check(state.run.phase === state.name, "phase and state agree");
      break;
    case "memory":
      check(!task.acquired, "what is in memory has been acquired");
      check(task.nbytes === state.nbytes && state.nbytes >= 0, "the size of a value is known");
      check(state.startstop === null, "a value was told of");
      break;
    case "error":
      check(!task.needed, "nothing waits for what failed");
      check(state.failure === null, "a failure was told of");
      break;
    case "cancelled":
      check(!task.needed, "what is needed is not cancelled");
      check(
        run === null || run.phase !== "placed" || run.withdrawing,
        "a placed call nobody wants is taken back",
      );
      break;
    case "resumed":
      check(state.next === "waiting" || task.needed, "what is resumed for its value is needed");
      check(state.next === "waiting" || run !== null, "a flight is not resumed for a flight");
      break;
    case "rescheduled":
    case "forgotten":
      check(false, `no task rests in ${state.name}`);
  }
  if (run !== null) {
    check(
      run.steals.length === 0 || (run.phase === "placed" && run.withdrawing),
      "who steals waits for a withdrawal",
    );
    check(!run.giveUp || run.phase === "placed", "only a placed call is given up");
  }
}

function validatePeers(world: World): void {
  let requests = 0;
  for (const [address, peer] of world.peers) {
    const check = (belief: boolean, message: string): void => {
      if (!belief) throw world.bug(`Broken: ${message} (peer ${address})`, peer.request?.[0] ?? address);
    };
    check(address === peer.address, "peers are filed under their own address");
    check(peer.holds.size > 0 || peer.request !== null || peer.held, "only peers that matter are known");
    if (peer.request !== null) requests++;
    for (const key of peer.request ?? []) {
      const task = world.tasks.get(key);
      check(task !== undefined && sourceOf(task) === peer, "what was asked for is on its way");
    }
    for (const task of peer.holds) {
      check(task.whoHas !== null && task.whoHas.has(peer), "whoHas mirrors holds");
    }
    for (const { task } of peer.needed.living()) {
      check(task.state.name === "fetch", "only what is fetched is queued");
    }
    check(!world.askable.has(peer) || (peer.request === null && !peer.held), "askable peers are idle");
  }
  const check = (belief: boolean, message: string): void => {
    if (!belief) throw world.bug(`Broken: ${message}`, "");
  };
  check(
    requests === world.requests && requests <= world.transferPeersMax,
    "requests counts, up to its limit",
  );
  for (const peer of world.askable) check(isKnown(world, peer), "askable peers are known");
  if (world.status !== "running" || world.requests === world.transferPeersMax) return;
  for (const peer of world.askable) {
    check(peer.needed.peek() === null, "nobody who could be asked is left unasked");
  }
}

function isKnown(world: World, peer: Peer): boolean {
  return world.peers.get(peer.address) === peer;
}

function validateQueues(world: World): void {
  for (const { task } of world.ready.living()) {
    if (task.state.name !== "ready") {
      throw world.bug("Broken: only ready tasks are queued as ready", task.key);
    }
  }
  for (const { queue } of world.demands.values()) {
    for (const { task } of queue.living()) {
      if (task.state.name !== "constrained") {
        throw world.bug("Broken: only constrained tasks are queued so", task.key);
      }
    }
  }
  const idle = world.status === "running" && world.occupied < world.slots;
  const top = idle ? world.ready.peek() : null;
  if (top !== null) throw world.bug("Broken: no slot is idle while a task is ready", top.task.key);
}

function validateRuns(world: World): void {
  let occupied = 0;
  const used = new Map<string, number>();
  for (const task of world.runs) {
    if (world.tasks.get(task.key) !== task) throw world.bug("Broken: tasks with a run are known", task.key);
    const run = runOf(task)!;
    if (run.phase !== "long-running") occupied++;
    if (world.status !== "running" && run.phase === "placed" && !run.withdrawing) {
      throw world.bug("Broken: nothing stays placed while paused", task.key);
    }
    addUp(used, run.needs);
  }
  const check = (belief: boolean, message: string): void => {
    if (!belief) throw world.bug(`Broken: ${message}`, "");
  };
  check(
    occupied === world.occupied && occupied <= 2 * world.slots,
    "occupied counts runs in slots, up to two a slot",
  );
  for (const [name, total] of world.totals) {
    const available = world.available.get(name) ?? NaN;
    check(available >= 0 || (used.get(name) ?? 0) > total, `resource ${name} is never overdrawn`);
    check(Math.abs(available + (used.get(name) ?? 0) - total) < 1e-6, `resource ${name} adds up`);
    check(used.has(name) || available === total, `resource ${name} is whole when nothing uses it`);
  }
}

function addUp(sums: Map<string, number>, needs: Needs): void {
  for (const [name, amount] of needs) sums.set(name, (sums.get(name) ?? 0) + amount);
}

function validateSums(world: World): void {
  const check = (belief: boolean, message: string): void => {
    if (!belief) throw world.bug(`Broken: ${message}`, "");
  };
  const counts = new Map<StateName, number>();
  let nbytes = 0;
  for (const task of world.tasks.values()) {
    counts.set(task.state.name, (counts.get(task.state.name) ?? 0) + 1);
    if (task.state.name === "memory") nbytes += task.nbytes;
  }
  for (const name of STATE_NAMES) {
    check(world.counts[name] === (counts.get(name) ?? 0), `counts counts ${name}`);
  }
  check(nbytes === world.nbytes, "nbytes is the sum of what is in memory");
  check(world.touched.length + world.freed.length + world.announced.length === 0, "nothing is left undone");
}
