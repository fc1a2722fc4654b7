/**
 * How a worker becomes known to a scheduler: find it, check its release, introduce oneself.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { type Channel, openChannel } from "../comm/channel.ts";
import type { Comm, Transport } from "../comm/comm.ts";
import { CommClosedError, DaskError, TlsError } from "../protocol/errors.ts";
import { type Fields, readNullable, readNumber, readRecord, readString } from "../protocol/read.ts";
import { checkRelease } from "../protocol/release.ts";

/** One attempt to reach the scheduler takes at most this, ms. */
const ATTEMPT_MS_MAX = 6_000;
/** Between attempts, ms: at first and at most. */
const PAUSE_MS_MIN = 50;
const PAUSE_MS_MAX = 2_000;
/** A line in the log this often while waiting, ms. */
const TELL_MS = 5_000;
/** The scheduler answers registration within this, ms; it may be busy with a large graph. */
const ANSWER_MS_MAX = 300_000;

/** News for the scheduler go together when they are closer than this, ms; what comes after a quiet time goes at once. */
const BATCH_INTERVAL_MS = 2;

/** A connection to the scheduler: messages go by `channel`, and come as frames by `comm`. */
export interface Connection {
  readonly comm: Comm;
  readonly channel: Channel;
}

/**
 * Connects, and keeps trying for `timeoutMs` (null: for ever).
 *
 * @throws {CommClosedError} when the time is over; the reason of `signal` when it aborts.
 */
