/**
 * Runs graphs in child processes of this machine, without a scheduler: the same processes that run the tasks of a
 * worker, fed by the run of a graph. Values stay as bytes, large ones in files that the processes share; only what was
 * asked for is decoded here.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { failureError } from "../client/failures.ts";
import { stderrLogger } from "../client/stderr_logger.ts";
import { GraphRun, Running, taskError, valueOf, type Work } from "../dispatch/graph_run.ts";
import {
  type AnyOp,
  DispatchGraph,
  type Executor,
  type ExecutorOptions,
  type FutureLike,
  lower,
  type LoweredTask,
  type RunOptions,
  type Settled,
  type TaskOptions,
  type Values,
} from "../dispatch/mod.ts";
import { futureName } from "../dispatch/node.ts";
import { checkOptions } from "../dispatch/options.ts";
import { CALL_PREFIX, encodeCall, isDependencyRef } from "../protocol/call.ts";
import { serialized } from "../protocol/envelope.ts";
import { CancelledError, DaskError, TaskError, WorkerLostError } from "../protocol/errors.ts";
import { writeRunSpec } from "../protocol/graph_pickle.ts";
import { isFileFrame, type Payload } from "../protocol/payload.ts";
import { decodeValue, encodeValue } from "../protocol/value.ts";
import { makeDirectories } from "../worker/directories.ts";
import type { ExecutorListener, ExecutorPool, Outcome } from "../worker/execute/executor.ts";
import { removeFile } from "../worker/execute/executor_process.ts";
import { denoFiles } from "../worker/execute/files.ts";
import { startProcessPool } from "../worker/execute/processes.ts";

/** Calls that each process is given at a time: one that runs, and one that begins when that ends. */
const CALLS_PER_SLOT = 2;

/** Options of {@linkcode ParallelExecutor}. */
export interface ParallelExecutorOptions extends ExecutorOptions {
  /** Processes, each of which runs one node at a time. Default: as many as the machine has processors. */
  readonly slots?: number;
}

/**
 * Runs graphs in child processes of this machine.
 *
 * Functions travel as they do to a cluster: modules by their content, others by their source text. The processes start
 * with the first run, stay between runs, and end with the executor. A node whose process dies runs again in another,
 * up to five times, whatever `retries` says. `permissions` given here are those of the processes; `workers` and
 * `resources` mean nothing.
 *
 * Starting processes takes `--allow-run` for Deno itself, and permission to read and write the temporary folder.
 *
 * @example
 * ```ts
 * import { op, ParallelExecutor } from "@dask/dask";
 * await using executor = new ParallelExecutor({ slots: 2 });
 * const squares = [1, 2, 3].map((n) => op((n: number) => n * n, n));
 * console.log(await executor.run(squares)); // [1, 4, 9]
 * ```
 */
export class ParallelExecutor implements Executor {
  readonly #options: ParallelExecutorOptions;
  readonly #runs = new Set<GraphRun<Held>>();
  #processes: Promise<Processes> | null = null;
  #closing: Promise<void> | null = null;

  /**
   * Options of tasks hold for every node, below its own.
   *
   * @throws {RangeError} when `slots` is no whole number from 1; {@linkcode TypeError} when another option makes no
   * sense; so do runs.
   */
  constructor(options: ParallelExecutorOptions = {}) {
    checkOptions(options, "ParallelExecutor", ["slots", "logger"]);
    const { slots = 1 } = options;
    if (!Number.isSafeInteger(slots) || slots < 1) {
      throw new RangeError(
        `Cannot make a ParallelExecutor of ${slots} slots: expected a whole number of at least 1`,
      );
    }
    this.#options = options;
  }

