/**
 * Worker processes of a chaos run: started, killed, stopped, replaced, and watched for what they leave behind.
 *
 * @module
 */
import { type LoggedProcess, startLogged } from "../cluster/python_scheduler.ts";
import { isAlive, processesWith, processTree } from "../tests/support/proc.ts";

/** Executors of a killed worker must be gone after this, ms. */
export const ORPHAN_MS_MAX = 1_000;
/** How long the harness looks for them before it goes on, ms. */
const ORPHAN_WATCH_MS = 10_000;
/** A worker that was told to leave must have left after this, ms; the machine may be slow. */
const LEAVE_MS_MAX = 60_000;
const LOOK_MS = 20;

/** What a fleet is told. */
export interface FleetOptions {
  readonly scheduler: string;
  /** Workers that are to live at a time; those that end are replaced. */
  readonly size: number;
  /** Folder for logs, temporary files and sockets. */
  readonly folder: string;
  /** Folder for the workers' large values, RAM-backed. */
  readonly frames: string;
  /** Environment variable `NAME=value` by which all processes of the fleet are known. */
  readonly mark: readonly [name: string, value: string];
}

interface Member {
  readonly process: LoggedProcess;
  readonly number: number;
  /** Whether it was ever stopped: then the scheduler may have lost patience with it. */
  paused: boolean;
  /** In the order in which they come; a stopped one goes on to be working. */
  state: "starting" | "working" | "stopped" | "ending" | "ended";
}

/** See the module. */
export class Fleet {
  readonly #options: FleetOptions;
  readonly #members: Member[] = [];
  /** Workers that were asked for; those that are not members yet included. */
  #asked = 0;
  /** Everything that goes on by itself; awaited at the end. */
  readonly #activities = new Set<Promise<void>>();
  readonly #changed = new Set<() => void>();
  #closing = false;
  /** Longest that an executor outlived its killed worker, ms. */
  orphanMs = 0;
  /** What workers did that none of our faults explains. */
  readonly complaints: string[] = [];

  constructor(options: FleetOptions) {
    this.#options = options;
  }

