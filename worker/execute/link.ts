/**
 * The link between a worker and one of its executors: dask's framing over a unix socket, one msgpack array of records
 * in frame 0, bytes that found no room in the shared folder in the frames after it. Private to one version of this
 * package: both ends are started from the same files.
 *
 * A write leaves the process inside {@linkcode Link.flush} itself, not in a later turn: what an executor says before it
 * calls user code is said even when that code never returns.
 *
 * @module
 */
import { encodeFrames, FrameDecoder } from "../../protocol/frame.ts";
import { decodeMsgpack, encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { CommClosedError, ProtocolError } from "../../protocol/errors.ts";
import type { Frame } from "../../protocol/payload.ts";
import type { AllowList } from "./allow.ts";
import type { Stop } from "./policy.ts";
import type { TaskNews } from "./running_task.ts";

/** Frames from this size on travel as files of the shared folder, bytes. */
export const FILE_BYTES_MIN = 1 << 16;

/** Payloads from this size on are kept by executors for later calls, bytes. */
export const KEPT_BYTES_MIN = 1 << 12;
/** What an executor keeps of inputs unless told otherwise, bytes. */
export const INPUT_CACHE_BYTES_MAX = 256 * 1024 * 1024;

/** Exit code of an executor that cannot do its work. */
export const EXIT_UNABLE = 70;

/** A frame on the link: small bytes, a file as `[path, bytes]`, or the index of a frame of this message. */
export type LinkFrame = Uint8Array | readonly [path: string, byteLength: number] | number;

/**
 * One input of a call: `[key, id]` when the executor has kept it, else all of it. `keep` says that later calls may
 * refer to it.
 */
export type LinkInput =
  | readonly [key: string, id: number]
  | readonly [key: string, id: number, keep: boolean, header: Uint8Array, frames: readonly LinkFrame[]];

/** What a worker tells an executor. */
export type ToExecutor =
  | readonly [
    "call",
    seq: number,
    key: string,
    runId: number,
    pickle: Uint8Array,
    buffers: readonly Uint8Array[],
    inputs: readonly LinkInput[],
    annotations: Readonly<Record<string, unknown>>,
    attempt: number,
  ]
  /** Stop this call: `name` and `reason` are those of the error that its signal carries. */
  | readonly ["abort", seq: number, reason: string, name: Stop["name"]]
  /** Drop these kept inputs. */
  | readonly ["forget", ids: readonly number[]]
  /** Somebody wants the items that this call yields, from number `from` on. */
  | readonly ["items", seq: number, ask: number, from: number];

/**
 * What an executor tells its worker. The first record is `hello`. `started` may be missing: the end of a call says when
 * it began, and until then the ledger does.
 */
export type FromExecutor =
  | readonly ["hello", token: string, pid: number]
  | readonly ["started", seq: number, at: number]
  | readonly [
    "succeeded",
    seq: number,
    start: number,
    stop: number,
    header: Uint8Array,
    frames: readonly LinkFrame[],
    typename: string,
    pythonType: Uint8Array,
  ]
  | readonly [
    "failed",
    seq: number,
    start: number,
    stop: number,
    header: Uint8Array,
    frames: readonly LinkFrame[],
    exceptionText: string,
    tracebackText: string,
  ]
  | readonly ["rescheduled", seq: number, start: number]
  | TaskNews
  /** Its memory, after a call. */
  | readonly ["memory", bytes: number]
  /** The ledger of this executor makes no sense; it ends itself. */
  | readonly ["damaged"];

/** What the first stdin line of an executor holds, as JSON. */
export interface ExecutorConfig {
  readonly socket: string;
  readonly token: string;
  /** Process id of the worker. */
  readonly parent: number;
  /** Shared folder. */
  readonly directory: string;
  /** Begins the names of all files of this executor. */
  readonly prefix: string;
  /** Reach the folder, and end with the worker, through libc. */
  readonly libc: boolean;
  /** What is granted for the start only, and given up before user code runs. */
  readonly revoke: readonly Deno.PermissionDescriptor[];
  /** Relative module paths are resolved against this. */
  readonly base: string;
  /** Address of the scheduler, for clients inside of tasks; null when there is none. */
  readonly scheduler: string | null;
  /** Certificates for those clients. */
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string } | null;
  /** URLs of modules to load before the first task. */
  readonly preload: readonly string[];
  /** What code may be loaded for tasks; null: anything. */
  readonly allow: AllowList | null;
  /** Whether it is to tell its memory after calls. */
  readonly tellMemory: boolean;
}

/** Name of page `page` of an executor's ledger. */
export function ledgerPath(directory: string, prefix: string, page: number): string {
  return `${directory}/${prefix}.claims${page}`;
}

/** One end of a link. */
export class Link<Out extends readonly unknown[], In extends readonly unknown[]> {
  readonly #conn: Deno.Conn;
  readonly #decoder = new FrameDecoder();
  #records: Out[] = [];
  #raw: Uint8Array[] = [];
  /** The write under way, until the kernel took all of it. */
  #writing: Promise<void> | null = null;
  #closed = false;

  constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** Adds a record to the next message. */
  push(record: Out): void {
    this.#records.push(record);
  }

  /** Adds a frame to the next message; gives its index. */
  attach(bytes: Uint8Array): number {
    this.#raw.push(bytes);
    return this.#raw.length - 1;
  }

  /** Whether something was pushed that is not written yet. */
  get pending(): boolean {
    return this.#records.length > 0;
  }

  /** The write under way, if any: while there is one, {@linkcode flush} only queues. */
  get writing(): Promise<void> | null {
    return this.#writing;
  }

  /** Writes what was pushed, now, or right after the write under way. Never throws: a broken link is seen by reading. */
  flush(): void {
    if (this.#records.length === 0 || this.#writing !== null || this.#closed) return;
    const head = encodeMsgpack(this.#records);
    const parts = encodeFrames([[head, ...this.#raw]]) as Uint8Array[];
    this.#records = [];
    this.#raw = [];
    this.#writing = this.#write(parts).catch(() => {}).then(() => {
      this.#writing = null;
      this.flush();
    });
  }

  /** The next message's records and its other frames; null when the other end closed. */
  async receive(): Promise<{ readonly records: readonly In[]; readonly raw: readonly Frame[] }[] | null> {
    for (;;) {
      let count: number | null;
      try {
        count = await this.#conn.read(this.#decoder.space());
      } catch (cause) {
        if (this.#closed) return null;
        throw new CommClosedError("Lost the link between worker and executor", "", { cause });
      }
      if (count === null) return null;
      const messages = this.#decoder.commit(count);
      if (messages.length === 0) continue;
      return messages.map((frames) => {
        const records = decodeMsgpack(frames[0] as Uint8Array);
        if (!Array.isArray(records)) {
          throw new ProtocolError("Cannot read a message of an executor: expected an array");
        }
        return { records, raw: frames.slice(1) };
      });
    }
  }

  /** Closes at once. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#decoder.abort();
    try {
      this.#conn.close();
    } catch { /* closed by whoever made it */ }
  }

  async #write(parts: readonly Uint8Array[]): Promise<void> {
    for (const part of parts) {
      for (let at = 0; at < part.byteLength;) {
        at += await this.#conn.write(at === 0 ? part : part.subarray(at));
      }
    }
  }
}
