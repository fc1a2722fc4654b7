/**
 * The nanny of one worker, as dask's scheduler and clients know it: a small rpc server in the process that watches the
 * worker. It is what `client.restart()` and the scheduler's own restarts of silent workers talk to. The worker asks its
 * watcher for it over a connection on this machine, because only the worker knows by which address the scheduler is
 * reached.
 *
 * @module
 */
import type { Transport } from "../comm/comm.ts";
import { RpcPool } from "../comm/pool.ts";
import { serve, type Server, type ServerReply, type ServerRequest } from "../comm/server.ts";
import { tcp } from "../comm/tcp.ts";
import { formatAddress, parseAddress } from "../protocol/address.ts";
import { DaskError } from "../protocol/errors.ts";
import { type Fields, readNullable, readNumber, readString } from "../protocol/read.ts";
import type { LogRing } from "./log_ring.ts";
import { listenOnFree } from "./ports.ts";

/** Time for the worker's process to end when who asks for it says none, ms; the same as dask's. */
const KILL_MS = 5_000;
/** Time for a restart, ms. */
const RESTART_MS = 30_000;
/** The watcher answers its own worker within this, ms, also on a machine that has much to do. */
const WATCHER_MS_MAX = 60_000;

/** The watcher of one worker process. */
export interface Watcher {
  /** Ends the process, by force when it takes longer than `timeoutMs`; resolves when it is gone. Another one follows. */
  kill(timeoutMs: number, reason: string): Promise<void>;
  /** Resolves when a worker runs and is registered, or when none will any more. */
  running(): Promise<void>;
  /** Ends the process, and no other one follows. */
  terminate(timeoutMs: number, reason: string): Promise<void>;
  /** When this process ends, no other one shall follow. */
  letGo(reason: string): void;
  /** The worker that was started says that it is registered. */
  registered(): void;
}

/** A nanny with its connection to the worker. */
export interface Nanny extends AsyncDisposable {
  /** Where the worker finds its watcher. */
  readonly supervisorAddress: string;
}

/** Begins to answer. `ports` are those to try for the nanny itself; `log` is what `get_logs` gives. */
export async function startNanny(
  watcher: Watcher,
  options: { readonly ports: readonly number[]; readonly log: LogRing; readonly transport?: Transport },
): Promise<Nanny> {
  const { ports, log, transport = tcp } = options;
  const id = `Nanny-${crypto.randomUUID()}`;
  /** For scheduler and clients; listens where the worker does, from when the worker says where that is. */
  let nanny: Server | null = null;
  const answerNanny = (request: ServerRequest): Promise<ServerReply | null> =>
    answer(NANNY_OPS, request, { watcher, log, id });

  const listen = async (worker: string): Promise<string> => {
    const { scheme, host } = parseAddress(worker);
    const before = nanny === null ? null : parseAddress(nanny.address);
    if (nanny !== null && before?.scheme === scheme && before.host === host) return nanny.address;
    await nanny?.close();
    nanny = null; // should the next line fail
    nanny = await listenOnFree(
      ports,
      (port) => serve(transport, formatAddress({ scheme, host, port }), answerNanny, { logger: log }),
    );
    return nanny.address;
  };
  const local = await serve(tcp, "tcp://127.0.0.1:0", async ({ op, fields }) => {
    if (op === "listen") return { reply: await listen(readString(fields["worker"], "listen.worker")) };
    if (op === "registered") watcher.registered();
    return { reply: "OK" };
  }, { logger: log });
  return {
    supervisorAddress: local.address,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([local.close(), nanny?.close()]);
    },
  };
}

/** The worker's side: asks its watcher, at `supervisorAddress`, for a nanny where the worker listens. */
export async function askForNanny(supervisorAddress: string, worker: string): Promise<string> {
  return readString(await tellWatcher(supervisorAddress, { op: "listen", worker }), "listen reply");
}

/** The worker's side: tells its watcher that it is registered. */
export async function tellRegistered(supervisorAddress: string): Promise<void> {
  await tellWatcher(supervisorAddress, { op: "registered" });
}

async function tellWatcher(
  address: string,
  message: { readonly op: string } & Fields,
): Promise<unknown> {
  await using pool = new RpcPool(tcp);
  return await pool.call(address, message, { timeoutMs: WATCHER_MS_MAX });
}

interface NannyParts {
  readonly watcher: Watcher;
  readonly log: LogRing;
  readonly id: string;
}

type Answer = (fields: Fields, parts: NannyParts) => unknown;

const NANNY_OPS: Readonly<Record<string, Answer>> = {
  ping: () => new TextEncoder().encode("pong"),
  identity: (_, { id }) => ({ type: "Nanny", id }),
  // The scheduler takes null for success. That another process follows is up to the watcher.
  kill: async (fields, { watcher }) => {
    await watcher.kill(milliseconds(fields, "kill", KILL_MS), reasonOf(fields, "nanny-kill"));
    return null;
  },
  restart: async (fields, { watcher, log }) => {
    const timeoutMs = milliseconds(fields, "restart", RESTART_MS);
    const restarted = watcher.kill(KILL_MS, reasonOf(fields, "nanny-restart")).then(() => watcher.running());
    if (await inTime(restarted, timeoutMs)) return "OK";
    log.log("error", `The restart of the worker took longer than ${timeoutMs} ms`);
    return "timed out";
  },
  instantiate: async (_, { watcher }) => {
    await watcher.running();
    return "running";
  },
  terminate: async (fields, { watcher }) => {
    await watcher.terminate(milliseconds(fields, "terminate", KILL_MS), reasonOf(fields, "nanny-close"));
    return "OK";
  },
  close_gracefully: (fields, { watcher }) => {
    watcher.letGo(reasonOf(fields, "nanny-close-gracefully"));
    return null;
  },
  get_logs: (fields, { log }) => {
    const start = readNullable(fields["start"], "get_logs.start", readNumber) ?? 0;
    const count = readNullable(fields["n"], "get_logs.n", readNumber) ?? 0;
    return log.newestFirst(start, count === 0 ? Infinity : count, fields["timestamps"] === true);
  },
  run: () => {
    throw new DaskError("Cannot run this function: the nanny of a TypeScript worker runs no functions");
  },
  // Refusing would make the call fail for Python's nannies as well, which can use it.
  plugin_add: (fields, parts) => ignorePlugin("plugin_add", fields, parts),
  plugin_remove: (fields, parts) => ignorePlugin("plugin_remove", fields, parts),
};

/** Answers one request; null for an op that is not known. */
async function answer(
  ops: Readonly<Record<string, Answer>>,
  { op, fields }: ServerRequest,
  parts: NannyParts,
): Promise<ServerReply | null> {
  if (!Object.hasOwn(ops, op)) return null;
  return { reply: await ops[op]!(fields, parts) };
}

function ignorePlugin(op: string, fields: Fields, { log }: NannyParts): unknown {
  const name = readNullable(fields["name"], `${op}.name`, readString) ?? "without a name";
  log.log(
    "debug",
    `Ignored ${op} of plugin "${name}": the nanny of a TypeScript worker runs no Python plugins`,
  );
  return { status: "OK" };
}

function milliseconds(fields: Fields, op: string, otherwise: number): number {
  const seconds = readNullable(fields["timeout"], `${op}.timeout`, readNumber);
  return seconds === null ? otherwise : Math.max(0, seconds * 1000);
}

function reasonOf(fields: Fields, otherwise: string): string {
  const { reason } = fields;
  return typeof reason === "string" ? reason : otherwise;
}

/** Whether `done` comes within `ms`. */
async function inTime(done: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(false), ms));
  try {
    return await Promise.race([done.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
