/**
 * A connection that carries messages: handshake, encoding, and one write for all that is said in one turn. The law:
 * `send` encodes at once (what changes later is not sent, what cannot be sent throws where it was said) and never waits;
 * a message that is alone goes out in the same turn; while a write is under way, what is said gathers and goes together.
 *
 * @module
 */
import { Batch, decodeMessage, encodeMessage } from "../protocol/envelope.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import { HELLO, readHello } from "../protocol/handshake.ts";
import type { Frame } from "../protocol/payload.ts";
import type { Comm, CommOptions, Transport } from "./comm.ts";

/** How long to wait for a connection and its handshake unless told otherwise, ms. */
export const CONNECT_MS_MAX = 30_000;
/** A batch is cut when it is larger than this, bytes. */
const BATCH_BYTES_MAX = 1 << 22;

/** From this many messages a ms on, batches gather for {@linkcode BUSY_FACTOR} times their interval. */
const BUSY_MESSAGES_PER_MS = 2;
/** Whoever says so much hears nothing of each single answer: fewer, larger batches cost both sides less. */
const BUSY_FACTOR = 4;

/** Options of {@linkcode openChannel}. */
export interface ChannelOptions {
  /** Default 30 000. */
  readonly handshakeTimeoutMs?: number;
  /** Gives up the handshake; later aborts do nothing. */
  readonly signal?: AbortSignal;
  /** False: both sides know each other and say no hello. Default true. */
  readonly handshake?: boolean;
  /**
   * Least time between two batches of {@linkcode Channel.sendBatched}, ms: the first after a quiet time goes at once, what
   * is said within this time after it goes together. Spares both sides a system call a message. Four times as long while
   * more than two messages a ms are said. Default 0.
   */
  readonly batchIntervalMs?: number;
}

/** Options of {@linkcode connectChannel}. */
export interface ConnectOptions extends CommOptions {
  /** For connecting and the handshake together, ms. Default 30 000. */
  readonly timeoutMs?: number;
  /** Gives up connecting. */
  readonly signal?: AbortSignal;
}

/** See {@linkcode openChannel}. */
export interface Channel {
  /** Own end, as `tcp://host:port`. */
  readonly local: string;
  /** Other end. */
  readonly peer: string;
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>;
  /**
   * Queues one message. On a channel that has ended it does nothing: `receive` and `closed` tell of the end.
   *
   * @throws {ProtocolError} with side `"local"` when the message cannot be encoded.
   */
  send(message: unknown): void;
  /** As {@linkcode send}, for the streams: all messages of one turn go as one, an array. */
  sendBatched(message: unknown): void;
  /** Bytes that are queued and not yet with the kernel. */
  readonly bufferedBytes: number;
  /** Resolves when all that was sent so far is with the kernel; rejects with `CommClosedError` when it cannot be. */
  flush(): Promise<void>;
  /**
   * The next message; null when the other side closed between two messages. Rejects with `CommClosedError` when the
   * connection broke, with `ProtocolError` when the other side sent nonsense (the connection is closed then). One
   * caller at a time.
   */
  receive(): Promise<{ readonly message: unknown } | null>;
  /** Sends what is queued, then closes. Never rejects. Idempotent. */
  close(): Promise<void>;
  /** Closes at once. Idempotent. */
  abort(): void;
  /** Whether part of a message has come that is not whole yet. */
  readonly midMessage: boolean;
}

/**
 * Makes a channel of a connection: says hello and hears the other side's.
 *
 * @throws {CommClosedError} when the other side closes, or says nothing in time. The connection is closed then.
 * @throws {ProtocolError} when it says something else.
 */
export async function openChannel(comm: Comm, options: ChannelOptions = {}): Promise<Channel> {
  const { handshakeTimeoutMs = CONNECT_MS_MAX, signal, handshake = true, batchIntervalMs = 0 } = options;
  if (handshake) {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      comm.abort();
    }, handshakeTimeoutMs);
    const giveUp = () => comm.abort();
    signal?.addEventListener("abort", giveUp, { once: true });
    try {
      signal?.throwIfAborted();
      // Neither side waits for the other. When the write fails, the read says why.
      comm.send(encodeMessage(HELLO)).catch(() => {});
      const frames = await comm.receive();
      if (frames === null) {
        throw new CommClosedError(
          `Cannot open a connection with ${comm.peer}: the other side closed it before the handshake`,
          comm.peer,
        );
      }
      readHello(decodeMessage(frames));
    } catch (error) {
      comm.abort();
      if (late) {
        throw new CommClosedError(
          `Cannot open a connection with ${comm.peer}: no handshake came within ${handshakeTimeoutMs} ms; ` +
            `does a dask process listen there?`,
          comm.peer,
        );
      }
      signal?.throwIfAborted();
      if (error instanceof CommClosedError && comm.peer.startsWith("tcp:")) {
        throw new CommClosedError(
          `${error.message}; if it listens on tls://, write that, and give certificates`,
          comm.peer,
          { cause: error },
        );
      }
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", giveUp);
    }
  }
  return new CommChannel(comm, batchIntervalMs);
}

/**
 * Connects to `address` and shakes hands.
 *
 * @throws {CommClosedError} that names the address and the way out; the reason of `signal` when it aborts.
 */
