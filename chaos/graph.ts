/**
 * The graph of the chaos run: blocks of 100 ops, whose answers are known without it. A block has 30 leaves, 28 stencils
 * over neighbours (the last two reach into the next block), 3 arrays of 100 kB that are folded, a tree of sums over all
 * that, and 25 ops on their own.
 *
 * @module
 */
import { type Op, tasks } from "../mod.ts";
import { leafValue, MODULUS } from "./tasks.ts";

/** Ops of a block. */
export const BLOCK_OPS = 100;
const LEAVES = 30;
const STENCILS = 28;
const ARRAYS = 3;
const ARRAY_LENGTH = 12_500;
const ALONE = 25;
const FAN_IN = 4;
/** A leaf takes 1 to so many ms: a run has to last long enough for its faults. */
const LEAF_MS_MAX = 50;

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));

/** A node whose value the harness fetches, and the value that it must have. */
export interface Wanted {
  readonly node: Op<number>;
  readonly value: number;
}

/** Builds `ops` ops (rounded up to whole blocks); nothing runs. */
export function chaosGraph(ops: number, tally: string): { readonly ops: number; readonly wanted: Wanted[] } {
  const blocks = Math.ceil(ops / BLOCK_OPS);
  const leaves = Array.from({ length: blocks * LEAVES }, (_, i) => t.leaf(tally, i, msOf(i)));
  const wanted: Wanted[] = [];
  for (let block = 0; block < blocks; block++) {
    const first = block * LEAVES;
    const at = (i: number) => (first + i) % leaves.length;
    const parts: Op<number>[] = [];
    for (let i = 0; i < STENCILS; i++) {
      const [a, b, c] = neighbours(i).map(at) as [number, number, number];
      parts.push(t.stencil(tally, leaves[a]!, leaves[b]!, leaves[c]!));
    }
    for (let i = 0; i < ARRAYS; i++) {
      parts.push(t.fold(tally, t.ramp(tally, first + i, ARRAY_LENGTH), parts[i]!));
    }
    wanted.push({ node: sum(parts, tally), value: blockValue(first, at) });
    for (let i = 0; i < ALONE; i++) {
      const index = blocks * LEAVES + block * ALONE + i;
      wanted.push({ node: t.leaf(tally, index, msOf(index)), value: leafValue(index) });
    }
  }
  return { ops: blocks * BLOCK_OPS, wanted };
}

/** Leaves of a stencil, from the first of its block on; the last two stencils reach into the next block. */
function neighbours(i: number): readonly [number, number, number] {
  return i >= STENCILS - 2 ? [i, i + 2, i + LEAVES] : [i, i + 1, i + 2];
}

function msOf(index: number): number {
  return 1 + leafValue(index) % LEAF_MS_MAX;
}

function sum(parts: readonly Op<number>[], tally: string): Op<number> {
  let level = parts;
  while (level.length > 1) {
    const above: Op<number>[] = [];
    for (let i = 0; i < level.length; i += FAN_IN) above.push(t.add(tally, level.slice(i, i + FAN_IN)));
    level = above;
  }
  return level[0]!;
}

/** The same by plain arithmetic. */
function blockValue(first: number, at: (i: number) => number): number {
  let total = 0;
  for (let i = 0; i < STENCILS; i++) {
    const [a, b, c] = neighbours(i).map((j) => leafValue(at(j))) as [number, number, number];
    const stencil = (a + 2 * b + 3 * c) % MODULUS;
    total += stencil;
    if (i >= ARRAYS) continue;
    total += stencil;
    for (let j = 0; j < ARRAY_LENGTH; j++) total += (first + i + j) % MODULUS;
  }
  return total % MODULUS;
}
