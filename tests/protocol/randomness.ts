/**
 * Chance for tests, from a seed that is printed, so that a failure can be had again: `SEED=17 deno test …`.
 *
 * @module
 */

/** Numbers by chance. */
export interface Randomness {
  readonly seed: number;
  /** An integer from 0 to below `limit`. */
  below(limit: number): number;
}

/** Chance from `seed`, else from the environment's SEED, else from the clock. Prints it. */
export function randomness(seed = Number(Deno.env.get("SEED") ?? Date.now() % 1_000_000)): Randomness {
  // deno-lint-ignore no-console -- the seed of a failed run is wanted
  console.log(`seed ${seed}`);
  let state = seed >>> 0;
  return {
    seed,
    below(limit) {
      // mulberry32
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return Math.floor(((t ^ (t >>> 14)) >>> 0) / 4294967296 * limit);
    },
  };
}
