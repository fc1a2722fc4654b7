/**
 * The words of the command line of a worker, read strictly: dask's names for the flags, an unknown one is refused with
 * the nearest that is known, and nothing is guessed.
 *
 * @module
 */
import { parseBytes, parseDuration } from "../base/units.ts";
import type { LogLevel } from "../base/log.ts";
import { formatAddress, isWildcardHost, parseAddress } from "../protocol/address.ts";
import { countPorts, parseHostPort, type PortRange, readPorts, sharePorts, writePorts } from "./ports.ts";
import { type IsolationName, ISOLATIONS } from "./execute/executor.ts";

/** What the words ask for. */
export type CommandLine =
  | { readonly type: "run"; readonly flags: WorkerFlags }
  | { readonly type: "help" }
  | { readonly type: "version" }
  /** The words make no sense; one line for people. */
  | { readonly type: "misuse"; readonly message: string };

/** The flags as values. What is absent was not given. */
export interface WorkerFlags {
  readonly address?: string;
  readonly schedulerFile?: string;
  readonly nthreads?: number;
  readonly nworkers: number;
  readonly nanny: boolean;
  readonly name?: string;
  readonly host?: string;
  readonly interface?: string;
  /** Ports to listen on, of all workers together. */
  readonly ports?: PortRange;
  readonly nannyPorts?: PortRange;
  readonly contactAddress?: string;
  readonly protocol?: "tcp" | "tls";
  readonly tlsCaFile?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly memoryLimit?: string;
  readonly resources?: Readonly<Record<string, number>>;
  readonly localDirectory?: string;
  readonly deathTimeoutMs?: number;
  readonly pidFile?: string;
  /** `HOST:PORT` or `:PORT` of the HTTP server; without it there is none. */
  readonly dashboardAddress?: string;
  readonly lifetimeMs?: number;
  readonly lifetimeStaggerMs?: number;
  readonly lifetimeRestart?: boolean;
  /** Modules, as they were given. */
  readonly preload?: readonly string[];
  readonly taskPermissions?: string;
  /** The only code that tasks may name, as it was given. */
  readonly allowModules?: readonly string[];
  readonly isolation?: IsolationName;
  readonly abortGraceMs?: number;
  readonly logLevel?: LogLevel;
  readonly logFormat?: "text" | "json";
  /** Set by the supervisor: the worker ends when this process is not its parent any more. */
  readonly supervisor?: number;
  /** Set by the supervisor: where it answers its worker, on this machine. */
  readonly supervisorAddress?: string;
}

/** The signature of `parseArgs` of `@std/cli`, as far as it is used here. */
export type ParseArgs = (
  words: readonly string[],
  options: {
    readonly string: readonly string[];
    readonly boolean: readonly string[];
    readonly negatable: readonly string[];
    readonly collect: readonly string[];
    readonly alias: Readonly<Record<string, string>>;
    readonly default: Readonly<Record<string, unknown>>;
    readonly unknown: (word: string, key?: string) => unknown;
  },
) => { _: (string | number)[] } & Record<string, unknown>;

const TEXT_FLAGS = [
  "nthreads",
  "nworkers",
  "name",
  "host",
  "interface",
  "port",
  "worker-port",
  "nanny-port",
  "listen-address",
  "contact-address",
  "protocol",
  "tls-ca-file",
  "tls-cert",
  "tls-key",
  "memory-limit",
  "resources",
  "local-directory",
  "scheduler-file",
  "death-timeout",
  "lifetime",
  "lifetime-stagger",
  "preload",
  "dashboard-address",
  "pid-file",
  "task-permissions",
  "allow-modules",
  "isolation",
  "abort-grace",
  "log-level",
  "log-format",
  "supervisor",
  "supervisor-address",
];
/** Not for people. */
const INTERNAL = ["supervisor", "supervisor-address"];
const SWITCHES = ["nanny", "dashboard", "lifetime-restart", "version", "help"];
const NEGATABLE = ["nanny", "dashboard", "lifetime-restart"];
/** Flags of `dask worker` that do nothing here, and why. */
const REFUSED: Readonly<Record<string, string>> = {
  "scheduler-sni": "host names are not looked at, as in dask",
  "dashboard-prefix": "dask deprecated it, pages here have relative links",
  "worker-class": "it names a class of Python",
  "preload-nanny": "a nanny here runs no code of others, use --preload",
};
const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warning", "error"];

