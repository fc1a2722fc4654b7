/**
 * Priority queues. The law: the lowest priority tuple comes first, the newest first among equals; an entry is never
 * searched for, it dies in place (`alive` says so) and is dropped when it comes to the top or when the dead outnumber
 * the living. Push and pop cost O(log n), amortized.
 *
 * @module
 */

/** How urgent something is. */
export interface Urgency {
  /** Compared as dask compares tuples: element by element, a shorter one first when it is a prefix. */
  readonly priority: readonly number[];
  /** Order of arrival; the newer one first among equal priorities. */
  readonly order: number;
}

/** Whether `a` goes strictly before `b`. */
export function before(a: Urgency, b: Urgency): boolean {
  const left = a.priority, right = b.priority;
  for (let i = 0; i < left.length && i < right.length; i++) {
    const l = left[i]!, r = right[i]!;
    if (l !== r) return l < r;
  }
  return left.length === right.length ? a.order > b.order : left.length < right.length;
}

const COMPACT_ENTRIES_MIN = 64;

/** A binary heap whose entries may die while they are in it. */
export class Heap<T extends Urgency> {
  readonly #alive: (entry: T) => boolean;
  #entries: T[] = [];
  #compactAt = COMPACT_ENTRIES_MIN;

  constructor(alive: (entry: T) => boolean) {
    this.#alive = alive;
  }

  push(entry: T): void {
    if (this.#entries.length >= this.#compactAt) this.#compact();
    this.#entries.push(entry);
    this.#rise(this.#entries.length - 1, 0);
  }

  /** The first living entry, or null. */
  peek(): T | null {
    for (;;) {
      const top = this.#entries[0];
      if (top === undefined) return null;
      if (this.#alive(top)) return top;
      this.#removeTop();
    }
  }

  /** Takes the first living entry out, or gives null. */
  pop(): T | null {
    const top = this.peek();
    if (top !== null) this.#removeTop();
    return top;
  }

  /** All living entries in no order; for validation and snapshots. */
  living(): T[] {
    return this.#entries.filter(this.#alive);
  }

  #removeTop(): void {
    const last = this.#entries.pop()!;
    if (this.#entries.length === 0) return;
    this.#entries[0] = last;
    this.#sink(0);
  }

  #compact(): void {
    this.#entries = this.living();
    for (let i = (this.#entries.length >> 1) - 1; i >= 0; i--) this.#sink(i);
    this.#compactAt = Math.max(COMPACT_ENTRIES_MIN, 2 * this.#entries.length);
  }

  #rise(index: number, top: number): void {
    const entries = this.#entries;
    const entry = entries[index]!;
    while (index > top) {
      const parent = (index - 1) >> 1;
      if (!before(entry, entries[parent]!)) break;
      entries[index] = entries[parent]!;
      index = parent;
    }
    entries[index] = entry;
  }

  /** What is at `index` belongs near the leaves, as a rule: the way down is made first, then it rises to its place. */
  #sink(index: number): void {
    const entries = this.#entries;
    const entry = entries[index]!;
    const start = index;
    for (let child = 2 * index + 1; child < entries.length; child = 2 * index + 1) {
      if (child + 1 < entries.length && before(entries[child + 1]!, entries[child]!)) child++;
      entries[index] = entries[child]!;
      index = child;
    }
    entries[index] = entry;
    this.#rise(index, start);
  }
}
