/**
 * When a worker with a lifetime retires. Workers that were started together should not all leave together, hence the
 * stagger.
 *
 * @module
 */

/** Timers cannot wait longer than this, ms. */
const WAIT_MS_MAX = 2 ** 31 - 1;

/**
 * Milliseconds from the start to retirement: somewhere in `durationMs ± staggerMs`, as `chance` (0 to 1) has it, but
 * never before the start.
 */
export function retireAfterMs(durationMs: number, staggerMs: number, chance: number): number {
  return Math.max(0, durationMs + (chance * 2 - 1) * staggerMs);
}

/** How long to wait now for what is due in `leftMs`, and what is left then: a long wait takes several timers. */
export function nextWait(leftMs: number): { readonly waitMs: number; readonly leftMs: number } {
  const waitMs = Math.min(leftMs, WAIT_MS_MAX);
  return { waitMs, leftMs: leftMs - waitMs };
}
