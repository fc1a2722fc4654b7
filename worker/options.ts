/**
 * What a worker may be told, and what it makes of it.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { formatBytes, parseBytes } from "../base/units.ts";
import { silent } from "../base/log.ts";
import type { Transport } from "../comm/comm.ts";
import { certificatesMissing, tcp } from "../comm/tcp.ts";
import type { TlsOptions } from "../comm/tls.ts";
import { loadConfig } from "../config/read.ts";
import { type DaskConfig, tlsOf, withDefaultScheme } from "../config/settings.ts";
import { normalizeAddress, parseAddress, SCHEDULER_PORT } from "../protocol/address.ts";
import { DaskError } from "../protocol/errors.ts";
import { pause } from "./registration.ts";
import type { AllowedCode } from "./execute/allow.ts";
import { type IsolationName, ISOLATIONS } from "./execute/executor.ts";
import type { TaskPermissions } from "./execute/permissions.ts";
import { parseHostPort } from "./ports.ts";
import { type MemoryLimits, memoryLimits, type MemoryThresholds } from "./memory.ts";

/** Options of `startWorker`. All are optional. */
export interface WorkerOptions {
  /**
   * The scheduler, `"tcp://host:8786"`; scheme and port may be missing. Default: the variable
   * `DASK_SCHEDULER_ADDRESS` or `scheduler-address` of dask's configuration, else this host.
   */
  readonly address?: string;
  /** A file that `dask scheduler --scheduler-file` writes, instead of `address`; waited for when it is not there yet. */
  readonly schedulerFile?: string | URL;
  /** Unique among the workers of a scheduler. A number is another name than its digits. Default: the worker's own address. */
  readonly name?: string | number;
  /** Tasks that run at a time, each in a process of its own. Default: the cores of the machine. */
  readonly slots?: number;
  /**
   * Where task code runs. `"process"` (the default): a child process a slot, which can be ended and limited; whatever
   * happens in it, the worker goes on. `"thread"`: a thread a slot, for trusted code that ends. `"inline"`: the worker's
   * own thread, for trusted, short code and for tests. The last two have all permissions of the worker.
   */
  readonly isolation?: "process" | "thread" | "inline";
  /** How long a task that has acknowledged its abort may go on before it is ended by force, ms. Default 250. */
  readonly abortGraceMs?: number;
  /**
   * Bytes (a number above 1), a share of the machine (a number up to 1), `"2GiB"`, `"auto"` (the machine's memory by
   * the share of cores used), or 0 or `"none"` for none. Default `"auto"`. It holds for the worker and its executors
   * together.
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
  /** Port to listen on, or several of which the first free one is taken. Default: any free one. */
  readonly port?: number | readonly number[];
  /** Address that others are told, where it differs from the one listened on. */
  readonly contactAddress?: string;
  /**
   * Folder on disk under which the worker keeps what memory does not hold. Default: the temporary folder, or `/var/tmp`
   * when that one is memory.
   */
  readonly localDirectory?: string;
  /** Shares of `memoryLimit` at which the worker spills, pauses and ends a task; `false` switches one off. */
  readonly memory?: MemoryThresholds;
  /** Milliseconds in which the scheduler must be reached. Default: no limit. */
  readonly connectTimeoutMs?: number;
  /** Milliseconds after which the worker retires: others take over its data, then it ends. Default: no limit. */
  readonly lifetime?: number;
  /** Milliseconds by which `lifetime` is shortened or lengthened at most, by chance. Default 0. */
  readonly lifetimeStagger?: number;
  /** Whether `ended` is to say, after a lifetime, that another worker should be started. Default `false`. */
  readonly lifetimeRestart?: boolean;
  /**
   * Modules that each task process loads before its first task, with the permissions of tasks; URLs or paths. One that
   * fails fails the start.
   */
  readonly preload?: readonly (string | URL)[];
  /**
   * `"HOST:PORT"` or `":PORT"`, port 0 for any: serves `/health`, `/metrics`, `/info` and `/info.json` there by HTTP.
   * Without a host the one that the worker listens on. Default: no such server.
   */
  readonly dashboardAddress?: string;
  /** Gives the address of the process that watches over this worker, when told the address that the worker listens on. */
  readonly nanny?: (listening: string) => Promise<string>;
  /** Ends the worker, also while it starts. */
  readonly signal?: AbortSignal;
  /** Where lines go. Default: nowhere. */
  readonly logger?: Logger;
  /** How bytes move. Default: TCP, and TLS with `tls`. */
  readonly transport?: Transport;
  /** Checks the machine's invariants after every event. For tests; slow. */
  readonly validate?: boolean;
  /** Not available yet: a worker that lost its scheduler ends. */
  readonly reconnect?: boolean;
  /** Certificates, for a scheduler at `tls://`; the worker then listens on `tls://`, too. */
  readonly tls?: TlsOptions;
  /** Scheme to listen on, and of an address that has none. Default: that of the scheduler's address. */
  readonly protocol?: "tcp" | "tls";
  /**
   * The only code that tasks may name; anything else fails its task with a `ModuleNotAllowedError`. Default: all code.
   * An empty list allows none. It is about what scheduler and clients ask for, also by `client.run` and for actors: what
   * a module imports itself, and `preload`, is not asked about, nor is what a server redirects to.
   *
   * - A URL, `https:`, `http:`, `file:`, `npm:`, `jsr:` or `node:`, allows that module and those beneath it: the text
   *   ends where a part of the path ends, so `"https://example.org/lib"` is not `https://example.org/library.ts`, and
   *   `"npm:zod"` is all versions of it. One with a query is that URL alone.
   * - A `RegExp` is looked for in the whole URL: begin it with `^`.
   * - `"sha256-<base64>"` (or `"sha256=<hex>"`) allows the bundle or the self-contained function with this content.
   * - `"bundles"` allows all modules that clients bundle and send, `"functions"` all functions that they send as text.
   *   The names that these come with are not trusted: their sender can write any.
   *
   * URLs are compared in their normal form. One whose path has `%2e`, `%2f` or `%5c` in it is never allowed, nor a
   * `data:` URL.
   *
   * @example
   * ```ts ignore
   * await using worker = await startWorker({ allowModules: ["https://example.org/tasks/", "npm:zod@4.1.0"] });
   * ```
   */
  readonly allowModules?: readonly (string | RegExp)[];
  /** Folder for what memory does not hold, in place of `localDirectory`; `false`: all stays in memory. */
  readonly spill?: string | false;
}

