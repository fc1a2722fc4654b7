/**
 * Calls that are no tasks: what `client.run` asks for. The law: each has an executor of its own that ends with it, so
 * that it is answered while every slot spins, and the task machine never hears of it.
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";
import type { RunSpec } from "../machine/events.ts";
import type { ExecutorListener, ExecutorPool, Outcome } from "./executor.ts";

/** Calls that may go on at a time; each is a process. */
export const CALLS_MAX = 16;

/** The calls of one worker. Disposing of it ends them all. */
export class CallsAside implements AsyncDisposable {
  readonly #start: (listener: ExecutorListener) => ExecutorPool;
  /** All and only calls that have not ended, with what refuses them. */
  readonly #calls = new Map<ExecutorPool, (reason: DaskError) => void>();
  #count = 0;
  #closed = false;

  /** `start` starts a pool of one slot. */
  constructor(start: (listener: ExecutorListener) => ExecutorPool) {
    this.#start = start;
  }

  /**
   * Runs one call; `spec` is the pickle of a task without dependencies.
   *
   * @throws {DaskError} when the worker ends meanwhile, or too many calls go on already.
   */
  async call(spec: RunSpec): Promise<Outcome> {
    if (this.#closed) throw new DaskError("Cannot run a function: the worker has ended");
    if (this.#calls.size >= CALLS_MAX) {
      throw new DaskError(
        `Cannot run a function: ${CALLS_MAX} run on this worker already, aside from its tasks; wait for one of them`,
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<Outcome>();
    const pool = this.#start({
      started: () => {},
      seceded: () => {},
      event: () => {},
      items: () => {},
      withdrawn: () => reject(new DaskError("Cannot run a function: its executor does not start")),
      ended: (_key, _runId, outcome) => resolve(outcome),
    });
    this.#calls.set(pool, reject);
    try {
      const key = `run-${++this.#count}`;
      pool.place({ key, runId: 0, runSpec: spec, inputs: [], annotations: {} });
      return await promise;
    } finally {
      await pool.close();
      this.#calls.delete(pool);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const pools = [...this.#calls];
    for (const [, reject] of pools) reject(new DaskError("Cannot run a function: the worker has ended"));
    await Promise.all(pools.map(([pool]) => pool.close()));
  }
}
