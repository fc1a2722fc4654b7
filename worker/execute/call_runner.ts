/**
 * Runs calls in the realm that it lives in: the worker's own, or a thread's. Values come and go as copies, so that no
 * task holds memory of the store.
 *
 * @module
 */
import { SerializationError } from "../../protocol/errors.ts";
import type { Frame } from "../../protocol/payload.ts";
import { errorData, writeException, type WrittenException } from "../../protocol/exception.ts";
import { encodeValue, typeOfValue } from "../../protocol/value.ts";
import { CURRENT, type Current, isReschedule, setCurrent } from "./current.ts";
import type { ExecutorCall } from "./executor.ts";
import { denoFiles } from "./files.ts";
import { InputValue } from "./inputs.ts";
import { InsideClient } from "./inside.ts";
import { type ExecutorConfig, KEPT_BYTES_MIN, type LinkFrame } from "./link.ts";
import { Loader } from "./load.ts";
import type { Stop } from "./policy.ts";
import { runTask } from "./run.ts";
import { RunningTask, type TaskNews } from "./running_task.ts";

/** A call as plain data. */
export interface CallData {
  readonly seq: number;
  readonly key: string;
  readonly attempt: number;
  readonly annotations: ExecutorCall["annotations"];
  readonly pickle: Uint8Array;
  readonly buffers: readonly Uint8Array[];
  readonly inputs: readonly {
    readonly key: string;
    readonly id: number;
    readonly header: Uint8Array;
    /** Files by path; the rest belongs to the runner. */
    readonly frames: readonly LinkFrame[];
    readonly bytes: number;
  }[];
}

/** What a runner says of a call. */
export type FromRunner =
  | TaskNews
  | readonly ["ended", seq: number, end: CallEnd];

/** How a call ended. Memory of the frames belongs to the receiver. */
export type CallEnd =
  | {
    readonly type: "succeeded";
    readonly header: Uint8Array;
    readonly frames: readonly Uint8Array<ArrayBuffer>[];
    readonly typename: string;
    readonly pythonType: Uint8Array;
    readonly start: number;
    readonly stop: number;
  }
  | ({ readonly type: "failed"; readonly start: number; readonly stop: number } & WrittenException)
  | { readonly type: "rescheduled" };

/** A call as plain data, with copies of what lies in memory: views would take all that is around them along. */
export function callData(seq: number, call: ExecutorCall): CallData {
  return {
    seq,
    key: call.key,
    attempt: call.attempt ?? 1,
    annotations: call.annotations,
    pickle: call.runSpec.pickle.slice(),
    buffers: call.runSpec.buffers.map((buffer) => buffer.slice()),
    inputs: call.inputs.map(({ key, id, payload: { header, frames } }) => ({
      key,
      id,
      header: header.slice(),
      frames: frames.map((frame): LinkFrame =>
        frame instanceof Uint8Array ? frame.slice() : [frame.file, frame.byteLength]
      ),
      bytes: frames.reduce((sum, frame) => sum + frame.byteLength, 0),
    })),
  };
}

/** What a runner needs to know. Plain data. */
export interface RunnerOptions
  extends Pick<ExecutorConfig, "base" | "scheduler" | "tls" | "preload" | "allow"> {
  /** Inputs that are kept for later calls, bytes. */
  readonly inputCacheBytesMax: number;
}

/** Runs calls one after the other, and keeps what inputs it used last. */
export class CallRunner {
  readonly #tell: (record: FromRunner) => void;
  readonly #loader: Loader;
  readonly #keptBytesMax: number;
  /** Least recently used first. */
  readonly #kept = new Map<number, { readonly input: InputValue; readonly bytes: number }>();
  #keptBytes = 0;
  readonly #inside: InsideClient;
  readonly #preload: readonly string[];
  #running: RunningTask | null = null;

  constructor(tell: (record: FromRunner) => void, options: RunnerOptions) {
    this.#tell = tell;
    this.#loader = new Loader(options.base, options.allow);
    this.#keptBytesMax = options.inputCacheBytesMax;
    this.#preload = options.preload;
    this.#inside = new InsideClient(options.scheduler, options.tls, () => this.#running);
  }

  /** Loads the modules of the operator. Rejects when one cannot be loaded. */
  async preload(): Promise<void> {
    for (const module of this.#preload) await import(module);
  }

  /** Runs a call, after the one before has ended; its end is told. Never rejects. */
  async run(call: CallData): Promise<void> {
    const task = new RunningTask(call, (_, news) => this.#tell(news), this.#inside);
    this.#running = task;
    setCurrent(task);
    let end: CallEnd;
    try {
      const values = new Map(
        call.inputs.map((input) => [input.key, this.#input(input).value(denoFiles)] as const),
      );
      const result = await runTask(call, values, this.#loader, () => task.items);
      await task.leave();
      end = succeeded(task, result);
    } catch (thrown) {
      await task.leave();
      end = isReschedule(thrown)
        ? { type: "rescheduled" }
        : { type: "failed", ...this.#failure(thrown), start: task.start, stop: Date.now() };
    }
    this.#running = null;
    if ((globalThis as { [CURRENT]?: Current })[CURRENT] === task) setCurrent(undefined);
    this.#tell(["ended", task.seq, end]);
  }

  /** Aborts the signal of a call. */
  abort(seq: number, stop: Stop): void {
    if (this.#running?.seq === seq) this.#running.abort(stop);
  }

  /** Somebody wants the items of a call that have number `from` or a later one. */
  items(seq: number, ask: number, from: number): void {
    if (this.#running?.seq === seq) this.#running.items.ask(ask, from);
  }

  /** Closes what tasks have opened by it. */
  close(): Promise<void> {
    return this.#inside.close();
  }

  /** Drops kept inputs. */
  forget(ids: readonly number[]): void {
    for (const id of ids) this.#drop(id);
  }

  #input({ key, id, header, frames, bytes }: CallData["inputs"][number]): InputValue {
    const known = this.#kept.get(id);
    if (known !== undefined) {
      this.#kept.delete(id);
      this.#kept.set(id, known);
      return known.input;
    }
    const input = new InputValue(key, header, frames, []);
    if (bytes >= KEPT_BYTES_MIN && bytes <= this.#keptBytesMax) {
      this.#kept.set(id, { input, bytes });
      this.#keptBytes += bytes;
      for (const old of this.#kept.keys()) {
        if (this.#keptBytes <= this.#keptBytesMax) break;
        this.#drop(old);
      }
    }
    return input;
  }

  #drop(id: number): void {
    this.#keptBytes -= this.#kept.get(id)?.bytes ?? 0;
    this.#kept.delete(id);
  }

  #failure(thrown: unknown): WrittenException {
    const data = errorData(thrown);
    return writeException({ ...data, stack: this.#loader.readable(data.stack) });
  }
}

function succeeded(task: RunningTask, result: unknown): CallEnd {
  const stop = Date.now();
  try {
    const { header, frames } = encodeValue(result);
    const { typename, pythonType } = typeOfValue(result);
    // The task may keep what it returned, and write to it.
    const copies = frames.map((frame: Frame) => (frame as Uint8Array).slice());
    return {
      type: "succeeded",
      header: header.slice(),
      frames: copies,
      typename,
      pythonType: pythonType.slice(),
      start: task.start,
      stop,
    };
  } catch (cause) {
    if (!(cause instanceof SerializationError)) throw cause;
    const where = cause.path === "" ? "" : ` at ${cause.path}`;
    throw new SerializationError(
      `Cannot store the result of task "${task.key}"${where}: ${cause.message}`,
      cause.path,
      { cause },
    );
  }
}
