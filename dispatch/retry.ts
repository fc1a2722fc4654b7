/**
 * When a task that failed is run again, and after which pause: one rule for all executors.
 *
 * @module
 */
import { chance } from "./host.ts";

/** The pause before a task is run again; each next one is `factor` times as long. */
export interface RetryPause {
  /** The first pause, in milliseconds. Default 50. */
  readonly first?: number;
  /** How much longer each next pause is. Default 2. */
  readonly factor?: number;
  /** No pause is longer than this, in milliseconds. Default 10,000. */
  readonly max?: number;
  /** Up to this share is added to each pause by chance, so that tasks which failed together do not return together. Default 0.1. */
  readonly jitter?: number;
  /** Where chance comes from: numbers from 0 to 1. Default: the machine. */
  readonly random?: () => number;
}

/** How often a failed task is repeated when `retryOn` is given and `retries` is not. */
export const RETRIES_WITH_RETRY_ON = 5;

/** The pause after a number of failures, from 1; in milliseconds. */
export function retryPauseMs(failures: number, pause: RetryPause = {}): number {
  const { first = 50, factor = 2, max = 10_000, jitter = 0.1, random = chance } = pause;
  // Beyond the largest number the power is infinite, and a first pause of 0 stays 0.
  const ms = first === 0 ? 0 : Math.min(first * factor ** (failures - 1), max);
  return ms * (1 + jitter * random());
}
