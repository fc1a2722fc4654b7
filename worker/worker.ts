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
import { serve, type Server, type ServerHandler } from "../comm/server.ts";
import { formatAddress, isWildcardHost, parseAddress } from "../protocol/address.ts";
import { decodeMessage, serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { type Key, keyText, keyToWire } from "../protocol/key.ts";
import type { Frame } from "../protocol/payload.ts";
import { readRecord } from "../protocol/read.ts";
import { errorData, writeException } from "../protocol/exception.ts";
import { listenerTo, startWorkerActor } from "./actor.ts";
import { type Directories, makeDirectories } from "./directories.ts";
import type { CallsAside } from "./execute/aside.ts";
import type { ExecutorListener, ExecutorPool, IsolationName, Outcome } from "./execute/executor.ts";
import type * as Validate from "./machine/validate.ts";
import type { InProcessOptions } from "./execute/in_process.ts";
import type { StatefulTasks } from "./execute/stateful.ts";
import { INPUT_CACHE_BYTES_MAX } from "./execute/link.ts";
import { type ProcessPoolOptions, startProcessPool } from "./execute/processes.ts";
import {
  averageBandwidth,
  BANDWIDTH_BYTES,
  type Figures,
  firstFigures,
  startHeartbeats,
  writeExecuting,
  writeMetrics,
} from "./heartbeat.ts";
import { nextWait, retireAfterMs } from "./lifetime.ts";
import { LogRing } from "./log_ring.ts";
import type { Address, RunSpec, WorkerEvent, WorkerStatus } from "./machine/events.ts";
import { WorkerMachine } from "./machine/machine.ts";
import type { MemoryLimits } from "./memory.ts";
import {
  canReadProcesses,
  type MeasuredPool,
  startMemoryMonitor,
  workerProcessBytes,
} from "./memory_monitor.ts";
import type { WorkerCalls } from "./messages.ts";
import { Monitor, type Sample } from "./monitor.ts";
import { checkResources, readOptions, type WorkerOptions, type WorkerSettings } from "./options.ts";
import { listenOnFree } from "./ports.ts";
import { askVersions, type Connection, connectScheduler, register } from "./registration.ts";
import { answerRpc, discardFiles, type RpcParts, warnOfPlugin, type WorkerDescription } from "./rpc.ts";
import {
  type FromScheduler,
  readFromScheduler,
  readRefusable,
  readWhoHas,
  writeLogEvent,
  writeRefusal,
  writeStatus,
  writeToScheduler,
} from "./wire.ts";

/** Silence on the stream is broken this often, ms; routers forget silent connections. */
const KEEP_ALIVE_MS = 60_000;
/** The scheduler gathers what it says to a worker for this long, ms. */
const SCHEDULER_BATCH_MS = 5;
/**
 * Modules that most workers never need. Were their names written into the `import`, Deno would read them at the start,
 * with all that they import, and keep their text.
 */
const THREADS = new URL("./execute/threads.ts", import.meta.url).href;
const INLINE = new URL("./execute/inline.ts", import.meta.url).href;
const STATEFUL = new URL("./execute/stateful.ts", import.meta.url).href;
const HTTP = new URL("./http.ts", import.meta.url).href;
const VALIDATE = new URL("./machine/validate.ts", import.meta.url).href;

/** Each step of a farewell may take this long, ms. */
const FAREWELL_MS_MAX = 1_500;

/** The scheduler believes that a task is here, and it is not: only our end makes it place the task again. */
const TASK_LOST = "a compute-task could not be read";
/** Heaps of executors are never limited to less, MiB. */
const HEAP_MIB_MIN = 64;

/** How a worker ended. */
export interface WorkerEnd {
  /** In words, for people. */
  readonly reason: string;
  /** Whether a bug of ours ended it. */
  readonly crashed: boolean;
  /**
   * Whether its owner should start another one: its lifetime was over and `lifetimeRestart` was set, or it was asked to
   * make room for another.
   */
  readonly restart: boolean;
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
  /** Port of the HTTP server with `/health`, `/metrics` and `/info`; `null`: there is none. */
  readonly dashboardPort: number | null;
  /**
   * Takes no new tasks, hands its data over to other workers, which takes the time it takes, then ends as `close`. What
   * still runs then is run again elsewhere.
   */
  retire(reason?: string): Promise<void>;
  /**
   * Changes the amounts of resources named here, as `{ GPU: 2 }`, and tells the scheduler. Resolves when that knows.
   *
   * @throws {RangeError} for an amount that is no number of at least 0.
   */
  setResources(resources: Readonly<Record<string, number>>): Promise<void>;
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
  const directories = started.use(
    await makeDirectories({
      base: settings.localDirectory,
      spill: settings.memory !== null && settings.memory.spillUntilBytes < Infinity,
      logger: log,
    }),
  );
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
  dashboardPort: number | null = null;

  readonly #settings: WorkerSettings;
  readonly #log: LogRing;
  readonly #directories: Directories;
  readonly #connection: Connection;
  /** Connections to the scheduler, and to peers. */
  readonly #rpc: RpcPool;
  readonly #peers: RpcPool;
  /** All executors. */
  readonly #measured: MeasuredPool;
  readonly #monitor = new Monitor(() => this.#pools().flatMap((pool) => pool.processes()));
  /** What ends with the worker, last first. */
  readonly #parts = new AsyncDisposableStack();
  /** The scheduler's clock minus ours, ms. */
  #clockMs = 0;
  #server: Server | null = null;
  #pool: ExecutorPool | null = null;
  #machine: WorkerMachine | null = null;
  #actor: Ref<WorkerCalls> | null = null;
  #aside: Promise<CallsAside> | null = null;
  #stateful: Promise<StatefulTasks> | null = null;
  /** The same, when it is there. */
  #instances: StatefulTasks | null = null;
  #bandwidth = BANDWIDTH_BYTES;
  #setOutgoingMax: (outgoingMax: number) => void = () => {};
  #stopHeartbeats: () => void = () => {};
  #keepAlive: ReturnType<typeof setInterval> | undefined;
  #lifetime: ReturnType<typeof setTimeout> | undefined;
  /** At the last heartbeat. */
  #lastSample: Sample = this.#monitor.sample();
  /** Duration of the last heartbeat, seconds. */
  #latencySeconds = 0;
  /** Set by the first who wants it to retire. */
  #retiring: Promise<void> | null = null;
  #restart = false;
  /** Set once, by the first who wants the end. */
  #closing: Promise<void> | null = null;
  /** Resolves when a closing worker has taken its leave of the scheduler. */
  readonly #left = Promise.withResolvers<void>();
  #end: (end: WorkerEnd) => void;

  constructor(settings: WorkerSettings, log: LogRing, directories: Directories, connection: Connection) {
    this.slots = settings.slots;
    this.#settings = settings;
    this.#log = log;
    this.#directories = directories;
    this.#connection = connection;
    const { connectMs } = settings.config.timeouts;
    this.#rpc = new RpcPool(settings.transport, connectMs === null ? {} : { timeoutMs: connectMs });
    this.#peers = new RpcPool(settings.transport, {
      timeoutMs: PEER_CONNECT_MS_MAX,
      allocate: storeAllocator(directories.frames),
    });
    const pools = () => this.#pools();
    this.#measured = {
      executors: () => pools().flatMap((pool) => pool.executors()),
      terminate: (pid, reason) => pools().forEach((pool) => pool.terminate(pid, reason)),
      get busy() {
        return pools().some((pool) => pool.busy);
      },
    };
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
    this.#parts.defer(() => this.#monitor.stop());
    const versions = await askVersions(channel, logger);

    const { frames, ramBacked, spill, roomBytes } = this.#directories;
    const { memory } = settings;
    const store = this.#owned(startStore({
      directory: frames,
      ramBacked,
      fileRoomBytes: roomBytes,
      spill: memory === null || spill === null
        ? null
        : { directory: spill, targetBytes: memory.targetBytes ?? Infinity, limitBytes: memory.limitBytes },
      logger,
      onCrash: onCrash("store"),
    }));
    this.#parts.use(this.#rpc);
    this.#parts.use(this.#peers);
    const startPool = await this.#poolStarter();
    const listener = listenerTo(() => this.#actor!, systemClock);
    const pool = startPool({ slots: this.slots, listener });
    this.#pool = this.#parts.use(pool);
    // Executors warm up while the rest is made.
    const warm = pool.ready();
    warm.catch(() => {});

    // The address comes from listening, and the parts that answer need the address: early callers wait.
    const answering = Promise.withResolvers<{ readonly parts: RpcParts; readonly peer: Peer }>();
    answering.promise.catch(() => {});
    this.#parts.defer(() => answering.reject(new DaskError("The worker has ended")));
    this.#server = this.#parts.use(
      await this.#listen(channel.local, async (request) => {
        const { parts, peer } = await answering.promise;
        if (request.op !== "get_data") return { reply: await answerRpc(request, parts) };
        discardFiles(request, store.ref); // nothing large is of use in such a request
        const answer = await peer.answerGetData(request.fields, request.peer, request.serializers);
        void request.acknowledged().then(() => answer.done());
        return answer;
      }),
    );
    this.address = settings.contactAddress ?? this.#contactAddress(this.#server.address, channel.local);
    this.name = String(settings.name ?? this.address);

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
      ...(settings.validate ? { validate: (await import(VALIDATE) as typeof Validate).validate } : {}),
    });
    this.#machine = machine;
    const actor = this.#owned(startWorkerActor({
      machine,
      store: store.ref,
      peer: peer.ref,
      pool,
      stateful: {
        load: () => this.#loadStateful(listener, (options) => startPool({ slots: 1, ...options })),
        loaded: () => this.#stateful,
      },
      logger,
      clock: systemClock,
      send: (message) => this.#send(writeToScheduler(message, this.#clockMs, this.address)),
      sendEvent: (topic, message) => this.#send(writeLogEvent(topic, message)),
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
      describe: () => this.#describe(),
      monitor: this.#monitor,
      callAside: (spec) => this.#callAside(spec, (listener) => startPool({ slots: 1, listener })),
      stateful: () => this.#stateful,
      ask: (address, request) => this.#rpc.call(address, request),
      whoHas: (keys) => this.#whoHas(keys),
      close: (reason, again = false) => {
        void this.#close(reason, "self", again);
        return this.#left.promise;
      },
    };
    answering.resolve({ parts, peer });
    const figures = async (sample: Sample, anew: boolean): Promise<Figures> => {
      const [counts, stored, transfers] = await Promise.all([
        actor.ref.ask("counts", { anew }),
        store.ref.ask("usage", {}),
        peer.ref.ask("usage", {}),
      ]);
      return {
        at: Date.now(),
        counts,
        store: stored,
        peer: transfers,
        sample,
        memoryBytes: workerProcessBytes(this.#measured, stored.fileBytes),
        loopIntervalSeconds: this.#monitor.loopIntervalSeconds,
        bandwidth: this.#bandwidth = averageBandwidth(this.#bandwidth, anew ? transfers.bandwidth : {}),
      };
    };

    await warm;
    settings.signal?.throwIfAborted();
    if (settings.dashboard !== null) {
      await this.#serveHttp(settings.dashboard, () => figures(this.#lastSample, false));
    }
    const nanny = await settings.nanny?.(this.#server.address) ?? null;
    const { clockMs, heartbeatMs, plugins } = await register(channel, {
      id: this.id,
      address: this.address,
      name: settings.name ?? this.address,
      slots: this.slots,
      memoryLimitBytes: settings.memoryLimitBytes,
      resources: settings.resources,
      localDirectory: spill ?? frames,
      versions,
      metrics: writeMetrics(firstFigures(Date.now(), this.#monitor)),
      dashboardPort: this.dashboardPort,
      nanny: nanny === null ? null : this.#contactAddress(nanny, channel.local),
    });
    // The scheduler itself brings that one along for its shuffles, of which a TypeScript worker has no part.
    for (const name of plugins) if (name !== "shuffle") warnOfPlugin(name, logger);
    this.#clockMs = clockMs;
    this.#takeStatus("running", `worker-status-change-${Date.now() / 1000}`);
    void this.#readStream();
    const heartbeats = startHeartbeats({
      intervalMs: heartbeatMs,
      beat: async (signal) => {
        this.#lastSample = this.#monitor.sample();
        const current = await figures(this.#lastSample, true);
        const startedAt = performance.now();
        const reply = await this.#rpc.call(settings.scheduler, {
          op: "heartbeat_worker",
          address: this.address,
          now: current.at / 1000,
          metrics: writeMetrics(current),
          executing: writeExecuting(current.counts.executing, current.at),
          extensions: {},
          reply: true,
        }, { signal });
        this.#latencySeconds = (performance.now() - startedAt) / 1000;
        return reply;
      },
      onClock: (differenceMs) => this.#clockMs = differenceMs,
      onLost: (reason) => void this.#close(reason, "scheduler"),
      logger,
    });
    this.#stopHeartbeats = () => heartbeats.stop();
    if (memory !== null) {
      const monitor = startMemoryMonitor({
        limits: memory,
        store: store.ref,
        pool: this.#measured,
        status: () => this.status,
        takeStatus: (status, stimulusId) => this.#takeStatus(status, stimulusId),
        logger,
      });
      this.#parts.defer(() => monitor.stop());
    }
    this.#keepAlive = setInterval(() => this.#send({ op: "keep-alive" }), KEEP_ALIVE_MS);
    settings.signal?.addEventListener("abort", this.#onAbort, { once: true });
    const { lifetime } = settings;
    if (lifetime !== null) {
      this.#retireAfter(retireAfterMs(lifetime.durationMs, lifetime.staggerMs, Math.random()));
    }
    logger.log("info", `Worker at ${this.address} (${this.name}), registered to ${settings.scheduler}`);
    logger.log("info", this.description);
  }

  retire(reason = "retired by its owner"): Promise<void> {
    return this.#retiring ??= this.#retire(reason);
  }

  async setResources(resources: Readonly<Record<string, number>>): Promise<void> {
    checkResources(resources);
    await this.#actor?.ask("events", [{ type: "resources-changed", resources, at: Date.now() }]);
    await this.#rpc.call(this.#settings.scheduler, {
      op: "set_resources",
      worker: this.address,
      resources,
    });
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
    clearTimeout(this.#lifetime);
    this.#connection.channel.abort();
    await this.#parts.disposeAsync();
    this.#end({ reason: "the start failed", crashed: false, restart: false });
  }

  /** What starts pools of executors. The isolations that are not asked for are not loaded. */
  async #poolStarter(): Promise<(options: InProcessOptions) => ExecutorPool> {
    const { frames, sockets, spill } = this.#directories;
    const { memory, isolation, permissions, preload, scheduler, tls, abortGraceMs: graceMs, allowed } =
      this.#settings;
    const logger: Logger = this.#log;
    const limits = memory === null ? {} : executorMemory(memory, this.slots, isolation, logger);
    const allow = allowed === null ? null : { ...allowed, worker: this.#provisionalName() };
    const options = { permissions, preload, allow, scheduler, tls, graceMs, logger, ...limits };
    const start = isolation === "process"
      ? (given: InProcessOptions) =>
        startProcessPool({
          ...options,
          ...given,
          directory: frames,
          socketDirectory: sockets,
          spillDirectory: spill,
        })
      : isolation === "thread"
      ? (await import(THREADS) as typeof import("./execute/threads.ts")).startThreadPool
      : (await import(INLINE) as typeof import("./execute/inline.ts")).startInlinePool;
    return (given) => start({ ...options, ...given });
  }

  /** Names this worker in messages of its executors, which are started before it has an address. */
  #provisionalName(): string {
    const { host } = parseAddress(this.#connection.channel.local);
    return String(this.#settings.name ?? `of process ${Deno.pid} at ${host}`);
  }

  /** The part ends with the worker. */
  #owned<T extends Actor<never> | { stop(): Promise<void> }>(actor: T): T {
    this.#parts.defer(() => actor.stop());
    return actor;
  }

  #describe(): WorkerDescription {
    const { scheduler, memoryLimitBytes, nanny } = this.#settings;
    const { id, address, name, status, slots } = this;
    const { frames, spill } = this.#directories;
    return {
      id,
      address,
      name,
      scheduler,
      status,
      slots,
      memoryLimitBytes,
      localDirectory: spill ?? frames,
      nanny: nanny !== null,
    };
  }

  #listen(local: string, handler: ServerHandler): Promise<Server> {
    const { protocol: scheme, host, ports, transport } = this.#settings;
    const options = { allocate: storeAllocator(this.#directories.frames), writeFailure, logger: this.#log };
    return listenOnFree(ports, (port) => {
      const bound = { ...parseAddress(local), scheme, port };
      const address = formatAddress(host === null ? bound : { ...bound, host });
      return serve(transport, address, handler, options);
    });
  }

  async #serveHttp(
    { host, port }: { readonly host: string | null; readonly port: number },
    figures: () => Promise<Figures>,
  ): Promise<void> {
    const { serveHttp }: typeof import("./http.ts") = await import(HTTP);
    const server = this.#parts.use(serveHttp({
      host: host ?? parseAddress(this.#server!.address).host,
      port,
      logger: this.#log,
      report: async () => ({
        description: this.#describe(),
        figures: await figures(),
        latencySeconds: this.#latencySeconds,
        logs: this.#log.newestFirst(0, Infinity, true),
      }),
      ticks: () => this.#monitor.ticks(),
      namespace: this.#settings.config.prometheusNamespace ?? "dask",
    }));
    this.dashboardPort = server.port;
    this.#log.log("info", `Pages at http://${server.host}:${server.port}/info`);
  }

  /** What others are told of an address that is listened on: a wildcard says nothing to them, a name is kept. */
  #contactAddress(bound: string, local: string): string {
    const address = parseAddress(bound);
    const { host, contactAddress } = this.#settings;
    if (contactAddress !== null) {
      return formatAddress({ ...address, host: parseAddress(contactAddress).host });
    }
    if (isWildcardHost(address.host)) return formatAddress({ ...address, host: parseAddress(local).host });
    return formatAddress(
      host === null ? address : { ...address, host: parseAddress(formatAddress({ ...address, host })).host },
    );
  }

  #retireAfter(ms: number): void {
    const { waitMs, leftMs } = nextWait(ms);
    this.#lifetime = setTimeout(() => {
      if (leftMs > 0) return this.#retireAfter(leftMs);
      this.#restart = this.#settings.lifetime?.restart ?? false;
      void this.retire("its lifetime is over");
    }, waitMs);
  }

  async #retire(reason: string): Promise<void> {
    if (this.#closing !== null) return await this.#closing;
    this.#log.log("info", `Retiring worker at ${this.address}: ${reason}`);
    try {
      // The scheduler takes our data elsewhere first, which we serve, and forgets us then.
      const retired = await this.#rpc.call(this.#settings.scheduler, {
        op: "retire_workers",
        workers: [this.address],
        close_workers: false,
        remove: true,
        stimulus_id: `worker-close-gracefully-${Date.now() / 1000}`,
      });
      if (!Object.hasOwn(readRecord(retired, "retire_workers reply"), this.address)) {
        this.#log.log(
          "warning",
          "No other worker takes over the data of this one: it will be computed again",
        );
      }
    } catch (error) {
      if (this.#closing === null) {
        this.#log.log("warning", `Cannot retire in order: ${(error as Error).message}`);
      }
    }
    await this.#close(reason, "self");
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
        if (mentionsTask(frames)) void this.#close(TASK_LOST, "self");
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
    if (op === "compute-task") void this.#close(TASK_LOST, "self");
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

  /** What such calls need is loaded with the first one. */
  async #callAside(spec: RunSpec, start: (listener: ExecutorListener) => ExecutorPool): Promise<Outcome> {
    this.#aside ??= import("./execute/aside.ts").then(({ CallsAside }) =>
      this.#parts.use(new CallsAside(start))
    );
    return await (await this.#aside).call(spec);
  }

  /** What stateful tasks need is loaded with the first one. */
  #loadStateful(
    listener: ExecutorListener,
    start: (options: Omit<InProcessOptions, "slots">) => ExecutorPool,
  ): Promise<StatefulTasks> {
    return this.#stateful ??= import(STATEFUL).then((
      { StatefulTasks }: typeof import("./execute/stateful.ts"),
    ) =>
      this.#instances = this.#parts.use(
        new StatefulTasks({
          start: (listener, permissions, lost) => start({ listener, permissions, lost }),
          permissions: this.#settings.permissions,
          listener,
          address: this.address,
          logger: this.#log,
        }),
      )
    );
  }

  #pools(): readonly ExecutorPool[] {
    return [...(this.#pool === null ? [] : [this.#pool]), ...(this.#instances?.pools ?? [])];
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

  #close(reason: string, by: "self" | "scheduler" | "crash", restart = false): Promise<void> {
    this.#closing ??= this.#closeOnce(reason, by, restart);
    return this.#closing;
  }

  async #closeOnce(reason: string, by: "self" | "scheduler" | "crash", restart: boolean): Promise<void> {
    this.#log.log("info", `Closing worker at ${this.address}: ${reason}`);
    const { channel } = this.#connection;
    this.#settings.signal?.removeEventListener("abort", this.#onAbort);
    this.#stopHeartbeats();
    clearInterval(this.#keepAlive);
    clearTimeout(this.#lifetime);
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
    this.#left.resolve();
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
    this.#end({ reason, crashed: by === "crash", restart: restart || this.#restart });
  }

  readonly #onAbort = (): void => {
    this.#restart = false;
    void this.close("its signal was aborted");
  };
}

