/**
 * Words for tests of the worker's machine: events by short names, instructions as one line of text each, and a worker
 * that validates itself after every event.
 *
 * @module
 */
import type {
  Address,
  Key,
  RunSpec,
  TimerName,
  WorkerEvent,
  WorkerStatus,
} from "../../worker/machine/events.ts";
import type { Instruction } from "../../worker/machine/instructions.ts";
import { WorkerMachine, type WorkerMachineOptions } from "../../worker/machine/machine.ts";
import { validate } from "../../worker/machine/validate.ts";
import type { Payload } from "../../protocol/payload.ts";

/** An event that has not been given its time. */
export type Untimed = WorkerEvent extends infer E
  ? E extends WorkerEvent ? Omit<E, "at"> & { at?: number } : never
  : never;
type Holders = Readonly<Record<Key, readonly Address[]>>;

export const SPEC: RunSpec = { pickle: Uint8Array.of(1), buffers: [] };
export const PAYLOAD: Payload = { header: new Uint8Array(0), frames: [] };
const NONE = new Uint8Array(0);

export interface ComputeOptions {
  run?: number;
  priority?: readonly number[];
  needs?: Holders;
  nbytes?: Readonly<Record<Key, number>>;
  resources?: Readonly<Record<string, number>>;
  spec?: RunSpec;
  stimulusId?: string;
}

export function compute(key: Key, options: ComputeOptions = {}): Untimed {
  const whoHas = new Map(Object.entries(options.needs ?? {}));
  return {
    type: "compute-task",
    key,
    runId: options.run ?? 1,
    priority: options.priority ?? [0],
    whoHas,
    nbytes: new Map([...whoHas.keys()].map((dependency) => [dependency, options.nbytes?.[dependency] ?? 10])),
    runSpec: options.spec ?? SPEC,
    resources: options.resources ?? {},
    annotations: {},
    stimulusId: options.stimulusId ?? "compute-1",
  };
}
export function free(...keys: Key[]): Untimed {
  return { type: "free-keys", keys, stimulusId: "free-1" };
}
export function removeReplicas(...keys: Key[]): Untimed {
  return { type: "remove-replicas", keys, stimulusId: "remove-1" };
}
export function acquire(holders: Holders, nbytes: Readonly<Record<Key, number>> = {}): Untimed {
  const whoHas = new Map(Object.entries(holders));
  return {
    type: "acquire-replicas",
    whoHas,
    nbytes: new Map([...whoHas.keys()].map((key) => [key, nbytes[key] ?? 10])),
    stimulusId: "acquire-1",
  };
}
export function refresh(holders: Holders): Untimed {
  return { type: "refresh-who-has", whoHas: new Map(Object.entries(holders)), stimulusId: "refresh-1" };
}
export function steal(key: Key, stimulusId = "steal-1"): Untimed {
  return { type: "steal-request", key, stimulusId };
}
export function cancelCompute(key: Key): Untimed {
  return { type: "cancel-compute", key, stimulusId: "cancel-1" };
}
export function removeWorker(worker: Address): Untimed {
  return { type: "remove-worker", worker, stimulusId: "remove-worker-1" };
}
export function status(status: WorkerStatus): Untimed {
  return { type: "status-changed", status };
}
export function resources(totals: Readonly<Record<string, number>>): Untimed {
  return { type: "resources-changed", resources: totals };
}
export function dataAdded(...keys: Key[]): Untimed {
  return { type: "data-added", nbytes: new Map(keys.map((key) => [key, 5])) };
}
export function started(key: Key, runId = 1): Untimed {
  return { type: "execute-started", key, runId };
}
export function succeeded(key: Key, runId = 1, nbytes = 7): Untimed {
  return {
    type: "execute-succeeded",
    key,
    runId,
    nbytes,
    typename: "int",
    pythonType: NONE,
    start: 1,
    stop: 2,
  };
}
export function failed(key: Key, runId = 1): Untimed {
  return {
    type: "execute-failed",
    key,
    runId,
    exception: PAYLOAD,
    traceback: null,
    exceptionText: "Error: no",
    tracebackText: "",
    start: 1,
    stop: 2,
  };
}
export function rescheduled(key: Key, runId = 1): Untimed {
  return { type: "execute-rescheduled", key, runId };
}
export function withdrawn(key: Key, runId = 1): Untimed {
  return { type: "execute-withdrawn", key, runId };
}
export function seceded(key: Key, runId = 1): Untimed {
  return { type: "seceded", key, runId, computeDuration: 3 };
}
/** The keys `asked` were asked of `peer`; only `came` came, by default all. */
export function arrived(peer: Address, asked: readonly Key[], came: readonly Key[] = asked): Untimed {
  return { type: "fetch-arrived", peer, keys: asked, nbytes: new Map(came.map((key) => [key, 9])) };
}
export function busy(peer: Address, ...keys: Key[]): Untimed {
  return { type: "fetch-busy", peer, keys };
}
export function unreachable(peer: Address, ...keys: Key[]): Untimed {
  return { type: "fetch-unreachable", peer, keys };
}
export function timer(name: TimerName): Untimed {
  return { type: "timer", name };
}

