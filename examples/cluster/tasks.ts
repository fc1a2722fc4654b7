/** The functions of the cluster example: a signal per file, compared with a reference and with each other. */

const LENGTH = 512;

/** Makes up the readings of one file: a wave whose pitch is drawn from its number, with some noise. */
export function load(file: number): Float64Array {
  let state = (file * 2654435761) >>> 0;
  const noise = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  const pitch = 3 + (file % 7);
  return Float64Array.from(
    { length: LENGTH },
    (_, i) => Math.sin((2 * Math.PI * pitch * i) / LENGTH) + 0.2 * noise(),
  );
}

/** The reference that all files are held against. */
export function loadReference(): Float64Array {
  return Float64Array.from({ length: LENGTH }, (_, i) => 0.1 * Math.cos((2 * Math.PI * i) / LENGTH));
}

/** Readings less the reference. */
export function process(readings: Float64Array, reference: Float64Array): Float64Array {
  return readings.map((value, i) => value - reference[i]!);
}

/** The mean of three neighbours. */
export function roll(a: Float64Array, b: Float64Array, c: Float64Array): Float64Array {
  return a.map((value, i) => (value + b[i]! + c[i]!) / 3);
}

/** How alike two signals are: their normalised inner product, -1 to 1. */
export function compare(a: Float64Array, b: Float64Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! * a[i]!;
    bb += b[i]! * b[i]!;
  }
  return ab / Math.sqrt(aa * bb);
}

/** The best of all comparisons. */
export function best(comparisons: number[]): number {
  return Math.max(...comparisons);
}
