/**
 * Sizes and times as dask writes them: `"2GiB"`, `"500MB"`, `"30s"`, `"2 minutes"`. Rule: a text that is not wholly
 * understood is refused with the units that are.
 *
 * @module
 */

const BYTE_UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  m: 1e6,
  mb: 1e6,
  g: 1e9,
  gb: 1e9,
  t: 1e12,
  tb: 1e12,
  p: 1e15,
  pb: 1e15,
  ki: 2 ** 10,
  kib: 2 ** 10,
  mi: 2 ** 20,
  mib: 2 ** 20,
  gi: 2 ** 30,
  gib: 2 ** 30,
  ti: 2 ** 40,
  tib: 2 ** 40,
  pi: 2 ** 50,
  pib: 2 ** 50,
};

const MS_UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  nanosecond: 1e-6,
  us: 1e-3,
  microsecond: 1e-3,
  ms: 1,
  millisecond: 1,
  "": 1e3,
  s: 1e3,
  second: 1e3,
  m: 60e3,
  minute: 60e3,
  h: 3_600e3,
  hour: 3_600e3,
  d: 86_400e3,
  day: 86_400e3,
  w: 604_800e3,
  week: 604_800e3,
};

/** Reads `"1e6"`, `"5.4 kB"`, `"1GiB"`, `"MB"`; a bare unit means one of it. Whole bytes. */
export function parseBytes(text: string): number {
  const { amount, unit } = split(text, "a size in bytes");
  const factor = BYTE_UNITS[unit];
  if (factor === undefined) {
    throw new RangeError(
      `Cannot read size "${text}": expected a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB`,
    );
  }
  return Math.floor(amount * factor);
}

/** Reads `"30s"`, `"500ms"`, `"2 minutes"`, `"1h"`; a bare number is seconds. Milliseconds. */
export function parseDuration(text: string): number {
  const { amount, unit } = split(text, "a time");
  const factor = MS_UNITS[unit] ?? MS_UNITS[unit.replace(/s$/, "")];
  if (factor === undefined) {
    throw new RangeError(`Cannot read time "${text}": expected a number with ns, us, ms, s, m, h, d or w`);
  }
  return amount * factor;
}

/** Writes bytes for people, `"1.50 GiB"`. */
export function formatBytes(bytes: number): string {
  const units = ["PiB", "TiB", "GiB", "MiB", "kiB"];
  for (const [index, unit] of units.entries()) {
    const factor = 2 ** (10 * (units.length - index));
    if (bytes >= factor * 0.9) return `${(bytes / factor).toFixed(2)} ${unit}`;
  }
  return `${bytes} B`;
}

function split(text: string, what: string): { amount: number; unit: string } {
  const match = /^([0-9.]+(?:e[+-]?[0-9]+)?)?([a-z]*)$/.exec(text.replaceAll(" ", "").toLowerCase());
  if (match === null || match[0] === "") throw new RangeError(`Cannot read "${text}": expected ${what}`);
  const amount = match[1] === undefined ? 1 : Number(match[1]);
  if (Number.isNaN(amount)) throw new RangeError(`Cannot read "${text}": expected ${what}`);
  return { amount, unit: match[2] ?? "" };
}
