/**
 * The store's folder: large frames, one a file. The folder is private (0700), made and removed by whoever starts the
 * store, and RAM-backed where the machine has room. Names are never guessable, so that nobody can talk the store into
 * a file that it did not write. What is spilled lies in a second folder like it, on disk.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import type { Logger } from "../../base/log.ts";
import { silent } from "../../base/log.ts";
import type { FrameAllocator, FrameSink } from "../../comm/comm.ts";
import { type FileFrame, type Frame, isFileFrame } from "../../protocol/payload.ts";
import { type Clock, systemClock, toError } from "../kernel/mod.ts";

/** Frames smaller than this stay in memory unless told otherwise, bytes. */
export const FILE_BYTES_MIN = 65_536;

/** How the name of a worker's private folder begins: by it workers know each other's. */
export const FOLDER_PREFIX = "dask-ts-";

/** After a file could not be written, frames go to memory for this long before the disk is tried again. */
export const DISK_RETRY_MS = 1_000;

/** Names of new files in a folder: a counter, and a token that nobody guesses. */
function fileNames(directory: string): () => string {
  const token = crypto.randomUUID().replaceAll("-", "");
  let count = 0;
  return () => `${directory}/${++count}-${token}`;
}

/** The files of a store, as its actor handles them. */
export class StoreDisk {
  readonly newFile: () => string;
  readonly #directory: string | null;
  readonly #logger: Logger;
  /** Files that wait for their removal. They go one after the other: to unlink a large file takes its time. */
  readonly #unneeded: string[] = [];
  #removing: Promise<void> | null = null;

  constructor(directory: string | null, logger: Logger) {
    this.#directory = directory;
    this.#logger = logger;
    this.newFile = fileNames(directory ?? "");
  }

  /** Whether the file lies directly in the folder. */
  owns(file: string): boolean {
    if (this.#directory === null || !file.startsWith(`${this.#directory}/`)) return false;
    const name = file.slice(this.#directory.length + 1);
    return name !== "" && name !== "." && name !== ".." && !name.includes("/") && !name.includes("\0");
  }

  /** Why the frame cannot be taken over, or null when it can: it must be a whole file of the folder. */
  refusal(frame: FileFrame): string | null {
    if (!this.owns(frame.file)) return `the file "${frame.file}" does not lie in the folder of the store`;
    try {
      const { isFile, size } = Deno.lstatSync(frame.file);
      if (!isFile) return `"${frame.file}" is not a file`;
      return size === frame.byteLength
        ? null
        : `the file "${frame.file}" should have ${frame.byteLength} bytes, and has ${size}`;
    } catch (thrown) {
      return `the file "${frame.file}" cannot be read: ${toError(thrown).message}`;
    }
  }

  /** Removes files in the background. */
  remove(files: readonly string[]): void {
    if (files.length === 0) return;
    this.#unneeded.push(...files);
    this.#removing ??= this.#removeAll();
  }

  /** Resolves when all files that were to be removed are. */
  async settled(): Promise<void> {
    while (this.#removing !== null) await this.#removing;
  }

  async #removeAll(): Promise<void> {
    for (let file = this.#unneeded.pop(); file !== undefined; file = this.#unneeded.pop()) {
      try {
        await Deno.remove(file);
      } catch (thrown) {
        // A file that was allocated need not have been made; nor does it matter who removed it.
        if (!(thrown instanceof Deno.errors.NotFound)) {
          this.#logger.log("warning", "Cannot remove a file of the store", {
            file,
            reason: toError(thrown).message,
          });
        }
      }
    }
    this.#removing = null;
  }
}

/** Writes frames to files on disk, whole or not at all. */
export type SpillWriter = (frames: readonly Frame[]) => Promise<FileFrame[]>;

/**
 * Spills to `directory`. Files get their names when they are complete, so what has a name can be read. Nothing is left
 * of frames that could not be written.
 */
export function spillWriter(directory: string): SpillWriter {
  const newFile = fileNames(directory);
  return async (frames) => {
    const written: FileFrame[] = [];
    let part = "";
    try {
      for (const frame of frames) {
        const file = newFile();
        part = `${file}.part`;
        // A file is copied by the kernel, and not in this thread.
        if (isFileFrame(frame)) await Deno.copyFile(frame.file, part);
        else await Deno.writeFile(part, frame, { createNew: true, mode: 0o600 });
        const { size } = await Deno.lstat(part);
        if (size !== frame.byteLength) {
          throw new Error(`"${part}" should have ${frame.byteLength} bytes, and has ${size}`);
        }
        await Deno.rename(part, file);
        written.push({ file, byteLength: frame.byteLength });
      }
      return written;
    } catch (thrown) {
      for (const file of [part, ...written.map(({ file }) => file)]) removeIfThere(file);
      throw thrown;
    }
  };
}

/**
 * Takes over files of stores on the same machine without copying: the bytes get a second name, in `directory`, and stay
 * when their first owner removes his. Files of stores are never written to after they were committed. Only whole files
 * of a folder beside ours, with a name like ours, are taken; another user's, or another file system's, cannot be.
 */
export function storeLinker(directory: string | null): (frame: FileFrame) => FileFrame | null {
  if (directory === null) return () => null;
  const [parent] = splitPath(directory);
  const newFile = fileNames(directory);
  return (frame) => {
    const [folder, name] = splitPath(frame.file);
    const [beside, theirs] = splitPath(folder);
    if (beside !== parent || !theirs.startsWith(FOLDER_PREFIX) || !/^\w[\w.-]*$/.test(name)) return null;
    const file = newFile();
    try {
      Deno.linkSync(frame.file, file);
      const { isFile, size } = Deno.lstatSync(file);
      if (isFile && size === frame.byteLength) return { file, byteLength: size };
      Deno.removeSync(file);
    } catch {
      // Gone, not ours to read, or on another file system: the bytes come over the connection then.
    }
    return null;
  };
}

