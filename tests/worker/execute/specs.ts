/**
 * Hand-made `run_spec`s, byte for byte what dask's scheduler pickles, and a pool that remembers what it was told.
 *
 * @module
 */
import { encodeCall, type FunctionCall } from "../../../protocol/call.ts";
import type { Payload } from "../../../protocol/payload.ts";
import { payloadBytes } from "../../../protocol/payload.ts";
import { encodeValue } from "../../../protocol/value.ts";
import { decodeValue } from "../../../protocol/value.ts";
import type {
  ExecutorCall,
  ExecutorPool,
  Input,
  IsolationName,
  Outcome,
} from "../../../worker/execute/executor.ts";
import { startInlinePool } from "../../../worker/execute/inline.ts";
import { type ProcessPoolOptions, startProcessPool } from "../../../worker/execute/processes.ts";
import { startThreadPool } from "../../../worker/execute/threads.ts";

const encoder = new TextEncoder();

/** Opcodes, text and bytes, one after another. */
function assemble(...parts: readonly (number | string | Uint8Array)[]): Uint8Array {
  const bytes: number[] = [];
  for (const part of parts) {
    if (typeof part === "number") bytes.push(part);
    else if (typeof part === "string") { for (const byte of encoder.encode(part)) bytes.push(byte); }
    else for (const byte of part) bytes.push(byte);
  }
  return new Uint8Array(bytes);
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** BINUNICODE. */
function text(value: string): Uint8Array {
  const bytes = encoder.encode(value);
  return assemble(0x58, u32(bytes.byteLength), bytes);
}

/** An argument of a task in a pickle. */
export type PickledArg =
  | Uint8Array
  | string
  | number
  | { readonly ref: string }
  | { readonly list: readonly PickledArg[] };

function argument(value: PickledArg): Uint8Array {
  if (typeof value === "string") return text(value);
  if (typeof value === "number") return assemble(0x4a, u32(value));
  if (value instanceof Uint8Array) return assemble(0x42, u32(value.byteLength), value);
  if ("list" in value) return assemble(0x5d, 0x28, ...value.list.map(argument), 0x65);
  return assemble(text("dask._task_spec"), text("TaskRef"), 0x93, text(value.ref), 0x85, 0x52);
}

/** `pickle.dumps(Task(key, <global>, *args, **kwargs))`, or with `methodcaller(name)` as the function. */
export function taskPickle(
  key: string,
  fn: { readonly methodcaller: string } | { readonly module: string; readonly name: string },
  args: readonly PickledArg[],
  kwargs: Readonly<Record<string, PickledArg>> = {},
): Uint8Array {
  const refs = args.flatMap((arg) => typeof arg === "object" && "ref" in arg ? [arg.ref] : []);
  const callee = "methodcaller" in fn
    ? assemble(text("dask.utils"), text("methodcaller"), 0x93, text(fn.methodcaller), 0x85, 0x52)
    : assemble(text(fn.module), text(fn.name), 0x93);
  const named = Object.entries(kwargs);
  return assemble(
    0x80,
    4,
    text("dask._task_spec"),
    text("Task"),
    0x93,
    0x29,
    0x81,
    0x28,
    0x89,
    0x28,
    ...refs.map(text),
    0x91,
    0x4e,
    0x4e,
    0x4e,
    0x28,
    ...args.map(argument),
    0x74,
    callee,
    text(key),
    0x7d,
    ...named.length === 0
      ? []
      : [0x28, ...named.flatMap(([name, value]) => [text(name), argument(value)]), 0x75],
    0x74,
    0x62,
    0x2e,
  );
}

/** SHA-256 in hex. */
export async function sha256(bytes: Uint8Array | string): Promise<string> {
  const data = typeof bytes === "string" ? encoder.encode(bytes) : new Uint8Array(bytes);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
}

let lastId = 0;

/** An input with a fresh store id. */
export function inputOf(key: string, value: unknown, payload: Payload = encodeValue(value)): Input {
  return { key, id: ++lastId, payload };
}

/** A call of a FunctionRef; `inputs` are its dependencies, in order. */
export function callOf(
  key: string,
  call: FunctionCall,
  inputs: readonly Input[] = [],
  runId = 1,
): ExecutorCall {
  const args = [encodeCall(call), ...inputs.map((input) => ({ ref: input.key }))];
  const pickle = taskPickle(key, { methodcaller: "deno:op/test" }, args);
  return { key, runId, runSpec: { pickle, buffers: [] }, inputs, annotations: {} };
}

/** A call of a self-contained function by its source; its arguments are plain values or, for inputs, the inputs. */
export function sourceCall(
  key: string,
  // deno-lint-ignore no-explicit-any
  fn: ((...args: any[]) => unknown) | string,
  args: readonly unknown[] = [],
  inputs: readonly Input[] = [],
  runId = 1,
): ExecutorCall {
  const source = typeof fn === "string" ? fn : fn.toString();
  let hash = hashes.get(source);
  if (hash === undefined) hashes.set(source, hash = `${hashes.size}`.padStart(64, "0"));
  return callOf(key, { function: { kind: "source", hash, source }, args }, inputs, runId);
}
const hashes = new Map<string, string>();

/** A call as a Python client writes it. */
export function namedCall(
  key: string,
  name: string,
  args: readonly PickledArg[] = [],
  kwargs: Readonly<Record<string, PickledArg>> = {},
): ExecutorCall {
  const pickle = taskPickle(key, { methodcaller: name }, args, kwargs);
  return { key, runId: 1, runSpec: { pickle, buffers: [] }, inputs: [], annotations: {} };
}

const START: { readonly [name in IsolationName]: (options: ProcessPoolOptions) => ExecutorPool } = {
  process: startProcessPool,
  thread: startThreadPool,
  inline: startInlinePool,
};

/** One thing that a pool told. */
export type Told =
  | { readonly type: "started" | "withdrawn"; readonly key: string }
  | { readonly type: "seceded"; readonly key: string; readonly ms: number }
  | { readonly type: "event"; readonly key: string; readonly topic: string; readonly message: unknown }
  | { readonly type: "ended"; readonly key: string; readonly outcome: Outcome };

/** A pool under test, in its own folder. */
export class TestPool implements AsyncDisposable {
  readonly pool: ExecutorPool;
  readonly directory: string;
  readonly told: Told[] = [];
  readonly lines: string[] = [];
  readonly #waiters = new Set<() => void>();

  constructor(options: Partial<ProcessPoolOptions> & { inMemory?: boolean; isolation?: IsolationName } = {}) {
    const { inMemory = true, isolation = "process", ...rest } = options;
    this.directory = Deno.makeTempDirSync(inMemory ? { dir: "/dev/shm", prefix: "dask-ts-test-" } : {});
    const tell = (told: Told) => {
      this.told.push(told);
      this.#wake();
    };
    this.pool = START[isolation]({
      slots: 1,
      directory: this.directory,
      socketDirectory: this.directory,
      logger: {
        log: (level, message, fields) => {
          this.lines.push(`${level}: ${message} ${JSON.stringify(fields ?? {})}`);
          this.#wake();
        },
      },
      listener: {
        started: (key) => tell({ type: "started", key }),
        withdrawn: (key) => tell({ type: "withdrawn", key }),
        seceded: (key, _runId, ms) => tell({ type: "seceded", key, ms }),
        event: (key, _runId, topic, message) => tell({ type: "event", key, topic, message }),
        items: () => {},
        ended: (key, _runId, outcome) => tell({ type: "ended", key, outcome }),
      },
      ...rest,
    });
  }

  /** Resolves when `condition` gives something; looks again whenever something is told or logged. */
  until<T>(condition: () => T | undefined | false | null): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const deadline = setTimeout(() => {
      this.#waiters.delete(look);
      reject(
        new Error(
          `Nothing came; told: ${JSON.stringify(this.told.map((told) => `${told.type} ${told.key}`))}`,
        ),
      );
    }, 20_000);
    const look = () => {
      const found = condition();
      if (found === undefined || found === false || found === null) return;
      this.#waiters.delete(look);
      clearTimeout(deadline);
      resolve(found);
    };
    this.#waiters.add(look);
    look();
    return promise;
  }

  started(key: string): Promise<unknown> {
    return this.until(() => this.told.find((told) => told.type === "started" && told.key === key));
  }

  /** How a call ended. */
  async ended(key: string): Promise<Outcome> {
    const told = await this.until(() => this.told.find((told) => told.type === "ended" && told.key === key));
    return (told as { outcome: Outcome }).outcome;
  }

  /** Places a call and gives its value; throws the text of its failure. */
  async value(call: ExecutorCall): Promise<unknown> {
    this.pool.place(call);
    return this.valueOf(await this.ended(call.key));
  }

  /** The value of an outcome. Its files are read and removed. */
  valueOf(outcome: Outcome): unknown {
    if (outcome.type === "failed") throw new Error(outcome.exceptionText);
    if (outcome.type !== "succeeded") throw new Error(outcome.type);
    const frames = outcome.payload.frames.map((frame) => {
      if (frame instanceof Uint8Array) return frame;
      const bytes = Deno.readFileSync(frame.file);
      Deno.removeSync(frame.file);
      return bytes;
    });
    if (payloadBytes(outcome.payload) < 0) throw new Error("no payload");
    return decodeValue({ header: outcome.payload.header, frames });
  }

  /** Places a call that is to fail; gives how. */
  async failure(call: ExecutorCall): Promise<Extract<Outcome, { type: "failed" }>> {
    this.pool.place(call);
    const outcome = await this.ended(call.key);
    if (outcome.type !== "failed") throw new Error(`expected a failure, got ${outcome.type}`);
    return outcome;
  }

  /** What was told, as `"started a"`. */
  story(key?: string): string[] {
    return this.told.filter((told) => key === undefined || told.key === key).map((told) =>
      `${told.type} ${told.key}`
    );
  }

  /** Names of the files in its folder. */
  files(): string[] {
    return [...Deno.readDirSync(this.directory)].map((entry) => entry.name).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool.close();
    await Deno.remove(this.directory, { recursive: true });
  }

  #wake(): void {
    for (const look of [...this.#waiters]) look();
  }
}
