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
import type { ServerRequest } from "../comm/server.ts";
import { serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { type Key, keyText, keyToWire } from "../protocol/key.ts";
import {
  type Fields,
  readArray,
  readBoolean,
  readCount,
  readKey,
  readKeyMap,
  readKeys,
  readNullable,
  readNumber,
  readRecord,
  readSerialized,
  readString,
} from "../protocol/read.ts";
import type { Outcome } from "./execute/executor.ts";
import type { StatefulTasks } from "./execute/stateful.ts";
import type { LogRing } from "./log_ring.ts";
import type { Address, RunSpec } from "./machine/events.ts";
import type { WorkerCalls } from "./messages.ts";
import type { Monitor } from "./monitor.ts";
import { readWhoHas } from "./wire.ts";

/** What the answers are made from. */
export interface RpcParts {
  readonly store: Ref<StoreCalls>;
  readonly peer: Ref<PeerCalls>;
  readonly worker: Ref<WorkerCalls>;
  readonly logger: Logger;
  readonly log: LogRing;
  /** The scheduler's own answer to `versions`: its packages being equal, nobody warns of a mismatch. */
  readonly versions: unknown;
  readonly describe: () => WorkerDescription;
  readonly monitor: Monitor;
  /** Runs a call that is no task in an executor of its own. */
  readonly callAside: (spec: RunSpec) => Promise<Outcome>;
  /** The instances that live here; null when there never was one. */
  readonly stateful: () => Promise<StatefulTasks> | null;
  /** Asks another server; large answers stay in memory. */
  readonly ask: (address: Address, request: { readonly op: string }) => Promise<unknown>;
  /** Asks the scheduler for the holders of keys. */
  readonly whoHas: (keys: readonly Key[]) => Promise<ReadonlyMap<Key, readonly Address[]>>;
  /**
   * Ends the worker; `again`: another one is to be started in its place. Resolves when it has left the scheduler, before
   * it has ended.
   */
  readonly close: (reason: string, again?: boolean) => Promise<void>;
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
  readonly localDirectory: string;
  /** Whether somebody starts another worker when this one ends. */
  readonly nanny: boolean;
}

type Answer = (fields: Fields, parts: RpcParts, files: Set<string>) => unknown;

/** How code reaches a TypeScript worker, for those who try otherwise. */
const CODE_TRAVELS = "a TypeScript worker loads functions by the URL of their module, as " +
  'methodcaller("deno:<module URL>#<export>"), or gets them with the tasks of TypeScript clients';

/** Not written into the `import`: Deno would read them at the start. */
const ACTOR_CALLS = new URL("./actor_calls.ts", import.meta.url).href;
const BENCHMARKS = new URL("./benchmarks.ts", import.meta.url).href;
const CALL = new URL("../protocol/call.ts", import.meta.url).href;
const RUN_FUNCTION = new URL("./run_function.ts", import.meta.url).href;
const actorCalls = (): Promise<typeof import("./actor_calls.ts")> => import(ACTOR_CALLS);
const benchmarks = (): Promise<typeof import("./benchmarks.ts")> => import(BENCHMARKS);
const runFunction = (): Promise<typeof import("./run_function.ts")> => import(RUN_FUNCTION);

/** One line per op; an op that is not here is answered with null, as every dask server does. `get_data` is the peer's. */
const ANSWERS: Readonly<Record<string, Answer>> = {
  ping: () => new TextEncoder().encode("pong"),
  echo: ({ data }) => data ?? null,
  connection_stream: () => refuse("connection_stream", "the one stream of a worker is the scheduler's"),
  update_data: updateData,
  gather,
  free_keys: freeKeys,
  keys: async (_, { worker }) => (await worker.ask("keys", {})).map(keyToWire),
  identity: (_, { describe }) => {
    const { id, scheduler, slots, memoryLimitBytes } = describe();
    return { type: "Worker", id, scheduler, nthreads: slots, memory_limit: memoryLimitBytes };
  },
  versions: (_, { versions }) => ({
    ...readRecord(versions, "versions"),
    host: { ...Deno.version, OS: Deno.build.os, machine: Deno.build.arch },
  }),
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
  get_story: getStory,
  stream_items: streamItems,
  get_monitor_info: (fields, { monitor }) => {
    const recent = readNullable(fields["recent"], "get_monitor_info.recent", readBoolean) ?? false;
    const start = readNullable(fields["start"], "get_monitor_info.start", readNumber) ?? 0;
    return {
      range_query: recent ? monitor.recent() : monitor.since(start),
      count: monitor.count,
      last_time: monitor.lastTime,
    };
  },
  dump_state: dumpState,
  terminate,
  "plugin-add": ignorePlugin,
  "plugin-remove": () => ({ status: "OK" }),
  run: async (...all) => (await runFunction()).runFunction("run", ...all),
  run_coroutine: async (...all) => (await runFunction()).runFunction("run_coroutine", ...all),
  upload_file: () => refuse("upload_file", `${CODE_TRAVELS}; it takes no files`),
  actor_execute: async (...all) => (await actorCalls()).actorExecute(...all),
  actor_attribute: async (...all) => (await actorCalls()).actorAttribute(...all),
  benchmark_disk: async (_, { describe }) => (await benchmarks()).benchmarkDisk(describe().localDirectory),
  benchmark_memory: async () => (await benchmarks()).benchmarkMemory(),
  benchmark_network: async (fields, { ask }) => {
    const address = readString(fields["address"], "benchmark_network.address");
    return (await benchmarks()).benchmarkNetwork((request) => ask(address, request));
  },
};

/** The ops that {@linkcode answerRpc} knows. */
export const RPC_OPS: readonly string[] = Object.keys(ANSWERS);

/**
 * Answers one request.
 *
 * @throws {ProtocolError | DaskError} what the caller is to be told as an uncaught error.
 */
export async function answerRpc(
  request: ServerRequest,
  parts: RpcParts,
): Promise<unknown> {
  // Large frames of a request arrived in files of the store's folder; those that nobody takes over are given back, when
  // the answer, which may hold them, has gone.
  const files = new Set(filesIn([request.fields, request.serializers]));
  try {
    if (!Object.hasOwn(ANSWERS, request.op)) return null;
    return await ANSWERS[request.op]?.(request.fields, parts, files) ?? null;
  } finally {
    void request.acknowledged().then(() => discard(files, parts.store));
  }
}

/** Gives back the files of a request that nobody takes over. */
export function discardFiles(request: ServerRequest, store: Ref<StoreCalls>): void {
  discard(filesIn([request.fields, request.serializers]), store);
}

/** Gives back files of the store's folder. */
export function discard(files: Iterable<string>, store: Ref<StoreCalls>): void {
  for (const file of files) store.tell("discard", { file });
}

async function updateData(fields: Fields, { store, worker }: RpcParts, files: Set<string>): Promise<unknown> {
  const data = readKeyMap(fields["data"], "update_data.data", readSerialized);
  const nbytes = new Map<Key, number>();
  try {
    for (const [key, { payload }] of data) {
      for (const file of filesIn(payload)) files.delete(file); // the store's now, also when it refuses them
      const stored = await store.ask("commit", { key, payload });
      nbytes.set(key, stored.nbytes);
    }
  } catch (error) {
    // All or nothing: what is here already would never be freed.
    const [at, stimulusId] = [Date.now(), "update-data-failed"];
    const keys = [...nbytes.keys()];
    await worker.ask("events", [
      { type: "data-added", nbytes, at },
      { type: "free-keys", keys, stimulusId, at },
    ]);
    throw error;
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

/** What runs, in the lines that dask's tools print. Of a task's inside nothing is known while it runs. */
async function callStack(fields: Fields, { worker }: RpcParts): Promise<unknown> {
  const keys = readNullable(fields["keys"], "call_stack.keys", readKeys);
  const now = Date.now();
  const stacks: Record<Key, string[]> = Object.create(null);
  const running = await worker.ask("running", {});
  if (running.length === 0) return stacks;
  const { functionNameIn }: typeof import("../protocol/call.ts") = await import(CALL);
  for (const { key, since, pickle } of running) {
    if (keys !== null && !keys.includes(key)) continue;
    const seconds = ((now - since) / 1000).toFixed(1);
    stacks[key] = [
      `  Task ${keyText(key)}, for ${seconds} s, in an executor process\n`,
      `  ${functionNameIn(pickle) ?? "A function without a name"}\n`,
    ];
  }
  return stacks;
}

/** Ours alone: what a task that runs here has yielded, from one item on. Waits for an item; null: it does not run here. */
async function streamItems(fields: Fields, { worker }: RpcParts): Promise<unknown> {
  const key = readKey(fields["key"], "stream_items.key");
  const batch = await worker.ask("items", { key, from: readCount(fields["from"], "stream_items.from") });
  if (batch === null) return null;
  const { header, frames, last } = batch;
  return { items: serialized({ header, frames }), last };
}

/** Each step as dask's own workers tell it: key, from, to as asked and as done, what else followed, cause, time. */
async function getStory(fields: Fields, { worker }: RpcParts): Promise<unknown> {
  const names = readArray(fields["keys_or_stimuli"], "get_story.keys_or_stimuli", readKey);
  const story = await worker.ask("story", { names });
  return story.map(({ key, from, to, cause, at }) => [keyToWire(key), from, to, to, {}, cause, at / 1000]);
}

/** Named as Python's workers name it, as far as it is the same, so that readers of cluster dumps find their way. */
async function dumpState(
  fields: Fields,
  { worker, store, monitor, describe, log }: RpcParts,
): Promise<unknown> {
  const exclude = new Set(readNullable(fields["exclude"], "dump_state.exclude", readNames) ?? []);
  const { id, address, name, scheduler, status, slots, memoryLimitBytes, localDirectory } = describe();
  const { tasks, ...state } = await worker.ask("snapshot", {});
  return plain({
    type: "Worker",
    language: "typescript",
    id,
    address,
    name,
    scheduler,
    status,
    nthreads: slots,
    memory_limit: memoryLimitBytes,
    local_directory: localDirectory,
    tasks,
    state,
    store: await store.ask("usage", {}),
    monitor: monitor.recent(),
    logs: log.newestFirst(0, Infinity, true),
  }, exclude);
}

function readNames(value: unknown, path: string): readonly string[] {
  return readArray(value, path, readString);
}

/** `timeout` and `executor_wait` are dask's: here the end has limits of its own. The answer goes out first. */
function terminate(fields: Fields, { close, describe }: RpcParts): string {
  const reason = readNullable(fields["reason"], "terminate.reason", readString) ?? "asked to terminate";
  readNullable(fields["timeout"], "terminate.timeout", readNumber);
  const nanny = readNullable(fields["nanny"], "terminate.nanny", readBoolean) ?? true;
  setTimeout(() => void close(reason, !nanny && describe().nanny), 0);
  return "OK";
}

/** Refusing would make the call fail for the Python workers as well, which can use the plugin. */
function ignorePlugin(fields: Fields, { logger }: RpcParts): unknown {
  const name = readNullable(fields["name"], "plugin-add.name", readString) ?? "without a name";
  warnOfPlugin(name, logger);
  return { status: "OK" };
}

/** Tells that a plugin does nothing here. */
export function warnOfPlugin(name: string, logger: Logger): void {
  logger.log("warning", `Ignored the plugin "${name}": a TypeScript worker runs no Python plugins`);
}

function refuse(op: string, reason: string): never {
  throw new DaskError(`Cannot answer ${op}: ${reason}`);
}

function writeKeyMap<T>(map: ReadonlyMap<Key, T>): Record<Key, T> {
  const record: Record<Key, T> = Object.create(null);
  for (const [key, value] of map) record[key] = value;
  return record;
}

/** What msgpack, JSON and YAML can carry of our own state: keys as people read them, bytes by their length. */
function plain(value: unknown, exclude: ReadonlySet<string>): unknown {
  const record = (entries: Iterable<[unknown, unknown]>) =>
    Object.fromEntries(
      [...entries].filter(([name]) => !exclude.has(String(name)))
        .map(([name, item]) => [keyText(String(name)), plain(item, exclude)]),
    );
  if (Array.isArray(value) || value instanceof Set) return [...value].map((item) => plain(item, exclude));
  if (value instanceof Uint8Array) return `<${value.byteLength} bytes>`;
  if (value instanceof Map) return record(value);
  if (typeof value === "string") return keyText(value);
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value !== "object" || value === null) return value === undefined ? null : value;
  return record(Object.entries(value));
}
