/**
 * Executors in child processes, one a slot. The law: a call is told `started` at most once and, when it was, `ended`
 * exactly once; a call that no executor began is never lost with one. Who began what is decided by the ledger alone
 * (`ledger.ts`), so that a call can be taken back while its executor is blocked by user code.
 *
 * | what happens to an executor | its running call | its waiting call |
 * |---|---|---|
 * | it dies, or `Deno.exit` is called in it | ends as `failed`, kind `lost` | is placed again |
 * | it does not obey an abort in time | ends as `failed`, `AbortError` or `TimeoutError` | is placed again |
 * | its call secedes | goes on there | is placed again |
 * | it cannot start, three times | – | fails when no slot is left |
 *
 * An executor has one set of permissions for life. A slot is given an executor of another set when a task asks for it;
 * the one that it had is parked, warm, for the next task of its own set.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import { type Logger, silent } from "../../base/log.ts";
import { CommClosedError, DaskError, type ErrorData } from "../../protocol/errors.ts";
import { type Frame, isFileFrame, type Payload, payloadBytes } from "../../protocol/payload.ts";
import { writeException } from "../../protocol/exception.ts";
import type {
  ExecutorCall,
  ExecutorListener,
  ExecutorPool,
  Input,
  Outcome,
  PoolExecutor,
} from "./executor.ts";
import {
  type ExecutorConfig,
  FILE_BYTES_MIN,
  type FromExecutor,
  INPUT_CACHE_BYTES_MAX,
  KEPT_BYTES_MIN,
  Link,
  type LinkFrame,
  type LinkInput,
} from "./link.ts";
import type { AllowList } from "./allow.ts";
import { currentFolder } from "./current_folder.ts";
import { holdDirectory } from "./directory_lock.ts";
import {
  descriptorOf,
  givenUp,
  type Grants,
  grantsOf,
  grantsPath,
  hasWhole,
  type TaskPermissions,
  withGrant,
  within,
} from "./permissions.ts";
import { decodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { ownFolders } from "./own_folders.ts";
import { ACKNOWLEDGE_MS, GRACE_MS, readPolicy, type Stop, stoppedError, timedOut } from "./policy.ts";
import { type ExecutorLink, ExecutorProcess, type Exit, removeFile } from "./executor_process.ts";

/** Lists of small numbers take four times as many bytes in memory as in a pickle, lists of short texts and of objects six. */
const READ_PICKLE_FACTOR = 8;
const LATIN1 = new TextDecoder("latin1");

/** Options of {@linkcode startProcessPool}. */
export interface ProcessPoolOptions {
  /** Calls that run at a time, each in a process of its own. */
  readonly slots: number;
  /** Private folder for large frames, shared with the store; RAM-backed where there is room. An absolute path. */
  readonly directory: string;
  /**
   * Private folder for the socket. When it lies under `/dev`, where Deno opens files only for processes that have all
   * permissions, a folder in the temporary folder is used instead.
   */
  readonly socketDirectory: string;
  /** What tasks may do. Default `"inherit"`. */
  readonly permissions?: TaskPermissions | Deno.PermissionOptions | undefined;
  readonly listener: ExecutorListener;
  /** Gets the output of tasks, line by line, at level `info`. Default: none. */
  readonly logger?: Logger | undefined;
  /** The Deno executable. Default: the one that runs this. */
  readonly execPath?: string | undefined;
  /** How long a call that has acknowledged its abort may go on before its process is ended, ms. Default 250. */
  readonly graceMs?: number | undefined;
  /** URLs of modules that each executor loads before its first call, with the permissions of tasks. */
  readonly preload?: readonly string[] | undefined;
  /** What code may be loaded for calls. Default: anything. */
  readonly allow?: AllowList | null | undefined;
  /** How long an executor has to acknowledge an abort before it is ended without grace, ms. Default 50. */
  readonly acknowledgeMs?: number | undefined;
  /** Warm executors without a slot that are kept: of other permission sets, and spares. Default: as many as slots. */
  readonly parkedExecutorsMax?: number | undefined;
  /** Inputs that each executor keeps for later calls, bytes. Default 256 MiB. */
  readonly inputCacheBytesMax?: number | undefined;
  /** Where inputs may lie that were spilled; executors get to read there. Default: nowhere. */
  readonly spillDirectory?: string | null | undefined;
  /** Whether executors are to tell their memory, because it cannot be seen from outside. Default false. */
  readonly tellMemory?: boolean | undefined;
  /** Flags for V8, as `--max-old-space-size=512`. */
  readonly v8Flags?: readonly string[] | undefined;
  /** Address of the scheduler, for clients inside of tasks. Default: they can have none. */
  readonly scheduler?: string | undefined;
  /** Certificates for those clients. */
  readonly tls?: ExecutorConfig["tls"] | undefined;
  /** Calls that may go on without a slot at a time: each keeps a process. Default 64. */
  readonly secededMax?: number | undefined;
  /**
   * Executors keep what cannot be had from another one, so none is replaced, and calls have no slot to give up. Told,
   * after its calls ended, how an executor ended; there is nothing to be done with the pool then but to close it.
   */
  readonly lost?: ((exit: string) => void) | undefined;
}

/** Default of `secededMax`. */
export const SECEDED_MAX = 64;

/** Starts of one slot that may fail in a row. */
const START_FAILURES_MAX = 3;
/** A child that has not connected after this time is ended, ms. */
const START_TIMEOUT_MS = 30_000;
/** The same for one that loads modules of the operator first. */
const PRELOAD_TIMEOUT_MS = 600_000;
/** How long a slot is left alone after its last failed start, ms. */
const RETRY_MS = 10_000;
/** An executor that has closed its link is ended after this time, unless it has ended by itself, ms. */
const UNLINKED_MS_MAX = 500;
/** How often a call is placed again after its executor died before it began. */
const PLACEMENTS_MAX = 4;
/** How long after it was sent a call that is told neither as started nor as ended is looked up in the ledger, ms. */
const LOOK_AFTER_MS = 10;
/** A parked executor that nobody asks for is ended after this time, ms. */
const PARKED_MS_MAX = 60_000;
/** The same for one that nobody asked for yet, ms. */
const SPARE_MS_MAX = 1_000;
/** So long before an executor is ended by force the one in its place is started, ms: longer than a start takes. */
const START_AHEAD_MS = 150;

