/**
 * The small process that watches workers (dask's nanny): starts each, passes on signals, starts it again when it died
 * of a crash or was to be restarted, and ends with it when it ended as it was told to. Law: a worker that cannot live is
 * not started for ever.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import type { Transport } from "../comm/comm.ts";
import { EXIT_AGAIN, EXIT_ENDED, EXIT_MISUSED, EXIT_REFUSED } from "./exit_codes.ts";
import { LogRing } from "./log_ring.ts";
import type { Nanny, Watcher } from "./nanny.ts";

/** A worker that lived shorter than this died quickly, ms. */
const QUICK_MS = 10_000;
/** So many quick deaths in a row are enough. */
const QUICK_DEATHS_MAX = 5;
/** Wait before the first restart, ms; doubled with each quick death. */
const BACKOFF_MS = 200;
/** Of the time in which a worker is to end, so much is for doing it in order; then it is killed. As in dask. */
const PATIENCE = 0.8;
/** After SIGTERM a worker has this long, ms. */
const GRACE_MS = 10_000;

/**
 * Variables of a worker's environment, unless they are set already. glibc gives every thread an arena of its own, and
 * keeps what is freed, the more of it the larger it was: after 100,000 short connections a worker has 130 MB that nobody
 * uses, with two arenas 45 MB, and 10 MB when free memory goes back at dask's own threshold (which its nanny sets, too).
 */
export const WORKER_ENV: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: "2",
  MALLOC_TRIM_THRESHOLD_: "65536",
};

/** What {@linkcode supervise} is told. */
export interface Supervision {
  /** URL of the worker's entrypoint. */
  readonly entrypoint: string;
  readonly workers: readonly WatchedWorker[];
  /** Whether to start a crashed worker again, and to serve restarts. */
  readonly restart: boolean;
  readonly logger: Logger;
  /** How nannies are reached. Default: TCP. */
  readonly transport?: Transport;
}

/** One worker of several. */
export interface WatchedWorker {
  /** Words of its command line. */
  readonly words: readonly string[];
  /** Ports to try for its nanny. */
  readonly nannyPorts: readonly number[];
}

/**
 * What to do after a worker ended. `quickDeaths` counts those in a row, this one included; `asked`: it was ended in
 * order to be started again.
 */
export function verdict(
  status: { readonly code: number; readonly signal: string | null },
  quickDeaths: number,
  restart: boolean,
  asked = false,
): { readonly type: "end"; readonly code: number } | { readonly type: "restart"; readonly afterMs: number } {
  const again = status.signal === null && status.code === EXIT_AGAIN;
  if (restart && (asked || again)) return { type: "restart", afterMs: 0 };
  if (again) return { type: "end", code: EXIT_ENDED };
  const crashed = status.signal !== null || ![EXIT_ENDED, EXIT_REFUSED, EXIT_MISUSED].includes(status.code);
  if (!crashed || !restart || quickDeaths >= QUICK_DEATHS_MAX) return { type: "end", code: status.code };
  return { type: "restart", afterMs: BACKOFF_MS * 2 ** Math.max(0, quickDeaths - 1) };
}

/** Runs all workers until they have ended; resolves to the exit code: the first that is not 0, else 0. */
export async function supervise(supervision: Supervision): Promise<number> {
  const permissions = await permissionFlags();
  const watches = supervision.workers.map((worker) => new Watch(worker, supervision, permissions));
  let signals = 0;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => {
      const again = ++signals > 1;
      for (const watch of watches) watch.stop(again ? "SIGKILL" : "SIGTERM");
      if (again || watches.every((watch) => !watch.alive)) Deno.exit(EXIT_ENDED);
      Deno.unrefTimer(setTimeout(() => watches.forEach((watch) => watch.stop("SIGKILL")), GRACE_MS));
    });
  }
  const codes = await Promise.all(watches.map((watch) => watch.run()));
  return codes.find((code) => code !== EXIT_ENDED) ?? EXIT_ENDED;
}

/** One worker: the loop that keeps it running, and what may be asked of that. */
class Watch implements Watcher {
  readonly #worker: WatchedWorker;
  readonly #supervision: Supervision;
  readonly #permissions: readonly string[];
  readonly #log: LogRing;
  #child: Deno.ChildProcess | null = null;
  /** Resolves when the child of now is gone. */
  #gone: Promise<void> = Promise.resolve();
  /** Resolves when a worker is registered, or none will be any more. */
  #running = Promise.withResolvers<void>();
  /** The child of now is ended in order to be started again. */
  #asked = false;
  /** No other child shall follow. */
  #ending = false;
  #endWait: () => void = () => {};

  constructor(worker: WatchedWorker, supervision: Supervision, permissions: readonly string[]) {
    this.#worker = worker;
    this.#supervision = supervision;
    this.#permissions = permissions;
    this.#log = new LogRing(supervision.logger);
  }

  get alive(): boolean {
    return this.#child !== null;
  }

