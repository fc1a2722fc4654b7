/**
 * Two failed tasks with one dependent, of which one is to be repeated.
 */
import { assertEquals } from "@std/assert";
import { connect, startWorker, task } from "../../mod.ts";
import { startScheduler } from "../support/scheduler.ts";

/** Fails until its run `most`. Each run leaves a byte. */
const flaky = task((file: string, most: number): number => {
  Deno.writeTextFileSync(file, "x", { append: true });
  const runs = Deno.readTextFileSync(file).length;
  if (runs < most) throw new Error(`run ${runs}`);
  return runs;
});
const add = task((a: number, b: number): number => a + b);

Deno.test("a repeated task and a failed one that share a dependent: everything comes to an end", async () => {
  // A validating scheduler asserts that no two dependencies of a task have failed when it revives it, also for a
  // Python client's `retry`, and gives the task up half way.
  await using scheduler = await startScheduler({ env: { DASK_DISTRIBUTED__SCHEDULER__VALIDATE: "False" } });
  await using _worker = await startWorker({ address: scheduler.address, slots: 2 });
  await using client = await connect(scheduler.address);
  const folder = await Deno.makeTempDir();
  try {
    for (let round = 0; round < 10; round++) {
      const [own, other] = [`${folder}/${round}-a`, `${folder}/${round}-b`];
      const repeated = flaky.with({ retryOn: () => true, retryPause: { first: 1 } })(own, 4);
      const [first, both] = await client.runSettled([repeated, add(repeated, flaky(other, 99))]);
      assertEquals([first, both.status], [{ status: "fulfilled", value: 4 }, "rejected"]);
      assertEquals((await Deno.readTextFile(own)).length, 4);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
