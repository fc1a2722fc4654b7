/**
 * Workers that run certain modules only, on the real scheduler, for clients in both languages.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { connect } from "../../client/mod.ts";
import { op, tasks } from "../../dispatch/mod.ts";
import { TaskError } from "../../protocol/errors.ts";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/mod.ts";
import { errorsInLog, sharedScheduler, workerProcess } from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const TASKS = new URL("./tasks.ts", import.meta.url);
const python = await pythonClient(scheduler.address, TASKS);
const actors = tasks<typeof import("../client/actor_classes.ts")>(
  new URL("../client/actor_classes.ts", import.meta.url),
);
const t = tasks<typeof import("./tasks.ts")>(TASKS);

function worker(options: WorkerOptions): Promise<WorkerHandle> {
  return startWorker({ address: scheduler.address, slots: 1, validate: true, ...options });
}

/** The error of a task at its client. */
async function causeOf(result: Promise<unknown>): Promise<Error> {
  const { cause } = await assertRejects(() => result, TaskError);
  assert(cause instanceof Error);
  return cause;
}

Deno.test("a Python client gets the modules that are allowed, in tasks and by client.run", async () => {
  await using own = await worker({ allowModules: [TASKS.href], name: "certain" });
  const [sum, refused, aside, asideRefused, after] = await python.run(`
a = ${JSON.stringify(own.address)}
def failure(call):
    try:
        return repr(call())
    except Exception as e:
        return f"{type(e).__name__}: {e}"
where = dict(workers=[a], pure=False)
other = methodcaller("deno:file:///opt/other.ts#add")
return [
  client.submit(ts("add"), 1, 2, **where).result(),
  failure(lambda: client.submit(other, 1, 2, **where).result()),
  client.run(ts("add"), 3, 4, workers=[a]),
  failure(lambda: client.run(other, 3, 4, workers=[a])),
  client.submit(ts("add"), 5, 6, **where).result(),
]`) as [number, string, Record<string, number>, string, number];
  assertEquals([sum, aside, after], [3, { [own.address]: 7 }, 11]);
  for (const text of [refused, asideRefused]) {
    assertStringIncludes(
      text,
      "ModuleNotAllowedError: Cannot load file:///opt/other.ts: allowModules of the worker certain does not allow it",
    );
  }
});

Deno.test("a TypeScript client's bundles, functions and actors are refused, then allowed by their hash", async () => {
  await using client = await connect(scheduler.address);
  const seven = (): number => 7;
  const entries: string[] = [];
  {
    await using own = await worker({ allowModules: [TASKS.href] });
    const where = { workers: [own.address], pure: false };
    const bundle = await causeOf(client.submit(t.add(1, 2), where).result());
    const fn = await causeOf(client.submit(op(seven), where).result());
    for (const { name, message } of [bundle, fn]) {
      assertEquals(name, "ModuleNotAllowedError");
      assertMatch(message, /allowModules of the worker of process \d+ at 127\.0\.0\.1 does not allow it/);
      entries.push(/sha256-[^"]+/.exec(message)![0]);
    }
    const actor = await causeOf(client.actor(actors.Counter, [0], { workers: [own.address] }));
    assertEquals(actor.name, "ModuleNotAllowedError");
    assertStringIncludes(bundle.message, `Cannot load the bundle of ${TASKS.href}`);
  }
  {
    await using own = await worker({ allowModules: entries });
    const where = { workers: [own.address], pure: false };
    assertEquals(await client.submit(t.add(1, 2), where).result(), 3);
    assertEquals(await client.submit(op(seven), where).result(), 7);
    const other = await causeOf(client.submit(op(() => 8), where).result());
    assertEquals(other.name, "ModuleNotAllowedError");
  }
});

Deno.test("--allow-modules comes through to the worker behind its nanny", async () => {
  await using own = await workerProcess(scheduler.address, [
    "--nthreads=1",
    "--name=flagged",
    `--allow-modules=npm:zod,${new URL(".", TASKS).href},functions`,
  ]);
  await using client = await connect(scheduler.address);
  await client.waitForWorkers(1, { signal: AbortSignal.timeout(30_000) });
  assertEquals(
    await python.run(`return client.submit(ts("add"), 1, 2, workers=["flagged"], pure=False).result()`),
    3,
  );
  const where = { workers: (await client.workers()).map(({ address }) => address), pure: false };
  assertEquals(await client.submit(op(() => 7), where).result(), 7);
  const { message } = await causeOf(client.submit(t.add(1, 2), where).result());
  assertStringIncludes(message, "allowModules of the worker flagged");
  void own;
});

Deno.test("a list that makes no sense is refused before anything is connected", async () => {
  const address = "127.0.0.1:1";
  await assertRejects(() => worker({ address, allowModules: ["./tasks.ts"] }), TypeError, "expected a URL");
  await assertRejects(
    () => worker({ address, allowModules: "npm:zod" as never }),
    TypeError,
    "expected a list",
  );
  await using own = await workerProcess(scheduler.address, ["--nthreads=1", "--allow-modules=tasks"]);
  assertEquals((await own.ended).code, 1);
  assertStringIncludes(await own.log(), 'Cannot allow the modules "tasks": expected a URL');
});

Deno.test("the scheduler found nothing wrong", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});
