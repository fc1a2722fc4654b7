/**
 * Executors inside the worker's own process. The law is that of `processes.ts`, and simpler to keep: a call leaves this
 * queue only for a seat that is idle, so what waits has not begun and can always be taken back.
 *
 * What cannot be had without a process of its own is refused by name: permissions other than the worker's. What cannot
 * be stopped (code that never returns to its event loop) ends as stopped for everybody else and goes on in its seat,
 * which is given up if another can be had.
 *
 * @module
 */
import { type Logger, silent } from "../../base/log.ts";
import { DaskError, type ErrorData } from "../../protocol/errors.ts";
import { decodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { errorData, writeException } from "../../protocol/exception.ts";
import type { AllowList } from "./allow.ts";
import { type CallData, callData, type CallEnd, type FromRunner, type RunnerOptions } from "./call_runner.ts";
import { currentFolder } from "./current_folder.ts";
import type { ExecutorCall, ExecutorListener, ExecutorPool, Outcome, PoolExecutor } from "./executor.ts";
import { INPUT_CACHE_BYTES_MAX } from "./link.ts";
import type { TaskPermissions } from "./permissions.ts";
import { ACKNOWLEDGE_MS, GRACE_MS, readPolicy, type Stop, stoppedError, timedOut } from "./policy.ts";

/** Options of the pools in this process. */
export interface InProcessOptions {
  /** Calls that run at a time. */
  readonly slots: number;
  readonly listener: ExecutorListener;
  readonly permissions?: TaskPermissions | undefined;
  readonly logger?: Logger | undefined;
  /** How long a call that has acknowledged its abort may go on, ms. Default 250. */
  readonly graceMs?: number | undefined;
  /** How long a seat has to acknowledge an abort, ms. Default 50. */
  readonly acknowledgeMs?: number | undefined;
  /** Inputs that each seat keeps for later calls, bytes. Default 256 MiB. */
  readonly inputCacheBytesMax?: number | undefined;
  /** URLs of modules that each seat loads before its first call. */
  readonly preload?: readonly string[] | undefined;
  /** What code may be loaded for calls. Default: anything. */
  readonly allow?: AllowList | null | undefined;
  /** Address of the scheduler, for clients inside of tasks. Default: they can have none. */
  readonly scheduler?: string | undefined;
  /** Certificates for those clients. */
  readonly tls?: RunnerOptions["tls"] | undefined;
  /** As of processes: seats keep something and are not replaced, and this is told how one ended. */
  readonly lost?: ((how: string) => void) | undefined;
}

/** What the runners of a pool need to know. */
export function runnerOptions(options: InProcessOptions): RunnerOptions {
  const {
    inputCacheBytesMax = INPUT_CACHE_BYTES_MAX,
    preload = [],
    allow = null,
    scheduler = null,
    tls = null,
  } = options;
  return { base: currentFolder(), inputCacheBytesMax, preload, allow, scheduler, tls };
}

/** What runs one call at a time; after a `seceded` it is left to that call. */
export interface Seat {
  readonly ready: Promise<void>;
  run(call: CallData): void;
  abort(seq: number, stop: Stop): void;
  forget(ids: readonly number[]): void;
  items(seq: number, ask: number, from: number): void;
  /** Ends it, or as much as can be ended. */
  close(): void | Promise<void>;
}

/** Makes a seat. `tell` gets what it says; `lost`, once, that it is gone, and how. */
export type MakeSeat = (tell: (record: FromRunner) => void, lost: (how: string) => void) => Seat;

/** What distinguishes the isolations. */
export interface Isolation {
  /** `"thread"`, for messages. */
  readonly name: string;
  readonly description: string;
  readonly makeSeat: MakeSeat;
  /** Whether a seat whose call does not obey can be replaced. Otherwise the pool waits for the call. */
  readonly replaceable: boolean;
}

type Timer = ReturnType<typeof setTimeout>;

interface Running {
  readonly seq: number;
  readonly call: ExecutorCall;
  readonly place: Place;
  readonly startedAt: number;
  stop: Stop | null;
  stopTimer: Timer | undefined;
  timeoutTimer: Timer | undefined;
}

/** A seat and what it does. */
interface Place {
  readonly seat: Seat;
  running: Running | null;
  /** It has a slot of the pool. */
  seated: boolean;
}

/** Seats that may fail to start in a row. */
const START_FAILURES_MAX = 3;

/** Starts a pool. */
export function startInProcessPool(options: InProcessOptions, isolation: Isolation): ExecutorPool {
  return new InProcessPool(options, isolation);
}

class InProcessPool implements ExecutorPool {
  readonly description: string;
  readonly #isolation: Isolation;
  readonly #listener: ExecutorListener;
  readonly #logger: Logger;
  readonly #graceMs: number;
  readonly #acknowledgeMs: number;
  readonly #reportLost: InProcessOptions["lost"];
  readonly #places = new Set<Place>();
  readonly #queue: { readonly call: ExecutorCall; readonly timeoutMs: number | null }[] = [];
  readonly #running = new Map<string, Running>();
  readonly #ready: Promise<void>;
  #nextSeq = 0;
  #failures = 0;
  #warned = false;
  #filling = false;
  #closed = false;

  constructor(options: InProcessOptions, isolation: Isolation) {
    const { slots, permissions } = options;
    if (!Number.isSafeInteger(slots) || slots < 1) {
      throw new RangeError(`Cannot start ${slots} executors: expected a whole number of at least 1`);
    }
    if (permissions !== undefined && permissions !== "inherit") {
      throw new DaskError(refusal(isolation.name));
    }
    this.#isolation = isolation;
    this.#listener = options.listener;
    this.#logger = options.logger ?? silent;
    this.#graceMs = options.graceMs ?? GRACE_MS;
    this.#acknowledgeMs = options.acknowledgeMs ?? ACKNOWLEDGE_MS;
    this.#reportLost = options.lost;
    this.description = isolation.description;
    for (let i = 0; i < slots; i++) this.#seat();
    this.#ready = Promise.all([...this.#places].map(({ seat }) => seat.ready)).then(() => {});
    this.#ready.catch(() => {}); // nobody has to ask
  }

  ready(): Promise<void> {
    return this.#ready;
  }

  get busy(): boolean {
    return this.#running.size > 0 || this.#queue.length > 0;
  }

  /** None of its own. */
  processes(): readonly number[] {
    return [];
  }

  /** None that could be measured: they are the worker's own process. */
  executors(): readonly PoolExecutor[] {
    return [];
  }

  terminate(): void {}

  place(call: ExecutorCall): void {
    if (this.#closed) return;
    let timeoutMs: number | null;
    try {
      const policy = readPolicy(call.annotations);
      timeoutMs = policy.timeoutMs;
      if (policy.permissions !== null && policy.permissions !== "inherit") {
        throw new DaskError(refusal(this.#isolation.name));
      }
    } catch (error) {
      return this.#later(() => this.#failUnstarted(call, errorData(error)));
    }
    this.#queue.push({ call, timeoutMs });
    this.#fillSoon();
  }

  withdraw(key: string, runId: number): void {
    const at = this.#queue.findIndex(({ call }) => call.key === key && call.runId === runId);
    if (at >= 0) this.#queue.splice(at, 1);
    else if (this.#running.has(idOf(key, runId))) return;
    this.#later(() => this.#listener.withdrawn(key, runId));
  }

  abort(key: string, runId: number, reason: string): void {
    const running = this.#running.get(idOf(key, runId));
    if (running === undefined) return this.withdraw(key, runId);
    this.#stop(running, { name: "AbortError", reason });
  }

  items(key: string, runId: number, ask: number, from: number): void {
    const running = this.#running.get(idOf(key, runId));
    running?.place.seat.items(running.seq, ask, from);
  }

  forget(ids: readonly number[]): void {
    for (const { seat } of this.#places) seat.forget(ids);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#queue.length = 0;
    for (const running of this.#running.values()) {
      clearTimeout(running.stopTimer);
      clearTimeout(running.timeoutTimer);
    }
    this.#running.clear();
    const places = [...this.#places];
    this.#places.clear();
    await Promise.all(places.map(({ seat }) => seat.close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- Seats ---

  #seat(): void {
    const place: Place = {
      seat: this.#isolation.makeSeat(
        (record) => this.#handle(place, record),
        (how) => this.#lost(place, how),
      ),
      running: null,
      seated: true,
    };
    this.#places.add(place);
    place.seat.ready.then(() => {
      this.#failures = 0;
      this.#fill();
    }, () => {});
  }

  /** Takes the slot from a seat and gives it to a fresh one. */
  #replace(place: Place): void {
    if (!place.seated || this.#reportLost !== undefined) return;
    place.seated = false;
    this.#seat();
  }

  #lost(place: Place, how: string): void {
    if (this.#closed || !this.#places.delete(place)) return;
    place.seat.close();
    const { running } = place;
    if (running !== null) {
      const { key } = running.call;
      this.#end(
        running,
        running.stop !== null ? failure(running, stoppedError(key, running.stop)) : failure(running, {
          name: "ExecutorLostError",
          message: `Lost the executor of task "${key}": its ${this.#isolation.name} ${how}`,
          stack: "",
          kind: "lost",
          exit: how,
        }),
      );
    } else if (this.#reportLost === undefined && ++this.#failures >= START_FAILURES_MAX) {
      const error = new DaskError(`Cannot start an executor: its ${this.#isolation.name} ${how}`);
      this.#logger.log("error", error.message);
      for (const { call } of this.#queue.splice(0)) this.#failUnstarted(call, errorData(error));
      this.#failures = 0;
      return;
    }
    if (this.#reportLost !== undefined) return this.#reportLost(how);
    if (place.seated) this.#seat();
  }

  // --- Calls ---

  #fillSoon(): void {
    if (this.#filling) return;
    this.#filling = true;
    this.#later(() => {
      this.#filling = false;
      this.#fill();
    });
  }

  #fill(): void {
    if (this.#places.size === 0 && this.#queue.length > 0) this.#seat();
    for (const place of this.#places) {
      if (this.#closed) return;
      if (!place.seated || place.running !== null) continue;
      const next = this.#queue.shift();
      if (next === undefined) return;
      this.#start(place, next.call, next.timeoutMs);
    }
  }

  #start(place: Place, call: ExecutorCall, timeoutMs: number | null): void {
    const startedAt = Date.now();
    const running: Running = {
      seq: this.#nextSeq++,
      call,
      place,
      startedAt,
      stop: null,
      stopTimer: undefined,
      timeoutTimer: undefined,
    };
    if (timeoutMs !== null) {
      running.timeoutTimer = setTimeout(() => this.#stop(running, timedOut(timeoutMs)), timeoutMs);
    }
    place.running = running;
    this.#running.set(idOf(call.key, call.runId), running);
    this.#listener.started(call.key, call.runId, startedAt);
    place.seat.run(callData(running.seq, call));
  }

  #stop(running: Running, stop: Stop): void {
    if (running.stop !== null) return;
    running.stop = stop;
    running.place.seat.abort(running.seq, stop);
    if (this.#isolation.replaceable) this.#giveUpIn(running, this.#acknowledgeMs);
  }

  #giveUpIn(running: Running, ms: number): void {
    clearTimeout(running.stopTimer);
    running.stopTimer = setTimeout(() => {
      // One more look at what came in while this thread was busy.
      running.stopTimer = setTimeout(() => this.#giveUp(running), 0);
    }, ms);
  }

  /** The call does not end: nobody waits for it any more, and its seat is left to it. */
  #giveUp(running: Running): void {
    const { place, call } = running;
    if (!this.#warned) {
      this.#warned = true;
      this.#logger.log(
        "warning",
        `Task "${call.key}" does not obey its abort, and a ${this.#isolation.name} cannot be ended by force: ` +
          `a core may be lost until the worker restarts; --isolation process ends such tasks`,
      );
    }
    this.#replace(place);
    this.#places.delete(place);
    place.seat.close();
    this.#end(running, failure(running, stoppedError(call.key, running.stop!)));
  }

  #handle(place: Place, record: FromRunner): void {
    const { running } = place;
    if (this.#closed || running === null || running.seq !== record[1]) return;
    const { key, runId } = running.call;
    switch (record[0]) {
      case "acknowledged":
        if (running.stop !== null && this.#isolation.replaceable) this.#giveUpIn(running, this.#graceMs);
        break;
      case "seceded":
        if (this.#reportLost !== undefined) break;
        this.#replace(place);
        this.#listener.seceded(key, runId, record[2]);
        this.#fillSoon();
        break;
      case "event":
        this.#listener.event(key, runId, record[2], decodeMsgpack(record[3]));
        break;
      case "items":
        this.#listener.items(key, runId, record[2], record[3]);
        break;
      case "ended":
        this.#end(running, outcomeOf(running, record[2]));
        if (!place.seated) {
          this.#places.delete(place);
          place.seat.close();
        }
        break;
    }
  }

  #end(running: Running, outcome: Outcome): void {
    const { key, runId } = running.call;
    clearTimeout(running.stopTimer);
    clearTimeout(running.timeoutTimer);
    running.place.running = null;
    this.#running.delete(idOf(key, runId));
    this.#listener.ended(key, runId, outcome);
    this.#fillSoon();
  }

  #failUnstarted(call: ExecutorCall, error: ErrorData): void {
    const now = Date.now();
    this.#listener.started(call.key, call.runId, now);
    this.#listener.ended(call.key, call.runId, {
      type: "failed",
      ...writeException({ ...error, stack: "" }),
      start: now,
      stop: now,
    });
  }

  /** Tells something in a later turn, unless the pool is closed by then. */
  #later(tell: () => void): void {
    queueMicrotask(() => {
      if (!this.#closed) tell();
    });
  }
}

function outcomeOf(running: Running, end: CallEnd): Outcome {
  // Too late is too late.
  if (running.stop?.name === "TimeoutError") {
    return failure(running, stoppedError(running.call.key, running.stop));
  }
  if (end.type !== "succeeded") return end;
  const { header, frames, ...rest } = end;
  return { ...rest, payload: { header, frames } };
}

function failure(running: Running, error: ErrorData): Outcome {
  return { type: "failed", ...writeException(error), start: running.startedAt, stop: Date.now() };
}

function refusal(isolation: string): string {
  return `Cannot give tasks other permissions than the worker's with isolation "${isolation}": use --isolation process`;
}

function idOf(key: string, runId: number): string {
  return `${runId} ${key}`;
}
