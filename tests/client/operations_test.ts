/**
 * What is asked of a cluster as a whole, with real schedulers and workers of both languages.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connect, task, tasks } from "../../mod.ts";
import { DaskError, TaskError } from "../../protocol/errors.ts";
import { errorsInLog, pythonWorker, startScheduler } from "../support/scheduler.ts";
import { cluster } from "./cluster.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));

Deno.test("runOnWorkers runs a task once on each worker, with code that it has never seen, while it is busy", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 2);
  const { client, addresses } = c;
  await using _ = await pythonWorker(scheduler.address);
  await client.waitForWorkers(3);
  const python = (await client.workers()).find(({ language }) => language === "python")!.address;
  using _busy = client.submit(() => new Promise<void>((end) => setTimeout(end, 600_000)), [], {
    workers: [addresses[0]!],
  });

  // A module, which travels as a bundle, on all of ours.
  const areas = await client.runOnWorkers(t.area, [3, 4]);
  assertEquals([...areas.keys()].toSorted(), addresses.toSorted());
  for (const outcome of areas.values()) assertEquals(outcome, { status: "fulfilled", value: 12 });

  // A function by its source, on one of them, named twice.
  const [first, second] = addresses as [string, string];
  const pids = await client.runOnWorkers(task((add: number) => Deno.pid + add), [0], {
    workers: [first, first],
  });
  assertEquals([...pids.keys()], [first]);
  const [pid] = pids.values();
  assert(pid!.status === "fulfilled" && pid!.value > 0 && pid!.value !== Deno.pid);

  // Large values both ways.
  const bytes = new Uint8Array(3_000_000).fill(7);
  const large = await client.runOnWorkers(task((bytes: Uint8Array) => bytes), [bytes], { workers: [second] });
  assertEquals(large.get(second), { status: "fulfilled", value: bytes });

  // Each failure by itself; workers of Python are not asked.
  const fail = task((): number => {
    throw new RangeError("odd");
  });
  const failed = await client.runOnWorkers(fail, [], { workers: [python, second] });
  assertEquals([...failed.keys()], [python, second]);
  const [there, here] = [...failed.values()].map((outcome) => {
    assert(outcome.status === "rejected" && outcome.reason instanceof TaskError);
    return outcome.reason;
  });
  assertEquals([there!.worker, here!.worker], [python, second]);
  assertStringIncludes(there!.message, `failed on ${python}: it is a Python worker`);
  assertStringIncludes(here!.message, `failed on ${second}: RangeError: odd`);
  assertEquals((here!.cause as Error).name, "RangeError");
  assertStringIncludes(here!.remoteStack, "odd");

  // The scheduler knows of none of it.
  assertEquals([...(await client.whoHas()).keys()].filter((key) => !key.startsWith("code-")), [_busy.key]);
  assertEquals(await errorsInLog(scheduler), []);
});

Deno.test("runOnWorkers refuses what cannot be run before anything runs", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client, addresses } = c;
  const [address] = addresses as [string];
  const unknown = await assertRejects(
    () => client.runOnWorkers(t.area, [1, 2], { workers: ["tcp://127.0.0.1:9"] }),
    DaskError,
    'Cannot run "area" on tcp://127.0.0.1:9: no such worker; there are ',
  );
  assertStringIncludes(unknown.message, address);
  using future = client.submit(t.area(1, 2));
  for (
    const [args, text] of [
      [[t.area(1, 2), 3], "is a task; pass plain values"],
      [[future, 3], "is a task; pass plain values"],
      [3, "expected a list of arguments, got a number"],
    ] as const
  ) {
    await assertRejects(() => client.runOnWorkers(t.area, args as never), TypeError, text);
  }
  let ran = false;
  await assertRejects(
    () => client.runOnWorkers((() => ran = true) as never, []),
    TypeError,
    "expected a task",
  );
  assert(!ran);
  for (const limited of [t.area.with({ permissions: "none" }), t.area.with({ timeout: 9 })]) {
    await assertRejects(() => client.runOnWorkers(limited, [1, 2]), TypeError, "only tasks have them");
  }
  await assertRejects(
    () => client.with({ resources: { GPU: 1 } }).runOnWorkers(t.area, [1, 2]),
    TypeError,
    "only tasks have them",
  );
  await assertRejects(() => client.runOnWorkers(t.area, [1, 2], { workers: "all" as never }), TypeError);

  // The signal ends the waiting.
  const controller = new AbortController();
  const waiting = client.runOnWorkers(task(() => new Promise<void>((end) => setTimeout(end, 600_000))), [], {
    signal: controller.signal,
  });
  const reason = new Error("enough");
  setTimeout(() => controller.abort(reason), 50);
  assertEquals(await waiting.catch((error) => error), reason);
  await client.close();
  await assertRejects(() => client.runOnWorkers(t.area, [1, 2]), DaskError, "closed");
});

Deno.test("runOnWorkers without workers gives nothing", async () => {
  await using scheduler = await startScheduler();
  await using client = await connect(scheduler.address);
  assertEquals(await client.runOnWorkers(t.area, [1, 2]), new Map());
});
