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

/** Somebody who waits for a task to run. */
interface Seeker {
  readonly key: Key;
  found(worker: Address): void;
}

/** See the law of this file. */
export class ItemReader {
  readonly #options: ItemReaderOptions;
  /** All and only readers that wait, by number. */
  readonly #readers = new Map<number, AbortController>();
  /** All and only workers that have been asked and have not answered, with what gives them up. */
  readonly #asked = new Map<AbortController, Address>();
  readonly #seekers = new Set<Seeker>();
  /** The workers that can be asked. */
  #workers: ReadonlySet<Address> = new Set();
  #pauseMs = LOOK_MS_MIN;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looking = false;

  constructor(options: ItemReaderOptions) {
    this.#options = options;
  }

  /**
   * The items of a task from number `from` on, as soon as there are some; asks `holder` first. Rejects when the reader is
   * stopped, and when the client ends.
   */
  async read(reader: number, key: Key, from: number, holder: Address | null): Promise<ItemBatch> {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#options.signal]);
    this.#readers.set(reader, stop);
    try {
      for (let worker = holder;; worker = null) {
        worker ??= await this.#find(key, signal);
        const batch = await this.#ask(worker, key, from, signal);
        if (batch !== null) return batch;
      }
    } finally {
      this.#readers.delete(reader);
    }
  }

  /** That one does not wait any more. */
  stop(reader: number): void {
    this.#readers.get(reader)?.abort();
  }

  /** Only these workers of ours are there: from others nothing will come. */
  workersAre(workers: readonly Address[]): void {
    this.#workers = new Set(workers);
    for (const [asked, worker] of this.#asked) if (!this.#workers.has(worker)) asked.abort();
  }

  /** Null: it does not run there, or cannot be asked. */
  async #ask(worker: Address, key: Key, from: number, signal: AbortSignal): Promise<ItemBatch | null> {
    const asked = new AbortController();
    this.#asked.set(asked, worker);
    try {
      const request = { op: "stream_items", key: keyToWire(key), from };
      const reply = await this.#options.workers.call(worker, request, {
        signal: AbortSignal.any([signal, asked.signal]),
      });
      if (reply === null) return null;
      const { items, last } = readRecord(reply, "stream_items");
      const { payload } = readSerialized(items, "stream_items.items");
      return { worker, payload, last: readBoolean(last, "stream_items.last") };
    } catch {
      signal.throwIfAborted();
      return null; // whoever runs it, the result comes in the end
    } finally {
      this.#asked.delete(asked);
    }
  }

  /** Waits until a worker of ours runs the task. */
  #find(key: Key, signal: AbortSignal): Promise<Address> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#seekers.delete(seeker);
        signal.removeEventListener("abort", onAbort);
        if (this.#seekers.size === 0) this.#rest();
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
      this.#pauseMs = LOOK_MS_MIN;
      if (!this.#looking) this.#lookIn(LOOK_MS_MIN);
    });
  }

  #lookIn(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), ms);
  }

  #rest(): void {
    clearTimeout(this.#timer);
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
