/**
 * How tasks change state. Rule 1: `move` is the only place where `task.state` is assigned, and only along a row of
 * {@linkcode TRANSITIONS}. Rule 2: entering and leaving a state keeps the indexes of `world.ts` true; what the rest
 * of the world is told about a change stands in the table. Rule 3: handlers change facts (who has what, who waits,
 * what was asked) and `settle` makes the states follow by {@linkcode CONSEQUENCES}; these look at facts only, so the
 * order in which tasks are looked at does not matter.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import type { Address } from "./events.ts";
import {
  type Erred,
  type Fetch,
  FORGOTTEN,
  type LongRunning,
  type Memory,
  MISSING,
  type Missing,
  type Node,
  type Peer,
  type Ready,
  RELEASED,
  type Run,
  runOf,
  type StateName,
  type StateOf,
  stateText,
  type Task,
  type TaskState,
  WAITING,
  type Waiting,
} from "./task.ts";
import type { World } from "./world.ts";

type Transition<From extends StateName, To extends StateName> = (
  world: World,
  task: Task,
  from: StateOf<From>,
  to: StateOf<To>,
) => void;
type TransitionTable = {
  readonly [From in StateName]: { readonly [To in StateName]?: Transition<From, To> };
};

/** Every legal change of state, and what is said and done about it. No row: a bug. */
export const TRANSITIONS = {
  released: {
    waiting: quietly,
    ready: quietly,
    constrained: quietly,
    fetch: quietly,
    missing: quietly,
    memory: quietly,
    forgotten: forget,
  },
  waiting: { ready: quietly, constrained: quietly, released: quietly, memory: tellFinished },
  fetch: { flight: quietly, missing: quietly, released: quietly, memory: tellArrived },
  missing: { fetch: quietly, released: quietly, memory: tellArrived },
  flight: { memory: tellArrived, fetch: quietly, missing: quietly, cancelled: quietly, resumed: quietly },
  ready: {
    executing: quietly,
    waiting: quietly,
    released: quietly,
    cancelled: takeBack,
    memory: tellFinished,
  },
  constrained: {
    executing: quietly,
    waiting: quietly,
    released: quietly,
    cancelled: takeBack,
    memory: tellFinished,
  },
  executing: {
    "long-running": tellLongRunning,
    memory: tellFinished,
    error: tellErred,
    rescheduled: tellReschedule,
    cancelled: stop,
  },
  "long-running": { memory: tellFinished, error: tellErred, rescheduled: tellReschedule, cancelled: stop },
  memory: { released: dropValue },
  error: { released: quietly, memory: quietly },
  cancelled: { released: quietly, flight: quietly, resumed: quietly, memory: quietly },
  resumed: {
    cancelled: quietly,
    resumed: quietly,
    fetch: quietly,
    missing: quietly,
    waiting: quietly,
    ready: quietly,
    constrained: quietly,
    memory: tellAsAwaited,
  },
  rescheduled: { released: quietly },
  forgotten: {}, // terminal: the empty row says so
} satisfies TransitionTable;

function quietly(): void {}

/** The task does not wait any more, or it never did. */
function forget(world: World, task: Task): void {
  setHolders(world, task, null);
  world.tasks.delete(task.key);
  world.counts.forgotten--;
}

/** For a task that the scheduler believes to be processing here. */
function tellFinished(world: World, task: Task, from: TaskState, to: Memory): void {
  const run = "run" in from ? from.run : null;
  sayFinished(world, task, run === null || run.phase === "placed" ? task.runId : run.runId, to);
}

/** For a copy of what another worker computed. */
function tellArrived(world: World, task: Task, _from: TaskState, to: Memory): void {
  if (to.came !== "given") announce(world, task);
}

/** The opposite of what was done may be what is awaited: `next` says which. */
function tellAsAwaited(world: World, task: Task, from: StateOf<"resumed">, to: Memory): void {
  if (from.next === "waiting") return sayFinished(world, task, task.runId, to);
  to.startstop = null; // a copy, for all the scheduler knows
  if (to.came !== "given") announce(world, task);
}