  /** Starts the first workers and waits until all of them are registered; rejects when one cannot. */
  async start(): Promise<void> {
    for (let i = 0; i < this.#options.size; i++) await this.#add();
    await this.#until(() => this.complaints.length > 0 || this.#working().length >= this.#options.size);
    if (this.complaints.length > 0) throw new Error(this.complaints.join("\n"));
  }

  /** One more worker; does not wait for its registration. */
  async join(): Promise<void> {
    await this.#add();
  }

  /** Ends a worker by `signal` as soon as two are working. */
  async end(signal: "SIGKILL" | "SIGTERM", victim: number): Promise<void> {
    const member = await this.#choose(victim);
    if (member === null) return;
    const tree = processTree(member.process.pid);
    this.#end(member, signal, tree);
  }

  /** Stops a worker for `ms` as soon as two are working. */
  async stop(ms: number, executorsToo: boolean, victim: number): Promise<void> {
    const member = await this.#choose(victim);
    if (member === null) return;
    const pids = executorsToo ? processTree(member.process.pid) : [member.process.pid];
    member.state = "stopped";
    member.paused = true;
    for (const pid of pids) signalTo(pid, "SIGSTOP");
    this.#go((async () => {
      await pause(ms);
      for (const pid of pids) signalTo(pid, "SIGCONT");
      if (member.state !== "stopped") return;
      member.state = "working";
      if (this.#closing) this.#end(member, "SIGTERM", pids);
      this.#tell();
    })());
  }

  /** The last lines of each worker that is there, for a report. */
  async logs(lines: number): Promise<string> {
    const texts = await Promise.all(
      this.#members.filter(({ state }) => state !== "ended").map(async ({ number, state, process }) =>
        `worker ${number} (${state}, process ${process.pid})\n${await tail(process, lines)}`
      ),
    );
    return texts.join("\n");
  }

  /** Ends all workers by SIGTERM and waits for all that goes on. Processes that are left are complaints, and killed. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#tell();
    for (const member of this.#members) {
      if (member.state !== "starting" && member.state !== "working") continue;
      this.#end(member, "SIGTERM", processTree(member.process.pid));
    }
    while (this.#activities.size > 0) await Promise.all(this.#activities);
    const left = processesWith(this.#options.mark.join("="));
    if (left.length > 0) {
      this.complaints.push(`${left.length} processes are left: ${left.map(commandOf).join(" | ")}`);
      for (const pid of left) signalTo(pid, "SIGKILL");
    }
  }

  #end(member: Member, signal: "SIGKILL" | "SIGTERM", tree: readonly number[]): void {
    member.state = "ending";
    member.process.kill(signal);
    this.#go(this.#watchEnd(member, signal, tree));
  }

  #working(): Member[] {
    return this.#members.filter(({ state }) => state === "working");
  }

  async #add(): Promise<void> {
    const { scheduler, folder, frames, mark } = this.#options;
    const number = ++this.#asked;
    const logs = `${folder}/logs/${number}`;
    await Deno.mkdir(logs, { recursive: true });
    const words = ["run", "-A", "--quiet", new URL("../worker/main.ts", import.meta.url).pathname, scheduler];
    const process = await startLogged(
      Deno.execPath(),
      [...words, "--no-nanny", "--nthreads=2", "--memory-limit=1GiB", `--local-directory=${frames}`],
      { folder: logs, env: { TMPDIR: `${folder}/tmp`, [mark[0]]: mark[1] } },
    );
    const member: Member = { process, number, paused: false, state: "starting" };
    this.#members.push(member);
    this.#go(this.#watch(member));
  }

  /** From start to end of one worker. */
  async #watch(member: Member): Promise<void> {
    const { process } = member;
    let over = false;
    const ended = process.ended.then((status) => {
      over = true;
      return status;
    });
    while (!over && !(await process.log()).includes("registered to")) await pause(LOOK_MS);
    if (!over && member.state === "starting") member.state = "working";
    this.#tell();
    const status = await ended;
    const before = member.state;
    member.state = "ended";
    const how = status.signal === null ? `code ${status.code}` : status.signal;
    // 0: it left as it was told to, by a signal or by the scheduler, which loses patience with stopped workers.
    const fine = before === "ending" || (status.code === 0 && member.paused);
    const log = await process.log();
    const error = /^.*(Unexpected error|crashed|AssertionError|invariant).*$/im.exec(log)?.[0];
    if (!fine || (status.signal === null && status.code !== 0)) {
      this.complaints.push(
        `Worker ${member.number} (${before}) ended by ${how}:\n${await tail(process, 12)}`,
      );
    } else if (error !== undefined) this.complaints.push(`Worker ${member.number} says: ${error}`);
    this.#tell();
    const gone = this.#members.filter(({ state }) => state === "ended" || state === "ending").length;
    // One that cannot even start would not the next time either.
    if (!this.#closing && before !== "starting" && this.#asked - gone < this.#options.size) await this.#add();
  }

  /** After a signal that ends: its processes must go, and soon. */
  async #watchEnd(member: Member, signal: "SIGKILL" | "SIGTERM", tree: readonly number[]): Promise<void> {
    const patience = setTimeout(() => {
      this.complaints.push(`Worker ${member.number} did not leave within ${LEAVE_MS_MAX} ms of ${signal}`);
      member.process.kill("SIGKILL");
    }, LEAVE_MS_MAX);
    await member.process.ended;
    clearTimeout(patience);
    const at = performance.now();
    const elapsed = () => performance.now() - at;
    while (tree.some(isAlive) && elapsed() < ORPHAN_WATCH_MS) await pause(LOOK_MS);
    this.orphanMs = Math.max(this.orphanMs, elapsed());
    if (elapsed() > ORPHAN_MS_MAX) {
      this.complaints.push(
        `Executors of worker ${member.number} outlived it (${signal}) by ${Math.round(elapsed())} ms`,
      );
    }
  }

  /** A working one, when at least one more would be left; null when the fleet closes before that. */
  async #choose(victim: number): Promise<Member | null> {
    await this.#until(() => this.#working().length >= 2);
    const working = this.#working();
    return this.#closing ? null : working[victim % working.length]!;
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition() && !this.#closing) {
      await new Promise<void>((resolve) => this.#changed.add(resolve));
    }
  }

  #tell(): void {
    for (const wake of this.#changed) wake();
    this.#changed.clear();
  }

  #go(activity: Promise<void>): void {
    const running = activity.catch((error) => {
      this.complaints.push(`The harness failed: ${error instanceof Error ? error.stack : error}`);
    }).finally(() => this.#activities.delete(running));
    this.#activities.add(running);
  }
}

async function tail(process: LoggedProcess, lines: number): Promise<string> {
  return (await process.log()).trimEnd().split("\n").slice(-lines).map((line) => `  ${line}`).join("\n");
}

function signalTo(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch {
    // It has ended.
  }
}

function commandOf(pid: number): string {
  try {
    return `${pid} ${Deno.readTextFileSync(`/proc/${pid}/cmdline`).replaceAll("\0", " ").slice(0, 200)}`;
  } catch {
    return String(pid);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
