/**
 * The client's shell: owns the stream with the scheduler, the timers and the connections with workers, and performs
 * what the machine decides. The law: a handler never waits; whatever it starts comes back as a message to itself.
 *
 * @module
 */
import { assert, unreachable } from "../base/assert.ts";
import type { Logger } from "../base/log.ts";
import { type Actor, type Asker, type Clock, pipe, type Ref, spawn, Timers } from "../actors/kernel/mod.ts";
import type { Channel } from "../comm/channel.ts";
import type { RpcPool } from "../comm/pool.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import { keyFromWire, keyText, keyToWire } from "../protocol/key.ts";
import { readKeyMap, readNumber } from "../protocol/read.ts";
import { readException } from "../protocol/remote_error.ts";
import { Fetcher } from "./fetch.ts";
import { readWorkers } from "./identity.ts";
import { ItemReader } from "./items.ts";
import type { Key, TimerName } from "./machine/events.ts";
import type { ClientEvent } from "./machine/events.ts";
import type { Instruction, Notice } from "./machine/instructions.ts";
import { ClientMachine } from "./machine/machine.ts";
import type { Arrived, ClientCalls, Diagnosis, News, WorkerInfo } from "./messages.ts";
import { readFromScheduler, type StreamMemory, type SubmittingTask, writeToScheduler } from "./wire.ts";

/** How often the scheduler hears from us, ms, until it says otherwise. */
const HEARTBEAT_MS = 5_000;
/** A scheduler that has said nothing for this long in spite of our heartbeats is taken for lost, ms. */
const SILENCE_MS_MAX = 60_000;
/**
 * How often to look who works there, ms: when somebody waits for workers, when tasks run, else. (The scheduler's event
 * log would tell at once, but it breaks the stream of whoever listens to it when results are replicated.)
 */
const LOOK_MS = { waiting: 100, running: 1_000, idle: 5_000 };

/** Options of {@linkcode startClientActor}. */
export interface ClientActorOptions {
  readonly clientId: string;
  readonly schedulerAddress: string;
  /** Connections with the scheduler. */
  readonly scheduler: RpcPool;
  /** Connections with workers. */
  readonly workers: RpcPool;
  /** Further connections with workers, for those who wait for items of tasks that run. */
  readonly streams: RpcPool;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Somebody told a topic something that this client listens to. Called inside the actor's turns. */
  readonly heard: (topic: string, event: unknown) => void;
  /** News for futures. Called inside the actor's turns. */
  readonly tell: (news: readonly News[]) => void;
  /** The scheduler is lost, or a bug ended the actor: nothing will come any more. Called at most once. */
  readonly lost: (error: Error) => void;
  /** The stream broke; another is to be attached, or the actor to be failed. Without it a broken stream is the end. */
  readonly broken?: (error: Error) => void;
  /** Aborts when the connection that there is now breaks, or the client ends. */
  readonly connection: () => AbortSignal;
  /** Checks the machine's invariants all the time. For tests. */
  readonly validate?: boolean;
  /** The task that submits, when graphs come from inside of one. Default: none. */
  readonly submittingTask?: () => SubmittingTask | null;
}

/** The client actor, as its owner holds it. */
export interface ClientActor {
  readonly ref: Ref<ClientCalls>;
  /** The stream stands, under this id: what was queued is sent. `workers`: who is there. */
  attach(stream: Channel, workers: readonly WorkerInfo[], clientId: string): void;
  /** Ends everything: there will be no stream any more. */
  fail(error: Error): void;
  /** Takes leave of the scheduler and ends. Idempotent. */
  close(): Promise<void>;
}

/** Starts the actor; it queues until a stream is attached. */
export function startClientActor(options: ClientActorOptions): ClientActor {
  const shell = new Shell(options);
  return {
    ref: shell.actor.ref,
    attach: (stream, workers, clientId) => shell.attach(stream, workers, clientId),
    fail: (error) => shell.fail(error),
    close: () => shell.close(),
  };
}

interface WorkersAwaited {
  readonly count: number;
  readonly asker: Asker<void>;
}