/** How long an idle slot waits for a fresh call before it takes one that waits elsewhere, ms. */
const MOVE_AFTER_MS = 1;

/** Sets of permissions that are remembered. */
const SETS_MAX = 1_000;

type Timer = ReturnType<typeof setTimeout>;
type Executor = ExecutorProcess<Placed, PermissionSet>;

/** What executors of one set of permissions are started with. */
interface PermissionSet {
  /** Equal texts mean the same permissions. */
  readonly id: string;
  readonly args: readonly string[];
  readonly revoke: readonly Deno.PermissionDescriptor[];
}

/** A call in this pool. */
interface Placed {
  readonly id: string;
  readonly call: ExecutorCall;
  readonly set: PermissionSet;
  readonly timeoutMs: number | null;
  /** `queued`: here. `sent`: an executor has it, or will on connecting. `started`: it was told so. */
  state: "queued" | "sent" | "started";
  slot: Slot | null;
  executor: Executor | null;
  /** Its number in that executor, -1 while it was not sent. */
  seq: number;
  startedAt: number;
  sentAt: number;
  placements: number;
  /** It was taken back, and that is told when its executor is gone. */
  takenBack: boolean;
  stop: Stop | null;
  /** Ends it by force. */
  stopTimer: Timer | undefined;
  timeoutTimer: Timer | undefined;
  /** Inputs that its executor was given with it and will keep. */
  introduced: number[];
  /** Files made for its inputs. */
  spooled: string[];
}

/** One slot. At most two calls: the first runs or is about to, the second waits. */
interface Slot {
  readonly index: number;
  executor: Executor | null;
  calls: Placed[];
  failures: number;
  failedAt: number;
}

/**
 * Starts `slots` executors. Calls may be placed at once; `ready()` tells when all are warm.
 *
 * @throws {DaskError} when tasks are to get a permission that this process does not have, or processes cannot be
 * started for want of `--allow-run`.
 */
export function startProcessPool(options: ProcessPoolOptions): ExecutorPool {
  return new ProcessPool(options);
}

class ProcessPool implements ExecutorPool {
  readonly description: string;
  readonly #options: ProcessPoolOptions;
  readonly #listener: ExecutorListener;
  readonly #logger: Logger;
  readonly #command: string;
  readonly #config: Omit<ExecutorConfig, "token" | "prefix" | "revoke">;
  /** Sets by id, and by the text in which tasks asked for them. */
  readonly #sets = new Map<string, PermissionSet>();
  readonly #asked = new Map<string, PermissionSet>();
  /** The set of all tasks that do not ask for another. */
  readonly #common: PermissionSet;
  /** Warm executors without a slot, least recently used first. */
  readonly #parked = new Map<Executor, Timer>();
  readonly #parkedMax: number;
  readonly #startMsMax: number;
  readonly #graceMs: number;
  readonly #acknowledgeMs: number;
  readonly #keptBytesMax: number;
  readonly #name: string;
  readonly #server: Deno.UnixListener;
  readonly #accepting: Promise<void>;
  readonly #holds: readonly { release(): void }[];
  /** A folder of our own for the socket, when the one given is of no use. */
  #ownSocketDirectory: string | null = null;
  readonly #slots: Slot[] = [];
  readonly #calls = new Map<string, Placed>();
  readonly #queue: Placed[] = [];
  /** Started and not connected yet, by token. */
  readonly #expected = new Map<string, { executor: Executor; timer: Timer }>();
  /** All processes that have not ended. Some have no slot any more: they run a call that seceded, or are being ended. */
  readonly #processes = new Set<Executor>();
  /** Connections that have not said who they are. */
  readonly #strangers = new Set<Deno.Conn>();
  /** Files made of large frames that were in memory, by payload id and frame number. */
  readonly #spool = new Map<string, { readonly path: string; users: number }>();
  readonly #ready = Promise.withResolvers<void>();
  #warm = 0;
  #spawned = 0;
  #spoolFiles = 0;
  #moveTimer: Timer | undefined;
  #lookTimer: Timer | undefined;
  #closing: Promise<void> | null = null;
  /** While closing: calls that run and were told that it is over. */
  readonly #leaving = new Set<Placed>();
  readonly #left = Promise.withResolvers<void>();

  constructor(options: ProcessPoolOptions) {
    if (!Number.isSafeInteger(options.slots) || options.slots < 1) {
      throw new RangeError(`Cannot start ${options.slots} executors: expected a whole number of at least 1`);
    }
    this.#options = options;
    this.#listener = options.listener;
    this.#logger = options.logger ?? silent;
    const preload = options.preload ?? [];
    this.#startMsMax = preload.length > 0 ? PRELOAD_TIMEOUT_MS : START_TIMEOUT_MS;
    this.#graceMs = options.graceMs ?? GRACE_MS;
    this.#acknowledgeMs = options.acknowledgeMs ?? ACKNOWLEDGE_MS;
    this.#parkedMax = options.parkedExecutorsMax ?? options.slots;
    this.#keptBytesMax = options.inputCacheBytesMax ?? INPUT_CACHE_BYTES_MAX;
    this.#command = options.execPath ?? Deno.execPath();
    this.#name = `x${Deno.pid.toString(36)}${randomName()}`;
    this.#ready.promise.catch(() => {}); // nobody has to ask

    const sockets = this.#socketDirectory();
    const socket = `${sockets}/${this.#name}.sock`;
    const base = currentFolder();
    const libc = Deno.build.os === "linux" && hasWhole("ffi");
    const { directory, scheduler = null, tls = null, allow = null, tellMemory = false } = options;
    const config = { socket, parent: Deno.pid, directory, libc, base, scheduler, tls, preload, allow };
    this.#config = { ...config, tellMemory };
    const grants = grantsOf(options.permissions ?? "inherit", base);
    this.#common = this.#permissionSet(grants);
    this.description =
      `${options.slots} executor process${
        options.slots === 1 ? "" : "es"
      }, task permissions: ${grants.summary}; ` +
      `ended with the worker by ${libc ? "the kernel" : "a watching thread each"}; ` +
      `frames from ${FILE_BYTES_MIN / 1024} KiB on in ${options.directory}`;

    try {
      this.#server = Deno.listen({ transport: "unix", path: socket });
    } catch (cause) {
      throw new DaskError(`Cannot listen for executors at ${socket}: ${messageOf(cause)}`, { cause });
    }
    this.#accepting = this.#accept();
    this.#holds = [...new Set([options.directory, sockets])].map(hold);
    for (let index = 0; index < options.slots; index++) {
      const slot: Slot = { index, executor: null, calls: [], failures: 0, failedAt: 0 };
      this.#slots.push(slot);
      this.#start(slot, this.#common);
    }
  }

