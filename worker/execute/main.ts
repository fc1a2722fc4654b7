/**
 * The executor: the process in which user code runs, one call at a time. Started by a worker's pool, which talks to it
 * over one socket; it holds nothing that cannot be lost with it.
 *
 * @module
 */
import { DaskError, type ErrorData, SerializationError } from "../../protocol/errors.ts";
import type { Frame, Payload } from "../../protocol/payload.ts";
import { errorData, writeException } from "../../protocol/exception.ts";
import { encodeValue, typeOfValue } from "../../protocol/value.ts";
import { isReschedule, setCurrent } from "./current.ts";
import { denoFiles, openLibc, type SharedFiles } from "./files.ts";
import { KeptInputs } from "./inputs.ts";
import { InsideClient } from "./inside.ts";
import { Ledger } from "./ledger.ts";
import {
  type ExecutorConfig,
  EXIT_UNABLE,
  FILE_BYTES_MIN,
  type FromExecutor,
  ledgerPath,
  Link,
  type LinkFrame,
  type ToExecutor,
} from "./link.ts";
import { Loader } from "./load.ts";
import { report } from "./report.ts";
import { runTask } from "./run.ts";
import { RunningTask, type TaskNews } from "./running_task.ts";

type CallRecord = Extract<ToExecutor, readonly ["call", ...unknown[]]>;
type Inputs = ReturnType<KeptInputs["take"]>;

/** A call that came and has not begun. */
interface Waiting {
  readonly record: CallRecord;
  /** Its inputs, or why they cannot be had. */
  readonly inputs: Inputs | Error;
}

/** Memory is told this often at most, ms: to ask for it takes longer than a small call. */
const MEMORY_MS = 100;

class Executor {
  readonly #config: ExecutorConfig;
  readonly #files: SharedFiles;
  readonly #link: Link<FromExecutor, ToExecutor>;
  readonly #ledger: Ledger;
  readonly #loader: Loader;
  readonly #kept = new KeptInputs();
  readonly #inside: InsideClient;
  readonly #waiting: Waiting[] = [];
  #running: RunningTask | null = null;
  #looping = false;
  #filesMade = 0;
  #toldMemoryAt = 0;

  constructor(config: ExecutorConfig, files: SharedFiles, conn: Deno.Conn) {
    this.#config = config;
    this.#files = files;
    this.#link = new Link(conn);
    this.#ledger = new Ledger(
      "executor",
      (page) => files.openLedger(ledgerPath(config.directory, config.prefix, page)),
    );
    this.#loader = new Loader(config.base, config.allow);
    this.#inside = new InsideClient(config.scheduler, config.tls, () => this.#running);
  }

  /** Works until the worker closes the link. */
  async work(): Promise<void> {
    this.#link.push(["hello", this.#config.token, Deno.pid]);
    this.#link.flush();
    for (;;) {
      const messages = await this.#link.receive();
      if (messages === null) return;
      for (const { records, raw } of messages) {
        for (const record of records) this.#handle(record, raw);
      }
      if (!this.#looping) {
        this.#loop().catch((error) => {
          report("Executor failed", error);
          Deno.exit(EXIT_UNABLE);
        });
      }
    }
  }

  #handle(record: ToExecutor, raw: readonly Frame[]): void {
    switch (record[0]) {
      case "call":
        this.#waiting.push({ record, inputs: this.#take(record, raw) });
        break;
      case "abort":
        if (this.#running?.seq === record[1]) this.#running.abort({ reason: record[2], name: record[3] });
        break;
      case "forget":
        this.#kept.forget(record[1]);
        break;
      case "items":
        if (this.#running?.seq === record[1]) this.#running.items.ask(record[2], record[3]);
        break;
    }
  }

  #take(record: CallRecord, raw: readonly Frame[]): Inputs | Error {
    try {
      return this.#kept.take(record[6], raw);
    } catch (error) {
      return error as Error;
    }
  }

  /**
   * Runs what waits. Synchronous as long as the functions are: nothing is gained by waiting between them.
   *
   * What a call has to say goes out in one write at its end. That it began the worker reads in the ledger, when the end
   * does not come at once; it is only told where that costs no write of its own, or a task starts to wait.
   */
  async #loop(): Promise<void> {
    this.#looping = true;
    while (this.#waiting.length > 0) {
      // What is known must leave before user code blocks this process, so nothing may be under way in front of it.
      while (this.#link.writing !== null) await this.#link.writing;
      const { record, inputs } = this.#waiting.shift()!;
      const [, seq, key, , pickle, buffers, , annotations, attempt] = record;
      const task = new RunningTask({ seq, key, annotations, attempt }, this.#say, this.#inside);
      const contest = this.#ledger.contest(task.seq, task.seq, task.start);
      if (contest === "late") continue;
      if (contest === "damaged") return await this.#giveUp();
      if (this.#link.pending) {
        this.#tellStarted(task);
        this.#link.flush();
      }
      this.#running = task;
      setCurrent(task);
      try {
        if (inputs instanceof Error) throw inputs;
        const values = new Map<string, unknown>();
        for (const { key, input } of inputs) values.set(key, input.value(this.#files));
        let result = runTask({ pickle, buffers }, values, this.#loader, () => task.items);
        if (result instanceof Promise) {
          this.#tellStarted(task);
          this.#link.flush();
          result = await result;
        }
        const leaving = task.leave();
        if (leaving !== null) await leaving;
        this.#succeed(task, result);
      } catch (thrown) {
        const leaving = task.leave();
        if (leaving !== null) await leaving;
        if (isReschedule(thrown)) this.#link.push(["rescheduled", task.seq, task.start]);
        else this.#fail(task, thrown);
      }
      setCurrent(undefined);
      this.#running = null;
      if (this.#config.tellMemory) this.#tellMemory();
      if (this.#waiting.length === 0) this.#link.flush();
    }
    this.#link.flush();
    this.#looping = false;
  }

  #tellStarted(task: RunningTask): void {
    if (task.toldStarted) return;
    task.toldStarted = true;
    this.#link.push(["started", task.seq, task.start]);
  }

  readonly #say = (task: RunningTask, news: TaskNews): void => {
    this.#tellStarted(task);
    this.#link.push(news);
    this.#link.flush();
  };

  #tellMemory(): void {
    if (Date.now() - this.#toldMemoryAt < MEMORY_MS) return;
    this.#toldMemoryAt = Date.now();
    this.#link.push(["memory", Deno.memoryUsage().rss]);
  }

  #succeed(task: RunningTask, result: unknown): void {
    const stop = Date.now();
    let payload: Payload;
    let type: ReturnType<typeof typeOfValue>;
    try {
      payload = encodeValue(result);
      type = typeOfValue(result);
    } catch (cause) {
      if (!(cause instanceof SerializationError)) throw cause;
      const where = cause.path === "" ? "" : ` at ${cause.path}`;
      throw new SerializationError(
        `Cannot store the result of task "${task.key}"${where}: ${cause.message}`,
        cause.path,
        {
          cause,
        },
      );
    }
    const frames = this.#toLink(payload);
    this.#link.push([
      "succeeded",
      task.seq,
      task.start,
      stop,
      payload.header,
      frames,
      type.typename,
      type.pythonType,
    ]);
  }

  #fail(task: RunningTask, thrown: unknown): void {
    const stop = Date.now();
    const { exception, exceptionText, tracebackText } = writeException(this.#describe(thrown));
    const frames = this.#toLink(exception);
    this.#link.push([
      "failed",
      task.seq,
      task.start,
      stop,
      exception.header,
      frames,
      exceptionText,
      tracebackText,
    ]);
  }

  #describe(thrown: unknown): ErrorData {
    try {
      const data = errorData(thrown);
      return { ...data, stack: this.#loader.readable(data.stack) };
    } catch {
      // Something with hostile getters.
      return {
        name: "Error",
        message: "The task threw a value that cannot be described",
        stack: "",
        kind: "failed",
      };
    }
  }

  /** Large frames go into files; over the link when there is no room for them. */
  #toLink(payload: Payload): LinkFrame[] {
    return payload.frames.map((frame) => {
      if (!(frame instanceof Uint8Array)) return [frame.file, frame.byteLength];
      if (frame.byteLength < FILE_BYTES_MIN) return frame;
      const path = `${this.#config.directory}/${this.#config.prefix}.r${this.#filesMade++}`;
      return this.#files.write(path, frame) ? [path, frame.byteLength] : this.#link.attach(frame);
    });
  }

  /** The ledger makes no sense, so whether a call was taken back cannot be known: better to run none. */
  async #giveUp(): Promise<void> {
    this.#link.push(["damaged"]);
    this.#link.flush();
    while (this.#link.writing !== null) await this.#link.writing;
    Deno.exit(EXIT_UNABLE);
  }
}

