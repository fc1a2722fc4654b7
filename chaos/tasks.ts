/**
 * The functions of the chaos run. All values are whole numbers, so that the answer is exact whatever the order of sums.
 * Each call leaves one byte in the file `tally`, which tells how often something ran.
 *
 * @module
 */

/** Values stay below this. */
export const MODULUS = 1_000_003;

/** The number of a leaf. Takes `ms`, every other one by waiting and every other one by computing. */
export async function leaf(tally: string, index: number, ms: number): Promise<number> {
  count(tally);
  if (ms > 0 && index % 2 === 0) await new Promise((resolve) => setTimeout(resolve, ms));
  else for (const end = performance.now() + ms; performance.now() < end;);
  return leafValue(index);
}

/** What {@linkcode leaf} gives. */
export function leafValue(index: number): number {
  return (Math.imul(index + 1, 2654435761) >>> 0) % MODULUS;
}

/** Three neighbours. */
export function stencil(tally: string, a: number, b: number, c: number): number {
  count(tally);
  return (a + 2 * b + 3 * c) % MODULUS;
}

/** An array that begins with `start`, large enough to be worth a transfer. */
export function ramp(tally: string, start: number, length: number): Float64Array {
  count(tally);
  return Float64Array.from({ length }, (_, i) => (start + i) % MODULUS);
}

/** The sum of an array and a number. */
export function fold(tally: string, array: Float64Array, number: number): number {
  count(tally);
  return array.reduce((sum, value) => (sum + value) % MODULUS, number);
}

/** The sum of numbers. */
export function add(tally: string, numbers: readonly number[]): number {
  count(tally);
  return numbers.reduce((sum, value) => (sum + value) % MODULUS, 0);
}

function count(tally: string): void {
  Deno.writeTextFileSync(tally, ".", { append: true });
}
