/**
 * Classes whose instances the tests of actors keep on workers.
 *
 * @module
 */
import { current } from "../../mod.ts";

class Base {
  /** What was called, in the order in which it began. */
  readonly log: string[] = [];

  /** Of the base class. */
  size(): number {
    return this.log.length;
  }
}

/** A number with methods of all kinds. */
export class Counter extends Base {
  n: number;
  label?: string;
  readonly #secret = 42;
  readonly arrow = (by: number): number => this.n + by;

  constructor(start: number, steps: readonly number[] = []) {
    super();
    if (start < 0) throw new RangeError(`${start} is below zero`);
    this.n = steps.reduce((sum, step) => sum + step, start);
  }

  get twice(): number {
    return 2 * this.n;
  }

  /** Fast for late calls: whoever overtakes is seen in the log. */
  async add(by: number, ms = 0): Promise<number> {
    this.log.push(`begin ${by}`);
    const before = this.n;
    if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
    this.n = before + by;
    this.log.push(`end ${by}`);
    return this.n;
  }

  secret(): number {
    return this.#secret;
  }

  *countdown(): Generator<number> {
    for (let i = this.n; i > 0; i--) yield i;
  }

  scale(options: { readonly factor: number }): number {
    return this.n *= options.factor;
  }

  fails(text: string): number {
    throw new RangeError(text);
  }

  /** A value that cannot travel. */
  itself(): this {
    return this;
  }

  nothing(): void {}

  /** Of an array, all bytes: large ones travel as files. */
  sum(values: Float64Array): number {
    return values.reduce((sum, value) => sum + value, 0);
  }

  filled(length: number): Float64Array {
    return new Float64Array(length).fill(this.n);
  }

  pid(): number {
    return Deno.pid;
  }

  /** Key of the task that a method runs in. */
  key(): string {
    return current().key;
  }

  readonly #kept: Uint8Array[] = [];

  /** Takes memory, and time enough for others to notice. */
  async grow(bytes: number): Promise<number> {
    for (let taken = 0; taken < bytes; taken += 50e6) {
      this.#kept.push(new Uint8Array(50e6).fill(1));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return await new Promise(() => {});
  }

  exit(code: number): never {
    Deno.exit(code);
  }

  async forever(): Promise<never> {
    return await new Promise(() => {});
  }

  /** Starts a task and waits for it, which frees the slot of a task, and here there is none. */
  async nested(): Promise<number> {
    const client = await current().client();
    return this.n += await client.submit((n: number) => n + 1, [1], { pure: false }).result();
  }
}

/** A constructor that never comes to its end. */
export class Endless {
  constructor() {
    for (;;) { /* no way out */ }
  }
}

/** One whose constructor has nothing to wait for, and no members. */
export class Empty {}

export function notAClass(): number {
  return 1;
}

/** Finds an actor by its key, inside a task. */
export async function addsTo(key: string, by: number): Promise<number> {
  const client = await current().client();
  await using counter = await client.remote<Counter>(key);
  return await counter.add(by);
}
