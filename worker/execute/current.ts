/**
 * What a task can ask about itself. Whatever runs tasks puts the running one into one global place, so that every copy
 * of this module finds the same, wherever the code of a task took it from. The place may be a getter where several
 * tasks run at a time.
 *
 * @module
 */
import type { Client } from "../../client/client.ts";
import { DaskError } from "../../protocol/errors.ts";

/** The task that runs. Its functions can be taken out of it: `const { progress } = current()`. */
export interface Current {
  /** Its key. */
  readonly key: string;
  /**
   * Which try this is, from 1, as far as its worker knows: earlier runs of this key here that failed or asked for
   * another place are counted, since the last one that succeeded. Tries on other workers are not known here.
   */
  readonly attempt: number;
  /**
   * Aborts when nobody wants the result any more, and when the worker ends. A task that ignores it is ended with its
   * process.
   */
  readonly signal: AbortSignal;
  /**
   * Says how far the task is: `done` of `total` steps. Of what is said more than ten times a second only the last goes
   * out, to the scheduler's topic `dask-ts-progress`, as `{ key, done, total, worker }` (`total` is null when it was left
   * out). A task that never awaits is heard when it ends.
   *
   * @throws {TypeError} when they are no finite numbers.
   */
  progress(done: number, total?: number): void;
  /**
   * Tells an event under a topic of the scheduler, for whoever listens there (`client.get_events(topic)` in Python).
   * `event` is plain data: null, booleans, numbers, texts, bytes, and lists and records of these, up to 1 MiB. The
   * scheduler adds the field `worker` to a record.
   *
   * @throws {SerializationError} for anything else.
   */
  log(topic: string, event: unknown): void;
  /**
   * Gives the slot to another task while this one goes on: it waits for something, mostly. Waiting for a future of
   * {@linkcode Current.client} does this by itself. May be called again.
   */
  secede(): void;
  /**
   * A client of the scheduler that this task was sent by, for tasks that start tasks. Futures that
   * it made are released when the task ends, so give back values, not futures. While the task waits for one its slot is
   * free, so recursion comes to an end on one slot.
   *
   * @throws {DaskError} when the task lacks the permission `net` for the scheduler, or does not run on a worker.
   * @example
   * ```ts ignore
   * async function fib(n: number): Promise<number> {
   *   if (n < 2) return n;
   *   const client = await current().client();
   *   const parts = [n - 1, n - 2].map((m) => client.submit(fib, [m]));
   *   const [a, b] = await client.gather(parts);
   *   return a + b;
   * }
   * ```
   */
  client(): Promise<Client>;
}

/** Where the running task is put. */
export const CURRENT: unique symbol = Symbol.for("dask.current") as never;

type Place = { [CURRENT]?: Current | undefined };

/**
 * The task that this code runs in. Throws a `DaskError` outside of one. Ask before the first `await` and keep the
 * answer: code that goes on when its task has ended finds another one.
 *
 * ```ts ignore
 * import { current } from "@dask/dask";
 * export async function crawl(urls: string[]): Promise<number> {
 *   const { signal, progress } = current();
 *   let bytes = 0;
 *   for (const [n, url] of urls.entries()) {
 *     bytes += (await (await fetch(url, { signal })).bytes()).length;
 *     progress(n + 1, urls.length);
 *   }
 *   return bytes;
 * }
 * ```
 */
export function current(): Current {
  const task = (globalThis as Place)[CURRENT];
  if (task === undefined) {
    throw new DaskError("Cannot ask for the current task: this code runs in no task of a worker");
  }
  return task;
}

/** Sets or clears the running task. The business of whatever runs it. */
export function setCurrent(task: Current | undefined): void {
  (globalThis as Place)[CURRENT] = task;
}

/**
 * Thrown by a task that wants to run elsewhere, or later: the scheduler places it anew. Nothing keeps it from choosing
 * the same worker again.
 *
 * ```ts ignore
 * import { current, Reschedule } from "@dask/dask";
 * export function render(scene: string): void {
 *   if (!hasFont(scene) && current().attempt < 5) throw new Reschedule("no such font here");
 * }
 * ```
 */
export class Reschedule extends Error {
  /** By this it is known. */
  override readonly name: string = "Reschedule";
}

/** Whether what a task threw is a {@linkcode Reschedule}, of whatever copy of this module or realm: its name says so. */
export function isReschedule(thrown: unknown): boolean {
  try {
    return typeof thrown === "object" && thrown !== null && "name" in thrown && thrown.name === "Reschedule";
  } catch {
    return false; // a proxy that does not want to be looked at
  }
}