  processes(): readonly number[] {
    return Array.from(this.#processes, ({ pid }) => pid);
  }

  ready(): Promise<void> {
    return this.#ready.promise;
  }

  place(call: ExecutorCall): void {
    if (this.#closing !== null) return;
    const id = idOf(call.key, call.runId);
    let set = this.#common;
    let timeoutMs: number | null = null;
    let refused: ErrorData | null = null;
    if (call.annotations["deno"] !== undefined) {
      try {
        const policy = readPolicy(call.annotations);
        timeoutMs = policy.timeoutMs;
        if (policy.permissions !== null) set = this.#setFor(policy.permissions);
      } catch (error) {
        refused = errorFrom(error);
      }
    }
    const placed: Placed = {
      id,
      call,
      set,
      timeoutMs,
      state: "queued",
      slot: null,
      executor: null,
      seq: -1,
      startedAt: 0,
      sentAt: 0,
      placements: 0,
      takenBack: false,
      stop: null,
      stopTimer: undefined,
      timeoutTimer: undefined,
      introduced: [],
      spooled: [],
    };
    this.#calls.set(id, placed);
    if (refused !== null) {
      const error = refused;
      return this.#later(() => this.#failUnstarted(placed, error));
    }
    this.#queue.push(placed);
    this.#fill();
  }

  withdraw(key: string, runId: number): void {
    const placed = this.#calls.get(idOf(key, runId));
    if (placed === undefined) return this.#later(() => this.#listener.withdrawn(key, runId));
    if (placed.state !== "started" && this.#takeBack(placed)) this.#tellWithdrawn(placed);
  }

  abort(key: string, runId: number, reason: string): void {
    const placed = this.#calls.get(idOf(key, runId));
    if (placed === undefined) return this.#later(() => this.#listener.withdrawn(key, runId));
    if (placed.state !== "started" && this.#takeBack(placed)) return this.#tellWithdrawn(placed);
    if (placed.takenBack || placed.stop !== null) return;
    placed.stop = { name: "AbortError", reason };
    if (placed.state === "started") this.#stop(placed);
  }

  items(key: string, runId: number, ask: number, from: number): void {
    const placed = this.#calls.get(idOf(key, runId));
    if (placed?.state !== "started" || placed.executor === null) return;
    placed.executor.link?.push(["items", placed.seq, ask, from]);
    placed.executor.link?.flush();
  }

  get busy(): boolean {
    return this.#calls.size > 0;
  }

  executors(): readonly PoolExecutor[] {
    return [...this.#processes].map((executor) => {
      const [first] = executor.calls.values();
      return {
        pid: executor.pid,
        call: first?.state === "started" ? first.id : null,
        reportedBytes: this.#config.tellMemory ? executor.toldBytes : null,
      };
    });
  }

  terminate(pid: number, reason: string): void {
    for (const executor of this.#processes) {
      if (executor.pid !== pid) continue;
      executor.tooLarge = reason;
      executor.kill();
    }
  }

  forget(ids: readonly number[]): void {
    for (const executor of this.#processes) {
      const gone = ids.filter((id) => executor.kept.has(id));
      if (gone.length === 0) continue;
      for (const id of gone) dropKept(executor, id);
      executor.link?.push(["forget", gone]);
      executor.link?.flush();
    }
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- Placing ---

  /** Gives queued calls to slots as far as there is room. */
  #fill(): void {
    while (this.#queue.length > 0) {
      const slot = this.#choose(this.#queue[0]!);
      if (slot === null) break;
      const placed = this.#queue.shift()!;
      slot.calls.push(placed);
      placed.slot = slot;
      placed.state = "sent";
      placed.placements++;
      if (slot.executor?.set.id === placed.set.id) this.#send(slot.executor, placed);
      else this.#change(slot, placed.set);
    }
    if (this.#queue.length > 0 && this.#slots.every((slot) => slot.failures >= START_FAILURES_MAX)) {
      this.#revive();
    }
  }

  /**
   * An idle slot, else one of the same permissions without a waiting call; of several the one that has most of the
   * inputs.
   */
  #choose(placed: Placed): Slot | null {
    let best: Slot | null = null;
    let bestScore = -1;
    for (const slot of this.#slots) {
      if (slot.calls.length > 1 || slot.failures >= START_FAILURES_MAX) continue;
      const idle = slot.calls.length === 0;
      const fits = slot.executor?.set.id === placed.set.id;
      // Who comes later does not overtake: so the slots run empty in time, and change.
      if (!idle && !fits) continue;
      const warm = fits && slot.executor?.link != null;
      // A call that is to be stopped will take its executor with it: not a good place to wait.
      const doomed = !idle && slot.calls[0]!.stop !== null;
      let score = (idle ? 4 : doomed ? 0 : 2) + (warm ? 1 : 0);
      const kept = slot.executor?.kept;
      if (kept !== undefined && kept.size > 0) {
        let bytes = 0;
        for (const { id } of placed.call.inputs) bytes += kept.get(id) ?? 0;
        score += bytes / (bytes + 1e9); // below 1: decides only between equals
      }
      if (score > bestScore) {
        best = slot;
        bestScore = score;
      }
    }
    return best;
  }

  /** Gives a call to an executor; those that have not connected yet get theirs when they do. */
  #send(executor: Executor, placed: Placed): void {
    const { call } = placed;
    const { link } = executor;
    assert(executor.set.id === placed.set.id, "A call runs under its own permissions");
    if (link === null) return;
    let inputs: LinkInput[];
    try {
      placed.seq = executor.takeSeq();
      placed.executor = executor;
      executor.calls.set(placed.seq, placed);
      inputs = call.inputs.map((input) => this.#toLink(executor, link, placed, input));
    } catch (error) {
      // Without a ledger file, say: the room is gone, so is this call.
      this.#later(() => this.#failUnstarted(placed, errorFrom(error)));
      return;
    }
    const { pickle, buffers } = call.runSpec;
    const { attempt = 1 } = call;
    link.push(["call", placed.seq, call.key, call.runId, pickle, buffers, inputs, call.annotations, attempt]);
    const gone = evict(executor, this.#keptBytesMax);
    if (gone.length > 0) link.push(["forget", gone]);
    link.flush();
    placed.sentAt = performance.now();
    this.#lookSoon();
  }

  #toLink(executor: Executor, link: ExecutorLink, placed: Placed, input: Input): LinkInput {
    const { key, id, payload } = input;
    const known = executor.kept.get(id);
    if (known !== undefined) {
      executor.kept.delete(id);
      executor.kept.set(id, known);
      return [key, id];
    }
    const bytes = keptBytes(payload);
    const keep = bytes >= KEPT_BYTES_MIN && bytes <= this.#keptBytesMax;
    const frames = payload.frames.map((frame, index): LinkFrame => {
      if (isFileFrame(frame)) return [frame.file, frame.byteLength];
      if (frame.byteLength < FILE_BYTES_MIN) return frame;
      return this.#toFile(placed, `${id}.${index}`, frame) ?? link.attach(frame);
    });
    if (keep) {
      executor.kept.set(id, bytes);
      executor.keptBytes += bytes;
      placed.introduced.push(id);
    }
    return [key, id, keep, payload.header, frames];
  }

  /** Puts a large frame that is in memory into a file, once for all calls that use it now; null when there is no room. */
  #toFile(placed: Placed, name: string, bytes: Uint8Array): LinkFrame | null {
    let entry = this.#spool.get(name);
    if (entry === undefined) {
      const path = `${this.#options.directory}/${this.#name}.i${this.#spoolFiles++}`;
      try {
        Deno.writeFileSync(path, bytes, { createNew: true, mode: 0o600 });
      } catch {
        removeFile(path);
        return null;
      }
      this.#spool.set(name, entry = { path, users: 0 });
    }
    entry.users++;
    placed.spooled.push(name);
    return [entry.path, bytes.byteLength];
  }

  /** The call needs nothing of us any more. */
  #settle(placed: Placed): void {
    this.#calls.delete(placed.id);
    clearTimeout(placed.stopTimer);
    clearTimeout(placed.timeoutTimer);
    this.#unspool(placed);
  }