/** What `--help` prints. */
export const HELP = `Usage: deno run -A worker/main.ts [OPTIONS] [SCHEDULER]

Starts a TypeScript worker for a dask scheduler. SCHEDULER is an address as tcp://host:8786; without it the variable
DASK_SCHEDULER_ADDRESS or dask's configuration files say it, else it is this host.

  --nthreads N              Tasks that run at a time, each in a process of its own (default: the cores, shared out
                            among the workers)
  --nworkers N|auto         Workers to start (default: 1). Negative: cores + 1 + N, so -1 is one a core; auto:
                            workers and threads as dask shares out the cores
  --name TEXT               Name of the worker; with --nworkers a number follows it: name-0, name-1
  --memory-limit SIZE       For each worker, as 2GiB, 500MB, 0.5 of the machine, auto or 0 for none (default: auto)
  --resources "NAME=N ..."  Resources of each worker for tasks that ask for them, as "GPU=2 MEM=1e9"
  --local-directory PATH    Where the worker puts what memory does not hold (default: temporary-directory of the
                            configuration, else the temporary folder)

  --scheduler-file PATH     File written by dask scheduler --scheduler-file; waited for when it is not there yet
  --death-timeout TIME      Gives up when the scheduler is not reached within it (default: never)
  --host HOST               Host to listen on (default: the one that reaches the scheduler)
  --interface NAME          Network interface whose address is listened on, as eth0
  --worker-port PORT        Port to listen on, or FIRST:LAST to try one after the other (default: any). Also --port
  --nanny-port PORT         The same for the nanny
  --listen-address ADDR     Host and port to listen on in one, as tcp://0.0.0.0:9000
  --contact-address ADDR    Address that others are told, if it is not the one listened on
  --protocol SCHEME         tcp or tls, to listen on and for a SCHEDULER without one (default: as SCHEDULER's)
  --tls-ca-file PATH        Certificate authority of the cluster, for tls:// (PEM)
  --tls-cert PATH           Own certificate (PEM)
  --tls-key PATH            Its private key (PEM; default: in the file of --tls-cert)

  --nanny / --no-nanny      Whether a small process watches each worker, restarts one that dies and serves
                            client.restart() (default: --nanny)
  --lifetime TIME           Retires the worker after it: others take over its data, then it ends
  --lifetime-stagger TIME   Up to so much sooner or later, by chance
  --lifetime-restart / --no-lifetime-restart
                            Whether the nanny starts another one then (default: no)
  --preload MODULE          Path or URL of a module that each task process loads before its first task, with the
                            permissions of tasks; it may fill caches and set globals. May be given again. A module
                            that fails ends the worker at its start
  --task-permissions TEXT   What task code may do, as "net=example.org:443,read=/data" or none (default: inherit)
  --allow-modules LIST      The only code that tasks may name, separated by commas: URLs of modules and of folders, as
                            https://example.org/lib/,file:///opt/tasks/,npm:zod; sha256-<base64> of a bundle or of a
                            function, bundles or functions for all of these (default: any code). Tasks that name
                            other code fail; what an allowed module imports itself is not asked about
  --isolation KIND          Where task code runs: process, thread or inline (default: process)
  --abort-grace TIME        How long a cancelled task that listens may go on (default: 250ms)

  --dashboard-address ADDR  Serves /health, /metrics (Prometheus), /info and /info.json there, as :8789 or :0 for any
                            port
  --dashboard / --no-dashboard
                            The same at any port, or not at all (default: not at all, unlike dask worker, to stay light)
  --pid-file PATH           Writes the process id there, and removes the file in the end
  --log-level LEVEL         debug, info, warning or error (default: info)
  --log-format FORMAT       text, or json for one object a line with all fields (default: text)
  --version                 Prints the version
  -h, --help                Prints this

Flags win over variables as DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION=1h, these over the files of dask's
configuration (DASK_CONFIG, ~/.config/dask, /etc/dask).
`;

/**
 * Reads the words. Pure: `parseArgs` comes from outside, and so does the number of cores, which `--nworkers` shares
 * out.
 */
