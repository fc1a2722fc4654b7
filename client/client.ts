/**
 * The client: submits graphs to a dask scheduler and brings results here. Everything that it does is an event for its
 * actor; everything that it knows of its futures the actor has told it.
 *
 * The law: whatever one turn of the program does reaches the scheduler as one batch, in the order in which it was
 * done; and after the end of the client every call is refused.
 *
 * @module
 */
import { systemClock, toError } from "../actors/kernel/mod.ts";
import type { Logger } from "../base/log.ts";
import type { Transport } from "../comm/comm.ts";
import { type Request, RpcPool } from "../comm/pool.ts";
import { tcp } from "../comm/tcp.ts";
import { type TlsOptions, tlsTransport } from "../comm/tls.ts";
import {
  type ActorTask,
  type AnyOp,
  DispatchGraph,
  type Executor,
  isOp,
  type LiftAll,
  lower,
  type LowerContext,
  type LoweredGraph,
  type LoweredTask,
  type Op,
  op,
  PART,
  type Result,
  type RunOptions,
  type Settled,
  type Task,
  type TaskOptions,
  type Values,
  type Waiting,
} from "../dispatch/mod.ts";
import { chunkOf } from "../dispatch/chunk.ts";
import { codeOf } from "../dispatch/code.ts";
import { asOp, callNode } from "../dispatch/node.ts";
import { normalizeAddress, parseAddress } from "../protocol/address.ts";
import { NO_BYTES } from "../protocol/bytes.ts";
import { CALL_PREFIX, encodeCall } from "../protocol/call.ts";
import { serialized } from "../protocol/envelope.ts";
import { CommClosedError, DaskError, SerializationError } from "../protocol/errors.ts";
import { keyText, keyToWire } from "../protocol/key.ts";
import { pythonArguments } from "../protocol/python_call.ts";
import { readArray, readKeyMap, readKeys, readNullable, readRecord, readString } from "../protocol/read.ts";
import { encodeValue } from "../protocol/value.ts";
import { type ClientActor, startClientActor } from "./actor.ts";
import { CONNECT_MS, register, type Registered, schedulerAddress, withConfig } from "./connect.ts";
import {
  acquire,
  dataset,
  datasets,
  events,
  type Lease,
  logEvent,
  pastEvents,
  publish,
  Queue,
  SharedEvent,
  type Sharing,
  unpublish,
  Variable,
} from "./coordination.ts";
import {
  type Ask,
  type LogLine,
  type LogOptions,
  performanceReport,
  schedulerLogs,
  type TaskRun,
  taskStream,
  type TaskStreamOptions,
  workerLogs,
} from "./diagnostics.ts";
import { showClient } from "./display.ts";
import {
  abortable,
  asCompleted,
  describe,
  Future,
  futuresOf,
  type KeyOwner,
  KeyState,
  newFuture,
  signalOf,
  stateOf,
  wait,
} from "./future.ts";
import type { Progress } from "./progress.ts";
import { type Remote, remote } from "./remote.ts";
import { readSchedulerInfo, type SchedulerInfo } from "./identity.ts";
import type { Address, ClientEvent, Key, SubmittedTask, Want } from "./machine/events.ts";
import type { Diagnosis, ItemBatch, News, WorkerInfo } from "./messages.ts";
import { checkOptions, NO_OPTIONS, tell } from "./options.ts";
import {
  callAside,
  isCode,
  knownWorkers,
  restart,
  type RestartOptions,
  runOnWorkers,
  type RunOnWorkersOptions,
  type Versions,
  versions,
} from "./operations.ts";
import { readReconnect, Reconnection, type ReconnectOptions } from "./reconnect.ts";
import { RetryPolicy } from "./retries.ts";
import { stderrLogger } from "./stderr_logger.ts";
import type { SubmittingTask } from "./wire.ts";

export type { LogLine, LogOptions, ReconnectOptions, SchedulerInfo, TaskRun, TaskStreamOptions, WorkerInfo };

/** Time for a connection with a worker; the scheduler brings the value when there is none. */
const WORKER_CONNECT_MS = 3_000;
/** How long the scheduler looks for workers to put scattered data on, seconds. */
const SCATTER_SECONDS = 30;
/** Time for the scheduler to end after all workers, ms. */
const SHUTDOWN_MS = 30_000;
/** How long a notebook waits for what it shows of a client. */
const DISPLAY_MS = 2_000;
/** Tasks that `map` over an asynchronous source keeps going unless told otherwise. */
const PENDING_MAX = 64;

/** Options of {@linkcode connect}. */
export interface ConnectOptions extends Waiting {
  /** Address of the scheduler, `tcp://host:port`. Default: see {@linkcode connect}. */
  readonly address?: string;
  /** File that the scheduler wrote, `dask scheduler --scheduler-file`. */
  readonly schedulerFile?: string | URL;
  /** Certificates, for a scheduler at `tls://`. */
  readonly tls?: TlsOptions;
  /** Part of the client's id, for dashboards and logs. */
  readonly name?: string;
  /** Time for connecting, ms. Default: `distributed.comm.timeouts.connect` of dask's configuration, else 30,000. */
  readonly timeout?: number;
  /** Where warnings go. Default: one line each to standard error. */
  readonly logger?: Logger;
  /**
   * What follows when the connection breaks because the scheduler was restarted or the network failed. `false`, the
   * default: every call that waits rejects, the client has ended. `true`: it connects again, under a new id, and submits
   * again what is still wanted, under the same keys and with the same options. Calls that wait for futures or for
   * workers wait on, topics are heard again, and finished futures are pending until their values are there again.
   *
   * What only the scheduler kept is gone with it: a future of a scattered value, or of another client's task, that the
   * scheduler does not know any more becomes `"lost"`, with all that depends on it; a lock is held no longer; other
   * calls that were under way, such as `queue.get()`, `lock()`, `scatter()`, reject, since they may or may not have been
   * heeded. Calls made meanwhile wait for the connection.
   *
   * The price is memory: the encoded calls of all tasks behind futures that are held are kept until the futures are
   * released, about 0.5 KB a task and its arguments and code; without it they are dropped once they are sent.
   *
   * @example
   * ```ts ignore
   * await using client = await connect({ address: "tcp://scheduler:8786", reconnect: { timeout: 600_000 } });
   * ```
   */
  readonly reconnect?: boolean | ReconnectOptions;
}

/** What tests and embedded clusters choose beside. */
export interface ClientParts {
  readonly transport?: Transport;
  /** Checks the machine's invariants all the time. */
  readonly validate?: boolean;
  /** The client lives inside of tasks. */
  readonly inside?: InsideParts;
}

/** What a client inside of tasks asks and tells. */
export interface InsideParts {
  /** The task that runs now, or null. */
  readonly task: () => SubmittingTask | null;
  /** The task begins to wait for another. */
  readonly waits: () => void;
}

/**
 * Connects to a dask scheduler.
 *
 * The address may leave out `tcp://` and the port (8786). Without one it is taken from `DASK_SCHEDULER_ADDRESS`, then
 * from `schedulerFile`, then from `scheduler-address` of dask's configuration files, then it is `127.0.0.1:8786`.
 *
 * @throws {CommClosedError} when no scheduler answers there in time.
 * @throws {DaskError} when its release of dask is older than 2025.4.0.
 * @example
 * ```ts ignore
 * await using client = await connect("tcp://127.0.0.1:8786");
 * const four = client.submit((a: number, b: number) => a + b, [1, 3]);
 * console.log(await four.result()); // 4
 * ```
 */
export async function connect(options: string | ConnectOptions = {}): Promise<Client> {
  const { client, connected } = openClient(await withConfig(readConnectOptions(options)));
  try {
    await connected;
  } catch (error) {
    await client.close();
    throw error;
  }
  return client;
}

/** What {@linkcode openClient} gives. */
export interface OpenedClient {
  readonly client: Client;
  /** Rejects as {@linkcode connect} does. */
  readonly connected: Promise<void>;
  /** False once it was closed, or its scheduler lost. */
  readonly isOpen: () => boolean;
  /** As {@linkcode Client.reset}; those who wait hear `reason`. */
  readonly giveUp: (reason: string) => Promise<void>;
}

/** A client that may be used while it is still connecting: what is submitted is sent once the connection stands. */
export function openClient(
  options: string | ConnectOptions = {},
  parts: ClientParts = {},
): OpenedClient {
  const core = new Core(readConnectOptions(options), parts);
  const connected = core.connect();
  connected.catch(() => {});
  return {
    client: new Client(core, null),
    connected,
    isOpen: () => core.ended === null,
    giveUp: (reason) => core.giveUp(reason),
  };
}

