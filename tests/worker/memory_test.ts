/** The decisions about memory. */
import { assertEquals, assertThrows } from "@std/assert";
import {
  decideMemory,
  FIRST_MEMORY_STATE,
  type MemoryDecision,
  memoryLimits,
  type MemorySample,
  type MemoryState,
  type MemoryThresholds,
} from "../../worker/memory.ts";
import { memoryLimitBytes } from "../../worker/options.ts";

const MB = 1e6;

function sample(workerMb: number, rest: Partial<MemorySample> = {}): MemorySample {
  return {
    workerBytes: workerMb * MB,
    valueBytes: 0,
    fileBytes: 0,
    executors: [],
    status: "running",
    ...rest,
  };
}

/** Decides about one measurement after the other, of a worker limited to 1 GB. */
function decider(thresholds: MemoryThresholds = {}): (sample: MemorySample) => MemoryDecision {
  const limits = memoryLimits(1000 * MB, thresholds);
  let state: MemoryState = FIRST_MEMORY_STATE;
  return (sample) => {
    const decision = decideMemory(limits, state, sample);
    state = decision.state;
    return decision;
  };
}

Deno.test("thresholds are shares of the limit, dask's own unless told otherwise", () => {
  assertEquals(memoryLimits(1000), {
    limitBytes: 1000,
    targetBytes: 600,
    spillBytes: 700,
    spillUntilBytes: 600,
    pauseBytes: 800,
    terminateBytes: 950,
  });
  const own = memoryLimits(1000, { target: false, spill: 0.5, pause: 1, terminate: false });
  assertEquals([own.targetBytes, own.spillUntilBytes, own.pauseBytes, own.terminateBytes], [
    null,
    500,
    1000,
    null,
  ]);
  assertEquals(memoryLimits(1000, { target: false, spill: false }).spillUntilBytes, Infinity);
  for (const share of [0, -1, 1.1, NaN, "0.5x" as unknown as number]) {
    assertThrows(() => memoryLimits(1000, { pause: share }), RangeError, '"pause"');
  }
});

Deno.test("process memory is worker, executors and RAM-backed files", () => {
  const decide = decider();
  const executors = [{ pid: 1, bytes: 20 * MB, call: null }, { pid: 2, bytes: 30 * MB, call: "x" }];
  assertEquals(decide(sample(100, { fileBytes: 50 * MB, executors })).processBytes, 200 * MB);
});

Deno.test("spilling begins above spill and goes on down to target", () => {
  const decide = decider();
  const values = { valueBytes: 500 * MB };
  const kept = [650, 700, 701, 650, 601, 600, 700, 750].map((mb) => decide(sample(mb, values)).keepBytes);
  assertEquals(kept, [null, null, 399 * MB, 450 * MB, 499 * MB, null, null, 350 * MB]);
  assertEquals(decide(sample(790, { valueBytes: 10 * MB })).keepBytes, 0);
  const off = decider({ spill: false });
  assertEquals(off(sample(990, values)).keepBytes, null);
  const straight = decider({ target: false });
  assertEquals([701, 700].map((mb) => straight(sample(mb, values)).keepBytes), [499 * MB, null]);
});

Deno.test("a full worker pauses, and goes on when it is not full any more; other states are left alone", () => {
  const decide = decider();
  assertEquals(decide(sample(800)).status, null);
  assertEquals(decide(sample(801)).status, "paused");
  assertEquals(decide(sample(801, { status: "paused" })).status, null);
  assertEquals(decide(sample(800, { status: "paused" })).status, "running");
  for (const status of ["closing_gracefully", "closing", "init"]) {
    assertEquals([decide(sample(900, { status })).status, decide(sample(100, { status })).status], [
      null,
      null,
    ]);
  }
  const off = decider({ pause: false });
  assertEquals([off(sample(999)).status, off(sample(1, { status: "paused" })).status], [null, null]);
});

Deno.test("the executor that grew most is ended, once, and not one that was large before its call", () => {
  const decide = decider();
  const measured = (a: number, b: number, calls = ["x", "y"]) =>
    decide(sample(100, {
      executors: [
        { pid: 1, bytes: a * MB, call: calls[0] ?? null },
        { pid: 2, bytes: b * MB, call: calls[1] ?? null },
      ],
    })).terminate;
  assertEquals(measured(50, 50, []), null);
  assertEquals(measured(450, 50, ["w"]), null);
  assertEquals(measured(450, 50), null);
  assertEquals(measured(460, 400), { pid: 2, bytes: 400 * MB });
  assertEquals(measured(460, 600), null, "it is being ended");
  // It is gone, a fresh one has come.
  assertEquals(
    decide(
      sample(100, {
        executors: [{ pid: 1, bytes: 800 * MB, call: "x" }, { pid: 3, bytes: 60 * MB, call: null }],
      }),
    )
      .terminate,
    { pid: 1, bytes: 800 * MB },
  );
  assertEquals(decider({ terminate: false })(sample(999)).terminate, null);
});

Deno.test("an executor that kept much is ended while nothing runs in it", () => {
  const decide = decider();
  decide(sample(100, { executors: [{ pid: 1, bytes: 50 * MB, call: null }] }));
  assertEquals(decide(sample(100, { executors: [{ pid: 1, bytes: 900 * MB, call: null }] })).terminate, {
    pid: 1,
    bytes: 900 * MB,
  });
});

Deno.test("one that was first seen when it was large already is to blame", () => {
  assertEquals(decider()(sample(100, { executors: [{ pid: 1, bytes: 900 * MB, call: "x" }] })).terminate, {
    pid: 1,
    bytes: 900 * MB,
  });
});

Deno.test("values alone are no executor's fault", () => {
  const executors = [{ pid: 1, bytes: 60 * MB, call: "x" }];
  const decide = decider();
  assertEquals(decide(sample(100, { fileBytes: 850 * MB, executors })).terminate, "blameless");
  assertEquals(decide(sample(100, { fileBytes: 700 * MB, executors })).terminate, null);
});

Deno.test("a memory limit is bytes, a text, a share, auto, or none", () => {
  assertEquals([0, "0", "none"].map((limit) => memoryLimitBytes(limit, 1)), [null, null, null]);
  assertEquals([5e6, "5MB", "5e6"].map((limit) => memoryLimitBytes(limit, 1)), [5e6, 5e6, 5e6]);
  const all = memoryLimitBytes(1, 1)!;
  assertEquals([0.5, "0.5"].map((limit) => memoryLimitBytes(limit, 1)), [
    Math.floor(all / 2),
    Math.floor(all / 2),
  ]);
  const cores = navigator.hardwareConcurrency;
  assertEquals(memoryLimitBytes("auto", 1), Math.floor(all * Math.min(1, 1 / cores)));
  assertEquals(memoryLimitBytes("auto", 2 * cores), all);
  assertEquals(memoryLimitBytes(all * 2, 1), all);
  for (const limit of [-1, NaN, "much", ""]) assertThrows(() => memoryLimitBytes(limit, 1), RangeError);
});
