/**
 * The real thing for tests: Python's own scheduler with validation on, Python workers, Python scripts, and our worker
 * as a process of its own. A scheduler that a test file shares is started at the top of the file by `sharedScheduler`,
 * so that it outlives the file's tests; everything else is owned and ended by the test that starts it.
 *
 * @module
 */
import { type PythonEnvironment, pythonEnvironment } from "../../cluster/python_environment.ts";
import {
  type LoggedProcess,
  pythonEnv,
  type PythonScheduler,
  type PythonSchedulerOptions,
  startLogged,
  startPythonScheduler,
} from "../../cluster/python_scheduler.ts";

export { type LoggedProcess, type PythonScheduler, startLogged };

/** The project's folder. */
export const PROJECT = new URL("../../", import.meta.url).pathname;

/** The Python of the tests; made at the first use. */
export function python(): Promise<PythonEnvironment> {
  return pythonEnvironment({
    onProgress: (line) => Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`)),
  });
}

/** A validating scheduler that a test owns: `await using scheduler = await startScheduler()`. */
export function startScheduler(options: PythonSchedulerOptions = {}): Promise<PythonScheduler> {
  return startPythonScheduler({
    onProgress: (line) => Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`)),
    ...options,
    env: { DASK_DISTRIBUTED__SCHEDULER__VALIDATE: "True", ...options.env },
  });
}

/** A validating scheduler for all tests of a file; ended when the file's tests are over. */
export async function sharedScheduler(options: PythonSchedulerOptions = {}): Promise<PythonScheduler> {
  const scheduler = await startScheduler(options);
  globalThis.addEventListener("unload", () => {
    scheduler.kill("SIGKILL");
    Deno.removeSync(scheduler.folder, { recursive: true });
  });
  return scheduler;
}

/** An entry of a log begins with a time; a traceback follows on lines without one. */
const ENTRY = /^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - )/m;
/** Somebody left, or was killed, to whom the scheduler still had something to say. It notes that with a traceback. */
const LEFT = / distributed\.batched - INFO - Batched Comm Closed [^]*CommClosedError[^\n]*\n?$/;

/** Lines of a scheduler's log that tell of an error, less those that match one of `provoked`. */
export async function errorsInLog(
  process: LoggedProcess,
  provoked: readonly RegExp[] = [],
): Promise<string[]> {
  const suspicious = /\b(ERROR|CRITICAL|Traceback|AssertionError|Exception)\b/;
  return (await process.log()).split(ENTRY).filter((entry) => !LEFT.test(entry)).join("").split("\n").filter((
    line,
  ) => suspicious.test(line) && !provoked.some((pattern) => pattern.test(line)));
}

/** A worker of Python's: `await using worker = await pythonWorker(address, ["--nthreads", "1"])`. */
export async function pythonWorker(address: string, args: readonly string[] = []): Promise<LoggedProcess> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-python-worker-" });
  const words = [
    "-m",
    "dask",
    "worker",
    address,
    "--no-nanny",
    "--no-dashboard",
    "--local-directory",
    folder,
  ];
  return startLogged((await python()).python, [...words, ...args], { env: pythonEnv(folder), folder });
}

/** Our worker as a process: `await using worker = await workerProcess(address, ["--nthreads", "1"])`. */
export function workerProcess(address: string, args: readonly string[] = []): Promise<LoggedProcess> {
  return startLogged(Deno.execPath(), ["run", "-A", `${PROJECT}worker/main.ts`, address, ...args]);
}

/** Runs a Python program given as text; `args` are its `sys.argv[1:]`. */
export async function runPython(
  program: string,
  args: readonly string[] = [],
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-python-" });
  try {
    await Deno.writeTextFile(`${folder}/program.py`, program);
    const output = await new Deno.Command((await python()).python, {
      args: [`${folder}/program.py`, ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: pythonEnv(folder),
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code: output.code, stdout: decode(output.stdout), stderr: decode(output.stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
