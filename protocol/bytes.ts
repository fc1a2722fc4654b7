/**
 * Small helpers for byte arrays.
 *
 * @module
 */

/** No bytes. */
export const NO_BYTES: Uint8Array = new Uint8Array(0);

/** All parts, one after another, in a fresh array (the part itself when it is the only one). */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const [first] = parts;
  if (parts.length <= 1) return first ?? NO_BYTES;
  let total = 0;
  for (const part of parts) total += part.byteLength;
  const whole = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

/** Whether both hold the same bytes. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false;
  for (let i = 0; i < a.byteLength; i++) {
    if (a[i] !== b[i]) return false;
  }
  return true;
}
