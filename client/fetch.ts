/**
 * Brings values to this process: straight from the workers that hold them, through the scheduler where a worker cannot
 * be reached from here. The law: every key that was asked for is reported once, as arrived or as missing.
 *
 * @module
 */
import type { RpcPool } from "../comm/pool.ts";
import { CommClosedError } from "../protocol/errors.ts";
import { keyToWire } from "../protocol/key.ts";
import { readArray, readKeyMap, readKeys, readRecord, readSerialized, readString } from "../protocol/read.ts";
import { sleep } from "./future.ts";
import type { Address, Key } from "./machine/events.ts";
import type { Arrived } from "./messages.ts";

/** A worker that could not be reached is not tried again for this long. */
const UNREACHABLE_MS = 30_000;
/** What dask's workers wait before they ask a busy one again. */
const BUSY_MS = 150;
/** How often a busy worker is asked before the scheduler is. */
const BUSY_TRIES = 20;
/** Keys of one request. */
const KEYS_MAX = 4_096;

/** What a fetcher needs. */
export interface FetcherOptions {
  /** Connections with the scheduler. */
  readonly scheduler: RpcPool;
  readonly schedulerAddress: Address;
  /** Connections with workers; they are to give up connecting after a few seconds. */
  readonly workers: RpcPool;
  /** Takes what came and what did not; called one or more times per `fetch`. */
  readonly done: (arrived: readonly Arrived[], missing: readonly Key[]) => void;
  /** Ends all waiting; nothing is reported after it. */
  readonly signal: AbortSignal;
  /** Ends what the scheduler that there is now is asked for: it is gone. */
  readonly connection: () => AbortSignal;
}

/** One value that is wanted, with a worker that may have it. */
export interface Wanted {
  readonly key: Key;
  readonly holder: Address | null;
}

/** See the law of this file. */
export class Fetcher {
  readonly #options: FetcherOptions;
  /** When it is worth trying these again, ms since the epoch. */
  readonly #unreachable = new Map<Address, number>();
  /** Ends the requests to a worker. All and only workers that have been asked and are not known to be gone. */
  readonly #asked = new Map<Address, AbortController>();

  constructor(options: FetcherOptions) {
    this.#options = options;
  }

