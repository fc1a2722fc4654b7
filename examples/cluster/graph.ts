/**
 * The graph of the cluster example: 100 load, 1 reference, 100 process, 98 roll, 200 compare, 1 reduction = 500 ops.
 */
import { type Op, tasks } from "../../mod.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));

/** Builds the graph; nothing runs. Gives the last op and all ops, dependencies first. */
export function clusterGraph(): { readonly best: Op<number>; readonly ops: readonly Op<unknown>[] } {
  const loaded = Array.from({ length: 100 }, (_, file) => t.load(file));
  const reference = t.loadReference();
  const processed = loaded.map((readings) => t.process(readings, reference));
  const rolled = processed.slice(2).map((c, i) => t.roll(processed[i]!, processed[i + 1]!, c));
  // Pairs by a fixed stride: spread like random ones, the same in every run, and no pair twice.
  const compared = Array.from({ length: 200 }, (_, i) => {
    const [a, step] = [i % rolled.length, 17 + 12 * Math.floor(i / rolled.length)];
    return t.compare(rolled[a]!, rolled[(a + step) % rolled.length]!);
  });
  const best = t.best(compared);
  return { best, ops: [...loaded, reference, ...processed, ...rolled, ...compared, best] };
}
