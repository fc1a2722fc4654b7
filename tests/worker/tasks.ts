/**
 * Functions that the tests of workers run, by name.
 *
 * @module
 */

export function add(a: number, b: number): number {
  return a + b;
}

export function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

export function field(record: Readonly<Record<string, unknown>>, name: string): unknown {
  return record instanceof Map ? record.get(name) : record[name];
}

export function scaled(value: number, options: { readonly factor: number }): number {
  return value * options.factor;
}

export function fails(text: string): never {
  throw new TypeError(text);
}

export function ones(count: number): Float64Array {
  return new Float64Array(count).fill(1);
}

export function sum(numbers: Float64Array | { readonly data: Float64Array }): number {
  const data = numbers instanceof Float64Array ? numbers : numbers.data;
  return data.reduce((total, number) => total + number, 0);
}

/** Uses a core for so long; nothing can interrupt it. */
export function spin(ms: number, result: number): number {
  const end = Date.now() + ms;
  while (Date.now() < end);
  return result;
}

export async function nap(ms: number, result: number): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, ms));
  return result;
}

/** Ends only by force. */
export function forever(): never {
  for (;;);
}

export function exits(): never {
  Deno.exit(3);
}

let calls = 0;
/** How often it was called in this executor. */
export function counted(): number {
  return ++calls;
}

/** Which process runs it. */
export function pid(): number {
  return Deno.pid;
}

/** Leaves a file behind, so that others see that it ran. */
export async function touch(path: string): Promise<void> {
  await Deno.writeTextFile(path, "here");
}

export function nothing(): void {}

export function filled(value: number, count: number): Float64Array {
  return new Float64Array(count).fill(value);
}

/** Takes so many bytes and holds them, without ever waiting. */
export function greedy(bytes: number): number {
  const held: Uint8Array[] = [];
  for (let taken = 0; taken < bytes; taken += 2 ** 20) held.push(new Uint8Array(2 ** 20).fill(1));
  for (;;) held[0]![0] = held.length & 255;
}

/** Needs the permission to read. */
export function hosts(): number {
  return Deno.readTextFileSync("/etc/hosts").length;
}
