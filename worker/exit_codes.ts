/**
 * How a worker process tells its supervisor how it ended.
 *
 * @module
 */

/** As it was told, or with the scheduler. */
export const EXIT_ENDED = 0;
/** The scheduler, or something else outside, did not want the worker: again would be the same. */
export const EXIT_REFUSED = 1;
/** The command line makes no sense, or permissions are missing. */
export const EXIT_MISUSED = 2;
/** A bug ended it. */
export const EXIT_CRASHED = 70;
/** Its lifetime is over, and another one is wanted. */
export const EXIT_AGAIN = 75;
