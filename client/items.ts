/**
 * Brings what generator tasks yield, while they run, straight from the workers that run them. The law: nothing is asked
 * of anybody unless somebody here reads; and a worker has to answer one reader only when that has taken the last answer.
 *
 * Where a task runs the scheduler tells, by the op behind dask's `client.call_stack`: it names the workers that execute
 * it now. All tasks that are looked for are one question.
 *
 * @module
 */
import type { RpcPool } from "../comm/pool.ts";
import { keyToWire } from "../protocol/key.ts";
import { readBoolean, readKeyMap, readRecord, readSerialized } from "../protocol/read.ts";
import type { Address, Key } from "./machine/events.ts";
import type { ItemBatch } from "./messages.ts";

/** How often to look where tasks run that are read, ms: at first, and at most. */
const LOOK_MS_MIN = 10;
const LOOK_MS_MAX = 200;

/** What a reader of items needs. */
export interface ItemReaderOptions {
  /** Connections with the scheduler. */
  readonly scheduler: RpcPool;
  readonly schedulerAddress: Address;
  /** Connections with workers, for nothing else: a reader keeps one as long as it waits. */
  readonly workers: RpcPool;
  /** Ends all waiting. */
  readonly signal: AbortSignal;
}

/** Somebody who waits for items. */
interface Reader {
  readonly stop: AbortController;
  /** The worker that is asked now, with what gives that up. */
  asked: { readonly worker: Address; readonly end: AbortController } | null;
}

/** Somebody who waits for a task to run. */
interface Seeker {
  readonly key: Key;
  found(worker: Address): void;
}

/** See the law of this file. */
export class ItemReader {
  readonly #options: ItemReaderOptions;
  /** All and only readers that wait, by number. */
  readonly #readers = new Map<number, Reader>();
  readonly #seekers = new Set<Seeker>();
  /** The workers that can be asked. */
  #workers: ReadonlySet<Address> = new Set();
  #pauseMs = LOOK_MS_MIN;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looking = false;

  constructor(options: ItemReaderOptions) {
    this.#options = options;
    const { signal } = options;
    signal.addEventListener("abort", () => {
      for (const reader of this.#readers.values()) end(reader, signal.reason);
    });
  }

  /**
   * The items of a task from number `from` on, as soon as there are some; asks `holder` first. Rejects when the reader is
   * stopped, and when the client ends.
   */
  async read(number: number, key: Key, from: number, holder: Address | null): Promise<ItemBatch> {
    this.#options.signal.throwIfAborted();
    const reader: Reader = { stop: new AbortController(), asked: null };
    this.#readers.set(number, reader);
    try {
      let pauseMs = LOOK_MS_MIN;
      for (let worker = holder;; worker = null) {
        worker ??= await this.#find(key, reader.stop.signal, pauseMs);
        const answer = await this.#ask(reader, worker, key, from);
        if (typeof answer !== "string") return answer;
        pauseMs = answer === "unreachable" ? LOOK_MS_MAX : LOOK_MS_MIN;
      }
    } finally {
      this.#readers.delete(number);
    }
  }

  /** That one does not wait any more. */
  stop(number: number): void {
    const reader = this.#readers.get(number);
    if (reader !== undefined) end(reader, new DOMException("Nobody reads any more", "AbortError"));
  }

  /** Only these workers of ours are there: from others nothing will come. */
  workersAre(workers: readonly Address[]): void {
    this.#workers = new Set(workers);
    for (const { asked } of this.#readers.values()) {
      if (asked !== null && !this.#workers.has(asked.worker)) asked.end.abort();
    }
  }

  async #ask(
    reader: Reader,
    worker: Address,
    key: Key,
    from: number,
  ): Promise<ItemBatch | "not there" | "unreachable"> {
    const asked = reader.asked = { worker, end: new AbortController() };
    try {
      const request = { op: "stream_items", key: keyToWire(key), from };
      const reply = await this.#options.workers.call(worker, request, { signal: asked.end.signal });
      if (reply === null) return "not there";
      const { items, last } = readRecord(reply, "stream_items");
      const { payload } = readSerialized(items, "stream_items.items");
      return { worker, payload, last: readBoolean(last, "stream_items.last") };
    } catch {
      reader.stop.signal.throwIfAborted();
      return "unreachable"; // the result will come in the end
    } finally {
      reader.asked = null;
    }
  }

  /** Waits until a worker of ours runs the task; looks first in `pauseMs`. */
  #find(key: Key, signal: AbortSignal, pauseMs: number): Promise<Address> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#seekers.delete(seeker);
        signal.removeEventListener("abort", onAbort);
        if (this.#seekers.size === 0) clearTimeout(this.#timer);
      };
      const onAbort = (): void => {
        leave();
        reject(signal.reason);
      };
      const seeker = {
        key,
        found: (worker: Address): void => {
          leave();
          resolve(worker);
        },
      };
      signal.addEventListener("abort", onAbort);
      this.#seekers.add(seeker);
      this.#pauseMs = pauseMs;
      if (!this.#looking) this.#lookIn(pauseMs);
    });
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), ms);
  }

  async #look(): Promise<void> {
    this.#looking = true;
    try {
      for (
        const [key, worker] of await this.#running([...new Set(Array.from(this.#seekers, ({ key }) => key))])
      ) {
        for (const seeker of [...this.#seekers]) if (seeker.key === key) seeker.found(worker);
      }
    } catch { /* a task that was forgotten meanwhile, or a worker that left; the next look will do */ }
    this.#looking = false;
    if (this.#seekers.size === 0) return;
    this.#lookIn(this.#pauseMs);
    this.#pauseMs = Math.min(1.5 * this.#pauseMs, LOOK_MS_MAX);
  }

  /** Those of some tasks that a worker of ours runs now. */
  async #running(keys: readonly Key[]): Promise<ReadonlyMap<Key, Address>> {
    const running = new Map<Key, Address>();
    // The scheduler refuses to tell of keys that it does not know.
    const states = readKeyMap(
      await this.#askScheduler("get_task_status", keys),
      "get_task_status",
      (state) => state,
    );
    const processing = keys.filter((key) => states.get(key) === "processing");
    if (processing.length === 0) return running;
    const stacks = readRecord(await this.#askScheduler("call_stack", processing), "call_stack");
    for (const [worker, stack] of Object.entries(stacks)) {
      if (!this.#workers.has(worker)) continue;
      for (const key of readKeyMap(stack, "call_stack", () => null).keys()) running.set(key, worker);
    }
    return running;
  }

  #askScheduler(op: string, keys: readonly Key[]): Promise<unknown> {
    const { scheduler, schedulerAddress, signal } = this.#options;
    return scheduler.call(schedulerAddress, { op, keys: keys.map(keyToWire) }, { signal });
  }
}

function end({ stop, asked }: Reader, reason: unknown): void {
  stop.abort(reason);
  asked?.end.abort(reason);
}