function splitPath(path: string): [folder: string, name: string] {
  const slash = path.lastIndexOf("/");
  return [path.slice(0, Math.max(0, slash)), path.slice(slash + 1)];
}

/** An open file, as a sink uses it. */
export interface OpenFile {
  /** Takes some of the bytes, at least one; says how many. */
  writeSync(bytes: Uint8Array): number;
  readSync(bytes: Uint8Array): number | null;
  seekSync(offset: number, whence: Deno.SeekMode): number;
  close(): void;
}

/** Options of {@linkcode storeAllocator}. */
export interface AllocatorOptions {
  /** Makes a new file, for reading and writing. Default: on disk. */
  readonly open?: (file: string) => OpenFile;
  /** Removes a file. Default: from disk. */
  readonly remove?: (file: string) => void;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/**
 * Where a comm puts large frames while they arrive: each into a new file of `directory`, chunk by chunk. When the disk
 * is full on the way, what came is read back and the frame goes on in memory. `directory` null: all stay in memory.
 *
 * The finished frame belongs to whoever received the message, and must be committed to the store or discarded.
 * `abort` removes the file also after `finish`, for messages of several frames that break off later.
 */
export function storeAllocator(
  directory: string | null,
  fileBytesMin: number = FILE_BYTES_MIN,
  options: AllocatorOptions = {},
): FrameAllocator {
  if (directory === null) return () => null;
  const newFile = fileNames(directory);
  const { open = openNew, remove = removeIfThere, clock = systemClock, logger = silent } = options;
  let memoryUntil = -Infinity;
  const onFull = (error: Error): void => {
    memoryUntil = clock.now() + DISK_RETRY_MS;
    logger.log("warning", "Cannot write a frame to the folder of the store, it stays in memory", {
      directory,
      reason: error.message,
    });
  };
  return (byteLength) => {
    if (byteLength < fileBytesMin || clock.now() < memoryUntil) return null;
    const file = newFile();
    try {
      return new FileSink(file, open(file), byteLength, remove, onFull);
    } catch (thrown) {
      onFull(toError(thrown));
      return null;
    }
  };
}

/** Frames above this length that fell back to memory grow from here, bytes; lengths that are only announced allocate nothing. */
const MEMORY_BYTES_MIN = 65_536;

class FileSink implements FrameSink {
  readonly #file: string;
  readonly #byteLength: number;
  readonly #remove: (file: string) => void;
  readonly #onFull: (error: Error) => void;
  /** The file while it is written; null when it is finished, aborted, or the frame is in memory. */
  #open: OpenFile | null;
  /** The frame so far, when the disk did not take it. */
  #memory: Uint8Array<ArrayBuffer> | null = null;
  #written = 0;

  constructor(
    file: string,
    open: OpenFile,
    byteLength: number,
    remove: (file: string) => void,
    onFull: (error: Error) => void,
  ) {
    this.#file = file;
    this.#open = open;
    this.#byteLength = byteLength;
    this.#remove = remove;
    this.#onFull = onFull;
  }

  write(chunk: Uint8Array): void {
    assert(this.#written + chunk.byteLength <= this.#byteLength, "A frame is longer than it was announced");
    let rest = chunk;
    while (this.#open !== null && rest.byteLength > 0) {
      try {
        const taken = this.#open.writeSync(rest);
        if (taken === 0) throw new Error("The disk took no byte");
        this.#written += taken;
        rest = rest.subarray(taken);
      } catch (thrown) {
        this.#fallBack(this.#open, toError(thrown));
      }
    }
    if (rest.byteLength > 0) this.#append(rest);
  }

  finish(): Frame {
    assert(this.#written === this.#byteLength, "A frame is shorter than it was announced");
    if (this.#memory !== null) return this.#memory;
    this.#open?.close();
    this.#open = null;
    return { file: this.#file, byteLength: this.#byteLength };
  }

  abort(): void {
    this.#open?.close();
    this.#open = null;
    if (this.#memory === null) this.#remove(this.#file);
    this.#memory = null;
  }

  #fallBack(open: OpenFile, error: Error): void {
    this.#onFull(error);
    const memory = this.#grown(this.#written);
    open.seekSync(0, Deno.SeekMode.Start);
    for (let read = 0; read < this.#written;) {
      const count = open.readSync(memory.subarray(read, this.#written));
      if (count === null) throw new Error(`Cannot read back "${this.#file}": it ends after ${read} bytes`);
      read += count;
    }
    this.#memory = memory;
    this.#open = null;
    open.close();
    this.#remove(this.#file);
  }

  #append(bytes: Uint8Array): void {
    // Only after `#fallBack`, so there is memory.
    let memory = this.#memory ?? this.#grown(0);
    const end = this.#written + bytes.byteLength;
    if (end > memory.byteLength) {
      const larger = this.#grown(end);
      larger.set(memory.subarray(0, this.#written));
      memory = larger;
    }
    memory.set(bytes, this.#written);
    this.#memory = memory;
    this.#written = end;
  }

  /** Room for `byteLength` bytes and as many again, but not for more than the frame has. */
  #grown(byteLength: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(Math.min(this.#byteLength, Math.max(MEMORY_BYTES_MIN, byteLength * 2)));
  }
}

function openNew(file: string): OpenFile {
  return Deno.openSync(file, { read: true, write: true, createNew: true, mode: 0o600 });
}

function removeIfThere(file: string): void {
  try {
    Deno.removeSync(file);
  } catch (thrown) {
    if (!(thrown instanceof Deno.errors.NotFound)) throw thrown;
  }
}
