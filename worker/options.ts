/**
 * What a worker may be told, and what it makes of it.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { formatBytes, parseBytes } from "../base/units.ts";
import { silent } from "../base/log.ts";
import type { Transport } from "../comm/comm.ts";
import { tcp } from "../comm/tcp.ts";
import { normalizeAddress, parseAddress, SCHEDULER_PORT } from "../protocol/address.ts";
import { DaskError } from "../protocol/errors.ts";
import { type IsolationName, ISOLATIONS } from "./execute/executor.ts";
import type { TaskPermissions } from "./execute/permissions.ts";

/** Options of `startWorker`. All are optional. */
export interface WorkerOptions {
  /**
   * The scheduler, `"tcp://host:8786"`; scheme and port may be missing. Default: the variable
   * `DASK_SCHEDULER_ADDRESS`, else this host.
   */
  readonly address?: string;
  /** A file that `dask scheduler --scheduler-file` wrote, instead of `address`. */
  readonly schedulerFile?: string | URL;
  /** Unique among the workers of a scheduler. Default: the worker's own address. */
  readonly name?: string;
  /** Tasks that run at a time, each in a process of its own. Default: the cores of the machine. */
  readonly slots?: number;
  /**
   * Where task code runs. `"process"` (the default): a child process a slot, which can be ended and limited; whatever
   * happens in it, the worker goes on. `"thread"`: a thread a slot, for trusted code that ends. `"inline"`: the worker's
   * own thread, for trusted, short code and for tests. The last two have all permissions of the worker.
   */
  readonly isolation?: IsolationName;
  /** How long a task that has acknowledged its abort may go on before it is ended by force, ms. Default 250. */
  readonly abortGraceMs?: number;
  /**
   * Bytes (a number above 1), a share of the machine (a number up to 1), `"2GiB"`, `"auto"` (the machine's memory by
   * the share of cores used) or 0 for none. The scheduler plans with it. Default `"auto"`.
   */
  readonly memoryLimit?: number | string;
  /** What tasks can ask for by name, as `{ GPU: 1 }`. */
  readonly resources?: Readonly<Record<string, number>>;
  /**
   * What task code may do: `"inherit"` (the default: what this process may, without `run` and `ffi`), `"none"`, or
   * kinds, as `{ net: ["example.org:443"], read: ["/data"] }`.
   */
  readonly permissions?: TaskPermissions;
  /** Host to listen on. Default: the one by which the scheduler is reached. */
  readonly host?: string;
  /** Port to listen on. Default: any free one. */
  readonly port?: number;
  /** Address that others are told, where it differs from the one listened on. */
  readonly contactAddress?: string;
  /** Folder under which the worker keeps its files. Default `/dev/shm` where there is room, else the temporary folder. */
  readonly localDirectory?: string;
  /** Milliseconds in which the scheduler must be reached. Default: no limit. */
  readonly connectTimeoutMs?: number;
  /** Ends the worker, also while it starts. */
  readonly signal?: AbortSignal;
  /** Where lines go. Default: nowhere. */
  readonly logger?: Logger;
  /** How bytes move. Default: TCP. */
  readonly transport?: Transport;
  /** Checks the machine's invariants after every event. For tests; slow. */
  readonly validate?: boolean;
  /** Not available yet: a worker that lost its scheduler ends. */
  readonly reconnect?: boolean;
  /** Not available yet. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
  /** Not available yet. */
  readonly allowModules?: readonly (string | RegExp)[];
  /** Not available yet; `false` is what happens. */
  readonly spill?: string | false;
}

/** Options, checked and completed. */
export interface WorkerSettings {
  readonly scheduler: string;
  readonly name: string | null;
  readonly slots: number;
  readonly memoryLimitBytes: number | null;
  readonly resources: Readonly<Record<string, number>>;
  readonly permissions: TaskPermissions | undefined;
  readonly isolation: IsolationName;
  readonly abortGraceMs: number | undefined;
  readonly host: string | null;
  readonly port: number;
  readonly contactAddress: string | null;
  readonly localDirectory: string | null;
  readonly connectTimeoutMs: number | null;
  readonly signal: AbortSignal | null;
  readonly logger: Logger;
  readonly transport: Transport;
  readonly validate: boolean;
}

/**
 * Checks and completes options.
 *
 * @throws {TypeError | RangeError} for values that make no sense, {@linkcode DaskError} for what is not available yet
 * and for a scheduler file that cannot be read.
 */