/** Options, checked and completed. */
export interface WorkerSettings {
  readonly scheduler: string;
  readonly name: string | number | null;
  readonly slots: number;
  readonly memoryLimitBytes: number | null;
  /** Null: without a limit nothing is watched. */
  readonly memory: MemoryLimits | null;
  readonly resources: Readonly<Record<string, number>>;
  readonly permissions: TaskPermissions | undefined;
  /** Null: all code may be loaded. */
  readonly allowed: AllowedCode | null;
  readonly protocol: "tcp" | "tls";
  /** Certificates, as PEM texts: tasks may not be able to read the files. */
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string } | null;
  readonly isolation: IsolationName;
  readonly abortGraceMs: number | undefined;
  readonly host: string | null;
  /** To try in this order. */
  readonly ports: readonly number[];
  readonly contactAddress: string | null;
  readonly localDirectory: string | null;
  readonly connectTimeoutMs: number | null;
  /** `null`: no end. */
  readonly lifetime:
    | { readonly durationMs: number; readonly staggerMs: number; readonly restart: boolean }
    | null;
  /** URLs. */
  readonly preload: readonly string[];
  readonly dashboard: { readonly host: string | null; readonly port: number } | null;
  readonly nanny: ((listening: string) => Promise<string>) | null;
  /** Dask's configuration; what options say stands above it. */
  readonly config: DaskConfig;
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
  const { port = 0 } = options;
  const ports = typeof port === "number" ? [port] : port;
  if (ports.length === 0) {
    throw new RangeError("Cannot listen on no port: expected at least one, or 0 for any");
  }
  for (const port of ports) {
    if (Number.isInteger(port) && port >= 0 && port <= 65_535) continue;
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
  checkResources(options.resources ?? {});
  if (options.protocol !== undefined && options.protocol !== "tcp" && options.protocol !== "tls") {
    throw new TypeError(`Cannot use the protocol "${options.protocol}": expected "tcp" or "tls"`);
  }
  const logger = options.logger ?? silent;
  const config = await loadConfig(logger);
  const scheduler = await schedulerAddress(options, config, logger);
  const protocol = options.protocol ?? parseAddress(scheduler).scheme;
  const tls = options.tls ?? tlsOf(config, "worker");
  if (options.transport === undefined && tls === undefined) {
    for (const [verb, text] of [["connect to", scheduler], ["listen on", `${protocol}://`]] as const) {
      if (text.startsWith("tls:")) throw new DaskError(certificatesMissing(verb, text));
    }
  }
  const limitBytes = memoryLimitBytes(options.memoryLimit ?? "auto", slots, logger);
  const configured = configuredMemory(config, logger);
  const thresholds = options.spill === false
    ? { ...configured, ...options.memory, target: false, spill: false } as const
    : { ...configured, ...options.memory };
  return {
    scheduler,
    name: options.name ?? null,
    slots,
    memoryLimitBytes: limitBytes,
    memory: limitBytes === null ? null : memoryLimits(limitBytes, thresholds),
    resources: options.resources ?? config.resources ?? {},
    permissions: options.permissions,
    allowed: options.allowModules === undefined ? null : await allowedCode(options.allowModules),
    protocol,
    isolation,
    abortGraceMs: options.abortGraceMs,
    host: options.host ?? null,
    ports,
    contactAddress: options.contactAddress === undefined
      ? null
      : normalizeAddress(options.contactAddress, { defaultScheme: protocol }),
    localDirectory: options.spill || options.localDirectory || config.temporaryDirectory,
    connectTimeoutMs: options.connectTimeoutMs ?? null,
    lifetime: readLifetime(options, config),
    preload: readPreload(options, config, logger),
    dashboard: options.dashboardAddress === undefined ? null : parseHostPort(options.dashboardAddress),
    nanny: options.nanny ?? null,
    config,
    signal: options.signal ?? null,
    logger,
    ...await encryption(tls),
    ...(options.transport === undefined ? {} : { transport: options.transport }),
    validate: options.validate ?? false,
  };
}

