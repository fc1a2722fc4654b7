/**
 * The command line of a worker: `deno run -A worker/main.ts tcp://host:8786 --nthreads 4`. `--help` lists the flags,
 * which are those of `dask worker`. Exit codes: 0 ended as asked, or with the scheduler; 1 refused; 2 the flags or the
 * permissions do not do; 70 a bug.
 *
 * @module
 */
import type { Logger, LogLevel } from "../base/log.ts";
import {
  type CommandLine,
  HELP,
  type ParseArgs,
  readCommandLine,
  wordsOf,
  type WorkerFlags,
} from "./command_line.ts";
import { EXIT_CRASHED, EXIT_ENDED, EXIT_MISUSED, EXIT_REFUSED } from "./supervisor.ts";

/** Runs the command line; resolves to the exit code. */
export async function main(words: readonly string[]): Promise<number> {
  // The parser, like all that an idle worker does not need, is loaded only here.
  const { parseArgs } = await import("../vendor/std-cli/parse_args.ts");
  const command: CommandLine = readCommandLine(words, parseArgs as ParseArgs);
  switch (command.type) {
    case "help":
      print(HELP);
      return EXIT_ENDED;
    case "version": {
      const { default: project } = await import("../deno.json", { with: { type: "json" } });
      print(`${project.version}\n`);
      return EXIT_ENDED;
    }
    case "misuse":
      complain(command.message);
      return EXIT_MISUSED;
    case "run":
      return await run(command.flags);
  }
}

async function run(flags: WorkerFlags): Promise<number> {
  const missing = await missingPermissions(flags);
  if (missing.length > 0) {
    complain(
      `Missing permissions; start it with:\n  deno run ${missing.join(" ")} ${import.meta.url} ${
        Deno.args.join(" ")
      }`,
    );
    return EXIT_MISUSED;
  }
  const logger = await openLog(flags);
  if (flags.nanny || flags.nworkers > 1) {
    const { canSupervise, supervise } = await import("./supervisor.ts");
    if (flags.nworkers === 1 && !await canSupervise()) {
      logger.log(
        "info",
        "No nanny watches this worker: it could not pass on permissions that are granted in part",
      );
      return await runWorker(flags, logger);
    }
    const wordLists = Array.from({ length: flags.nworkers }, (_, index) => wordsOf(flags, index));
    return await supervise({ entrypoint: import.meta.url, wordLists, restart: flags.nanny, logger });
  }
  return await runWorker(flags, logger);
}

/** Runs one worker in this process until it ends. */
async function runWorker(flags: WorkerFlags, logger: Logger): Promise<number> {
  // A stray error is a bug: the worker's state is not to be trusted any more, the scheduler repairs.
  for (const kind of ["error", "unhandledrejection"] as const) {
    globalThis.addEventListener(kind, (event) => {
      event.preventDefault();
      const thrown: unknown = event instanceof PromiseRejectionEvent
        ? event.reason
        : (event as ErrorEvent).error;
      complain(
        `Unexpected error: ${thrown instanceof Error ? thrown.stack ?? thrown.message : String(thrown)}`,
      );
      Deno.exit(EXIT_CRASHED);
    });
  }
  const stop = new AbortController();
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => {
      // A terminal sends SIGINT to the whole group; the supervisor passes on what it means to pass on.
      if (signal === "SIGINT" && flags.supervisor !== undefined) return;
      if (++signals > 1) Deno.exit(EXIT_ENDED);
      stop.abort();
    });
  }
  if (flags.supervisor !== undefined) watchSupervisor(flags.supervisor);
  const { startWorker } = await import("./worker.ts");
  try {
    const worker = await startWorker({
      ...given("address", flags.address),
      ...given("schedulerFile", flags.schedulerFile),
      ...given("slots", flags.nthreads),
      ...given("name", flags.name),
      ...given("host", flags.host),
      ...given("port", flags.ports?.[0]),
      ...given("contactAddress", flags.contactAddress),
      ...given("memoryLimit", flags.memoryLimit),
      ...given("resources", flags.resources),
      ...given("localDirectory", flags.localDirectory),
      ...given("connectTimeoutMs", flags.deathTimeoutMs),
      ...given("isolation", flags.isolation),
      ...given("abortGraceMs", flags.abortGraceMs),
      ...(flags.taskPermissions === undefined
        ? {}
        : { permissions: await readPermissions(flags.taskPermissions) }),
      signal: stop.signal,
      logger,
    });
    const end = await worker.ended;
    return end.crashed ? EXIT_CRASHED : EXIT_ENDED;
  } catch (error) {
    if (stop.signal.aborted) return EXIT_ENDED;
    complain(error instanceof Error ? error.message : String(error));
    return EXIT_REFUSED;
  }
}