export async function connectChannel(
  transport: Transport,
  address: string,
  options: ConnectOptions = {},
): Promise<Channel> {
  const { timeoutMs = CONNECT_MS_MAX, signal, ...commOptions } = options;
  signal?.throwIfAborted();
  const giveUp = new AbortController();
  const late = new CommClosedError(
    `Cannot connect to ${address}: no connection within ${timeoutMs} ms; is the process running and reachable from here?`,
    address,
  );
  const timer = setTimeout(() => giveUp.abort(late), timeoutMs);
  const onAbort = () => giveUp.abort(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const comm = await transport.connect(address, { ...commOptions, signal: giveUp.signal });
    return await openChannel(comm, { handshakeTimeoutMs: 2 ** 31 - 1, signal: giveUp.signal });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

class CommChannel implements Channel {
  readonly local: string;
  readonly peer: string;
  readonly closed: Promise<void>;
  readonly #comm: Comm;
  #ended: () => void;
  #open = true;
  #aborted = false;
  /** Messages not yet given to the comm, and the batch that is behind them all. */
  #queue: Frame[][] = [];
  #batch: Batch | null = null;
  #queuedBytes = 0;
  #writingBytes = 0;
  /** The loop that writes until the queue is empty; null when there is none. Never rejects. */
  #writer: Promise<void> | null = null;
  /** Those who flush what is in the queue now, or in the write under way when the queue is empty. */
  #flushing: PromiseWithResolvers<void>[] = [];
  readonly #batchIntervalMs: number;
  #lastBatchAt = -Infinity;
  #busy = false;
  /** Ends the wait for the next batch early; null when there is no such wait. */
  #endPause: (() => void) | null = null;

  constructor(comm: Comm, batchIntervalMs: number) {
    this.#comm = comm;
    this.#batchIntervalMs = batchIntervalMs;
    this.local = comm.local;
    this.peer = comm.peer;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#ended = resolve;
  }

  get bufferedBytes(): number {
    return this.#queuedBytes + (this.#batch?.byteLength ?? 0) + this.#writingBytes;
  }

  get midMessage(): boolean {
    return this.#comm.midMessage === true;
  }

  send(message: unknown): void {
    if (!this.#open) return;
    const frames = encodeMessage(message);
    this.#endBatch();
    this.#enqueue(frames);
    this.#endPause?.();
    this.#wake();
  }

  sendBatched(message: unknown): void {
    if (!this.#open) return;
    this.#batch ??= new Batch();
    this.#batch.add(message);
    if (this.#batch.byteLength > BATCH_BYTES_MAX) this.#endBatch();
    this.#wake();
  }

  flush(): Promise<void> {
    if (this.#writer === null) return this.#open ? Promise.resolve() : Promise.reject(this.#gone());
    const flushed = Promise.withResolvers<void>();
    this.#flushing.push(flushed);
    this.#endPause?.();
    return flushed.promise;
  }

  async receive(): Promise<{ readonly message: unknown } | null> {
    try {
      const frames = await this.#comm.receive();
      if (frames !== null) return { message: decodeMessage(frames) };
    } catch (error) {
      this.abort();
      throw error;
    }
    this.abort();
    return null;
  }

  async close(): Promise<void> {
    if (!this.#open) return await this.closed;
    this.#endBatch();
    this.#open = false; // nothing is taken any more, what is queued still goes
    this.#endPause?.();
    await this.#writer;
    await this.#comm.close();
    this.#end();
  }

  abort(): void {
    this.#open = false;
    this.#aborted = true;
    this.#queue = [];
    this.#batch = null;
    this.#queuedBytes = 0;
    this.#comm.abort();
    this.#endPause?.();
    this.#end();
  }

  #enqueue(frames: Frame[]): void {
    this.#queue.push(frames);
    for (const frame of frames) this.#queuedBytes += frame.byteLength;
  }

  #endBatch(): void {
    if (this.#batch === null) return;
    const frames = this.#batch.finish();
    this.#batch = null;
    this.#enqueue(frames);
  }

  #wake(): void {
    if (this.#writer !== null) return;
    this.#writer = this.#write();
  }

  async #write(): Promise<void> {
    let flushing: PromiseWithResolvers<void>[] = [];
    try {
      await Promise.resolve(); // the rest of this turn comes along
      while (this.#queue.length > 0 || this.#batch !== null) {
        if (this.#batch !== null) {
          const now = performance.now();
          const interval = this.#busy ? BUSY_FACTOR * this.#batchIntervalMs : this.#batchIntervalMs;
          const rest = this.#lastBatchAt + interval - now;
          if (rest > 0 && this.#queue.length === 0 && this.#flushing.length === 0 && this.#open) {
            await this.#pause(rest);
            continue;
          }
          this.#busy = this.#batch.size > BUSY_MESSAGES_PER_MS * (now - this.#lastBatchAt);
          this.#lastBatchAt = now;
          this.#endBatch();
        }
        const messages = this.#queue;
        flushing = this.#flushing;
        this.#queue = [];
        this.#flushing = [];
        this.#writingBytes = this.#queuedBytes;
        this.#queuedBytes = 0;
        await this.#comm.send(...messages);
        this.#writingBytes = 0;
        for (const { resolve } of flushing) resolve();
      }
      if (this.#aborted) throw this.#gone();
      for (const { resolve } of this.#flushing.splice(0)) resolve();
    } catch (error) {
      this.#writingBytes = 0;
      this.abort(); // the receiver hears of it, too
      const failure = error instanceof DaskError ? error : this.#gone(error);
      for (const { reject } of [...flushing, ...this.#flushing.splice(0)]) reject(failure);
    } finally {
      this.#writer = null;
    }
  }

  #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#endPause = resolve;
    return promise.then(() => {
      clearTimeout(timer);
      this.#endPause = null;
    });
  }

  #gone(cause?: unknown): CommClosedError {
    return new CommClosedError(`The connection with ${this.peer} is closed`, this.peer, { cause });
  }

  #end(): void {
    this.#ended();
  }
}
