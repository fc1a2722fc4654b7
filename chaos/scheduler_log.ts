/**
 * What a scheduler's log says of errors, less what dead and stopped workers make a sound scheduler say. Pure.
 *
 * @module
 */

/** Whole entries that faults explain. Everything else that looks like an error is one, of somebody. */
const PROVOKED: readonly RegExp[] = [
  // It wrote to a worker that was dying.
  /distributed\.batched - INFO - Batched Comm Closed [^]*CommClosedError[^]*$/,
  // A client asked for results that had just been lost and are on their way again.
  /distributed\.scheduler - ERROR - Couldn't gather keys: \{[^}]*\}\s*$/,
];
/** An entry begins with a time; tracebacks follow on lines without one. */
const ENTRY = /^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - )/m;
const SUSPICIOUS = / - (ERROR|CRITICAL) - |\bTraceback\b|\w(Error|Exception)\b/;

/** Entries that tell of an error which no fault explains, whole. */
export function unexplainedErrors(log: string): string[] {
  return log.split(ENTRY).filter((entry) =>
    SUSPICIOUS.test(entry) && !PROVOKED.some((pattern) => pattern.test(entry))
  );
}
