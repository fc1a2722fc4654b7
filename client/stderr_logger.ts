/**
 * Where a client's warnings go unless the caller says otherwise: one line each, to standard error.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";

/** Writes warnings and errors; the rest is for whoever gives a logger. */
export const stderrLogger: Logger = {
  log(level, message) {
    if (level !== "warning" && level !== "error") return;
    Deno.stderr.writeSync(new TextEncoder().encode(`dask ${level}: ${message}\n`));
  },
};
