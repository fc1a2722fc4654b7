/**
 * What a worker answers to peers, to the scheduler and to clients, op by op. Law: a request can be refused, it can never
 * end the worker (unless that is what it asks for); bad fields are answered with the field's name.
 *
 * @module
 */
import type { Ref } from "../actors/kernel/mod.ts";
import type { PeerCalls } from "../actors/peer/messages.ts";
import { filesIn, type StoreCalls } from "../actors/store/mod.ts";
import type { Logger } from "../base/log.ts";
import { serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { type Key, keyText, keyToWire } from "../protocol/key.ts";
import {
  type Fields,
  readArray,
  readKey,
  readKeyMap,
  readKeys,
  readNullable,
  readNumber,
  readSerialized,
  readString,
} from "../protocol/read.ts";
import { errorData, writeException } from "../protocol/remote_error.ts";
import type { LogRing } from "./log_ring.ts";
import type { Address } from "./machine/events.ts";
import type { WorkerCalls } from "./messages.ts";
import { readWhoHas } from "./wire.ts";

/** A request: its op, and its fields without `op`, `reply` and `close`. */
export interface RpcRequest {
  readonly op: string;
  readonly fields: Fields;
  readonly peer: string;
}

/** What the answers are made from. */
export interface RpcParts {
  readonly store: Ref<StoreCalls>;
  readonly peer: Ref<PeerCalls>;
  readonly worker: Ref<WorkerCalls>;
  readonly logger: Logger;
  readonly log: LogRing;
  /** The scheduler's own answer to `versions`: being equal to it, nobody warns of a mismatch. */
  readonly versions: unknown;
  readonly describe: () => WorkerDescription;
  /** Asks the scheduler for the holders of keys. */
  readonly whoHas: (keys: readonly Key[]) => Promise<ReadonlyMap<Key, readonly Address[]>>;
  readonly close: (reason: string) => void;
}

/** The worker for people. */
export interface WorkerDescription {
  readonly id: string;
  readonly address: Address;
  readonly name: string;
  readonly scheduler: Address;
  readonly status: string;
  readonly slots: number;
  readonly memoryLimitBytes: number | null;
}

type Answer = (fields: Fields, parts: RpcParts, files: Set<string>) => unknown;

/** One line per op; an op that is not here is answered with null, as every dask server does. `get_data` is the peer's. */
const ANSWERS: Readonly<Record<string, Answer>> = {
  ping: () => new TextEncoder().encode("pong"),
  update_data: updateData,
  gather,
  free_keys: freeKeys,
  keys: async (_, { worker }) => (await worker.ask("keys", {})).map(keyToWire),
  identity: (_, { describe }) => {
    const { id, scheduler, slots, memoryLimitBytes } = describe();
    return { type: "Worker", id, scheduler, nthreads: slots, memory_limit: memoryLimitBytes };
  },
  versions: (_, { versions }) => versions,
  get_logs: (fields, { log }) => {
    const start = readNullable(fields["start"], "get_logs.start", readNumber) ?? 0;
    const count = readNullable(fields["n"], "get_logs.n", readNumber) ?? 0;
    return log.newestFirst(start, count === 0 ? Infinity : count, fields["timestamps"] === true);
  },
  call_stack: callStack,
  profile: () => ({
    count: 0,
    children: {},
    identifier: "root",
    description: { filename: "", name: "", line_number: 0, line: "" },
  }),
  profile_metadata: () => ({ counts: [], keys: [] }),
  get_story: async (fields, { worker }) => {
    const keys = readArray(fields["keys_or_stimuli"], "get_story.keys_or_stimuli", readKey);
    return plain(await worker.ask("story", { keys }));
  },
  get_monitor_info: () => ({ range_query: {}, count: 0, last_time: null }),
  dump_state: dumpState,
  terminate: (fields, { close }) => {
    const reason = readNullable(fields["reason"], "terminate.reason", readString) ?? "asked to terminate";
    // The answer goes out first.
    setTimeout(() => close(reason), 0);
    return "OK";
  },
  "plugin-add": (fields, parts) => acceptPlugin("plugin-add", fields, parts),
  "plugin-remove": (fields, parts) => acceptPlugin("plugin-remove", fields, parts),
  run: () => refusedFunction("run"),
  run_coroutine: () => refusedFunction("run_coroutine"),
  upload_file: () => refuse("upload_file", "a TypeScript worker loads modules by URL, it takes no files"),
  actor_execute: () => refuse("actor_execute", "a TypeScript worker holds no actors of Python clients"),
  actor_attribute: () => refuse("actor_attribute", "a TypeScript worker holds no actors of Python clients"),
  benchmark_disk: () => refuse("benchmark_disk", "a TypeScript worker runs no benchmarks of itself"),
  benchmark_memory: () => refuse("benchmark_memory", "a TypeScript worker runs no benchmarks of itself"),
  benchmark_network: () => refuse("benchmark_network", "a TypeScript worker runs no benchmarks of itself"),
};

/** Whether {@linkcode answerRpc} knows the op. */
export function isKnownOp(op: string): boolean {
  return Object.hasOwn(ANSWERS, op);
}

/**
 * Answers one request.
 *
 * @throws {ProtocolError | DaskError} what the caller is to be told as an uncaught error.
 */
export async function answerRpc(request: RpcRequest, parts: RpcParts): Promise<unknown> {
  // Large frames of a request arrived in files of the store's folder; those that nobody takes over are given back.
  const files = new Set(filesIn(request.fields));
  try {
    if (!isKnownOp(request.op)) return null;
    return await ANSWERS[request.op]?.(request.fields, parts, files) ?? null;
  } finally {
    for (const file of files) parts.store.tell("discard", { file });
  }
}

async function updateData(fields: Fields, { store, worker }: RpcParts, files: Set<string>): Promise<unknown> {
  const data = readKeyMap(fields["data"], "update_data.data", readSerialized);
  const nbytes = new Map<Key, number>();
  for (const [key, { payload }] of data) {
    const stored = await store.ask("commit", { key, payload });
    for (const file of filesIn(payload)) files.delete(file);
    nbytes.set(key, stored.nbytes);
  }
  await worker.ask("events", [{ type: "data-added", nbytes, at: Date.now() }]);
  return { nbytes: writeKeyMap(nbytes), status: "OK" };
}

/** Brings keys here for `replicate` and `rebalance`. The scheduler takes the answer for the news: no `add-keys`. */
async function gather(fields: Fields, parts: RpcParts): Promise<unknown> {
  const { worker, peer, logger } = parts;
  let wanted = readWhoHas(fields["who_has"], "gather.who_has");
  const held = new Set(await worker.ask("keys", {}));
  let missing = [...wanted.keys()].filter((key) => !held.has(key));
  const failed: Key[] = [];
  const gone = new Set<Address>();
  while (missing.length > 0) {
    const asked = new Map<Address, Key[]>();
    for (const key of missing) {
      const holders = (wanted.get(key) ?? []).filter((holder) => !gone.has(holder));
      const holder = holders[Math.floor(Math.random() * holders.length)];
      if (holder === undefined) failed.push(key);
      else asked.set(holder, [...(asked.get(holder) ?? []), key]);
    }
    const rounds = await Promise.all(
      [...asked].map(async ([holder, keys]) => ({
        holder,
        keys,
        answer: await peer.ask("fetch", { peer: holder, keys }),
      })),
    );
    const arrived = new Map<Key, number>();
    missing = [];
    let busy = false;
    for (const { holder, keys, answer } of rounds) {
      if (answer.type === "arrived") {
        for (const [key, nbytes] of Object.entries(answer.nbytes)) arrived.set(key, nbytes);
        const without = keys.filter((key) => !arrived.has(key));
        // It serves only part of a large request at a time; who gives nothing of it has nothing of it.
        if (without.length === keys.length) gone.add(holder);
        missing.push(...without);
      } else {
        if (answer.type === "busy") busy = true;
        else gone.add(holder);
        missing.push(...keys);
      }
    }
    if (arrived.size > 0) {
      await worker.ask("events", [{ type: "data-added", nbytes: arrived, at: Date.now() }]);
    }
    if (missing.length > 0) {
      if (busy) await new Promise((resolve) => setTimeout(resolve, 150));
      wanted = await parts.whoHas(missing);
    }
  }
  if (failed.length === 0) return { status: "OK" };
  logger.log("warning", `Cannot gather ${failed.map(keyText).join(", ")}: nobody reachable has them`);
  return { status: "partial-fail", keys: failed.map(keyToWire) };
}

async function freeKeys(fields: Fields, { worker }: RpcParts): Promise<null> {
  const keys = readKeys(fields["keys"], "free_keys.keys");
  const stimulusId = readString(fields["stimulus_id"], "free_keys.stimulus_id");
  await worker.ask("events", [{ type: "free-keys", keys, stimulusId, at: Date.now() }]);
  return null;
}

async function callStack(fields: Fields, { worker }: RpcParts): Promise<unknown> {
  const keys = readNullable(fields["keys"], "call_stack.keys", readKeys);
  const { executing } = await worker.ask("counts", {});
  const now = Date.now();
  const stacks: Record<Key, string[]> = Object.create(null);
  for (const [key, since] of executing) {
    if (keys !== null && !keys.includes(key)) continue;
    stacks[key] = [
      `TypeScript function in an executor process, running for ${((now - since) / 1000).toFixed(1)} s`,
    ];
  }
  return stacks;
}

async function dumpState(_: Fields, { worker, store, describe, log }: RpcParts): Promise<unknown> {
  const { id, address, name, status, slots, memoryLimitBytes } = describe();
  return {
    type: "Worker",
    language: "typescript",
    id,
    address,
    name,
    status,
    nthreads: slots,
    memory_limit: memoryLimitBytes,
    state: plain(await worker.ask("snapshot", {})),
    store: await store.ask("usage", {}),
    logs: log.newestFirst(0, Infinity, false),
  };
}

function acceptPlugin(op: string, fields: Fields, { logger }: RpcParts): unknown {
  const name = readNullable(fields["name"], `${op}.name`, readString) ?? "without a name";
  // Refusing would make the call fail for the Python workers as well, which can use it.
  logger.log("debug", `Ignored ${op} of plugin "${name}": a TypeScript worker runs no Python plugins`);
  return { status: "OK" };
}

function refusedFunction(op: string): unknown {
  const error = new DaskError(`Cannot ${op} this function: a TypeScript worker runs no Python functions`);
  const { exception, traceback, exceptionText, tracebackText } = writeException({
    ...errorData(error),
    stack: "",
  });
  return {
    status: "error",
    exception: serialized(exception),
    traceback,
    exception_text: exceptionText,
    traceback_text: tracebackText,
  };
}

function refuse(op: string, reason: string): never {
  throw new DaskError(`Cannot answer ${op}: ${reason}`);
}

function writeKeyMap<T>(map: ReadonlyMap<Key, T>): Record<Key, T> {
  const record: Record<Key, T> = Object.create(null);
  for (const [key, value] of map) record[key] = value;
  return record;
}

/** What msgpack can carry of a story: Maps as maps, bytes by their length. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Uint8Array) return `<${value.byteLength} bytes>`;
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, item]) => [String(key), plain(item)]));
  }
  if (typeof value !== "object" || value === null) return value === undefined ? null : value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
}