/** Throws a {@linkcode RangeError} that names the first amount that makes no sense. */
export function checkResources(resources: Readonly<Record<string, number>>): void {
  for (const [name, amount] of Object.entries(resources)) {
    if (!Number.isFinite(amount) || amount < 0) {
      throw new RangeError(`Cannot offer ${amount} of resource "${name}": expected a number of at least 0`);
    }
  }
}

function refuseUnavailable(options: WorkerOptions): void {
  if (options.reconnect !== true) return;
  throw new DaskError(
    "Reconnecting is not available yet: a worker that lost its scheduler ends, start another",
  );
}

/** Thresholds of the configuration that somebody set. */
function configuredMemory({ memory }: DaskConfig, logger: Logger): MemoryThresholds {
  if (memory.maxSpillBytes !== null && memory.maxSpillBytes !== false) {
    logger.log(
      "warning",
      "distributed.worker.memory.max-spill is left out: this worker spills as much as it must",
    );
  }
  const { target, spill, pause, terminate } = memory;
  return {
    ...(target === null ? {} : { target }),
    ...(spill === null ? {} : { spill }),
    ...(pause === null ? {} : { pause }),
    ...(terminate === null ? {} : { terminate }),
  };
}

/** Not written into the `import`: Deno would read it at the start. */
const ALLOW = new URL("./execute/allow.ts", import.meta.url).href;

async function allowedCode(entries: readonly (string | RegExp)[]): Promise<AllowedCode> {
  const { readAllowModules }: typeof import("./execute/allow.ts") = await import(ALLOW);
  return readAllowModules(entries);
}

/** Not written into the `import`, as above. */
const TLS = new URL("../comm/tls.ts", import.meta.url).href;

/** Workers without certificates do not load what handles them. */
async function encryption(
  tls: TlsOptions | undefined,
): Promise<{ readonly transport: Transport; readonly tls: WorkerSettings["tls"] }> {
  if (tls === undefined) return { transport: tcp, tls: null };
  const { readTls, tlsTransport }: typeof import("../comm/tls.ts") = await import(TLS);
  const { ca, cert, key } = readTls(tls);
  return { transport: tlsTransport(tls), tls: { ca, cert, key } };
}