function tellErred(world: World, task: Task, from: TaskState, to: Erred): void {
  assert("run" in from && from.run !== null && to.failure !== null, "A run that failed was there");
  const { exception, traceback, exceptionText, tracebackText, start, stop } = to.failure;
  world.say({
    op: "task-erred",
    key: task.key,
    runId: from.run.runId,
    exception,
    traceback,
    exceptionText,
    tracebackText,
    startstop: { start, stop },
    stimulusId: world.stimulus("task-erred"),
  });
  to.failure = null;
}

function tellLongRunning(world: World, task: Task, _from: TaskState, to: LongRunning): void {
  world.say({
    op: "long-running",
    key: task.key,
    runId: to.run.runId,
    computeDuration: to.computeDuration,
    stimulusId: world.stimulus("long-running"),
  });
}

function tellReschedule(world: World, task: Task): void {
  world.say({ op: "reschedule", key: task.key, stimulusId: world.stimulus("reschedule") });
}

/** Asks the executor for a call that has not begun. */
function takeBack(world: World, task: Task, from: Ready): void {
  assert(from.run !== null, "Only a placed task is cancelled");
  answerSteals(world, task, from.run, "cancelled");
  withdraw(world, task, from.run);
}

function stop(world: World, task: Task, from: TaskState): void {
  assert("run" in from && from.run !== null, "A run to stop was there");
  abort(world, task, from.run);
}

function dropValue(world: World, task: Task): void {
  world.freed.push(task.key);
  sayReleased(world, task);
}

/**
 * What the facts about a task ask of its state: the state to move to, or null when all is well. Looked at again until
 * it gives null for every task that was touched.
 */
export const CONSEQUENCES: {
  readonly [Name in StateName]: (task: Task, state: StateOf<Name>) => TaskState | null;
} = {
  released: (task) => task.needed ? sought(task) : task.dependents === null ? FORGOTTEN : null,
  waiting: (task) => task.absent === 0 ? computable(task) : null,
  fetch: (task) => !task.needed ? RELEASED : task.whoHas === null ? MISSING : null,
  missing: (task) => !task.needed ? RELEASED : task.whoHas === null ? null : sought(task),
  flight: (task, state) =>
    task.needed ? null : { name: "cancelled", busy: { kind: "flight", peer: state.peer } },
  ready: queuedConsequence,
  constrained: queuedConsequence,
  executing: () => null,
  "long-running": () => null,
  memory: () => null,
  // Kept until free-keys. But when a task waits for this key, the scheduler knows of a copy elsewhere.
  error: (task) => task.needed ? RELEASED : null,
  cancelled: (task, { busy }) =>
    !task.needed
      ? null
      : busy.kind === "flight"
      ? { name: "flight", peer: busy.peer }
      : { name: "resumed", busy, next: "fetch" },
  resumed: (task, { busy, next }) => next === "fetch" && !task.needed ? { name: "cancelled", busy } : null,
  rescheduled: () => RELEASED,
  forgotten: () => null,
};

function queuedConsequence(task: Task, state: Ready): TaskState | null {
  return state.run === null && task.absent > 0 ? WAITING : null;
}

/** The state of a key that has to come from a peer. */
export function sought(task: Task): Fetch | Missing {
  return task.whoHas === null ? MISSING : { name: "fetch", node: null };
}

/** The state of a task that has to be computed. */
export function computable(task: Task): Waiting | Ready {
  if (task.absent > 0) return WAITING;
  return { name: task.needs.length === 0 ? "ready" : "constrained", node: null, run: null };
}

/** Makes the states follow the facts. */
export function settle(world: World): void {
  for (let task = world.touched.pop(); task !== undefined; task = world.touched.pop()) {
    const consequence = CONSEQUENCES[task.state.name] as (task: Task, state: TaskState) => TaskState | null;
    const next = consequence(task, task.state);
    if (next !== null) move(world, task, next);
  }
}

