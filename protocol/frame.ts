/**
 * Frames on a byte stream: `L`, number of frames, length of each frame (all unsigned 64-bit little-endian), then the
 * frames. The law: a length from outside never allocates by itself; what is handed out is never written again.
 *
 * {@linkcode FrameDecoder} is given bytes and gives messages, {@linkcode encodeFrames} is given messages and gives the
 * parts to write; neither reads or writes anything.
 *
 * @module
 */
import { NO_BYTES } from "./bytes.ts";
import { DataFrames } from "./envelope.ts";
import { ProtocolError } from "./errors.ts";
import type { Frame } from "./payload.ts";

/** Where a large incoming frame is put while it arrives: see `comm/comm.ts`. */
interface Sink {
  write(chunk: Uint8Array): void;
  finish(): Frame;
  abort(): void;
}

/** What a decoder accepts. */
export interface FrameLimits {
  /** Asked once per data frame of at least {@linkcode SINK_BYTES_MIN}; null means: into memory. */
  readonly allocate?: ((byteLength: number) => Sink | null) | undefined;
  /** Largest frame accepted, bytes. Default 2^40. */
  readonly frameBytesMax?: number | undefined;
  /** Largest number of frames of one message. Default 2^24. */
  readonly framesMax?: number | undefined;
}

/** Frames smaller than this never go to a sink, bytes. */
export const SINK_BYTES_MIN = 1 << 16;

/** Size of the buffer that bytes are read into; frames that fit in it are copied out of it. */
const SCRATCH_BYTES = 1 << 16;
/** Size of that buffer until one read fills it: most connections say little, and there may be thousands of them. */
const FIRST_SCRATCH_BYTES = 1 << 13;
/** Size of that buffer while bytes go through it to a sink. */
const SINK_SCRATCH_BYTES = 1 << 20;
/** Frames up to this size share a buffer with their neighbours, so that one of them keeps at most that much alive. */
const SHARED_BYTES_MAX = 1 << 12;
const SHARED_BUFFER_BYTES = 1 << 14;
/**
 * A frame up to this size is allocated at once (Python never sends larger ones; the system gives the memory only as it
 * is written). Larger ones grow as bytes come, by `GROWTH` so that little is copied.
 */
const ALLOCATED_AT_ONCE_BYTES = 1 << 26;
const GROWTH = 8;

const PRELUDE_BYTES = 16;
const LENGTH_BYTES = 8;

/** Cuts a stream of bytes into messages. */
export class FrameDecoder {
  readonly #allocate: (byteLength: number) => Sink | null;
  readonly #frameBytesMax: number;
  readonly #framesMax: number;

  /** Bytes that are not looked at yet: `#scratch[#start..#end]`. Null while nothing is pending and nobody reads. */
  #scratch: Uint8Array | null = null;
  #scratchBytes = FIRST_SCRATCH_BYTES;
  #start = 0;
  #end = 0;

  /** The message that arrives: null between two messages. */
  #message: Arriving | null = null;
  /** The frame of it that arrives and is too large for the scratch. */
  #large: LargeFrame | null = null;

  constructor(limits: FrameLimits = {}) {
    this.#allocate = limits.allocate ?? (() => null);
    this.#frameBytesMax = limits.frameBytesMax ?? 2 ** 40;
    this.#framesMax = limits.framesMax ?? 2 ** 24;
  }

  /** Whether all bytes so far made whole messages: only then may the other side close. */
  get atBoundary(): boolean {
    return this.#message === null && this.#start === this.#end;
  }

  /** Bytes that came and are no whole frame yet. */
  get pending(): number {
    return this.#end - this.#start;
  }