  /** Brings values, after `delayMs`. */
  fetch(wanted: readonly Wanted[], delayMs: number): void {
    this.#fetch(wanted, delayMs).catch((error) => {
      if (!this.#options.signal.aborted) throw error;
    });
  }

  /** A worker is gone: nothing more will come from it. */
  forget(holder: Address): void {
    this.#options.workers.forget(holder);
    this.#unreachable.delete(holder);
    this.#asked.get(holder)?.abort();
    this.#asked.delete(holder);
  }

  /** The workers that have been asked and not been forgotten. */
  get asked(): Iterable<Address> {
    return this.#asked.keys();
  }

  async #fetch(wanted: readonly Wanted[], delayMs: number): Promise<void> {
    if (delayMs > 0) await sleep(delayMs, this.#options.signal);
    const known = new Batches();
    const anywhere: Key[] = [];
    for (const { key, holder } of wanted) {
      if (holder === null || this.#isUnreachable(holder)) anywhere.push(key);
      else known.add(holder, key);
    }
    await Promise.all([...this.#fromWorkers(known, NOBODY), this.#fromSomebody(anywhere, NOBODY)]);
  }

  #fromWorkers(batches: Batches, tried: ReadonlySet<Address>): Promise<void>[] {
    return batches.all().flatMap(([holder, keys]) =>
      slices(keys).map((slice) => this.#fromWorker(holder, slice, tried))
    );
  }

  /** From one worker; what it does not have from others. */
  async #fromWorker(holder: Address, keys: readonly Key[], tried: ReadonlySet<Address>): Promise<void> {
    const arrived = await this.#ask(holder, keys);
    if (arrived !== null && arrived.length > 0) this.#options.done(arrived, []);
    const missing = arrived === null ? keys : keysLess(keys, arrived);
    await this.#fromSomebody(missing, new Set([...tried, holder]));
  }

  /**
   * Of keys whose holders are not known: asks for those first, which is quicker than the scheduler's own way also for
   * small values. `tried` have been asked already.
   */
  async #fromSomebody(keys: readonly Key[], tried: ReadonlySet<Address>): Promise<void> {
    if (keys.length === 0) return;
    const direct = new Batches();
    const behindScheduler: Key[] = [];
    const nowhere: Key[] = [];
    for (const slice of slices(keys)) {
      const whoHas = await this.#whoHas(slice);
      for (const key of slice) {
        const holders = whoHas?.get(key) ?? [];
        const holder = holders.find((holder) => !tried.has(holder) && !this.#isUnreachable(holder));
        if (holder !== undefined) direct.add(holder, key);
        else if (whoHas === null || holders.some((holder) => this.#isUnreachable(holder))) {
          behindScheduler.push(key);
        } else nowhere.push(key);
      }
    }
    if (nowhere.length > 0) this.#options.done([], nowhere);
    await Promise.all([...this.#fromWorkers(direct, tried), this.#fromScheduler(behindScheduler)]);
  }

  #isUnreachable(holder: Address): boolean {
    return (this.#unreachable.get(holder) ?? 0) > Date.now();
  }

  async #whoHas(keys: readonly Key[]): Promise<ReadonlyMap<Key, readonly Address[]> | null> {
    try {
      const { scheduler, schedulerAddress, connection } = this.#options;
      const reply = await scheduler.call(schedulerAddress, { op: "who_has", keys: keys.map(keyToWire) }, {
        signal: connection(),
      });
      return readKeyMap(reply, "who_has", (value, path) => readArray(value, path, readString));
    } catch {
      return null; // the scheduler's gather says what is wrong
    }
  }

  /** `get_data` of one worker; null when it cannot be reached or stays busy. */
  async #ask(holder: Address, keys: readonly Key[]): Promise<Arrived[] | null> {
    const { workers, signal: end } = this.#options;
    let gone = this.#asked.get(holder);
    if (gone === undefined) this.#asked.set(holder, gone = new AbortController());
    const signal = gone.signal;
    const request = { op: "get_data", keys: keys.map(keyToWire), who: null };
    for (let i = 0; i < BUSY_TRIES; i++) {
      let reply: unknown;
      try {
        reply = await workers.call(holder, request, {
          signal,
          acknowledge: (reply) => isBusy(reply) ? undefined : "OK",
        });
      } catch (error) {
        end.throwIfAborted();
        if (error instanceof CommClosedError) this.#unreachable.set(holder, Date.now() + UNREACHABLE_MS);
        return null;
      }
      if (isBusy(reply)) {
        await sleep(BUSY_MS, end);
        continue;
      }
      const fields = readRecord(reply, "get_data");
      if (fields["status"] !== "OK") return null;
      return arrivals(fields["data"], "get_data.data");
    }
    return null;
  }

  async #fromScheduler(keys: readonly Key[]): Promise<void> {
    const { scheduler, schedulerAddress, signal, connection, done } = this.#options;
    for (let slice of slices(keys)) {
      while (slice.length > 0) {
        let fields: Readonly<Record<string, unknown>>;
        try {
          const request = { op: "gather", keys: slice.map(keyToWire) };
          const reply = await scheduler.call(schedulerAddress, request, { signal: connection() });
          fields = readRecord(reply, "gather");
        } catch {
          signal.throwIfAborted();
          done([], slice);
          break;
        }
        if (readString(fields["status"], "gather.status") === "OK") {
          const arrived = arrivals(fields["data"], "gather.data");
          done(arrived, keysLess(slice, arrived));
          break;
        }
        // One key that is nowhere keeps the others from being sent.
        const missing = new Set(readKeys(fields["keys"], "gather.keys"));
        const rest = slice.filter((key) => !missing.has(key));
        if (rest.length === slice.length) {
          done([], slice);
          break;
        }
        done([], slice.filter((key) => missing.has(key)));
        slice = rest;
      }
    }
  }
}

const NOBODY: ReadonlySet<Address> = new Set();

/** Keys by the worker that is to be asked for them. */
class Batches {
  readonly #keys = new Map<Address, Key[]>();

  add(holder: Address, key: Key): void {
    const keys = this.#keys.get(holder);
    if (keys === undefined) this.#keys.set(holder, [key]);
    else keys.push(key);
  }

  all(): readonly (readonly [Address, readonly Key[]])[] {
    return [...this.#keys];
  }
}

function isBusy(reply: unknown): boolean {
  return typeof reply === "object" && reply !== null && (reply as { status?: unknown }).status === "busy";
}

function arrivals(data: unknown, path: string): Arrived[] {
  const arrived: Arrived[] = [];
  for (const [key, value] of readKeyMap(data, path, readSerialized)) {
    arrived.push({ key, payload: value.payload });
  }
  return arrived;
}

function keysLess(keys: readonly Key[], arrived: readonly Arrived[]): readonly Key[] {
  if (arrived.length === keys.length) return [];
  const there = new Set(arrived.map(({ key }) => key));
  return keys.filter((key) => !there.has(key));
}

function slices(keys: readonly Key[]): readonly (readonly Key[])[] {
  if (keys.length === 0) return [];
  if (keys.length <= KEYS_MAX) return [keys];
  const parts: (readonly Key[])[] = [];
  for (let i = 0; i < keys.length; i += KEYS_MAX) parts.push(keys.slice(i, i + KEYS_MAX));
  return parts;
}