/** Changes the state of a task, and whatever the table and the indexes ask for. */
export function move(world: World, task: Task, to: TaskState): void {
  const from = task.state;
  const row: { readonly [To in StateName]?: unknown } = TRANSITIONS[from.name];
  // The table's type ties each function to its row and column; both are looked up here by the names of these states.
  const transition = row[to.name] as
    | ((world: World, task: Task, from: TaskState, to: TaskState) => void)
    | undefined;
  if (transition === undefined) {
    throw world.bug(`Cannot change from ${stateText(from)} to ${stateText(to)}`, task.key);
  }
  world.note(task.key, stateText(from), stateText(to));
  if (--world.transitionsLeft < 0) throw world.bug("Tasks do not settle", task.key);
  leave(world, task, from);
  task.state = to;
  world.counts[from.name]--;
  world.counts[to.name]++;
  enter(world, task, to);
  transition(world, task, from, to);
  world.touch(task);
}

function leave(world: World, task: Task, from: TaskState): void {
  switch (from.name) {
    case "waiting":
      for (const dependency of task.dependencies) {
        dependency.waiters--;
        if (dependency.state.name !== "memory") world.touch(dependency);
      }
      break;
    case "fetch":
    case "ready":
    case "constrained":
      if (from.node !== null) from.node.live = false;
      break;
    case "missing":
      world.missing.delete(task);
      break;
    case "memory":
      world.nbytes -= from.nbytes;
      if (task.dependents !== null) {
        for (const dependent of task.dependents) {
          dependent.absent++;
          world.touch(dependent);
        }
      }
      break;
  }
}

function enter(world: World, task: Task, to: TaskState): void {
  switch (to.name) {
    case "waiting":
      for (const dependency of task.dependencies) {
        dependency.waiters++;
        if (dependency.state.name !== "memory") world.touch(dependency);
      }
      break;
    case "fetch":
      assert(task.whoHas !== null, "What is fetched has holders");
      to.node = newNode(task);
      for (const peer of task.whoHas) offer(world, peer, to.node);
      break;
    case "missing":
      world.missing.add(task);
      if (!world.searching) {
        world.searching = true;
        world.emit({ type: "set-timer", name: "find-missing", at: world.at + world.findMissingMs });
      }
      break;
    case "ready":
      if (to.run === null) world.ready.push(to.node = newNode(task));
      break;
    case "constrained":
      if (to.run === null) world.demand(task.needs).queue.push(to.node = newNode(task));
      break;
    case "executing":
    case "long-running":
    case "resumed": // to be fetched: it was cancelled before, hence has no call; to be computed: it has
      break;
    case "memory":
      task.acquired = false;
      task.nbytes = to.nbytes;
      world.nbytes += to.nbytes;
      dropCall(world, task);
      if (task.dependents !== null) {
        for (const dependent of task.dependents) {
          dependent.absent--;
          world.touch(dependent);
        }
      }
      break;
    default:
      dropCall(world, task);
  }
}

function newNode(task: Task): Node {
  return { task, priority: task.priority, order: task.order, live: true };
}

/** The task is not, or no longer, to be computed. */
function dropCall(world: World, task: Task): void {
  for (const dependency of task.dependencies) {
    const dependents = dependency.dependents!;
    dependents.delete(task);
    if (dependents.size === 0) dependency.dependents = null;
    if (dependency.state.name === "released") world.touch(dependency);
  }
  task.dropCall();
}

/** Notes that the task now needs `dependency`. The caller puts it into `task.dependencies`. */
export function link(world: World, task: Task, dependency: Task): void {
  dependency.dependents ??= new Set();
  dependency.dependents.add(task);
  if (dependency.state.name !== "memory") task.absent++;
  world.touch(dependency);
}

/** Replaces what is known of the holders of this task; null for none. Ourselves we do not count. */
export function setHolders(world: World, task: Task, holders: readonly Address[] | null): void {
  const old = task.whoHas;
  if (
    old === null ? holders === null || holders.length === 0 : holders !== null && areHolders(old, holders)
  ) return;
  const peers = new Set<Peer>();
  if (holders !== null) {
    for (const address of holders) if (address !== world.address) peers.add(world.peer(address));
  }
  task.whoHas = peers.size === 0 ? null : peers;
  if (old !== null) {
    for (const peer of old) {
      if (peers.has(peer)) continue;
      peer.holds.delete(task);
      dismiss(world, peer);
    }
  }
  for (const peer of peers) {
    if (old !== null && old.has(peer)) continue;
    peer.holds.add(task);
    if (task.state.name === "fetch") offer(world, peer, task.state.node!);
  }
  world.touch(task);
}

