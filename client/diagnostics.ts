/**
 * What the scheduler and the workers tell of their past: which tasks ran when and where, logs, and dask's performance
 * report. The law: times are milliseconds since the epoch here, seconds on the wire.
 *
 * @module
 */
import { DaskError } from "../protocol/errors.ts";
import {
  type Fields,
  readArray,
  readKey,
  readKeyMap,
  readNumber,
  readRecord,
  readString,
} from "../protocol/read.ts";
import { describe } from "./future.ts";

/** Asks the scheduler. */
export type Ask = (
  op: string,
  fields: Readonly<Record<string, unknown>>,
  signal?: AbortSignal,
) => Promise<unknown>;

/** One run of a task, as {@linkcode Client.getTaskStream} gives it. */
export interface TaskRun {
  /** Of the task. */
  readonly key: string;
  /** Address of the worker that ran it. */
  readonly worker: string;
  /** Python's thread that ran it, a name that means nothing elsewhere; null when the worker does not tell. */
  readonly thread: string | null;
  /** Whether it gave a result. */
  readonly ok: boolean;
  /** Bytes of the result; 0 when it failed. */
  readonly bytes: number;
  /** What the time went into, in order; `action` is dask's word: `"compute"`, `"transfer"`, `"disk-read"` and so on. */
  readonly steps: readonly { readonly action: string; readonly start: number; readonly stop: number }[];
}

/** Which runs {@linkcode Client.getTaskStream} is to give. */
export interface TaskStreamOptions {
  /** Those that ended from then on; a `Date`, or ms since the epoch. */
  readonly start?: Date | number;
  /** Those that ended before then. */
  readonly stop?: Date | number;
  /** At most so many: the last, or with `start` the first from there on. */
  readonly count?: number;
}

/** Which lines {@linkcode Client.schedulerLogs} is to give. */
export interface LogOptions {
  /** At most so many, of each process. Default: all that it remembers. */
  readonly count?: number;
}

/** A line of a log. */
export interface LogLine {
  /** Python's word: `"DEBUG"`, `"INFO"`, `"WARNING"`, `"ERROR"` or `"CRITICAL"`. */
  readonly level: string;
  /** As it stands in the log, often with time and origin. */
  readonly message: string;
}

/** Runs of tasks that the scheduler remembers, oldest first. */
export async function taskStream(ask: Ask, options: TaskStreamOptions): Promise<readonly TaskRun[]> {
  const { start, stop } = options;
  const count = countOf(options, "getTaskStream");
  const reply = await ask("get_task_stream", {
    start: start === undefined ? null : seconds(start, "start"),
    stop: stop === undefined ? null : seconds(stop, "stop"),
    count,
  });
  return readArray(reply, "get_task_stream", readRun);
}

function readRun(value: unknown, path: string): TaskRun {
  const fields = readRecord(value, path);
  const { nbytes, status, thread } = fields;
  return {
    key: readKey(fields["key"], `${path}.key`),
    worker: readString(fields["worker"], `${path}.worker`),
    thread: thread === null || thread === undefined ? null : String(thread),
    ok: status === "OK",
    bytes: typeof nbytes === "number" ? nbytes : 0,
    steps: readArray(fields["startstops"], `${path}.startstops`, readStep),
  };
}

function readStep(value: unknown, path: string): TaskRun["steps"][number] {
  const fields: Fields = readRecord(value, path);
  return {
    action: readString(fields["action"], `${path}.action`),
    start: 1_000 * readNumber(fields["start"], `${path}.start`),
    stop: 1_000 * readNumber(fields["stop"], `${path}.stop`),
  };
}

/** The last lines of the scheduler's log, newest first. */
export async function schedulerLogs(ask: Ask, options: LogOptions): Promise<readonly LogLine[]> {
  return readLines(await ask("logs", { n: countOf(options, "schedulerLogs") }), "logs");
}

/** The last lines of workers' logs, newest first, by address. */
export async function workerLogs(
  ask: Ask,
  options: LogOptions,
  workers: readonly string[] | null,
): Promise<ReadonlyMap<string, readonly LogLine[]>> {
  const reply = await ask("worker_logs", { n: countOf(options, "workerLogs"), workers });
  return readKeyMap(reply, "worker_logs", readLines);
}

function readLines(value: unknown, path: string): readonly LogLine[] {
  return readArray(value, path, (line, path) => {
    const [level, message] = readArray(line, path, readString);
    return { level: level ?? "", message: message ?? "" };
  });
}

/**
 * Begins dask's performance report: what happens until it is disposed of is written to `file`, as HTML.
 *
 * @throws {DaskError} when the scheduler cannot make one.
 */
export async function performanceReport(
  ask: Ask,
  file: string | URL,
  code: string,
): Promise<AsyncDisposable> {
  if (typeof file !== "string" && !(file instanceof URL)) {
    throw new TypeError(
      `Cannot make a performance report: expected the name of a file, got ${describe(file)}`,
    );
  }
  if (typeof code !== "string") {
    throw new TypeError(
      `Cannot use the option "code" of performanceReport: expected a text, got ${describe(code)}`,
    );
  }
  const start = Date.now() / 1_000;
  // From then on the scheduler remembers which tasks ran.
  await ask("get_task_stream", { start: 0, stop: 0 });
  let written: Promise<void> | null = null;
  const write = async (): Promise<void> => {
    let html: unknown;
    try {
      html = await ask("performance_report", { start, last_count: 0, code });
    } catch (error) {
      if (!(error instanceof DaskError) || !/bokeh/i.test(error.message)) throw error;
      throw new DaskError(
        `Cannot make a performance report: the scheduler makes it with bokeh, and has none; install it there by ` +
          `"pip install bokeh"`,
        { cause: error },
      );
    }
    await Deno.writeTextFile(file, readString(html, "performance_report"));
  };
  return { [Symbol.asyncDispose]: () => written ??= write() };
}

function countOf({ count }: LogOptions, call: string): number | null {
  if (count === undefined) return null;
  if (Number.isSafeInteger(count) && count > 0) return count;
  throw new TypeError(
    `Cannot use the option "count" of ${call}: expected an integer from 1, got ${describe(count)}`,
  );
}

function seconds(at: Date | number, option: string): number {
  const ms = Number(at);
  if ((at instanceof Date || typeof at === "number") && Number.isFinite(ms)) return ms / 1_000;
  throw new TypeError(
    `Cannot use the option "${option}" of getTaskStream: expected a Date, or ms since the epoch, got ${
      describe(at)
    }`,
  );
}
