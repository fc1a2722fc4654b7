/**
 * Where a result or an error lies. Dask passes the pickle of a result's type, and that of an exception, from worker to
 * client untouched, and readers of pickles stop at STOP; so our workers write their address behind it. It spares the
 * client a question, and an error names the worker that it came from.
 *
 * @module
 */

const DOT = 0x2e;
/** The longest address that is looked for, bytes. */
const ADDRESS_BYTES_MAX = 128;

/** The pickle with `address` behind it. */
export function withAddress(pickle: Uint8Array, address: string): Uint8Array {
  const behind = new TextEncoder().encode(address);
  const bytes = new Uint8Array(pickle.byteLength + behind.byteLength);
  bytes.set(pickle);
  bytes.set(behind, pickle.byteLength);
  return bytes;
}

/** The address behind a pickle, or null. */
export function addressBehind(pickle: Uint8Array): string | null {
  const first = Math.max(0, pickle.length - ADDRESS_BYTES_MAX);
  for (let i = pickle.length - 8; i >= first; i--) {
    // ".tcp://…" or ".tls://…", the dot being the end of the pickle.
    if (pickle[i] !== DOT || pickle[i + 1] !== 0x74 || pickle[i + 4] !== 0x3a || pickle[i + 5] !== 0x2f) {
      continue;
    }
    const text = String.fromCharCode(...pickle.subarray(i + 1));
    return /^t(?:cp|ls):\/\/[\x21-\x7e]+:[0-9]+$/.test(text) ? text : null;
  }
  return null;
}
