/**
 * What the rows of the fuzz share: a worker as a process with its figures from `/proc`, calls by hand, and a report.
 *
 * @module
 */
import { type LoggedProcess, startLogged } from "../cluster/python_scheduler.ts";
import { type Channel, connectChannel } from "../comm/channel.ts";
import { tcp } from "../comm/tcp.ts";
import { WORKER_ENV } from "../worker/supervisor.ts";
import { isAlive, openFiles, processTree, residentBytes } from "../tests/support/proc.ts";

/** A promise of the project, as a program that measures how far it holds. */
export interface Row {
  /** Its number in the list of promises. */
  readonly number: number;
  readonly title: string;
  run(report: Report, options: FuzzOptions): Promise<void>;
}

/** How much, and by which chance. */
export interface FuzzOptions {
  readonly seed: number;
  /** Requests of the row that has most of them; others take their share. */
  readonly requests: number;
  /** For tests on every change: fewer rounds, and nothing that only waits for half a minute. */
  readonly short?: boolean;
}

/** Figures beside their goals. Times are apart: on a machine that does other things as well they prove nothing. */
export class Report {
  readonly #print: (line: string) => void;
  /** Figures that missed their goal. */
  readonly missed: string[] = [];
  /** Times that missed theirs. */
  readonly late: string[] = [];

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  /** A figure, the goal in words, and whether it was reached. */
  figure(name: string, value: number | string, goal: string, reached: boolean): void {
    this.#tell(name, value, goal, reached, this.missed);
  }

  /** A time, ms, and the most that it may be. */
  time(name: string, ms: number, most: number): void {
    this.#tell(`${name}, ms`, ms, `<= ${most}`, ms <= most, this.late);
  }

  /** A figure without a goal. */
  note(text: string): void {
    this.#print(`     ${text}`);
  }

  #tell(name: string, value: number | string, goal: string, reached: boolean, missed: string[]): void {
    const text = typeof value === "number" ? Number(value.toFixed(2)) : value;
    const line = `${reached ? "ok  " : "MISS"} ${name}: ${text} (goal: ${goal})`;
    if (!reached) missed.push(line);
    this.#print(line);
  }
}

/** The worker under test. Ends with its block. */
export interface Subject extends AsyncDisposable {
  readonly address: string;
  readonly process: LoggedProcess;
  readonly pid: number;
  /** Memory of the worker process alone, bytes. */
  resident(): number;
  /** Memory of the worker and its executors, bytes. */
  residentTree(): number;
  openFiles(): number;
  alive(): boolean;
  /** A connection with it, hello said. */
  connect(): Promise<Channel>;
}

/** Starts a worker, in the environment that its nanny would give it, and waits until it is registered. */
export async function startSubject(scheduler: string, args: readonly string[] = []): Promise<Subject> {
  const entrypoint = new URL("../worker/main.ts", import.meta.url).pathname;
  const process = await startLogged(Deno.execPath(), [
    "run",
    "-A",
    "--quiet",
    entrypoint,
    scheduler,
    "--no-nanny",
    ...args,
  ], { env: WORKER_ENV });
  let over = false;
  process.ended.then(() => over = true);
  let address: string | undefined;
  while (address === undefined) {
    address = /Worker at (tcp:\/\/\S+) \(.*\), registered to/.exec(await process.log())?.[1];
    if (over) throw new Error(`The worker ended before it was registered: ${await process.log()}`);
    await pause(10);
  }
  const found = address;
  const { pid } = process;
  return {
    address,
    process,
    pid,
    resident: () => residentBytes(pid),
    residentTree: () => processTree(pid).reduce((sum, id) => sum + residentBytes(id), 0),
    openFiles: () => openFiles(pid),
    alive: () => !over && isAlive(pid),
    connect: () => connectChannel(tcp, found),
    [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
  };
}

/** One request on a connection of its own; rejects when no answer comes in time. */
export async function ask(address: string, message: unknown, limitMs = 30_000): Promise<unknown> {
  const channel = await connectChannel(tcp, address);
  try {
    return await askOn(channel, message, limitMs);
  } finally {
    channel.abort();
  }
}

/** One request on a connection; rejects when no answer comes in time, and the connection is closed then. */
export async function askOn(channel: Channel, message: unknown, limitMs = 30_000): Promise<unknown> {
  const patience = setTimeout(() => channel.abort(), limitMs);
  try {
    channel.send(message);
    const received = await channel.receive();
    if (received === null) throw new Error("The connection was closed instead of an answer");
    return received.message;
  } finally {
    clearTimeout(patience);
  }
}

/** Pings a worker every 20 ms until it is stopped; gives how long the answers took, ms, in rising order. */
export function pinging(address: string): { stop(): Promise<number[]> } {
  let stopped = false;
  const took: number[] = [];
  const running = (async () => {
    const channel = await connectChannel(tcp, address);
    try {
      while (!stopped) {
        const at = performance.now();
        await askOn(channel, { op: "ping" }, 60_000);
        took.push(performance.now() - at);
        await pause(20);
      }
    } finally {
      channel.abort();
    }
  })();
  // An error is for whoever stops it.
  running.catch(() => {});
  return {
    async stop() {
      stopped = true;
      await running;
      return took.sort((a, b) => a - b);
    },
  };
}

/** The value below which 99 of 100 lie. */
export function p99(sorted: readonly number[]): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))] ?? NaN;
}

/** Watches a figure while something goes on; gives the highest that was seen. */
export function watching(read: () => number): { stop(): number } {
  let highest = read();
  const look = () => highest = Math.max(highest, read());
  const timer = setInterval(look, 25);
  return {
    stop() {
      clearInterval(timer);
      look();
      return highest;
    },
  };
}

/** Waits until a figure is at most `limit`, at most so long; gives the last that was seen. */
export async function settles(read: () => number, limit: number, limitMs = 10_000): Promise<number> {
  const end = performance.now() + limitMs;
  for (;;) {
    const value = read();
    if (value <= limit || performance.now() > end) return value;
    await pause(100);
  }
}

/** What `promise` gives, or `"late"` after a time. */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | "late"> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<"late">((resolve) => timer = setTimeout(() => resolve("late"), ms));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Bytes in units of 2^20. */
export function megabytes(bytes: number): number {
  return bytes / 2 ** 20;
}

/** A moment. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