  /**
   * The values of some nodes, or of the leaves of a graph, in the order asked. Rejects with the first failure; what
   * runs is stopped then.
   *
   * @throws {TaskError} when a node failed, {@linkcode DependencyError} when one that it needs did,
   * {@linkcode WorkerLostError} when it ended process after process.
   * @throws {SerializationError} when an argument cannot be sent.
   * @throws {DaskError} when processes cannot be started, say for want of `--allow-run`.
   */
  run(graph: DispatchGraph, options?: RunOptions): Promise<unknown[]>;
  run<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Values<L>>;
  async run(nodes: readonly AnyOp[] | DispatchGraph, options: RunOptions = {}): Promise<unknown> {
    const settled = await this.#start(nodes instanceof DispatchGraph ? nodes.leaves : nodes, options, true);
    return settled.map(valueOf);
  }

  /** Runs to the end, whatever fails, and tells of each node how it ended. */
  async runSettled<const L extends readonly AnyOp[]>(
    nodes: L,
    options: RunOptions = {},
  ): Promise<Settled<L>> {
    // One result for each node, in order: what the type says.
    return await this.#start(nodes, options, false) as Settled<L>;
  }

  /** Cancels what runs, and gives up its values. The processes stay, and the executor can be used again at once. */
  reset(): Promise<void> {
    for (const run of this.#runs) run.cancel(new CancelledError("Cancelled: the executor was reset"));
    return Promise.resolve();
  }

  /** Cancels what runs and ends all processes; none is left when it resolves. May be called twice. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** As {@linkcode ParallelExecutor.close}: `await using executor = …`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Begins to {@linkcode ParallelExecutor.close}: `using executor = …`. */
  [Symbol.dispose](): void {
    void this.close();
  }

  async #close(): Promise<void> {
    for (const run of this.#runs) run.cancel(new CancelledError("Cannot go on: the executor was closed"));
    const processes = await this.#processes?.catch(() => null);
    await processes?.[Symbol.asyncDispose]();
  }

  async #start(
    nodes: readonly AnyOp[],
    options: RunOptions,
    failFast: boolean,
  ): Promise<PromiseSettledResult<unknown>[]> {
    this.#refuseClosed();
    checkOptions(options, "run", ["inputs"]);
    const { logger, slots: _, permissions: __, ...defaults } = this.#options;
    const { inputs, ...submitted } = options;
    // What cannot be sent is refused before anything runs.
    const lowered = lower(nodes, {
      held: () => false,
      options: submitted,
      defaults,
      ...(inputs === undefined ? {} : { inputs }),
    });
    for (const { label, options } of lowered.tasks) checkOptions(options, `"${label}"`);
    const processes = await this.#started();
    this.#refuseClosed();
    const work = new ProcessWork(lowered.tasks, lowered.outputs, lowered.futures, processes);
    const signal = options.signal ?? defaults.signal;
    const run = new GraphRun<Held>(work, { failFast, signal, logger });
    work.run = run;
    this.#runs.add(run);
    try {
      return work.decoded(await run.done());
    } finally {
      this.#runs.delete(run);
    }
  }

  #refuseClosed(): void {
    if (this.#closing === null) return;
    throw new DaskError("Cannot run a graph: the executor is closed; make a new one");
  }

  #started(): Promise<Processes> {
    const started = this.#processes ??= startProcesses(this.#options);
    // After a failure the next run tries again.
    started.catch(() => {
      if (this.#processes === started) this.#processes = null;
    });
    return started;
  }
}

/** A value as it is kept between nodes. Its files are ours. */
interface Held {
  readonly id: number;
  readonly payload: Payload;
}

/** What runs calls. */
interface Processes extends AsyncDisposable {
  readonly pool: ExecutorPool;
  readonly slots: number;
  /** A number that no other value or call has. */
  fresh(): number;
  /** The calls that are under way, by their number. */
  readonly calls: Map<number, Call>;
}

/** A call that is under way. */
interface Call {
  began(): void;
  seceded(): void;
  ended(outcome: Outcome | null): void;
}

/** What tasks print is printed, as it would be in this process. */
const outputLogger: Logger = {
  log(level, message) {
    if (level === "info") Deno.stderr.writeSync(new TextEncoder().encode(`${message}\n`));
    else stderrLogger.log(level, message);
  },
};