  /** Where to read the next bytes into; never empty. Valid until the next call. */
  space(): Uint8Array {
    const direct = this.#large?.space();
    if (direct !== undefined) return direct;
    const wanted = this.#large === null ? this.#scratchBytes : SINK_SCRATCH_BYTES;
    if (this.#scratch === null || this.#start === this.#end) {
      if (this.#scratch?.byteLength !== wanted) this.#scratch = new Uint8Array(wanted);
      this.#start = this.#end = 0;
    } else if (this.#start > 0 && this.#end === this.#scratch.byteLength) {
      const rest = this.#scratch.subarray(this.#start, this.#end);
      if (this.#scratch.byteLength < wanted) this.#scratch = new Uint8Array(wanted);
      this.#scratch.set(rest);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#scratch.subarray(this.#end);
  }

  /** Says that the first `n` bytes of {@linkcode space} were filled. Gives the messages that are whole now. */
  commit(n: number): Frame[][] {
    const messages: Frame[][] = [];
    if (this.#large?.direct === true) {
      this.#large.filled(n);
    } else {
      this.#end += n;
      if (this.#end === this.#scratch!.byteLength) this.#scratchBytes = SCRATCH_BYTES;
    }
    while (this.#step(messages));
    // An idle connection keeps no more than the usual scratch.
    if (this.#start === this.#end && this.#scratch !== null && this.#scratch.byteLength > SCRATCH_BYTES) {
      if (this.#large === null) this.#scratch = null;
    }
    return messages;
  }

  /** {@linkcode space} and {@linkcode commit} for bytes at hand. */
  push(chunk: Uint8Array): Frame[][] {
    const messages: Frame[][] = [];
    for (let at = 0; at < chunk.byteLength;) {
      const space = this.space();
      const part = chunk.subarray(at, at + space.byteLength);
      space.set(part);
      at += part.byteLength;
      for (const message of this.commit(part.byteLength)) messages.push(message);
    }
    return messages;
  }

  /** The stream broke: forgets everything, aborts a sink. */
  abort(): void {
    this.#large?.abort();
    this.#large = null;
    for (const large of this.#message?.finished ?? []) large.abort();
    this.#message = null;
    this.#scratch = null;
    this.#start = this.#end = 0;
  }

  /** Takes one thing out of what came; false when more bytes are needed. */
  #step(messages: Frame[][]): boolean {
    const large = this.#large;
    if (large !== null) {
      if (!large.direct) this.#start += large.take(this.#scratch!.subarray(this.#start, this.#end));
      if (!large.complete) return false;
      this.#large = null;
      this.#message!.frames.push(large.finish());
      this.#message!.finished.push(large);
      this.#finishIfWhole(messages);
      return true;
    }
    const message = this.#message;
    if (message === null) {
      if (this.pending < PRELUDE_BYTES) return false;
      // The first word says how much to read in one go. It is of no use to us, and older releases fill it differently.
      const count = this.#readLength(this.#start + LENGTH_BYTES);
      if (count === 0 || count > this.#framesMax) {
        throw new ProtocolError(
          `Cannot read a message of ${count} frames: expected 1 to ${this.#framesMax}; ` +
            `the other side may not speak dask's protocol`,
        );
      }
      this.#start += PRELUDE_BYTES;
      this.#message = new Arriving(count);
      return true;
    }
    if (message.lengths.length < message.count) return this.#readLengths(message);
    return this.#readSmallFrames(message, messages);
  }

  #readLengths(message: Arriving): boolean {
    const count = Math.min(message.count - message.lengths.length, Math.floor(this.pending / LENGTH_BYTES));
    if (count === 0) return false;
    for (let i = 0; i < count; i++) {
      const byteLength = this.#readLength(this.#start);
      if (byteLength > this.#frameBytesMax) {
        throw new ProtocolError(
          `Cannot read a frame of ${byteLength} bytes: expected at most ${this.#frameBytesMax}; ` +
            `the other side may not speak dask's protocol`,
        );
      }
      message.lengths.push(byteLength);
      this.#start += LENGTH_BYTES;
    }
    return true;
  }

  /** Takes frames that lie whole in the scratch; begins a large one where the next does not. */
  #readSmallFrames(message: Arriving, messages: Frame[][]): boolean {
    const { frames, lengths } = message;
    const index = frames.length;
    const byteLength = lengths[index]!;
    if (byteLength > this.pending) {
      if (byteLength <= SHARED_BYTES_MAX) return false; // waits in the scratch, which is larger than that
      this.#large = this.#begin(message, index, byteLength);
      return true;
    }
    if (byteLength > SHARED_BYTES_MAX) {
      if (byteLength >= SINK_BYTES_MIN) {
        this.#large = this.#begin(message, index, byteLength);
        return true;
      }
      frames.push(this.#scratch!.slice(this.#start, this.#start + byteLength));
      this.#start += byteLength;
      return this.#finishIfWhole(messages);
    }
    // Neighbours share one buffer: as many small frames as are whole here.
    let total = 0;
    let last = index;
    while (last < lengths.length && lengths[last]! <= SHARED_BYTES_MAX) {
      const next = total + lengths[last]!;
      if (next > this.pending || (next > SHARED_BUFFER_BYTES && total > 0)) break;
      total = next;
      last++;
    }
    const shared = total === 0 ? NO_BYTES : this.#scratch!.slice(this.#start, this.#start + total);
    let at = 0;
    for (let i = index; i < last; i++) {
      frames.push(last === index + 1 ? shared : shared.subarray(at, at + lengths[i]!));
      at += lengths[i]!;
    }
    this.#start += total;
    return this.#finishIfWhole(messages);
  }

  #begin(message: Arriving, index: number, byteLength: number): LargeFrame {
    const sink =
      byteLength >= SINK_BYTES_MIN && (message.data ??= new DataFrames()).has(message.frames, index)
        ? this.#allocate(byteLength)
        : null;
    if (sink !== null) return new SinkFrame(byteLength, sink);
    const frame = new MemoryFrame(byteLength);
    // What came already lies in the scratch.
    this.#start += frame.take(this.#scratch!.subarray(this.#start, this.#end));
    return frame;
  }

  #finishIfWhole(messages: Frame[][]): true {
    const message = this.#message!;
    if (message.frames.length === message.count) {
      messages.push(message.frames);
      this.#message = null;
    }
    return true;
  }

  /** Exact up to 2^53; larger ones are refused by every limit anyway. */
  #readLength(at: number): number {
    const bytes = this.#scratch!;
    const low = (bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16 | bytes[at + 3]! << 24) >>> 0;
    const high = (bytes[at + 4]! | bytes[at + 5]! << 8 | bytes[at + 6]! << 16 | bytes[at + 7]! << 24) >>> 0;
    return high * 2 ** 32 + low;
  }
}

/** A message of which not all came. `lengths` grows as they come. */
class Arriving {
  readonly count: number;
  readonly lengths: number[] = [];
  readonly frames: Frame[] = [];
  /** The large ones among `frames`: given up, too, when the rest of the message does not come. */
  readonly finished: LargeFrame[] = [];
  /** Made when a large frame comes. */
  data: DataFrames | null = null;
  constructor(count: number) {
    this.count = count;
  }
}

/** A frame that does not fit the scratch. */
interface LargeFrame {
  /** Whether bytes are read straight into it, past the scratch. */
  readonly direct: boolean;
  readonly complete: boolean;
  /** Where to read the next bytes into, when direct. */
  space(): Uint8Array | undefined;
  filled(n: number): void;
  /** Takes what it needs of `bytes`; gives how many that were. */
  take(bytes: Uint8Array): number;
  finish(): Frame;
  abort(): void;
}

class MemoryFrame implements LargeFrame {
  readonly direct = true;
  readonly #byteLength: number;
  #bytes: Uint8Array;
  #filled = 0;

  constructor(byteLength: number) {
    this.#byteLength = byteLength;
    this.#bytes = allocate(Math.min(byteLength, ALLOCATED_AT_ONCE_BYTES), byteLength);
  }
  get complete(): boolean {
    return this.#filled === this.#byteLength;
  }
  space(): Uint8Array {
    if (this.#filled === this.#bytes.byteLength) {
      const larger = allocate(Math.min(this.#byteLength, GROWTH * this.#bytes.byteLength), this.#byteLength);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return this.#bytes.subarray(this.#filled);
  }
  filled(n: number): void {
    this.#filled += n;
  }
  take(bytes: Uint8Array): number {
    const part = bytes.subarray(0, this.#bytes.byteLength - this.#filled);
    this.#bytes.set(part, this.#filled);
    this.#filled += part.byteLength;
    return part.byteLength;
  }
  finish(): Frame {
    return this.#bytes;
  }
  abort(): void {}
}

class SinkFrame implements LargeFrame {
  readonly direct = false;
  readonly #sink: Sink;
  #missing: number;

  constructor(byteLength: number, sink: Sink) {
    this.#missing = byteLength;
    this.#sink = sink;
  }
  get complete(): boolean {
    return this.#missing === 0;
  }
  space(): undefined {}
  filled(): void {}
  take(bytes: Uint8Array): number {
    const part = bytes.subarray(0, this.#missing);
    if (part.byteLength > 0) this.#sink.write(part);
    this.#missing -= part.byteLength;
    return part.byteLength;
  }
  finish(): Frame {
    return this.#sink.finish();
  }
  abort(): void {
    this.#sink.abort();
  }
}

function allocate(byteLength: number, frameBytes: number): Uint8Array {
  try {
    return new Uint8Array(byteLength);
  } catch (cause) {
    throw new ProtocolError(
      `Cannot read a frame of ${frameBytes} bytes: there is no memory for it`,
      "local",
      { cause },
    );
  }
}

/** Frames from this size on are written by themselves, bytes; smaller ones are copied together. */
const COPIED_BYTES_MAX = 1 << 16;
/** How large the buffers get into which small frames are copied, bytes. */
const PART_BYTES_MAX = 1 << 20;
/** From the first frame of this size on (after frame 0), the reader is told to read each frame by itself, bytes. */
const SEPARATE_BYTES_MIN = 1 << 11;

/**
 * What to write for some messages, in order: small frames and lengths copied together, large frames as they are.
 *
 * Large frames are left out of `L`: a Python reader then gives each of them its own, aligned buffer.
 */
export function encodeFrames(messages: readonly (readonly Frame[])[]): Frame[] {
  const writer = new PartWriter(messages);
  for (const frames of messages) {
    let together = LENGTH_BYTES * (1 + frames.length);
    for (let i = 0; i < frames.length; i++) {
      if (i > 0 && frames[i]!.byteLength >= SEPARATE_BYTES_MIN) break;
      together += frames[i]!.byteLength;
    }
    writer.word(together);
    writer.word(frames.length);
    for (const frame of frames) writer.word(frame.byteLength);
    for (const frame of frames) writer.frame(frame);
  }
  return writer.finish();
}

class PartWriter {
  readonly #parts: Frame[] = [];
  /** Bytes to be copied that are still to come, so that buffers are made of the right size. */
  #left = 0;
  #buffer: Uint8Array = NO_BYTES;
  /** What of the buffer is written, and how much of that is in a part already. */
  #at = 0;
  #flushed = 0;

  constructor(messages: readonly (readonly Frame[])[]) {
    for (const frames of messages) {
      this.#left += PRELUDE_BYTES + LENGTH_BYTES * frames.length;
      for (const frame of frames) if (isCopied(frame)) this.#left += frame.byteLength;
    }
  }

  word(value: number): void {
    this.#room(LENGTH_BYTES);
    const bytes = this.#buffer;
    let at = this.#at;
    for (let half = value % 2 ** 32, i = 0; i < 2; half = Math.floor(value / 2 ** 32), i++) {
      bytes[at++] = half;
      bytes[at++] = half >>> 8;
      bytes[at++] = half >>> 16;
      bytes[at++] = half >>> 24;
    }
    this.#at = at;
  }

  frame(frame: Frame): void {
    if (frame.byteLength === 0) return;
    if (isCopied(frame)) {
      this.#room(frame.byteLength);
      this.#buffer.set(frame, this.#at);
      this.#at += frame.byteLength;
    } else {
      this.#flush();
      this.#parts.push(frame);
    }
  }

  finish(): Frame[] {
    this.#flush();
    return this.#parts;
  }

  #room(byteLength: number): void {
    if (this.#at + byteLength > this.#buffer.byteLength) {
      this.#flush();
      this.#buffer = new Uint8Array(Math.max(byteLength, Math.min(this.#left, PART_BYTES_MAX)));
      this.#at = this.#flushed = 0;
    }
    this.#left -= byteLength;
  }

  /** What was copied becomes a part; the rest of the buffer goes on behind it. */
  #flush(): void {
    if (this.#at === this.#flushed) return;
    this.#parts.push(this.#buffer.subarray(this.#flushed, this.#at));
    this.#flushed = this.#at;
  }
}

function isCopied(frame: Frame): frame is Uint8Array {
  return frame instanceof Uint8Array && frame.byteLength < COPIED_BYTES_MAX;
}
