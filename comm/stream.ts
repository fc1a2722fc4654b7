/**
 * A {@linkcode Comm} over any stream of bytes: TCP, memory. The law: one reader, who reads only when
 * somebody asks for a message (so a slow reader slows the other side down); writes in order of the calls, each resolved
 * when the kernel took its last byte.
 *
 * @module
 */
import { CommClosedError, DaskError, ProtocolError } from "../protocol/errors.ts";
import { encodeFrames, FrameDecoder } from "../protocol/frame.ts";
import { type FileFrame, type Frame, isFileFrame } from "../protocol/payload.ts";
import type { Comm, CommOptions } from "./comm.ts";

/** A stream of bytes both ways; the shape of a `Deno.Conn`. */
export interface ByteStream {
  /** Fills the beginning of `into`; null at the end of the stream. */
  read(into: Uint8Array): Promise<number | null>;
  /** Takes some of the bytes, from the first on; gives how many. */
  write(bytes: Uint8Array): Promise<number>;
  /** Closes both directions; pending calls reject. */
  close(): void;
}

/** Frames in files are sent in pieces of this size, bytes. */
const FILE_CHUNK_BYTES = 1 << 20;
/** Longest single read into a large frame, bytes: larger ones thrash the caches. */
const READ_BYTES_MAX = 1 << 20;
/** How long `close` waits for a peer that does not read. */
const CLOSE_MS_MAX = 5_000;

/** An opened {@linkcode FileFrame}: the name may vanish while it is sent. */
interface OpenFile {
  readonly file: Deno.FsFile;
  readonly frame: FileFrame;
}
type Part = Uint8Array | OpenFile;

/** See the law of this file. */
export class StreamComm implements Comm {
  readonly local: string;
  readonly peer: string;
  readonly #stream: ByteStream;
  readonly #decoder: FrameDecoder;
  /** Messages that came with others and were not asked for yet, next first from `#taken` on. */
  #arrived: Frame[][] = [];
  #taken = 0;
  /** Ends when all writes asked for so far have ended. Never rejects. */
  #lastWrite: Promise<void> | null = null;
  #state: "open" | "closing" | "closed" = "open";

  constructor(stream: ByteStream, local: string, peer: string, options: CommOptions = {}) {
    this.local = local;
    this.peer = peer;
    this.#stream = stream;
    this.#decoder = new FrameDecoder(options);
  }

  /** Whether the beginning of a message has come whose end has not. */
  get midMessage(): boolean {
    return !this.#decoder.atBoundary;
  }

  send(...messages: readonly (readonly Frame[])[]): Promise<void> {
    if (this.#state !== "open") return Promise.reject(this.#closedHere());
    let parts: Part[];
    try {
      parts = openFiles(encodeFrames(messages));
    } catch (error) {
      return Promise.reject(error);
    }
    const before = this.#lastWrite;
    const written = before === null ? this.#write(parts) : before.then(() => this.#write(parts));
    const ended: Promise<void> = written.then(noop, noop).then(() => {
      if (this.#lastWrite === ended) this.#lastWrite = null;
    });
    this.#lastWrite = ended;
    return written;
  }

  async receive(): Promise<Frame[] | null> {
    while (true) {
      if (this.#taken < this.#arrived.length) {
        const message = this.#arrived[this.#taken++]!;
        if (this.#taken === this.#arrived.length) {
          this.#arrived = [];
          this.#taken = 0;
        }
        return message;
      }
      if (this.#state === "closed") throw this.#closedHere();
      try {
        const space = this.#decoder.space();
        const n = await this.#stream.read(
          space.byteLength > READ_BYTES_MAX ? space.subarray(0, READ_BYTES_MAX) : space,
        );
        if (n === null) break;
        this.#arrived = this.#decoder.commit(n);
      } catch (error) {
        const failure = error instanceof DaskError ? error : this.#lost("read from", error);
        this.abort();
        throw failure;
      }
    }
    const whole = this.#decoder.atBoundary;
    this.abort();
    if (whole) return null;
    throw new CommClosedError(
      `Cannot read from ${this.peer}: the other side closed the connection in the middle of a message`,
      this.peer,
    );
  }

  async close(): Promise<void> {
    if (this.#state !== "open") return;
    this.#state = "closing";
    if (this.#lastWrite !== null) {
      const patience = setTimeout(() => this.abort(), CLOSE_MS_MAX);
      await this.#lastWrite;
      clearTimeout(patience);
    }
    this.abort();
  }

  abort(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#decoder.abort();
    try {
      this.#stream.close();
    } catch {
      // Closed by its other end already.
    }
  }

  async #write(parts: readonly Part[]): Promise<void> {
    try {
      for (const part of parts) {
        if (part instanceof Uint8Array) await this.#writeAll(part);
        else await this.#writeFile(part);
      }
    } catch (error) {
      const failure = error instanceof DaskError ? error : this.#lost("write to", error);
      this.abort();
      throw failure;
    } finally {
      for (const part of parts) if (!(part instanceof Uint8Array)) part.file.close();
    }
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength;) {
      if (this.#state === "closed") throw this.#closedHere();
      at += await this.#stream.write(at === 0 ? bytes : bytes.subarray(at));
    }
  }

  async #writeFile({ file, frame }: OpenFile): Promise<void> {
    const chunk = new Uint8Array(Math.min(FILE_CHUNK_BYTES, frame.byteLength));
    for (let left = frame.byteLength; left > 0;) {
      const n = file.readSync(left < chunk.byteLength ? chunk.subarray(0, left) : chunk);
      if (n === null || n === 0) {
        // The length is on the wire already: nothing but breaking the connection is honest now.
        throw new ProtocolError(
          `Cannot send "${frame.file}": expected ${frame.byteLength} bytes, the file ends ${left} bytes before`,
          "local",
        );
      }
      await this.#writeAll(n === chunk.byteLength ? chunk : chunk.subarray(0, n));
      left -= n;
    }
  }

  #closedHere(): CommClosedError {
    return new CommClosedError(`The connection with ${this.peer} was closed on this side`, this.peer);
  }

  /** Asked before `abort` changes the state. */
  #lost(verb: string, cause: unknown): CommClosedError {
    if (this.#state === "closed") return this.#closedHere();
    return new CommClosedError(`Cannot ${verb} ${this.peer}: ${lossReason(cause)}`, this.peer, { cause });
  }
}

/** Opens all files now: their names may vanish while others are written. */
function openFiles(frames: readonly Frame[]): Part[] {
  const parts: Part[] = [];
  try {
    for (const frame of frames) {
      parts.push(isFileFrame(frame) ? { file: Deno.openSync(frame.file), frame } : frame);
    }
  } catch (cause) {
    for (const part of parts) if (!(part instanceof Uint8Array)) part.file.close();
    throw new DaskError(`Cannot send a value: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
  return parts;
}

function lossReason(cause: unknown): string {
  if (cause instanceof Deno.errors.BrokenPipe || cause instanceof Deno.errors.ConnectionReset) {
    return "the other side closed the connection";
  }
  if (cause instanceof Deno.errors.TimedOut) return "the other side does not answer";
  return cause instanceof Error ? cause.message : String(cause);
}

function noop(): void {}
