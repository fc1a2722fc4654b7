/**
 * Finds a scheduler and shakes hands with it: address, versions, who works there, registration.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { type Channel, connectChannel } from "../comm/channel.ts";
import type { Transport } from "../comm/comm.ts";
import type { RpcPool } from "../comm/pool.ts";
import { loadConfig } from "../config/read.ts";
import type { TlsOptions } from "../comm/tls.ts";
import { tlsOf, withDefaultScheme } from "../config/settings.ts";
import { normalizeAddress, SCHEDULER_PORT } from "../protocol/address.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import { readRecord } from "../protocol/read.ts";
import { checkRelease } from "../protocol/release.ts";
import { readDashboardPort, readVersion, readWorkers } from "./identity.ts";
import type { WorkerInfo } from "./messages.ts";

/** Time for the whole of connecting unless told otherwise, ms. */
export const CONNECT_MS = 30_000;
/** Where the scheduler may be found. */
export interface SchedulerPlace {
  readonly address?: string;
  readonly schedulerFile?: string | URL;
}

/** Options as given, completed by dask's configuration on this machine. @throws {DaskError} when that makes no sense. */
export async function withConfig<
  T extends SchedulerPlace & {
    readonly timeout?: number;
    readonly logger?: Logger;
    readonly tls?: TlsOptions;
  },
>(options: T): Promise<T> {
  const config = await loadConfig(options.logger);
  const { schedulerAddress, timeouts } = config;
  const address = options.address ?? (options.schedulerFile === undefined ? schedulerAddress : null);
  const tls = options.tls ?? tlsOf(config, "client");
  return {
    ...options,
    ...(tls === undefined ? {} : { tls }),
    ...(typeof address === "string" ? { address: withDefaultScheme(address, config) } : {}),
    ...(options.timeout === undefined && timeouts.connectMs !== null ? { timeout: timeouts.connectMs } : {}),
  };
}

/**
 * The address of the scheduler: the one given, else that of `DASK_SCHEDULER_ADDRESS`, else that in the scheduler
 * file, else `tcp://127.0.0.1:8786`.
 *
 * @throws {TypeError} when the text is no address. @throws {DaskError} when the file cannot be used.
 */
export function schedulerAddress(place: SchedulerPlace): string {
  const address = place.address ?? addressFromEnvironment() ?? addressFromFile(place.schedulerFile) ??
    "127.0.0.1";
  if (typeof address !== "string") {
    throw new TypeError(`Cannot read the option "address": expected a text such as "tcp://host:8786"`);
  }
  return normalizeAddress(address, { defaultPort: SCHEDULER_PORT });
}

function addressFromEnvironment(): string | undefined {
  try {
    return Deno.env.get("DASK_SCHEDULER_ADDRESS") || undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return undefined; // then it cannot have been meant for us
    throw error;
  }
}

function addressFromFile(file: string | URL | undefined): string | undefined {
  if (file === undefined) return undefined;
  let address: unknown;
  try {
    ({ address } = JSON.parse(Deno.readTextFileSync(file)) as { address?: unknown });
  } catch (cause) {
    throw new DaskError(
      `Cannot read the scheduler file "${file}": ${
        (cause as Error).message
      }; is the scheduler running with ` +
        `--scheduler-file?`,
      { cause },
    );
  }
  if (typeof address === "string") return address;
  throw new DaskError(`Cannot use the scheduler file "${file}": it has no "address"`);
}

/** What the handshake needs. */
export interface HandshakeOptions {
  readonly transport: Transport;
  readonly scheduler: RpcPool;
  readonly address: string;
  readonly clientId: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly logger: Logger;
}

/** A scheduler that knows us. */
export interface Registered {
  readonly clientId: string;
  readonly stream: Channel;
  readonly workers: readonly WorkerInfo[];
  /** Version of `distributed`. */
  readonly version: string;
  readonly dashboardPort: number | null;
}

/**
 * Connects and registers.
 *
 * @throws {CommClosedError} that names the address and the way out. @throws {DaskError} when the release does not fit.
 */
export async function register(options: HandshakeOptions): Promise<Registered> {
  const { transport, scheduler, address, clientId, timeoutMs, logger } = options;
  const late = new CommClosedError(
    `Cannot connect to the scheduler at ${address}: no answer within ${timeoutMs} ms; is it a dask scheduler, and does ` +
      `it run?`,
    address,
  );
  // Whatever takes the time, this ends it.
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(late), timeoutMs);
  const signal = AbortSignal.any([options.signal, timeout.signal]);
  let stream: Channel | null = null;
  try {
    stream = await connectChannel(transport, address, { timeoutMs, signal });
    const versions = await scheduler.call(address, { op: "versions" }, { signal });
    const version = readVersion(versions);
    checkRelease(version, address, logger);
    const identity = await scheduler.call(address, { op: "identity" }, { signal });
    // The scheduler's own versions: they fit, and nobody is told that ours do not.
    stream.send({ op: "register-client", client: clientId, versions, reply: false });
    const stop = stream;
    const onAbort = (): void => stop.abort();
    signal.addEventListener("abort", onAbort, { once: true });
    const first = await stream.receive().finally(() => signal.removeEventListener("abort", onAbort));
    if (first === null) {
      throw new CommClosedError(
        `Cannot register with the scheduler at ${address}: it closed the connection; its log may say why`,
        address,
      );
    }
    readStart(first.message, address);
    return {
      clientId,
      stream,
      workers: readWorkers(identity),
      version,
      dashboardPort: readDashboardPort(identity),
    };
  } catch (error) {
    stream?.abort();
    if (options.signal.aborted) throw options.signal.reason;
    if (timeout.signal.aborted) throw late;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function readStart(message: unknown, address: string): void {
  const [start] = Array.isArray(message) ? message : [message];
  const fields = start === undefined || start === null ? {} : readRecord(start, "stream-start");
  if (fields["op"] !== "stream-start") {
    throw new CommClosedError(
      `Cannot register with ${address}: expected "stream-start", got ${
        JSON.stringify(fields["op"])
      }; is it a dask ` +
        `scheduler?`,
      address,
    );
  }
  const { error } = fields;
  if (typeof error === "string" && error !== "") {
    throw new DaskError(`Cannot register with the scheduler at ${address}: ${error}`);
  }
}
