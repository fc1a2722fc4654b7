/**
 * Finds a Python with dask's scheduler, or makes a private one. Rule: what is on the machine is used when it is inside
 * the tested range; otherwise a virtual environment of our own is made once, under the project or a cache folder, with
 * everything pinned. Nothing else on the machine is changed.
 *
 * @module
 */
import { DaskError } from "../protocol/errors.ts";
import { isTestedRelease, NEWEST_RELEASE } from "../protocol/release.ts";

const REQUIREMENTS = [`dask==${NEWEST_RELEASE}`, `distributed==${NEWEST_RELEASE}`, "numpy>=1.26,<3"];

/** A Python interpreter that can run `python -m dask scheduler`. */
export interface PythonEnvironment {
  /** The interpreter. */
  readonly python: string;
  /** Version of `distributed` in it, as `2026.8.0`. */
  readonly version: string;
  /** Whether it was found on PATH or is our own. */
  readonly source: "PATH" | "private";
}

/** Options of {@linkcode pythonEnvironment}. */
export interface PythonEnvironmentOptions {
  /** Folder of the private environment. Default: `.venv` beside `mod.ts`. */
  readonly directory?: string;
  /** Told what takes long, a line each. */
  readonly onProgress?: (line: string) => void;
}

const PROBE = "import sys, numpy, distributed; print(sys.executable); print(distributed.__version__)";

/**
 * Gives a Python with `distributed` and `numpy`: that of the `dask` on PATH when its version is inside the tested
 * range (`protocol/release.ts`), else a private one, made at the first call.
 *
 * @throws {DaskError} in one line that names the remedy, when there is no Python 3 or the package index is out of reach.
 */
export async function pythonEnvironment(options: PythonEnvironmentOptions = {}): Promise<PythonEnvironment> {
  const found = await onPath();
  if (found !== null) return found;
  return await privateEnvironment(options);
}

async function onPath(): Promise<PythonEnvironment | null> {
  const dask = await which("dask");
  if (dask === null) return null;
  // The script that pip wrote for `dask` names the interpreter of its environment in the first line.
  const [firstLine = ""] = (await Deno.readTextFile(dask).catch(() => "")).split("\n", 1);
  const python = firstLine.startsWith("#!") ? firstLine.slice(2).trim().split(" ")[0] : undefined;
  if (python === undefined || python === "") return null;
  const environment = await probe(python, "PATH");
  return environment !== null && isTestedRelease(environment.version) ? environment : null;
}

async function privateEnvironment(options: PythonEnvironmentOptions): Promise<PythonEnvironment> {
  const directory = options.directory ?? new URL("../.venv", import.meta.url).pathname;
  const say = options.onProgress ?? (() => {});
  const python = `${directory}/bin/python`;
  // One process makes it, others wait: the lock goes when its holder ends, however it ends.
  using lock = await Deno.open(`${directory}.lock`, { create: true, write: true });
  await lock.lock(true);
  const ready = await probe(python, "private");
  if (ready !== null && isTestedRelease(ready.version)) return ready;

  const base = (await which("python3")) ?? (await which("python"));
  if (base === null) {
    throw new DaskError(
      "Cannot find Python 3 for dask's scheduler: install it (Debian: apt-get install python3 python3-venv)",
    );
  }
  say(`Making a private Python environment in ${directory} (once)`);
  const made = await run(base, ["-m", "venv", "--clear", directory]);
  if (!made.success) {
    throw new DaskError(
      `Cannot make a virtual environment with ${base}: install its venv module (Debian: apt-get install python3-venv): ${made.tail}`,
    );
  }
  say(`Installing ${REQUIREMENTS.join(", ")}`);
  const installed = await run(python, [
    ..."-m pip install --quiet --disable-pip-version-check --no-input".split(" "),
    ...REQUIREMENTS,
  ]);
  const environment = installed.success ? await probe(python, "private") : null;
  if (environment === null) {
    throw new DaskError(
      `Cannot install ${
        REQUIREMENTS[1]
      } into ${directory}: check that the package index can be reached (PIP_INDEX_URL): ${installed.tail}`,
    );
  }
  return environment;
}

async function probe(python: string, source: PythonEnvironment["source"]): Promise<PythonEnvironment | null> {
  const result = await run(python, ["-c", PROBE]);
  const [executable, version] = result.stdout.trim().split("\n");
  return result.success && executable !== undefined && version !== undefined
    ? { python: executable, version, source }
    : null;
}

async function run(
  command: string,
  args: readonly string[],
): Promise<{ readonly success: boolean; readonly stdout: string; readonly tail: string }> {
  try {
    const output = await new Deno.Command(command, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    })
      .output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const lines = `${decode(output.stdout)}\n${decode(output.stderr)}`.trim().split("\n");
    return { success: output.success, stdout: decode(output.stdout), tail: lines.at(-1) ?? "" };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      return { success: false, stdout: "", tail: `${command} not found` };
    }
    throw error;
  }
}

async function which(command: string): Promise<string | null> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(":")) {
    if (folder === "") continue;
    const path = `${folder}/${command}`;
    const info = await Deno.stat(path).catch(() => null);
    if (info?.isFile && ((info.mode ?? 0) & 0o111) !== 0) return path;
  }
  return null;
}
