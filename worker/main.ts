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
import { EXIT_AGAIN, EXIT_CRASHED, EXIT_ENDED, EXIT_MISUSED, EXIT_REFUSED } from "./exit_codes.ts";
import { listPorts, sharePorts } from "./ports.ts";

/** Not written into the `import`: Deno would read them at the start, and keep their text. */
const SUPERVISOR = new URL("./supervisor.ts", import.meta.url).href;
const NANNY = new URL("./nanny.ts", import.meta.url).href;
const TLS = new URL("../comm/tls.ts", import.meta.url).href;
const nanny = (): Promise<typeof import("./nanny.ts")> => import(NANNY);

/** Runs the command line; resolves to the exit code. */
export async function main(words: readonly string[]): Promise<number> {
  // The parser, like all that an idle worker does not need, is loaded only here.
  const { parseArgs } = await import("../vendor/std-cli/parse_args.ts");
  const command: CommandLine = readCommandLine(
    words,
    parseArgs as ParseArgs,
    navigator.hardwareConcurrency,
  );
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
  try {
    if (flags.pidFile !== undefined) writePidFile(flags.pidFile);
  } catch (error) {
    complain(`Cannot write the pid file: ${(error as Error).message}`);
    return EXIT_MISUSED;
  }
  if (flags.nanny || flags.nworkers > 1) {
    const { canSupervise, supervise }: typeof import("./supervisor.ts") = await import(SUPERVISOR);
    if (flags.nworkers === 1 && !await canSupervise()) {
      logger.log(
        "info",
        "No nanny watches this worker: it could not pass on permissions that are granted in part",
      );
      return await runWorker(flags, logger);
    }
    const nannyPorts = flags.nannyPorts ?? { first: 0, last: 0, step: 1 };
    const workers = Array.from({ length: flags.nworkers }, (_, index) => ({
      words: wordsOf(flags, index),
      nannyPorts: listPorts(sharePorts(nannyPorts, index, flags.nworkers)),
    }));
    const tls = certificatesOf(flags);
    const { tlsTransport }: Partial<typeof import("../comm/tls.ts")> = tls === undefined
      ? {}
      : await import(TLS);
    return await supervise({
      entrypoint: import.meta.url,
      workers,
      restart: flags.nanny,
      logger,
      ...given("transport", tls === undefined ? undefined : tlsTransport?.(tls)),
    });
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
  const { supervisorAddress } = flags;
  try {
    const host = flags.interface === undefined ? flags.host : hostOfInterface(flags.interface);
    const worker = await startWorker({
      ...given("address", flags.address),
      ...given("schedulerFile", flags.schedulerFile),
      ...given("slots", flags.nthreads),
      ...given("name", flags.name === undefined ? undefined : nameOf(flags.name)),
      ...given("host", host),
      ...given("port", flags.ports === undefined ? undefined : listPorts(flags.ports)),
      ...given("contactAddress", flags.contactAddress),
      ...given("protocol", flags.protocol),
      ...given("tls", certificatesOf(flags)),
      ...given("memoryLimit", flags.memoryLimit),
      ...given("resources", flags.resources),
      ...given("localDirectory", flags.localDirectory),
      ...given("connectTimeoutMs", flags.deathTimeoutMs),
      ...given("dashboardAddress", flags.dashboardAddress),
      ...given("lifetime", flags.lifetimeMs),
      ...given("lifetimeStagger", flags.lifetimeStaggerMs),
      ...given("lifetimeRestart", flags.lifetimeRestart),
      ...given("preload", flags.preload),
      ...given("allowModules", flags.allowModules),
      ...given("isolation", flags.isolation),
      ...given("abortGraceMs", flags.abortGraceMs),
      ...(flags.taskPermissions === undefined
        ? {}
        : { permissions: await readPermissions(flags.taskPermissions) }),
      ...(supervisorAddress === undefined ? {} : {
        nanny: async (listening: string) => (await nanny()).askForNanny(supervisorAddress, listening),
      }),
      signal: stop.signal,
      logger,
    });
    if (supervisorAddress !== undefined) {
      // When it cannot be told, only those who wait for a restart wait longer.
      (await nanny()).tellRegistered(supervisorAddress).catch(() => {});
    }
    const end = await worker.ended;
    if (end.crashed) return EXIT_CRASHED;
    return end.restart && flags.supervisor !== undefined ? EXIT_AGAIN : EXIT_ENDED;
  } catch (error) {
    if (stop.signal.aborted) return EXIT_ENDED;
    complain(error instanceof Error ? error.message : String(error));
    return EXIT_REFUSED;
  }
}

/** As dask reads it: digits alone are a number, which is another name than the text. */
function nameOf(text: string): string | number {
  return /^-?\d+$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : text;
}

/** The IPv4 address of a network interface. */
function hostOfInterface(name: string): string {
  const all = Deno.networkInterfaces();
  const found = all.find((each) => each.name === name && each.family === "IPv4");
  if (found !== undefined) return found.address;
  const names = [...new Set(all.filter(({ family }) => family === "IPv4").map((each) => each.name))];
  throw new RangeError(
    `Cannot listen on interface "${name}": expected one with an IPv4 address: ${names.join(", ")}`,
  );
}

/** Gone again when this process ends. */
function writePidFile(path: string): void {
  Deno.writeTextFileSync(path, `${Deno.pid}`);
  globalThis.addEventListener("unload", () => {
    try {
      Deno.removeSync(path);
    } catch {
      // Somebody else removed it.
    }
  });
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

function certificatesOf(
  { tlsCaFile, tlsCert, tlsKey }: WorkerFlags,
): { readonly ca: string; readonly cert: string; readonly key?: string } | undefined {
  if (tlsCaFile === undefined || tlsCert === undefined) return undefined;
  return { ca: tlsCaFile, cert: tlsCert, ...given("key", tlsKey) };
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
  for (const file of [flags.tlsCaFile, flags.tlsCert, flags.tlsKey]) {
    if (file !== undefined) await need({ name: "read", path: file }, "--allow-read");
  }
  await need(
    directory === undefined ? { name: "write" } : { name: "write", path: directory },
    "--allow-write",
  );
  if (flags.interface !== undefined) {
    await need({ name: "sys", kind: "networkInterfaces" }, "--allow-sys=networkInterfaces");
  }
  if (flags.pidFile !== undefined) {
    await need({ name: "write", path: flags.pidFile }, `--allow-write=${flags.pidFile}`);
  }
  return missing ? [...new Set(needed)] : [];
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
if (import.meta.main) {
  // Executors of a compiled worker are the same executable, entered by this door.
  if (Deno.build.standalone && Deno.args[0] === "--executor") {
    // Not written into the `import`: other workers would read it at their start, too.
    const executor: typeof import("./execute/main.ts") = await import(
      new URL("./execute/main.ts", import.meta.url).href
    );
    await executor.runExecutor();
  }
  Deno.exit(await main(Deno.args));
}
