/**
 * Workers with little memory against the real scheduler, seen through a Python client.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Logger } from "../../base/log.ts";
import { sharedScheduler, workerProcess } from "../support/scheduler.ts";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/mod.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

/** A worker whose spill folder lies in a folder of the test, and the lines that it logs. */
async function spilling(
  options: WorkerOptions,
  test: (own: WorkerHandle, folder: string, lines: string[]) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-test-" });
  const lines: string[] = [];
  const logger: Logger = { log: (level, message) => void lines.push(`${level}: ${message}`) };
  try {
    {
      await using own = await startWorker({
        address: scheduler.address,
        slots: 1,
        validate: true,
        localDirectory: folder,
        logger,
        ...options,
      });
      await test(own, folder, lines);
    }
    assertEquals([...Deno.readDirSync(folder)], []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function run(body: string, own: WorkerHandle): Promise<unknown> {
  return python.run(`a = ${JSON.stringify(own.address)}\n${body}`);
}

/** Python that makes ten values of 8 MB on worker `a`, kept as `values`. */
const TEN = `
global values
values = [client.submit(ts("filled"), i, 1_000_000, workers=[a], pure=False) for i in range(10)]
wait(values)`;

Deno.test("values beyond the target are spilled, and come back right to clients, tasks and peers", async () => {
  // Only `target`: what the processes of this test take is not the matter.
  const memory = { target: 0.02, spill: false, pause: false, terminate: false } as const;
  await spilling({ memoryLimit: "1GB", memory }, async (own) => {
    await using other = await startWorker({ address: scheduler.address, slots: 1 });
    const seen = await run(
      `${TEN}
until(lambda: client.scheduler_info(n_workers=-1)["workers"][a]["metrics"]["spilled_bytes"]["disk"] >= 60_000_000)
sums = client.gather([client.submit(ts("sum"), v, workers=[a], pure=False) for v in values])
theirs = client.gather([client.submit(ts("sum"), v, workers=["${other.address}"], pure=False) for v in values])
got = [float(v.data.sum()) if hasattr(v, "data") and hasattr(v.data, "sum") else float(numpy.asarray(v).sum()) for v in client.gather(values)]
spilled = client.scheduler_info(n_workers=-1)["workers"][a]["metrics"]["spilled_bytes"]
assert spilled["memory"] == spilled["disk"], spilled
global values; del values
return [sums, theirs, got]`.replace("global values; del values", "globals().pop('values')"),
      own,
    );
    const expected = Array.from({ length: 10 }, (_, i) => i * 1e6);
    assertEquals(seen, [expected, expected, expected]);
  });
});

Deno.test("a full worker pauses, keeps answering, and goes on when values were freed; a disk that takes nothing loses nothing", async () => {
  const rss = Deno.memoryUsage().rss;
  // Values of 80 MB more than fit.
  const memoryLimit = rss + 300e6;
  const pause = (rss + 200e6) / memoryLimit;
  const memory = { target: 0.01, spill: false, pause, terminate: false } as const;
  await spilling({ memoryLimit, memory }, async (own, folder, lines) => {
    const [spill] = [...Deno.readDirSync(folder)];
    await Deno.remove(`${folder}/${spill!.name}`, { recursive: true });
    await run(
      `
global values
values = [client.submit(ts("filled"), i, 4_000_000, workers=[a], pure=False) for i in range(20)]
status = lambda: client.scheduler_info(n_workers=-1)["workers"][a]["status"]
until(lambda: status() == "paused", 30)
done = [v for v in values if v.status == "finished"]
assert 0 < len(done) < 20, len(done)
assert numpy.asarray(done[0].result()).size > 0
for v in values: v.release()
until(lambda: status() == "running", 30)
assert client.submit(ts("add"), 1, 2, workers=[a], pure=False).result() == 3`,
      own,
    );
    assert(lines.some((line) => line.startsWith("warning: Cannot spill to disk")), lines.join("\n"));
    assert(lines.some((line) => line.includes("it begins no new tasks")), lines.join("\n"));
    await Deno.mkdir(`${folder}/${spill!.name}`);
  });
});

Deno.test("a task that takes too much memory in a busy loop fails with a MemoryError, and the worker keeps its values", async () => {
  const memoryLimit = Deno.memoryUsage().rss + 600e6;
  const memory = { spill: false, pause: false } as const;
  await spilling({ memoryLimit, memory }, async (own) => {
    const text = await run(
      `
kept = client.submit(ts("add"), 40, 2, workers=[a], pure=False)
kept.result()
greedy = client.submit(ts("greedy"), 5_000_000_000, workers=[a], pure=False)
error = greedy.exception()
text = f"{type(error).__name__} {error!r}"
assert kept.result() == 42
assert client.submit(ts("add"), kept, 1, workers=[a], pure=False).result() == 43
return text`,
      own,
    );
    assertMatch(
      String(text),
      /its process was ended at .*(MiB|GiB), because the worker used .* of its memory limit of/,
    );
    assertStringIncludes(String(text), "MemoryError");
  });
});

Deno.test("what a worker that was killed had spilled is removed when the next one starts", async () => {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-test-" });
  try {
    const own = await workerProcess(scheduler.address, [
      "--no-nanny",
      "--nthreads=1",
      "--name=killed",
      "--memory-limit=50MB",
      `--local-directory=${folder}`,
    ]);
    await python.run(`
global lost
lost = client.submit(ts("filled"), 1, 8_000_000, workers=["killed"], allow_other_workers=False, pure=False)
until(lambda: lost.status == "finished", 30)`);
    const folders = () => [...Deno.readDirSync(folder)].map(({ name }) => name);
    const files = () => folders().flatMap((name) => [...Deno.readDirSync(`${folder}/${name}`)]);
    while (!files().some(({ name }) => /^\d+-/.test(name))) await new Promise((done) => setTimeout(done, 20));
    own.kill("SIGKILL");
    await own.ended;
    await own.stop();
    await Deno.remove(own.folder, { recursive: true });
    const before = folders();
    await using next = await startWorker({ address: scheduler.address, slots: 1, localDirectory: folder });
    assertEquals(folders().length, 1);
    assert(!before.includes(folders()[0]!), next.address);
    await python.run(`globals().pop("lost").release()`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