export function readCommandLine(words: readonly string[], parseArgs: ParseArgs, cores: number): CommandLine {
  const unknown: string[] = [];
  const args = parseArgs(joinNegative(words), {
    string: [...TEXT_FLAGS, ...Object.keys(REFUSED)],
    boolean: SWITCHES,
    negatable: NEGATABLE,
    collect: ["preload"],
    alias: { h: "help" },
    default: { nanny: true, dashboard: null, "lifetime-restart": null },
    unknown: (word, key) => {
      if (key === undefined) return true;
      unknown.push(word);
      return false;
    },
  });
  if (args["help"] === true) return { type: "help" };
  if (args["version"] === true) return { type: "version" };
  try {
    if (unknown[0] !== undefined) throw new RangeError(unknownFlag(unknown[0]));
    for (const [name, reason] of Object.entries(REFUSED)) {
      if (args[name] !== undefined) throw new RangeError(`Cannot use --${name}: ${reason}`);
    }
    return { type: "run", flags: readFlags(args, cores) };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { type: "misuse", message: error.message };
  }
}

/** The words for a worker of its own, for the supervisor: `index` tells it from its brothers. */
export function wordsOf(flags: WorkerFlags, index: number): string[] {
  const words: string[] = flags.address === undefined ? [] : [flags.address];
  const add = (name: string, value: string | number | undefined) => {
    if (value !== undefined) words.push(`--${name}=${value}`);
  };
  const ms = (value: number | undefined) => value === undefined ? undefined : `${value}ms`;
  add("scheduler-file", flags.schedulerFile);
  add("nthreads", flags.nthreads);
  add("name", flags.name === undefined || flags.nworkers === 1 ? flags.name : `${flags.name}-${index}`);
  add("host", flags.host);
  add("interface", flags.interface);
  if (flags.ports !== undefined) add("port", writePorts(sharePorts(flags.ports, index, flags.nworkers)));
  add("contact-address", flags.contactAddress);
  add("protocol", flags.protocol);
  add("tls-ca-file", flags.tlsCaFile);
  add("tls-cert", flags.tlsCert);
  add("tls-key", flags.tlsKey);
  add("memory-limit", flags.memoryLimit);
  if (flags.resources !== undefined) {
    add("resources", Object.entries(flags.resources).map(([name, amount]) => `${name}=${amount}`).join(" "));
  }
  add("local-directory", flags.localDirectory);
  add("death-timeout", ms(flags.deathTimeoutMs));
  add("dashboard-address", flags.dashboardAddress);
  add("lifetime", ms(flags.lifetimeMs));
  add("lifetime-stagger", ms(flags.lifetimeStaggerMs));
  if (flags.lifetimeRestart !== undefined) {
    words.push(flags.lifetimeRestart ? "--lifetime-restart" : "--no-lifetime-restart");
  }
  for (const module of flags.preload ?? []) add("preload", module);
  add("task-permissions", flags.taskPermissions);
  add("allow-modules", flags.allowModules?.join(","));
  add("isolation", flags.isolation);
  add("abort-grace", flags.abortGraceMs === undefined ? undefined : `${flags.abortGraceMs}ms`);
  add("log-level", flags.logLevel);
  add("log-format", flags.logFormat);
  return words;
}

/** `--nworkers -1`: the parser would take `-1` for a flag. */
function joinNegative(words: readonly string[]): string[] {
  const joined: string[] = [];
  for (const word of words) {
    if (/^-\d+$/.test(word) && joined.at(-1) === "--nworkers") {
      joined[joined.length - 1] = `--nworkers=${word}`;
    } else joined.push(word);
  }
  return joined;
}

/**
 * Workers and threads that dask makes of a number of cores: a worker each up to four, then about as many workers as
 * threads in each.
 */
export function shareCores(cores: number): { readonly nworkers: number; readonly nthreads: number } {
  let nworkers = cores;
  if (cores > 4) {
    nworkers = Math.ceil(Math.sqrt(cores));
    while (cores % nworkers !== 0) nworkers++;
  }
  return { nworkers, nthreads: cores / nworkers };
}

/** Reads `"GPU=2 MEM=10e9"`; commas separate as well. */
export function parseResources(text: string): Record<string, number> {
  const resources: Record<string, number> = {};
  for (const word of text.split(/[\s,]+/)) {
    if (word === "") continue;
    const [name = "", amount = "", ...rest] = word.split("=");
    const number = Number(amount);
    if (name === "" || amount === "" || rest.length > 0 || !Number.isFinite(number) || number < 0) {
      throw new RangeError(`Cannot read resource "${word}": expected NAME=NUMBER`);
    }
    resources[name] = number;
  }
  return resources;
}

