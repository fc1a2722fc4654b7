/**
 * What the store knows: which payloads there are, who reads them, what may go. No bytes are touched and no file is
 * opened here: every method that makes files unneeded returns them, and the caller must remove them.
 *
 * Rule 1: a payload lives while its key has it or a lease covers it. Rule 2: a file lives while a payload that lives
 * names it, or while it is allocated. Rule 3: the figures count all and only payloads that live, each file once.
 *
 * A payload is spilled in two steps: `beginSpill` says what to write, and when that is done `endSpill` gives the key the
 * payload with the new files, as a commit would, under the id that it has. So all rules hold on the way: whoever reads
 * the old files keeps them to the end of his lease, and a key that was freed meanwhile leaves the new ones unneeded.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import {
  type FileFrame,
  type Frame,
  isFileFrame,
  type Payload,
  payloadBytes,
} from "../../protocol/payload.ts";
import type { Stored } from "./messages.ts";

/** Files that nobody needs any more. */
export type Unneeded = readonly string[];

const NONE: Unneeded = [];

/** A payload that lives. */
interface Entry {
  readonly stored: Stored;
  /** Its file frames. */
  readonly files: readonly FileFrame[];
  /** Leases that cover it; a lease counts once for each key that it asked for. */
  leases: number;
  /** Whether its key still has it. */
  current: boolean;
}

/** A file of payloads that live. */
interface KnownFile {
  readonly byteLength: number;
  /** Whether it lies on disk, and is no memory. */
  readonly onDisk: boolean;
  /** How many frames name it. */
  uses: number;
}

/** Frames smaller than this are never spilled: a file of its own would take as much as it frees. */
export const SPILL_BYTES_MIN = 4_096;

/** Limits of a {@linkcode StoreMachine}. */
export interface StoreLimits {
  /** Frames smaller than this stay in memory. */
  readonly fileBytesMin: number;
  /** Bytes that files may take in all, allocated ones included. */
  readonly roomBytes: number;
  /** Whether files that are committed are memory. Default true. */
  readonly ramBacked?: boolean;
  /** Bytes in memory from which on payloads are to be spilled. Default: never. */
  readonly targetBytes?: number;
}

/** What is to be written to disk: the frames of one payload that take memory, in their order. */
export interface Spill {
  readonly key: string;
  readonly frames: readonly Frame[];
}

/** Figures of a store, bytes. */
export interface StoreUsage {
  readonly keys: number;
  /** All that it holds, wherever it lies. */
  readonly bytes: number;
  /** Of these, in RAM-backed files. */
  readonly fileBytes: number;
  /** Of these, in files on disk. The rest is memory. */
  readonly diskBytes: number;
}

/** The state of a store. */
export class StoreMachine {
  readonly #limits: StoreLimits;
  /** All and only payloads that a key has. */
  readonly #entries = new Map<string, Entry>();
  /** All and only leases that were given and not released. */
  readonly #leases = new Map<number, readonly Entry[]>();
  /** All and only files of payloads that live. */
  readonly #files = new Map<string, KnownFile>();
  /** All and only files that were allocated and neither committed nor discarded. */
  readonly #allocated = new Map<string, number>();
  /** All and only payloads that a key has and of which something can be spilled; least recently used first. */
  readonly #spillable = new Set<Entry>();
  /** The one that is being written. */
  #spilling: Entry | null = null;
  /** Bytes in memory that someone wants for now; `targetBytes` holds besides. */
  #wantedBytes = Infinity;
  #lastId = 0;
  #lastLease = 0;
  #bytes = 0;
  #fileBytes = 0;
  #diskBytes = 0;
  #allocatedBytes = 0;

  constructor(limits: StoreLimits) {
    this.#limits = limits;
  }

  /** Whether a frame of this length should lie in a file. */
  fits(byteLength: number): boolean {
    const { fileBytesMin, roomBytes } = this.#limits;
    return byteLength >= fileBytesMin && this.#fileBytes + this.#allocatedBytes + byteLength <= roomBytes;
  }

  /** The file now belongs to whoever writes it, until it is committed or discarded. */
  allocate(file: string, byteLength: number): void {
    this.#allocated.set(file, byteLength);
    this.#allocatedBytes += byteLength;
  }

  /** A file that will not be committed. One that a payload names stays. */
  discard(file: string): Unneeded {
    this.#endAllocation(file);
    return this.#files.has(file) ? NONE : [file];
  }

  /** Why a file frame cannot be committed, or null: payloads that share a file must agree about its length. */
  refusal(frame: FileFrame): string | null {
    const known = this.#files.get(frame.file);
    return known === undefined || known.byteLength === frame.byteLength
      ? null
      : `the file "${frame.file}" has changed its length from ${known.byteLength} to ${frame.byteLength} bytes`;
  }

