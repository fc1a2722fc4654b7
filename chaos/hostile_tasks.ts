/**
 * What the row of hostile pickles runs on a worker.
 *
 * @module
 */
import { textOf } from "../tests/protocol/pickle/hostile.ts";

/** The value as text, whatever it is; or that reading it has changed what all objects are made from. */
export function describe(value: unknown): string {
  const { polluted, toJSON } = {} as Record<string, unknown>;
  if (polluted !== undefined || toJSON !== undefined) return "POLLUTED";
  return textOf(value);
}
