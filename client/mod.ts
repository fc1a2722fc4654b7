/**
 * The client: connect to a dask scheduler, submit graphs, hold futures, bring results here.
 *
 * @module
 */
export {
  Client,
  connect,
  type ConnectOptions,
  type LogLine,
  type LogOptions,
  type MapOptions,
  type ReconnectOptions,
  type SchedulerInfo,
  type TaskRun,
  type TaskStreamOptions,
  type WorkerInfo,
} from "./client.ts";
export { type Lease, Queue, SharedEvent, type Sharing, Variable } from "./coordination.ts";
export { type Progress, type ProgressStream, showProgress, type ShowProgressOptions } from "./progress.ts";
export type { Remote } from "./remote.ts";
export { asCompleted, Future, type FutureStatus, wait, type WaitOptions } from "./future.ts";
export type { AsCompleted, AsCompletedOptions } from "./future.ts";
export type { ProcessVersions, RestartOptions, RunOnWorkersOptions, Versions } from "./operations.ts";
