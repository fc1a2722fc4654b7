/**
 * Workers: processes that run tasks for a dask scheduler.
 *
 * @module
 */
export { startWorker, type WorkerEnd, type WorkerHandle } from "./worker.ts";
export type { MemoryThresholds } from "./memory.ts";
export type { WorkerOptions } from "./options.ts";
