/**
 * Retries that are decided here and not by the scheduler: those of tasks with `retryOn`. The scheduler knows of no
 * retries then; while a pause lasts, the task and all that depends on it are pending to the outside.
 *
 * The law: whoever hears of a failure while its pause lasts joins it, so that one failure is one decision, one pause
 * and one `retry`, however many futures hear of it.
 *
 * @module
 */
import { RETRIES_WITH_RETRY_ON, type RetryPause, retryPauseMs } from "../dispatch/retry.ts";
import type { TaskError } from "../protocol/errors.ts";

/** A key whose task failed, or was not run because another failed. */
export interface Failed {
  /** Asks the scheduler to run the task again that failed. */
  runAgain(): void;
}

/** How one task of one submission is repeated. */
export class RetryPolicy {
  readonly #retryOn: (error: TaskError) => boolean;
  readonly #most: number;
  readonly #pause: RetryPause | undefined;
  #failures = 0;
  /** Who waits for the end of the pause that lasts. */
  readonly #waiting = new Set<Failed>();
  #timer: ReturnType<typeof setTimeout> | undefined;

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
    if (this.#waiting.size === 0) {
      if (this.#failures >= this.#most || !this.#retryOn(error)) return false;
      this.#timer = setTimeout(() => {
        const [first] = this.#waiting;
        this.#waiting.clear();
        first?.runAgain();
      }, retryPauseMs(++this.#failures, this.#pause));
    }
    this.#waiting.add(failed);
    return true;
  }

  /** `failed` does not wait any more. */
  leave(failed: Failed): void {
    if (this.#waiting.delete(failed) && this.#waiting.size === 0) clearTimeout(this.#timer);
  }
}
