/**
 * What a task says while it runs: events for the scheduler's topics, and how far it is.
 *
 * @module
 */
import { SerializationError } from "../../protocol/errors.ts";
import { keyToWire } from "../../protocol/key.ts";
import { decodeMsgpack, encodeMsgpack } from "../../protocol/msgpack/mod.ts";

/** Topic of what tasks say about their progress. */
export const PROGRESS_TOPIC = "dask-ts-progress";
/** Largest event of a task, bytes of msgpack: the scheduler keeps thousands of them. */
export const EVENT_BYTES_MAX = 1 << 20;
/** Shortest time between two messages about the progress of one task, ms. */
export const PROGRESS_MS = 100;

/**
 * The bytes of an event, as msgpack.
 *
 * @throws {SerializationError} when it is not plain data, or too large.
 */
export function encodeEvent(topic: unknown, event: unknown): Uint8Array {
  if (typeof topic !== "string" || topic === "") {
    throw new SerializationError("Cannot log an event: expected its topic, a text", "");
  }
  const refused = (reason: string, cause?: unknown) =>
    new SerializationError(
      `Cannot log an event under "${topic}": ${reason}; an event is null, booleans, numbers, texts, bytes, and ` +
        `lists and records of these`,
      "",
      { cause },
    );
  let bytes: Uint8Array;
  try {
    bytes = encodeMsgpack(event === undefined ? null : event);
  } catch (cause) {
    throw refused((cause as Error).message, cause);
  }
  if (bytes.byteLength > EVENT_BYTES_MAX) {
    throw refused(`it has ${bytes.byteLength} bytes, at most ${EVENT_BYTES_MAX} are possible`);
  }
  // Names like `__Enum__` make Python build objects; a Set is written with one, too.
  decodeMsgpack(bytes, () => {
    throw refused('it has a Set, or a field whose name begins with "__"');
  });
  return bytes;
}

/** Sends how far a task is, at most every {@linkcode PROGRESS_MS}, and always the last. */
export class Progress {
  readonly #key: string;
  readonly #send: (message: Uint8Array) => void;
  #sentAt = -Infinity;
  #unsent: Uint8Array | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(key: string, send: (message: Uint8Array) => void) {
    this.#key = key;
    this.#send = send;
  }

  /** @throws {TypeError} when they are no finite numbers. */
  report(done: unknown, total: unknown = null): void {
    if (!Number.isFinite(done) || (total !== null && !Number.isFinite(total))) {
      throw new TypeError(
        `Cannot tell the progress of "${this.#key}": expected numbers, got ${String(done)} of ${
          String(total)
        }`,
      );
    }
    this.#unsent = encodeMsgpack({ key: keyToWire(this.#key), done, total });
    const wait = this.#sentAt + PROGRESS_MS - performance.now();
    if (wait <= 0) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), wait);
  }

  /** Sends what was held back. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#unsent === null) return;
    const message = this.#unsent;
    this.#unsent = null;
    this.#sentAt = performance.now();
    this.#send(message);
  }
}