function readLifetime(options: WorkerOptions, { lifetime }: DaskConfig): WorkerSettings["lifetime"] {
  const durationMs = options.lifetime ?? lifetime.durationMs;
  if (durationMs === null || durationMs === 0) return null;
  const staggerMs = options.lifetimeStagger ?? lifetime.staggerMs ?? 0;
  for (const [name, ms] of [["lifetime", durationMs], ["lifetimeStagger", staggerMs]] as const) {
    if (!Number.isFinite(ms) || ms < 0) {
      throw new RangeError(`Cannot use ${ms} for "${name}": expected milliseconds of at least 0`);
    }
  }
  return { durationMs, staggerMs, restart: options.lifetimeRestart ?? lifetime.restart ?? false };
}

/** Of the modules in the configuration only ours: dask's own workers read the same files. */
function readPreload(options: WorkerOptions, config: DaskConfig, logger: Logger): string[] {
  const ours = config.preload.filter((module) => /\.[cm]?[jt]sx?(?:[?#].*)?$/.test(module));
  if (options.preload === undefined && ours.length < config.preload.length) {
    logger.log(
      "info",
      "Modules of distributed.worker.preload that are not TypeScript or JavaScript are left out",
    );
  }
  return (options.preload ?? ours).map((module) => {
    if (module instanceof URL) return module.href;
    if (/^[a-z][a-z\d+.-]+:/i.test(module)) return module;
    const path = module.startsWith("/") ? module : `${Deno.cwd()}/${module}`;
    return new URL(`file://${path.split("/").map(encodeURIComponent).join("/")}`).href;
  });
}

async function schedulerAddress(options: WorkerOptions, config: DaskConfig, logger: Logger): Promise<string> {
  const given = options.schedulerFile === undefined
    ? options.address ?? config.schedulerAddress ?? "127.0.0.1"
    : await readSchedulerFile(options.schedulerFile, options, logger);
  const { protocol } = options;
  return protocol === undefined
    ? normalizeAddress(withDefaultScheme(given, config), { defaultPort: SCHEDULER_PORT })
    : normalizeAddress(given, { defaultPort: SCHEDULER_PORT, defaultScheme: protocol });
}

/** A look at a scheduler file that is not there yet, this often, ms; a line in the log so long after the first one. */
const LOOK_MS = 200;
const TELL_MS = 5_000;

/** Batch systems start workers with their scheduler: its file may come later, and be seen half written. */
async function readSchedulerFile(
  file: string | URL,
  { connectTimeoutMs = Infinity, signal }: WorkerOptions,
  logger: Logger,
): Promise<string> {
  let told = false;
  for (const startedAt = Date.now();; await pause(LOOK_MS, signal)) {
    signal?.throwIfAborted();
    let read: unknown;
    try {
      read = JSON.parse(await Deno.readTextFile(file));
    } catch (cause) {
      const early = cause instanceof Deno.errors.NotFound || cause instanceof SyntaxError;
      const waitedMs = Date.now() - startedAt;
      if (!early || waitedMs + LOOK_MS > connectTimeoutMs) {
        throw new DaskError(`Cannot read the scheduler file "${file}": ${(cause as Error).message}`, {
          cause,
        });
      }
      if (!told && waitedMs >= TELL_MS) {
        told = true;
        logger.log("info", `Waiting for the scheduler file "${file}"`);
      }
      continue;
    }
    const { address } = (read ?? {}) as { address?: unknown };
    if (typeof address === "string") return address;
    throw new DaskError(`Cannot read the scheduler file "${file}": it holds no "address"`);
  }
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
  if (number === 0 || limit === "none") return null;
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

/** Limits of a container, hard and soft, as both versions of cgroups name them; dask respects the same. */
const CGROUP_LIMITS = [
  "memory/memory.limit_in_bytes",
  "memory/memory.soft_limit_in_bytes",
  "memory.max",
  "memory.high",
  "memory.low",
];

/** Memory of the machine or of the container, whichever is less; `null` without permission to ask. */
function machineMemoryBytes(): number | null {
  let total: number | null = null;
  try {
    total = Deno.systemMemoryInfo().total;
  } catch {
    // Needs --allow-sys=systemMemoryInfo.
  }
  for (const file of CGROUP_LIMITS) {
    try {
      const limit = Number(Deno.readTextFileSync(`/sys/fs/cgroup/${file}`).trim());
      if (limit > 0 && (total === null || limit < total)) total = limit;
    } catch {
      // Not in a container, or not to be read.
    }
  }
  return total;
}