/** Whether a message that cannot be decoded may have held a task. */
function mentionsTask(frames: readonly Frame[]): boolean {
  const [head] = frames;
  return head instanceof Uint8Array && new TextDecoder("latin1").decode(head).includes("compute-task");
}

/** What executors are told of a limit. */
function executorMemory(
  { limitBytes }: MemoryLimits,
  slots: number,
  isolation: IsolationName,
  logger: Logger,
): Pick<ProcessPoolOptions, "inputCacheBytesMax" | "tellMemory" | "v8Flags"> {
  const inputCacheBytesMax = Math.min(INPUT_CACHE_BYTES_MAX, Math.floor(limitBytes / (8 * slots)));
  if (isolation !== "process") return { inputCacheBytesMax };
  if (canReadProcesses()) {
    logger.log("debug", "Memory of executors is read from /proc");
    return { inputCacheBytesMax };
  }
  const heapMiB = Math.max(HEAP_MIB_MIN, Math.floor(limitBytes / slots / 2 ** 20));
  logger.log(
    "info",
    `Memory of executors cannot be read without --allow-all: they tell it after calls, and have heaps of ${heapMiB} MiB`,
  );
  return { inputCacheBytesMax, tellMemory: true, v8Flags: [`--max-old-space-size=${heapMiB}`] };
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
