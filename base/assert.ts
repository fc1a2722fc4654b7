/**
 * Assertions about our own code. A failed one is a bug here, never bad input from outside.
 *
 * @module
 */

/** Thrown when a belief about our own state is false. */
export class BugError extends Error {
  override readonly name = "BugError";
}

/** Throws a {@linkcode BugError} unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new BugError(`${message}: this is a bug in dask-ts, please report it`);
}

/** Ends an exhaustive `switch`: does not compile while a case is missing. */
export function unreachable(value: never, message = "Unreachable"): never {
  throw new BugError(`${message}: ${String(value)}`);
}
