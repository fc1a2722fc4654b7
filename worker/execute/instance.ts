/**
 * An actor inside its executor: the one instance of a user's class that was made there, and calls of it. The law: only
 * what was found on the instance when it was made can be called or read.
 *
 * @module
 */
import { writeActor } from "../../protocol/actor.ts";
import { DaskError } from "../../protocol/errors.ts";
import type { Key } from "../../protocol/key.ts";
import { readTaskSpec } from "../../protocol/task_spec.ts";
import type { Loader, UserFunction } from "./load.ts";
import { evaluate } from "./run.ts";

interface Instance {
  readonly value: object;
  readonly className: string;
  readonly methods: ReadonlySet<string>;
  readonly fields: ReadonlySet<string>;
}

/** One for each executor; it goes with what found its class. */
const instances = new WeakMap<Loader, Instance>();

/**
 * Makes the instance that a task describes: its function is a class, called with `new`. Gives the pickle of a handle.
 *
 * @throws {DaskError} when it is no class; whatever the constructor throws.
 */
export async function construct(args: readonly unknown[], loader: Loader): Promise<Uint8Array> {
  const [pickle, buffers, keys, values, key, address] = args as [
    Uint8Array,
    readonly Uint8Array[],
    readonly Key[],
    readonly unknown[],
    Key,
    string,
  ];
  const inputs = new Map(keys.map((key, i) => [key, values[i]]));
  const made: { readonly value: object; readonly className: string }[] = [];
  await evaluate(readTaskSpec(pickle, buffers), inputs, loader, (fn, args) => {
    if (!isClass(fn)) {
      throw new DaskError(
        `Cannot make an actor of "${fn.name}": expected a class, got a function; export a class`,
      );
    }
    made.push({ value: Reflect.construct(fn, args) as object, className: fn.name });
  });
  const { value, className } = made[0] ?? refuse("Cannot make an actor: expected the call of a class");
  const instance: Instance = { value, className, ...membersOf(value) };
  instances.set(loader, instance);
  return writeActor({
    className,
    key,
    address,
    methods: [...instance.methods],
    fields: [...instance.fields],
  });
}

/** Calls a method: `[method, arguments, names, values]`, where names and values become one last object if there are any. */
export function invoke(args: readonly unknown[], loader: Loader): unknown {
  const [name, positional, names, values] = args as [
    string,
    unknown[],
    readonly string[],
    readonly unknown[],
  ];
  const { value, className, methods } = instanceOf(loader);
  if (!methods.has(name)) {
    refuse(`Cannot call "${name}" of the actor ${className}: ${offer("methods", methods)}`);
  }
  const options = names.length === 0 ? [] : [Object.fromEntries(names.map((name, i) => [name, values[i]]))];
  return Reflect.apply(Reflect.get(value, name) as UserFunction, value, [...positional, ...options]);
}

/** The value of a field or getter: `[name]`. */
export function attribute(args: readonly unknown[], loader: Loader): unknown {
  const [name] = args as [string];
  const { value, className, fields } = instanceOf(loader);
  if (!fields.has(name)) {
    refuse(`Cannot read "${name}" of the actor ${className}: ${offer("fields", fields)}`);
  }
  return Reflect.get(value, name);
}

function instanceOf(loader: Loader): Instance {
  return instances.get(loader) ?? refuse("Cannot use an actor: this executor holds none");
}

function offer(what: string, names: ReadonlySet<string>): string {
  return names.size === 0 ? `it has no ${what}` : `its ${what} are ${[...names].join(", ")}`;
}

/** The prototype of a class cannot be replaced, that of a function can. */
function isClass(fn: UserFunction): boolean {
  return Object.getOwnPropertyDescriptor(fn, "prototype")?.writable === false;
}

/** What an instance has, its base classes included. Getters count as fields. */
function membersOf(value: object): Pick<Instance, "methods" | "fields"> {
  const methods = new Set<string>();
  const fields = new Set<string>();
  for (let at = value; at !== null && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const [name, member] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (name === "constructor" || methods.has(name) || fields.has(name)) continue;
      if (typeof member.value === "function") methods.add(name);
      else if (member.get !== undefined || "value" in member) fields.add(name);
    }
  }
  return { methods, fields };
}

function refuse(message: string): never {
  throw new DaskError(message);
}
