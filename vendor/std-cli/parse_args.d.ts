/** The part of `@std/cli/parse-args` 1.x that this project uses. */

/** What `parseArgs` is told of the flags. */
export interface ParseOptions {
  readonly boolean?: readonly string[];
  readonly string?: readonly string[];
  readonly collect?: readonly string[];
  readonly negatable?: readonly string[];
  readonly alias?: Readonly<Record<string, string | readonly string[]>>;
  readonly default?: Readonly<Record<string, unknown>>;
  readonly stopEarly?: boolean;
  readonly "--"?: boolean;
  readonly unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}
/** Flags by name, and what is left in `_`. */
export type Args = { _: (string | number)[] } & Record<string, unknown>;
/** Parses command-line words into flags. */
export function parseArgs(args: readonly string[], options?: ParseOptions): Args;
