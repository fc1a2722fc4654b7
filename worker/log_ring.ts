/**
 * The last lines of a log, for `get_logs`.
 *
 * @module
 */
import type { Logger, LogLevel } from "../base/log.ts";

/** Lines kept for `get_logs`. */
const LOG_LINES_MAX = 500;
const LEVEL_NAMES: Readonly<Record<LogLevel, string>> = {
  debug: "DEBUG",
  info: "INFO",
  warning: "WARNING",
  error: "ERROR",
};

/** A logger that passes lines on and keeps the last ones, for `get_logs`. */
export class LogRing implements Logger {
  readonly #next: Logger;
  readonly #lines: { readonly at: number; readonly level: LogLevel; readonly message: string }[] = [];

  constructor(next: Logger) {
    this.#next = next;
  }

  log(level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>): void {
    this.#next.log(level, message, fields);
    if (level === "debug") return;
    if (this.#lines.length === LOG_LINES_MAX) this.#lines.shift();
    this.#lines.push({ at: Date.now(), level, message });
  }

  /** Lines as dask's clients read them; `start` in seconds since the epoch. */
  newestFirst(start: number, count: number, timestamps: boolean): unknown[] {
    const lines: unknown[] = [];
    for (const { at, level, message } of this.#lines.toReversed()) {
      if (lines.length >= count || at / 1000 < start) break;
      lines.push(timestamps ? [at / 1000, LEVEL_NAMES[level], message] : [LEVEL_NAMES[level], message]);
    }
    return lines;
  }
}