function areHolders(peers: ReadonlySet<Peer>, holders: readonly Address[]): boolean {
  if (peers.size !== holders.length) return false;
  const named = new Set(holders);
  for (const peer of peers) if (!named.has(peer.address)) return false;
  return true;
}

/** This peer does not have this task. */
export function removeHolder(world: World, task: Task, peer: Peer): void {
  if (task.whoHas === null || !task.whoHas.delete(peer)) return;
  if (task.whoHas.size === 0) task.whoHas = null;
  peer.holds.delete(task);
  world.touch(task);
  dismiss(world, peer);
}

/** Puts a task in state `fetch` into the queue of a holder. */
export function offer(world: World, peer: Peer, node: Node): void {
  peer.needed.push(node);
  if (peer.request === null && !peer.held) world.askable.add(peer);
}

/** Forgets a peer that matters no more. */
export function dismiss(world: World, peer: Peer): void {
  if (peer.holds.size > 0 || peer.request !== null || peer.held) return;
  world.askable.delete(peer);
  world.peers.delete(peer.address);
}

/** Tells the scheduler, with all others of this event, that we hold a copy. */
export function announce(world: World, task: Task): void {
  world.announced.push(task.key);
}

const UNKNOWN_TYPE = { typename: "object", pythonType: new TextEncoder().encode("cbuiltins\nobject\n.") };

/** Tells the scheduler that what it asked for is in memory. */
export function sayFinished(world: World, task: Task, runId: number, value: Memory): void {
  const { typename, pythonType } = value.type ?? UNKNOWN_TYPE;
  world.say({
    op: "task-finished",
    key: task.key,
    runId,
    nbytes: value.nbytes,
    typename,
    pythonType,
    ...(value.startstop === null ? {} : { startstop: value.startstop }),
    stimulusId: world.stimulus("task-finished"),
  });
  value.startstop = null;
}

/** Tells the scheduler that we do not hold this. */
export function sayReleased(world: World, task: Task): void {
  world.say({ op: "release-worker-data", key: task.key, stimulusId: world.stimulus("release-worker-data") });
}

/** Sends `withdraw` unless it was sent. */
export function withdraw(world: World, task: Task, run: Run): void {
  assert(run.phase === "placed", "Only a placed call can be withdrawn");
  if (run.withdrawing) return;
  run.withdrawing = true;
  world.note(task.key, stateText(task.state), "withdraw");
  world.emit({ type: "withdraw", key: task.key, runId: run.placedAs });
}

/** Tells the executor to stop a call that nobody wants. */
export function abort(world: World, task: Task, run: Run): void {
  world.emit({
    type: "abort",
    key: task.key,
    runId: run.placedAs,
    reason: `Task ${JSON.stringify(task.key)} is not wanted any more`,
  });
}

/** Answers all steal requests that wait for this run. */
export function answerSteals(world: World, task: Task, run: Run, state: string): void {
  for (const stimulusId of run.steals) world.say({ op: "steal-response", key: task.key, state, stimulusId });
  run.steals = [];
}

/** Gives up a value that waits for a call or a transfer to end. */
export function dropGiven(world: World, task: Task): void {
  if (task.givenBytes === null) return;
  task.givenBytes = null;
  task.unwanted = true;
  sayReleased(world, task);
}

/** Whether a task uses this value, or may begin to at any moment. */
export function inUse(task: Task): boolean {
  if (task.dependents === null) return false;
  for (const dependent of task.dependents) {
    const { name } = dependent.state;
    if (name !== "cancelled" && name !== "resumed" && runOf(dependent) !== null) return true;
  }
  return false;
}
