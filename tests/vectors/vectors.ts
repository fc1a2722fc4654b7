/**
 * Reads the golden vectors of this folder; `generate.py` writes them.
 *
 * @module
 */

/** A pickle of CPython's, a serialized value, a task or an error: each kind has some of these fields. */
export interface Vector {
  readonly name: string;
  /** What Python prints for it. */
  readonly repr: string;
  readonly pickle?: string;
  readonly buffers?: readonly string[];
  readonly header?: string;
  readonly frames?: readonly string[];
  readonly dependencies?: readonly unknown[];
  readonly exception?: string;
  readonly traceback?: string | null;
}

/** All vectors of a file. */
export function vectors(file: string): readonly Vector[] {
  const text = Deno.readTextFileSync(new URL(file, import.meta.url));
  return (JSON.parse(text) as { readonly vectors: readonly Vector[] }).vectors;
}

/** Bytes from base64. */
export function bytes(base64: string | null | undefined): Uint8Array {
  return Uint8Array.fromBase64(base64 ?? "");
}

/** The lists of bytes of a vector. */
export function byteLists(list: readonly string[] | undefined): Uint8Array[] {
  return (list ?? []).map(bytes);
}
