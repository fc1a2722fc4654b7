/**
 * Stateful tasks, which dask calls actors, on the worker's side. The law: each instance has an executor of its own,
 * which ends with it and is never replaced; and every call of it is answered, also when instance, executor or worker
 * goes. Of one whose executor has ended is remembered how, until nobody wants it.
 *
 * To make an instance is a task as all others: it waits for its inputs and for a slot, and fails as they do. What is
 * stored as its result is a handle. Calls are no tasks: they take no slot, and the task machine never hears of them. They
 * run one after the other in the order in which they came, and an asynchronous method is awaited before the next call
 * begins, so nothing changes the state between two of its `await`s. (Python's workers let `async def` methods interleave
 * and run the others in threads.) So a method that waits for another call of its own instance waits for ever.
 *
 * @module
 */
import type { Logger } from "../../base/log.ts";
import { NO_BYTES } from "../../protocol/bytes.ts";
import { type DependencyRef, encodeCall, type FunctionRef } from "../../protocol/call.ts";
import type { ErrorData } from "../../protocol/errors.ts";
import { errorData, writeException } from "../../protocol/exception.ts";
import { writeRunSpec } from "../../protocol/graph_pickle.ts";
import { type Key, keyText } from "../../protocol/key.ts";
import type { Payload } from "../../protocol/payload.ts";
import { picklePayload } from "../../protocol/value.ts";
import type { RunSpec } from "../machine/events.ts";
import { currentFolder } from "./current_folder.ts";
import type { ExecutorCall, ExecutorListener, ExecutorPool, Input, Outcome } from "./executor.ts";
import { grantsOf, type TaskPermissions, within } from "./permissions.ts";
import { readPolicy } from "./policy.ts";

/** What such tasks need of their worker. */
export interface StatefulOptions {
  /** Starts a pool of one slot whose executor is not replaced: `lost` hears how it ended. */
  readonly start: (
    listener: ExecutorListener,
    permissions: TaskPermissions | undefined,
    lost: (exit: string) => void,
  ) => ExecutorPool;
  /** What all tasks of this worker may do. */
  readonly permissions: TaskPermissions | undefined;
  /** Hears of the making of instances as of all other tasks. */
  readonly listener: ExecutorListener;
  /** Of the worker. */
  readonly address: string;
  readonly logger: Logger;
}

/** One call of an instance. */
export type InstanceCall =
  | {
    readonly method: string;
    readonly args: readonly Payload[];
    /** They become one last object. */
    readonly options: ReadonlyMap<string, Payload>;
  }
  | { readonly attribute: string };

interface Instance {
  readonly key: Key;
  readonly runId: number;
  readonly pool: ExecutorPool;
  /** Its making was told as started. */
  started: boolean;
  made: boolean;
  /** How its executor ended; null while it is there. */
  exit: string | null;
  /** All and only calls that have not ended, by number, with who waits for them. */
  readonly calls: Map<number, (outcome: Outcome) => void>;
}

/** What a client may read as the type of a handle. */
const ACTOR_TYPE = {
  typename: "Actor",
  pythonType: new TextEncoder().encode("cdistributed.actor\nActor\n."),
};
const PICKLE_HEADER = picklePayload(NO_BYTES).header;

const CONSTRUCT: FunctionRef = { kind: "builtin", name: "construct" };
const INVOKE: FunctionRef = { kind: "builtin", name: "invoke" };
const ATTRIBUTE: FunctionRef = { kind: "builtin", name: "attribute" };

/** The instances of one worker. Disposing of it ends them all. */
export class StatefulTasks implements AsyncDisposable {
  readonly #options: StatefulOptions;
  /** All and only instances that are wanted: being made, there, or lost. */
  readonly #instances = new Map<Key, Instance>();
  readonly #closing = new Set<Promise<void>>();
  /** Of calls, from -1 downwards: so they are neither run ids of tasks nor ids of the store. */
  #lastNumber = 0;

  constructor(options: StatefulOptions) {
    this.#options = options;
  }

