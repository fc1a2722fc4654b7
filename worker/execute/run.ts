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
import { CURRENT, type Current, setCurrent } from "./current.ts";
import { Items } from "./items.ts";
import type { Loader, UserFunction } from "./load.ts";

/** A `run_spec` as it came. */
export interface SpecBytes {
  readonly pickle: Uint8Array;
  readonly buffers: readonly Uint8Array[];
}

/**
 * The result of a task, or a promise of it. A result that is produced piece by piece (a generator, an async iterable)
 * is given as the list of its pieces, which are noted in `items` as they come.
 */
export function runTask(
  spec: SpecBytes,
  inputs: ReadonlyMap<string, unknown>,
  loader: Loader,
  items: () => Items,
): unknown {
  const result = evaluate(readTaskSpec(spec.pickle, spec.buffers), inputs, loader);
  return result instanceof Promise ? result.then((value) => drained(value, items)) : drained(result, items);
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
  const one = ref.kind === "each" ? ref.function : ref;
  if (one.kind === "builtin") return callBuiltin(one.name, args, loader);
  const run = (fn: UserFunction): unknown => ref.kind === "each" ? callEach(fn, args) : apply(fn, args);
  const fn = loader.load(one, (dependency) => dependencies[dependency]);
  return typeof fn === "function" ? run(fn) : fn.then(run);
}

/** Makes the calls of a chunk one after the other, as tasks of their own would be made. The first that fails ends it. */
function callEach(fn: UserFunction, args: readonly unknown[]): unknown[] | Promise<unknown[]> {
  const calls = splitCalls(args);
  const results: unknown[] = [];
  for (let i = 0; i < calls.length; i++) {
    const result = callOne(fn, calls, i);
    if (result instanceof Promise) return callRest(fn, calls, results, result);
    results.push(result);
  }
  return results;
}

async function callRest(
  fn: UserFunction,
  calls: readonly (readonly unknown[])[],
  results: unknown[],
  pending: Promise<unknown>,
): Promise<unknown[]> {
  results.push(await pending);
  while (results.length < calls.length) results.push(await callOne(fn, calls, results.length));
  return results;
}

/** What one call of a chunk comes to, as the result of a task; a promise when it is to be awaited. */
function callOne(fn: UserFunction, calls: readonly (readonly unknown[])[], i: number): unknown {
  try {
    const value = fn(...calls[i]!);
    const result = isThenable(value) ? Promise.resolve(value).then(asList) : asList(value);
    return result instanceof Promise ? result.catch((thrown) => Promise.reject(withItem(thrown, i))) : result;
  } catch (thrown) {
    throw withItem(thrown, i);
  }
}

/** Nobody sees the items of a part of a task before it ends. */
function asList(value: unknown): unknown {
  return drained(value, () => new Items(() => {}));
}

/** What was thrown; its stack tells which item of the chunk it was. */
function withItem(thrown: unknown, i: number): unknown {
  try {
    if (thrown instanceof Error) thrown.stack += `\n    in item ${i} of its chunk`;
  } catch { /* it does not want to be changed */ }
  return thrown;
}

function splitCalls(args: readonly unknown[]): readonly (readonly unknown[])[] {
  const calls: unknown[][] = [];
  for (let at = 0; at < args.length;) {
    const count = args[at];
    if (!Number.isSafeInteger(count) || Number(count) < 0 || at + Number(count) >= args.length) {
      throw new DaskError(
        `Cannot read the calls of a chunk: expected how many arguments follow, got ${describe(count)}`,
      );
    }
    calls.push(args.slice(at + 1, at += 1 + Number(count)));
  }
  return calls;
}

/** Puts values where {@linkcode DependencyRef}s stand, also one level into arrays. */
function fillIn(args: readonly unknown[], dependencies: readonly unknown[]): unknown[] {
  const valueOf = (ref: DependencyRef) => {
    if (ref.$dependency >= dependencies.length) {
      throw new DaskError(
        `Cannot find dependency ${ref.$dependency} of the call: it has ${dependencies.length}`,
      );
    }
    const value = dependencies[ref.$dependency];
    return ref.part === undefined ? value : elementAt(value, ref.part);
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

/** A generator that never waits lets this thread hear what has come so often, ms. */
const TURN_MS = 20;

function drained(value: unknown, items: () => Items): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Symbol.asyncIterator in value) return drainAsync(value as AsyncIterable<unknown>, items());
  if (Symbol.iterator in value && "next" in value && typeof value.next === "function") {
    return drainSync((value as Iterable<unknown>)[Symbol.iterator](), items());
  }
  return value;
}

async function drainAsync(iterable: AsyncIterable<unknown>, items: Items): Promise<unknown[]> {
  for await (const item of iterable) items.push(item);
  items.end();
  return items.list;
}

/** The list at once when it takes less than a turn: short generators cost no more than other functions. */
function drainSync(iterator: Iterator<unknown>, items: Items): unknown[] | Promise<unknown[]> {
  return drainTurn(iterator, items) ? items.list : drainInTurns(iterator, items);
}

/** Whether the iterator came to its end. */
function drainTurn(iterator: Iterator<unknown>, items: Items): boolean {
  const until = performance.now() + TURN_MS;
  for (let next = iterator.next(); next.done !== true; next = iterator.next()) {
    items.push(next.value);
    if (performance.now() >= until) return false;
  }
  items.end();
  return true;
}

async function drainInTurns(iterator: Iterator<unknown>, items: Items): Promise<unknown[]> {
  const place = globalThis as { readonly [CURRENT]?: Current | undefined };
  const task = place[CURRENT];
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    // Another task may have begun in this thread; the generator does not know that it was interrupted.
    const other = place[CURRENT];
    setCurrent(task);
    try {
      if (drainTurn(iterator, items)) return items.list;
    } finally {
      setCurrent(other);
    }
  }
}

/** Whether a value is to be awaited. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