async function readPermissions(text: string): Promise<import("./execute/permissions.ts").TaskPermissions> {
  const { parseTaskPermissions } = await import("./execute/permissions.ts");
  return parseTaskPermissions(text);
}

/** A supervisor that was killed cannot end its workers: they look for themselves. */
function watchSupervisor(pid: number): void {
  Deno.unrefTimer(setInterval(() => {
    if (Deno.ppid !== pid) Deno.exit(EXIT_ENDED);
  }, 500));
}

function given<Name extends string, T>(name: Name, value: T | undefined): { [K in Name]?: T } {
  // A computed name makes TypeScript forget which it is.
  return (value === undefined ? {} : { [name]: value }) as { [K in Name]?: T };
}

/** All flags for `deno run` that are needed, when one of them is missing, so that nobody finds them one by one. */
async function missingPermissions(flags: WorkerFlags): Promise<string[]> {
  const needed: string[] = [];
  let missing = false;
  const need = async (descriptor: Deno.PermissionDescriptor, flag: string) => {
    needed.push(flag);
    if ((await Deno.permissions.query(descriptor)).state !== "granted") missing = true;
  };
  const directory = flags.localDirectory;
  await need({ name: "net" }, "--allow-net");
  if ((flags.isolation ?? "process") === "process") {
    await need({ name: "run", command: Deno.execPath() }, `--allow-run=${Deno.execPath()}`);
  }
  await need(directory === undefined ? { name: "read" } : { name: "read", path: directory }, "--allow-read");
  await need(
    directory === undefined ? { name: "write" } : { name: "write", path: directory },
    "--allow-write",
  );
  return missing ? needed : [];
}

/** Lines for people by a few lines of our own; what they were told to look like, by LogTape. */
async function openLog(flags: WorkerFlags): Promise<Logger> {
  const lowest = flags.logLevel ?? "info";
  if (flags.logFormat === undefined && flags.logLevel === undefined) return { log: plainLine };
  const { configure, getJsonLinesFormatter, getLogger, getTextFormatter } = await import("./deps.ts");
  const format = flags.logFormat === "json"
    ? getJsonLinesFormatter()
    : getTextFormatter({ timestamp: "rfc3339" });
  await configure({
    reset: true,
    sinks: { stderr: (record) => complainRaw(format(record)) },
    loggers: [
      { category: "dask", lowestLevel: lowest, sinks: ["stderr"] },
      { category: ["logtape", "meta"], lowestLevel: "error", sinks: ["stderr"] },
    ],
  });
  const logger = getLogger(["dask", "worker"]);
  // Braces in our messages are no placeholders.
  return { log: (level, message, fields) => logger[level](message.replace(/[{}]/g, "$&$&"), { ...fields }) };
}

const LEVELS: Readonly<Record<LogLevel, string>> = {
  debug: "",
  info: "",
  warning: "Warning: ",
  error: "Error: ",
};

function plainLine(level: LogLevel, message: string): void {
  if (level !== "debug") complainRaw(`${timeOfDay(Date.now())} ${LEVELS[level]}${message}\n`);
}

/** UTC, by hand: the first use of `Date`'s own texts costs 1.5 MB. */
function timeOfDay(at: number): string {
  const seconds = Math.floor(at / 1000) % 86_400;
  return [seconds / 3600, seconds / 60 % 60, seconds % 60].map((part) =>
    String(Math.floor(part)).padStart(2, "0")
  )
    .join(":") + "Z";
}

function complain(message: string): void {
  complainRaw(`${message}\n`);
}

function complainRaw(text: string): void {
  writeAll(Deno.stderr, text);
}

function print(text: string): void {
  writeAll(Deno.stdout, text);
}

function writeAll(to: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let at = 0; at < bytes.byteLength;) at += to.writeSync(bytes.subarray(at));
  } catch {
    // Nobody reads it any more.
  }
}

// Last, when all of the module is there.
if (import.meta.main) Deno.exit(await main(Deno.args));
