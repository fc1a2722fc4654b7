/**
 * What is done about everything that the scheduler asks, about our own status, and about values that are given to us.
 * The law: the newest word counts; what cannot be stopped at once is told to stop and never used for a later request.
 *
 * @module
 */
import { CODE_KEY_PREFIX } from "../../protocol/key.ts";
import type {
  AcquireReplicas,
  CancelCompute,
  ComputeTask,
  DataAdded,
  FreeKeys,
  Key,
  RefreshWhoHas,
  RemoveReplicas,
  RemoveWorker,
  ResourcesChanged,
  StatusChanged,
  StealRequest,
} from "./events.ts";
import { before } from "./heap.ts";
import { setTotal, withdrawAll } from "./placement.ts";
import {
  givenValue,
  isQueued,
  RELEASED,
  type Run,
  runOf,
  sourceOf,
  type StateName,
  type Task,
} from "./task.ts";
import { removePeer } from "./transfers.ts";
import {
  announce,
  answerSteals,
  computable,
  dropGiven,
  inUse,
  link,
  move,
  offer,
  sayFinished,
  sayReleased,
  setHolders,
  withdraw,
} from "./transitions.ts";
import type { World } from "./world.ts";

/** Handlers of what comes from outside. */
export const ASKED = {
  "compute-task": onComputeTask,
  "free-keys": onFreeKeys,
  "remove-replicas": onRemoveReplicas,
  "acquire-replicas": onAcquireReplicas,
  "refresh-who-has": onRefreshWhoHas,
  "steal-request": onStealRequest,
  "cancel-compute": onCancelCompute,
  "remove-worker": onRemoveWorker,
  "status-changed": onStatusChanged,
  "resources-changed": onResourcesChanged,
  "data-added": onDataAdded,
} as const;

function onComputeTask(world: World, event: ComputeTask): void {
  const task = world.task(event.key);
  task.runId = event.runId;
  const state = task.state;
  switch (state.name) {
    case "waiting":
    case "executing":
    case "long-running":
      return;
    case "ready":
    case "constrained":
      if (state.run !== null) keep(world, task, state.run);
      return;
    case "memory":
      return sayFinished(world, task, event.runId, state);
    case "resumed":
      if (state.next === "waiting") return;
      break;
    case "fetch":
    case "missing":
    case "error":
      move(world, task, RELEASED);
  }
  take(world, task, event);
  const now = task.state;
  if (now.name === "flight") {
    move(world, task, { name: "resumed", busy: { kind: "flight", peer: now.peer }, next: "waiting" });
  } else if (now.name === "cancelled" || now.name === "resumed") {
    // The old call was told to stop and perhaps is of another task by the same name: never use it.
    move(world, task, { name: "resumed", busy: now.busy, next: "waiting" });
  } else {
    move(world, task, computable(task));
  }
}

/** A placed call that somebody wanted back is wanted here again: the newest word counts. */
function keep(world: World, task: Task, run: Run): void {
  run.giveUp = false;
  answerSteals(world, task, run, "executing");
}

/** Stores how the task is computed, and links it to what it needs. */
function take(world: World, task: Task, event: ComputeTask): void {
  task.runSpec = event.runSpec;
  task.annotations = event.annotations;
  task.needs = Object.entries(event.resources).sort(([a], [b]) => a < b ? -1 : 1);
  task.priority = event.priority;
  task.order = world.nextOrder();
  task.acquired = false;
  setHolders(world, task, null); // it would not be computed if anybody had it
  const dependencies: Task[] = [];
  for (const [key, holders] of event.whoHas) {
    const dependency = world.task(key);
    dependencies.push(dependency);
    learn(world, dependency, holders, event.nbytes.get(key), task.priority, task.order);
    link(world, task, dependency);
  }
  if (dependencies.length > 0) task.dependencies = dependencies;
}

/** Notes what the scheduler says of a key that may have to come here. */
function learn(
  world: World,
  task: Task,
  holders: readonly string[],
  nbytes: number | undefined,
  priority: readonly number[],
  order: number,
): void {
  setHolders(world, task, holders);
  const state = task.state;
  if (state.name !== "memory" && nbytes !== undefined) task.nbytes = nbytes;
  if (
    runOf(task) !== null || state.name === "waiting" || state.name === "ready" || state.name === "constrained"
  ) return;
  if (state.name === "resumed" && state.next === "waiting") return;
  if (!before({ priority, order }, task)) return;
  task.priority = priority;
  task.order = order;
  if (state.name === "fetch" && state.node !== null) {
    state.node.live = false;
    state.node = { task, priority, order, live: true };
    for (const peer of task.whoHas ?? []) offer(world, peer, state.node);
  }
}

function onFreeKeys(world: World, { keys }: FreeKeys): void {
  for (const key of keys) {
    const task = world.tasks.get(key);
    if (task !== undefined) release(world, task);
  }
}

