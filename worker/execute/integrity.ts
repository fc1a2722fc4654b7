/**
 * Hashes of code as people write them.
 *
 * @module
 */

/** SHA-256 in hex of `sha256-<base64>` or `sha256=<hex>`; null for any other text. */
export function readIntegrity(text: string): string | null {
  const hex = /^sha256=([0-9a-fA-F]{64})$/.exec(text)?.[1];
  if (hex !== undefined) return hex.toLowerCase();
  const base64 = /^sha256-([A-Za-z0-9+/]{43}=)$/.exec(text)?.[1];
  return base64 === undefined ? null : Uint8Array.fromBase64(base64).toHex();
}

/** `sha256-<base64>` of a SHA-256 in hex. */
export function writeIntegrity(hash: string): string {
  return `sha256-${Uint8Array.fromHex(hash).toBase64()}`;
}
