/**
 * Handles of dask's actors as they travel: what a task whose result stays where it was made gives in its place. The
 * form is dask's own, `distributed.actor.Actor(class, address, key)`, so Python's clients can call our actors. Python
 * looks the names of methods and fields up in the class; where it cannot have that, a namespace of these names stands
 * for it.
 *
 * @module
 */
import { type Key, keyFromWire, keyToWire } from "./key.ts";
import { writeWireKey } from "./graph_pickle.ts";
import {
  BUILD,
  EMPTY_DICT,
  EMPTY_TUPLE,
  MARK,
  NONE,
  REDUCE,
  SETITEMS,
  STOP,
  TUPLE,
  TUPLE1,
  withWriter,
} from "./pickle/encode.ts";
import { PythonObject } from "./pickle/globals.ts";

/** An actor: where it is, and what it has. */
export interface ActorHandle {
  /** Name of its class. */
  readonly className: string;
  readonly key: Key;
  /** Of the worker that holds it. */
  readonly address: string;
  readonly methods: readonly string[];
  readonly fields: readonly string[];
}

/** The pickle of a handle. */
export function writeActor({ className, key, address, methods, fields }: ActorHandle): Uint8Array {
  return withWriter((writer) => {
    writer.global("distributed.actor", "Actor");
    writer.op(MARK);
    writer.global("types", "SimpleNamespace");
    writer.op(EMPTY_TUPLE);
    writer.op(REDUCE);
    writer.op(EMPTY_DICT);
    writer.op(MARK);
    writer.text("__name__");
    writer.text(className);
    for (const field of fields) {
      writer.text(field);
      writer.op(NONE);
    }
    for (const method of methods) {
      // Any callable would do; this one says its name.
      writer.text(method);
      writer.global("dask.utils", "methodcaller");
      writer.text(method);
      writer.op(TUPLE1);
      writer.op(REDUCE);
    }
    writer.op(SETITEMS);
    writer.op(BUILD);
    writer.text(address);
    writeWireKey(writer, keyToWire(key));
    writer.op(TUPLE);
    writer.op(REDUCE);
    writer.op(STOP);
    return writer.bytes();
  });
}

/** The handle behind a value that was read; null for any other value, and for actors of Python's own classes. */
export function readActor(value: unknown): ActorHandle | null {
  if (!(value instanceof PythonObject) || `${value.module}.${value.name}` !== "distributed.actor.Actor") {
    return null;
  }
  const [of, address, key] = value.args ?? [];
  if (!(of instanceof PythonObject) || `${of.module}.${of.name}` !== "types.SimpleNamespace") return null;
  if (typeof of.state !== "object" || of.state === null || typeof address !== "string") return null;
  const { __name__: className, ...members } = of.state as Readonly<Record<string, unknown>>;
  const methods: string[] = [];
  const fields: string[] = [];
  for (const [name, member] of Object.entries(members)) (member === null ? fields : methods).push(name);
  return { className: String(className), key: keyFromWire(key), address, methods, fields };
}
