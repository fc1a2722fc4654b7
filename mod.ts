/**
 * Dask for TypeScript: a client and workers for Python's own `dask scheduler`, with the graph front end of
 * Dispatcher.jl.
 *
 * ```ts ignore
 * import { connect, op } from "./mod.ts";
 *
 * await using client = await connect("127.0.0.1:8786");
 * const three = op((a: number, b: number) => a + b, 1, 2); // builds a node; nothing runs
 * using future = client.submit(op((x: number) => x * 14, three));
 * await future.result(); // 42
 * ```
 *
 * @module
 */
export * from "./client/mod.ts";
export * from "./dispatch/mod.ts";
export { ParallelExecutor, type ParallelExecutorOptions } from "./cluster/parallel_executor.ts";
export {
  type MemoryThresholds,
  startWorker,
  type WorkerEnd,
  type WorkerHandle,
  type WorkerOptions,
} from "./worker/mod.ts";
export type { WorkerStatus } from "./worker/machine/events.ts";
export { type Current, current, Reschedule } from "./worker/execute/current.ts";
export type { TaskPermissionKind, TaskPermissions } from "./worker/execute/permissions.ts";
export type { Logger, LogLevel } from "./base/log.ts";
export { NDArray, type TypedArray } from "./protocol/nd_array.ts";
export { PythonObject } from "./protocol/pickle/globals.ts";
export type { DependencyRef, FunctionCall, FunctionRef, OneFunctionRef } from "./protocol/call.ts";
export type { Comm, CommOptions, FrameAllocator, FrameSink, Listener, Transport } from "./comm/comm.ts";
export type { TlsOptions } from "./comm/tls.ts";
export type { FileFrame, Frame } from "./protocol/payload.ts";
export {
  CancelledError,
  CommClosedError,
  DaskError,
  DependencyError,
  ProtocolError,
  SerializationError,
  TaskError,
  TlsError,
  WorkerLostError,
} from "./protocol/errors.ts";