function readConnectOptions(options: unknown): ConnectOptions {
  const read = typeof options === "string" ? { address: options } : options as ConnectOptions;
  const signal = signalOf(read);
  signal?.throwIfAborted();
  const known = ["address", "schedulerFile", "tls", "name", "timeout", "logger", "signal", "reconnect"];
  for (const name of Object.keys(read)) {
    if (!known.includes(name)) {
      throw new TypeError(`Cannot use the option "${name}" of connect: expected one of ${known.join(", ")}`);
    }
  }
  const { timeout, name } = read;
  if (timeout !== undefined && !(typeof timeout === "number" && timeout > 0)) {
    throw new TypeError(
      `Cannot use the option "timeout" of connect: expected milliseconds, got ${describe(timeout)}`,
    );
  }
  readReconnect(read.reconnect);
  if (name !== undefined && typeof name !== "string") {
    throw new TypeError(`Cannot use the option "name" of connect: expected a text, got ${describe(name)}`);
  }
  return read;
}

/** What all faces of one client share: the actor, the connections, and what is known of the keys. */
class Core implements KeyOwner {
  /** Of this registration: the scheduler may believe in the one before, and what ends it would end this one, too. */
  id: string;
  readonly #name: string;
  readonly address: string;
  readonly logger: Logger;
  readonly actor: ClientActor;
  readonly scheduler: RpcPool;
  readonly #workers: RpcPool;
  readonly #streams: RpcPool;
  readonly #transport: Transport;
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #inside: InsideParts | null;
  readonly #end = new AbortController();
  /** Aborts when the connection breaks, or the client ends. */
  #connection = new AbortController();
  /** Null when a broken connection is the end. */
  readonly #reconnection: Reconnection | null;
  /** While there is none after a loss: waits for the next connection. */
  #standing: PromiseWithResolvers<void> | null = null;
  #reconnecting: Promise<void> = Promise.resolve();
  #registrations = 0;
  /** All and only keys that are wanted: by futures, or because they are code that later tasks will need. */
  readonly states = new Map<Key, KeyState>();
  /** Numbers of the last want and the last wait. */
  #wants = 0;
  #waits = 0;
  /** Who listens to which topic. */
  readonly #listeners = new Map<string, Set<(event: unknown) => void>>();
  /** What happened in this turn. */
  #events: ClientEvent[] = [];
  #ended: Error | null = null;
  #closed: Promise<void> | null = null;
  schedulerVersion = "of unknown version";
  dashboardPort: number | null = null;

