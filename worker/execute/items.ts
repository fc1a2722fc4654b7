/**
 * What a generator task has yielded so far, and who wants to see it before the task ends. The law: whoever asks is
 * answered with items that it has not had, in order, as soon as there are some; and nothing is encoded for nobody.
 *
 * @module
 */
import { payloadBytes } from "../../protocol/payload.ts";
import { encodeValue } from "../../protocol/value.ts";

/** A batch of items is to have about so many bytes. Of the first one nothing is known: it has one item. */
const BATCH_BYTES = 1 << 20;
/** The next batch has at most so many times as many items as the last one. */
const BATCH_GROWTH = 4;

/** Some items of a task that runs. Plain data, and a copy: the task may write to what it yielded. */
export interface ItemBatch {
  /** Of a list, as `encodeValue` writes it. */
  readonly header: Uint8Array;
  readonly frames: readonly Uint8Array[];
  /** No item comes after these. */
  readonly last: boolean;
}

/** See the law of this file. */
export class Items {
  /** All items: the result of the task, once there are no more. */
  readonly list: unknown[] = [];
  readonly #answer: (ask: number, batch: ItemBatch) => void;
  #asked: { readonly ask: number; readonly from: number }[] = [];
  #complete = false;
  /** How many items the next batch has. */
  #count = 1;

  /** `answer` gets what is to be told to those who ask. */
  constructor(answer: (ask: number, batch: ItemBatch) => void) {
    this.#answer = answer;
  }

  /** The task has yielded an item. */
  push(item: unknown): void {
    this.list.push(item);
    if (this.#asked.length > 0) this.#serve();
  }

  /** The task yields no more. */
  end(): void {
    this.#complete = true;
    if (this.#asked.length > 0) this.#serve();
  }

  /** Somebody wants the items from number `from` on. It may have to wait for them; answered once, unless the task ends. */
  ask(ask: number, from: number): void {
    this.#asked.push({ ask, from });
    this.#serve();
  }

  #serve(): void {
    const asked = this.#asked;
    this.#asked = [];
    for (const one of asked) {
      if (one.from < this.list.length || this.#complete) this.#give(one.ask, one.from);
      else this.#asked.push(one);
    }
  }

  #give(ask: number, from: number): void {
    const items = this.list.slice(from, from + this.#count);
    try {
      const payload = encodeValue(items);
      const each = payloadBytes(payload) / Math.max(items.length, 1);
      const most = Math.max(1, Math.floor(BATCH_BYTES / each));
      this.#count = Math.min(most, this.#count * BATCH_GROWTH);
      this.#answer(ask, {
        header: payload.header.slice(),
        // What `encodeValue` writes is in memory.
        frames: payload.frames.map((frame) => (frame as Uint8Array).slice()),
        last: this.#complete && from + items.length >= this.list.length,
      });
    } catch {
      // Whoever listens must not harm the task. What cannot be encoded cannot be stored either: its end will say so.
    }
  }
}