/** Starts, and works until the worker is done with this process. */
export async function runExecutor(): Promise<never> {
  const config = readConfig();
  let files = denoFiles;
  if (config.libc) {
    const libc = openLibc();
    files = libc.files;
    if (!libc.dieWithParent()) {
      throw new DaskError("Cannot ask the kernel to end this process with its worker");
    }
  } else {
    watchParent(config.parent);
  }
  const conn = await Deno.connect({ transport: "unix", path: config.socket });
  for (const descriptor of config.revoke) Deno.permissions.revokeSync(descriptor);
  // The worker may have ended before the kernel was asked.
  if (Deno.ppid !== config.parent) Deno.exit(0);

  // What nobody waits for cannot be told to belong to a task: it is logged, and the executor goes on.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    report("Unhandled rejection in task code", event.reason);
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    report("Uncaught error in task code", event.error);
  });
  for (const module of config.preload) await preload(module);
  try {
    await new Executor(config, files, conn).work();
  } catch (error) {
    report("Executor lost its worker", error);
    Deno.exit(EXIT_UNABLE);
  }
  Deno.exit(0);
}

/** Loads a module that the worker's operator named; without it this process is of no use. */
async function preload(module: string): Promise<void> {
  try {
    await import(module);
  } catch (error) {
    // One line: it becomes part of the worker's own error.
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    report(`Cannot load the preload ${module}`, text.replaceAll("\n", " "));
    Deno.exit(EXIT_UNABLE);
  }
}

/** The first line of stdin. */
function readConfig(): ExecutorConfig {
  const chunk = new Uint8Array(4096);
  const decoder = new TextDecoder();
  let text = "";
  while (!text.includes("\n")) {
    const count = Deno.stdin.readSync(chunk);
    if (count === null) break;
    text += decoder.decode(chunk.subarray(0, count), { stream: true });
  }
  if (text === "") {
    throw new DaskError("Cannot start an executor by hand: workers start them; run worker/main.ts");
  }
  return JSON.parse(text);
}

/**
 * Where libc cannot be asked: a thread looks whether the worker still lives, and ends the process when it does not,
 * whatever the main thread does. `Deno.exit` would only end the thread, and sending a signal needs `run`; but an array
 * that is too large for V8 ends the process for sure. Costs about 8 MB.
 */
function watchParent(parent: number): void {
  const code = `setInterval(() => { if (Deno.ppid !== ${parent}) "a".repeat(2 ** 27 + 8).split(""); }, 250);`;
  new Worker(`data:text/javascript,${encodeURIComponent(code)}`, { type: "module", name: "watch-parent" });
}

if (import.meta.main) await runExecutor();
