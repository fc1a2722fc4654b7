/**
 * The graph front end: writing calls down, and running them.
 *
 * @module
 */
export {
  type ActorTask,
  type AnyOp,
  cleanup,
  collect,
  data,
  FUTURE,
  type FutureLike,
  isFuture,
  isOp,
  type Lift,
  type LiftAll,
  type Node,
  type Op,
  PART,
  type Result,
  type Task,
  type TaskOptions,
  type Tasks,
  type ValueOf,
  type Values,
  type Waiting,
} from "./node.ts";
export { op, python, task, tasks, type TasksOptions } from "./code.ts";
export { DispatchGraph } from "./graph.ts";
export { lower, type LowerContext, type LoweredGraph, type LoweredTask } from "./lower.ts";
export type { Executor, ExecutorOptions, RunOptions, Settled } from "./executor.ts";
export type { RetryPause } from "./retry.ts";
export { AsyncExecutor } from "./async_executor.ts";