  /** The executors of all instances. */
  get pools(): readonly ExecutorPool[] {
    return Array.from(this.#instances.values(), ({ pool }) => pool);
  }

  // --- Making, as a pool does it ---

  /** Makes an instance. The listener hears of it as of any call. */
  place(call: ExecutorCall): void {
    this.#drop(call.key, "another one was made under this key");
    let instance: Instance;
    let timeoutMs: number | null;
    try {
      const policy = readPolicy(call.annotations);
      timeoutMs = policy.timeoutMs;
      instance = this.#start(call, policy.permissions);
    } catch (error) {
      return this.#failed(call.key, call.runId, false, errorData(error));
    }
    this.#instances.set(call.key, instance);
    instance.pool.place({
      ...call,
      runSpec: this.#construct(call),
      annotations: timeoutMs === null ? {} : { deno: { timeout: timeoutMs } },
    });
  }

  /** As of a pool. */
  withdraw(key: Key, runId: number): void {
    const pool = this.#making(key, runId);
    if (pool === null) this.#options.listener.withdrawn(key, runId);
    else pool.withdraw(key, runId);
  }

  /** As of a pool. */
  abort(key: Key, runId: number, reason: string): void {
    const pool = this.#making(key, runId);
    if (pool === null) this.#options.listener.withdrawn(key, runId);
    else pool.abort(key, runId, reason);
  }

  // --- Living ---

  /** Calls an instance. Never rejects; one that is not there fails as lost. */
  call(key: Key, call: InstanceCall): Promise<Outcome> {
    const instance = this.#instances.get(key);
    if (instance === undefined || !instance.made) return Promise.resolve(absent(key));
    if (instance.exit !== null) return Promise.resolve(lost(key, instance.exit));
    const { pool, calls } = instance;
    const runId = --this.#lastNumber;
    const payloads = "method" in call ? [...call.args, ...call.options.values()] : [];
    const inputs = payloads.map((payload, i): Input => ({ key: String(i), id: --this.#lastNumber, payload }));
    return new Promise((resolve) => {
      calls.set(runId, (outcome) => {
        calls.delete(runId);
        pool.forget(inputs.map(({ id }) => id));
        resolve(outcome.type === "rescheduled" ? failed(notElsewhere(key)) : outcome);
      });
      pool.place({ key, runId, runSpec: writeCall(key, call, inputs), inputs, annotations: {} });
    });
  }

  /** Nobody wants these values any more. One that is still being made is none yet: it is aborted, and its end told. */
  free(keys: readonly Key[]): void {
    for (const key of keys) if (this.#instances.get(key)?.made === true) this.#drop(key, "it was released");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const key of [...this.#instances.keys()]) this.#drop(key, "its worker ends");
    await Promise.all(this.#closing);
  }

  // --- Inside ---

  #making(key: Key, runId: number): ExecutorPool | null {
    const instance = this.#instances.get(key);
    return instance === undefined || instance.runId !== runId || instance.made ? null : instance.pool;
  }

  #start({ key, runId }: ExecutorCall, own: TaskPermissions | null): Instance {
    const { start, listener, permissions } = this.#options;
    const pool = start(
      {
        started: (_key, number, at) => {
          if (number !== runId) return;
          instance.started = true;
          listener.started(key, runId, at);
        },
        withdrawn: () => {
          this.#forget(instance);
          listener.withdrawn(key, runId);
        },
        seceded: () => {},
        event: (_key, _number, topic, message) => listener.event(key, runId, topic, message),
        items: () => {}, // calls give their results as a whole
        ended: (_key, number, outcome) =>
          number === runId ? this.#made(instance, outcome) : instance.calls.get(number)?.(outcome),
      },
      own === null ? permissions : permissionsFor(own, permissions),
      (exit) => this.#lost(instance, exit),
    );
    const instance: Instance = {
      key,
      runId,
      pool,
      started: false,
      made: false,
      exit: null,
      calls: new Map(),
    };
    return instance;
  }

  #made(instance: Instance, outcome: Outcome): void {
    const { key, runId } = instance;
    const { listener } = this.#options;
    if (outcome.type === "succeeded") {
      instance.made = true;
      return listener.ended(key, runId, { ...outcome, ...ACTOR_TYPE, payload: asPickle(outcome.payload) });
    }
    this.#forget(instance);
    if (outcome.type === "failed") return listener.ended(key, runId, outcome);
    // The scheduler would not notice that it has left this worker.
    this.#failed(key, runId, true, notElsewhere(key));
  }

  #lost(instance: Instance, exit: string): void {
    const { key, runId, started, calls } = instance;
    if (this.#instances.get(key) !== instance) return;
    instance.exit = exit;
    this.#close(instance.pool);
    if (!instance.made) {
      this.#instances.delete(key);
      return this.#failed(key, runId, started, lostData(key, exit));
    }
    this.#options.logger.log("warning", `Lost the actor "${keyText(key)}": its executor ${exit}`);
    for (const answer of [...calls.values()]) answer(lost(key, exit));
  }

  #failed(key: Key, runId: number, started: boolean, error: ErrorData): void {
    const { listener } = this.#options;
    if (!started) listener.started(key, runId, Date.now());
    listener.ended(key, runId, failed(error));
  }

  #drop(key: Key, why: string): void {
    const instance = this.#instances.get(key);
    if (instance === undefined) return;
    this.#forget(instance);
    for (const answer of [...instance.calls.values()]) answer(lost(key, `was ended: ${why}`));
  }

  #forget(instance: Instance): void {
    if (this.#instances.get(instance.key) === instance) this.#instances.delete(instance.key);
    this.#close(instance.pool);
  }

  #close(pool: ExecutorPool): void {
    const closing = pool.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  #construct({ key, runSpec, inputs }: ExecutorCall): RunSpec {
    const { pickle, buffers } = runSpec;
    const keys = inputs.map((input) => input.key);
    const payload = encodeCall({
      function: CONSTRUCT,
      args: [pickle, [...buffers], keys, references(0, keys.length), key, this.#options.address],
    });
    return {
      pickle: writeRunSpec({ key, function: "deno:op/construct", payload, dependencies: keys }),
      buffers: [],
    };
  }
}

/** Bytes that are a pickle, as what the pickle holds. Nothing of them is read here. */
export function asPickle(bytes: Payload): Payload {
  return { header: PICKLE_HEADER, frames: bytes.frames };
}

/** What an instance may do that asks for itself: as of any task, no more than all tasks of the worker. */
function permissionsFor(own: TaskPermissions, all: TaskPermissions = "inherit"): TaskPermissions {
  const base = currentFolder();
  grantsOf(own, base); // what this process does not have is an error, not a smaller set
  return within(own, all, base);
}

function writeCall(key: Key, call: InstanceCall, inputs: readonly Input[]): RunSpec {
  const [name, fn, args] = "method" in call
    ? [
      "invoke",
      INVOKE,
      [
        call.method,
        references(0, call.args.length),
        [...call.options.keys()],
        references(call.args.length, call.options.size),
      ],
    ] as const
    : ["attribute", ATTRIBUTE, [call.attribute]] as const;
  const payload = encodeCall({ function: fn, args });
  const dependencies = inputs.map((input) => input.key);
  return { pickle: writeRunSpec({ key, function: `deno:op/${name}`, payload, dependencies }), buffers: [] };
}

function references(from: number, count: number): DependencyRef[] {
  return Array.from({ length: count }, (_, i) => ({ $dependency: from + i }));
}

/** How a call of an instance fails that is not on this worker. */
export function absent(key: Key): Outcome {
  return lost(key, "is not on this worker, or not any more");
}

function lost(key: Key, exit: string): Outcome {
  return failed(lostData(key, exit));
}

function failed(error: ErrorData): Outcome {
  const now = Date.now();
  return { type: "failed", ...writeException(error), start: now, stop: now };
}

function notElsewhere(key: Key): ErrorData {
  const message = `Cannot run "${keyText(key)}" elsewhere: it is an actor, and only tasks can ask for that`;
  return { name: "DaskError", message, stack: "", kind: "failed" };
}

function lostData(key: Key, exit: string): ErrorData {
  const message = `Lost the actor "${keyText(key)}": its executor ${exit}`;
  return { name: "ExecutorLostError", message, stack: "", kind: "lost", exit };
}
