/**
 * The small process that watches workers (dask's nanny): starts each, passes on signals, starts it again when it died
 * of a crash, and ends with it when it ended as it was told to. Law: a worker that cannot live is not started for ever.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";

/** Exit codes of a worker process, and what the supervisor makes of them. */
export const EXIT_ENDED = 0;
/** The scheduler, or something else outside, did not want the worker: again would be the same. */
export const EXIT_REFUSED = 1;
/** The command line makes no sense, or permissions are missing. */
export const EXIT_MISUSED = 2;
/** A bug ended it. */
export const EXIT_CRASHED = 70;

/** A worker that lived shorter than this died quickly, ms. */
const QUICK_MS = 10_000;
/** So many quick deaths in a row are enough. */
const QUICK_DEATHS_MAX = 5;
/** Wait before the first restart, ms; doubled with each quick death. */
const BACKOFF_MS = 200;
/** After SIGTERM a worker has this long, ms. */
const GRACE_MS = 10_000;

/**
 * Variables of a worker's environment, unless they are set already. glibc gives every thread an arena of its own, in which
 * freed memory stays: a worker that served 100,000 short connections then keeps 130 MB that nobody uses, with two
 * arenas 45 MB.
 */
export const WORKER_ENV: Readonly<Record<string, string>> = { MALLOC_ARENA_MAX: "2" };

/** What {@linkcode supervise} is told. */
export interface Supervision {
  /** URL of the worker's entrypoint. */
  readonly entrypoint: string;
  /** Words of the command line, one list a worker. */
  readonly wordLists: readonly (readonly string[])[];
  /** Whether to start a crashed worker again. */
  readonly restart: boolean;
  readonly logger: Logger;
}

/** What to do after a worker ended; `quickDeaths` counts those in a row, this one included. */
export function verdict(
  status: { readonly code: number; readonly signal: string | null },
  quickDeaths: number,
  restart: boolean,
): { readonly type: "end"; readonly code: number } | { readonly type: "restart"; readonly afterMs: number } {
  const crashed = status.signal !== null || ![EXIT_ENDED, EXIT_REFUSED, EXIT_MISUSED].includes(status.code);
  if (!crashed || !restart || quickDeaths >= QUICK_DEATHS_MAX) return { type: "end", code: status.code };
  return { type: "restart", afterMs: BACKOFF_MS * 2 ** Math.max(0, quickDeaths - 1) };
}

/** Runs all workers until they have ended; resolves to the exit code: the first that is not 0, else 0. */
export async function supervise(supervision: Supervision): Promise<number> {
  const { logger } = supervision;
  const permissions = await permissionFlags();
  const env = Object.fromEntries(Object.entries(WORKER_ENV).filter(([name]) => !isSet(name)));
  const children = new Set<Deno.ChildProcess>();
  let stopping = false;
  let wake: () => void = () => {};
  const stopped = new Promise<void>((resolve) => wake = resolve);
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => {
      stopping = true;
      wake();
      for (const child of children) endChild(child, ++signals > 1 ? "SIGKILL" : "SIGTERM");
      if (children.size === 0 || signals > 1) Deno.exit(EXIT_ENDED);
      Deno.unrefTimer(setTimeout(() => {
        for (const child of children) endChild(child, "SIGKILL");
      }, GRACE_MS));
    });
  }

  const watch = async (words: readonly string[]): Promise<number> => {
    let quickDeaths = 0;
    for (;;) {
      const startedAt = Date.now();
      const child = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          ...permissions,
          supervision.entrypoint,
          "--no-nanny",
          `--supervisor=${Deno.pid}`,
          ...words,
        ],
        env,
        stdin: "null",
        stdout: "inherit",
        stderr: "inherit",
      }).spawn();
      children.add(child);
      const status = await child.status;
      children.delete(child);
      if (stopping) return status.signal === null ? status.code : EXIT_ENDED;
      quickDeaths = Date.now() - startedAt < QUICK_MS ? quickDeaths + 1 : 0;
      const next = verdict(status, quickDeaths, supervision.restart);
      const how = status.signal === null ? `with code ${status.code}` : `by ${status.signal}`;
      if (next.type === "end") {
        if (next.code !== EXIT_ENDED) logger.log("error", `The worker ended ${how}`);
        return next.code;
      }
      logger.log("warning", `The worker died ${how}, it is started again in ${next.afterMs} ms`);
      await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, next.afterMs))]);
      if (stopping) return EXIT_ENDED;
    }
  };
  const codes = await Promise.all(supervision.wordLists.map(watch));
  return codes.find((code) => code !== EXIT_ENDED) ?? EXIT_ENDED;
}

/** Without permission to look, which nobody is asked for here: as if it were not set. */
function isSet(variable: string): boolean {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" && Deno.env.get(variable) !== undefined;
}

function endChild(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch {
    // It has ended already.
  }
}

/** Whether a worker started by this process can have all the permissions that it needs. */
export async function canSupervise(): Promise<boolean> {
  for (const name of ["net", "read", "write"] as const) {
    const status = await Deno.permissions.query({ name });
    if (status.state !== "granted" || status.partial) return false;
  }
  return true;
}

/** Our own permissions as flags; of what is granted in part only the parts that a worker needs are known by name. */
async function permissionFlags(): Promise<string[]> {
  const kinds = ["read", "write", "net", "env", "run", "sys", "ffi", "import"] as const;
  const flags: string[] = [];
  for (const name of kinds) {
    const status = await Deno.permissions.query({ name });
    if (status.state === "granted" && !status.partial) flags.push(`--allow-${name}`);
    else if (name === "run") flags.push(`--allow-run=${Deno.execPath()}`);
    else if (name === "sys" && await mayAskForMemory()) flags.push("--allow-sys=systemMemoryInfo");
  }
  return flags.length === kinds.length ? ["--allow-all"] : ["--no-prompt", ...flags];
}

async function mayAskForMemory(): Promise<boolean> {
  return (await Deno.permissions.query({ name: "sys", kind: "systemMemoryInfo" })).state === "granted";
}
