/**
 * Where to listen, as flags say it: ports, ranges of ports shared out among workers, `HOST:PORT`.
 *
 * @module
 */

/** Ports to try, one after the other: `first`, `first + step`, … up to `last`. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
  readonly step: number;
}

/**
 * Reads `"8788"` or `"3000:3010"`; also `"3000:3010:2"`, as {@linkcode writePorts} writes it.
 *
 * @throws {RangeError}
 */
export function readPorts(flag: string, text: string): PortRange {
  const match = /^(\d+)(?::(\d+))?(?::([1-9]\d*))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : Number(match[2]);
  if (match === null || last > 65_535 || last < first) {
    throw new RangeError(`Cannot read --${flag} "${text}": expected a port, or FIRST:LAST`);
  }
  return { first, last, step: Number(match[3] ?? 1) };
}

/** The text that {@linkcode readPorts} reads. */
export function writePorts({ first, last, step }: PortRange): string {
  if (first === last) return `${first}`;
  return step === 1 ? `${first}:${last}` : `${first}:${last}:${step}`;
}

/** The share of one of several workers: every so many-th port. Port 0, any, is for all. */
export function sharePorts(range: PortRange, index: number, workers: number): PortRange {
  if (range.first === 0 || workers === 1) return range;
  const first = range.first + index * range.step;
  const step = range.step * workers;
  return { first, last: first + Math.floor((range.last - first) / step) * step, step };
}

/** How many ports that are. */
export function countPorts({ first, last, step }: PortRange): number {
  return Math.floor((last - first) / step) + 1;
}

/** The ports, in the order in which they are tried. */
export function listPorts(range: PortRange): number[] {
  return Array.from({ length: countPorts(range) }, (_, index) => range.first + index * range.step);
}

/**
 * Reads `":0"`, `"8787"`, `"localhost:8787"`, `"[::1]:8787"`; no host is `null`.
 *
 * @throws {RangeError}
 */
export function parseHostPort(text: string): { readonly host: string | null; readonly port: number } {
  const match = /^(?:(\[[0-9A-Fa-f:.%]+\]|[^:\s[\]]*):)?(\d+)$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65_535) {
    throw new RangeError(`Cannot read the address "${text}": expected HOST:PORT or :PORT`);
  }
  const host = (match[1] ?? "").replace(/^\[|\]$/g, "");
  return { host: host === "" ? null : host, port };
}

/**
 * Listens by `listen` on the first port that nobody else has.
 *
 * @throws what `listen` threw for the last one, or at once when it was for another reason.
 */
export async function listenOnFree<T>(
  ports: readonly number[],
  listen: (port: number) => Promise<T>,
): Promise<T> {
  for (const [index, port] of ports.entries()) {
    try {
      return await listen(port);
    } catch (error) {
      const taken = error instanceof Error && error.cause instanceof Deno.errors.AddrInUse;
      if (!taken || index === ports.length - 1) throw error;
    }
  }
  throw new RangeError("Cannot listen on no port: expected at least one, or 0 for any");
}
