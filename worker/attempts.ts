/**
 * Which try of a task a run is. The scheduler does not tell: a repeated task comes like a new one, after an order to
 * forget it. So the worker remembers the keys of runs that ended without a result.
 *
 * @module
 */
import type { Key } from "../protocol/key.ts";

/** Keys remembered; beyond that the oldest are forgotten. */
export const ATTEMPTS_KEYS_MAX = 4_096;

/** Counts runs that came to nothing, by key. */
export class Attempts {
  readonly #failed = new Map<Key, number>();

  /** The number of the run that is about to begin, from 1. */
  of(key: Key): number {
    return (this.#failed.get(key) ?? 0) + 1;
  }

  /** A run ended by itself. */
  ended(key: Key, succeeded: boolean): void {
    if (succeeded && this.#failed.size === 0) return;
    const failed = this.#failed.get(key) ?? 0;
    this.#failed.delete(key);
    if (succeeded) return;
    this.#failed.set(key, failed + 1); // the latest come last
    if (this.#failed.size > ATTEMPTS_KEYS_MAX) this.#failed.delete(this.#failed.keys().next().value!);
  }
}