function readFlags(args: { _: (string | number)[] } & Record<string, unknown>, cores: number): WorkerFlags {
  const text = (name: string): string | undefined => {
    const value = args[name];
    if (value === undefined) return undefined;
    if (typeof value !== "string" || value === "") {
      throw new RangeError(`Cannot read --${name}: a value is missing`);
    }
    return value;
  };
  const count = (name: string): number | undefined => {
    const value = text(name);
    if (value === undefined) return undefined;
    const number = Number(value);
    if (!Number.isSafeInteger(number) || number < 1) {
      throw new RangeError(`Cannot read --${name} "${value}": expected a whole number of at least 1`);
    }
    return number;
  };
  const read = <T>(value: string | undefined, reader: (text: string) => T): T | undefined =>
    value === undefined ? undefined : reader(value);
  if (args._.length > 1) {
    throw new RangeError(
      `Cannot read "${args._[1]}": expected one scheduler address, "${args._[0]}" is there already`,
    );
  }
  const { nworkers, nthreads } = readWorkers(text("nworkers"), count("nthreads"), cores);
  const listen = read(text("listen-address"), (address) => readListenAddress(address, nworkers, args));
  const ports = listen?.ports ??
    read(text("port") ?? text("worker-port"), (range) => readPorts("worker-port", range));
  const nannyPorts = read(text("nanny-port"), (range) => readPorts("nanny-port", range));
  for (const range of [ports, nannyPorts]) {
    if (range === undefined || range.first === 0 || countPorts(range) >= nworkers || nworkers === 1) continue;
    throw new RangeError(`Cannot start ${nworkers} workers on ${countPorts(range)} ports`);
  }
  if ((text("tls-ca-file") === undefined) !== (text("tls-cert") === undefined)) {
    throw new RangeError("Cannot use TLS by half: --tls-ca-file and --tls-cert belong together");
  }
  if (text("tls-key") !== undefined && text("tls-cert") === undefined) {
    throw new RangeError("Cannot use --tls-key without --tls-ca-file and --tls-cert");
  }
  if (text("host") !== undefined && text("interface") !== undefined) {
    throw new RangeError("Cannot use --host and --interface together: both say where to listen");
  }
  const dashboardAddress = read(text("dashboard-address"), (address) => (parseHostPort(address), address));
  return compact({
    address: args._.length === 0 ? undefined : String(args._[0]),
    schedulerFile: text("scheduler-file"),
    nthreads,
    nworkers,
    nanny: args["nanny"] !== false,
    name: text("name"),
    host: listen?.host ?? text("host"),
    interface: text("interface"),
    ports,
    nannyPorts,
    // As in dask: who says where to listen means that for others, too.
    contactAddress: text("contact-address") ?? listen?.contactAddress,
    // Dask writes it with slashes.
    protocol: read(
      text("protocol")?.replace(/:\/\/$/, ""),
      (scheme) => oneOf("protocol", scheme, ["tcp", "tls"] as const),
    ),
    tlsCaFile: text("tls-ca-file"),
    tlsCert: text("tls-cert"),
    tlsKey: text("tls-key"),
    memoryLimit: read(text("memory-limit"), (limit) => (checkMemoryLimit(limit), limit)),
    resources: read(text("resources"), parseResources),
    localDirectory: text("local-directory"),
    deathTimeoutMs: read(text("death-timeout"), parseDuration),
    pidFile: text("pid-file"),
    dashboardAddress: args["dashboard"] === false
      ? undefined
      : dashboardAddress ?? (args["dashboard"] === true ? ":0" : undefined),
    lifetimeMs: read(text("lifetime"), parseDuration),
    lifetimeStaggerMs: read(text("lifetime-stagger"), parseDuration),
    lifetimeRestart: readSwitch(args["lifetime-restart"]),
    preload: readPreload(args["preload"]),
    taskPermissions: text("task-permissions"),
    allowModules: read(text("allow-modules"), readAllowModules),
    isolation: read(text("isolation"), (kind) => oneOf("isolation", kind, ISOLATIONS)),
    abortGraceMs: read(text("abort-grace"), parseDuration),
    logLevel: read(text("log-level"), (level) => oneOf("log-level", level.toLowerCase(), LOG_LEVELS)),
    logFormat: read(text("log-format"), (format) => oneOf("log-format", format, ["text", "json"] as const)),
    supervisor: count("supervisor"),
    supervisorAddress: text("supervisor-address"),
  });
}

