/**
 * The worker actor: hands events to the machine and performs what it asks for. Law: every decision is the machine's;
 * here is only the doing, and whatever a deed comes to returns as an event.
 *
 * @module
 */
import { type Actor, type Asker, type Clock, pipe, type Ref, spawn, Timers } from "../actors/kernel/mod.ts";
import type { PeerCalls } from "../actors/peer/messages.ts";
import type { StoreCalls } from "../actors/store/messages.ts";
import { unreachable } from "../base/assert.ts";
import { keyPrefix, keyText } from "../protocol/key.ts";
import type { Logger } from "../base/log.ts";
import { Attempts } from "./attempts.ts";
import type { ExecutorCall, ExecutorListener, ExecutorPool } from "./execute/executor.ts";
import type { ItemBatch } from "./execute/items.ts";
import type { StatefulTasks } from "./execute/stateful.ts";
import type { Key, TimerName, WorkerEvent } from "./machine/events.ts";
import type { Instruction, ToScheduler } from "./machine/instructions.ts";
import type { WorkerMachine } from "./machine/machine.ts";
import type { WorkerCalls } from "./messages.ts";
import { failureEvent } from "./wire.ts";

/** What the worker actor works with. */
export interface WorkerParts {
  readonly machine: WorkerMachine;
  readonly store: Ref<StoreCalls>;
  readonly peer: Ref<PeerCalls>;
  readonly pool: ExecutorPool;
  /** Instances that live here, which few workers have: `load` makes room for the first, `loaded` is null before. */
  readonly stateful: { load(): Promise<StatefulTasks>; loaded(): Promise<StatefulTasks> | null };
  readonly logger: Logger;
  /** Queues a message for the scheduler. */
  readonly send: (message: ToScheduler) => void;
  /** Queues an event for a topic of the scheduler. */
  readonly sendEvent: (topic: string, message: unknown) => void;
  readonly clock: Clock;
  /** A bug in the machine: the worker can only stop and let the scheduler repair. */
  readonly onCrash: (error: Error) => void;
}

/** A call between `execute` and its end. */
interface Call {
  readonly execute: Extract<Instruction, { type: "execute" }>;
  /** `viewing`: its inputs are being looked up, the pool does not know it yet. */
  state: "viewing" | "withdrawn while viewing" | "placed";
  /** Lease on the inputs in the store. */
  lease: number | null;
  /** It is to be stopped: how it ends says nothing about it. */
  aborted: boolean;
  /** Who waits for items of it, by number; null: nobody ever did. */
  asked: Map<number, Asker<ItemBatch | null>> | null;
}

