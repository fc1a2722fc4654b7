/**
 * The pickle that a client submits: a dask `LLGExpr` whose graph is `{key: Task(key, methodcaller(name), payload,
 * TaskRef(dependency)…)}`; calls of Python's functions are written by `python_call.ts`. The law: straight into one growing buffer, every key and every function written once and
 * referred to by its memo index, and only names that a bare scheduler can import.
 *
 * @module
 */
import { type Key, keyToWire, type WireKey } from "./key.ts";
import type { Payload } from "./payload.ts";
import {
  EMPTY_DICT,
  MARK,
  NEWOBJ_EX,
  type PickleWriter,
  REDUCE,
  SETITEMS,
  STOP,
  TUPLE,
  TUPLE1,
  withWriter,
} from "./pickle/encode.ts";
import { encodeMsgpack } from "./msgpack/mod.ts";
import { type PythonCall, writePythonCall } from "./python_call.ts";

/** One task as the scheduler is to see it. */
export interface GraphTask {
  readonly key: Key;
  /** Full name for `dask.utils.methodcaller`, `"deno:op/add"`: what dashboards and logs show. */
  readonly function: string;
  /** Opaque to the scheduler, see `call.ts`. */
  readonly payload: Uint8Array;
  /** Keys of this graph, or of results that the scheduler knows already. */
  readonly dependencies: readonly Key[];
  /** A call of Python's instead: `function` and `payload` mean nothing then. */
  readonly python?: PythonCall;
}

/**
 * How the expression is rebuilt: `"reconstruct"` by dask's own static method for it, `"newobj"` by its constructor
 * alone (for releases in which that method is missing or takes other arguments).
 */
export type GraphForm = "reconstruct" | "newobj";

/**
 * Writes the graph. `token` is any unique text: with it the scheduler need not hash the graph to name it.
 *
 * @example One task
 * ```ts
 * import { writeGraph } from "./graph_pickle.ts";
 *
 * const payload = new Uint8Array([1, 2, 3]);
 * const pickle = writeGraph([{ key: "x-1", function: "deno:op/x", payload, dependencies: [] }], "t0", "reconstruct");
 * console.assert(pickle[0] === 0x80);
 * ```
 */
export function writeGraph(tasks: readonly GraphTask[], token: string, form: GraphForm): Uint8Array {
  return withWriter((writer) => {
    if (form === "reconstruct") {
      writer.global("dask._expr", "Expr._reconstruct");
      writer.op(MARK);
      writer.global("dask._expr", "LLGExpr");
      writeTasks(writer, tasks);
      writer.text(token);
      writer.op(EMPTY_DICT);
      writer.op(TUPLE);
      writer.op(REDUCE);
    } else {
      writer.global("dask._expr", "LLGExpr");
      writeTasks(writer, tasks);
      writer.op(TUPLE1);
      writer.op(EMPTY_DICT);
      writer.op(MARK);
      writer.text("_determ_token");
      writer.text(token);
      writer.op(SETITEMS);
      writer.op(NEWOBJ_EX);
    }
    writer.op(STOP);
    return writer.bytes();
  });
}

/** One task by itself, as the `run_spec` of a `compute-task` holds it. */
export function writeRunSpec(task: GraphTask): Uint8Array {
  return withWriter((writer) => {
    writeTask(writer, task, new Map(), new Map());
    writer.op(STOP);
    return writer.bytes();
  });
}

/** A function of ours by its full name, as dask's `run` takes it beside the pickle of its arguments. */
export function writeFunctionPickle(name: string): Uint8Array {
  return withWriter((writer) => {
    writeFunction(writer, name, new Map());
    writer.op(STOP);
    return writer.bytes();
  });
}

function writeTasks(writer: PickleWriter, tasks: readonly GraphTask[]): void {
  const keys = new Map<Key, number>();
  const functions = new Map<string, number>();
  writer.op(EMPTY_DICT);
  if (tasks.length === 0) return;
  writer.op(MARK);
  for (const task of tasks) {
    writeKey(writer, task.key, keys);
    writeTask(writer, task, keys, functions);
  }
  writer.op(SETITEMS);
}

function writeTask(
  writer: PickleWriter,
  task: GraphTask,
  keys: Map<Key, number>,
  functions: Map<string, number>,
): void {
  writer.global("dask._task_spec", "Task");
  writer.op(MARK);
  writeKey(writer, task.key, keys);
  const writeDependency = (dependency: Key) => {
    writer.global("dask._task_spec", "TaskRef");
    writeKey(writer, dependency, keys);
    writer.op(TUPLE1);
    writer.op(REDUCE);
  };
  if (task.python !== undefined) {
    writePythonCall(writer, task.python, (index) => writeDependency(task.dependencies[index]!));
  } else {
    writeFunction(writer, task.function, functions);
    writer.binary(task.payload);
    for (const dependency of task.dependencies) writeDependency(dependency);
  }
  writer.op(TUPLE);
  writer.op(REDUCE);
}

function writeKey(writer: PickleWriter, key: Key, keys: Map<Key, number>): void {
  const index = keys.get(key);
  if (index !== undefined) return writer.get(index);
  writeWireKey(writer, keyToWire(key));
  keys.set(key, writer.memoize());
}

export function writeWireKey(writer: PickleWriter, key: WireKey): void {
  if (typeof key === "string") return writer.text(key);
  if (typeof key === "number") return writer.number(key);
  if (typeof key === "bigint") return writer.bigint(key);
  writer.op(MARK);
  for (const part of key) writeWireKey(writer, part);
  writer.op(TUPLE);
}

function writeFunction(writer: PickleWriter, name: string, functions: Map<string, number>): void {
  const index = functions.get(name);
  if (index !== undefined) return writer.get(index);
  writer.global("dask.utils", "methodcaller");
  writer.text(name);
  writer.op(TUPLE1);
  writer.op(REDUCE);
  functions.set(name, writer.memoize());
}

/** What `update-graph.expr_ser` carries. One frame whatever its size: the scheduler neither joins nor decompresses it. */
export function writeExprPayload(pickle: Uint8Array): Payload {
  return {
    header: encodeMsgpack({ serializer: "pickle", writeable: [], "num-sub-frames": 1 }),
    frames: [pickle],
  };
}