export async function readOptions(given: string | WorkerOptions = {}): Promise<WorkerSettings> {
  const options = typeof given === "string" ? { address: given } : given;
  refuseUnavailable(options);
  const slots = options.slots ?? navigator.hardwareConcurrency;
  if (!Number.isSafeInteger(slots) || slots < 1) {
    throw new RangeError(`Cannot start a worker with ${slots} slots: expected a whole number of at least 1`);
  }
  const port = options.port ?? 0;
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new RangeError(`Cannot listen on port ${port}: expected a number from 0 to 65535`);
  }
  const { isolation = "process", abortGraceMs = 0 } = options;
  if (!ISOLATIONS.includes(isolation)) {
    throw new TypeError(
      `Cannot use isolation ${JSON.stringify(isolation)}: expected one of ${ISOLATIONS.join(", ")}`,
    );
  }
  if (!Number.isFinite(abortGraceMs) || abortGraceMs < 0) {
    throw new RangeError(`Cannot give an aborted task ${abortGraceMs} ms: expected a number of at least 0`);
  }
  for (const [name, amount] of Object.entries(options.resources ?? {})) {
    if (!Number.isFinite(amount) || amount < 0) {
      throw new RangeError(`Cannot offer ${amount} of resource "${name}": expected a number of at least 0`);
    }
  }
  const scheduler = await schedulerAddress(options);
  if (parseAddress(scheduler).scheme === "tls" && options.transport === undefined) {
    throw new DaskError(`Cannot connect to ${scheduler}: TLS is not available yet, use a tcp:// address`);
  }
  const logger = options.logger ?? silent;
  return {
    scheduler,
    name: options.name ?? null,
    slots,
    memoryLimitBytes: memoryLimitBytes(options.memoryLimit ?? "auto", slots, logger),
    resources: options.resources ?? {},
    permissions: options.permissions,
    isolation,
    abortGraceMs: options.abortGraceMs,
    host: options.host ?? null,
    port,
    contactAddress: options.contactAddress === undefined ? null : normalizeAddress(options.contactAddress),
    localDirectory: options.localDirectory ?? null,
    connectTimeoutMs: options.connectTimeoutMs ?? null,
    signal: options.signal ?? null,
    logger,
    transport: options.transport ?? tcp,
    validate: options.validate ?? false,
  };
}

function refuseUnavailable(options: WorkerOptions): void {
  const unavailable = (what: string, remedy: string) =>
    new DaskError(`${what} is not available yet: ${remedy}`);
  if (options.tls !== undefined) throw unavailable("TLS", "leave out `tls` and use a tcp:// address");
  if (options.reconnect === true) {
    throw unavailable("Reconnecting", "a worker that lost its scheduler ends, start another");
  }
  if (options.allowModules !== undefined) throw unavailable("`allowModules`", "limit `permissions` instead");
  if (options.spill !== undefined && options.spill !== false) {
    throw unavailable("Spilling", "leave out `spill`");
  }
}

async function schedulerAddress(options: WorkerOptions): Promise<string> {
  const defaults = { defaultPort: SCHEDULER_PORT };
  if (options.schedulerFile !== undefined) {
    return normalizeAddress(await readSchedulerFile(options.schedulerFile), defaults);
  }
  if (options.address !== undefined) return normalizeAddress(options.address, defaults);
  return normalizeAddress(environmentAddress() ?? "127.0.0.1", defaults);
}

function environmentAddress(): string | undefined {
  try {
    return Deno.env.get("DASK_SCHEDULER_ADDRESS");
  } catch {
    return undefined; // no permission to look: as if it were not set
  }
}

async function readSchedulerFile(file: string | URL): Promise<string> {
  let address: unknown;
  try {
    address = (JSON.parse(await Deno.readTextFile(file)) as { address?: unknown }).address;
  } catch (cause) {
    throw new DaskError(`Cannot read the scheduler file "${file}": ${(cause as Error).message}`, { cause });
  }
  if (typeof address !== "string") {
    throw new DaskError(`Cannot read the scheduler file "${file}": it holds no "address"`);
  }
  return address;
}

/** Reads a memory limit as dask does; `null`: none. */
export function memoryLimitBytes(
  limit: number | string,
  slots: number,
  logger: Logger = silent,
): number | null {
  const machine = machineMemoryBytes();
  const number = typeof limit === "number" ? limit : limit.trim() === "" ? NaN : Number(limit);
  if (typeof limit === "number" && !(limit >= 0)) {
    throw new RangeError(`Cannot limit memory to ${limit}: expected a number of at least 0`);
  }
  if (number === 0) return null;
  if (limit === "auto") {
    return machine === null ? null : Math.floor(machine * Math.min(1, slots / navigator.hardwareConcurrency));
  }
  if (number <= 1) {
    if (machine !== null) return Math.floor(machine * number);
    throw new DaskError(
      "Cannot read the size of the machine's memory: give the limit in bytes, or --allow-sys",
    );
  }
  const bytes = Number.isNaN(number) ? parseBytes(String(limit)) : Math.floor(number);
  if (machine !== null && bytes > machine) {
    logger.log(
      "warning",
      `The memory limit ${formatBytes(bytes)} is more than the machine has: ${formatBytes(machine)} it is`,
    );
    return machine;
  }
  return bytes;
}

/** Memory of the machine or of the container, whichever is less; `null` without permission to ask. */
function machineMemoryBytes(): number | null {
  let total: number | null = null;
  try {
    total = Deno.systemMemoryInfo().total;
  } catch {
    // Needs --allow-sys=systemMemoryInfo.
  }
  for (const file of ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]) {
    try {
      const limit = Number(Deno.readTextFileSync(file).trim());
      if (limit > 0 && (total === null || limit < total)) total = limit;
    } catch {
      // Not in a container, or not to be read.
    }
  }
  return total;
}
