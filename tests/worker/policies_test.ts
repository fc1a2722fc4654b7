/**
 * Permissions, timeouts and cancelling of tasks, end to end: a TypeScript and a Python client, the scheduler, a worker.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { connect, startWorker, task, TaskError, WorkerLostError } from "../../mod.ts";
import { ISOLATIONS } from "../../worker/execute/executor.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { until } from "../client/cluster.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

const mayRead = task(() => Deno.permissions.querySync({ name: "read", path: "/etc" }).state);
const pid = task((_n: number) => Deno.pid);
/** Ends when it is stopped, and not before. */
const listens = task(() =>
  new Promise((_, reject) => {
    const { signal } =
      (globalThis as { [key: symbol]: { signal: AbortSignal } })[Symbol.for("dask.current")]!;
    signal.addEventListener("abort", () => reject(signal.reason));
  })
);
const exits = task((code: number): number => Deno.exit(code));
const add = task((a: number, b: number) => a + b);

Deno.test("a client gives a task fewer permissions, never more than the worker's", async () => {
  await using worker = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  await using client = await connect(scheduler.address);
  const workers = [worker.address];
  const state = (options: { permissions?: Deno.PermissionOptions }) =>
    client.submit(mayRead(), { pure: false, workers, ...options }).result();
  assertEquals(await state({}), "granted");
  assertEquals(await state({ permissions: "none" }), "prompt");
  assertEquals(await state({ permissions: { read: ["/etc"], net: false } }), "granted");
  assertEquals(await state({ permissions: { read: [new URL("file:///etc")] } }), "granted");
  assertEquals(await state({ permissions: { read: ["/usr"] } }), "prompt");
  const refused = await assertRejects(() => state({ permissions: { run: true } }), TaskError);
  assertStringIncludes(refused.message, '"run"');
  assertStringIncludes(refused.message, "tasks of this worker have: read, write");
});

Deno.test("each set of permissions has a warm executor of its own, and the slot is shared", async () => {
  await using worker = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  await using client = await connect(scheduler.address);
  let n = 0;
  const pidUnder = (permissions: Deno.PermissionOptions) =>
    client.submit(pid(++n), { pure: false, workers: [worker.address], permissions }).result();
  const first = [await pidUnder("inherit"), await pidUnder("none")];
  assertEquals(new Set(first).size, 2);
  assertEquals([await pidUnder("inherit"), await pidUnder("none")], first);
  const many = Array.from({ length: 40 }, (_, i) => pidUnder(i % 3 === 0 ? "none" : "inherit"));
  assertEquals(new Set(await Promise.all(many)), new Set(first));
});

Deno.test("task permissions of the worker narrow what a task asks for", async () => {
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    permissions: { read: ["/usr"] },
  });
  await using client = await connect(scheduler.address);
  const workers = [worker.address];
  assertEquals(
    await client.submit(mayRead(), { pure: false, workers, permissions: { read: true } }).result(),
    "prompt",
  );
});

for (const isolation of ISOLATIONS) {
  Deno.test(`${isolation}: a whole worker; a task that takes too long fails with a TimeoutError, each try anew`, async () => {
    await using worker = await startWorker({
      address: scheduler.address,
      slots: 1,
      validate: true,
      isolation,
    });
    await using client = await connect(scheduler.address);
    const options = { pure: false, workers: [worker.address], timeout: 60 };
    const failure = await assertRejects(
      () => client.submit(listens(), { ...options, retries: 1 }).result(),
      TaskError,
    );
    assertStringIncludes(failure.message, "TimeoutError: Stopped task");
    assertStringIncludes(failure.message, "longer than its timeout of 60 ms");
    assertEquals(await client.submit(add(1, 2), options).result(), 3);
    assertMatch(
      worker.description,
      isolation === "inline" ? /own thread/ : new RegExp(`executor ${isolation}`),
    );
  });
}

Deno.test("a Python client sets permissions and timeout by dask.annotate", async () => {
  await using worker = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  const answer = await python.run(`
where = dict(workers=["${worker.address}"], pure=False)
with dask.annotate(deno={"permissions": "none"}):
    denied = client.submit(ts("hosts"), **where)
allowed = client.submit(ts("hosts"), **where)
with dask.annotate(deno={"timeout": 100}):
    late = client.submit(ts("forever"), **where)
with dask.annotate(deno={"timeout": "1s"}):
    wrong = client.submit(ts("add"), 1, 2, **where)
return [str(denied.exception()), allowed.result() > 0, type(late.exception()).__name__, type(late.exception()).__module__,
        str(late.exception()), str(wrong.exception())]`) as [string, boolean, string, string, string, string];
  const [denied, allowed, name, module, late, wrong] = answer;
  // Its file cannot be read for want of permission; code of a bundle comes as bytes.
  assertMatch(denied, /read access|NotCapable|permission/i);
  assertEquals([allowed, name, module], [true, "TimeoutError", "builtins"]);
  assertStringIncludes(late, "its timeout of 100 ms");
  assertStringIncludes(wrong, "annotation deno.timeout");
});