/** One line of text for an instruction: `execute y#1 with x`, `fetch alice x,z`, `task-finished y#1`. */
export function show(instruction: Instruction, now = 0): string {
  switch (instruction.type) {
    case "execute": {
      const { key, runId, dependencies } = instruction;
      return `execute ${key}#${runId}${dependencies.length > 0 ? ` with ${dependencies.join(",")}` : ""}`;
    }
    case "withdraw":
    case "abort":
      return `${instruction.type} ${instruction.key}#${instruction.runId}`;
    case "fetch":
      return `fetch ${instruction.peer} ${instruction.keys.join(",")}`;
    case "free":
      return `free ${instruction.keys.join(",")}`;
    case "forget-peer":
      return `forget-peer ${instruction.peer}`;
    case "set-timer":
      return `set-timer ${instruction.name} +${instruction.at - now}`;
    case "send": {
      const { message } = instruction;
      if ("keys" in message) return `${message.op} ${message.keys.join(",")}`;
      if (message.op === "steal-response") {
        return `${message.op} ${message.key} ${message.state} ${message.stimulusId}`;
      }
      return `${message.op} ${message.key}${"runId" in message ? `#${message.runId}` : ""}`;
    }
  }
}

/** A worker under test: one slot, validating, all other options by default. */
export class TestWorker {
  readonly machine: WorkerMachine;
  now = 1_000_000;

  constructor(options: Partial<WorkerMachineOptions> = {}) {
    this.machine = new WorkerMachine({
      address: "me",
      slots: 1,
      validate,
      storyEntriesMax: 20_000,
      ...options,
    });
  }

  /** Events whose instructions do not matter. */
  given(...events: readonly Untimed[]): this {
    for (const event of events) this.handle(event);
    return this;
  }

  /** One event; its instructions as text. */
  when(event: Untimed): string[] {
    return this.handle(event).map((instruction) => show(instruction, this.now));
  }

  /** One event, 1 ms after the last. */
  handle(event: Untimed): readonly Instruction[] {
    return this.machine.handle({ ...event, at: event.at ?? ++this.now } as WorkerEvent);
  }

  state(key: Key): string {
    return this.machine.state(key) ?? "unknown";
  }
}

const AT_ALICE: Holders = { x: ["alice"] };
const GPU = { GPU: 1 };

/** How `x` comes into each state, with everything around it that this takes. */
export const X_IN_STATE: Readonly<Record<string, () => TestWorker>> = {
  "unknown": () => new TestWorker(),
  "released": () =>
    new TestWorker().given(compute("y"), started("y"), free("y"), compute("y", { run: 2, needs: AT_ALICE })),
  "waiting": () => new TestWorker().given(compute("x", { needs: { d: ["alice"] } })),
  "fetch": () => new TestWorker().given(acquire({ z: ["alice"] }), compute("y", { needs: AT_ALICE })),
  "missing": () => new TestWorker().given(compute("y", { needs: { x: [] } })),
  "flight": () => new TestWorker().given(compute("y", { needs: AT_ALICE })),
  "ready": () => new TestWorker().given(compute("a"), compute("b"), compute("x")),
  "ready(placed)": () => new TestWorker().given(compute("x")),
  "constrained": () =>
    new TestWorker({ resources: GPU }).given(
      compute("g", { resources: GPU }),
      compute("x", { resources: GPU }),
    ),
  "constrained(placed)": () => new TestWorker({ resources: GPU }).given(compute("x", { resources: GPU })),
  "executing": () => new TestWorker().given(compute("x"), started("x")),
  "long-running": () => new TestWorker().given(compute("x"), started("x"), seceded("x")),
  "memory": () => new TestWorker().given(compute("x"), started("x"), succeeded("x")),
  "error": () => new TestWorker().given(compute("x"), started("x"), failed("x")),
  "cancelled(flight)": () => new TestWorker().given(acquire(AT_ALICE), free("x")),
  "cancelled(placed)": () => new TestWorker().given(compute("x"), free("x")),
  "cancelled(executing)": () => new TestWorker().given(compute("x"), started("x"), free("x")),
  "cancelled(long-running)": () =>
    new TestWorker().given(compute("x"), started("x"), seceded("x"), free("x")),
  "resumed(flight->waiting)": () =>
    new TestWorker().given(acquire(AT_ALICE), free("x"), compute("x", { run: 2 })),
  "resumed(placed->waiting)": () => new TestWorker().given(compute("x"), free("x"), compute("x", { run: 2 })),
  "resumed(executing->waiting)": () =>
    new TestWorker().given(compute("x"), started("x"), free("x"), compute("x", { run: 2 })),
  "resumed(long-running->waiting)": () =>
    new TestWorker().given(
      compute("x"),
      started("x"),
      seceded("x"),
      free("x"),
      compute("x", { run: 2 }),
    ),
  "resumed(placed->fetch)": () => new TestWorker().given(compute("x"), free("x"), acquire(AT_ALICE)),
  "resumed(executing->fetch)": () =>
    new TestWorker().given(compute("x"), started("x"), free("x"), acquire(AT_ALICE)),
  "resumed(long-running->fetch)": () =>
    new TestWorker().given(compute("x"), started("x"), seceded("x"), free("x"), acquire(AT_ALICE)),
};
