/**
 * What is done about everything that our own instructions came to: calls, transfers and timers. The law: whatever was
 * begun ends by exactly one event here; the state of its task says what that end is good for.
 *
 * @module
 */
import type {
  ExecuteFailed,
  ExecuteRescheduled,
  ExecuteStarted,
  ExecuteSucceeded,
  ExecuteWithdrawn,
  FetchArrived,
  FetchBusy,
  FetchUnreachable,
  Key,
  Seceded,
  TimerFired,
} from "./events.ts";
import { begin, freeSlot, retire } from "./placement.ts";
import {
  givenValue,
  isQueued,
  type Memory,
  RELEASED,
  RESCHEDULED,
  type Run,
  runOf,
  type Task,
  type TaskState,
  WAITING,
} from "./task.ts";
import { arriving, endRequest, hasPatientHolder, hold, removePeer, unhold } from "./transfers.ts";
import { answerSteals, computable, dismiss, move, removeHolder, sought } from "./transitions.ts";
import type { World } from "./world.ts";

/** Handlers of what our instructions came to. */
export const REPORTED = {
  "execute-started": onExecuteStarted,
  "execute-succeeded": onExecuteSucceeded,
  "execute-failed": onExecuteFailed,
  "execute-rescheduled": onExecuteRescheduled,
  "execute-withdrawn": onExecuteWithdrawn,
  "seceded": onSeceded,
  "fetch-arrived": onFetchArrived,
  "fetch-busy": onFetchBusy,
  "fetch-unreachable": onFetchUnreachable,
  "timer": onTimer,
} as const;

function onExecuteStarted(world: World, event: ExecuteStarted): void {
  const { task, run } = running(world, event.key, event.runId);
  if (run.phase !== "placed") throw world.bug("A call began twice", event.key);
  begin(world, task, run);
}

function onExecuteSucceeded(world: World, event: ExecuteSucceeded): void {
  end(world, event, {
    name: "memory",
    nbytes: event.nbytes,
    came: "computed",
    type: world.type(event.typename, event.pythonType),
    startstop: { start: event.start, stop: event.stop },
  });
}

function onExecuteFailed(world: World, event: ExecuteFailed): void {
  end(world, event, { name: "error", failure: event });
}

function onExecuteRescheduled(world: World, event: ExecuteRescheduled): void {
  end(world, event, RESCHEDULED);
}

/** The task of this call, and the call. Events about calls that no executor has are bugs. */
function running(world: World, key: Key, runId: number): { readonly task: Task; readonly run: Run } {
  const task = world.tasks.get(key);
  const run = task === undefined ? null : runOf(task);
  if (task === undefined || run === null || run.placedAs !== runId) {
    throw world.bug(`No executor has run ${runId}`, key);
  }
  return { task, run };
}

/** A run is over. `result` counts for a task that is executing; for others only a value may, and only sometimes. */
function end(
  world: World,
  event: ExecuteSucceeded | ExecuteFailed | ExecuteRescheduled,
  result: Memory | (TaskState & { readonly name: "error" | "rescheduled" }),
): void {
  const { task, run } = running(world, event.key, event.runId);
  if (run.phase === "placed" && isQueued(task)) begin(world, task, run); // it ended before we heard that it began
  retire(world, task, run);
  const own = result.name === "memory" ? result : null;
  const gift = takeGiven(world, task, own);
  const value = own ?? gift;
  const state = task.state;
  if (state.name === "executing" || state.name === "long-running") {
    move(world, task, value ?? result);
  } else if (gift !== null) {
    move(world, task, gift);
  } else if (state.name === "resumed" && state.next === "fetch") {
    move(world, task, value ?? sought(task));
  } else {
    if (value !== null) world.freed.push(task.key);
    move(world, task, state.name === "resumed" ? computable(task) : RELEASED);
  }
}

/** What we were busy with is over and left `value`: the one that somebody gave us meanwhile, if any. */
function takeGiven(world: World, task: Task, value: Memory | null): Memory | null {
  if (task.unwanted) {
    task.unwanted = false;
    if (value === null) world.freed.push(task.key);
  }
  if (task.givenBytes === null) return null;
  const gift = givenValue(task.givenBytes);
  task.givenBytes = null;
  return gift;
}

