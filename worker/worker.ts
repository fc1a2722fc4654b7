/**
 * The wiring of a worker: it makes the parts, hands each what it may use, reads the scheduler's stream, and ends all of
 * it in order. Law: decisions about tasks are the machine's; here is decided only when the worker begins and ends. A
 * crash of the machine or of the store ends the worker, and the scheduler repairs.
 *
 * @module
 */
import { type Actor, type Ref, systemClock } from "../actors/kernel/mod.ts";
import { OUTGOING_MAX, type Peer, PEER_CONNECT_MS_MAX, startPeer } from "../actors/peer/mod.ts";
import { startStore, storeAllocator, storeLinker } from "../actors/store/mod.ts";
import type { Logger } from "../base/log.ts";
import { RpcPool } from "../comm/pool.ts";
import { serve, type Server } from "../comm/server.ts";
import { formatAddress, isWildcardHost, parseAddress } from "../protocol/address.ts";
import { decodeMessage, serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { type Key, keyText, keyToWire } from "../protocol/key.ts";
import { errorData, writeException } from "../protocol/remote_error.ts";
import { listenerTo, startWorkerActor } from "./actor.ts";
import { type Directories, makeDirectories } from "./directories.ts";
import type { ExecutorPool } from "./execute/executor.ts";
import { startProcessPool } from "./execute/processes.ts";
import type { InProcessOptions } from "./execute/in_process.ts";
import {
  firstFigures,
  type Meter,
  startHeartbeats,
  startMeter,
  writeExecuting,
  writeMetrics,
} from "./heartbeat.ts";
import type { Address, WorkerEvent, WorkerStatus } from "./machine/events.ts";
import { WorkerMachine } from "./machine/machine.ts";
import type { WorkerCalls } from "./messages.ts";
import { readOptions, type WorkerOptions, type WorkerSettings } from "./options.ts";
import { askVersions, type Connection, connectScheduler, register } from "./registration.ts";
import { answerRpc, LogRing, type RpcParts } from "./rpc.ts";
import {
  type FromScheduler,
  readFromScheduler,
  readRefusable,
  readWhoHas,
  writeRefusal,
  writeStatus,
  writeToScheduler,
} from "./wire.ts";

/** Silence on the stream is broken this often, ms; routers forget silent connections. */
const KEEP_ALIVE_MS = 60_000;
/** The scheduler gathers what it says to a worker for this long, ms. */
const SCHEDULER_BATCH_MS = 5;
/** Each step of a farewell may take this long, ms. */
const FAREWELL_MS_MAX = 1_500;

/** How a worker ended. */
export interface WorkerEnd {
  /** In words, for people. */
  readonly reason: string;
  /** Whether a bug of ours ended it. */
  readonly crashed: boolean;
}

/** A running worker. `await using worker = await startWorker(…)` ends it with its block. */
export interface WorkerHandle extends AsyncDisposable {
  /** The address that scheduler and peers know it by. */
  readonly address: string;
  /** Unique among the workers of the scheduler. */
  readonly name: string;
  /** Tasks that run at a time. */
  readonly slots: number;
  /** What its tasks are written in. */
  readonly language: "typescript";
  /** As the scheduler sees it. */
  readonly status: WorkerStatus;
  /** One line: isolation, slots, permissions. */
  readonly description: string;
  /** Resolves when the worker has ended, whoever ended it. Never rejects. */
  readonly closed: Promise<void>;
  /** As `closed`, with how it ended. */
  readonly ended: Promise<WorkerEnd>;
  /** Leaves the cluster and ends all its processes. Idempotent. */
  close(reason?: string): Promise<void>;
}

/**
 * Starts a worker in this process; its tasks run in child processes, one a slot.
 *
 * @param options the scheduler's address (`"tcp://host:8786"`, `"host:8786"`), or options. Without an address: the
 * variable `DASK_SCHEDULER_ADDRESS`, else this host.
 * @throws {DaskError} when the scheduler refuses, speaks an older protocol, is not reached in time, or a permission is
 * missing; {@linkcode TypeError} and {@linkcode RangeError} for options that make no sense.
 * @example
 * ```ts ignore
 * import { startWorker } from "./mod.ts";
 *
 * await using worker = await startWorker({ address: "tcp://127.0.0.1:8786", slots: 2 });
 * console.log(worker.address);
 * await worker.closed;
 * ```
 */
export async function startWorker(options?: string | WorkerOptions): Promise<WorkerHandle> {
  const settings = await readOptions(options);
  settings.signal?.throwIfAborted();
  await using started = new AsyncDisposableStack();
  const log = new LogRing(settings.logger);
  const directories = started.use(await makeDirectories(settings.localDirectory, log));
  const connection = await connectScheduler(settings.transport, settings.scheduler, {
    timeoutMs: settings.connectTimeoutMs,
    signal: settings.signal,
    logger: log,
  });
  started.defer(() => connection.channel.abort());
  const worker = new Worker(settings, log, directories, connection);
  started.defer(() => worker.abandon());
  await worker.start();
  settings.signal?.throwIfAborted();
  // From here on the worker owns everything, and gives it back when it ends.
  started.move();
  return worker;
}

class Worker implements WorkerHandle {
  readonly id = `Worker-${crypto.randomUUID()}`;
  readonly language = "typescript";
  readonly slots: number;
  readonly ended: Promise<WorkerEnd>;
  readonly closed: Promise<void>;
  address = "";
  name = "";
  status: WorkerStatus = "init";

  readonly #settings: WorkerSettings;
  readonly #log: LogRing;
  readonly #directories: Directories;
  readonly #connection: Connection;
  /** Connections to the scheduler, and to peers. */
  readonly #rpc: RpcPool;
  readonly #peers: RpcPool;
  readonly #meter: Meter = startMeter();
  /** What ends with the worker, last first. */
  readonly #parts = new AsyncDisposableStack();
  /** The scheduler's clock minus ours, ms. */
  #clockMs = 0;
  #server: Server | null = null;
  #pool: ExecutorPool | null = null;
  #machine: WorkerMachine | null = null;
  #actor: Ref<WorkerCalls> | null = null;
  #setOutgoingMax: (outgoingMax: number) => void = () => {};
  #stopHeartbeats: () => void = () => {};
  #keepAlive: ReturnType<typeof setInterval> | undefined;
  /** Set once, by the first who wants the end. */
  #closing: Promise<void> | null = null;
  #end: (end: WorkerEnd) => void;

  constructor(settings: WorkerSettings, log: LogRing, directories: Directories, connection: Connection) {
    this.slots = settings.slots;
    this.#settings = settings;
    this.#log = log;
    this.#directories = directories;
    this.#connection = connection;
    this.#rpc = new RpcPool(settings.transport);
    this.#peers = new RpcPool(settings.transport, {
      timeoutMs: PEER_CONNECT_MS_MAX,
      allocate: storeAllocator(directories.frames),
    });
    const { promise, resolve } = Promise.withResolvers<WorkerEnd>();
    this.ended = promise;
    this.closed = promise.then(() => {});
    this.#end = resolve;
  }

  get description(): string {
    return this.#pool?.description ?? "";
  }

  /** Makes the parts, registers, and begins to work. */
  async start(): Promise<void> {
    const settings = this.#settings;
    const { channel } = this.#connection;
    const logger: Logger = this.#log;
    const onCrash = (part: string) => (error: Error) => this.#crash(part, error);
    this.#parts.defer(() => this.#meter.stop());
    const versions = await askVersions(channel, logger);

    const { frames, sockets, roomBytes } = this.#directories;
    const store = this.#owned(
      startStore({ directory: frames, fileRoomBytes: roomBytes, logger, onCrash: onCrash("store") }),
    );
    this.#parts.use(this.#rpc);
    this.#parts.use(this.#peers);
    const pool = await this.#startPool({
      slots: this.slots,
      listener: listenerTo(() => this.#actor!, systemClock),
      logger,
      permissions: settings.permissions,
      graceMs: settings.abortGraceMs,
    });
    this.#pool = this.#parts.use(pool);
    // Executors warm up while the rest is made.
    const warm = pool.ready();
    warm.catch(() => {});

    // The address comes from listening, and the parts that answer need the address: early callers wait.
    const answering = Promise.withResolvers<{ readonly parts: RpcParts; readonly peer: Peer }>();
    answering.promise.catch(() => {});
    this.#parts.defer(() => answering.reject(new DaskError("The worker has ended")));
    this.#server = this.#parts.use(
      await serve(settings.transport, this.#listenAddress(channel.local), async (request) => {
        const { parts, peer } = await answering.promise;
        if (request.op !== "get_data") return { reply: await answerRpc(request, parts) };
        const answer = await peer.answerGetData(request.fields, request.peer, request.serializers);
        void request.acknowledged().then(() => answer.done());
        return answer;
      }, { allocate: storeAllocator(frames), writeFailure, logger }),
    );
    this.address = settings.contactAddress ?? this.#contactAddress(this.#server.address, channel.local);
    this.name = settings.name ?? this.address;

    const peer = this.#owned(
      startPeer({
        store: store.ref,
        pool: this.#peers,
        link: storeLinker(frames),
        address: this.address,
        logger,
        onCrash: onCrash("peer"),
      }),
    );
    this.#setOutgoingMax = (outgoingMax) => peer.ref.tell("limit", { outgoingMax });
    const machine = new WorkerMachine({
      address: this.address,
      slots: this.slots,
      resources: settings.resources,
      validate: settings.validate,
    });
    this.#machine = machine;
    const actor = this.#owned(startWorkerActor({
      machine,
      store: store.ref,
      peer: peer.ref,
      pool,
      logger,
      clock: systemClock,
      send: (message) => this.#send(writeToScheduler(message, this.#clockMs, this.address)),
      onCrash: onCrash("machine"),
    }));
    this.#actor = actor.ref;
    const parts: RpcParts = {
      store: store.ref,
      peer: peer.ref,
      worker: actor.ref,
      logger,
      log: this.#log,
      versions,
      describe: () => ({
        id: this.id,
        address: this.address,
        name: this.name,
        scheduler: settings.scheduler,
        status: this.status,
        slots: this.slots,
        memoryLimitBytes: settings.memoryLimitBytes,
      }),
      whoHas: (keys) => this.#whoHas(keys),
      close: (reason) => void this.close(reason),
    };
    answering.resolve({ parts, peer });

    await warm;
    settings.signal?.throwIfAborted();
    const { clockMs, heartbeatMs } = await register(channel, {
      id: this.id,
      address: this.address,
      name: this.name,
      slots: this.slots,
      memoryLimitBytes: settings.memoryLimitBytes,
      resources: settings.resources,
      localDirectory: frames ?? sockets,
      versions,
      metrics: writeMetrics(firstFigures(Date.now(), this.#meter)),
    });
    this.#clockMs = clockMs;
    this.#takeStatus("running", `worker-status-change-${Date.now() / 1000}`);
    void this.#readStream();
    const heartbeats = startHeartbeats({
      intervalMs: heartbeatMs,
      beat: async (signal) => {
        const now = Date.now();
        const [counts, stored, transfers] = await Promise.all([
          actor.ref.ask("counts", {}),
          store.ref.ask("usage", {}),
          peer.ref.ask("usage", {}),
        ]);
        const meter = this.#meter;
        return await this.#rpc.call(settings.scheduler, {
          op: "heartbeat_worker",
          address: this.address,
          now: now / 1000,
          metrics: writeMetrics({
            at: now,
            counts,
            store: stored,
            peer: transfers,
            cpu: meter.cpu(),
            rss: meter.rss(),
            loopIntervalSeconds: meter.loopIntervalSeconds,
          }),
          executing: writeExecuting(counts.executing, now),
          extensions: {},
          reply: true,
        }, { signal });
      },
      onClock: (differenceMs) => this.#clockMs = differenceMs,
      onLost: (reason) => void this.#close(reason, "scheduler"),
      logger,
    });
    this.#stopHeartbeats = () => heartbeats.stop();
    this.#keepAlive = setInterval(() => this.#send({ op: "keep-alive" }), KEEP_ALIVE_MS);
    settings.signal?.addEventListener("abort", this.#onAbort, { once: true });
    logger.log("info", `Worker at ${this.address} (${this.name}), registered to ${settings.scheduler}`);
    logger.log("info", this.description);
  }

  close(reason = "closed by its owner"): Promise<void> {
    return this.#close(reason, "self");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  toString(): string {
    const counts = this.#machine?.counts() ?? {};
    const count = (...states: string[]) => states.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
    return `<Worker: ${this.address}, ${this.status}, stored: ${count("memory")}, running: ${
      count("executing", "long-running")
    }, ready: ${count("ready", "constrained")}, waiting: ${count("waiting")}>`;
  }

  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /** The start failed: gives back what was made so far. */
  async abandon(): Promise<void> {
    this.#settings.signal?.removeEventListener("abort", this.#onAbort);
    this.#stopHeartbeats();
    clearInterval(this.#keepAlive);
    this.#connection.channel.abort();
    await this.#parts.disposeAsync();
    this.#end({ reason: "the start failed", crashed: false });
  }

  /** The isolations that are not asked for are not loaded. */
  async #startPool(options: InProcessOptions): Promise<ExecutorPool> {
    const { frames, sockets } = this.#directories;
    switch (this.#settings.isolation) {
      case "process":
        return startProcessPool({ ...options, directory: frames ?? sockets, socketDirectory: sockets });
      case "thread":
        return (await import("./execute/threads.ts")).startThreadPool(options);
      case "inline":
        return (await import("./execute/inline.ts")).startInlinePool(options);
    }
  }

  /** The part ends with the worker. */
  #owned<T extends Actor<never> | { stop(): Promise<void> }>(actor: T): T {
    this.#parts.defer(() => actor.stop());
    return actor;
  }

  #listenAddress(local: string): string {
    const { host, port } = this.#settings;
    return formatAddress({ ...parseAddress(local), ...(host === null ? {} : { host }), port });
  }

  /** A wildcard says nothing to others: they get the host by which the scheduler is reached. */
  #contactAddress(bound: string, local: string): string {
    const address = parseAddress(bound);
    const named = this.#settings.host;
    if (isWildcardHost(address.host)) return formatAddress({ ...address, host: parseAddress(local).host });
    return formatAddress(
      named === null
        ? address
        : { ...address, host: parseAddress(formatAddress({ ...address, host: named })).host },
    );
  }

  async #readStream(): Promise<void> {
    const { comm } = this.#connection;
    for (;;) {
      let frames;
      try {
        frames = await comm.receive();
      } catch (error) {
        return void this.#close(`lost the scheduler: ${(error as Error).message}`, "scheduler");
      }
      if (frames === null) return void this.#close("the scheduler closed the connection", "scheduler");
      let message: unknown;
      try {
        message = decodeMessage(frames);
      } catch (error) {
        // The frames were whole, so the next message begins where it should.
        this.#log.log("error", `Skipped a message of the scheduler: ${(error as Error).message}`);
        continue;
      }
      this.#handleBatch(message);
    }
  }

  #handleBatch(message: unknown): void {
    const at = Date.now();
    let events: WorkerEvent[] = [];
    const tell = () => {
      if (events.length > 0) this.#actor?.tell("events", events);
      events = [];
    };
    for (const part of Array.isArray(message) ? message : [message]) {
      if (part === "OK") break;
      let read: FromScheduler;
      try {
        read = readFromScheduler(part, at);
      } catch (error) {
        this.#unreadable(part, error as Error);
        continue;
      }
      if (read.type === "event") {
        events.push(read.event);
        continue;
      }
      tell();
      if (read.type === "status") this.#takeStatus(read.status, read.stimulusId);
      else if (read.type === "close") void this.#close(`the scheduler said so (${read.reason})`, "scheduler");
      else if (read.type === "refuse") this.#refuseTask(read.key, read.runId, read.reason);
      else if (read.op !== null) {
        this.#log.log("warning", `Ignored "${read.op}" of the scheduler: not known here`);
      }
    }
    tell();
  }

  #unreadable(message: unknown, error: Error): void {
    this.#log.log("error", `Skipped a message of the scheduler: ${error.message}`);
    const task = readRefusable(message);
    if (task !== null) return this.#refuseTask(task.key, task.runId, error.message);
    const op = typeof message === "object" && message !== null && "op" in message ? message.op : null;
    // The scheduler believes that a task is here, and it is not: only our end makes it place the task again.
    if (op === "compute-task") void this.#close("a compute-task could not be read", "self");
  }

  #refuseTask(key: Key, runId: number, reason: string): void {
    this.#log.log("warning", `Refused task ${keyText(key)}: ${reason}`);
    this.#send(writeRefusal(key, runId, reason, `task-refused-${Date.now() / 1000}`, this.address));
  }

  #takeStatus(status: WorkerStatus, stimulusId: string): void {
    if (this.#closing === null && this.status !== status) {
      this.status = status;
      this.#actor?.tell("events", [{ type: "status-changed", status, at: Date.now() }]);
      this.#setOutgoingMax(status === "paused" ? 1 : OUTGOING_MAX);
    }
    // Also when nothing changed: the scheduler goes by what it hears.
    this.#send(writeStatus(this.status, stimulusId));
  }

  #send(message: Record<string, unknown>): void {
    this.#connection.channel.sendBatched(message);
  }

  async #whoHas(keys: readonly Key[]): Promise<ReadonlyMap<Key, readonly Address[]>> {
    const reply = await this.#rpc.call(this.#settings.scheduler, {
      op: "who_has",
      keys: keys.map(keyToWire),
    });
    return readWhoHas(reply, "who_has reply");
  }

  #crash(part: string, error: Error): void {
    this.#log.log("error", `The ${part} of the worker crashed: ${error.stack ?? error.message}`);
    void this.#close(`its ${part} crashed`, "crash");
  }

  #close(reason: string, by: "self" | "scheduler" | "crash"): Promise<void> {
    this.#closing ??= this.#closeOnce(reason, by);
    return this.#closing;
  }

  async #closeOnce(reason: string, by: "self" | "scheduler" | "crash"): Promise<void> {
    this.#log.log("info", `Closing worker at ${this.address}: ${reason}`);
    const { channel } = this.#connection;
    this.#settings.signal?.removeEventListener("abort", this.#onAbort);
    this.#stopHeartbeats();
    clearInterval(this.#keepAlive);
    this.status = "closing";
    this.#actor?.tell("events", [{ type: "status-changed", status: "closing", at: Date.now() }]);
    if (by === "self") {
      const stimulusId = `worker-close-${Date.now() / 1000}`;
      this.#send(writeStatus("closing", stimulusId));
      await within(channel.flush());
      // An expected leave: tasks that run here are placed elsewhere without being suspected of having killed us.
      await within(this.#rpc.call(this.#settings.scheduler, {
        op: "unregister",
        address: this.address,
        stimulus_id: stimulusId,
        expected: true,
        close: false,
      }, { timeoutMs: FAREWELL_MS_MAX }));
      // What it had already said to us comes within one interval of its stream; closing sooner would fill its log.
      await new Promise((resolve) => setTimeout(resolve, SCHEDULER_BATCH_MS * 3));
    }
    this.#send({ op: "close-stream" });
    await within(channel.flush());
    await within(channel.close());
    channel.abort();
    try {
      await this.#parts.disposeAsync();
    } catch (error) {
      this.#log.log("error", `Cannot close the worker cleanly: ${(error as Error).message}`);
    }
    await this.#directories[Symbol.asyncDispose]();
    this.status = "closed";
    this.#end({ reason, crashed: by === "crash" });
  }

  readonly #onAbort = (): void => void this.close("its signal was aborted");
}

/** Waits for a step of the farewell, not for ever, and whatever comes of it. */
async function within(step: Promise<unknown>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([
    step.catch(() => {}),
    new Promise<void>((resolve) => timer = setTimeout(resolve, FAREWELL_MS_MAX)),
  ]);
  clearTimeout(timer);
}

/** What a caller by rpc gets to read when its request failed. */
function writeFailure(thrown: unknown): Record<string, unknown> {
  const { exception, traceback, exceptionText, tracebackText } = writeException(
    errorData(thrown instanceof Error ? thrown : new DaskError(String(thrown))),
  );
  return {
    exception: serialized(exception),
    traceback,
    exception_text: exceptionText,
    traceback_text: tracebackText,
  };
}
