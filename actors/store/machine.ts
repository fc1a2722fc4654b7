/**
 * What the store knows: which payloads there are, who reads them, what may go. No bytes are touched and no file is
 * opened here: every method that makes files unneeded returns them, and the caller must remove them.
 *
 * Rule 1: a payload lives while its key has it or a lease covers it. Rule 2: a file lives while a payload that lives
 * names it, or while it is allocated. Rule 3: the figures count all and only payloads that live, each file once.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import { type FileFrame, isFileFrame, type Payload, payloadBytes } from "../../protocol/payload.ts";
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

/** Limits of a {@linkcode StoreMachine}. */
export interface StoreLimits {
  /** Frames smaller than this stay in memory. */
  readonly fileBytesMin: number;
  /** Bytes that files may take in all, allocated ones included. */
  readonly roomBytes: number;
}

/** The state of a store. */
export class StoreMachine {
  readonly #limits: StoreLimits;
  /** All and only payloads that a key has. */
  readonly #entries = new Map<string, Entry>();
  /** All and only leases that were given and not released. */
  readonly #leases = new Map<number, readonly Entry[]>();
  /** All and only files of payloads that live, with the number of frames that name them. */
  readonly #files = new Map<string, { readonly byteLength: number; uses: number }>();
  /** All and only files that were allocated and neither committed nor discarded. */
  readonly #allocated = new Map<string, number>();
  #lastId = 0;
  #lastLease = 0;
  #bytes = 0;
  #fileBytes = 0;
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
    const stored: Stored = { key, id: ++this.#lastId, payload, nbytes: payloadBytes(payload) };
    const files = payload.frames.filter(isFileFrame);
    const entry: Entry = { stored, files, leases: 0, current: true };
    const earlier = this.#entries.get(key);
    this.#entries.set(key, entry);
    this.#count(entry);
    // Last, so that a file that both name is never without a use.
    return { stored, unneeded: earlier === undefined ? NONE : this.#forget(earlier) };
  }

  /** Leases those of `keys` that are there, each once. */
  view(keys: readonly string[]): { readonly lease: number; readonly found: readonly Stored[] } {
    const entries: Entry[] = [];
    for (const key of keys.length > 1 ? new Set(keys) : keys) {
      const entry = this.#entries.get(key);
      if (entry === undefined) continue;
      entry.leases++;
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

  /** Figures, exact. */
  usage(): { readonly keys: number; readonly bytes: number; readonly fileBytes: number } {
    return { keys: this.#entries.size, bytes: this.#bytes, fileBytes: this.#fileBytes };
  }

  /** Leases that were given and not released. */
  get leases(): number {
    return this.#leases.size;
  }

  /** The end: all files that it knows of. */
  close(): Unneeded {
    const files = [...this.#files.keys(), ...this.#allocated.keys()];
    this.#entries.clear();
    this.#leases.clear();
    this.#files.clear();
    this.#allocated.clear();
    this.#bytes = this.#fileBytes = this.#allocatedBytes = 0;
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
    let [bytes, fileBytes] = [0, 0];
    for (const entry of alive) {
      const { key, nbytes } = entry.stored;
      assert(entry.leases === (covered.get(entry) ?? 0), `"${key}" miscounts its leases`);
      assert(entry.current === (this.#entries.get(key) === entry), `"${key}" mistakes whether it is current`);
      bytes += nbytes;
      for (const { file, byteLength } of entry.files) {
        const use = (uses.get(file) ?? 0) + 1;
        uses.set(file, use);
        if (use > 1) bytes -= byteLength;
        else fileBytes += byteLength;
        assert(!this.#allocated.has(file), `"${file}" is both allocated and committed`);
      }
    }
    assert(this.#bytes === bytes && this.#fileBytes === fileBytes, "The store miscounts its bytes");
    assert(this.#files.size === uses.size, "The store miscounts its files");
    for (const [file, { uses: counted }] of this.#files) {
      assert(uses.get(file) === counted, `"${file}" miscounts its uses`);
    }
    let allocatedBytes = 0;
    for (const byteLength of this.#allocated.values()) allocatedBytes += byteLength;
    assert(this.#allocatedBytes === allocatedBytes, "The store miscounts its allocations");
  }

  #count(entry: Entry): void {
    this.#bytes += entry.stored.nbytes;
    for (const { file, byteLength } of entry.files) {
      this.#endAllocation(file);
      const known = this.#files.get(file);
      if (known === undefined) {
        this.#files.set(file, { byteLength, uses: 1 });
        this.#fileBytes += byteLength;
      } else {
        assert(known.byteLength === byteLength, `Two payloads disagree about the length of "${file}"`);
        known.uses++;
        this.#bytes -= byteLength;
      }
    }
  }

  #forget(entry: Entry): Unneeded {
    entry.current = false;
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
      this.#fileBytes -= byteLength;
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
