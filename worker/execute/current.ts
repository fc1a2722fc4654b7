/**
 * What a task can ask about itself. The executor puts it into one global place before it calls the function, so that
 * every copy of this module (each bundle may carry its own) finds the same.
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";

/** The task that runs. */
export interface Current {
  /** Its key. */
  readonly key: string;
  /** Which try this is, from 1. */
  readonly attempt: number;
  /** Aborts when nobody wants the result any more. A task that ignores it is ended with its process. */
  readonly signal: AbortSignal;
  /** Says how far the task is: `done` of `total` steps. */
  progress(done: number, total?: number): void;
  /** Tells an event under a topic, to the worker's log. `event` is any value that JSON can write. */
  log(topic: string, event: unknown): void;
  /** Gives the slot to another task while this one goes on (it waits for something, mostly). */
  secede(): void;
}

/** Where the executor puts the running task. */
export const CURRENT: unique symbol = Symbol.for("dask.current") as never;

type Place = { [CURRENT]?: Current | undefined };

/**
 * The task that this code runs in. Throws a `DaskError` outside of one. Ask before the first `await` and keep the
 * answer: later another task may be the running one.
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

/** Sets or clears the running task. The executor's business. */
export function setCurrent(task: Current | undefined): void {
  (globalThis as Place)[CURRENT] = task;
}

/**
 * Thrown by a task that wants to run elsewhere, or later: the scheduler places it anew.
 */
export class Reschedule extends Error {
  override name = "Reschedule";
}

/** Whether a task threw a {@linkcode Reschedule}, of whatever copy of this module. */
export function isReschedule(thrown: unknown): boolean {
  try {
    return thrown instanceof Error && thrown.name === "Reschedule";
  } catch {
    return false; // a proxy that does not want to be looked at
  }
}