  /** Puts a payload under a key, and forgets what the key had before. */
  commit(key: string, payload: Payload): { readonly stored: Stored; readonly unneeded: Unneeded } {
    const stored: Stored = {
      key,
      id: ++this.#lastId,
      payload,
      nbytes: payloadBytes(payload),
      spilled: false,
    };
    return { stored, unneeded: this.#put(stored, !(this.#limits.ramBacked ?? true)) };
  }

  /** Leases those of `keys` that are there, each once. */
  view(keys: readonly string[]): { readonly lease: number; readonly found: readonly Stored[] } {
    const entries: Entry[] = [];
    for (const key of keys.length > 1 ? new Set(keys) : keys) {
      const entry = this.#entries.get(key);
      if (entry === undefined) continue;
      entry.leases++;
      // Now it is the one that was used last.
      if (this.#spillable.delete(entry)) this.#spillable.add(entry);
      entries.push(entry);
    }
    const lease = ++this.#lastLease;
    this.#leases.set(lease, entries);
    return { lease, found: entries.map((entry) => entry.stored) };
  }

  /** Ends a lease. One that ended before, or never was, changes nothing. */
  release(lease: number): Unneeded {
    const entries = this.#leases.get(lease);
    if (entries === undefined) return NONE;
    this.#leases.delete(lease);
    let unneeded = NONE;
    for (const entry of entries) {
      entry.leases--;
      unneeded = joined(unneeded, this.#dropIfDead(entry));
    }
    return unneeded;
  }

  /** Forgets keys; those that are not there change nothing. */
  free(keys: readonly string[]): { readonly ids: readonly number[]; readonly unneeded: Unneeded } {
    const ids: number[] = [];
    let unneeded = NONE;
    for (const key of keys) {
      const entry = this.#entries.get(key);
      if (entry === undefined) continue;
      this.#entries.delete(key);
      ids.push(entry.stored.id);
      unneeded = joined(unneeded, this.#forget(entry));
    }
    return { ids, unneeded };
  }

  /** From now on, and until that is reached, payloads are to be spilled down to so many bytes; null: not any more. */
  wantBytes(bytes: number | null): void {
    this.#wantedBytes = bytes ?? Infinity;
  }

  /**
   * What is to be spilled next: of the least recently used payload that nobody reads all that takes memory. Null: enough
   * is free, nothing can be spilled, or one is being written. Must be followed by `endSpill`.
   */
  beginSpill(): Spill | null {
    if (this.#spilling !== null) return null;
    if (this.memoryBytes <= this.#wantedBytes) this.#wantedBytes = Infinity;
    if (this.memoryBytes <= Math.min(this.#limits.targetBytes ?? Infinity, this.#wantedBytes)) return null;
    for (const entry of this.#spillable) {
      // What is being read keeps its memory until it was read.
      if (entry.leases > 0) continue;
      this.#spilling = entry;
      const { key, payload } = entry.stored;
      return { key, frames: payload.frames.filter((frame) => this.#takesMemory(frame)) };
    }
    return null;
  }

  /**
   * What `beginSpill` gave was written to these files, in its order; null: it could not be, and stays where it is, last
   * in the queue.
   */
  endSpill(written: readonly FileFrame[] | null): Unneeded {
    const entry = this.#spilling;
    assert(entry !== null, "Nothing is being spilled");
    this.#spilling = null;
    if (written === null) {
      if (this.#spillable.delete(entry)) this.#spillable.add(entry);
      return NONE;
    }
    // Freed, or given another payload meanwhile.
    if (!entry.current) return written.map(({ file }) => file);
    const { stored } = entry;
    const files = written.values();
    const frames = stored.payload.frames.map((frame) =>
      this.#takesMemory(frame) ? files.next().value ?? frame : frame
    );
    return this.#put({ ...stored, payload: { header: stored.payload.header, frames }, spilled: true }, true);
  }

  /** Bytes of all payloads that live that are memory. */
  get memoryBytes(): number {
    return this.#bytes - this.#diskBytes;
  }

  /** Figures, exact. */
  usage(): StoreUsage {
    return {
      keys: this.#entries.size,
      bytes: this.#bytes,
      fileBytes: this.#fileBytes,
      diskBytes: this.#diskBytes,
    };
  }

  /** Leases that were given and not released. */
  get leases(): number {
    return this.#leases.size;
  }

  /** The end: all files that it knows of. */
  close(): Unneeded {
    const files = [...this.#files.keys(), ...this.#allocated.keys()];
    for (const entry of this.#entries.values()) entry.current = false;
    this.#entries.clear();
    this.#leases.clear();
    this.#files.clear();
    this.#allocated.clear();
    this.#spillable.clear();
    this.#bytes =
      this.#fileBytes =
      this.#diskBytes =
      this.#allocatedBytes =
        0;
    return files;
  }

  /** Checks the rules from scratch. For tests. */
  validate(): void {
    const alive = new Set(this.#entries.values());
    const covered = new Map<Entry, number>();
    for (const entries of this.#leases.values()) {
      for (const entry of entries) {
        alive.add(entry);
        covered.set(entry, (covered.get(entry) ?? 0) + 1);
      }
    }
    const uses = new Map<string, number>();
    let [bytes, fileBytes, diskBytes] = [0, 0, 0];
    for (const entry of alive) {
      const { key, nbytes } = entry.stored;
      assert(entry.leases === (covered.get(entry) ?? 0), `"${key}" miscounts its leases`);
      assert(entry.current === (this.#entries.get(key) === entry), `"${key}" mistakes whether it is current`);
      bytes += nbytes;
      for (const { file, byteLength } of entry.files) {
        const use = (uses.get(file) ?? 0) + 1;
        uses.set(file, use);
        if (use > 1) bytes -= byteLength;
        else if (this.#files.get(file)?.onDisk === true) diskBytes += byteLength;
        else fileBytes += byteLength;
        assert(!this.#allocated.has(file), `"${file}" is both allocated and committed`);
      }
    }
    for (const entry of this.#spillable) {
      assert(entry.current, `"${entry.stored.key}" is to be spilled, and nobody has it`);
    }
    for (const entry of this.#entries.values()) {
      const can = entry.stored.payload.frames.some((frame) => this.#takesMemory(frame));
      assert(this.#spillable.has(entry) === can, `"${entry.stored.key}" mistakes whether it can be spilled`);
    }
    assert(
      this.#bytes === bytes && this.#fileBytes === fileBytes && this.#diskBytes === diskBytes,
      "The store miscounts its bytes",
    );
    assert(this.#files.size === uses.size, "The store miscounts its files");
    for (const [file, { uses: counted }] of this.#files) {
      assert(uses.get(file) === counted, `"${file}" miscounts its uses`);
    }
    let allocatedBytes = 0;
    for (const byteLength of this.#allocated.values()) allocatedBytes += byteLength;
    assert(this.#allocatedBytes === allocatedBytes, "The store miscounts its allocations");
  }

  /** Gives a key a payload, whose files that are not known yet lie on disk or not; forgets what it had. */
  #put(stored: Stored, onDisk: boolean): Unneeded {
    const files = stored.payload.frames.filter(isFileFrame);
    const entry: Entry = { stored, files, leases: 0, current: true };
    const earlier = this.#entries.get(stored.key);
    this.#entries.set(stored.key, entry);
    this.#count(entry, onDisk);
    if (stored.payload.frames.some((frame) => this.#takesMemory(frame))) this.#spillable.add(entry);
    // Last, so that a file that both name is never without a use.
    return earlier === undefined ? NONE : this.#forget(earlier);
  }

  #takesMemory(frame: Frame): boolean {
    return isFileFrame(frame)
      ? this.#files.get(frame.file)?.onDisk === false
      : frame.byteLength >= SPILL_BYTES_MIN;
  }

  #count(entry: Entry, onDisk: boolean): void {
    this.#bytes += entry.stored.nbytes;
    for (const { file, byteLength } of entry.files) {
      this.#endAllocation(file);
      const known = this.#files.get(file);
      if (known === undefined) {
        this.#files.set(file, { byteLength, onDisk, uses: 1 });
        if (onDisk) this.#diskBytes += byteLength;
        else this.#fileBytes += byteLength;
      } else {
        assert(known.byteLength === byteLength, `Two payloads disagree about the length of "${file}"`);
        known.uses++;
        this.#bytes -= byteLength;
      }
    }
  }

  #forget(entry: Entry): Unneeded {
    entry.current = false;
    this.#spillable.delete(entry);
    return this.#dropIfDead(entry);
  }

  #dropIfDead(entry: Entry): Unneeded {
    if (entry.current || entry.leases > 0) return NONE;
    this.#bytes -= entry.stored.nbytes;
    if (entry.files.length === 0) return NONE;
    const unneeded: string[] = [];
    for (const { file, byteLength } of entry.files) {
      const known = this.#files.get(file);
      assert(known !== undefined, `"${file}" is not known`);
      if (--known.uses > 0) {
        this.#bytes += byteLength;
        continue;
      }
      this.#files.delete(file);
      if (known.onDisk) this.#diskBytes -= byteLength;
      else this.#fileBytes -= byteLength;
      unneeded.push(file);
    }
    return unneeded;
  }

  #endAllocation(file: string): void {
    this.#allocatedBytes -= this.#allocated.get(file) ?? 0;
    this.#allocated.delete(file);
  }
}

function joined(a: Unneeded, b: Unneeded): Unneeded {
  return b.length === 0 ? a : a.length === 0 ? b : [...a, ...b];
}