/** The scheduler does not want this key here: nothing of it is to be reported any more. */
function release(world: World, task: Task): void {
  const state = task.state;
  task.acquired = false;
  switch (state.name) {
    case "ready":
    case "constrained":
      move(
        world,
        task,
        state.run === null ? RELEASED : { name: "cancelled", busy: { kind: "run", run: state.run } },
      );
      break;
    case "executing":
    case "long-running":
      move(world, task, { name: "cancelled", busy: { kind: "run", run: state.run } });
      break;
    case "resumed":
      if (state.next === "waiting") move(world, task, { name: "cancelled", busy: state.busy });
      break;
    case "waiting":
    case "memory":
    case "error":
      move(world, task, RELEASED);
  }
  dropGiven(world, task);
  world.touch(task);
}

function onRemoveReplicas(world: World, { keys }: RemoveReplicas): void {
  for (const key of keys) {
    const task = world.tasks.get(key);
    if (task === undefined) continue;
    if (task.state.name !== "memory") dropGiven(world, task);
    else if (inUse(task) || isCodeInUse(world, key)) announce(world, task);
    else move(world, task, RELEASED);
  }
}

/**
 * Code that is loaded here is in use until the worker leaves: its next task would only fetch it again, and the scheduler
 * gives tasks to holders of what they depend on, so that one holder of the code would get all of them.
 */
function isCodeInUse(world: World, key: Key): boolean {
  return key.startsWith(CODE_KEY_PREFIX) && (world.status === "running" || world.status === "paused");
}

/** After the dependencies of tasks of default priority, before those of low priority, as in dask. */
const ACQUIRE_PRIORITY: readonly number[] = [1];

function onAcquireReplicas(world: World, { whoHas, nbytes }: AcquireReplicas): void {
  for (const [key, holders] of whoHas) {
    const task = world.task(key);
    learn(world, task, holders, nbytes.get(key), ACQUIRE_PRIORITY, world.nextOrder());
    switch (task.state.name) {
      case "memory":
        announce(world, task); // or the scheduler would ask for ever
        break;
      case "released":
      case "fetch":
      case "missing":
      case "flight":
      case "error":
      case "cancelled":
        task.acquired = true;
        break;
      case "resumed":
        if (task.state.next === "fetch") task.acquired = true;
    }
    world.touch(task);
  }
}

function onRefreshWhoHas(world: World, { whoHas }: RefreshWhoHas): void {
  for (const [key, holders] of whoHas) {
    const task = world.tasks.get(key);
    if (task === undefined) continue;
    setHolders(world, task, holders);
    // Or it would wait for ever for what is said to be here already.
    const { name } = task.state;
    if ((name === "fetch" || name === "missing") && holders.includes(world.address)) sayReleased(world, task);
  }
}

/** What the scheduler understands of each state; null makes it schedule the task anew. */
const STEAL_ANSWERS: { readonly [Name in StateName]: string | null } = {
  released: null,
  waiting: "waiting",
  fetch: null,
  missing: null,
  flight: null,
  ready: "ready",
  constrained: "constrained",
  executing: "executing",
  "long-running": "long-running",
  memory: "memory",
  error: null,
  cancelled: "cancelled",
  resumed: "resumed",
  rescheduled: null,
  forgotten: null,
};

function onStealRequest(world: World, { key, stimulusId }: StealRequest): void {
  const task = world.tasks.get(key);
  const state = task?.state;
  if (task?.runSpec.stateful === true && isQueued(task)) {
    // Stealing forgets whose actor it is, and the scheduler fails over that later: it stays, as if it ran already.
    return world.say({ op: "steal-response", key, state: "executing", stimulusId });
  }
  if (
    task !== undefined && (state?.name === "ready" || state?.name === "constrained") && state.run !== null
  ) {
    state.run.steals.push(stimulusId);
    return withdraw(world, task, state.run);
  }
  world.say({
    op: "steal-response",
    key,
    state: state === undefined ? null : STEAL_ANSWERS[state.name],
    stimulusId,
  });
  if (task !== undefined && isQueued(task)) move(world, task, RELEASED);
}

function onCancelCompute(world: World, { key }: CancelCompute): void {
  const task = world.tasks.get(key);
  if (task === undefined || !isQueued(task)) return;
  const run = runOf(task);
  if (run === null) return move(world, task, RELEASED);
  run.giveUp = true;
  withdraw(world, task, run);
}

function onRemoveWorker(world: World, { worker }: RemoveWorker): void {
  removePeer(world, worker);
}

function onStatusChanged(world: World, { status }: StatusChanged): void {
  world.status = status;
  if (status !== "running") withdrawAll(world);
}

function onResourcesChanged(world: World, { resources }: ResourcesChanged): void {
  for (const [name, total] of Object.entries(resources)) setTotal(world, name, total);
}

/** Says nothing of what nobody expects from us: the scheduler hears of it from whoever gave us the values. */
function onDataAdded(world: World, { nbytes }: DataAdded): void {
  for (const [key, bytes] of nbytes) {
    const task = world.task(key);
    const state = task.state;
    if (runOf(task) !== null || sourceOf(task) !== null) {
      task.givenBytes = bytes;
      task.unwanted = false;
    } else if (state.name !== "memory") move(world, task, givenValue(bytes));
    else {
      world.nbytes += bytes - state.nbytes;
      task.nbytes = state.nbytes = bytes;
    }
  }
}
