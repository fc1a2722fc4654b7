/**
 * One executor as its worker sees it: a child process, its output, its link, its side of the ledger, and how it ended.
 *
 * @module
 */
import type { Logger } from "../../base/log.ts";
import { silent } from "../../base/log.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { openLedgerFile } from "./files.ts";
import { Ledger } from "./ledger.ts";
import {
  type ExecutorConfig,
  EXIT_UNABLE,
  type FromExecutor,
  ledgerPath,
  type Link,
  type ToExecutor,
} from "./link.ts";

/** The worker's end of a link. */
export type ExecutorLink = Link<ToExecutor, FromExecutor>;

/** How a process ended, for people and for a decision. */
export interface Exit {
  /** `"ended by signal 9 (SIGKILL)"`. */
  readonly text: string;
  readonly outOfMemory: boolean;
  /** Its last lines on stderr. */
  readonly lines: readonly string[];
}

/** How to start an executor. */
export interface Spawn<S> {
  readonly command: string;
  readonly args: readonly string[];
  readonly config: ExecutorConfig;
  readonly set: S;
  readonly logger: Logger;
}

/** Lines of stderr kept for a report. */
const LINES_KEPT = 20;
/** Bytes of stderr kept for a report. */
const TAIL_BYTES = 1 << 14;
/** Longest line of output passed on, characters. */
const LINE_LENGTH_MAX = 4_096;
/** Lines of output passed on a second; the rest is counted. */
const LINES_PER_SECOND_MAX = 1_000;
/** How long the output of an ended process is read on: someone else may hold its pipe. */
const DRAIN_MS = 500;

const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGTERM: 15,
  SIGXCPU: 24,
};

/** A running (or ended) executor. `C` is what its owner calls a call, `S` a set of permissions. */
export class ExecutorProcess<C, S> {
  readonly pid: number;
  readonly token: string;
  /** The permissions of its tasks. */
  readonly set: S;
  /** Begins the names of all its files. */
  readonly prefix: string;
  readonly ledger: Ledger;
  /** The calls that it was given and that are not settled, by number, which is their order. */
  readonly calls = new Map<number, C>();
  /** Store ids of the inputs that it keeps, least recently used first, with their bytes. */
  readonly kept = new Map<number, number>();
  keptBytes = 0;
  killed = false;
  /** Resolves when the process is gone and all it had to say was read. */
  readonly exited: Promise<Exit>;
  /** What it said last of its memory. */
  toldBytes = 0;
  /** Why it is being ended, when it takes too much memory. */
  tooLarge: string | null = null;
  /** Number of the next result file that it will name. */
  resultFiles = 0;
  #link: ExecutorLink | null = null;
  #reading: Promise<void> = Promise.resolve();
  readonly #child: Deno.ChildProcess;
  readonly #directory: string;
  #nextSeq = 0;
  /** Ledger files made, and those of them removed. */
  #pagesMade = 0;
  #pagesRemoved = 0;
  #tail = new Uint8Array(0);
  #killedFor: string | null = null;