/** Starts the actor. */
export function startWorkerActor(parts: WorkerParts): Actor<WorkerCalls> {
  const { machine, store, peer, pool, logger, clock } = parts;
  const now = () => clock.now();
  /** All and only calls that were given by `execute` and have not ended. */
  const calls = new Map<string, Call>();
  const attempts = new Attempts();
  /** Number of the last one who asked for items. */
  let asks = 0;
  /** Seconds that tasks ran since they were last asked for, by prefix of key. */
  let ranSeconds: Record<string, number> = Object.create(null);
  const timers = new Timers<TimerName>(clock, (name, at) => tell({ type: "timer", name, at }));

  const actor = spawn<WorkerCalls>("worker", {
    events: (events, asker) => {
      for (const event of events) handle(event);
      asker.answer();
    },
    inputs: ({ key, runId, lease, found }) => {
      const call = calls.get(callId(key, runId));
      if (call === undefined || call.state !== "viewing") {
        store.tell("release", { lease });
        if (call !== undefined) forgetWithdrawn(call);
        return;
      }
      call.lease = lease;
      const missing = call.execute.dependencies.filter((wanted) =>
        !found.some((stored) => stored.key === wanted)
      );
      if (missing.length > 0) {
        endCall(key, runId);
        handle(
          failureEvent(
            key,
            runId,
            `Cannot run "${keyText(key)}": its inputs ${
              missing.map(keyText).join(", ")
            } are not in the store`,
            now(),
          ),
        );
        return;
      }
      place(call, found);
    },
    ended: ({ key, runId, outcome }) => {
      const call = endCall(key, runId);
      if (call?.aborted === false) attempts.ended(key, outcome.type === "succeeded");
      switch (outcome.type) {
        case "succeeded": {
          const { payload, ...rest } = outcome;
          const prefix = keyPrefix(key);
          ranSeconds[prefix] = (ranSeconds[prefix] ?? 0) + (outcome.stop - outcome.start) / 1000;
          return pipe(
            store.ask("commit", { key, payload }),
            ({ nbytes }) => tell({ ...rest, type: "execute-succeeded", key, runId, nbytes, at: now() }),
            (error) =>
              tell(
                failureEvent(
                  key,
                  runId,
                  `Cannot keep the result of "${keyText(key)}": ${error.message}`,
                  now(),
                ),
              ),
          );
        }
        case "failed":
          return handle({ ...outcome, type: "execute-failed", key, runId, at: now() });
        case "rescheduled":
          return handle({ type: "execute-rescheduled", key, runId, at: now() });
        default:
          return unreachable(outcome);
      }
    },
    event: ({ topic, message }) => parts.sendEvent(topic, message),
    items: ({ key, from }, asker) => {
      const call = [...calls.values()].findLast(({ execute }) => execute.key === key);
      if (call === undefined || !machine.executing().has(key)) return asker.answer(null);
      (call.asked ??= new Map()).set(++asks, asker);
      pool.items(key, call.execute.runId, asks, from);
    },
    yielded: ({ key, runId, ask, batch }) => {
      const asked = calls.get(callId(key, runId))?.asked;
      asked?.get(ask)?.answer(batch);
      asked?.delete(ask);
    },
    withdrawn: ({ key, runId }) => {
      endCall(key, runId);
      handle({ type: "execute-withdrawn", key, runId, at: now() });
    },
    counts: ({ anew }, asker) => {
      asker.answer({ states: machine.counts(), executing: new Map(machine.executing()), ranSeconds });
      if (anew === true) ranSeconds = Object.create(null);
    },
    running: (_, asker) => {
      const since = machine.executing();
      asker.answer(
        [...calls.values()].flatMap(({ execute: { key, runSpec } }) => {
          const at = since.get(key);
          return at === undefined ? [] : [{ key, since: at, pickle: runSpec.pickle }];
        }),
      );
    },
    keys: (_, asker) => asker.answer(keysInMemory(machine)),
    snapshot: (_, asker) => asker.answer(machine.snapshot()),
    story: ({ names }, asker) => {
      const entries = new Set(names.flatMap((name) => machine.story(name)));
      asker.answer([...entries].sort((a, b) => a.at - b.at));
    },
  }, { onCrash: parts.onCrash, onStop: () => timers.clearAll() });

  const tell = (event: WorkerEvent) => actor.ref.tell("events", [event]);

  function handle(event: WorkerEvent): void {
    for (const instruction of machine.handle(event)) perform(instruction);
  }

  function perform(instruction: Instruction): void {
    switch (instruction.type) {
      case "execute":
        return execute(instruction);
      case "withdraw":
        return withdraw(instruction.key, instruction.runId);
      case "abort":
        return abort(instruction);
      case "fetch":
        return fetch(instruction.peer, instruction.keys);
      case "free":
        withStateful((stateful) => stateful.free(instruction.keys));
        return pipe(
          store.ask("free", { keys: instruction.keys }),
          ({ ids }) => pool.forget(ids),
          (error) => logger.log("warning", `Cannot free keys: ${error.message}`),
        );
      case "forget-peer":
        return peer.tell("forget", { peer: instruction.peer });
      case "send":
        return parts.send(instruction.message);
      case "set-timer":
        return timers.set(instruction.name, instruction.at);
      default:
        return unreachable(instruction);
    }
  }

  function execute(instruction: Call["execute"]): void {
    const { key, runId, dependencies } = instruction;
    const call: Call = { execute: instruction, state: "viewing", lease: null, aborted: false, asked: null };
    calls.set(callId(key, runId), call);
    if (dependencies.length === 0) return place(call, []);
    pipe(
      store.ask("view", { keys: dependencies }),
      ({ lease, found }) => actor.ref.tell("inputs", { key, runId, lease, found }),
      (error) => {
        calls.delete(callId(key, runId));
        tell(
          failureEvent(key, runId, `Cannot read the inputs of "${keyText(key)}": ${error.message}`, now()),
        );
      },
    );
  }

  function place(call: Call, found: ExecutorCall["inputs"]): void {
    call.state = "placed";
    const { key, runId, runSpec, annotations } = call.execute;
    const placed: ExecutorCall = {
      key,
      runId,
      runSpec,
      annotations,
      attempt: attempts.of(key),
      inputs: found.map((stored) => ({ key: stored.key, id: stored.id, payload: stored.payload })),
    };
    if (runSpec.stateful !== true) return pool.place(placed);
    pipe(parts.stateful.load(), (stateful) => stateful.place(placed), (error) => {
      endCall(key, runId);
      tell(failureEvent(key, runId, `Cannot make the actor "${keyText(key)}": ${error.message}`, now()));
    });
  }

  /** What is asked of instances comes to them in this order, as what is placed. */
  function withStateful(use: (stateful: StatefulTasks) => void): void {
    parts.stateful.loaded()?.then(use, () => {}); // what could not be loaded holds nothing
  }

  function withdraw(key: Key, runId: number): void {
    const call = calls.get(callId(key, runId));
    // Its inputs are still on the way: `inputs` will find it withdrawn and say so.
    if (call?.state === "viewing") call.state = "withdrawn while viewing";
    else if (call?.execute.runSpec.stateful === true) withStateful((of) => of.withdraw(key, runId));
    else pool.withdraw(key, runId);
  }

  function abort({ key, runId, reason }: Extract<Instruction, { type: "abort" }>): void {
    const call = calls.get(callId(key, runId));
    if (call !== undefined) call.aborted = true;
    if (call?.execute.runSpec.stateful === true) withStateful((of) => of.abort(key, runId, reason));
    else pool.abort(key, runId, reason);
  }

  function forgetWithdrawn(call: Call): void {
    const { key, runId } = call.execute;
    calls.delete(callId(key, runId));
    handle({ type: "execute-withdrawn", key, runId, at: now() });
  }

  function endCall(key: Key, runId: number): Call | undefined {
    const call = calls.get(callId(key, runId));
    if (call === undefined) return undefined;
    calls.delete(callId(key, runId));
    if (call.lease !== null) store.tell("release", { lease: call.lease });
    for (const asker of call.asked?.values() ?? []) asker.answer(null);
    return call;
  }

  function fetch(from: string, keys: readonly Key[]): void {
    pipe(
      peer.ask("fetch", { peer: from, keys }),
      (answer) => {
        switch (answer.type) {
          case "arrived":
            return tell({
              type: "fetch-arrived",
              peer: from,
              keys,
              nbytes: new Map(Object.entries(answer.nbytes)),
              at: now(),
            });
          case "busy":
            return tell({ type: "fetch-busy", peer: from, keys, at: now() });
          case "unreachable":
            logger.log("warning", `Cannot fetch from ${from}: ${answer.message}`, { keys });
            return tell({ type: "fetch-unreachable", peer: from, keys, at: now() });
          default:
            return unreachable(answer);
        }
      },
      (error) => {
        logger.log("warning", `Cannot fetch from ${from}: ${error.message}`, { keys });
        tell({ type: "fetch-unreachable", peer: from, keys, at: now() });
      },
    );
  }

  return actor;
}

function keysInMemory(machine: WorkerMachine): Key[] {
  const tasks = machine.snapshot()["tasks"] as Readonly<Record<Key, { readonly state: string }>>;
  return Object.keys(tasks).filter((key) => tasks[key]?.state === "memory");
}

/** What the pool tells becomes messages to the actor, which may not exist yet when the pool is made. */
export function listenerTo(actor: () => Ref<WorkerCalls>, clock: Clock): ExecutorListener {
  const tell = (event: WorkerEvent) => actor().tell("events", [event]);
  return {
    started: (key, runId, at) => tell({ type: "execute-started", key, runId, at }),
    withdrawn: (key, runId) => actor().tell("withdrawn", { key, runId }),
    seceded: (key, runId, computeDuration) =>
      tell({ type: "seceded", key, runId, computeDuration, at: clock.now() }),
    event: (_key, _runId, topic, message) => actor().tell("event", { topic, message }),
    items: (key, runId, ask, batch) => actor().tell("yielded", { key, runId, ask, batch }),
    ended: (key, runId, outcome) => actor().tell("ended", { key, runId, outcome }),
  };
}

function callId(key: Key, runId: number): string {
  return `${runId} ${key}`;
}
