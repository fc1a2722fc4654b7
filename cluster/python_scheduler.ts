/**
 * Starts and ends dask's own scheduler and workers as child processes.
 *
 * @module
 */
import { DaskError } from "../protocol/errors.ts";
import {
  type PythonEnvironment,
  pythonEnvironment,
  type PythonEnvironmentOptions,
} from "./python_environment.ts";

/** Options of {@linkcode startPythonScheduler}. */
export interface PythonSchedulerOptions extends PythonEnvironmentOptions {
  /** Environment variables, such as `DASK_DISTRIBUTED__SCHEDULER__VALIDATE`. */
  readonly env?: Readonly<Record<string, string>>;
  /** Further words for `dask scheduler`. */
  readonly args?: readonly string[];
  /** Interface to bind. Default `127.0.0.1`. */
  readonly host?: string;
  /** Files of certificates. The scheduler then listens on `tls://`. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
}

/** A child process of ours whose output goes to a file. */
export interface LoggedProcess extends AsyncDisposable {
  readonly pid: number;
  /** Holds its output; removed when it is disposed of. */
  readonly folder: string;
  /** Resolves when it has ended. */
  readonly ended: Promise<Deno.CommandStatus>;
  /** All that it printed so far. */
  log(): Promise<string>;
  kill(signal: Deno.Signal): void;
  /** SIGTERM, SIGKILL after `graceMs` (default 5,000), and wait. Idempotent. */
  stop(graceMs?: number): Promise<Deno.CommandStatus>;
}

/** A running scheduler of Python's. */
export interface PythonScheduler extends LoggedProcess {
  readonly address: string;
  readonly environment: PythonEnvironment;
}

/**
 * Starts `dask scheduler` on a free port and waits until it listens.
 *
 * @throws {DaskError} with the last line of its output when it ends before that.
 */
export async function startPythonScheduler(options: PythonSchedulerOptions = {}): Promise<PythonScheduler> {
  const environment = await pythonEnvironment(options);
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-scheduler-" });
  const file = `${folder}/scheduler.json`;
  const { tls } = options;
  const words = [
    "-m",
    "dask",
    "scheduler",
    "--host",
    options.host ?? "127.0.0.1",
    "--port",
    "0",
    "--no-dashboard",
    ...(tls === undefined
      ? []
      : ["--protocol", "tls", "--tls-ca-file", tls.ca, "--tls-cert", tls.cert, "--tls-key", tls.key]),
  ];
  const started = await startLogged(environment.python, [
    ...words,
    "--scheduler-file",
    file,
    ...(options.args ?? []),
  ], {
    env: { ...pythonEnv(folder), ...options.env },
    folder,
  });
  try {
    const address = await schedulerAddress(file, started);
    return Object.assign(started, { address, environment });
  } catch (error) {
    await started.stop();
    throw error;
  }
}

/** Dask's configuration folders and variables of the user do not reach what we start. */
export function pythonEnv(emptyFolder: string): Record<string, string> {
  return {
    DASK_CONFIG: `${emptyFolder}/none`,
    DASK_ROOT_CONFIG: `${emptyFolder}/none`,
    PYTHONUNBUFFERED: "1",
  };
}

async function schedulerAddress(file: string, started: LoggedProcess): Promise<string> {
  let ended = false;
  started.ended.then(() => ended = true);
  for (;;) {
    try {
      const address = (JSON.parse(await Deno.readTextFile(file)) as { address?: unknown }).address;
      if (typeof address === "string") return address;
    } catch (error) {
      // Not there yet, or half written.
      if (!(error instanceof Deno.errors.NotFound || error instanceof SyntaxError)) throw error;
    }
    if (ended) {
      throw new DaskError(
        `Cannot start dask scheduler: it ended at once: ${(await started.log()).trim().split("\n").at(-1)}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Starts a command with its output going to a file, so that nothing reads a pipe while others work. */
export async function startLogged(
  command: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly folder?: string } = {},
): Promise<LoggedProcess> {
  const folder = options.folder ?? await Deno.makeTempDir({ prefix: "dask-ts-process-" });
  const logFile = `${folder}/output.log`;
  const child = new Deno.Command("/bin/sh", {
    args: ["-c", 'log="$1"; shift; exec "$@" >"$log" 2>&1', "sh", logFile, command, ...args],
    stdin: "null",
    stdout: "null",
    stderr: "null",
    ...(options.env === undefined ? {} : { env: { ...options.env } }),
  }).spawn();
  let over = false;
  const ended = child.status.then((status) => {
    over = true;
    return status;
  });
  const kill = (signal: Deno.Signal) => {
    if (over) return;
    try {
      child.kill(signal);
    } catch {
      // It has just ended by itself, which its status will tell.
    }
  };
  const stop = async (graceMs = 5_000) => {
    kill("SIGTERM");
    const timer = setTimeout(() => kill("SIGKILL"), graceMs);
    const status = await ended;
    clearTimeout(timer);
    return status;
  };
  return {
    pid: child.pid,
    folder,
    ended,
    log: () => Deno.readTextFile(logFile).catch(() => ""),
    kill,
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
      await Deno.remove(folder, { recursive: true }).catch(() => {});
    },
  };
}
