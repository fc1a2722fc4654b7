/**
 * Runs one task: reads its `run_spec`, finds the functions that it names, calls them. Values in, value out; what is
 * thrown is left to the caller.
 *
 * @module
 */
import {
  type BuiltinName,
  CALL_PREFIX,
  decodeCall,
  type DependencyRef,
  type FunctionCall,
  isDependencyRef,
  MODULE_PREFIX,
} from "../../protocol/call.ts";
import { DaskError } from "../../protocol/errors.ts";
import {
  evaluateSpec,
  readPickledCall,
  readTaskSpec,
  type SpecFunction,
  type TaskSpec,
} from "../../protocol/task_spec.ts";
import type { Loader, UserFunction } from "./load.ts";

/** A `run_spec` as it came. */
export interface SpecBytes {
  readonly pickle: Uint8Array;
  readonly buffers: readonly Uint8Array[];
}

/**
 * The result of a task, or a promise of it. A result that is produced piece by piece (a generator, an async iterable)
 * is given as the list of its pieces.
 */
export function runTask(spec: SpecBytes, inputs: ReadonlyMap<string, unknown>, loader: Loader): unknown {
  const result = evaluate(readTaskSpec(spec.pickle, spec.buffers), inputs, loader);
  return result instanceof Promise ? result.then(drained) : drained(result);
}

/** For actors alone. (Were its name written into the `import`, Deno would read it at the start.) */
const INSTANCE = new URL("./instance.ts", import.meta.url).href;

/** What to do with Python's own functions. */
const ELSEWHERE = "this is a TypeScript worker; run it on Python workers (workers=[…]), " +
  'or name a TypeScript function: methodcaller("deno:<module URL>#<export>")';

/** What is done with a function and its arguments. */
export type Apply = (fn: UserFunction, args: readonly unknown[]) => unknown;

const callIt: Apply = (fn, args) => fn(...args);

/** The value of a task. `apply` takes the place of calling the task's own function; those in its arguments are called. */
export function evaluate(
  task: TaskSpec,
  inputs: ReadonlyMap<string, unknown>,
  loader: Loader,
  apply = callIt,
): unknown {
  const outer = task.kind === "call" ? task.function : null;
  return evaluateSpec(task, inputs, (fn, args, kwargs) => {
    const value = callFunction(fn, args, kwargs, loader, fn === outer ? apply : callIt);
    // Whatever is to be awaited becomes a promise of this realm, as `evaluateSpec` knows them.
    return isThenable(value) ? Promise.resolve(value) : value;
  });
}

function callFunction(
  fn: SpecFunction,
  args: readonly unknown[],
  kwargs: ReadonlyMap<string, unknown>,
  loader: Loader,
  apply: Apply,
): unknown {
  if (fn.kind !== "methodcaller" || !fn.name.startsWith(MODULE_PREFIX)) {
    const name = fn.kind === "global" ? `${fn.module}.${fn.name}` : fn.kind === "opaque" ? fn.text : fn.name;
    throw new DaskError(
      `Cannot run the Python function ${name}: ${ELSEWHERE}`,
    );
  }
  const [payload] = args;
  if (fn.name.startsWith(CALL_PREFIX) && payload instanceof Uint8Array) {
    return callPayload(decodeCall(payload), args.slice(1), loader, apply);
  }
  // Python's keyword arguments become one last object, as TypeScript functions take options.
  const values = kwargs.size === 0 ? args : [...args, Object.fromEntries(kwargs)];
  return loader.loadNamed(fn.name).then((loaded) => apply(loaded, values));
}

function callPayload(
  call: FunctionCall,
  dependencies: readonly unknown[],
  loader: Loader,
  apply: Apply,
): unknown {
  const { function: ref } = call;
  const args = fillIn(call.args, dependencies);
  if (ref.kind === "builtin") return callBuiltin(ref.name, args, loader);
  const fn = loader.load(ref, (dependency) => dependencies[dependency]);
  return typeof fn === "function" ? apply(fn, args) : fn.then((loaded: UserFunction) => apply(loaded, args));
}

/** Puts values where {@linkcode DependencyRef}s stand, also one level into arrays. */
function fillIn(args: readonly unknown[], dependencies: readonly unknown[]): unknown[] {
  const valueOf = (ref: DependencyRef) => {
    if (ref.$dependency >= dependencies.length) {
      throw new DaskError(
        `Cannot find dependency ${ref.$dependency} of the call: it has ${dependencies.length}`,
      );
    }
    return dependencies[ref.$dependency];
  };
  return args.map((arg) => {
    if (isDependencyRef(arg)) return valueOf(arg);
    if (Array.isArray(arg) && arg.some(isDependencyRef)) {
      return arg.map((item) => isDependencyRef(item) ? valueOf(item) : item);
    }
    return arg;
  });
}

function callBuiltin(name: BuiltinName, args: readonly unknown[], loader: Loader): unknown {
  switch (name) {
    case "collect":
      return [...args];
    case "identity":
    case "bundle":
      return args[0];
    case "at":
      return elementAt(args[0], args[1]);
    case "run": {
      const [fn, positional, named] = args.map((arg) => arg instanceof Uint8Array ? arg : null);
      if (fn == null) throw new DaskError("Cannot run a function: expected its pickle");
      return evaluate(readCall(fn, positional ?? null, named ?? null), NO_INPUTS, loader);
    }
    case "construct":
    case "invoke":
    case "attribute":
      return (import(INSTANCE) as Promise<typeof import("./instance.ts")>).then((of) =>
        of[name](args, loader)
      );
  }
}

function readCall(fn: Uint8Array, args: Uint8Array | null, kwargs: Uint8Array | null): TaskSpec {
  try {
    return readPickledCall(fn, args, kwargs);
  } catch (cause) {
    throw new DaskError(
      `Cannot read what is to be run: ${
        cause instanceof Error ? cause.message : String(cause)
      }; ${ELSEWHERE}`,
      { cause },
    );
  }
}

const NO_INPUTS: ReadonlyMap<string, unknown> = new Map();

function elementAt(value: unknown, key: unknown): unknown {
  if (value instanceof Map) {
    if (value.has(key)) return value.get(key);
  } else if (value !== null && value !== undefined) {
    // Own properties only: the name of a method is no element.
    if (Object.hasOwn(Object(value), key as PropertyKey)) {
      return (value as Record<PropertyKey, unknown>)[key as PropertyKey];
    }
  }
  throw new DaskError(`Cannot take element ${JSON.stringify(key)} of ${describe(value)}: it has none`);
}

function describe(value: unknown): string {
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return `an object (${value.constructor?.name ?? "no class"})`;
}

function drained(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Symbol.asyncIterator in value) return Array.fromAsync(value as AsyncIterable<unknown>);
  if (Symbol.iterator in value && "next" in value && typeof value.next === "function") {
    return Array.from(value as Iterable<unknown>);
  }
  return value;
}

/** Whether a value is to be awaited. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