  #unspool(placed: Placed): void {
    for (const name of placed.spooled) {
      const entry = this.#spool.get(name);
      if (entry === undefined || --entry.users > 0) continue;
      this.#spool.delete(name);
      removeFile(entry.path);
    }
    placed.spooled = [];
  }

  // --- Taking back ---

  /** Whether a call that was not told as started can still be kept from running. Then it is nowhere any more. */
  #takeBack(placed: Placed): boolean {
    if (placed.takenBack) return false;
    const { executor } = placed;
    if (executor !== null) {
      const [oldest = placed.seq] = executor.calls.keys();
      const contest = executor.ledger.contest(placed.seq, oldest);
      if (contest === "late") {
        this.#later(() => this.#lookUp(placed, executor));
        return false;
      }
      if (contest === "damaged") {
        // Nobody can tell whether it runs, except by ending the process.
        placed.takenBack = true;
        this.#logger.log("warning", "Ending an executor: task code has overwritten its ledger", {
          executor: executor.pid,
        });
        executor.kill();
        return false;
      }
      // It will not decode what came with a call that it skips.
      const gone = placed.introduced.filter((id) => dropKept(executor, id));
      if (gone.length > 0) {
        executor.link?.push(["forget", gone]);
        executor.link?.flush();
      }
    }
    this.#remove(placed);
    return true;
  }

  #tellWithdrawn(placed: Placed): void {
    this.#settle(placed);
    this.#later(() => {
      this.#listener.withdrawn(placed.call.key, placed.call.runId);
      this.#fill();
    });
  }

  /** Takes a call out of wherever it is; it can be placed again. */
  #remove(placed: Placed): void {
    if (placed.slot === null) remove(this.#queue, placed);
    else remove(placed.slot.calls, placed);
    placed.executor?.calls.delete(placed.seq);
    this.#unspool(placed);
    placed.slot = null;
    placed.executor = null;
    placed.seq = -1;
    placed.introduced = [];
    if (placed.state === "sent") placed.state = "queued";
  }

  /** Places a call that was removed again, before all others. */
  #requeue(placed: Placed): void {
    this.#queue.unshift(placed);
  }

  /** Soon moves waiting calls to slots that are still idle then. */
  #considerMoving(): void {
    if (this.#moveTimer !== undefined || this.#closing !== null || !this.#canMove()) return;
    this.#moveTimer = setTimeout(() => {
      this.#moveTimer = undefined;
      for (const slot of this.#slots) {
        if (!this.#canMove()) return;
        const waiting = slot.calls[1];
        if (waiting === undefined || waiting.state === "started" || !this.#takeBack(waiting)) continue;
        this.#requeue(waiting);
        this.#fill();
      }
    }, MOVE_AFTER_MS);
  }

  #canMove(): boolean {
    let idle = false;
    let waiting = false;
    for (const { calls, executor } of this.#slots) {
      if (calls.length === 0 && executor?.link != null) idle = true;
      else if (calls.length > 1) waiting = true;
    }
    return idle && waiting;
  }

  // --- What has begun ---

  /** An executor tells that a call began when the call ends, mostly. Those that take longer are looked up. */
  #lookSoon(): void {
    if (this.#lookTimer !== undefined || this.#closing !== null) return;
    this.#lookTimer = setTimeout(() => {
      this.#lookTimer = undefined;
      const before = performance.now() - LOOK_AFTER_MS;
      let again = false;
      for (const { calls, executor } of this.#slots) {
        const [first] = calls;
        if (first === undefined || executor === null || first.state !== "sent" || first.seq < 0) continue;
        if (first.sentAt > before || !this.#lookUp(first, executor)) again = true;
      }
      if (again) this.#lookSoon();
    }, LOOK_AFTER_MS);
  }

  /** Tells a call as started if its executor has noted that; false: it has not. */
  #lookUp(placed: Placed, executor: Executor): boolean {
    if (placed.state === "started" || placed.executor !== executor) return true;
    const [oldest = placed.seq] = executor.calls.keys();
    const at = executor.ledger.marked(placed.seq, oldest);
    // A ledger that makes no sense tells nothing; the executor will.
    if (typeof at !== "number") return at === "damaged";
    this.#started(placed, executor, at);
    return true;
  }

  #started(placed: Placed, executor: Executor, at: number): void {
    if (placed.state === "started") return;
    placed.state = "started";
    // Task code may have written the ledger: a time that makes no sense is not passed on.
    placed.startedAt = at > 0 && at <= Date.now() ? at : Date.now();
    placed.introduced = [];
    executor.began(placed.seq);
    this.#listener.started(placed.call.key, placed.call.runId, placed.startedAt);
    if (placed.stop !== null) this.#stop(placed);
    if (placed.timeoutMs !== null) this.#limit(placed, placed.timeoutMs);
  }

  // --- Permissions ---

  /** The set of a task that asks for its own. Throws a `DaskError` that names what it cannot have. */
  #setFor(permissions: TaskPermissions): PermissionSet {
    const text = JSON.stringify(permissions);
    let set = this.#asked.get(text);
    if (set !== undefined) return set;
    const { base } = this.#config;
    let grants;
    try {
      grantsOf(permissions, base); // what this process does not have is an error, not a smaller set
      grants = grantsOf(within(permissions, this.#options.permissions ?? "inherit", base), base);
    } catch (cause) {
      throw new DaskError(
        `${messageOf(cause)} (tasks of this worker have: ${
          grantsOf(this.#options.permissions ?? "inherit", base).summary
        })`,
        { cause },
      );
    }
    set = this.#permissionSet(grants);
    if (this.#asked.size >= SETS_MAX) this.#asked.delete(this.#asked.keys().next().value!);
    this.#asked.set(text, set);
    return set;
  }

  /** What starts an executor whose tasks have `grants`. */
  #permissionSet(grants: Grants): PermissionSet {
    const { directory, spillDirectory } = this.#options;
    const { socket, libc } = this.#config;
    const id = grants.flags.join(" ");
    const known = this.#sets.get(id);
    if (known !== undefined) return known;
    // Task code may import this package, which is loaded when it does.
    let flags: readonly string[] = withGrant(grants.flags, "read", ownFolders());
    const revoke: Deno.PermissionDescriptor[] = [];
    if (!libc) {
      const readable = spillDirectory == null ? [directory] : [directory, spillDirectory];
      flags = withGrant(withGrant(flags, "read", readable), "write", [directory]);
    }
    // In a compiled program the executable is the program itself, entered by another door.
    if (Deno.build.standalone) return this.#keep({ id, args: ["--executor"], revoke: givenUp(flags) });
    // Giving up a path gives up the folders around it that were granted, too: what is granted anyway stays.
    for (const kind of ["read", "write"] as const) {
      if (grantsPath(flags, kind, socket)) continue;
      flags = withGrant(flags, kind, [socket]);
      revoke.push(descriptorOf(kind, socket));
    }
    if (!flags.includes("--allow-net")) {
      flags = withGrant(flags, "net", [`unix:${socket}`]);
      revoke.push(descriptorOf("net", `unix:${socket}`));
    }
    if (libc) {
      flags = [...flags, "--allow-ffi"];
      revoke.push({ name: "ffi" });
    }
    const main = new URL("./main.ts", import.meta.url);
    if (main.protocol.startsWith("http")) flags = withGrant(flags, "import", [main.host]);
    const v8 = this.#options.v8Flags ?? [];
    const args = [
      "run",
      "--no-config",
      "--no-lock",
      "--no-prompt",
      "--quiet",
      ...v8.length === 0 ? [] : [`--v8-flags=${v8.join(",")}`],
      ...flags,
      main.href,
    ];
    return this.#keep({ id, args, revoke });
  }

  #keep(set: PermissionSet): PermissionSet {
    if (this.#sets.size >= SETS_MAX) this.#sets.delete(this.#sets.keys().next().value!);
    this.#sets.set(set.id, set);
    return set;
  }

  /** Gives a slot that was idle an executor of another set, and that its call. */
  #change(slot: Slot, set: PermissionSet): void {
    const old = slot.executor;
    slot.executor = null;
    this.#seat(slot, set);
    // Last, so that what makes room for it is not what was wanted.
    if (old !== null) this.#park(old, PARKED_MS_MAX);
  }

  /** Gives a slot without an executor a warm one, else a fresh one. */
  #seat(slot: Slot, set: PermissionSet): void {
    const executor = [...this.#parked.keys()].find((parked) => parked.set.id === set.id);
    if (executor === undefined) return this.#start(slot, set);
    slot.executor = this.#unpark(executor);
    for (const placed of [...slot.calls]) if (placed.executor === null) this.#send(executor, placed);
  }

  /** Keeps an idle executor for later. */
  #park(executor: Executor, ms: number): void {
    if (executor.killed || !this.#processes.has(executor)) return;
    this.#parked.set(executor, setTimeout(() => this.#unpark(executor).kill(), ms));
    const [oldest = executor] = this.#parked.keys();
    if (this.#parked.size > this.#parkedMax) this.#unpark(oldest).kill();
  }

  #unpark(executor: Executor): Executor {
    clearTimeout(this.#parked.get(executor));
    this.#parked.delete(executor);
    return executor;
  }

  // --- Stopping ---

  /** Stops a call when it has run for `timeoutMs`. */
  #limit(placed: Placed, timeoutMs: number): void {
    placed.timeoutTimer = setTimeout(() => {
      if (placed.stop !== null) return;
      placed.stop = timedOut(timeoutMs);
      this.#stop(placed);
    }, placed.startedAt + timeoutMs - Date.now());
  }

  #stop(placed: Placed): void {
    const { executor, stop } = placed;
    if (executor === null || stop === null) return;
    executor.link?.push(["abort", placed.seq, stop.reason, stop.name]);
    executor.link?.flush();
    this.#endIn(placed, executor, this.#acknowledgeMs);
  }

  /** Ends the executor of a call in `ms`, unless the call ends or something else is decided. */
  #endIn(placed: Placed, executor: Executor, ms: number): void {
    clearTimeout(placed.stopTimer);
    // A task that obeys does so at once, mostly: nothing is started for those.
    const aheadMs = Math.min(START_AHEAD_MS, 0.8 * ms);
    placed.stopTimer = setTimeout(() => {
      this.#spare(executor);
      placed.stopTimer = setTimeout(() => {
        // One more look at what came in while this process was busy.
        placed.stopTimer = setTimeout(() => {
          executor.kill();
          // The fresh one need not wait for the end of the old one.
          this.#replace(executor);
        }, 0);
      }, aheadMs);
    }, ms - aheadMs);
  }

  /** Sees to it that an executor is warm when the slot of this one needs it. */
  #spare({ set }: Executor): void {
    if (this.#options.lost !== undefined) return;
    if ([...this.#parked.keys()].some((parked) => parked.set.id === set.id)) return;
    try {
      this.#park(this.#spawn(set), SPARE_MS_MAX);
    } catch { /* its slot will try again, and tell */ }
  }

  // --- Processes ---

  #start(slot: Slot, set: PermissionSet): void {
    if (this.#closing !== null) return;
    try {
      slot.executor = this.#spawn(set);
    } catch (error) {
      slot.executor = null;
      this.#startFailed(slot, set, `could not be run: ${messageOf(error)}`, []);
    }
  }

  /** Starts a process. Throws what Deno throws when that is not possible. */
  #spawn(set: PermissionSet): Executor {
    const token = crypto.randomUUID();
    const prefix = `${this.#name}-${this.#spawned++}`;
    const executor: Executor = new ExecutorProcess({
      command: this.#command,
      args: set.args,
      config: { ...this.#config, revoke: set.revoke, token, prefix },
      set,
      logger: this.#logger,
    });
    this.#processes.add(executor);
    const timer = setTimeout(() => executor.kill(), this.#startMsMax);
    this.#expected.set(token, { executor, timer });
    executor.exited.then((exit) => this.#exited(executor, exit));
    return executor;
  }

  /** Gives the slot of an executor a fresh one. What has not begun goes elsewhere, what has stays with the old one. */
  #replace(executor: Executor): void {
    const slot = this.#slotOf(executor);
    if (slot === undefined || this.#options.lost !== undefined) return;
    slot.executor = null;
    for (const placed of slot.calls.toReversed()) {
      if (placed.state !== "started" && this.#takeBack(placed)) {
        this.#requeue(placed);
      } else {
        remove(slot.calls, placed);
        placed.slot = null;
      }
    }
    this.#seat(slot, executor.set);
    this.#fill();
  }

  #slotOf(executor: Executor): Slot | undefined {
    return this.#slots.find((slot) => slot.executor === executor);
  }

  #exited(executor: Executor, ended: Exit): void {
    const exit = executor.tooLarge === null
      ? ended
      : { text: executor.tooLarge, outOfMemory: true, lines: ended.lines };
    this.#processes.delete(executor);
    this.#unpark(executor);
    const expected = this.#expected.get(executor.token);
    if (expected !== undefined) {
      clearTimeout(expected.timer);
      this.#expected.delete(executor.token);
    }
    if (this.#closing !== null) {
      executor.removeFiles();
      return;
    }
    const calls = [...executor.calls.values()];
    const slot = this.#slotOf(executor);
    const { lost } = this.#options;
    if (slot !== undefined && lost === undefined) {
      slot.executor = null;
      if (expected !== undefined) this.#startFailed(slot, executor.set, exit.text, exit.lines);
      else this.#seat(slot, executor.set);
    }
    if (calls.length > 0 && !calls.some((placed) => placed.stop !== null)) {
      this.#logger.log("warning", `An executor ${exit.text}`, { executor: executor.pid });
    }
    for (const placed of calls.reverse()) this.#lostExecutor(placed, executor, exit);
    executor.removeFiles();
    if (lost !== undefined) return lost(exitText(exit));
    this.#fill();
  }

  /** What becomes of a call whose executor is gone. */
  #lostExecutor(placed: Placed, executor: Executor, exit: Exit): void {
    const began = placed.state === "started" ||
      typeof executor.ledger.marked(placed.seq, 0) === "number";
    const { key, runId } = placed.call;
    this.#remove(placed);
    if (!began && (placed.takenBack || placed.stop !== null)) {
      this.#settle(placed);
      this.#listener.withdrawn(key, runId);
    } else if (!began && placed.placements < PLACEMENTS_MAX) {
      this.#requeue(placed);
    } else {
      this.#endFailed(
        placed,
        placed.stop === null ? lostError(key, exit) : stoppedError(key, placed.stop),
      );
    }
  }

  #startFailed(slot: Slot, set: PermissionSet, reason: string, lines: readonly string[]): void {
    slot.failures++;
    slot.failedAt = Date.now();
    this.#logger.log("warning", `An executor could not start: it ${reason}`, { slot: slot.index });
    if (slot.failures < START_FAILURES_MAX) return this.#start(slot, set);
    const said = lines.length === 0 ? "" : `; it said: ${lines.slice(-3).join(" | ")}`;
    const error = new DaskError(
      `Cannot start an executor, after ${START_FAILURES_MAX} tries: ${this.#command} ${reason}${said}`,
    );
    this.#logger.log("error", error.message);
    if (set.id !== this.#common.id) {
      // Only these permissions do not do: the slot is as good as before.
      slot.failures = 0;
      const calls = slot.calls.splice(0);
      for (const placed of calls) placed.slot = null;
      this.#later(() => {
        for (const placed of calls) this.#failUnstarted(placed, errorFrom(error));
      });
      return this.#seat(slot, this.#common);
    }
    this.#ready.reject(error);
    this.#queue.unshift(
      ...slot.calls.splice(0).map((placed) => (placed.state = "queued", placed.executor = null, placed)),
    );
    if (this.#slots.every((slot) => slot.failures >= START_FAILURES_MAX)) this.#failQueue(error);
    else this.#fill();
  }

  /** All slots have failed to start: one more try when the last one was long ago, else no hope for what is queued. */
  #revive(): void {
    const rested = this.#slots.filter((slot) => Date.now() - slot.failedAt >= RETRY_MS);
    if (rested.length === 0) {
      return this.#failQueue(
        new DaskError("Cannot run tasks: no executor of this worker starts, see its log"),
      );
    }
    for (const slot of rested) {
      slot.failures = START_FAILURES_MAX - 1;
      this.#start(slot, this.#common);
    }
    this.#fill();
  }

  #failQueue(error: DaskError): void {
    const queue = this.#queue.splice(0);
    this.#later(() => {
      for (const placed of queue) this.#failUnstarted(placed, errorFrom(error));
    });
  }

  #failUnstarted(placed: Placed, error: ErrorData): void {
    if (this.#calls.get(placed.id) !== placed) return;
    this.#remove(placed);
    this.#endFailed(placed, error);
    this.#fill();
  }

  // --- What executors say ---

  async #accept(): Promise<void> {
    for (;;) {
      let conn: Deno.Conn;
      try {
        conn = await this.#server.accept();
      } catch {
        return; // closed
      }
      this.#strangers.add(conn);
      this.#greet(conn);
    }
  }

  /** The first record must be a `hello` with a token that was given to a child and not used yet. */
  async #greet(conn: Deno.Conn): Promise<void> {
    const link: ExecutorLink = new Link(conn);
    const deadline = setTimeout(() => link.close(), this.#startMsMax);
    let hello: FromExecutor | undefined;
    try {
      hello = (await link.receive())?.[0]?.records[0];
    } catch { /* no executor of ours */ }
    clearTimeout(deadline);
    this.#strangers.delete(conn);
    const expected = hello?.[0] === "hello" ? this.#expected.get(hello[1]) : undefined;
    if (expected === undefined || this.#closing !== null) {
      this.#logger.log("warning", "Closed a connection to the executors' socket: it did not name a token");
      return link.close();
    }
    const { executor, timer } = expected;
    this.#expected.delete(executor.token);
    clearTimeout(timer);
    executor.connected(link, () => this.#read(executor, link));
    const slot = this.#slotOf(executor);
    if (slot !== undefined) slot.failures = 0;
    if (this.#warm < this.#slots.length && ++this.#warm === this.#slots.length) this.#ready.resolve();
    for (const placed of [...slot?.calls ?? []]) this.#send(executor, placed);
    this.#fill();
    this.#considerMoving();
  }

  async #read(executor: Executor, link: ExecutorLink): Promise<void> {
    try {
      for (;;) {
        const messages = await link.receive();
        if (messages === null) return this.#unlinked(executor);
        for (const { records, raw } of messages) {
          for (const record of records) this.#handle(executor, record, raw);
        }
        if (this.#closing !== null) continue;
        this.#fill();
        this.#considerMoving();
      }
    } catch (error) {
      if (error instanceof CommClosedError) return this.#unlinked(executor);
      if (this.#closing === null) {
        this.#logger.log("error", `Ending an executor: ${messageOf(error)}`, { executor: executor.pid });
      }
      executor.kill("sent what makes no sense");
    }
  }

  /** Mostly it has ended, or is about to. One that goes on without a link would keep its calls for ever. */
  #unlinked(executor: Executor): void {
    const timer = setTimeout(() => executor.kill("closed its connection to the worker"), UNLINKED_MS_MAX);
    executor.exited.then(() => clearTimeout(timer));
  }

  #handle(executor: Executor, record: FromExecutor, raw: readonly Frame[]): void {
    if (this.#closing !== null) return this.#leave(executor, record);
    if (record[0] === "hello") return;
    if (record[0] === "damaged") {
      this.#logger.log(
        "warning",
        "An executor ends itself: it cannot read its ledger, or task code has overwritten it",
        {
          executor: executor.pid,
        },
      );
      return;
    }
    if (record[0] === "memory") {
      executor.toldBytes = record[1];
      return;
    }
    const seq = record[1];
    const placed = executor.calls.get(seq);
    if (placed === undefined) return;
    const { key, runId } = placed.call;
    if (placed.state !== "started" && placed.seq === seq && record[0] !== "started") {
      this.#started(placed, executor, startOf(record));
    }
    switch (record[0]) {
      case "started":
        this.#started(placed, executor, record[2]);
        break;
      case "succeeded": {
        const [, , start, stop, header, frames, typename, pythonType] = record;
        const payload = fromLink(executor, header, frames, raw);
        if (placed.stop?.name === "TimeoutError") {
          // Too late is too late: the same task gives the same answer on a slower machine.
          for (const frame of payload.frames) if (isFileFrame(frame)) removeFile(frame.file);
          this.#endStopped(placed, executor, placed.stop, start, stop);
        } else this.#end(placed, executor, { type: "succeeded", payload, typename, pythonType, start, stop });
        break;
      }
      case "failed": {
        const [, , start, stop, header, frames, exceptionText, tracebackText] = record;
        const exception = fromLink(executor, header, frames, raw);
        if (placed.stop?.name === "TimeoutError") {
          for (const frame of exception.frames) if (isFileFrame(frame)) removeFile(frame.file);
          this.#endStopped(placed, executor, placed.stop, start, stop);
          break;
        }
        this.#end(placed, executor, {
          type: "failed",
          exception,
          traceback: null,
          exceptionText,
          tracebackText,
          start,
          stop,
        });
        break;
      }
      case "rescheduled":
        this.#end(placed, executor, { type: "rescheduled" });
        break;
      case "seceded":
        this.#seceded(placed, executor, record[2]);
        break;
      case "event":
        this.#listener.event(key, runId, record[2], decodeMsgpack(record[3]));
        break;
      case "items":
        this.#listener.items(key, runId, record[2], record[3]);
        break;
      case "acknowledged":
        if (placed.stop !== null) this.#endIn(placed, executor, this.#graceMs);
        break;
    }
  }

  /** Each call without a slot keeps a process: there is an end to what a machine can take. */
  #seceded(placed: Placed, executor: Executor, computeDuration: number): void {
    const { secededMax = SECEDED_MAX, lost } = this.#options;
    if (lost !== undefined) return;
    const { key, runId } = placed.call;
    const slots = this.#slots.filter((slot) => slot.executor !== null).length;
    const others = this.#processes.size - slots - this.#parked.size;
    if (others >= secededMax) {
      return this.abort(
        key,
        runId,
        `it gave up its slot to wait, as ${secededMax} tasks of this worker do already, and each keeps a process; ` +
          `start fewer tasks from inside of tasks, or more workers`,
      );
    }
    this.#replace(executor);
    this.#listener.seceded(key, runId, computeDuration);
  }

  #end(placed: Placed, executor: Executor, outcome: Outcome): void {
    const { slot } = placed;
    this.#remove(placed);
    this.#settle(placed);
    if (slot !== null && slot.calls.length > 0) this.#lookSoon();
    this.#listener.ended(placed.call.key, placed.call.runId, outcome);
    // After a seceded call: its slot has another process.
    if (executor.calls.size === 0 && !this.#slots.some((slot) => slot.executor === executor)) {
      this.#park(executor, SPARE_MS_MAX);
    }
  }

  /** A call ended by itself after it was stopped. */
  #endStopped(placed: Placed, executor: Executor, why: Stop, start: number, stop: number): void {
    const written = writeException(stoppedError(placed.call.key, why));
    this.#end(placed, executor, { type: "failed", ...written, start, stop });
  }

  #endFailed(placed: Placed, error: ErrorData): void {
    const { key, runId } = placed.call;
    const now = Date.now();
    const { exception, exceptionText, tracebackText } = writeException(error);
    const start = placed.state === "started" ? placed.startedAt : now;
    if (placed.state !== "started") this.#listener.started(key, runId, now);
    this.#settle(placed);
    this.#listener.ended(key, runId, {
      type: "failed",
      exception,
      traceback: null,
      exceptionText,
      tracebackText,
      start,
      stop: now,
    });
  }

  // --- Ending ---

  async #close(): Promise<void> {
    clearTimeout(this.#moveTimer);
    clearTimeout(this.#lookTimer);
    for (const { timer } of this.#expected.values()) clearTimeout(timer);
    for (const timer of this.#parked.values()) clearTimeout(timer);
    this.#parked.clear();
    for (const placed of this.#calls.values()) {
      clearTimeout(placed.stopTimer);
      clearTimeout(placed.timeoutTimer);
    }
    this.#ready.reject(new DaskError("Cannot wait for executors: their pool was closed"));
    this.#server.close();
    for (const conn of this.#strangers) conn.close();
    await this.#sayGoodbye();
    for (const executor of this.#processes) executor.kill();
    await Promise.all([this.#accepting, ...[...this.#processes].map((executor) => executor.exited)]);
    removeFile(this.#config.socket);
    for (const hold of this.#holds) hold.release();
    if (this.#ownSocketDirectory !== null) removeFile(this.#ownSocketDirectory);
    for (const { path } of this.#spool.values()) removeFile(path);
    this.#spool.clear();
    this.#calls.clear();
    this.#queue.length = 0;
  }

  /** Calls that run may end by their signal, within the time that any aborted call has. */
  async #sayGoodbye(): Promise<void> {
    for (const placed of this.#calls.values()) {
      const { executor, state } = placed;
      if (executor === null || state !== "started") continue;
      this.#leaving.add(placed);
      executor.link?.push(["abort", placed.seq, "its worker ends", "AbortError"]);
      executor.link?.flush();
    }
    if (this.#leaving.size === 0) return;
    const timer = setTimeout(this.#left.resolve, this.#graceMs);
    await this.#left.promise;
    clearTimeout(timer);
  }

  /** What an executor says while the pool closes: nobody wants to know, but that a call has ended. */
  #leave(executor: Executor, record: FromExecutor): void {
    if (record[0] !== "succeeded" && record[0] !== "failed" && record[0] !== "rescheduled") return;
    const placed = executor.calls.get(record[1]);
    if (placed !== undefined && this.#leaving.delete(placed) && this.#leaving.size === 0) {
      this.#left.resolve();
    }
  }

  #socketDirectory(): string {
    if (!this.#options.socketDirectory.startsWith("/dev/")) return this.#options.socketDirectory;
    return this.#ownSocketDirectory = Deno.makeTempDirSync({ prefix: `dask-ts-${Deno.pid}-` });
  }

  /** Tells something in a later turn, unless the pool is closed by then. */
  #later(tell: () => void): void {
    queueMicrotask(() => {
      if (this.#closing === null) tell();
    });
  }
}

/** When the call of a record began, as far as it says. */
function startOf(record: FromExecutor): number {
  return record[0] === "succeeded" || record[0] === "failed" || record[0] === "rescheduled"
    ? record[2]
    : Date.now();
}

/** Removes what an executor is to keep no longer, least recently used first. */
function evict(executor: Executor, bytesMax: number): number[] {
  const gone: number[] = [];
  for (const id of executor.kept.keys()) {
    if (executor.keptBytes <= bytesMax) break;
    dropKept(executor, id);
    gone.push(id);
  }
  return gone;
}

/** Without a lock the folder may be taken for a left-over one later; that is no reason not to work. */
function hold(directory: string): { release(): void } {
  try {
    return holdDirectory(directory);
  } catch {
    return { release: () => {} };
  }
}

function remove<T>(list: T[], item: T): void {
  const at = list.indexOf(item);
  if (at >= 0) list.splice(at, 1);
}

/** How many bytes an input takes that an executor has read: buffers are what they are, plain data grows. */
function keptBytes(payload: Payload): number {
  const bytes = payloadBytes(payload);
  if (bytes < KEPT_BYTES_MIN) return bytes; // is not kept
  const pickled = LATIN1.decode(payload.header).includes("serializer\u00a6pickle");
  return pickled ? bytes + (READ_PICKLE_FACTOR - 1) * (payload.frames[0]?.byteLength ?? 0) : bytes;
}

function dropKept(executor: Executor, id: number): boolean {
  executor.keptBytes -= executor.kept.get(id) ?? 0;
  return executor.kept.delete(id);
}

function fromLink(
  executor: Executor,
  header: Uint8Array,
  frames: readonly LinkFrame[],
  raw: readonly Frame[],
): Payload {
  return {
    header,
    frames: frames.map((frame): Frame => {
      if (frame instanceof Uint8Array) return frame;
      if (typeof frame === "number") return raw[frame]!;
      executor.handedOver(frame[0]); // throws when it is none of its own
      return { file: frame[0], byteLength: frame[1] };
    }),
  };
}

function exitText({ text, lines }: Exit): string {
  return lines.length === 0 ? text : `${text}\nIts last lines:\n${lines.join("\n")}`;
}

function lostError(key: string, exit: Exit): ErrorData {
  return {
    name: exit.outOfMemory ? "MemoryError" : "ExecutorLostError",
    message: `Lost the executor of task "${key}": its process ${exit.text}`,
    stack: "",
    kind: "lost",
    exit: exitText(exit),
  };
}

function errorFrom(error: unknown): ErrorData {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  return { name, message, stack: "", kind: "failed" };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function idOf(key: string, runId: number): string {
  return `${runId} ${key}`;
}

function randomName(): string {
  return crypto.getRandomValues(new Uint32Array(1))[0]!.toString(36);
}