function onExecuteWithdrawn(world: World, event: ExecuteWithdrawn): void {
  const task = world.tasks.get(event.key);
  const run = task === undefined ? null : runOf(task);
  // Executors say so too of calls that they do not know any more: it began, and perhaps ended, before they were asked.
  if (task === undefined || run === null || run.placedAs !== event.runId || run.phase !== "placed") return;
  retire(world, task, run);
  const state = task.state;
  const gift = takeGiven(world, task, null);
  if (gift !== null) {
    answerSteals(world, task, run, "memory");
    move(world, task, gift);
  } else if (state.name === "ready" || state.name === "constrained") {
    const goes = run.giveUp || run.steals.length > 0;
    answerSteals(world, task, run, state.name);
    // Back into the queue by way of "waiting": what it needs may have gone meanwhile.
    move(world, task, goes ? RELEASED : WAITING);
  } else if (state.name === "resumed") {
    move(world, task, state.next === "waiting" ? computable(task) : sought(task));
  } else {
    move(world, task, RELEASED);
  }
}

function onSeceded(world: World, event: Seceded): void {
  const task = world.tasks.get(event.key);
  const run = task === undefined ? null : runOf(task);
  // It may have ended, or have said so before.
  if (task === undefined || run === null || run.placedAs !== event.runId || run.phase === "long-running") {
    return;
  }
  if (run.phase === "placed") begin(world, task, run);
  freeSlot(world, run);
  if (task.state.name !== "executing") return;
  move(world, task, { name: "long-running", run, computeDuration: event.computeDuration });
}

function onFetchArrived(world: World, event: FetchArrived): void {
  const { peer, keys, stale } = endRequest(world, event.peer, event.keys);
  for (const key of keys) {
    const task = arriving(world, key, peer);
    const nbytes = event.nbytes.get(key);
    if (nbytes === undefined && !stale) removeHolder(world, task, peer);
    land(world, task, nbytes === undefined ? null : { ...givenValue(nbytes), came: "fetched" });
  }
  dismiss(world, peer);
}

/** A transfer is over, with or without a value: what next for this task? */
function land(world: World, task: Task, value: Memory | null): void {
  const state = task.state;
  const gift = takeGiven(world, task, value);
  if (state.name === "cancelled") {
    if (value !== null && gift === null) world.freed.push(task.key);
    move(world, task, gift ?? RELEASED);
  } else {
    move(world, task, value ?? gift ?? (state.name === "resumed" ? computable(task) : sought(task)));
  }
}

function onFetchBusy(world: World, event: FetchBusy): void {
  const { peer, keys } = endRequest(world, event.peer, event.keys);
  hold(world, peer);
  const stranded: Key[] = [];
  for (const key of keys) {
    const task = arriving(world, key, peer);
    land(world, task, null);
    if (task.state.name === "fetch" && !hasPatientHolder(task)) stranded.push(key);
  }
  if (stranded.length > 0) askWhoHas(world, stranded);
}

function onFetchUnreachable(world: World, event: FetchUnreachable): void {
  const { peer, keys, stale } = endRequest(world, event.peer, event.keys);
  if (!stale) removePeer(world, event.peer);
  for (const key of keys) land(world, arriving(world, key, peer), null);
  dismiss(world, peer);
}

function onTimer(world: World, { name }: TimerFired): void {
  if (name !== "find-missing") return unhold(world, name.slice("peer-hold ".length));
  world.searching = world.missing.size > 0;
  if (!world.searching) return;
  askWhoHas(world, Array.from(world.missing, (task) => task.key));
  world.emit({ type: "set-timer", name: "find-missing", at: world.at + world.findMissingMs });
}

function askWhoHas(world: World, keys: readonly Key[]): void {
  world.say({ op: "request-refresh-who-has", keys, stimulusId: world.stimulus("request-refresh-who-has") });
}
