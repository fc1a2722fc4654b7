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
export { startWorker, type WorkerHandle, type WorkerOptions } from "./worker/mod.ts";
export { current } from "./worker/execute/current.ts";
export { NDArray } from "./protocol/nd_array.ts";
export {
  CancelledError,
  CommClosedError,
  DaskError,
  DependencyError,
  ProtocolError,
  SerializationError,
  TaskError,
  WorkerLostError,
} from "./protocol/errors.ts";
