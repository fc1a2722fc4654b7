/**
 * The mission list of the client, line by line, on Python's own scheduler with validation on.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { connect, openClient } from "../../client/client.ts";
import { schedulerAddress } from "../../client/connect.ts";
import { AsyncExecutor, collect, data, DispatchGraph, op, task } from "../../dispatch/mod.ts";
import { CancelledError, DaskError, DependencyError, TaskError } from "../../protocol/errors.ts";
import { errorsInLog, runPython, sharedScheduler, workerProcess } from "../support/scheduler.ts";
import { cluster, pause, until } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;

const add = task((a: number, b: number) => a + b);
const slowly = task(async (ms: number, value: number) => {
  await new Promise((resolve) => setTimeout(resolve, ms));
  return value;
});
const fails = task((text: string): number => {
  throw new RangeError(text);
});

Deno.test("C1 connect finds the scheduler: an address, the variable, the file, or 127.0.0.1:8786", async () => {
  assertEquals(schedulerAddress({}), "tcp://127.0.0.1:8786");
  assertEquals(schedulerAddress({ address: "example.org" }), "tcp://example.org:8786");
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, JSON.stringify({ address: here, id: "Scheduler" }));
  try {
    assertEquals(schedulerAddress({ schedulerFile: file }), here);
    Deno.env.set("DASK_SCHEDULER_ADDRESS", "tcp://elsewhere:1");
    assertEquals(schedulerAddress({ schedulerFile: file }), "tcp://elsewhere:1");
    assertEquals(schedulerAddress({ address: here }), here);
    Deno.env.set("DASK_SCHEDULER_ADDRESS", here.slice("tcp://".length));
    await using client = await connect();
    assertEquals((await client.schedulerInfo()).address, here);
  } finally {
    Deno.env.delete("DASK_SCHEDULER_ADDRESS");
    await Deno.remove(file);
  }
});

Deno.test("C2 each client has an id of its own and registers with it", async () => {
  await using one = await connect(here);
  await using two = await connect({ address: here, name: "second" });
  assertNotEquals(one.id, two.id);
  assert(two.id.startsWith("Client-second-"));
  const log = await scheduler.log();
  assert(log.includes(`Receive client connection: ${one.id}`));
  assert(log.includes(`Receive client connection: ${two.id}`));
});

Deno.test("C3 what is submitted before the connection stands is sent after it, in order", async () => {
  await using workers = await cluster(here, 1);
  const { client, connected } = openClient(here, { validate: true });
  await using _ = client;
  const first = client.submit(add(3, 1));
  const second = client.submit(add(first, 10));
  first.release(); // behind the graph that uses it
  assertEquals([first.status, second.status], ["cancelled", "pending"]);
  await connected;
  assertEquals(await second.result(), 14);
  assertEquals(workers.addresses.length, 1);
});

Deno.test("C4 an Op submitted before any worker exists runs once a worker comes", async () => {
  await using client = await connect(here);
  await until(async () => (await client.workers()).length === 0);
  using future = client.submit(add(4, 4));
  const result = future.result();
  await pause(200);
  assertEquals(future.status, "pending");
  await using _ = await workerProcess(here, ["--nthreads", "1", "--no-nanny"]);
  assertEquals(await result, 8);
});

Deno.test("C5 submit submits the Op, or a function with its arguments", async () => {
  await using c = await cluster(here, 1);
  using node = c.client.submit(add(5, 5));
  using call = c.client.submit((a: number, b: number) => a * b, [5, 5]);
  assertEquals([await node.result(), await call.result()], [10, 25]);
});

Deno.test("C6 submitting an Op submits its un-submitted dependencies too", async () => {
  await using c = await cluster(here, 2);
  const op9 = add(6, 1), op10 = add(op9, 2), op11 = add(op10, op9), op12 = add(op11, 4);
  using future = c.client.submit(op12);
  assertEquals(await future.result(), 20);
});

Deno.test("C7 what is already submitted is not sent again", async () => {
  await using c = await cluster(here, 1);
  const chance = op(() => Math.random());
  using first = c.client.submit(chance);
  const value = await first.result();
  using again = c.client.submit(chance);
  using same = c.client.submit(op((x: number) => x, chance));
  assertEquals([await again.result(), await same.result()], [value, value]);
  assertEquals(again.key, first.key);
});

Deno.test("C8 workers=[address] restricts the Op to those workers", async () => {
  await using c = await cluster(here, 2);
  for (const address of c.addresses) {
    const futures = [1, 2, 3, 4].map((i) =>
      c.client.submit(add(8_000 + i, Number(address.split(":").at(-1))), { workers: [address] })
    );
    await c.client.gather(futures);
    for (const holders of (await c.client.whoHas(futures)).values()) assertEquals(holders, [address]);
    futures.forEach((future) => future.release());
  }
});

Deno.test("C9 the restriction holds for that Op only, not for its dependencies", async () => {
  await using c = await cluster(here, 2);
  const [first] = c.addresses as [string];
  const parts = [1, 2, 3, 4, 5, 6].map((i) => slowly(150, 900 + i));
  const sum = task((...numbers: number[]) => numbers.reduce((a, b) => a + b, 0));
  using future = c.client.submit(sum(...parts), { workers: [first] });
  using _held = {
    futures: parts.map((part) => c.client.future(part.key)),
    [Symbol.dispose]() {
      for (const future of this.futures) future.release();
    },
  };
  assertEquals(await future.result(), 5_421);
  assertEquals((await c.client.whoHas([future])).get(future.key), [first]);
  const holders = new Set([...(await c.client.whoHas(_held.futures)).values()].flat());
  assertEquals(holders, new Set(c.addresses));
});

Deno.test("C10 result gives the value", async () => {
  await using c = await cluster(here, 1);
  const values = [
    1.5,
    "text",
    null,
    true,
    [1, [2, "x"]],
    { a: { b: 10n ** 20n } },
    new Uint8Array([1, 2]),
    new Float64Array([0.5]),
  ];
  const same = task((value: unknown) => value);
  for (const value of values) {
    using future = c.client.submit(same(value));
    assertEquals(await future.result(), value);
  }
});

Deno.test("C11 an Op may take another Op as an argument and gets its value", async () => {
  await using c = await cluster(here, 1);
  const one = op(() => 11);
  using future = c.client.submit(add(5, one));
  using list = c.client.submit(task((numbers: readonly number[]) => numbers.length)([one, 2, future]));
  assertEquals([await future.result(), await list.result()], [16, 3]);
});

Deno.test("C12 an Op depending on results held by other workers gets them", async () => {
  await using c = await cluster(here, 2);
  const [a, b] = c.addresses as [string, string];
  using left = c.client.submit(add(12, 1), { workers: [a] });
  using right = c.client.submit(add(12, 2), { workers: [b] });
  await c.client.gather([left, right]);
  using sum = c.client.submit(add(left, right), { workers: [b] });
  assertEquals(await sum.result(), 27);
});

Deno.test("C13 status tells without waiting", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(slowly(200, 13));
  assertEquals(future.status, "pending");
  await future.result();
  assertEquals(future.status, "finished");
});

Deno.test("C14 a failed Op rejects with a TaskError, and settled gives the pair", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(fails("fourteen"));
  const error = await assertRejects(() => future.result(), TaskError, "RangeError: fourteen");
  assertEquals(error.key, future.key);
  assertInstanceOf(error.cause, Error);
  assertEquals([error.cause.name, error.cause.message], ["RangeError", "fourteen"]);
  assert(error.remoteStack.includes("fourteen"), error.remoteStack);
  const settled = await future.settled();
  assert(settled.status === "rejected" && settled.reason instanceof TaskError);
  assertEquals(future.status, "error");
});

Deno.test("C15 a failing Op does not stop the client or the worker; the next Op runs", async () => {
  await using c = await cluster(here, 1);
  using bad = c.client.submit(fails("fifteen"));
  using good = c.client.submit(add(15, 0));
  assertEquals([await good.result(), (await bad.settled()).status], [15, "rejected"]);
  using next = c.client.submit(add(15, 1));
  assertEquals(await next.result(), 16);
});

Deno.test("C16 the failure is still there when asked again, and in gather", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(fails("sixteen"));
  await assertRejects(() => future.result(), TaskError, "sixteen");
  await assertRejects(() => future.result(), TaskError, "sixteen");
  using fine = c.client.submit(add(16, 0));
  await assertRejects(() => c.client.gather([fine, future]), TaskError, "sixteen");
});

Deno.test("C17 gather gives the values in order", async () => {
  await using c = await cluster(here, 2);
  const futures = c.client.map((i: number) => add(i, 1_700), Array.from({ length: 50 }, (_, i) => i));
  assertEquals(await c.client.gather(futures), Array.from({ length: 50 }, (_, i) => i + 1_700));
});

Deno.test("C18 gather tells the scheduler that this client wants these keys", async () => {
  await using c = await cluster(here, 1);
  const other = await connect(here);
  const theirs = other.submit(add(18, 0));
  await theirs.result();
  using own = c.client.future<number>(theirs.key);
  assertEquals(await c.client.gather([own, theirs]), [18, 18]);
  await other.close();
  // Wanted by us alone now, it lives on.
  assertEquals((await c.client.whoHas([own])).get(own.key)?.length, 1);
});

Deno.test("C19 another client can gather what the first submitted", async () => {
  await using c = await cluster(here, 1);
  await using other = await connect(here);
  using future = c.client.submit(add(19, 0));
  assertEquals(await other.gather([future]), [19]);
  using theirs = other.future<number>(future.key);
  assertEquals(await theirs.result(), 19);
});

Deno.test("C20 several clients work at once on one scheduler with separate Ops", async () => {
  await using c = await cluster(here, 2);
  await using second = await connect(here);
  await using third = await connect(here);
  const all = await Promise.all([c.client, second, third].map(async (client, n) => {
    const futures = client.map((i: number) => add(i, 1_000 * n), [1, 2, 3, 4, 5]);
    return await client.gather(futures);
  }));
  assertEquals(all, [0, 1, 2].map((n) => [1, 2, 3, 4, 5].map((i) => 1_000 * n + i)));
});

Deno.test("C21 the scheduler's own gather, and a client in Python, return the workers' results", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(add(21, 0.5));
  await future.result();
  const program = `
import sys
from distributed import Client, Future
with Client(sys.argv[1], set_as_default=False) as client:
    future = Future(sys.argv[2], client, "memory")
    print(future.result(timeout=10), client.gather([future], direct=False))
`;
  const { stdout, stderr } = await runPython(program, [here, future.key]);
  assertEquals(stdout.trim(), "21.5 [21.5]", stderr);
});

Deno.test("C22 cancel stops Ops that have not run; the key is forgotten", async () => {
  await using c = await cluster(here, 1);
  using blocker = c.client.submit(slowly(300, 22));
  using future = c.client.submit(add(22, 1), { priority: -5 });
  const result = future.result();
  await future.cancel("changed my mind");
  assertEquals(future.status, "cancelled");
  await assertRejects(() => result, CancelledError, "changed my mind");
  await blocker.result();
  await until(async () => !(await c.client.whoHas()).has(future.key));
  using again = c.client.submit(add(22, 1));
  assertEquals(await again.result(), 23);
});

Deno.test("C23 cancelled Ops never become ready, and a running one is stopped", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  try {
    const writes = task(async (file: string, text: string) => {
      await Deno.writeTextFile(file, `${text} began\n`, { append: true });
      await new Promise((resolve) => setTimeout(resolve, 800));
      await Deno.writeTextFile(file, `${text} ended\n`, { append: true });
    });
    using running = c.client.submit(writes(file, "running"));
    using waiting = c.client.submit(writes(file, "waiting"));
    await until(async () => (await Deno.readTextFile(file)) !== "");
    await c.client.cancel([running, waiting]);
    using next = c.client.submit(add(23, 0)); // the slot is free long before the task would have ended
    assertEquals(await next.result(), 23);
    await pause(1_500);
    assertEquals(await Deno.readTextFile(file), "running began\n");
    assertEquals([running.status, waiting.status], ["cancelled", "cancelled"]);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("C24 cancel deletes results that exist, and what depends on them is lost", async () => {
  await using c = await cluster(here, 1);
  using base = c.client.submit(add(24, 0));
  await base.result();
  using dependent = c.client.submit(slowly(5_000, 1));
  using above = c.client.submit(add(dependent, base));
  await base.cancel();
  assertEquals([base.status, above.status, dependent.status], ["cancelled", "cancelled", "pending"]);
  await assertRejects(() => above.result(), CancelledError, "depends on");
  await until(async () => !(await c.client.whoHas()).has(base.key));
  await dependent.cancel();
});

Deno.test("C25 replicate copies all this client's results to all workers", async () => {
  await using c = await cluster(here, 3);
  const futures = c.client.map((i: number) => add(i, 2_500), [1, 2, 3]);
  await c.client.replicate();
  const held = await c.client.hasWhat();
  for (const address of c.addresses) {
    for (const future of futures) {
      assert(held.get(address)?.includes(future.key), `${address} has ${future.key}`);
    }
  }
  futures.forEach((future) => future.release());
});

Deno.test("C26 replicate of some futures copies only those", async () => {
  await using c = await cluster(here, 3);
  const [one, two, three] = c.client.map((i: number) => add(i, 2_600), [1, 2, 3]);
  await c.client.gather([one!, two!, three!]);
  await c.client.replicate([one!]);
  await c.client.replicate([two!], { copies: 2 });
  const held = await c.client.whoHas([one!, two!, three!]);
  assertEquals([...held.values()].map((holders) => holders.length), [3, 2, 1]);
});

Deno.test("C27 cancelled keys are not replicated", async () => {
  await using c = await cluster(here, 2);
  using one = c.client.submit(add(27, 1));
  using two = c.client.submit(add(27, 2));
  await c.client.gather([one, two]);
  await one.cancel();
  await c.client.replicate();
  const held = await c.client.whoHas();
  assertEquals([held.get(one.key)?.length ?? 0, held.get(two.key)?.length], [0, 2]);
});

Deno.test("C28 close releases this client's keys; scheduler and workers live on", async () => {
  await using c = await cluster(here, 1);
  const key = await (async () => {
    await using other = await connect(here);
    const future = other.submit(add(28, 0));
    await future.result();
    assertEquals((await c.client.whoHas()).has(future.key), true);
    return future.key;
  })();
  await until(async () => !(await c.client.whoHas()).has(key));
  assertEquals((await c.client.workers()).length, 1);
});

Deno.test("C29 after close submit, cancel, replicate and the others are errors; closing twice is allowed", async () => {
  const client = await connect(here);
  const future = client.submit(add(29, 0));
  const waiting = future.result();
  waiting.catch(() => {});
  await client.close();
  await client.close();
  await assertRejects(() => waiting, DaskError, "closed");
  assertThrows(() => client.submit(add(1, 1)), DaskError, "closed");
  assertThrows(() => client.map((i: number) => add(i, 1), [1]), DaskError, "closed");
  assertThrows(() => client.future("x"), DaskError, "closed");
  for (
    const call of [
      () => client.cancel([future]),
      () => client.replicate(),
      () => client.gather([future]),
      () => client.scatter(1),
      () => client.workers(),
      () => client.whoHas(),
      () => client.waitForWorkers(1),
      () => client.run([add(1, 1)]),
      () => client.shutdownWorkers([]),
      () => client.reset(),
      () => future.result(),
      () => future.cancel(),
    ]
  ) await assertRejects(call, DaskError, "closed", String(call));
});

Deno.test("C30 results fetched before still answer after close", async () => {
  await using c = await cluster(here, 1);
  const client = await connect(here);
  const future = client.submit(add(30, 0));
  const other = client.submit(add(30, 1));
  assertEquals(await future.result(), 30);
  await client.close();
  assertEquals([await future.result(), await future.settled()], [30, { status: "fulfilled", value: 30 }]);
  await assertRejects(() => other.result(), DaskError, "closed");
  assertEquals(c.addresses.length, 1);
});

Deno.test("C31 the result of a worker that is gone is computed again; scattered data is lost and says so", async () => {
  await using c = await cluster(here, 2);
  const [first, second] = c.addresses as [string, string];
  using computed = c.client.submit(add(31, 0), { workers: [first], allowOtherWorkers: true });
  using scattered = await c.client.scatter([31], { workers: [first] });
  await until(() => computed.status === "finished");
  assertEquals(await c.client.hasWhat([first]).then((held) => held.get(first)?.length), 2);
  const gone = await workerOf(c, first);
  gone.kill("SIGKILL");
  await gone.ended;
  assertEquals(await computed.result(), 31);
  assertEquals((await c.client.whoHas([computed])).get(computed.key), [second]);
  await assertRejects(() => scattered.result(), DaskError, "lost");
  assertEquals(scattered.status, "lost");
});

Deno.test("C32 without any worker the call waits, says so after 5 s on the log, and a signal ends it", async () => {
  const lines: string[] = [];
  await using client = await connect({
    address: here,
    logger: { log: (level, message) => void (level === "warning" && lines.push(message)) },
  });
  await until(async () => (await client.workers()).length === 0);
  using future = client.submit(add(32, 0));
  await assertRejects(() => future.result({ signal: AbortSignal.timeout(5_400) }), DOMException);
  assertEquals(lines.length, 1);
  assert(lines[0]!.includes("no worker") && lines[0]!.includes("startWorker"), lines[0]);
  assertEquals(future.status, "pending");
});

// --- E12, K1 ---

Deno.test("E12 the client is an executor: the same graphs give the same answers as in this process", async () => {
  await using c = await cluster(here, 2);
  const incremented = [1, 2, 3].map((i) => add(i, 1));
  const total = op((numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0), collect(incremented));
  const pair = op((n: number): [number, number] => [Math.trunc(n / 7), n % 7], total);
  const [q, r] = pair;
  const nodes = [total, q, r, data({ x: [1, 2] }), add(q, r)] as const;
  const local = await new AsyncExecutor().run(nodes);
  assertEquals(await c.client.run(nodes), local);
  assertEquals(await c.client.run(new DispatchGraph([total])), [9]);
  assertEquals(await c.client.run([total], { inputs: new Map([[incremented[0]!, 100]]) }), [107]);

  const bad = fails("twelve");
  const settled = await c.client.runSettled([add(1, 1), bad, add(bad, 1)]);
  assertEquals(settled.map(({ status }) => status), ["fulfilled", "rejected", "rejected"]);
  const [, own, dependent] = settled;
  assert(
    own.status === "rejected" && own.reason instanceof TaskError && !(own.reason instanceof DependencyError),
  );
  assert(dependent.status === "rejected" && dependent.reason instanceof DependencyError);
  assertEquals(dependent.reason.origin, bad.key);
  assertEquals(dependent.reason.key, add(bad, 1).key);
  await assertRejects(() => c.client.run([add(bad, 1)]), DependencyError, "RangeError: twelve");
});

Deno.test("K1 identical Ops reuse the earlier result", async () => {
  await using c = await cluster(here, 1);
  const chance = () => op((salt: string) => salt + Math.random(), "k1");
  using first = c.client.submit(chance());
  using second = c.client.submit(chance());
  assertEquals(second.key, first.key);
  assertEquals(await second.result(), await first.result());
  using fresh = c.client.submit(chance(), { pure: false });
  assertNotEquals(fresh.key, first.key);
  assertNotEquals(await fresh.result(), await first.result());
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(await errorsInLog(scheduler, [/RangeError/, /lose scattered data/]), []);
});

async function workerOf(c: Awaited<ReturnType<typeof cluster>>, address: string) {
  for (const process of c.processes) if ((await process.log()).includes(address)) return process;
  throw new Error(`No worker says that it is ${address}`);
}
