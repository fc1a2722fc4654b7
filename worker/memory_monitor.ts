/**
 * Measures the memory of a worker and does what `memory.ts` decides. Executors are looked at from outside, through
 * `/proc`, because one that is blocked by a task tells nothing; where that is not permitted they tell at the end of each
 * call, and V8's own limit stops a heap that grows meanwhile.
 *
 * @module
 */
import type { Ref } from "../actors/kernel/mod.ts";
import type { StoreCalls } from "../actors/store/mod.ts";
import type { Logger } from "../base/log.ts";
import { formatBytes } from "../base/units.ts";
import type { ExecutorPool } from "./execute/executor.ts";
import { decideMemory, FIRST_MEMORY_STATE, type MemoryLimits, type MemoryState } from "./memory.ts";

/** Between two measurements, ms. */
export const MEMORY_INTERVAL_MS = 100;
/** The same while nothing runs: what comes in meanwhile the store bounds by itself. */
const IDLE_INTERVALS = 10;
/** The same complaint is made this often, ms. */
const COMPLAIN_MS = 30_000;
const PAGE_BYTES = 4_096;

/** Executors, as far as they are of interest here. */
export type MeasuredPool = Pick<ExecutorPool, "executors" | "terminate" | "busy">;

/** Whether the memory of other processes can be read: Linux, and only with all permissions. */
export function canReadProcesses(): boolean {
  return processBytes(Deno.pid) !== null;
}

/**
 * Memory that a process has for itself, without what it shares with others: the program, and files of the store that
 * it has mapped, which are counted there. Null: it is gone, or not to be looked at.
 */
export function processBytes(pid: number): number | null {
  try {
    const [, resident, shared] = Deno.readTextFileSync(`/proc/${pid}/statm`).split(" ");
    return (Number(resident) - Number(shared)) * PAGE_BYTES;
  } catch {
    return null;
  }
}

/** Memory of the worker's processes: its own, executors', and RAM-backed files. */
export function workerProcessBytes(pool: MeasuredPool, fileBytes: number): number {
  return executorsOf(pool).reduce((sum, { bytes }) => sum + bytes, Deno.memoryUsage().rss + fileBytes);
}

function executorsOf(pool: MeasuredPool): { pid: number; bytes: number; call: string | null }[] {
  return pool.executors().map(({ pid, call, reportedBytes }) => ({
    pid,
    call,
    bytes: reportedBytes ?? processBytes(pid) ?? 0,
  }));
}

/** What a monitor works with. */
export interface MemoryParts {
  readonly limits: MemoryLimits;
  readonly store: Ref<StoreCalls>;
  readonly pool: MeasuredPool;
  readonly status: () => string;
  readonly takeStatus: (status: "paused" | "running", stimulusId: string) => void;
  readonly logger: Logger;
}

/** Starts to measure; `stop` ends that. */
export function startMemoryMonitor(parts: MemoryParts): { stop(): void } {
  const { limits, store, pool, logger } = parts;
  let state: MemoryState = FIRST_MEMORY_STATE;
  let keepBytes: number | null = null;
  let complainedAt = -Infinity;
  let stopped = false;
  let asked = false;
  let skipped = 0;

  const act = ({ bytes, fileBytes, diskBytes }: StoreCalls["usage"]["answer"]): void => {
    const decision = decideMemory(limits, state, {
      workerBytes: Deno.memoryUsage().rss,
      valueBytes: bytes - diskBytes,
      fileBytes,
      executors: executorsOf(pool),
      status: parts.status(),
    });
    state = decision.state;
    if (decision.keepBytes !== null || keepBytes !== null) {
      store.tell("spill", { memoryBytes: decision.keepBytes });
    }
    keepBytes = decision.keepBytes;
    const size = formatBytes(decision.processBytes);
    const limit = formatBytes(limits.limitBytes);
    if (decision.status !== null) {
      logger.log(
        "warning",
        `The worker uses ${size} of its memory limit of ${limit}: ${
          decision.status === "paused" ? "it begins no new tasks" : "it goes on"
        }`,
      );
      parts.takeStatus(decision.status, `worker-memory-${decision.status}-${Date.now() / 1000}`);
    }
    if (decision.terminate === "blameless") {
      if (Date.now() - complainedAt < COMPLAIN_MS) return;
      complainedAt = Date.now();
      logger.log(
        "warning",
        `The worker uses ${size} of its memory limit of ${limit}, and no task is to blame: it waits for values to be freed`,
      );
    } else if (decision.terminate !== null) {
      const { pid, bytes } = decision.terminate;
      pool.terminate(
        pid,
        `was ended at ${formatBytes(bytes)}, because the worker used ${size} of its memory limit of ${limit}`,
      );
    }
  };

  const timer = setInterval(() => {
    // The store answers in this turn or the next, unless it is stopped.
    if (asked) return;
    const idle = keepBytes === null && parts.status() === "running" && !pool.busy;
    if (idle && ++skipped < IDLE_INTERVALS) return;
    skipped = 0;
    asked = true;
    store.ask("usage", {}).then((usage) => {
      asked = false;
      if (!stopped) act(usage);
    }, () => {});
  }, MEMORY_INTERVAL_MS);
  return {
    stop() {
      stopped = true;
      clearInterval(timer);
    },
  };
}