function readWorkers(
  text: string | undefined,
  nthreads: number | undefined,
  cores: number,
): { readonly nworkers: number; readonly nthreads: number | undefined } {
  if (text === undefined) return { nworkers: 1, nthreads };
  // As in dask: `auto` decides both.
  if (text === "auto") return shareCores(cores);
  const given = Number(text);
  const nworkers = given < 0 ? cores + 1 + given : given;
  if (!Number.isSafeInteger(nworkers) || nworkers < 1) {
    throw new RangeError(
      `Cannot read --nworkers "${text}": expected a whole number of at least 1 (or from ${-cores} to -1, to ` +
        `which the cores and 1 are added), or auto`,
    );
  }
  if (nthreads !== undefined || nworkers === 1) return { nworkers, nthreads };
  return { nworkers, nthreads: Math.max(1, Math.floor(cores / nworkers)) };
}

function readListenAddress(
  text: string,
  nworkers: number,
  args: Readonly<Record<string, unknown>>,
): { readonly host: string; readonly ports: PortRange; readonly contactAddress: string | undefined } {
  if (nworkers > 1) {
    throw new RangeError(`Cannot use --listen-address for ${nworkers} workers: use --host and --worker-port`);
  }
  for (const other of ["host", "interface", "port", "worker-port"]) {
    if (args[other] === undefined) continue;
    throw new RangeError(`Cannot use --listen-address and --${other} together: both say where to listen`);
  }
  // No host means all interfaces.
  const everywhere = /^(?:\w+:\/\/)?:\d*$/.test(text);
  let address;
  try {
    address = parseAddress(everywhere ? text.replace(/:(\d*)$/, "0.0.0.0:$1") : text);
  } catch (error) {
    throw new RangeError(`Cannot read --listen-address: ${(error as Error).message}`, { cause: error });
  }
  const ports = { first: address.port, last: address.port, step: 1 };
  const told = address.port !== 0 && !isWildcardHost(address.host);
  return { host: address.host, ports, contactAddress: told ? formatAddress(address) : undefined };
}

/** A switch that may have been left alone. */
function readSwitch(value: unknown): boolean | undefined {
  return typeof value === "boolean" ? value : undefined;
}

function readPreload(value: unknown): readonly string[] | undefined {
  const modules = Array.isArray(value) ? value : [];
  if (modules.includes("")) throw new RangeError("Cannot read --preload: a value is missing");
  return modules.length === 0 ? undefined : modules as string[];
}

function readAllowModules(list: string): readonly string[] {
  const entries = list.split(",").map((entry) => entry.trim());
  if (entries.includes("")) throw new RangeError(`Cannot read --allow-modules "${list}": an entry is empty`);
  return entries;
}

function checkMemoryLimit(text: string): void {
  if (text !== "auto" && text !== "none") parseBytes(text);
}

function oneOf<T extends string>(name: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) {
    throw new RangeError(`Cannot read --${name} "${value}": expected ${allowed.join(", ")}`);
  }
  return found;
}

/** Drops what is undefined. */
function compact<T extends object>(fields: T): { [K in keyof T]-?: Exclude<T[K], undefined> } {
  // The mapped type says less than is true (fields may be absent); `WorkerFlags` has them optional.
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]-?: Exclude<T[K], undefined>;
  };
}

function unknownFlag(word: string): string {
  const given = word.replace(/=.*$/s, "");
  const known = [...TEXT_FLAGS, ...SWITCHES, ...NEGATABLE.map((name) => `no-${name}`)]
    .filter((name) => !INTERNAL.includes(name))
    .map((name) => `--${name}`);
  const nearest = known
    .map((name) => ({ name, steps: distance(given, name) }))
    .sort((a, b) => a.steps - b.steps)[0];
  const hint = nearest !== undefined && nearest.steps <= Math.max(3, given.length / 3)
    ? `did you mean ${nearest.name}`
    : "see --help";
  return `Unknown flag ${given}: ${hint}`;
}

/** How many letters to change, add or drop to come from `a` to `b`. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