async function startProcesses(options: ParallelExecutorOptions): Promise<Processes> {
  const { slots = navigator.hardwareConcurrency, permissions, logger = outputLogger } = options;
  await using started = new AsyncDisposableStack();
  let directories;
  try {
    directories = started.use(
      await makeDirectories({ base: null, spill: false, logger: options.logger ?? stderrLogger }),
    );
  } catch (cause) {
    throw new DaskError(
      `Cannot start processes: ${
        (cause as Error).message
      }; large values and sockets lie in the temporary folder`,
      { cause },
    );
  }
  const calls = new Map<number, Call>();
  const pool = started.use(startProcessPool({
    slots,
    directory: directories.frames,
    socketDirectory: directories.sockets,
    listener: listenerOf(calls, logger),
    logger,
    ...(permissions === undefined ? {} : { permissions }),
  }));
  await pool.ready();
  let last = 0;
  const owned = started.move();
  return { pool, slots, calls, fresh: () => ++last, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function listenerOf(calls: ReadonlyMap<number, Call>, logger: Logger): ExecutorListener {
  return {
    started: (_key, number) => calls.get(number)?.began(),
    withdrawn: (_key, number) => calls.get(number)?.ended(null),
    seceded: (_key, number) => calls.get(number)?.seceded(),
    event: (key, _number, topic, message) => logger.log("debug", `"${key}" tells "${topic}"`, { message }),
    items: () => {}, // nobody asks
    ended: (_key, number, outcome) => {
      const call = calls.get(number);
      if (call === undefined) dropOutcome(outcome);
      else call.ended(outcome);
    },
  };
}

/** The tasks of a graph as calls of a pool. Behind them stand the futures that they need. */
class ProcessWork implements Work<Held> {
  readonly before: readonly (readonly number[])[];
  readonly outputs: readonly number[];
  run: GraphRun<Held> | null = null;
  readonly #tasks: readonly LoweredTask[];
  readonly #futures: readonly FutureLike<unknown>[];
  readonly #processes: Processes;
  /** What each task is: a value, or the pickle of a call. */
  readonly #ready: readonly (Payload | Uint8Array)[];
  /** How the processes of a node ended. */
  readonly #exits = new Map<number, { readonly worker: string; readonly exit: string }[]>();
  #seceded = 0;

  constructor(
    tasks: readonly LoweredTask[],
    outputs: readonly string[],
    futures: readonly FutureLike<unknown>[],
    processes: Processes,
  ) {
    const numbers = new Map(tasks.map(({ key }, i) => [key, i]));
    const outside = futures.filter((future) => {
      const key = futureName(future);
      if (numbers.has(key)) return false;
      numbers.set(key, numbers.size);
      return true;
    });
    this.#tasks = tasks;
    this.#futures = outside;
    this.#processes = processes;
    this.#ready = tasks.map((task) => constantOf(task) ?? pickleOf(task));
    this.outputs = outputs.map((key) => numbers.get(key)!);
    this.before = [
      ...tasks.map(({ dependencies }) => dependencies.map((key) => numbers.get(key)!)),
      ...outside.map(() => []),
    ];
  }

  get runningMax(): number {
    return this.#processes.slots * CALLS_PER_SLOT + this.#seceded;
  }

  optionsOf(i: number): TaskOptions {
    const task = this.#tasks[i];
    return task === undefined || task.call.function.kind === "builtin" ? {} : task.options;
  }

  labelOf(i: number): string {
    return this.#tasks[i]?.label ?? this.keyOf(i);
  }

  keyOf(i: number): string {
    return this.#tasks[i]?.key ?? futureName(this.#futures[i - this.#tasks.length]!);
  }

  errorOf(i: number, thrown: unknown): TaskError {
    if (!(thrown instanceof TaskError)) return taskError(this.labelOf(i), this.keyOf(i), thrown);
    if (!(thrown instanceof WorkerLostError)) return thrown;
    const attempts = this.#exits.get(i) ?? [];
    attempts.push(...thrown.attempts);
    this.#exits.set(i, attempts);
    const { message, key, cause } = thrown;
    return new WorkerLostError(message, { key, cause, attempts: [...attempts] });
  }

  start(i: number, attempt: number): Held | Running<Held> {
    const ready = this.#ready[i];
    if (ready === undefined) {
      return new Running(this.#futures[i - this.#tasks.length]!.result().then((value) => this.#held(value)));
    }
    if (!(ready instanceof Uint8Array)) return { id: this.#processes.fresh(), payload: ready };
    return this.#call(i, ready, attempt);
  }

  drop({ id, payload }: Held): void {
    removeFiles(payload);
    this.#processes.pool.forget([id]);
  }

  /** The outcomes as values of this process. Gives up what was kept. */
  decoded(outcomes: readonly PromiseSettledResult<Held>[]): PromiseSettledResult<unknown>[] {
    const values = new Map<Held, unknown>();
    try {
      return outcomes.map((outcome) => {
        if (outcome.status === "rejected") return outcome;
        // A node that was asked for twice gives one value.
        if (!values.has(outcome.value)) values.set(outcome.value, decodeHeld(outcome.value.payload));
        return { status: "fulfilled", value: values.get(outcome.value) };
      });
    } finally {
      for (const outcome of new Set(outcomes)) if (outcome.status === "fulfilled") this.drop(outcome.value);
    }
  }

  #held(value: unknown): Held {
    return { id: this.#processes.fresh(), payload: encodeValue(value) };
  }

  #call(i: number, pickle: Uint8Array, attempt: number): Running<Held> {
    const { pool, calls } = this.#processes;
    const { key } = this.#tasks[i]!;
    const inputs = this.before[i]!.map((dependency) => ({
      key: this.keyOf(dependency),
      ...this.run!.value(dependency),
    }));
    const result = Promise.withResolvers<Held>();
    const began = Promise.withResolvers<void>();
    let number = 0;
    let seceded = false;
    const call: Call = {
      began: () => began.resolve(),
      seceded: () => {
        seceded = true;
        this.#seceded++;
      },
      ended: (outcome) => {
        calls.delete(number);
        if (seceded) this.#seceded--;
        seceded = false;
        if (outcome === null) {
          result.reject(new CancelledError(`Task "${key}" was taken back before it began`));
        } else if (outcome.type === "succeeded") {
          result.resolve({ id: this.#processes.fresh(), payload: outcome.payload });
        } else if (outcome.type === "failed") {
          result.resolve(this.#failure(key, outcome));
        } else place();
      },
    };
    const place = (): void => {
      number = this.#processes.fresh();
      calls.set(number, call);
      pool.place({
        key,
        runId: number,
        runSpec: { pickle, buffers: [] },
        inputs,
        annotations: {},
        attempt,
      });
    };
    place();
    return new Running(result.promise, began.promise, (reason) => pool.abort(key, number, reason));
  }

  async #failure(key: string, outcome: Extract<Outcome, { readonly type: "failed" }>): Promise<never> {
    const failure = { exception: serialized(outcome.exception), traceback: null, formRefused: false };
    throw await failureError(key, failure, () => Promise.resolve({ origin: key, left: [] }), "");
  }
}

/** The value of a task that only stands for one. */
function constantOf({ call }: LoweredTask): Payload | null {
  const [value] = call.args;
  const { function: fn } = call;
  if (fn.kind !== "builtin" || (fn.name !== "identity" && fn.name !== "bundle")) return null;
  return isDependencyRef(value) ? null : encodeValue(value);
}

function pickleOf({ key, label, call, dependencies }: LoweredTask): Uint8Array {
  return writeRunSpec({ key, function: CALL_PREFIX + label, payload: encodeCall(call), dependencies });
}

function decodeHeld({ header, frames }: Payload): unknown {
  return decodeValue({
    header,
    frames: frames.map((frame) => isFileFrame(frame) ? denoFiles.read(frame.file, frame.byteLength) : frame),
  });
}

function dropOutcome(outcome: Outcome): void {
  if (outcome.type === "succeeded") removeFiles(outcome.payload);
}

function removeFiles({ frames }: Payload): void {
  for (const frame of frames) if (isFileFrame(frame)) removeFile(frame.file);
}
