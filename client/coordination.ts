/**
 * What several clients and tasks share through the scheduler, by name: queues, variables, locks and semaphores, events,
 * topics, published datasets. Names and contents are those of Python's `distributed`, so that both languages meet.
 *
 * The law: small plain data travels by itself, everything else as a future of it; and what was taken from the scheduler
 * for somebody who does not wait any more is given back.
 *
 * @module
 */
import { type AnyOp, isOp, type Lift, op, PART, type Waiting } from "../dispatch/mod.ts";
import { isPickled, isSerialized, serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { writeWireKey } from "../protocol/graph_pickle.ts";
import { ESCAPE, type Key, keyFromWire, keyToWire } from "../protocol/key.ts";
import { decodePickle } from "../protocol/pickle/decode.ts";
import { REDUCE, STOP, TUPLE1, withWriter } from "../protocol/pickle/encode.ts";
import { plain } from "../protocol/pickle/globals.ts";
import {
  type Fields,
  readArray,
  readBoolean,
  readCount,
  readKey,
  readKeys,
  readNullable,
  readRecord,
  readString,
} from "../protocol/read.ts";
import { compareReleases } from "../protocol/release.ts";
import { decodeValue, picklePayload } from "../protocol/value.ts";
import { abortable, describe, Future, signalOf, sleep } from "./future.ts";

/** What shared things need of their client. */
export interface Sharing {
  /** Of the client. */
  readonly id: string;
  /** Version of `distributed` there. */
  readonly schedulerVersion: string;
  /** Aborts when the client ends. */
  readonly end: AbortSignal;
  /** Aborts when the connection that there is now breaks, or the client ends; after a loss it is another one. */
  readonly connection: AbortSignal;
  /** Null while there is a connection; after a loss it resolves when there is one again. */
  readonly standing: Promise<void> | null;
  /** Asks the scheduler; `signal` gives up the call. */
  ask(op: string, fields: Readonly<Record<string, unknown>>, signal?: AbortSignal): Promise<unknown>;
  /** Says something on the stream, after all that was done before. */
  say(message: Readonly<Record<string, unknown>>): void;
  /** Submits a node of a user's. */
  submit(node: AnyOp): Future<unknown>;
  /** A future of a key that somebody else made. */
  future(key: string): Future<unknown>;
}

/** How often to look whether a queue has something, ms: at first, and at most. */
const LOOK_MS_MIN = 5;
const LOOK_MS_MAX = 50;
/** A look that found something waits for it this long: another client may have been quicker. Seconds. */
const GET_SECONDS = 1;
/** How long the scheduler waits for a task that it does not know yet, seconds. */
const KNOWN_SECONDS = 30;
/** How long the scheduler keeps one request for a lease, seconds. */
const ACQUIRE_SECONDS = 1;
/** A lease that is not refreshed for this long is taken back, seconds: dask's `locks.lease-timeout`. */
const LEASE_SECONDS = 30;
const REFRESH_MS = LEASE_SECONDS * 1000 / 5;
/** Plain data may nest so deep. */
const DEPTH_MAX = 100;
/** From this release on datasets are published several at a time. */
const PUBLISH_TOGETHER = "2026.6.0";

/**
 * A queue that all clients and tasks share under one name. Made by {@linkcode Client.queue}; Python's is
 * `distributed.Queue`.
 *
 * @example
 * ```ts ignore
 * const jobs = client.queue<{ url: string }>("jobs");
 * await jobs.put({ url: "https://example.com" });
 * for await (const { url } of jobs) console.log(url); // waits for more, until the loop is left
 * ```
 */
export class Queue<T> implements AsyncIterable<T> {
  /** Under which others find it. */
  readonly name: string;
  readonly #sharing: Sharing;
  readonly #maxSize: number;
  /** The connection over which it was made, if it was: another one may be with a scheduler that does not know it. */
  #created: { readonly connection: AbortSignal; readonly done: Promise<unknown> } | null = null;

  /** @internal Use {@linkcode Client.queue}. */
  constructor(sharing: Sharing, name: string, maxSize: number) {
    this.name = nameOf(name, "a queue");
    if (!Number.isSafeInteger(maxSize) || maxSize < 0) {
      throw new RangeError(
        `Cannot make the queue "${name}": expected its largest size, 0 for any, got ${describe(maxSize)}`,
      );
    }
    this.#sharing = sharing;
    this.#maxSize = maxSize;
  }

  /**
   * Adds an item at the end; waits while the queue is full. Nodes are submitted; of nodes and futures the others get
   * the value.
   *
   * @param options `signal` ends the waiting. An item that was on its way then may still be added.
   * @throws {TypeError} for what is neither plain data, nor a node, nor a future.
   */
  async put(value: Lift<T>, options: Waiting = {}): Promise<void> {
    const { name } = this;
    await this.#create();
    await hand(
      this.#sharing,
      value,
      `put into the queue "${name}"`,
      (item) => abortableAsk(this.#sharing, "queue_put", { name, ...item, timeout: null }, options),
    );
  }

  /**
   * Takes the first item; waits for one.
   *
   * @param options `signal` ends the waiting; no item is lost then.
   */
  async get(options: Waiting = {}): Promise<T> {
    const signal = signalOf(options);
    await this.#create();
    const { name } = this;
    const { connection } = this.#sharing;
    for (let pause = LOOK_MS_MIN;; pause = Math.min(1.5 * pause, LOOK_MS_MAX)) {
      signal?.throwIfAborted();
      // The scheduler would go on waiting for a caller who gave up, and lose the item: so it is only asked for items that
      // are there.
      if (await this.size() === 0) {
        await sleep(pause, connection, signal);
        continue;
      }
      let record: unknown;
      try {
        record = await this.#sharing.ask("queue_get", { name, timeout: GET_SECONDS, batch: false });
      } catch (error) {
        if (error instanceof DaskError && /TimeoutError/.test(error.message)) continue; // another client was quicker
        throw error;
      }
      const fields = readRecord(record, "queue_get");
      if (fields["type"] !== "Future") return fromWire(fields["value"]) as T;
      const key = readKey(fields["value"], "queue_get.value");
      using future = this.#sharing.future(key);
      this.#sharing.say({ op: "queue-future-release", name, key: keyToWire(key) });
      return await future.result() as T;
    }
  }

  /** How many items wait. */
  async size(): Promise<number> {
    await this.#create();
    return readCount(await this.#sharing.ask("queue_qsize", { name: this.name }), "queue_qsize");
  }

  /** The items as they come, without end. */
  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    for (;;) yield await this.get();
  }

  async #create(): Promise<void> {
    const sharing = this.#sharing;
    if (sharing.standing !== null) await sharing.standing;
    const { connection } = sharing;
    if (this.#created?.connection !== connection) {
      const done = sharing.ask("queue_create", { name: this.name, maxsize: this.#maxSize });
      this.#created = { connection, done };
    }
    await this.#created.done;
  }
}

/** One value that all clients and tasks share under one name. Made by {@linkcode Client.variable}; Python's is `distributed.Variable`. */
export class Variable<T> {
  /** Under which others find it. */
  readonly name: string;
  readonly #sharing: Sharing;

  /** @internal Use {@linkcode Client.variable}. */
  constructor(sharing: Sharing, name: string) {
    this.name = nameOf(name, "a variable");
    this.#sharing = sharing;
  }

  /**
   * Gives it a value. Nodes are submitted; of nodes and futures the others get the value.
   *
   * @throws {TypeError} for what is neither plain data, nor a node, nor a future.
   */
  async set(value: Lift<T>): Promise<void> {
    const { name } = this;
    await hand(
      this.#sharing,
      value,
      `set the variable "${name}"`,
      (item) => this.#sharing.ask("variable_set", { name, ...item, timeout: KNOWN_SECONDS }),
    );
  }

  /** Its value; waits until it has one. `signal` ends the waiting. */
  async get(options: Waiting = {}): Promise<T> {
    const { name } = this;
    if (this.#sharing.standing !== null) await this.#sharing.standing;
    const record = await abortableAsk(
      this.#sharing,
      "variable_get",
      { name, client: this.#sharing.id, timeout: null },
      options,
    );
    const fields = readRecord(record, "variable_get");
    if (fields["type"] !== "Future") return fromWire(fields["value"]) as T;
    const key = readKey(fields["value"], "variable_get.value");
    using future = this.#sharing.future(key);
    const token = readString(fields["token"], "variable_get.token");
    this.#sharing.say({ op: "variable-future-received-confirm", name, key: keyToWire(key), token });
    return await future.result(options) as T;
  }

  /** Forgets it, for everybody. */
  async delete(): Promise<void> {
    if (this.#sharing.standing !== null) await this.#sharing.standing;
    this.#sharing.say({ op: "variable_delete", name: this.name });
  }
}

/** A flag that all clients and tasks share under one name, at first not set. Made by {@linkcode Client.event}; Python's is `distributed.Event`. */
export class SharedEvent {
  /** Under which others find it. */
  readonly name: string;
  readonly #sharing: Sharing;

  /** @internal Use {@linkcode Client.event}. */
  constructor(sharing: Sharing, name: string) {
    this.name = nameOf(name, "an event");
    this.#sharing = sharing;
  }

  /** Sets it: all who wait go on. */
  async set(): Promise<void> {
    await this.#sharing.ask("event_set", { name: this.name });
  }

  /** Takes it back. */
  async clear(): Promise<void> {
    await this.#sharing.ask("event_clear", { name: this.name });
  }

  /** Whether it is set. */
  async isSet(): Promise<boolean> {
    return readBoolean(await this.#sharing.ask("event_is_set", { name: this.name }), "event_is_set");
  }

  /** Waits until it is set. `signal` ends the waiting. */
  async wait(options: Waiting = {}): Promise<void> {
    await abortableAsk(this.#sharing, "event_wait", { name: this.name, timeout: null }, options);
  }
}

/** A lease of a lock or semaphore, given back by `await using`. */
export interface Lease extends AsyncDisposable {
  /** Of the lock. */
  readonly name: string;
  /** Gives it back. Idempotent. */
  release(): Promise<void>;
}

/**
 * Waits for one of `leases` leases of the semaphore `name`. It is refreshed until it is released or the client ends;
 * should this process die, the scheduler takes it back after 30 s.
 *
 * @throws {DaskError} when the semaphore is there already with another number of leases.
 */
export async function acquire(
  sharing: Sharing,
  name: string,
  options: Waiting & { readonly leases?: number } = {},
): Promise<Lease> {
  nameOf(name, "a lock");
  const { leases = 1 } = options;
  if (!Number.isSafeInteger(leases) || leases < 1) {
    throw new RangeError(
      `Cannot use the option "leases" of lock: expected an integer from 1, got ${describe(leases)}`,
    );
  }
  const signal = signalOf(options);
  signal?.throwIfAborted();
  await sharing.ask("semaphore_register", { name, max_leases: leases, lease_timeout: LEASE_SECONDS });
  const id = crypto.randomUUID().replaceAll("-", "");
  const release = () => sharing.ask("semaphore_release", { name, lease_id: id });
  for (;;) {
    // Short requests: the scheduler would give the lease also to a caller who does not wait any more.
    const asked = sharing.ask("semaphore_acquire", { name, timeout: ACQUIRE_SECONDS, lease_id: id });
    const giveBack = () => asked.then((got) => got === true ? release() : null).catch(() => {});
    const got = await (signal === undefined ? asked : abortable(asked, signal, giveBack));
    if (got === true) break;
  }
  const refreshing = setInterval(() => {
    sharing.ask("semaphore_refresh_leases", { name, lease_ids: [id] }).catch(() => {});
  }, REFRESH_MS);
  const stop = () => clearInterval(refreshing);
  sharing.end.addEventListener("abort", stop, { once: true });
  if (sharing.end.aborted) stop();
  let released: Promise<void> | null = null;
  const giveUp = (): Promise<void> =>
    released ??= (async () => {
      stop();
      sharing.end.removeEventListener("abort", stop);
      if (!sharing.end.aborted) await release();
    })();
  return { name, release: giveUp, [Symbol.asyncDispose]: giveUp };
}

/** Gives a future a name under which others find it; it is kept until it is unpublished. */
export async function publish(
  sharing: Sharing,
  name: string,
  future: Future<unknown>,
  override: boolean,
): Promise<void> {
  nameOf(name, "a dataset");
  if (!(future instanceof Future)) {
    throw new TypeError(`Cannot publish "${name}": expected a Future, got ${describe(future)}`);
  }
  if (sharing.standing !== null) await sharing.standing;
  const published = whole(sharing, future);
  const keys = [keyToWire(published.key)];
  const data = serialized(picklePayload(futurePickle(published.key)));
  try {
    if (publishesTogether(sharing)) {
      await sharing.ask("publish_put", {
        names: [name],
        keys: [keys],
        data: [data],
        override,
        ...caughtUp(sharing),
      });
    } else {
      await sharing.ask("publish_put", { name, keys, data, override, client: sharing.id });
    }
  } finally {
    // From here on the scheduler keeps the key.
    if (published !== future) published.release();
  }
}

/** The future, or one of a task of its own for what is part of another task's result: others know results by their keys. */
function whole(sharing: Sharing, future: Future<unknown>): Future<unknown> {
  return future[PART] === undefined ? future : sharing.submit(op(function item(value: unknown) {
    return value;
  }, future));
}

/** The future that was published under a name. */
export async function dataset(sharing: Sharing, name: string): Promise<Future<unknown>> {
  nameOf(name, "a dataset");
  if (sharing.standing !== null) await sharing.standing;
  const reply = publishesTogether(sharing)
    ? readArray(await sharing.ask("publish_get", { names: [name] }), "publish_get", (item) => item)[0]
    : await sharing.ask("publish_get", { name, client: sharing.id });
  const fields = readNullable(reply, "publish_get", readRecord);
  if (fields === null) {
    const names = await datasets(sharing);
    throw new DaskError(
      `Cannot find the dataset "${name}": ${
        names.length === 0 ? "nothing is published" : `published are ${names.join(", ")}`
      }`,
    );
  }
  const keys = readKeys(fields["keys"], "publish_get.keys");
  if (keys.length !== 1) {
    throw new DaskError(
      `Cannot use the dataset "${name}": expected one future, got ${keys.length}; it is a collection of Python's`,
    );
  }
  return sharing.future(keys[0]!);
}

/** The names of all published datasets. */
export async function datasets(sharing: Sharing): Promise<readonly string[]> {
  const names = await sharing.ask("publish_list", {});
  return readArray(names, "publish_list", (name) => typeof name === "string" ? name : keyFromWire(name));
}

/** Takes a name back; the result may go when nobody else wants it. */
export async function unpublish(sharing: Sharing, name: string): Promise<void> {
  nameOf(name, "a dataset");
  if (sharing.standing !== null) await sharing.standing;
  await sharing.ask(
    "publish_delete",
    publishesTogether(sharing) ? { names: [name], ...caughtUp(sharing) } : { name },
  );
}

/**
 * Events under one topic as they come, from this call on: of `current().log()`, `Client.logEvent`, and Python's
 * `log_event`. What is heard before it is asked for is kept.
 */
export function events<E>(
  listen: (hear: (event: unknown) => void) => () => void,
  sharing: Sharing,
  signal: AbortSignal | undefined,
): AsyncIterableIterator<E> {
  const heard: unknown[] = [];
  let wake: () => void = () => {};
  const unlisten = listen((event) => {
    heard.push(event);
    wake();
  });
  const ends = [signal, sharing.end];
  const onEnd = () => {
    unlisten();
    wake();
  };
  for (const end of ends) end?.addEventListener("abort", onEnd, { once: true });
  if (ends.some((end) => end?.aborted)) onEnd();
  const stop = () => {
    for (const end of ends) end?.removeEventListener("abort", onEnd);
    unlisten();
  };
  const told = (async function* (): AsyncGenerator<E, void> {
    try {
      for (;;) {
        while (heard.length > 0) yield fromWire(heard.shift()) as E;
        for (const end of ends) end?.throwIfAborted();
        await new Promise<void>((resolve) => wake = resolve);
      }
    } finally {
      stop();
    }
  })();
  return {
    next: () => told.next(),
    return() {
      // One that was never asked has no end of its own.
      stop();
      return told.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/** Past events of a topic, oldest first, each with its time in ms since the epoch. */
export async function pastEvents(
  sharing: Sharing,
  topic: string,
): Promise<readonly { readonly at: number; readonly event: unknown }[]> {
  const reply = await sharing.ask("events", { topic: nameOf(topic, "a topic") });
  return readArray(reply, "events", (item, path) => {
    const [at, event] = readArray(item, path, (part) => part);
    return { at: Number(at) * 1000, event: fromWire(event) };
  });
}

/** Tells everybody who listens to a topic. */
export async function logEvent(sharing: Sharing, topic: string, event: unknown): Promise<void> {
  const msg = plainData(event, `log an event under "${nameOf(topic, "a topic")}"`);
  await sharing.ask("log_event", { topic, msg });
}

// --- Helpers ---

function publishesTogether({ schedulerVersion }: Sharing): boolean {
  return compareReleases(schedulerVersion, PUBLISH_TOGETHER) >= 0;
}

/** Makes the scheduler wait until it has read all that the stream carried before. */
function caughtUp(sharing: Sharing): { readonly client: string; readonly uid: string } {
  const uid = crypto.randomUUID();
  sharing.say({ op: "publish_flush_batched_send", uid });
  return { client: sharing.id, uid };
}

/** `distributed.client.Future(key)`, as Python's clients write it. */
function futurePickle(key: Key): Uint8Array {
  return withWriter((writer) => {
    writer.global("distributed.client", "Future");
    writeWireKey(writer, keyToWire(key));
    writer.op(TUPLE1);
    writer.op(REDUCE);
    writer.op(STOP);
    return writer.bytes();
  });
}

/** A request whose waiting may end early; the scheduler is left alone with it then. */
async function abortableAsk(
  sharing: Sharing,
  op: string,
  fields: Readonly<Record<string, unknown>>,
  options: Waiting,
): Promise<unknown> {
  const signal = signalOf(options);
  signal?.throwIfAborted();
  return await sharing.ask(op, fields, signal);
}

/** Hands a value to the scheduler: data as it is, else the key of a future. */
async function hand(
  sharing: Sharing,
  value: unknown,
  deed: string,
  ask: (item: { readonly key: unknown } | { readonly data: unknown }) => Promise<unknown>,
): Promise<void> {
  const future = isOp(value)
    ? sharing.submit(value)
    : value instanceof Future
    ? whole(sharing, value)
    : value;
  if (!(future instanceof Future)) return void await ask({ data: plainData(value, deed) });
  try {
    await ask({ key: keyToWire(future.key) });
  } finally {
    // From here on the scheduler keeps the key for the others.
    if (future !== value) future.release();
  }
}

/**
 * Checks that msgpack carries a value, and that Python's scheduler reads it back.
 *
 * @throws {TypeError} that names the place.
 */
function plainData(value: unknown, deed: string): unknown {
  const check = (part: unknown, path: string, depth: number): void => {
    switch (typeof part) {
      case "undefined":
      case "boolean":
      case "number":
      case "string":
        return;
      case "bigint":
        if (part >= -(1n << 63n) && part < 1n << 64n) return;
        break;
      case "object": {
        if (part === null || part instanceof Uint8Array) return;
        if (depth > DEPTH_MAX) throw refusal(deed, path, `data that nests deeper than ${DEPTH_MAX}`);
        if (Array.isArray(part)) return part.forEach((item, i) => check(item, `${path}[${i}]`, depth + 1));
        const prototype: unknown = Object.getPrototypeOf(part);
        if (prototype !== Object.prototype && prototype !== null) break;
        for (const [name, item] of Object.entries(part)) check(item, `${path}.${name}`, depth + 1);
        return;
      }
    }
    throw refusal(deed, path, describe(part));
  };
  check(value, "value", 0);
  return value;
}

function refusal(deed: string, path: string, got: string): TypeError {
  return new TypeError(
    `Cannot ${deed}: expected null, a boolean, a number, a text, bytes, or lists and plain objects of these, got ` +
      `${got} at ${path}; scatter it, and share the future`,
  );
}

/** A value as the scheduler passes it on: plain data, in which Python may have pickled parts. */
function fromWire(value: unknown): unknown {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (isPickled(value)) return plain(decodePickle(value.pickle, value.buffers));
  // The client's connections put all frames into memory.
  if (isSerialized(value)) return decodeValue(value.payload as Parameters<typeof decodeValue>[0]);
  if (Array.isArray(value)) return value.map(fromWire);
  if (value instanceof Set) return new Set([...value].map(fromWire));
  const entries = Object.entries(value as Fields).map(([name, item]) => [name, fromWire(item)] as const);
  if (!entries.some(([name]) => name.startsWith(ESCAPE))) return Object.fromEntries(entries);
  return new Map(entries.map(([name, item]) => [keyToWire(name), item]));
}

function nameOf(name: unknown, what: string): string {
  if (typeof name === "string" && name !== "") return name;
  throw new TypeError(
    `Cannot use ${what}: expected its name, a text that is not empty, got ${describe(name)}`,
  );
}
