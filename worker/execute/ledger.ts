/**
 * Who came first: the executor that starts a call, or the worker that takes it back? Both append one record to the
 * same file and read forward to their own; the first record about a call wins. This works while the executor's event
 * loop is blocked by user code, because nothing is asked of it.
 *
 * Appends to one file are ordered by the kernel (`O_APPEND`), so both sides see the same order. A file holds
 * {@linkcode LEDGER_CALLS} calls, then both go on to the next one. User code may be able to write here: whatever the
 * file says, the answer is one of three words.
 *
 * @module
 */

/** Calls per ledger file. */
export const LEDGER_CALLS = 65_536;

/** `first`: our record stands before theirs. `late`: theirs was there already. `damaged`: the file makes no sense. */
export type Contest = "first" | "late" | "damaged";

/** An open ledger file. */
export interface LedgerFile {
  /** Appends at the end, in one write. */
  append(record: Uint8Array): void;
  /** Reads at `offset` into `into`; 0 at the end. */
  read(offset: number, into: Uint8Array): number;
  close(): void;
}

/** Magic, mark, two zeros, number of the call (u32), time (f64), little-endian. */
const RECORD_BYTES = 16;
const MAGIC = 0xc1;
const START = 0x53;
const WITHDRAW = 0x57;

/** One side's view of one file. */
class Page {
  readonly #file: LedgerFile;
  readonly #mark: number;
  readonly #record = new Uint8Array(RECORD_BYTES);
  readonly #view = new DataView(this.#record.buffer);
  readonly #buffer: Uint8Array;
  readonly #bufferView: DataView;
  /** Calls that the other side has marked, as far as we have read, with the times that it noted. */
  readonly #theirs = new Map<number, number>();
  #offset = 0;
  #damaged = false;

  constructor(file: LedgerFile, mark: number, buffer: Uint8Array) {
    this.#file = file;
    this.#mark = mark;
    this.#buffer = buffer;
    this.#bufferView = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    this.#record[0] = MAGIC;
    this.#record[1] = mark;
  }

  contest(seq: number, floor: number, at: number): Contest {
    if (this.#damaged) return "damaged";
    this.#view.setUint32(4, seq, true);
    this.#view.setFloat64(8, at, true);
    try {
      this.#file.append(this.#record);
      if (!this.#readTo(seq)) this.#damaged = true;
    } catch {
      this.#damaged = true;
    }
    if (this.#damaged) return "damaged";
    const late = this.#theirs.has(seq);
    this.#dropBefore(floor);
    return late ? "late" : "first";
  }

  marked(seq: number, floor: number): number | null | "damaged" {
    if (this.#damaged) return "damaged";
    try {
      this.#readTo(-1);
    } catch {
      this.#damaged = true;
    }
    this.#dropBefore(floor);
    return this.#damaged ? "damaged" : this.#theirs.get(seq) ?? null;
  }

  close(): void {
    try {
      this.#file.close();
    } catch { /* closed already */ }
  }

  #dropBefore(floor: number): void {
    for (const seq of this.#theirs.keys()) if (seq < floor) this.#theirs.delete(seq);
  }

  /** Reads forward to our own record of `seq`, or to the end; says whether it was found. */
  #readTo(seq: number): boolean {
    for (;;) {
      const bytes = this.#file.read(this.#offset, this.#buffer);
      if (bytes === 0) return false;
      const whole = bytes - bytes % RECORD_BYTES;
      for (let at = 0; at < whole; at += RECORD_BYTES) {
        const mark = this.#buffer[at + 1];
        if (this.#buffer[at] !== MAGIC || (mark !== START && mark !== WITHDRAW)) {
          this.#damaged = true;
          return false;
        }
        const of = this.#bufferView.getUint32(at + 4, true);
        if (mark !== this.#mark) this.#theirs.set(of, this.#bufferView.getFloat64(at + 8, true));
        else if (of === seq) {
          this.#offset += at + RECORD_BYTES;
          return true;
        }
      }
      if (whole === 0) {
        this.#damaged = true;
        return false;
      }
      this.#offset += whole;
    }
  }
}

/** One side of the ledger of one executor. Sequence numbers of calls start at 0 and grow by one. */
export class Ledger {
  readonly #open: (page: number) => LedgerFile;
  readonly #mark: number;
  readonly #pages = new Map<number, Page | null>();
  readonly #buffer: Uint8Array;

  /** `open` opens (the worker: creates) file number `page`. */
  constructor(side: "worker" | "executor", open: (page: number) => LedgerFile) {
    this.#open = open;
    this.#mark = side === "executor" ? START : WITHDRAW;
    // The executor reads one or two records at a time, the worker all since its last withdrawal.
    this.#buffer = new Uint8Array(side === "executor" ? 32 * RECORD_BYTES : 512 * RECORD_BYTES);
  }

  /** Makes sure that the file for call `seq` exists. Worker side, before the call is sent. */
  prepare(seq: number, floor: number): void {
    this.#closeBefore(floor);
    this.#page(seq);
  }

  /**
   * Marks call `seq` (executor: as started; worker: as withdrawn) and says who was first. No call below `floor` will
   * be asked about again. `at` is noted for the other side, ms since the epoch.
   */
  contest(seq: number, floor: number, at = 0): Contest {
    this.#closeBefore(floor);
    return this.#page(seq)?.contest(seq, floor, at) ?? "damaged";
  }

  /** When the other side has marked call `seq`; null: not yet. No call below `floor` will be asked about again. */
  marked(seq: number, floor: number): number | null | "damaged" {
    const page = this.#page(seq);
    return page === null ? "damaged" : page.marked(seq, floor);
  }

  /** Closes what is open. */
  close(): void {
    for (const page of this.#pages.values()) page?.close();
    this.#pages.clear();
  }

  /** Number of the file in which call `seq` stands. */
  static pageOf(seq: number): number {
    return Math.floor(seq / LEDGER_CALLS);
  }

  #page(seq: number): Page | null {
    const number = Ledger.pageOf(seq);
    let page = this.#pages.get(number);
    if (page === undefined) {
      try {
        page = new Page(this.#open(number), this.#mark, this.#buffer);
      } catch {
        page = null;
      }
      this.#pages.set(number, page);
    }
    return page;
  }

  #closeBefore(floor: number): void {
    if (this.#pages.size < 2) return;
    const first = Ledger.pageOf(floor);
    for (const [number, page] of this.#pages) {
      if (number < first) {
        page?.close();
        this.#pages.delete(number);
      }
    }
  }
}
