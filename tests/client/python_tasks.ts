/** Functions of the tests of mixed graphs. */
export function ramp(length: number): Float64Array {
  return Float64Array.from({ length }, (_, i) => i * 0.5 - 1);
}
export function total(array: Float64Array): number {
  return array.reduce((sum, x) => sum + x, 0);
}
export function same<T>(value: T): T {
  return value;
}
export function typeName(value: unknown): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}
