/**
 * The words of the command line of a worker, read strictly: dask's names for the flags, an unknown one is refused with
 * the nearest that is known, and nothing is guessed.
 *
 * @module
 */
import { parseBytes, parseDuration } from "../base/units.ts";
import type { LogLevel } from "../base/log.ts";
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
  /** First and last port to listen on. */
  readonly ports?: readonly [number, number];
  readonly contactAddress?: string;
  readonly memoryLimit?: string;
  readonly resources?: Readonly<Record<string, number>>;
  readonly localDirectory?: string;
  readonly deathTimeoutMs?: number;
  readonly taskPermissions?: string;
  readonly isolation?: IsolationName;
  readonly abortGraceMs?: number;
  readonly logLevel?: LogLevel;
  readonly logFormat?: "text" | "json";
  /** Set by the supervisor: the worker ends when this process is not its parent any more. */
  readonly supervisor?: number;
}

/** The signature of `parseArgs` of `@std/cli`, as far as it is used here. */
export type ParseArgs = (
  words: readonly string[],
  options: {
    readonly string: readonly string[];
    readonly boolean: readonly string[];
    readonly negatable: readonly string[];
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
  "port",
  "worker-port",
  "contact-address",
  "memory-limit",
  "resources",
  "local-directory",
  "scheduler-file",
  "death-timeout",
  "task-permissions",
  "isolation",
  "abort-grace",
  "log-level",
  "log-format",
  "supervisor",
];
const SWITCHES = ["nanny", "dashboard", "version", "help"];
const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warning", "error"];

/** What `--help` prints. */
export const HELP = `Usage: deno run -A worker/main.ts [OPTIONS] [SCHEDULER]

Starts a TypeScript worker for a dask scheduler. SCHEDULER is an address as tcp://host:8786; without it the variable
DASK_SCHEDULER_ADDRESS, or this host.

  --nthreads N              Tasks that run at a time, each in a process of its own (default: the cores)
  --nworkers N              Workers to start (default: 1)
  --name TEXT               Name of the worker; with --nworkers a number follows it
  --host HOST               Host to listen on (default: the one that reaches the scheduler)
  --port PORT|FIRST:LAST    Port to listen on (default: any). Also --worker-port
  --contact-address ADDR    Address that others are told, if it is not the one listened on
  --memory-limit SIZE       As 2GiB, 500MB, 0.5 of the machine, auto or 0 for none (default: auto)
  --resources "NAME=N ..."  Resources for tasks that ask for them, as "GPU=2 MEM=1e9"
  --local-directory PATH    Where the worker keeps its files (default: /dev/shm, else the temporary folder)
  --scheduler-file PATH     File written by dask scheduler --scheduler-file
  --death-timeout TIME      Gives up when the scheduler is not reached within it (default: never)
  --nanny / --no-nanny      Whether a small process watches the worker and restarts it (default: --nanny)
  --task-permissions TEXT   What task code may do, as "net=example.org:443,read=/data" or none (default: inherit)
  --isolation KIND          Where task code runs: process, thread or inline (default: process)
  --abort-grace TIME        How long a cancelled task that listens may go on (default: 250ms)
  --log-level LEVEL         debug, info, warning or error (default: info)
  --log-format FORMAT       text or json (default: text)
  --version                 Prints the version
  -h, --help                Prints this
`;

/** Reads the words. Pure: `parseArgs` comes from outside. */
export function readCommandLine(words: readonly string[], parseArgs: ParseArgs): CommandLine {
  const unknown: string[] = [];
  const args = parseArgs(words, {
    string: TEXT_FLAGS,
    boolean: SWITCHES,
    negatable: ["nanny", "dashboard"],
    alias: { h: "help" },
    default: { nanny: true },
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
    return { type: "run", flags: readFlags(args) };
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
  add("scheduler-file", flags.schedulerFile);
  add("nthreads", flags.nthreads);
  add("name", flags.name === undefined || flags.nworkers === 1 ? flags.name : `${flags.name}-${index}`);
  add("host", flags.host);
  if (flags.ports !== undefined) add("port", flags.ports[0] === 0 ? 0 : flags.ports[0] + index);
  add("contact-address", flags.contactAddress);
  add("memory-limit", flags.memoryLimit);
  if (flags.resources !== undefined) {
    add("resources", Object.entries(flags.resources).map(([name, amount]) => `${name}=${amount}`).join(" "));
  }
  add("local-directory", flags.localDirectory);
  add("death-timeout", flags.deathTimeoutMs === undefined ? undefined : `${flags.deathTimeoutMs}ms`);
  add("task-permissions", flags.taskPermissions);
  add("isolation", flags.isolation);
  add("abort-grace", flags.abortGraceMs === undefined ? undefined : `${flags.abortGraceMs}ms`);
  add("log-level", flags.logLevel);
  add("log-format", flags.logFormat);
  return words;
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

function readFlags(args: { _: (string | number)[] } & Record<string, unknown>): WorkerFlags {
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
  const nworkers = count("nworkers") ?? 1;
  const ports = read(text("port") ?? text("worker-port"), readPorts);
  if (ports !== undefined && ports[0] !== 0 && ports[1] - ports[0] + 1 < nworkers) {
    if (nworkers > 1) {
      throw new RangeError(`Cannot start ${nworkers} workers on ${ports[1] - ports[0] + 1} ports`);
    }
  }
  return compact({
    address: args._.length === 0 ? undefined : String(args._[0]),
    schedulerFile: text("scheduler-file"),
    nthreads: count("nthreads"),
    nworkers,
    nanny: args["nanny"] !== false,
    name: text("name"),
    host: text("host"),
    ports,
    contactAddress: text("contact-address"),
    memoryLimit: read(text("memory-limit"), (limit) => (checkMemoryLimit(limit), limit)),
    resources: read(text("resources"), parseResources),
    localDirectory: text("local-directory"),
    deathTimeoutMs: read(text("death-timeout"), parseDuration),
    taskPermissions: text("task-permissions"),
    isolation: read(text("isolation"), (kind) => oneOf("isolation", kind, ISOLATIONS)),
    abortGraceMs: read(text("abort-grace"), parseDuration),
    logLevel: read(text("log-level"), (level) => oneOf("log-level", level.toLowerCase(), LOG_LEVELS)),
    logFormat: read(text("log-format"), (format) => oneOf("log-format", format, ["text", "json"] as const)),
    supervisor: count("supervisor"),
  });
}

function checkMemoryLimit(text: string): void {
  if (text !== "auto") parseBytes(text);
}

function readPorts(text: string): [number, number] {
  const match = /^(\d+)(?::(\d+))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : Number(match[2]);
  if (match === null || last > 65_535 || last < first) {
    throw new RangeError(`Cannot read --port "${text}": expected a port, or FIRST:LAST`);
  }
  return [first, last];
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
  const known = [...TEXT_FLAGS, ...SWITCHES].filter((name) => name !== "supervisor").map((name) =>
    `--${name}`
  );
  known.push("--no-nanny", "--no-dashboard");
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