  /** Resolves to the exit code of the last child. */
  async run(): Promise<number> {
    const { restart } = this.#supervision;
    await using nanny = restart ? await this.#startNanny() : null;
    let quickDeaths = 0;
    let code = EXIT_ENDED;
    while (!this.#ending) {
      const startedAt = Date.now();
      const status = await this.#runChild(nanny?.supervisorAddress ?? null);
      code = this.#ending && status.signal !== null ? EXIT_ENDED : status.code;
      if (this.#ending) break;
      quickDeaths = Date.now() - startedAt < QUICK_MS && !this.#asked ? quickDeaths + 1 : 0;
      const next = verdict(status, quickDeaths, restart, this.#asked);
      const how = status.signal === null ? `with code ${status.code}` : `by ${status.signal}`;
      code = next.type === "end" ? next.code : EXIT_ENDED;
      if (next.type === "end") {
        if (next.code !== EXIT_ENDED) this.#log.log("error", `The worker ended ${how}`);
        break;
      }
      if (next.afterMs === 0) continue;
      this.#log.log("warning", `The worker died ${how}, it is started again in ${next.afterMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, next.afterMs);
        this.#endWait = () => (clearTimeout(timer), resolve());
        if (this.#ending) this.#endWait();
      });
    }
    this.#ending = true;
    this.#running.resolve();
    return code;
  }

  async #startNanny(): Promise<Nanny | null> {
    const { transport } = this.#supervision;
    const { startNanny } = await import("./nanny.ts");
    try {
      return await startNanny(this, {
        ports: this.#worker.nannyPorts,
        log: this.#log,
        ...(transport === undefined ? {} : { transport }),
      });
    } catch (error) {
      this.#log.log("warning", `Nobody answers restarts of this worker: ${(error as Error).message}`);
      return null;
    }
  }

  async #runChild(supervisorAddress: string | null): Promise<Deno.CommandStatus> {
    this.#asked = false;
    const gone = Promise.withResolvers<void>();
    this.#gone = gone.promise;
    // A compiled worker is its own executable, with its permissions inside.
    const own = Deno.build.standalone ? [] : ["run", ...this.#permissions, this.#supervision.entrypoint];
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...own,
        "--no-nanny",
        `--supervisor=${Deno.pid}`,
        ...(supervisorAddress === null ? [] : [`--supervisor-address=${supervisorAddress}`]),
        ...this.#worker.words,
      ],
      env: Object.fromEntries(Object.entries(WORKER_ENV).filter(([name]) => !isSet(name))),
      stdin: "null",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn();
    this.#child = child;
    const status = await child.status;
    this.#child = null;
    this.#running.resolve(); // whoever waits for this one waits no longer
    this.#running = Promise.withResolvers();
    gone.resolve();
    return status;
  }

  /** The supervisor itself was told to end. */
  stop(signal: Deno.Signal): void {
    this.#ending = true;
    this.#endWait();
    endChild(this.#child, signal);
  }

  async kill(timeoutMs: number, reason: string): Promise<void> {
    this.#log.log("info", `Restarting the worker: ${reason}`);
    this.#asked = true;
    await this.#end(timeoutMs);
  }

  running(): Promise<void> {
    return this.#ending ? Promise.resolve() : this.#running.promise;
  }

  async terminate(timeoutMs: number, reason: string): Promise<void> {
    this.letGo(reason);
    await this.#end(timeoutMs);
  }

  letGo(reason: string): void {
    this.#log.log("info", `The worker is not started again: ${reason}`);
    this.#ending = true;
    this.#endWait();
  }

  registered(): void {
    this.#running.resolve();
  }

  async #end(timeoutMs: number): Promise<void> {
    const child = this.#child;
    endChild(child, "SIGTERM");
    const timer = setTimeout(() => endChild(child, "SIGKILL"), timeoutMs * PATIENCE);
    await this.#gone;
    clearTimeout(timer);
  }
}

/** Without permission to look, which nobody is asked for here: as if it were not set. */
function isSet(variable: string): boolean {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" && Deno.env.get(variable) !== undefined;
}

function endChild(child: Deno.ChildProcess | null, signal: Deno.Signal): void {
  try {
    child?.kill(signal);
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
  const { CONFIG_VARIABLES } = await import("../config/settings.ts");
  for (const name of kinds) {
    const status = await Deno.permissions.query({ name });
    if (status.state === "granted" && !status.partial) flags.push(`--allow-${name}`);
    else if (name === "run") flags.push(`--allow-run=${Deno.execPath()}`);
    else if (name === "sys") {
      flags.push(...await named("sys", "kind", ["systemMemoryInfo", "networkInterfaces"]));
    } else if (name === "env") flags.push(...await named("env", "variable", CONFIG_VARIABLES));
  }
  return flags.length === kinds.length ? ["--allow-all"] : ["--no-prompt", ...flags];
}

/** A flag for those of `values` that are granted; none when none is. */
async function named(name: "sys" | "env", field: string, values: readonly string[]): Promise<string[]> {
  const granted: string[] = [];
  for (const value of values) {
    const descriptor = { name, [field]: value } as unknown as Deno.PermissionDescriptor;
    if ((await Deno.permissions.query(descriptor)).state === "granted") granted.push(value);
  }
  return granted.length === 0 ? [] : [`--allow-${name}=${granted.join(",")}`];
}
