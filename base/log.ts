/**
 * The tiny interface through which library code logs. Entrypoints give it a real logger (LogTape); nobody needs one.
 *
 * @module
 */

/** How serious a line is. */
export type LogLevel = "debug" | "info" | "warning" | "error";

/** Where lines go. `fields` are plain data. */
export interface Logger {
  /** Takes one line, without a line feed. */
  log(level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** Says nothing. */
export const silent: Logger = { log: () => {} };