  constructor(options: ConnectOptions, parts: ClientParts) {
    this.address = schedulerAddress(options);
    const { name, timeout = CONNECT_MS, logger = stderrLogger, signal } = options;
    const unique = crypto.randomUUID();
    this.id = this.#name = name === undefined ? `Client-${unique}` : `Client-${name}-${unique}`;
    this.logger = logger;
    this.#timeoutMs = timeout;
    this.#signal = signal;
    this.#inside = parts.inside ?? null;
    this.#transport = parts.transport ?? (options.tls === undefined ? tcp : tlsTransport(options.tls));
    this.scheduler = new RpcPool(this.#transport, { timeoutMs: timeout });
    this.#workers = new RpcPool(this.#transport, { timeoutMs: WORKER_CONNECT_MS });
    this.#streams = new RpcPool(this.#transport, { timeoutMs: WORKER_CONNECT_MS });
    const reconnect = readReconnect(options.reconnect);
    this.#reconnection = reconnect === null ? null : new Reconnection({
      address: this.address,
      attemptMs: timeout,
      limitMs: reconnect.timeout ?? timeout,
      signal: reconnect.signal,
    });
    this.actor = startClientActor({
      clientId: this.id,
      schedulerAddress: this.address,
      scheduler: this.scheduler,
      workers: this.#workers,
      streams: this.#streams,
      logger,
      clock: systemClock,
      validate: parts.validate ?? false,
      submittingTask: parts.inside?.task ?? (() => null),
      tell: (news) => this.#hear(news),
      heard: (topic, event) => this.#listeners.get(topic)?.forEach((hear) => hear(event)),
      lost: (error) => this.#lose(error),
      ...(reconnect === null ? {} : { broken: (error: Error) => this.#break(error) }),
      connection: () => this.connection,
    });
  }

  async connect(): Promise<void> {
    const signal = this.#signal === undefined
      ? this.#end.signal
      : AbortSignal.any([this.#signal, this.#end.signal]);
    this.#attach(await this.#register(this.#timeoutMs, signal));
  }

  #register(timeoutMs: number, signal: AbortSignal): Promise<Registered> {
    const number = ++this.#registrations;
    return register({
      transport: this.#transport,
      scheduler: this.scheduler,
      address: this.address,
      clientId: number === 1 ? this.#name : `${this.#name}-${number}`,
      timeoutMs,
      signal,
      logger: this.logger,
    });
  }

  #attach(registered: Registered): void {
    this.id = registered.clientId;
    this.schedulerVersion = registered.version;
    this.dashboardPort = registered.dashboardPort;
    this.actor.attach(registered.stream, registered.workers, registered.clientId);
  }

  /** The connection broke, and there is to be another. */
  #break(error: Error): void {
    if (this.#ended !== null) return;
    const lost = `${error.message}; what was asked then may not have been heeded: ask again`;
    this.#connection.abort(new DaskError(lost, { cause: error }));
    this.scheduler.forget(this.address);
    this.#standing = Promise.withResolvers();
    this.#standing.promise.catch(() => {}); // those who wait hear of it
    this.logger.log("warning", `${error.message}; connecting again`);
    this.#reconnecting = this.#connectAgain(error);
  }

  async #connectAgain(loss: Error): Promise<void> {
    try {
      const registered = await this.#reconnection!.run(
        loss,
        this.end,
        (timeoutMs, stop) => this.#register(timeoutMs, stop),
      );
      this.#connection = new AbortController();
      this.#attach(registered);
      for (const topic of this.#listeners.keys()) {
        this.actor.ref.tell("say", { op: "subscribe-topic", topic });
      }
      this.logger.log("info", `Connected with the scheduler at ${this.address} again`);
      this.#standing?.resolve();
      this.#standing = null;
    } catch (error) {
      this.actor.fail(toError(error));
    }
  }

  /** Null while there is a connection; after a loss it resolves when there is one again. */
  get standing(): Promise<void> | null {
    return this.#standing?.promise ?? null;
  }

  get ended(): Error | null {
    return this.#ended;
  }

  /** Throws unless the client can be used. */
  open(call: string): void {
    if (this.#ended !== null) throw this.#ended;
    if (this.#closed !== null) throw new DaskError(`Cannot ${call}: the client is closed; connect again`);
  }

  waits(): void {
    this.#inside?.waits();
  }

  happened(event: ClientEvent): void {
    if (this.#events.push(event) === 1) queueMicrotask(this.#flush);
  }

  readonly #flush = (): void => {
    const events = this.#events;
    this.#events = [];
    if (events.length > 0) this.actor.ref.tell("events", events);
  };

  async settled(): Promise<void> {
    this.#flush();
    await this.actor.ref.ask("counts", {}).catch((error) => {
      throw this.#ended ?? error;
    });
  }

  async diagnose(key: Key, lost: boolean): Promise<Diagnosis> {
    try {
      return await this.actor.ref.ask("diagnose", { key, lost });
    } catch {
      return { origin: key, left: [] };
    }
  }

  forget(state: KeyState): void {
    if (this.states.get(state.key) === state) this.states.delete(state.key);
  }

  want(key: Key, details: ConstructorParameters<typeof KeyState>[3] = {}): KeyState {
    const state = new KeyState(key, ++this.#wants, this, details);
    this.states.set(key, state);
    return state;
  }

  /** Asks the scheduler something; errors of it and of the way are this client's. */
  async ask(
    op: string,
    fields: Readonly<Record<string, unknown>> = {},
    signal?: AbortSignal,
  ): Promise<unknown> {
    this.open(`ask the scheduler for "${op}"`);
    if (this.standing !== null) {
      await (signal === undefined ? this.standing : abortable(this.standing, signal));
      this.open(`ask the scheduler for "${op}"`);
    }
    // What was done before goes first, as far as that can be had: the stream is another connection.
    this.#flush();
    const { connection } = this;
    const end = signal === undefined ? connection : AbortSignal.any([connection, signal]);
    try {
      return await this.scheduler.call(this.address, { op, ...fields }, { signal: end });
    } catch (error) {
      if (this.#ended !== null) throw this.#ended;
      if (this.#reconnection === null || !(error instanceof CommClosedError)) throw error;
      // The stream will hear of it, too.
      throw new DaskError(`Lost the scheduler at ${this.address}: ${error.message}; ask again`, {
        cause: error,
      });
    }
  }

  /** Asks a worker something, straight. */
  askWorker(address: string, request: Request, signal: AbortSignal): Promise<unknown> {
    return this.#workers.call(address, request, { signal });
  }

  /** Says something on the stream, after all that was done before. */
  say(message: Readonly<Record<string, unknown>>): void {
    this.open(`tell the scheduler "${String(message["op"])}"`);
    this.#flush();
    this.actor.ref.tell("say", message);
  }

  /** Hears what a topic is told from now on; gives the way to stop that. */
  listen(topic: string, hear: (event: unknown) => void): () => void {
    let listeners = this.#listeners.get(topic);
    if (listeners === undefined) {
      this.#listeners.set(topic, listeners = new Set());
      this.say({ op: "subscribe-topic", topic });
    }
    listeners.add(hear);
    return () => {
      if (!listeners.delete(hear) || listeners.size > 0) return;
      this.#listeners.delete(topic);
      if (this.#ended === null && this.#closed === null) this.say({ op: "unsubscribe-topic", topic });
    };
  }

  get end(): AbortSignal {
    return this.#end.signal;
  }

  get connection(): AbortSignal {
    return this.#connection.signal;
  }

  async waitForWorkers(count: number, signal: AbortSignal | undefined): Promise<void> {
    const number = ++this.#waits;
    const there = this.actor.ref.ask("wait-for-workers", { count, number }).catch((error) => {
      throw this.#ended ?? error;
    });
    if (signal === undefined) return await there;
    await abortable(there, signal, () => this.actor.ref.tell("stop-waiting", { number }));
  }

  async items(key: Key, from: number, worker: Address | null, signal: AbortSignal): Promise<ItemBatch> {
    const number = ++this.#waits;
    const batch = this.actor.ref.ask("items", { number, key, from, worker }).catch((error) => {
      throw this.#ended ?? error;
    });
    return await abortable(batch, signal, () => this.actor.ref.tell("stop-items", { number }));
  }

  async giveUp(reason: string): Promise<void> {
    this.open("reset");
    this.happened({ type: "reset", reason });
    await this.settled();
  }

  /** Resolves when the scheduler has said of all these that they are no more, after it was told to forget all. */
  async forgotten(states: readonly KeyState[]): Promise<void> {
    const gone = Promise.withResolvers<void>();
    const left = new Set(states);
    const unlisten = states.map((state) => {
      const look = () => {
        if (this.states.get(state.key) !== state && left.delete(state) && left.size === 0) gone.resolve();
      };
      look();
      return state.listen(look);
    });
    if (left.size === 0) gone.resolve();
    try {
      await abortable(gone.promise, this.connection);
    } finally {
      for (const stop of unlisten) stop();
    }
    // A graph of the same turn came to the scheduler after it had forgotten the others: nobody wants it any more.
    const keys = states.map(({ key }) => key).filter((key) => !this.states.has(key));
    if (keys.length === 0) return;
    this.say({ op: "client-releases-keys", keys: keys.map(keyToWire), client: this.id });
  }

  close(): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async shutdown(): Promise<void> {
    this.open("shut down");
    if (this.#standing !== null) await this.#standing.promise;
    this.open("shut down");
    this.#flush();
    // From here on the loss of the scheduler is what was asked for.
    this.#finish(new DaskError("The cluster was shut down by this client"));
    const late = AbortSignal.timeout(SHUTDOWN_MS);
    try {
      await this.scheduler.call(this.address, { op: "terminate" }, { signal: late });
    } catch (error) {
      if (late.aborted) {
        throw new DaskError(
          `Cannot shut down the cluster: the scheduler at ${this.address} did not end within ${SHUTDOWN_MS} ms`,
        );
      }
      // It goes without an answer.
      if (!(error instanceof CommClosedError)) throw error;
    } finally {
      await this.close();
    }
  }

  async #close(): Promise<void> {
    this.#flush();
    const closed = new DaskError("The client is closed; connect again");
    const leaving = this.actor.close();
    if (this.#ended === null) this.#finish(closed);
    this.#end.abort(closed);
    await leaving;
    await this.#reconnecting;
    await Promise.all([this.scheduler.close(), this.#workers.close(), this.#streams.close()]);
  }

  #hear(news: readonly News[]): void {
    for (const one of news) {
      const state = this.states.get(one.key);
      if (state !== undefined && state.want === one.want) state.take(one);
    }
  }

  #lose(error: Error): void {
    if (this.#ended !== null) return;
    this.#finish(error);
    this.#end.abort(error);
    this.scheduler.close();
    this.#workers.close();
    this.#streams.close();
  }

  #finish(error: Error): void {
    this.#ended = error;
    this.#connection.abort(error);
    this.#standing?.reject(error);
    const states = [...this.states.values()];
    this.states.clear();
    for (const state of states) state.end(error);
  }
}

/** Options of {@linkcode Client.map}. */
export interface MapOptions extends TaskOptions {
  /** How many items become one task. Default 1. */
  readonly chunkSize?: number;
}

/**
 * A connection with a dask scheduler, made by {@linkcode connect}. It is an executor, as `AsyncExecutor` is: the same
 * graphs give the same answers, here on a cluster.
 */
export class Client implements Executor {
  readonly #core: Core;
  /** Options for every task that is submitted through this face, or null. */
  readonly #defaults: TaskOptions | null;

  /** @internal Use {@linkcode connect}. */
  constructor(core: unknown, defaults: TaskOptions | null) {
    if (!(core instanceof Core)) throw new TypeError("Cannot make a Client: use connect()");
    this.#core = core;
    this.#defaults = defaults;
  }

  /** The id under which the scheduler knows this client. Another one after it has connected again. */
  get id(): string {
    return this.#core.id;
  }

  /** Address of the scheduler. */
  get scheduler(): string {
    return this.#core.address;
  }

  /**
   * The scheduler's dashboard.
   *
   * @throws {DaskError} when it has none.
   */
  get dashboard(): URL {
    const { address, dashboardPort } = this.#core;
    if (dashboardPort === null) {
      throw new DaskError(
        `The scheduler at ${address} has no dashboard: start it without --no-dashboard, with bokeh installed`,
      );
    }
    const { host } = parseAddress(address);
    return new URL(`http://${host.includes(":") ? `[${host}]` : host}:${dashboardPort}/status`);
  }

  /**
   * The same client with options for every task that is submitted through it, below those of the tasks themselves
   * (dask's `annotate`).
   *
   * @example
   * ```ts ignore
   * const patient = client.with({ retries: 3, priority: -1 });
   * ```
   */
  with(options: TaskOptions): Client {
    checkOptions(options, "with");
    if (options.key !== undefined) {
      throw new TypeError('Cannot use the option "key" of with: keys are of one task');
    }
    return new Client(this.#core, { ...this.#defaults, ...options });
  }

  /**
   * Submits the graph behind a node, or one call of a self-contained function, and returns at once.
   *
   * Nodes that this client holds futures of are not sent again. Options bind the submitted node, not those that it
   * depends on. `signal` cancels the task.
   *
   * @throws {SerializationError} when an argument cannot travel; its `path` names it.
   * @throws {TypeError} for options and arguments that make no sense. @throws {DaskError} when the client is closed.
   * @example
   * ```ts ignore
   * const sum = client.submit(t.add(1, 2), { retries: 2, signal: AbortSignal.timeout(5_000) });
   * const twice = client.submit((x: number) => 2 * x, [sum]);
   * console.log(await twice.result()); // 6
   * ```
   */
  submit<T>(node: Op<T>, options?: TaskOptions): Future<T>;
  /** Submits a self-contained function with its arguments, in which nodes and futures stand for their values. */
  submit<A extends unknown[], R>(
    selfContained: (...args: A) => R,
    args: LiftAll<A>,
    options?: TaskOptions,
  ): Future<Result<R>>;
  submit(
    what: AnyOp | ((...args: unknown[]) => unknown),
    second: TaskOptions | readonly unknown[] = NO_OPTIONS,
    third: TaskOptions = NO_OPTIONS,
  ): Future<unknown> {
    this.#core.open("submit");
    if (typeof what === "function") {
      if (!Array.isArray(second)) {
        throw new TypeError(
          `Cannot submit a function: expected its arguments as an array, got ${describe(second)}; write ` +
            `submit(f, [a, b])`,
        );
      }
      checkOptions(third, "submit");
      return this.#submitOne(op(what, ...second as unknown[]), third);
    }
    if (!isOp(what)) {
      throw new TypeError(`Cannot submit: expected an Op or a function, got ${describe(what)}`);
    }
    checkOptions(second, "submit");
    return this.#submitOne(what, second as TaskOptions);
  }

  /**
   * Submits one node for each item, as one graph.
   *
   * @param items An iterable; or an async iterable, which is read as results come: at most `maxPending` (default 64)
   * tasks are under way or waiting to be taken.
   * @param options `chunkSize`: so many items become one task, which calls their function for one after the other. It is
   * for many tiny items: a scheduler takes some hundred microseconds for a task. All nodes must then be calls of one task
   * in TypeScript, with the same options. Options bind the chunk, and it is a chunk that fails: with one item fail all of
   * its chunk (`remoteStack` of the error names the one); a retry repeats them all, a cancel stops them all, and the
   * results go when all futures of the chunk are released. Of an async iterable a chunk is sent when it is full, or the
   * items are at their end. Default 1.
   * @returns The futures in the order of the items; of an async iterable an iterable of them, to be walked once.
   * @example
   * ```ts ignore
   * const futures = client.map((i: number) => t.add(i, 1), [1, 2, 3]);
   * console.log(await client.gather(futures)); // [2, 3, 4]
   * const many = client.map((i: number) => t.add(i, 1), Array(10_000).keys(), { chunkSize: 500 }); // 20 tasks
   * ```
   */
  map<X, R>(fn: (item: X) => Op<R>, items: Iterable<X>, options?: MapOptions): Future<R>[];
  /** Submits one node for each item as it comes. */
  map<X, R>(
    fn: (item: X) => Op<R>,
    items: AsyncIterable<X>,
    options?: MapOptions & { readonly maxPending?: number },
  ): AsyncIterableIterator<Future<R>>;
  map<X, R>(
    fn: (item: X) => Op<R>,
    items: Iterable<X> | AsyncIterable<X>,
    options: MapOptions & { readonly maxPending?: number } = NO_OPTIONS,
  ): Future<R>[] | AsyncIterableIterator<Future<R>> {
    this.#core.open("map");
    if (typeof fn !== "function") throw new TypeError(`Cannot map: expected a function, got ${describe(fn)}`);
    if (typeof items === "object" && items !== null && Symbol.asyncIterator in items) {
      checkOptions(options, "map", ["maxPending", "chunkSize"]);
      const { maxPending = PENDING_MAX, chunkSize = 1, ...rest } = options;
      checkCount("maxPending", maxPending);
      checkCount("chunkSize", chunkSize);
      return this.#mapAsync(fn, items, rest, maxPending, chunkSize);
    }
    checkOptions(options, "map", ["chunkSize"]);
    const { chunkSize = 1, ...rest } = options;
    checkCount("chunkSize", chunkSize);
    if (
      typeof items !== "string" &&
      (typeof items !== "object" || items === null || !(Symbol.iterator in items))
    ) {
      throw new TypeError(`Cannot map: expected an iterable of items, got ${describe(items)}`);
    }
    const nodes: Op<R>[] = [];
    for (const item of items as Iterable<X>) {
      const node = fn(item);
      if (!isOp(node)) {
        throw new TypeError(
          `Cannot map item ${nodes.length}: expected its function to give an Op, got ${describe(node)}`,
        );
      }
      nodes.push(node);
    }
    if (chunkSize === 1) {
      return this.#submitAll(nodes, options === NO_OPTIONS ? options : rest) as Future<R>[];
    }
    return this.#submitChunks(nodes, rest, chunkSize);
  }

  /**
   * Brings many values here, batched by the workers that hold them. Rejects with the first failure.
   *
   * @param options `signal` ends the waiting alone.
   */
  async gather<const L extends readonly Future<unknown>[]>(
    futures: L,
    options: Waiting = {},
  ): Promise<Values<L>> {
    this.#core.open("gather");
    const signal = signalOf(options);
    signal?.throwIfAborted();
    const list = futuresOf(futures, "gather");
    const borrowed: Future<unknown>[] = [];
    try {
      const values = list.map(async (future) => {
        if (stateOf(future, "gather").owner === this.#core) return await future.result(options);
        // The scheduler may hear of us before it hears of a task that another client has just submitted.
        await wait([future], options);
        const own = newFuture(this.#core.states.get(future.key) ?? this.#desire(future.key), future[PART]);
        borrowed.push(own);
        return await own.result(options);
      });
      return await Promise.all(values) as Values<L>;
    } finally {
      for (const future of borrowed) future.release();
    }
  }

  /**
   * Puts a value onto the cluster, so that many tasks can use it and it travels once.
   *
   * @param options `workers` says where; `broadcast` puts a copy on each of them.
   * @throws {SerializationError} when the value cannot travel. @throws {DaskError} when there is no worker.
   */
  async scatter<T>(
    value: T,
    options: { readonly broadcast?: boolean; readonly workers?: readonly string[] } = {},
  ): Promise<Future<T>> {
    this.#core.open("scatter");
    const { broadcast = false, workers } = options;
    if (typeof broadcast !== "boolean") {
      throw new TypeError(
        `Cannot use the option "broadcast" of scatter: expected true or false, got ${describe(broadcast)}`,
      );
    }
    const places = workers === undefined ? null : addressesOf(workers, "scatter");
    if (isOp(value) || value instanceof Future) {
      throw new TypeError(`Cannot scatter ${describe(value)}: expected a value; submit it instead`);
    }
    const key = `data-${crypto.randomUUID().replaceAll("-", "")}`;
    const payload = encodeValue(value);
    // What is put there is kept for a client of this id.
    if (this.#core.standing !== null) await this.#core.standing;
    // Through the scheduler: should a worker leave meanwhile, it is the scheduler that knows.
    await this.#core.ask("scatter", {
      data: new Map([[key, serialized(payload)]]),
      workers: places,
      client: this.id,
      broadcast,
      timeout: SCATTER_SECONDS,
    });
    this.#core.open("scatter");
    const state = this.#core.want(key);
    state.status = "finished";
    this.#core.happened({ type: "scattered", key, want: state.want });
    return newFuture<T>(state);
  }

  /**
   * A future of a task that somebody else submitted, a client in Python perhaps. When the scheduler does not know the
   * key, the future is cancelled.
   */
  future<T>(key: string): Future<T> {
    this.#core.open("make a future");
    if (typeof key !== "string" || key === "") {
      throw new TypeError(`Cannot make a future: expected a key, got ${describe(key)}`);
    }
    keyToWire(key);
    return newFuture<T>(this.#core.states.get(key) ?? this.#desire(key));
  }

  /**
   * Makes an instance of a class on a worker, where it stays with its state; gives a handle to call it by, see
   * {@linkcode Remote}. Futures and nodes among the arguments stand for their values. The constructor runs as a task, in a
   * slot and with these options; without `key` it is a new actor each time. When there is an actor under that key
   * already, it is given as it is.
   *
   * @param options `signal` cancels the making; it has no part in the calls.
   * @throws {TaskError} when the constructor throws. @throws {SerializationError} when an argument cannot travel.
   * @example
   * ```ts ignore
   * const t = tasks<typeof import("./counter.ts")>(new URL("./counter.ts", import.meta.url));
   * await using counter = await client.actor(t.Counter, [10]);
   * console.log(await counter.add(2), await counter.n); // 12 12
   * ```
   */
  async actor<A extends unknown[], I extends object>(
    cls: ActorTask<A, I>,
    args: LiftAll<A>,
    options: TaskOptions = NO_OPTIONS,
  ): Promise<Remote<I>> {
    const call = "make an actor";
    this.#core.open(call);
    if (!Array.isArray(args)) {
      throw new TypeError(
        `Cannot ${call}: expected the constructor's arguments as an array, got ${describe(args)}; write ` +
          `actor(t.Counter, [10])`,
      );
    }
    checkOptions(options, "actor");
    const { code, options: own } = codeOf(cls);
    const node = asOp<I>(callNode(code, args, { ...own, pure: false }));
    return await this.#remote<I>(this.#submitOne(node, options, true), undefined);
  }

  /**
   * The actor that somebody made under a key: another client, or another task. It lives as long as one of them wants it.
   *
   * @param options `signal` ends the waiting for it.
   * @throws {CancelledError} when the scheduler does not know the key. @throws {DaskError} when it is no actor.
   * @example
   * ```ts ignore
   * await client.actor(t.Counter, [10], { key: "visits" });
   * // elsewhere, in a task as well:
   * await using counter = await (await current().client()).remote<Counter>("visits");
   * await counter.add(1);
   * ```
   */
  async remote<I extends object>(key: string, options: Waiting = {}): Promise<Remote<I>> {
    return await this.#remote<I>(this.future(key), signalOf(options));
  }

  async #remote<I extends object>(
    future: Future<unknown>,
    signal: AbortSignal | undefined,
  ): Promise<Remote<I>> {
    const core = this.#core;
    try {
      return await remote<I>(future, {
        worker: (address, request, signal) => core.askWorker(address, request, signal),
        scheduler: (request, signal) => core.scheduler.call(core.address, request, { signal }),
      }, signal);
    } catch (error) {
      future.release();
      throw error;
    }
  }

  /**
   * Stops tasks and all that depends on them. Nodes are those of futures that this client holds.
   *
   * @throws {TypeError} when one is neither a future nor a node.
   */
  async cancel(targets: Iterable<Future<unknown> | AnyOp>): Promise<void> {
    this.#core.open("cancel");
    if (typeof targets !== "object" || targets === null || !(Symbol.iterator in targets)) {
      throw new TypeError(`Cannot cancel: expected futures or nodes, got ${describe(targets)}`);
    }
    for (const target of [...targets]) {
      const key = isOp(target) || target instanceof Future ? target.key : null;
      if (key === null) {
        throw new TypeError(`Cannot cancel: expected futures or nodes, got ${describe(target)}`);
      }
      const state = this.#core.states.get(key);
      if (state !== undefined) {
        this.#core.happened({ type: "cancelled", key, want: state.want, reason: null });
      }
    }
    await this.#core.settled();
  }

  /**
   * Copies results to further workers: those of all futures of this client unless told otherwise.
   *
   * @param options `copies`: on how many workers each is to be. Default: on all.
   */
  async replicate(
    futures?: readonly Future<unknown>[],
    options: { readonly copies?: number } = {},
  ): Promise<void> {
    this.#core.open("replicate");
    const { copies } = options;
    if (copies !== undefined && (!Number.isSafeInteger(copies) || copies < 1)) {
      throw new TypeError(
        `Cannot use the option "copies" of replicate: expected an integer from 1, got ${describe(copies)}`,
      );
    }
    const keys = await this.#finishedKeys(futures, "replicate");
    if (keys.length === 0) return;
    const reply = await this.#core.ask("replicate", {
      keys: keys.map(keyToWire),
      ...(copies === undefined ? {} : { n: copies }),
    });
    refusePartFailure(reply, "replicate");
  }

  /** Evens out how full the workers' memories are, by moving results: those of all futures unless told otherwise. */
  async rebalance(futures?: readonly Future<unknown>[]): Promise<void> {
    this.#core.open("rebalance");
    const keys = await this.#finishedKeys(futures, "rebalance");
    if (keys.length === 0) return;
    refusePartFailure(await this.#core.ask("rebalance", { keys: keys.map(keyToWire) }), "rebalance");
  }

  /** Which workers hold which results: of some futures, or of all that the scheduler knows. Key to addresses. */
  async whoHas(futures?: readonly Future<unknown>[]): Promise<ReadonlyMap<string, readonly string[]>> {
    this.#core.open("ask who has what");
    const keys = futures === undefined
      ? null
      : futuresOf(futures, "whoHas").map((future) => keyToWire(future.key));
    return readKeyMap(await this.#core.ask("who_has", { keys }), "who_has", texts);
  }

  /** Which results are on which workers: on some, or on all. Address to keys. */
  async hasWhat(workers?: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>> {
    this.#core.open("ask who has what");
    const places = workers === undefined ? null : addressesOf(workers, "hasWhat");
    return readKeyMap(await this.#core.ask("has_what", { workers: places }), "has_what", readKeys);
  }

  /** Which tasks each worker has been given and has not finished. Address to keys. */
  async processing(): Promise<ReadonlyMap<string, readonly string[]>> {
    return readKeyMap(await this.#core.ask("processing"), "processing", readKeys);
  }

  /** The scheduler, and who works for it. */
  async schedulerInfo(): Promise<SchedulerInfo> {
    return readSchedulerInfo(await this.#core.ask("identity"), this.#core.schedulerVersion);
  }

  /** The workers, ours and Python's. */
  async workers(): Promise<readonly WorkerInfo[]> {
    return (await this.schedulerInfo()).workers;
  }

  /** Waits until at least so many workers are there. `signal` ends the waiting. */
  async waitForWorkers(count: number, options: Waiting = {}): Promise<void> {
    this.#core.open("wait for workers");
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new TypeError(`Cannot wait for workers: expected how many, an integer, got ${describe(count)}`);
    }
    await this.#core.waitForWorkers(count, signalOf(options));
  }

  /**
   * Retires workers: their results move to others, then they end. Without addresses the scheduler chooses those that
   * are not needed.
   *
   * @returns Those that were retired. A worker stays when nobody can take what it alone holds.
   * @throws {DaskError} when an address is not that of a worker.
   */
  async retireWorkers(addresses?: readonly string[]): Promise<readonly string[]> {
    this.#core.open("retire workers");
    const workers = addresses === undefined ? null : await this.#knownWorkers(addresses, "retireWorkers");
    const reply = await this.#core.ask("retire_workers", {
      ...(workers === null ? {} : { workers }),
      close_workers: true,
      remove: true,
      stimulus_id: this.#stimulus("retire-workers"),
    });
    return Object.keys(readRecord(reply, "retire_workers"));
  }

  /**
   * Ends workers. Results that only they hold move to others where there are others, else they are computed again
   * when they are needed.
   *
   * @returns Those that were ended.
   * @throws {DaskError} when an address is not that of a worker; then none is ended.
   */
  async shutdownWorkers(addresses: readonly string[]): Promise<readonly string[]> {
    this.#core.open("shut down workers");
    const workers = await this.#knownWorkers(addresses, "shutdownWorkers");
    const retired = new Set(workers.length === 0 ? [] : await this.retireWorkers(workers));
    for (const address of workers) {
      if (retired.has(address)) continue;
      await this.#core.ask("unregister", { address, stimulus_id: this.#stimulus("shutdown-workers") });
      retired.add(address);
    }
    return [...retired];
  }

  /**
   * How far some futures are, each time that changes; ends when all came to an end. For people there is
   * {@linkcode showProgress}.
   *
   * @example
   * ```ts ignore
   * for await (const { done, erred, total } of client.progress(futures)) console.log(done, erred, total);
   * ```
   */
  async *progress(futures: Iterable<Future<unknown>>): AsyncIterableIterator<Required<Progress>> {
    this.#core.open("watch the progress");
    const list = futuresOf(futures, "progress");
    const count = () => ({
      done: list.filter((future) => future.status !== "pending").length,
      erred: list.filter((future) => future.status !== "pending" && future.status !== "finished").length,
      total: list.length,
    });
    let told = count();
    yield told;
    // One that was done may be pending again, when its value is lost.
    for (let rest = list; rest.length > 0; rest = rest.filter((future) => future.status === "pending")) {
      for await (const _ of asCompleted(rest)) {
        const now = count();
        if (now.done === told.done && now.erred === told.erred) continue;
        told = now;
        yield told;
      }
    }
  }

  // --- The cluster as a whole ---

  /**
   * Runs one task once on each worker, aside from all tasks and also while they are busy; dask's `client.run`. For what
   * is to be known of workers or done to their hosts: the call runs in a process of its own, so what it leaves in global
   * variables is gone with it, and the scheduler knows nothing of it.
   *
   * @param args Plain values; no nodes or futures.
   * @param options `workers`: addresses; default: all TypeScript workers. `signal` ends the waiting, not the calls.
   * @returns Address to outcome. Where it failed, the reason is a {@linkcode TaskError} that names the worker; so it is
   * for a worker of Python's.
   * @throws {DaskError} when an address is not that of a worker; then it runs nowhere.
   * @throws {TypeError} when an argument is a node or a future, or the task has options such as `permissions`.
   * @example
   * ```ts ignore
   * const hosts = await client.runOnWorkers(task(() => Deno.hostname()), []);
   * for (const [address, outcome] of hosts) {
   *   console.log(address, outcome.status === "fulfilled" ? outcome.value : outcome.reason.message);
   * }
   * ```
   */
  async runOnWorkers<A extends unknown[], R>(
    task: Task<A, R>,
    args: NoInfer<A>,
    options: RunOnWorkersOptions = {},
  ): Promise<ReadonlyMap<string, PromiseSettledResult<R>>> {
    this.#core.open("run on workers");
    const signal = signalOf(options);
    signal?.throwIfAborted();
    const { workers } = options;
    const addresses = workers === undefined ? null : addressesOf(workers, "runOnWorkers");
    // A plain function would run here.
    if (typeof task !== "function" || typeof task.with !== "function") {
      throw new TypeError(
        `Cannot run on workers: expected a task, as task(f) or tasks(…) make it, got ${describe(task)}`,
      );
    }
    if (!Array.isArray(args)) {
      throw new TypeError(
        `Cannot run on workers: expected a list of arguments, got ${describe(args)}`,
      );
    }
    const node = (task as (...args: unknown[]) => AnyOp)(...args);
    const call = callAside(node, this.#defaults);
    // What the task is declared to give.
    return await runOnWorkers(this.#asking, call, addresses, signal) as ReadonlyMap<
      string,
      PromiseSettledResult<R>
    >;
  }

  /**
   * Starts all workers afresh, and the scheduler forgets all tasks of all clients; dask's `restart`. Futures of before
   * become `"cancelled"`; what is submitted afterwards runs as if nothing had been before.
   *
   * Workers need a nanny for that, which they have unless they were started with `--no-nanny`.
   *
   * @throws {DaskError} when a worker has no nanny, unless `waitForWorkers` is false: then it ends. Nothing was done.
   * @throws {DaskError} when workers take longer than `timeout`; all tasks are forgotten then, too.
   * @example
   * ```ts ignore
   * await client.restart({ timeout: 60_000 });
   * ```
   */
  async restart(options: RestartOptions = {}): Promise<void> {
    this.#core.open("restart");
    const states = [...this.#core.states.values()];
    const held = states.map((state) => newFuture<unknown>(state));
    try {
      await restart(this.#asking, null, options);
      await this.#core.forgotten(states);
    } finally {
      for (const future of held) future.release();
    }
  }

  /**
   * Starts some workers afresh; dask's `restart_workers`. Their tasks run elsewhere, or again; results that only they
   * held are computed again when they are needed.
   *
   * @throws {DaskError} when an address is not that of a worker, or a worker has no nanny; then none is restarted.
   * @throws {DaskError} when they take longer than `timeout`.
   */
  async restartWorkers(addresses: readonly string[], options: RestartOptions = {}): Promise<void> {
    this.#core.open("restart workers");
    await restart(this.#asking, addressesOf(addresses, "restartWorkers"), options);
  }

  /**
   * What scheduler, workers and this client run on, and with which packages; dask's `get_versions`.
   *
   * @param options `check`: refuse a cluster in which Python's processes have different releases. Default false.
   * @throws {DaskError} with `check`, when they differ; it names package, versions and workers.
   * @example
   * ```ts ignore
   * const { scheduler, workers } = await client.versions({ check: true });
   * console.log(scheduler.packages.distributed, [...workers.values()].map(({ host }) => host.deno ?? host.python));
   * ```
   */
  async versions(options: { readonly check?: boolean } = {}): Promise<Versions> {
    this.#core.open("ask for versions");
    const { check = false } = options;
    if (typeof check !== "boolean") {
      throw new TypeError(
        `Cannot use the option "check" of versions: expected true or false, got ${describe(check)}`,
      );
    }
    return await versions(this.#asking, check);
  }

  /**
   * Ends the workers, their nannies and the scheduler, then this client; dask's `shutdown`. Other clients of the same
   * scheduler lose it.
   *
   * @throws {DaskError} when the scheduler does not end within 30 s; the client is closed all the same.
   * @example
   * ```ts ignore
   * const client = await connect("tcp://scheduler:8786");
   * await client.shutdown();
   * ```
   */
  async shutdown(): Promise<void> {
    await this.#core.shutdown();
  }

  // --- What happened ---

  /**
   * Which tasks ran when and where, oldest first, as far as the scheduler remembers: dask's `get_task_stream`. A
   * scheduler without a dashboard begins to remember with the first call.
   *
   * @example
   * ```ts ignore
   * const runs = await client.getTaskStream({ start: Date.now() - 60_000 });
   * for (const { key, worker, steps } of runs) console.log(key, worker, steps.at(-1)!.stop - steps[0]!.start, "ms");
   * ```
   */
  async getTaskStream(options: TaskStreamOptions = {}): Promise<readonly TaskRun[]> {
    return await taskStream(this.#asking, options);
  }

  /**
   * Begins a performance report, dask's `performance_report`: what the cluster does until it is disposed of is written
   * to `file`, an HTML page. The scheduler makes it, and needs bokeh for that.
   *
   * @param options `code`: a text that is shown in it, such as the program.
   * @throws {DaskError} when it is disposed of and the scheduler cannot make it.
   * @example
   * ```ts ignore
   * {
   *   await using _ = await client.performanceReport("report.html");
   *   await client.run(nodes);
   * }
   * ```
   */
  async performanceReport(
    file: string | URL,
    options: { readonly code?: string } = {},
  ): Promise<AsyncDisposable> {
    return await performanceReport(this.#asking, file, options.code ?? "");
  }

  /** The last lines of the scheduler's log, newest first; dask's `get_scheduler_logs`. */
  async schedulerLogs(options: LogOptions = {}): Promise<readonly LogLine[]> {
    return await schedulerLogs(this.#asking, options);
  }

  /**
   * The last lines of the logs of workers, newest first, by address; dask's `get_worker_logs`.
   *
   * @param options `workers`: of these; default: of all.
   */
  async workerLogs(
    options: LogOptions & { readonly workers?: readonly string[] } = {},
  ): Promise<ReadonlyMap<string, readonly LogLine[]>> {
    const { workers } = options;
    return await workerLogs(
      this.#asking,
      options,
      workers === undefined ? null : addressesOf(workers, "workerLogs"),
    );
  }

  // --- What clients and tasks share by name ---

  /**
   * The queue of this name; Python's `Queue`. Items are plain data, or futures, of which the others get the value.
   *
   * @param maxSize Items that it holds before `put` waits; the first who names the queue decides. Default 0: any number.
   * @throws {TypeError} for a name that is not a text. @throws {RangeError} for a size below 0.
   */
  queue<T>(name: string, maxSize = 0): Queue<T> {
    return new Queue<T>(this.#sharing("make a queue"), name, maxSize);
  }

  /** The variable of this name; Python's `Variable`. */
  variable<T>(name: string): Variable<T> {
    return new Variable<T>(this.#sharing("make a variable"), name);
  }

  /** The event of this name; Python's `Event`. */
  event(name: string): SharedEvent {
    return new SharedEvent(this.#sharing("make an event"), name);
  }

  /**
   * Waits for the lock of this name; Python's `Lock`, and with `leases` its `Semaphore`.
   *
   * @param options `leases`: how many may have it at once, the same for everybody, default 1. `signal` ends the waiting.
   * @example
   * ```ts ignore
   * {
   *   await using held = await client.lock("db");
   *   // nobody else is here
   * }
   * ```
   */
  async lock(name: string, options: Waiting & { readonly leases?: number } = {}): Promise<Lease> {
    return await acquire(this.#sharing("wait for a lock"), name, options);
  }

  /**
   * What is told under a topic from now on: by `current().log()` in tasks, by {@linkcode Client.logEvent}, by Python's
   * `log_event`. Events are kept until they are asked for, so take them, or end it: by leaving the loop, by `return()`,
   * or by `signal`.
   *
   * @param options `signal` ends the iteration with its reason.
   */
  topic<E>(name: string, options: Waiting = {}): AsyncIterableIterator<E> {
    const sharing = this.#sharing("listen to a topic");
    const signal = signalOf(options);
    if (typeof name !== "string" || name === "") {
      throw new TypeError(`Cannot listen to a topic: expected its name, got ${describe(name)}`);
    }
    return events<E>((hear) => this.#core.listen(name, hear), sharing, signal);
  }

  /** Tells everybody who listens to a topic; plain data. */
  async logEvent(topic: string, event: unknown): Promise<void> {
    await logEvent(this.#sharing("log an event"), topic, event);
  }

  /** What was told under a topic so far, oldest first, as far as the scheduler remembers. `at`: ms since the epoch. */
  async pastEvents(topic: string): Promise<readonly { readonly at: number; readonly event: unknown }[]> {
    return await pastEvents(this.#sharing("ask for past events"), topic);
  }

  /**
   * Publishes a future under a name, for other clients, also Python's: the result is kept until it is unpublished.
   *
   * @param options `override`: in the place of what has the name already. Default false.
   * @throws {DaskError} when the name is taken.
   */
  async publish(
    name: string,
    future: Future<unknown>,
    options: { readonly override?: boolean } = {},
  ): Promise<void> {
    await publish(this.#sharing("publish"), name, future, options.override ?? false);
  }

  /**
   * The future that somebody published under a name.
   *
   * @throws {DaskError} when there is none, or when it is a collection of Python's.
   */
  async dataset<T>(name: string): Promise<Future<T>> {
    return await dataset(this.#sharing("find a dataset"), name) as Future<T>;
  }

  /** The names under which something is published. */
  async datasets(): Promise<readonly string[]> {
    return await datasets(this.#sharing("list datasets"));
  }

  /** Takes a published name back. */
  async unpublish(name: string): Promise<void> {
    await unpublish(this.#sharing("unpublish"), name);
  }

  readonly #asking: Ask = (op, fields, signal) => this.#core.ask(op, fields, signal);

  #sharing(call: string): Sharing {
    const core = this.#core;
    core.open(call);
    return {
      get id() {
        return core.id;
      },
      end: core.end,
      get connection() {
        return core.connection;
      },
      get standing() {
        return core.standing;
      },
      get schedulerVersion() {
        return core.schedulerVersion;
      },
      ask: (op, fields, signal) => core.ask(op, fields, signal),
      say: (message) => core.say(message),
      submit: (node) => this.#submitOne(node, NO_OPTIONS),
      future: (key) => this.future(key),
    };
  }

  /**
   * Runs the graph behind some nodes and gives their values in the order asked. Rejects with the first failure; the
   * rest is cancelled then. The cluster may forget the results afterwards.
   */
  run(graph: DispatchGraph, options?: RunOptions): Promise<unknown[]>;
  run<const L extends readonly AnyOp[]>(nodes: L, options?: RunOptions): Promise<Values<L>>;
  async run(nodes: readonly AnyOp[] | DispatchGraph, options: RunOptions = NO_OPTIONS): Promise<unknown> {
    const futures = this.#start(nodes, options, "run");
    try {
      return await Promise.all(futures.map((future) => future.result()));
    } finally {
      for (const future of futures) future.release();
    }
  }

  /** As {@linkcode Client.run}, but always to the end; tells of each node how it ended. */
  async runSettled<const L extends readonly AnyOp[]>(
    nodes: L,
    options: RunOptions = NO_OPTIONS,
  ): Promise<Settled<L>> {
    const futures = this.#start(nodes, options, "runSettled");
    try {
      // One outcome for each node, in order: what the type says.
      return await Promise.all(futures.map((future) => future.settled())) as Settled<L>;
    } finally {
      for (const future of futures) future.release();
    }
  }

  /** Gives up everything that this client wants: its futures are cancelled, its data may go. Workers stay. */
  async reset(): Promise<void> {
    await this.#core.giveUp("the client was reset");
  }

  /**
   * Ends this client: its keys are released, those who wait are refused. Scheduler and workers live on. Values that
   * were read stay with their futures. May be called twice.
   */
  async close(): Promise<void> {
    await this.#core.close();
  }

  /** As {@linkcode Client.close}: `await using client = …`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** `Client(tcp://127.0.0.1:8786)`. */
  toString(): string {
    return `Client(${this.#core.address}${this.#core.ended === null ? "" : ", closed"})`;
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /** What Jupyter shows: scheduler, dashboard and workers, as far as the scheduler answers within two seconds. */
  async [Symbol.for("Jupyter.display")](): Promise<Readonly<Record<string, string>>> {
    const { id, address, dashboardPort, schedulerVersion } = this.#core;
    const dashboard = dashboardPort === null ? null : this.dashboard.href;
    // A notebook shows what it can; who wants the error asks for something.
    const info = await this.#core.ask("identity", {}, AbortSignal.timeout(DISPLAY_MS)).then(
      (identity) => readSchedulerInfo(identity, schedulerVersion),
      () => null,
    );
    return showClient({ text: this.toString(), id, address, dashboard }, info);
  }

  // --- Submitting ---

  #start(nodes: readonly AnyOp[] | DispatchGraph, options: RunOptions, call: string): Future<unknown>[] {
    this.#core.open(call);
    checkOptions(options, call, ["inputs"]);
    const outputs = nodes instanceof DispatchGraph ? nodes.leaves : nodes;
    if (!Array.isArray(outputs)) {
      throw new TypeError(`Cannot ${call}: expected a list of nodes, got ${describe(nodes)}`);
    }
    const { inputs, ...rest } = options;
    return this.#submitAll(outputs, options === NO_OPTIONS ? NO_OPTIONS : rest, inputs);
  }

  /** A key that is held already, asked for under other restrictions, is another task. */
  #submitOne(node: AnyOp, options: TaskOptions, actor = false): Future<unknown> {
    const key = this.#restrictedOtherwise(node, options);
    const fresh = key !== null && options.key === undefined;
    const [future] = this.#submitAll([node], fresh ? { ...options, pure: false } : options, undefined, actor);
    return future!;
  }

  /** The key of a node that this client holds already, under other restrictions than those asked for now; or null. */
  #restrictedOtherwise(node: AnyOp, options: TaskOptions): Key | null {
    const { states } = this.#core;
    if (states.size === 0 || options.pure === false) return null;
    // Nodes are opaque to users only.
    const { options: own = NO_OPTIONS } = node as unknown as { readonly options?: TaskOptions };
    const plain = options === NO_OPTIONS && this.#defaults === null;
    const { restrictions } = tell(plain ? own : { ...this.#defaults, ...own, ...options });
    if (restrictions === "") return null;
    const state = states.get(options.key ?? node.key);
    return state === undefined || restrictions === state.restrictions ? null : state.key;
  }

  #submitAll(
    nodes: readonly AnyOp[],
    options: TaskOptions,
    inputs?: ReadonlyMap<AnyOp, unknown>,
    actors = false,
  ): Future<unknown>[] {
    const signal = options.signal ?? this.#defaults?.signal;
    signal?.throwIfAborted();
    const core = this.#core;
    for (const node of inputs === undefined ? nodes : []) {
      const key = isOp(node) ? this.#restrictedOtherwise(node, options) : null;
      if (key === null) continue;
      core.logger.log(
        "warning",
        `Task "${
          keyText(key)
        }" is there already, with other restrictions; those of this submission are not used: ` +
          `release its futures first, or give it another key`,
      );
    }
    const context: LowerContext = {
      held: (key) => core.states.has(key),
      python: true,
      parts: true,
      ...(options === NO_OPTIONS ? {} : { options }),
      ...(this.#defaults === null ? {} : { defaults: this.#defaults }),
      ...(inputs === undefined ? {} : { inputs }),
    };
    const lowered = lower(nodes, context);
    const futures = this.#enter(lowered, actors);
    if (signal !== undefined) { for (const future of futures) cancelOnAbort(future, signal); }
    return futures;
  }

  #enter({ tasks, outputs, priorities }: LoweredGraph, actors: boolean): Future<unknown>[] {
    const core = this.#core;
    const submitted: SubmittedTask[] = new Array(tasks.length);
    const restrictions = new Map<Key, string>();
    const code: Key[] = [];
    let policies: Map<Key, RetryPolicy> | null = null;
    for (let i = 0; i < tasks.length; i++) {
      const task = tasks[i]!;
      const { key, label, dependencies, options } = task;
      const told = tell(options);
      if (told.restrictions !== "") restrictions.set(key, told.restrictions);
      if (options.retryOn !== undefined) {
        const { retries, retryOn, retryPause } = options;
        (policies ??= new Map()).set(key, new RetryPolicy(retryOn, retries, retryPause));
      }
      if (isCode(task)) code.push(key);
      const common = {
        key,
        function: CALL_PREFIX + label,
        dependencies,
        order: priorities.get(key) ?? i,
        annotations: told.annotations,
      };
      submitted[i] = task.python === undefined
        ? { ...common, payload: encoded(task, encodeCall), signature: told.signature }
        : {
          ...common,
          payload: NO_BYTES,
          signature: `python ${told.signature}`,
          python: { ...task.python, args: encoded(task, ({ args }) => pythonArguments(args)) },
        };
    }
    if (actors) {
      // Dependencies come first, so outputs are found from the end.
      for (const key of outputs) {
        const i = submitted.findLastIndex((task) => task.key === key);
        if (i < 0) continue;
        const task = submitted[i]!;
        submitted[i] = { ...task, actor: true, signature: `actor ${task.signature}` };
      }
    }
    // Nothing can fail from here on.
    const wants: Want[] = [];
    const made = new Set(tasks.length === 0 ? [] : tasks.map(({ key }) => key));
    const want = (key: Key, isCode: boolean): KeyState => {
      const state = core.want(key, { policies, restrictions: restrictions.get(key) ?? "", isCode });
      wants.push({ key, want: state.want });
      return state;
    };
    // Code is kept for the tasks to come: it would have to be sent with each graph.
    for (const key of code) want(key, true).hold();
    const futures = outputs.map((key) => {
      const state = core.states.get(key) ?? (made.has(key) ? want(key, false) : this.#desire(key));
      return newFuture<unknown>(state);
    });
    if (submitted.length > 0) core.happened({ type: "submitted", tasks: submitted, wants });
    return futures;
  }

  #desire(key: Key): KeyState {
    const state = this.#core.want(key);
    this.#core.happened({ type: "desired", key, want: state.want });
    return state;
  }

  /** Futures of the items, each of its place in the list of its chunk. */
  #submitChunks<R>(nodes: readonly Op<R>[], options: TaskOptions, chunkSize: number): Future<R>[] {
    const sizes: number[] = [];
    const chunks: Op<R[]>[] = [];
    for (let at = 0; at < nodes.length; at += chunkSize) {
      const chunk = nodes.slice(at, at + chunkSize);
      sizes.push(chunk.length);
      chunks.push(chunkOf(chunk));
    }
    let wholes: readonly Future<unknown>[];
    try {
      wholes = this.#submitAll(chunks, options);
    } catch (error) {
      // The item's own node names the argument that cannot travel by its place there.
      if (error instanceof SerializationError) { for (const { key } of nodes) void key; }
      throw error;
    }
    return wholes.flatMap((whole, i) => {
      const state = stateOf(whole, "map's chunk");
      const parts = Array.from({ length: sizes[i]! }, (_, part) => newFuture<R>(state, part));
      whole.release();
      return parts;
    });
  }

  async *#mapAsync<X, R>(
    fn: (item: X) => Op<R>,
    items: AsyncIterable<X>,
    options: TaskOptions,
    maxPending: number,
    chunkSize: number,
  ): AsyncIterableIterator<Future<R>> {
    const source = items[Symbol.asyncIterator]();
    /** By chunk, none empty. */
    const ready: Future<R>[][] = [];
    let changed = Promise.withResolvers<void>();
    const wake = (): void => {
      changed.resolve();
      changed = Promise.withResolvers<void>();
    };
    let pending = 0;
    let stopped = false;
    let failure: { readonly error: unknown } | null = null;
    let ended = false;
    const submit = (chunk: readonly X[]): void => {
      const futures = this.map(fn, chunk, { ...options, chunkSize });
      const state = stateOf(futures[0], "map's future");
      pending++;
      const look = (): void => {
        if (!state.isDone && state.owner.ended === null) return;
        unlisten();
        pending--;
        wake();
      };
      const unlisten = state.listen(look);
      look();
      ready.push(futures);
      wake();
    };
    const pump = async (): Promise<void> => {
      let chunk: X[] = [];
      try {
        while (!stopped) {
          if (pending + ready.filter(([future]) => future!.status !== "pending").length >= maxPending) {
            this.#core.waits();
            await changed.promise;
            continue;
          }
          let next: IteratorResult<X> | null = null;
          try {
            next = await source.next();
          } finally {
            // What came before the end of the items, or their failure, is mapped all the same.
            if (next?.done === false) chunk.push(next.value);
            if (!stopped && (next?.done === false ? chunk.length === chunkSize : chunk.length > 0)) {
              submit(chunk);
              chunk = [];
            }
          }
          if (next.done === true) break;
        }
      } catch (error) {
        failure = { error };
      } finally {
        ended = true;
        wake();
      }
    };
    const pumping = pump();
    try {
      for (;;) {
        const future = ready[0]?.shift();
        if (future !== undefined) {
          if (ready[0]!.length === 0) ready.shift();
          wake();
          yield future;
        } else if (failure !== null) {
          throw (failure as { readonly error: unknown }).error;
        } else if (ended) return;
        else await changed.promise;
      }
    } finally {
      stopped = true;
      wake();
      for (const future of ready.flat()) future.release();
      if (!ended) await source.return?.();
      await pumping;
    }
  }

  // --- The rest ---

  async #finishedKeys(
    futures: readonly Future<unknown>[] | undefined,
    call: string,
  ): Promise<readonly Key[]> {
    const states = futures === undefined
      ? [...this.#core.states.values()].filter((state) => !state.isCode)
      : futuresOf(futures, call).map((future) => stateOf(future, call));
    const held = states.map((state) => newFuture<unknown>(state));
    try {
      await wait(held);
      return states.filter(({ status }) => status === "finished").map(({ key }) => key);
    } finally {
      for (const future of held) future.release();
    }
  }

  async #knownWorkers(addresses: readonly string[], call: string): Promise<readonly string[]> {
    const wanted = addressesOf(addresses, call);
    const verb = call === "retireWorkers" ? "retire" : "shut down";
    return knownWorkers(await this.workers(), wanted, verb).map(({ address }) => address);
  }

  #stimulus(name: string): string {
    return `${name}-${crypto.randomUUID()}`;
  }
}

function checkCount(name: string, value: unknown): void {
  if (Number.isSafeInteger(value) && Number(value) >= 1) return;
  throw new TypeError(
    `Cannot use the option "${name}" of map: expected an integer from 1, got ${describe(value)}`,
  );
}

function encoded<T>(task: LoweredTask, encode: (call: LoweredTask["call"]) => T): T {
  try {
    return encode(task.call);
  } catch (error) {
    if (!(error instanceof SerializationError)) throw error;
    throw new SerializationError(`Cannot submit "${keyText(task.key)}": ${error.message}`, error.path, {
      cause: error,
    });
  }
}

function cancelOnAbort(future: Future<unknown>, signal: AbortSignal): void {
  const state = stateOf(future, "the future");
  const { key, want, owner } = state;
  const onAbort = (): void => {
    unlisten();
    const { reason } = signal;
    const text = reason instanceof Error ? reason.message : String(reason);
    if (owner.ended === null) owner.happened({ type: "cancelled", key, want, reason: text });
  };
  const unlisten = state.listen(() => {
    if (!state.isDone && owner.ended === null) return;
    unlisten();
    signal.removeEventListener("abort", onAbort);
  });
  signal.addEventListener("abort", onAbort, { once: true });
}

function addressesOf(addresses: unknown, call: string): readonly string[] {
  if (!Array.isArray(addresses)) {
    throw new TypeError(`Cannot use the addresses of ${call}: expected a list, got ${describe(addresses)}`);
  }
  return addresses.map((address) => {
    if (typeof address !== "string") {
      throw new TypeError(`Cannot use an address of ${call}: expected a text, got ${describe(address)}`);
    }
    return normalizeAddress(address);
  });
}

function texts(value: unknown, path: string): readonly string[] {
  return readArray(value, path, readString);
}

function refusePartFailure(reply: unknown, call: string): void {
  const fields = readNullable(reply, call, readRecord);
  if (fields === null || fields["status"] === "OK") return;
  const keys = readNullable(fields["keys"], `${call}.keys`, readKeys);
  throw new DaskError(
    `Could not ${call} all results: ${
      keys === null ? JSON.stringify(fields["status"]) : keys.map(keyText).join(", ")
    }; ` +
      `workers left meanwhile, or the results did`,
  );
}
