/**
 * Lines about errors that belong to no call.
 *
 * @module
 */

/** Writes what was thrown to stderr, whatever it is. */
export function report(what: string, thrown: unknown): void {
  let text: string;
  try {
    text = thrown instanceof Error ? thrown.stack ?? String(thrown) : String(thrown);
  } catch {
    text = "a value that cannot be described";
  }
  const bytes = new TextEncoder().encode(`${what}: ${text}\n`);
  for (let at = 0; at < bytes.byteLength;) at += Deno.stderr.writeSync(bytes.subarray(at));
}
