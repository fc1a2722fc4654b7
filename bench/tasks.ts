/** The functions of the bench, the same as in `python_client.py`. */
export function inc(x: number): number {
  return x + 1;
}

export function make(length: number, salt: number): Float64Array {
  return new Float64Array(length).fill(salt);
}

export function last(array: Float64Array): number {
  return array[array.length - 1] ?? Number.NaN;
}
