/**
 * Executors: one graph, several places to run it. They differ in where; the answers are the same.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import type { AnyOp, TaskOptions, ValueOf, Values } from "./node.ts";

/** Options of the executors of this machine: those of tasks hold for every node, below its own. */
export interface ExecutorOptions extends TaskOptions {
  /** Is told when nodes begin, end, fail and are repeated, at level `debug`. Default: nobody. */
  readonly logger?: Logger;
}

/** Options of a run: those of its outputs, and values in the place of nodes. */
export interface RunOptions extends TaskOptions {
  /** Values for nodes: they are not run, nor what only they need. */
  readonly inputs?: ReadonlyMap<AnyOp, unknown>;
}

/** How each node of a list ended. */
export type Settled<L extends readonly unknown[]> = { [K in keyof L]: PromiseSettledResult<ValueOf<L[K]>> };

/** Runs graphs. */
export interface Executor extends AsyncDisposable {
  /**
   * Runs the graph behind `nodes` and gives their values in the order asked. Rejects with the first failure that one
   * of them meets: a `TaskError` when it failed itself, a `DependencyError` when something that it needs did.
   */
  run<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Values<L>>;
  /** The same, but always runs to the end and tells of each node how it ended. */
  runSettled<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Settled<L>>;
}