export async function connectScheduler(
  transport: Transport,
  address: string,
  options: {
    readonly timeoutMs: number | null;
    readonly signal: AbortSignal | null;
    readonly logger: Logger;
  },
): Promise<Connection> {
  const { timeoutMs, signal, logger } = options;
  const startedAt = Date.now();
  let toldAt = startedAt;
  let pauseMs = PAUSE_MS_MIN;
  let reason: string | null = null;
  for (;;) {
    signal?.throwIfAborted();
    const leftMs = timeoutMs === null ? Infinity : startedAt + timeoutMs - Date.now();
    try {
      return await attempt(transport, address, Math.max(1, Math.min(leftMs, ATTEMPT_MS_MAX)), signal);
    } catch (error) {
      signal?.throwIfAborted();
      // A refusal of permission, of a certificate, or a wrong address does not get better by waiting.
      if (
        error instanceof Deno.errors.NotCapable || error instanceof TypeError || error instanceof TlsError
      ) throw error;
      const waitedMs = Date.now() - startedAt;
      // The end of all the time cuts the last attempt short: what came of those before says more.
      if (reason === null || timeoutMs === null || waitedMs < timeoutMs) reason = reasonOf(error);
      if (timeoutMs !== null && waitedMs + pauseMs >= timeoutMs) {
        throw new CommClosedError(
          `Cannot reach the scheduler at ${address} within ${timeoutMs} ms: start it, or check the address; the last ` +
            `attempt: ${reason}`,
          address,
          { cause: error },
        );
      }
      if (Date.now() - toldAt >= TELL_MS) {
        toldAt = Date.now();
        logger.log(
          "info",
          `Waiting for the scheduler at ${address} since ${Math.round(waitedMs / 1000)} s: ${
            reasonOf(error)
          }`,
        );
      }
      await pause(pauseMs, signal);
      pauseMs = Math.min(pauseMs * 1.6, PAUSE_MS_MAX);
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function attempt(
  transport: Transport,
  address: string,
  timeoutMs: number,
  signal: AbortSignal | null,
): Promise<Connection> {
  const giveUp = new AbortController();
  const timer = setTimeout(
    () =>
      giveUp.abort(
        new CommClosedError(`Cannot connect to ${address}: no answer within ${timeoutMs} ms`, address),
      ),
    timeoutMs,
  );
  const onAbort = () => giveUp.abort(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const comm = await transport.connect(address, { signal: giveUp.signal });
    return {
      comm,
      channel: await openChannel(comm, { signal: giveUp.signal, batchIntervalMs: BATCH_INTERVAL_MS }),
    };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** Waits, less long when `signal` aborts. */
export function pause(ms: number, signal: AbortSignal | null | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}

/** Asks the scheduler for its versions; a release that we do not speak with is refused. */
export async function askVersions(channel: Channel, logger: Logger): Promise<unknown> {
  const versions = await ask(channel, { op: "versions", reply: true }, "versions");
  const packages = readRecord(versions, "versions")["packages"];
  const release = (packages as Fields | undefined)?.["distributed"];
  checkRelease(typeof release === "string" ? release : "", channel.peer, logger);
  return versions;
}

/** What the scheduler is told of a new worker. */
export interface Introduction {
  readonly id: string;
  readonly address: string;
  readonly name: string | number;
  readonly slots: number;
  readonly memoryLimitBytes: number | null;
  readonly resources: Readonly<Record<string, number>>;
  readonly localDirectory: string;
  readonly versions: unknown;
  readonly metrics: Readonly<Record<string, unknown>>;
  /** Port of the HTTP server; null: there is none. */
  readonly dashboardPort: number | null;
  /** Address of the process that watches this worker. */
  readonly nanny: string | null;
}

/**
 * Registers; `plugins` are the names of the plugins that workers are to have. Afterwards the channel is the stream; what
 * it brings next may be tasks already.
 *
 * @throws {DaskError} with the scheduler's own words when it refuses.
 */
export async function register(
  channel: Channel,
  introduction: Introduction,
): Promise<{ readonly clockMs: number; readonly heartbeatMs: number; readonly plugins: readonly string[] }> {
  const startedAt = Date.now();
  const reply = readRecord(
    await ask(channel, {
      op: "register-worker",
      reply: false,
      address: introduction.address,
      status: "init",
      server_id: introduction.id,
      nthreads: introduction.slots,
      name: introduction.name,
      now: startedAt / 1000,
      resources: introduction.resources,
      memory_limit: introduction.memoryLimitBytes,
      metrics: introduction.metrics,
      services: introduction.dashboardPort === null ? {} : { dashboard: introduction.dashboardPort },
      local_directory: introduction.localDirectory,
      versions: introduction.versions,
      nanny: introduction.nanny,
      pid: Deno.pid,
      // Shown beside the other facts of a worker in the scheduler's `identity`.
      extra: { language: "typescript" },
      stimulus_id: `worker-connect-${startedAt / 1000}`,
    }, "register-worker"),
    "register-worker reply",
  );
  if (reply["status"] !== "OK") {
    throw new DaskError(`The scheduler at ${channel.peer} refused the worker: ${refusalText(reply)}`);
  }
  const time = readNumber(reply["time"], "register-worker reply.time") * 1000;
  return {
    clockMs: time - (startedAt + Date.now()) / 2,
    heartbeatMs: readNumber(reply["heartbeat-interval"], "register-worker reply.heartbeat-interval") * 1000,
    plugins: Object.keys(
      readNullable(reply["worker-plugins"], "register-worker reply.worker-plugins", readRecord) ?? {},
    ),
  };
}

function refusalText(reply: Fields): string {
  for (const field of ["message", "exception_text"]) {
    const text = reply[field];
    if (typeof text === "string") return text;
  }
  return `status ${readString(reply["status"], "register-worker reply.status")}`;
}

/** One question on a connection that has no other traffic. */
async function ask(channel: Channel, message: Record<string, unknown>, what: string): Promise<unknown> {
  channel.send(message);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    channel.abort();
  }, ANSWER_MS_MAX);
  const gone = (cause?: unknown) =>
    new CommClosedError(
      late
        ? `The scheduler at ${channel.peer} did not answer ${what} within ${ANSWER_MS_MAX} ms`
        : `The scheduler at ${channel.peer} closed the connection instead of answering ${what}`,
      channel.peer,
      { cause },
    );
  try {
    const received = await channel.receive();
    if (received === null) throw gone();
    return received.message;
  } catch (error) {
    if (error instanceof CommClosedError) throw gone(error);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
