/**
 * Retries that are decided here and not by the scheduler: those of tasks with `retryOn`. The scheduler knows of no
 * retries then; while a pause lasts, the task and all that depends on it are pending to the outside.
 *
 * The law: one failure is one decision, one pause and one `retry`, however many futures hear of it. A failure that was
 * heard of before the last `retry` was sent is the one that it was sent for: finding out where it came from takes its
 * time, and longer for one future than for another.
 *
 * @module
 */
import { RETRIES_WITH_RETRY_ON, type RetryPause, retryPauseMs } from "../dispatch/retry.ts";
import type { TaskError } from "../protocol/errors.ts";

/** Orders what is heard and sent in this process. */
let moment = 0;

/** The next moment. */
export function nextMoment(): number {
  return ++moment;
}

/** A key whose task failed, or was not run because another failed. */
export interface Failed {
  /** The moment at which that was heard. */
  readonly heardAt: number;
  /** Asks the scheduler to run the task again that failed. */
  runAgain(): void;
}

/** How one task of one submission is repeated. */
export class RetryPolicy {
  readonly #retryOn: (error: TaskError) => boolean;
  readonly #most: number;
  readonly #pause: RetryPause | undefined;
  #failures = 0;
  /** The moment at which the last `retry` was sent. */
  #sentAt = 0;
  /** Who waits for the end of the pause that lasts. */
  readonly #waiting = new Set<Failed>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What everybody is told who hears of a failure that is final. */
  #refusal: (() => boolean) | null = null;

  constructor(
    retryOn: (error: TaskError) => boolean,
    retries = RETRIES_WITH_RETRY_ON,
    pause?: RetryPause,
  ) {
    this.#retryOn = retryOn;
    this.#most = retries;
    this.#pause = pause;
  }

  /** Whether the task will run again; then `failed` is asked to see to it, or another who waits. Throws what `retryOn` throws. */
  join(error: TaskError, failed: Failed): boolean {
    if (failed.heardAt < this.#sentAt) return true;
    if (this.#refusal !== null) return this.#refusal();
    if (this.#waiting.size === 0) {
      this.#refusal = this.#refusalOf(error);
      if (this.#refusal !== null) return this.#refusal();
      this.#timer = setTimeout(() => {
        const [first] = this.#waiting;
        this.#waiting.clear();
        this.#sentAt = nextMoment();
        first?.runAgain();
      }, retryPauseMs(++this.#failures, this.#pause));
    }
    this.#waiting.add(failed);
    return true;
  }

  /** The task that had failed runs again, whoever saw to that. */
  revive(): void {
    this.#refusal = null;
  }

  #refusalOf(error: TaskError): (() => boolean) | null {
    if (this.#failures >= this.#most) return () => false;
    try {
      return this.#retryOn(error) ? null : () => false;
    } catch (thrown) {
      return () => {
        throw thrown;
      };
    }
  }

  /** `failed` does not wait any more. */
  leave(failed: Failed): void {
    if (this.#waiting.delete(failed) && this.#waiting.size === 0) clearTimeout(this.#timer);
  }
}
