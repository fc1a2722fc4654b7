/** What a pool tells of the memory of its executors, and how it ends one that takes too much. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { sourceCall, TestPool } from "./specs.ts";

Deno.test("executors tell their memory after calls where that is asked of them", async () => {
  await using test = new TestPool({ tellMemory: true });
  await test.pool.ready();
  assertEquals(test.pool.executors().map(({ call, reportedBytes }) => [call, reportedBytes]), [[null, 0]]);
  assertEquals(await test.value(sourceCall("a", (x: number) => x, [1])), 1);
  // It is told with the end of the first call, or right behind it.
  assertEquals(await test.value(sourceCall("b", (x: number) => x, [2])), 2);
  const [executor] = test.pool.executors();
  assert(executor!.reportedBytes! > 10e6, String(executor!.reportedBytes));
});

Deno.test("an executor that is ended for its memory fails its call with a MemoryError, and the slot goes on", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  const [idle] = test.pool.executors();
  assertEquals([idle!.call, idle!.reportedBytes], [null, null]);
  const ended = test.failure(sourceCall("greedy", () => {
    for (;;);
  }, []));
  await test.started("greedy");
  assert(test.pool.executors()[0]!.call!.includes("greedy"));
  test.pool.terminate(idle!.pid, "was ended at 2 GiB of 1 GiB");
  const outcome = await ended;
  assertStringIncludes(outcome.exceptionText, "its process was ended at 2 GiB of 1 GiB");
  assertStringIncludes(outcome.exceptionText, "MemoryError");
  assertEquals(await test.value(sourceCall("next", (x: number) => x, [3])), 3);
  test.pool.terminate(idle!.pid, "is gone already");
});
