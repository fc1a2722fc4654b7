/**
 * Moves frames between two processes; knows no op. `tcp.ts` does it over Deno's TCP, `tls.ts` over TLS,
 * `memory.ts` inside one process (tests).
 *
 * @module
 */
import type { Frame } from "../protocol/payload.ts";

/** Where a large incoming frame is put while it arrives. */
export interface FrameSink {
  /** Takes the next bytes; `chunk` is only valid during the call. */
  write(chunk: Uint8Array): void;
  /** All bytes came: the finished frame. */
  finish(): Frame;
  /** The connection broke: forget what came. */
  abort(): void;
}

/** Asked once per frame of at least `sinkBytesMin`; `null` means: into memory, as usual. */
export type FrameAllocator = (byteLength: number) => FrameSink | null;

/** Options of both ends. */
export interface CommOptions {
  /** Decides where large frames go. */
  readonly allocate?: FrameAllocator;
  /** Largest frame accepted, bytes. Default 2^40. */
  readonly frameBytesMax?: number;
  /** Largest number of frames of one message. Default 2^24. */
  readonly framesMax?: number;
  /** Hears why a connection that came was not let in: with TLS, for want of a good certificate. */
  readonly onRefused?: (error: Error) => void;
}

/** A connection. One message = one list of frames. */
export interface Comm {
  /** Own end, as `tcp://host:port`. */
  readonly local: string;
  /** Other end. */
  readonly peer: string;
  /**
   * Sends one or several messages in one go. Resolves when the kernel took the last byte (that is the back-pressure);
   * rejects with `CommClosedError`. Calls may overlap: they are written in order of the calls.
   */
  send(...messages: readonly (readonly Frame[])[]): Promise<void>;
  /**
   * The next message, or `null` after the other side closed between two messages. Rejects with `CommClosedError` when
   * it closed inside one, with `ProtocolError` when its bytes make no sense. One caller at a time.
   */
  receive(): Promise<Frame[] | null>;
  /** Sends what is queued, then closes. Never rejects. Idempotent. */
  close(): Promise<void>;
  /** Closes at once; pending calls reject. Idempotent. */
  abort(): void;
  /** Whether the beginning of a message has come whose end has not. */
  readonly midMessage?: boolean;
}

/** A listening socket. */
export interface Listener extends AsyncDisposable {
  /** Bound address, with the real port. */
  readonly address: string;
  /** Stops listening; connections already accepted live on. Idempotent. */
  close(): Promise<void>;
}

/** A way to connect and to listen. */
export interface Transport {
  /** Connects; rejects with `CommClosedError`. */
  connect(address: string, options?: CommOptions & { readonly signal?: AbortSignal }): Promise<Comm>;
  /** Listens; `onComm` gets each connection that comes. */
  listen(address: string, onComm: (comm: Comm) => void, options?: CommOptions): Promise<Listener>;
}
