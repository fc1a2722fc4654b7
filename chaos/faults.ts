/**
 * Which faults a seed stands for. Pure: the harness does them.
 *
 * @module
 */
import type { Randomness } from "../tests/protocol/randomness.ts";

/** What happens to a cluster. */
export type Fault =
  /** A worker process ends at once, SIGKILL. */
  | { readonly type: "kill" }
  /** A worker is told to leave, SIGTERM. */
  | { readonly type: "terminate" }
  /** A worker stands still for a time, with its executors or without them: SIGSTOP, then SIGCONT. */
  | { readonly type: "stop"; readonly ms: number; readonly executorsToo: boolean }
  /** One more worker comes. */
  | { readonly type: "join" };

/** A fault and when it is due. */
export interface PlannedFault {
  /** Due when this share of the wanted values has arrived, 0 to 1, and so on a slow machine as on a fast one. */
  readonly progress: number;
  /** And this much later, ms, so that it hits between arrivals, too. */
  readonly delayMs: number;
  /** Chance for the choice of the victim, an integer. */
  readonly victim: number;
  readonly fault: Fault;
}

const STOP_MS_MIN = 300;
const STOP_MS_MAX = 12_000;
const DELAY_MS_MAX = 200;

/** Plans `count` faults: 40 % kills, 20 % terminations, 30 % stops, 10 % joins. */
export function planFaults(chance: Randomness, count: number): PlannedFault[] {
  return Array.from({ length: count }, (_, i) => {
    const draw = chance.below(10);
    const ms = STOP_MS_MIN + chance.below(STOP_MS_MAX - STOP_MS_MIN + 1);
    const executorsToo = chance.below(2) === 0;
    const fault: Fault = draw < 4
      ? { type: "kill" }
      : draw < 6
      ? { type: "terminate" }
      : draw < 9
      ? { type: "stop", ms, executorsToo }
      : { type: "join" };
    return {
      progress: i / (count + 1),
      delayMs: chance.below(DELAY_MS_MAX),
      victim: chance.below(1 << 30),
      fault,
    };
  });
}