  /** Starts a process. Throws what Deno throws when that is not possible. */
  constructor({ command, args, config, set, logger }: Spawn<S>) {
    this.token = config.token;
    this.set = set;
    this.prefix = config.prefix;
    this.#directory = config.directory;
    this.ledger = new Ledger("worker", (page) => {
      this.#pagesMade = Math.max(this.#pagesMade, page + 1);
      return openLedgerFile(ledgerPath(config.directory, config.prefix, page), true);
    });
    this.#child = new Deno.Command(command, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" }, // its lines go into errors and logs
    }).spawn();
    this.pid = this.#child.pid;
    this.exited = this.#run(config, logger);
  }

  /** Null until the process has connected. */
  get link(): ExecutorLink | null {
    return this.#link;
  }

  /** The process has connected: `read` goes on until it closes the link. */
  connected(link: ExecutorLink, read: () => Promise<void>): void {
    this.#link = link;
    this.#reading = read();
  }

  /** A fresh number for a call, with its ledger file in place. */
  takeSeq(): number {
    const seq = this.#nextSeq++;
    const [oldest = seq] = this.calls.keys();
    this.ledger.prepare(seq, oldest);
    return seq;
  }

  /** Call `seq` has begun: it will ask for no older one in the ledger. */
  began(seq: number): void {
    if (Ledger.pageOf(seq) > this.#pagesRemoved) this.#removePages(Ledger.pageOf(seq));
  }

  /** SIGKILL. Idempotent. `why` is told instead of the signal: `"closed its connection to the worker"`. */
  kill(why?: string): void {
    this.killed = true;
    this.#killedFor ??= why ?? null;
    try {
      this.#child.kill("SIGKILL");
    } catch { /* gone already */ }
  }

  /**
   * Notes that a result file was handed over; its number is part of its name.
   *
   * @throws {ProtocolError} when it is no result file of this executor: what is handed over will be removed some day.
   */
  handedOver(path: string): void {
    const start = `${this.#directory}/${this.prefix}.r`;
    const number = path.startsWith(start) ? Number(path.slice(start.length)) : NaN;
    if (!Number.isSafeInteger(number)) {
      throw new ProtocolError(`Cannot take ${path} for a result file of an executor`);
    }
    if (number >= this.resultFiles) this.resultFiles = number + 1;
  }

  /** Removes the files of an ended process that nobody was given. */
  removeFiles(): void {
    this.ledger.close();
    this.#removePages(this.#pagesMade);
    // Results are numbered and told in order: what was written and not told has the next numbers.
    for (let number = this.resultFiles; removeFile(`${this.#directory}/${this.prefix}.r${number}`);) number++;
  }

  #removePages(end: number): void {
    for (; this.#pagesRemoved < end; this.#pagesRemoved++) {
      removeFile(ledgerPath(this.#directory, this.prefix, this.#pagesRemoved));
    }
  }

  async #run(config: ExecutorConfig, logger: Logger): Promise<Exit> {
    const listening = logger !== silent;
    const told = new Lines(logger, this.pid);
    const output = Promise.all([
      drain(this.#child.stdout, listening ? (chunk) => told.write("stdout", chunk) : null),
      drain(this.#child.stderr, (chunk) => {
        this.#keepTail(chunk);
        if (listening) told.write("stderr", chunk);
      }),
    ]);
    const stdin = this.#child.stdin.getWriter();
    stdin.write(new TextEncoder().encode(JSON.stringify(config) + "\n")).then(() => stdin.close()).catch(
      () => {},
    );
    const status = await this.#child.status;
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([
      Promise.all([output, this.#reading]),
      new Promise((resolve) => timer = setTimeout(resolve, DRAIN_MS)),
    ]);
    clearTimeout(timer);
    told.end();
    this.#link?.close();
    const exit = describeExit(status, new TextDecoder().decode(this.#tail), this.#link !== null);
    const killed = this.#killedFor !== null && status.signal === "SIGKILL";
    return killed ? { ...exit, text: `was ended by the worker: it ${this.#killedFor}` } : exit;
  }

  #keepTail(chunk: Uint8Array): void {
    if (chunk.byteLength >= TAIL_BYTES) {
      this.#tail = chunk.slice(-TAIL_BYTES);
      return;
    }
    const kept = this.#tail.subarray(Math.max(0, this.#tail.byteLength + chunk.byteLength - TAIL_BYTES));
    const tail = new Uint8Array(kept.byteLength + chunk.byteLength);
    tail.set(kept);
    tail.set(chunk, kept.byteLength);
    this.#tail = tail;
  }
}

/** Says how a process ended. `tail` is the end of its stderr; `ranTasks`: it had come so far that task code could end it. */
export function describeExit(status: Deno.CommandStatus, tail: string, ranTasks: boolean): Exit {
  const fatal = /^# (Fatal .*)$/m.exec(tail)?.[1];
  const crash = tail.search(/^(?:<--- Last few GCs --->|# Fatal |#$)/m);
  // Of a crash of V8 only what stands before its own report is of use, and the fatal line.
  const text = crash >= 0 && fatal !== undefined ? `${tail.slice(0, crash)}\n${fatal}` : tail;
  const lines = text.split("\n").map((line) => line.trimEnd()).filter((line) => line !== "").slice(
    -LINES_KEPT,
  );
  const trapped = status.signal === "SIGTRAP" || status.code === 133;
  if (trapped && fatal !== undefined && /out of memory/.test(fatal)) {
    const used = [...tail.matchAll(/([\d.]+) \(([\d.]+)\) -> /g)].at(-1)?.[2];
    const limit = /heap limit/.test(fatal)
      ? `V8 heap limit${used === undefined ? "" : `, about ${Math.round(Number(used))} MB`}`
      : fatal;
    return { text: `ran out of memory (${limit})`, outOfMemory: true, lines };
  }
  if (status.signal !== null) {
    const number = SIGNAL_NUMBERS[status.signal] ?? status.code - 128;
    const hint = status.signal === "SIGKILL"
      ? ", by the system when memory ran out, or by hand"
      : trapped && fatal !== undefined
      ? `: ${fatal}`
      : "";
    return { text: `was ended by signal ${number} (${status.signal})${hint}`, outOfMemory: false, lines };
  }
  const by = ranTasks && status.code !== EXIT_UNABLE ? `: Deno.exit(${status.code}) was called` : "";
  return { text: `ended with code ${status.code}${by}`, outOfMemory: false, lines };
}

/** Removes a file; says whether it was there. */
export function removeFile(path: string): boolean {
  try {
    Deno.removeSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Reads a pipe to its end, so that the process never waits for us. */
async function drain(
  stream: ReadableStream<Uint8Array>,
  take: ((chunk: Uint8Array) => void) | null,
): Promise<void> {
  try {
    for await (const chunk of stream) take?.(chunk);
  } catch { /* the pipe broke with the process */ }
}

/** Output of a process, line by line, to the log. */
class Lines {
  readonly #logger: Logger;
  readonly #pid: number;
  readonly #open = new Map<string, { decoder: TextDecoder; line: string }>();
  #second = 0;
  #told = 0;
  #dropped = 0;

  constructor(logger: Logger, pid: number) {
    this.#logger = logger;
    this.#pid = pid;
  }

  write(stream: "stdout" | "stderr", chunk: Uint8Array): void {
    let open = this.#open.get(stream);
    if (open === undefined) this.#open.set(stream, open = { decoder: new TextDecoder(), line: "" });
    const lines = (open.line + open.decoder.decode(chunk, { stream: true })).split("\n");
    open.line = lines.pop()!.slice(0, LINE_LENGTH_MAX);
    for (const line of lines) this.#tell(stream, line);
  }

  end(): void {
    for (const [stream, { line }] of this.#open) if (line !== "") this.#tell(stream, line);
    if (this.#dropped > 0) this.#sayDropped();
  }

  #tell(stream: string, line: string): void {
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.#second) {
      if (this.#dropped > 0) this.#sayDropped();
      this.#second = second;
      this.#told = 0;
    }
    if (this.#told++ >= LINES_PER_SECOND_MAX) this.#dropped++;
    else this.#logger.log("info", line.slice(0, LINE_LENGTH_MAX), { executor: this.#pid, stream });
  }

  #sayDropped(): void {
    this.#logger.log("info", `… ${this.#dropped} more lines`, { executor: this.#pid });
    this.#dropped = 0;
  }
}
