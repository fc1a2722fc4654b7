/** The functions of `deno task memory`. */

/** Numbers that can be told from those of any other `index`. */
export function block(index: number, length: number): Float64Array {
  return Float64Array.from({ length }, (_, i) => index + (i % 1024) / 1024);
}

/** Their sum. */
export function total(numbers: Float64Array): number {
  let sum = 0;
  for (const number of numbers) sum += number;
  return sum;
}