class Shell {
  readonly actor: Actor<ClientCalls>;
  readonly #options: ClientActorOptions;
  readonly #machine: ClientMachine;
  readonly #fetcher: Fetcher;
  readonly #items: ItemReader;
  readonly #timers: Timers<TimerName | "heartbeat" | "workers">;
  readonly #end = new AbortController();
  #memory: StreamMemory;
  #stream: Channel | null = null;
  /** Of the streams so far. */
  #streams = 0;
  #reading: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #lost = false;
  #heartbeatMs = HEARTBEAT_MS;
  #heardAt = 0;
  #workers: readonly WorkerInfo[] = [];
  /** When to look next who is there; Infinity while looking, or before there is a stream. */
  #lookAt = Infinity;
  readonly #awaited = new Map<number, WorkersAwaited>();
  /** What is to be said when there is a stream. */
  #unsaid: Readonly<Record<string, unknown>>[] = [];

  constructor(options: ClientActorOptions) {
    this.#options = options;
    const { clientId, scheduler, schedulerAddress, workers, streams, clock, connection } = options;
    const { validate = false } = options;
    this.#machine = new ClientMachine({ clientId, validate, reconnect: options.broken !== undefined });
    this.#memory = { clientId };
    this.#timers = new Timers(clock, (name) => this.actor.ref.tell("timer", { name }));
    this.#fetcher = new Fetcher({
      scheduler,
      schedulerAddress,
      workers,
      signal: this.#end.signal,
      connection,
      done: (arrived, missing) => this.actor.ref.tell("fetched", { arrived, missing }),
    });
    const { signal } = this.#end;
    this.#items = new ItemReader({ scheduler, schedulerAddress, workers: streams, signal });
    this.actor = spawn<ClientCalls>("client", {
      events: (events) => this.#handle(events),
      received: (messages) => this.#stream === null ? undefined : this.#received(messages),
      fetched: ({ arrived, missing }) => this.#fetched(arrived, missing),
      timer: ({ name }) => this.#timer(name),
      workers: (workers) => this.#workersAre(workers),
      diagnose: ({ key, lost }, asker) => this.#diagnose(key, lost, asker),
      "wait-for-workers": ({ count, number }, asker) => {
        if (this.#workers.length >= count) return asker.answer();
        this.#awaited.set(number, { count, asker });
        this.#planLook();
      },
      "stop-waiting": ({ number }) => {
        this.#awaited.get(number)?.asker.answer();
        this.#awaited.delete(number);
      },
      items: ({ number, key, from, worker }, asker) =>
        pipe(
          this.#items.read(number, key, from, worker),
          (batch) => asker.answer(batch),
          (error) => asker.refuse(error),
        ),
      "stop-items": ({ number }) => this.#items.stop(number),
      say: (message) => this.#say(message),
      reattached: ({ clientId, gone, stream }) => {
        if (stream === this.#streams) this.#handle([{ type: "reconnected", clientId, gone }]);
      },
      "stream-ended": ({ reason, stream }) => {
        if (stream === this.#streams) this.#streamEnded(reason);
      },
      counts: (_, asker) => asker.answer(this.#machine.counts()),
    }, { onCrash: (error) => this.fail(error) });
  }

  attach(stream: Channel, workers: readonly WorkerInfo[], clientId: string): void {
    assert(this.#stream === null, "A client has one stream at a time");
    if (this.#closing !== null || this.#lost) return stream.abort();
    this.#stream = stream;
    this.#memory = { clientId };
    const again = ++this.#streams > 1;
    this.#reading = this.#read(stream, this.#streams);
    this.#heardAt = this.#options.clock.now();
    this.#timers.set("heartbeat", this.#heardAt + this.#heartbeatMs);
    this.actor.ref.tell("workers", workers);
    if (again) this.#resubmit(clientId, this.#streams);
    else this.actor.ref.tell("events", [{ type: "connected" }]);
    for (const message of this.#unsaid.splice(0)) this.actor.ref.tell("say", message);
    this.#lookAt = -Infinity; // to be set by the next turn
  }

  /** What the scheduler still knows of what cannot be computed again decides what is lost. */
  #resubmit(clientId: string, stream: number): void {
    const { scheduler, schedulerAddress, connection } = this.#options;
    const unsure = this.#machine.unsure();
    const ask = async (): Promise<readonly Key[]> => {
      if (unsure.length === 0) return [];
      const request = { op: "get_task_status", keys: unsure.map(keyToWire) };
      const states = readKeyMap(
        await scheduler.call(schedulerAddress, request, { signal: connection() }),
        request.op,
        (state) => state !== null,
      );
      return unsure.filter((key) => states.get(key) !== true);
    };
    const { ref } = this.actor;
    pipe(
      ask(),
      (gone) => ref.tell("reattached", { clientId, gone, stream }),
      (error) => ref.tell("stream-ended", { reason: this.#lossOf(error), stream }),
    );
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    // What the caller did in this turn goes before the farewell.
    if (!this.#lost) await this.actor.ref.ask("counts", {}).catch(() => {});
    this.#timers.clearAll();
    // Our departure is an event, too, and there will be nobody to hear it.
    this.#stream?.sendBatched({ op: "unsubscribe-topic", topic: this.#memory.clientId });
    this.#stream?.sendBatched({ op: "close-stream" });
    this.#end.abort(new DaskError("The client is closed"));
    await this.actor.stop();
    await this.#stream?.close();
    await this.#reading;
  }

  #streamEnded(reason: string): void {
    const error = new DaskError(reason);
    const { broken } = this.#options;
    if (broken === undefined) return this.fail(error);
    if (this.#stream === null || this.#lost || this.#closing !== null) return;
    this.#stream.abort();
    this.#stream = null;
    this.#timers.clear("heartbeat");
    this.#timers.clear("workers");
    this.#lookAt = Infinity;
    this.#workers = [];
    this.#handle([{ type: "disconnected" }]);
    broken(error);
  }

  /** Ends everything but the farewell: nobody is there any more to hear it. */
  fail(error: Error): void {
    if (this.#lost || this.#closing !== null) return;
    this.#lost = true;
    this.#timers.clearAll();
    this.#end.abort(error);
    this.#stream?.abort();
    this.actor.stop();
    this.#options.lost(error);
  }

  async #read(stream: Channel, number: number): Promise<void> {
    const { ref } = this.actor;
    let reason = this.#lossOf(null);
    try {
      for (let next = await stream.receive(); next !== null; next = await stream.receive()) {
        ref.tell("received", Array.isArray(next.message) ? next.message : [next.message]);
      }
    } catch (error) {
      reason = this.#lossOf(error);
    }
    ref.tell("stream-ended", { reason, stream: number });
  }

  #lossOf(error: unknown): string {
    const reason = error === null
      ? "it closed the connection"
      : error instanceof Error
      ? error.message
      : String(error);
    return `Lost the scheduler at ${this.#options.schedulerAddress}: ${reason}`;
  }

  #say(message: Readonly<Record<string, unknown>>): void {
    if (this.#stream !== null) this.#stream.sendBatched(message);
    // After a loss it would be part of a talk with somebody who is gone.
    else if (this.#streams === 0) this.#unsaid.push(message);
  }

  #handle(events: readonly ClientEvent[]): void {
    this.#perform(this.#machine.handle(events), NO_VALUES);
    this.#planLook();
  }

  #received(messages: readonly unknown[]): void {
    const { logger, clock } = this.#options;
    this.#heardAt = clock.now();
    const events: ClientEvent[] = [];
    for (const message of messages) {
      let read;
      try {
        read = readFromScheduler(message, this.#memory);
      } catch (error) {
        logger.log("warning", `Cannot make sense of a message of the scheduler: ${(error as Error).message}`);
        continue;
      }
      switch (read.type) {
        case "heartbeat-interval":
          if (read.ms >= 100) this.#heartbeatMs = Math.min(read.ms, HEARTBEAT_MS);
          break;
        case "topic":
          this.#options.heard(read.topic, read.event);
          break;
        case "scheduler-error":
          logger.log("error", `The scheduler reports: ${readException(read.exception, null).message}`);
          break;
        case "stream-closed":
          this.actor.ref.tell("stream-ended", {
            reason: this.#lossOf(new DaskError("it ended the stream of this client; its log says why")),
            stream: this.#streams,
          });
          break;
        case "ignore":
          if (read.op !== null) logger.log("debug", `Ignored a message of the scheduler: "${read.op}"`);
          break;
        default:
          events.push(read);
      }
    }
    if (events.length > 0) this.#handle(events);
  }

  #fetched(arrived: readonly Arrived[], missing: readonly Key[]): void {
    const values = new Map(arrived.map((value) => [value.key, value]));
    const events: ClientEvent[] = arrived.map(({ key }) => ({ type: "fetched", key }));
    for (const key of missing) events.push({ type: "fetch-missed", key });
    this.#perform(this.#machine.handle(events), values);
  }

  #perform(instructions: readonly Instruction[], values: ReadonlyMap<Key, Arrived>): void {
    for (const instruction of instructions) {
      switch (instruction.type) {
        case "send":
          for (const message of instruction.messages) {
            this.#stream?.sendBatched(writeToScheduler(message, this.#options.submittingTask));
          }
          break;
        case "notify":
          this.#options.tell(instruction.notices.map((notice) => withValue(notice, values)));
          break;
        case "fetch":
          this.#fetcher.fetch(instruction.wanted, instruction.delayMs);
          break;
        case "retry":
          this.#retry(instruction);
          break;
        case "set-timer":
          this.#timers.set(instruction.name, this.#options.clock.now() + instruction.delayMs);
          break;
        case "clear-timer":
          this.#timers.clear(instruction.name);
          break;
        case "log":
          this.#options.logger.log(instruction.level, instruction.message);
          break;
        default:
          unreachable(instruction);
      }
    }
  }

  /** The scheduler would start a task afresh that runs already or has ended, so it is asked first which have failed. */
  #retry({ keys, marked }: Extract<Instruction, { readonly type: "retry" }>): void {
    const { scheduler, schedulerAddress, logger } = this.#options;
    const { clientId } = this.#memory;
    const signal = this.#options.connection();
    const refuse = (refused: readonly Key[]) =>
      this.actor.ref.tell("events", [{ type: "retry-refused", keys: refused }]);
    const call = (request: { readonly op: string; readonly [field: string]: unknown }) =>
      scheduler.call(schedulerAddress, request, { signal });
    const ask = async (): Promise<void> => {
      const states = await call({ op: "get_task_status", keys: keys.map(keyToWire) }) as Readonly<
        Record<Key, unknown>
      >;
      const failed = keys.filter((key) => states[key] === "erred");
      if (failed.length > 0) await call({ op: "retry", keys: failed.map(keyToWire), client: clientId });
      const others = marked.filter((key) => !failed.includes(key));
      if (others.length > 0) refuse(others);
    };
    pipe(ask(), () => {}, (error) => {
      if (!signal.aborted) {
        logger.log("warning", `Cannot run "${keyText(keys[0]!)}" again: ${error.message}`);
      }
      refuse(marked);
    });
  }

  #timer(name: TimerName | "heartbeat" | "workers"): void {
    const { clock } = this.#options;
    switch (name) {
      case "no-workers":
      case "releases":
        return this.#handle([{ type: "timer", name }]);
      case "workers":
        return this.#lookForWorkers();
      case "heartbeat": {
        const now = clock.now();
        if (now - this.#heardAt > SILENCE_MS_MAX) {
          const seconds = Math.round((now - this.#heardAt) / 1_000);
          return this.#streamEnded(this.#lossOf(new DaskError(`it has not answered for ${seconds} s`)));
        }
        this.#stream?.sendBatched({ op: "heartbeat-client" });
        return this.#timers.set("heartbeat", now + this.#heartbeatMs);
      }
    }
  }

  /** Sets the time of the next look, unless it is sooner already. */
  #planLook(): void {
    if (this.#lookAt === Infinity || this.#lost || this.#closing !== null) return;
    const { pending, typescript } = this.#machine;
    const pace = this.#awaited.size > 0 || (pending > 0 && typescript === 0)
      ? "waiting"
      : pending > 0
      ? "running"
      : "idle";
    const at = this.#options.clock.now() + LOOK_MS[pace];
    if (this.#lookAt !== -Infinity && at >= this.#lookAt) return;
    this.#lookAt = at;
    this.#timers.set("workers", at);
  }

  #lookForWorkers(): void {
    this.#lookAt = Infinity;
    const { scheduler, schedulerAddress, logger } = this.#options;
    const signal = this.#options.connection();
    const look = async (): Promise<readonly WorkerInfo[]> => {
      // The short question first: of many workers the whole truth is long, and mostly known.
      const slots = readKeyMap(
        await scheduler.call(schedulerAddress, { op: "ncores" }, { signal }),
        "ncores",
        readNumber,
      );
      const known = this.#workers;
      if (slots.size === known.length && known.every(({ address, slots: n }) => slots.get(address) === n)) {
        return known;
      }
      return readWorkers(await scheduler.call(schedulerAddress, { op: "identity" }, { signal }));
    };
    pipe(look(), (workers) => this.actor.ref.tell("workers", workers), (error) => {
      if (signal.aborted) return;
      logger.log("debug", `Cannot look for workers: ${error.message}`);
      this.actor.ref.tell("workers", this.#workers);
    });
  }

  #workersAre(workers: readonly WorkerInfo[]): void {
    if (this.#stream === null) return;
    if (this.#lookAt === Infinity) this.#lookAt = -Infinity;
    if (workers === this.#workers) return this.#planLook();
    this.#workers = workers;
    const of = (language: WorkerInfo["language"]) =>
      workers.filter((worker) => worker.language === language).map(({ address }) => address);
    const there = new Set(workers.map(({ address }) => address));
    for (const asked of [...this.#fetcher.asked]) if (!there.has(asked)) this.#fetcher.forget(asked);
    for (const [number, { count, asker }] of this.#awaited) {
      if (workers.length < count) continue;
      this.#awaited.delete(number);
      asker.answer();
    }
    const typescript = of("typescript");
    this.#items.workersAre(typescript);
    this.#handle([{ type: "workers-changed", typescript, python: of("python") }]);
  }

  /** The scheduler says of each failed key what failed, not where; so look which task of those behind it failed first. */
  #diagnose(key: Key, lost: boolean, asker: Asker<Diagnosis>): void {
    const lineage = this.#machine.lineage(key);
    const { scheduler, schedulerAddress, broken } = this.#options;
    const signal = this.#options.connection();
    const call = (request: { readonly op: string; readonly [field: string]: unknown }) =>
      scheduler.call(schedulerAddress, request, { signal });
    const find = async (): Promise<Diagnosis> => {
      let origin = key;
      if (lineage.size > 1) {
        const states = await call({ op: "get_task_status", keys: [...lineage.keys()].map(keyToWire) });
        origin = firstErred(key, lineage, states as Readonly<Record<Key, unknown>>);
      }
      const left = lost ? workersThatLeft(origin, await call({ op: "events", topic: "all" })) : [];
      return { origin, left };
    };
    // Best effort: an error without its origin is better than none.
    pipe(find(), (diagnosis) => asker.answer(diagnosis), (error) => {
      const gone = signal.aborted || error instanceof CommClosedError; // the stream may not have heard of it yet
      asker.answer({ origin: key, left: [], interrupted: gone && broken !== undefined });
    });
  }
}

const NO_VALUES: ReadonlyMap<Key, Arrived> = new Map();

function withValue(notice: Notice, values: ReadonlyMap<Key, Arrived>): News {
  if (notice.type !== "value") return notice;
  const value = values.get(notice.key);
  assert(value !== undefined, `The value of "${notice.key}" has come`);
  return { ...notice, payload: value.payload };
}

function firstErred(
  key: Key,
  lineage: ReadonlyMap<Key, readonly Key[]>,
  states: Readonly<Record<Key, unknown>>,
): Key {
  let origin = key;
  for (;;) {
    const erred = lineage.get(origin)?.find((dependency) => states[dependency] === "erred");
    if (erred === undefined) return origin;
    origin = erred;
  }
}

/** Reads the scheduler's log of who left with what on its hands. */
function workersThatLeft(key: Key, events: unknown): readonly string[] {
  const left: string[] = [];
  for (const entry of Array.isArray(events) ? events : []) {
    const event = Array.isArray(entry) ? entry[1] : null;
    if (typeof event !== "object" || event === null) continue;
    const { action, worker, "processing-tasks": tasks, expected } = event as Readonly<
      Record<string, unknown>
    >;
    if (action !== "remove-worker" || typeof worker !== "string" || expected === true) continue;
    const keys = tasks instanceof Set || Array.isArray(tasks) ? [...tasks] : [];
    if (keys.some((item) => keyFromWire(item) === key)) left.push(worker);
  }
  return left;
}
