/**
 * Short ASCII text, which is nearly all text on the wire, and most of it the same again: op names, field names,
 * addresses, keys that several messages name. Texts that were read lately are given again instead of made again: no
 * garbage, and what is kept for long is kept once.
 *
 * @module
 */

/** Longer texts are not looked up, bytes. */
export const ASCII_BYTES_MAX = 64;
/** Texts remembered; a power of two. Each has one place, and the newest of a place stays. */
const PLACES = 1024;

const hashes = new Int32Array(PLACES);
const texts: string[] = new Array(PLACES).fill("");

/** The text of `bytes[start..end]`; null when it is not ASCII, or longer than {@linkcode ASCII_BYTES_MAX}. */
export function decodeAscii(bytes: Uint8Array, start: number, end: number): string | null {
  const length = end - start;
  if (length > ASCII_BYTES_MAX) return null;
  let hash = length;
  let all = 0;
  for (let i = start; i < end; i++) {
    const code = bytes[i]!;
    all |= code;
    hash = Math.imul(hash ^ code, 0x01000193);
  }
  if (all >= 0x80) return null;
  const place = (hash ^ hash >>> 15) & (PLACES - 1);
  const known = texts[place]!;
  if (hashes[place] === hash && known.length === length && isText(known, bytes, start)) return known;
  const text: string = Reflect.apply(String.fromCharCode, null, bytes.subarray(start, end));
  hashes[place] = hash;
  return texts[place] = text;
}

function isText(text: string, bytes: Uint8Array, start: number): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) !== bytes[start + i]) return false;
  return true;
}
