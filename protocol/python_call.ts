/**
 * A call of a Python function by name inside a graph: `Task(key, dask.utils.apply, <the function>, <its arguments>)`.
 * The law: the scheduler imports nothing of the user's and reads no argument; what is not plain reaches it as bytes, and
 * the worker finds the function and reads the bytes.
 *
 * @module
 */
import { isDependencyRef } from "./call.ts";
import { encodePickle, MARK, NONE, type PickleWriter, REDUCE, TUPLE, TUPLE1 } from "./pickle/encode.ts";

/** One argument, as plain data. */
export type PythonArgument =
  /** The pickle of a value. */
  | { readonly pickle: Uint8Array }
  /** The result of a dependency, by number. */
  | { readonly dependency: number }
  /** A list of these. */
  | { readonly items: readonly PythonArgument[] };

/** What is called with what. `name` may have dots: `linalg.norm`. */
export interface PythonCall {
  readonly module: string;
  readonly name: string;
  readonly args: readonly PythonArgument[];
}

/**
 * The arguments of a call, which may hold `DependencyRef`s at the top and one level inside arrays.
 *
 * @throws {SerializationError} when one has no form in Python; its `path` names it, as `args[0].when`.
 */
export function pythonArguments(args: readonly unknown[]): readonly PythonArgument[] {
  const one = (value: unknown, root: string): PythonArgument =>
    isDependencyRef(value)
      ? { dependency: value.$dependency }
      : { pickle: encodePickle(value, { root }).pickle };
  return args.map((arg, i) =>
    Array.isArray(arg) && arg.some(isDependencyRef)
      ? { items: arg.map((item, j) => one(item, `args[${i}][${j}]`)) }
      : one(arg, `args[${i}]`)
  );
}

/** Writes the arguments of `Task` behind its key: the function, and what it is called with. */
export function writePythonCall(
  writer: PickleWriter,
  call: PythonCall,
  writeDependency: (index: number) => void,
): void {
  writer.global("dask.utils", "apply");
  // attrgetter(name)(import_module(module)), on the worker.
  beginTask(writer);
  writer.global("operator", "attrgetter");
  writer.text(call.name);
  writer.op(TUPLE1);
  writer.op(REDUCE);
  beginTask(writer);
  writer.global("importlib", "import_module");
  writer.text(call.module);
  endTask(writer);
  endTask(writer);
  writeList(writer, call.args, writeDependency);
}

function writeArgument(
  writer: PickleWriter,
  arg: PythonArgument,
  writeDependency: (index: number) => void,
): void {
  if ("dependency" in arg) return writeDependency(arg.dependency);
  if ("items" in arg) return writeList(writer, arg.items, writeDependency);
  beginTask(writer);
  writer.global("_pickle", "loads");
  writer.binary(arg.pickle);
  endTask(writer);
}

function writeList(
  writer: PickleWriter,
  items: readonly PythonArgument[],
  writeDependency: (index: number) => void,
): void {
  writer.global("dask._task_spec", "List");
  writer.op(MARK);
  for (const item of items) writeArgument(writer, item, writeDependency);
  writer.op(TUPLE);
  writer.op(REDUCE);
}

/** A task without a key, inside another one: it is run with it, on the worker. */
function beginTask(writer: PickleWriter): void {
  writer.global("dask._task_spec", "Task");
  writer.op(MARK);
  writer.op(NONE);
}

function endTask(writer: PickleWriter): void {
  writer.op(TUPLE);
  writer.op(REDUCE);
}