Deno.test("cancelling a task that never returns frees its slot, and its key runs afresh", async () => {
  await using worker = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  const [freed, again] = await python.run(`
where = dict(workers=["${worker.address}"], pure=False)
spinning = client.submit(ts("forever"), **where)
until(lambda: len(rpc("${worker.address}", op="call_stack", keys=None)) == 1)
begin = time.time()
client.cancel(spinning)
assert client.submit(ts("add"), 1, 2, **where).result() == 3
freed = time.time() - begin
# The same key again, while its old run is being stopped: that is never taken for the new one.
one = client.submit(ts("nap"), 10_000, 5, key="afresh", workers=["${worker.address}"])
until(lambda: len(rpc("${worker.address}", op="call_stack", keys=None)) == 1)
client.cancel(one)
del one
until(lambda: not client.run_on_scheduler(lambda dask_scheduler: "afresh" in dask_scheduler.tasks))
# By another client: this one may still hear of what it cancelled.
global other
other = Client("${scheduler.address}", set_as_default=False)
two = other.submit(ts("add"), 3, 4, key="afresh", workers=["${worker.address}"])
return [freed, two.result()]`) as [number, number];
  // deno-lint-ignore no-console
  console.log(`from cancel to the result of the next task: ${Math.round(freed * 1000)} ms`);
  assertEquals(again, 7);
});

Deno.test("a task that ends its executor costs one try and no data", async () => {
  await using worker = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  await using client = await connect(scheduler.address);
  const workers = [worker.address];
  using kept = client.submit(add(20, 22), { pure: false, workers });
  await kept.result();
  const lost = await assertRejects(
    () => client.submit(exits(3), { pure: false, workers }).result(),
    WorkerLostError,
  );
  assertEquals(lost.attempts.length, 1);
  assertEquals(lost.attempts[0]!.worker, worker.address);
  assertStringIncludes(lost.attempts[0]!.exit, "Deno.exit(3) was called");
  // With a retry it runs again: what it left in a file says that it was here.
  const marker = await Deno.makeTempFile();
  const once = task((path: string) => {
    if (Deno.readTextFileSync(path) === "been here") return "second try";
    Deno.writeTextFileSync(path, "been here");
    return Deno.exit(1);
  });
  assertEquals(
    await client.submit(once(marker), { pure: false, workers, retries: 1 }).result(),
    "second try",
  );
  // So does one that took too long.
  await Deno.writeTextFile(marker, "");
  const slowOnce = task((path: string) => {
    if (Deno.readTextFileSync(path) === "been here") return "second try";
    Deno.writeTextFileSync(path, "been here");
    for (;;);
  });
  assertEquals(
    await client.submit(slowOnce(marker), { pure: false, workers, retries: 1, timeout: 1_000 }).result(),
    "second try",
  );
  await Deno.remove(marker);
  assertEquals(await client.submit(add(kept, 0), { pure: false, workers }).result(), 42);
  const { workers: known } = await client.schedulerInfo();
  assert(JSON.stringify(known).includes(worker.address), "the worker itself is still there");
});

Deno.test("a cancelled task that listens ends by itself, in the executor that goes on", async () => {
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    validate: true,
    abortGraceMs: 60_000,
  });
  await using client = await connect(scheduler.address);
  const where = { pure: false, workers: [worker.address] };
  const before = await client.submit(pid(1), where).result();
  const stop = new AbortController();
  const future = client.submit(listens(), { ...where, signal: stop.signal });
  await until(() => String(worker).includes("running: 1"));
  stop.abort();
  await assertRejects(() => future.result());
  assertEquals(await client.submit(pid(2), where).result(), before);
});

Deno.test("isolations and graces that make no sense are refused", async () => {
  const address = scheduler.address;
  const isolation = JSON.parse(`"container"`);
  await assertRejects(() => startWorker({ address, isolation }), TypeError, "process, thread, inline");
  await assertRejects(() => startWorker({ address, abortGraceMs: -1 }), RangeError, "-1 ms");
  await assertRejects(
    () => startWorker({ address, slots: 1, isolation: "thread", permissions: "none" }),
    Error,
    "use --isolation process",
  );
});

Deno.test("the scheduler had nothing to complain of", async () => {
  // A client that leaves while the scheduler tells it of its worker's leave: noted at level INFO, with a traceback.
  assertEquals(await errorsInLog(scheduler), []);
});
