/**
 * The client beyond the mission list: futures in all their ends, iteration, administration, mixed clusters.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { asCompleted, connect, Future, wait } from "../../client/mod.ts";
import { op, task, tasks } from "../../dispatch/mod.ts";
import {
  CancelledError,
  DaskError,
  DependencyError,
  SerializationError,
  TaskError,
  WorkerLostError,
} from "../../protocol/errors.ts";
import {
  PROJECT,
  pythonWorker,
  runPython,
  sharedScheduler,
  startScheduler,
  workerProcess,
} from "../support/scheduler.ts";
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

// --- Futures ---

Deno.test("a future is not thenable: it can be returned from an async function without being fetched", async () => {
  await using c = await cluster(here, 1);
  const submit = async () => {
    await pause(1);
    return c.client.submit(add(1, 1));
  };
  using future = await submit();
  assertInstanceOf(future, Future);
  assertFalse("then" in future);
  assertEquals(String(future), `Future(pending, "${future.key}")`);
  assertEquals(await future.result(), 2);
});

Deno.test("the signal of result ends the waiting alone; the signal of submit cancels the task", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(slowly(300, 1));
  await assertRejects(() => future.result({ signal: AbortSignal.timeout(20) }), DOMException);
  await assertRejects(() => future.settled({ signal: AbortSignal.timeout(20) }), DOMException);
  assertEquals(future.status, "pending");
  assertEquals(await future.result({ signal: AbortSignal.timeout(20_000) }), 1);

  const abort = new AbortController();
  using doomed = c.client.submit(slowly(60_000, 2), { signal: abort.signal });
  const result = doomed.result();
  abort.abort(new Error("no longer needed"));
  await assertRejects(() => result, CancelledError, "no longer needed");
  assertEquals(doomed.status, "cancelled");
  assertThrows(() => c.client.submit(add(1, 2), { signal: abort.signal }), Error, "no longer needed");
});

Deno.test("futures of one key share it: the last release lets it go, a cancel reaches all", async () => {
  await using c = await cluster(here, 1);
  const one = c.client.submit(add(7, 1)), two = c.client.submit(add(7, 1));
  await one.result();
  one.release();
  one.release();
  await pause(100);
  assertEquals((await c.client.whoHas([two])).get(two.key)?.length, 1);
  two.release();
  await until(async () => !(await c.client.whoHas()).has(two.key));

  using a = c.client.submit(slowly(60_000, 3)), b = c.client.submit(slowly(60_000, 3));
  await a.cancel();
  assertEquals([a.status, b.status], ["cancelled", "cancelled"]);
});

Deno.test("a future may be released right after it was used in a submission", async () => {
  await using c = await cluster(here, 1);
  const base = c.client.submit(add(8, 1));
  await base.result();
  using next = c.client.submit(add(base, 1));
  base.release();
  using after = c.client.submit(add(next, 1));
  assertEquals(await after.result(), 11);
});

Deno.test("a future that nothing refers to any more lets its key go; one that is waited for does not", async () => {
  await using c = await cluster(here, 1);
  const program = `
import { connect } from "${PROJECT}client/mod.ts";
import { op } from "${PROJECT}dispatch/mod.ts";
const client = await connect("${here}");
const waited = client.submit(op(async (n) => { await new Promise((r) => setTimeout(r, 700)); return n; }, 5)).result();
let key = await (async () => {
  const future = client.submit(op((n) => n, 6));
  await future.result();
  return future.key;
})();
let freed = false;
for (let i = 0; i < 100 && !freed; i++) {
  globalThis.gc();
  await new Promise((r) => setTimeout(r, 20));
  freed = !(await client.whoHas()).has(key);
}
console.log(freed, await waited);
await client.close();
`;
  const file = `${PROJECT}tests/client/.collected_${crypto.randomUUID()}.ts`;
  await Deno.writeTextFile(file, program);
  try {
    const { stdout, stderr, code } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--v8-flags=--expose-gc", file],
    }).output();
    assertEquals(
      [new TextDecoder().decode(stdout).trim(), code],
      ["true 5", 0],
      new TextDecoder().decode(stderr),
    );
  } finally {
    await Deno.remove(file);
  }
  assertEquals(c.addresses.length, 1);
});

Deno.test("retry runs a failed task again, and what it depends on where that failed", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  try {
    const flaky = op((file: string): number => {
      const text = Deno.readTextFileSync(file);
      Deno.writeTextFileSync(file, `${text}x`);
      if (text.length < 1) throw new Error("not yet");
      return text.length;
    }, file);
    using future = c.client.submit(add(flaky, 100));
    await assertRejects(() => future.result(), DependencyError, "not yet");
    await future.retry();
    assertEquals(await future.result(), 101);
    await assertRejects(() => future.retry(), DaskError, 'its status is "finished"');
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("retries repeats on the cluster; retryOn decides here, of the task that failed", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  const flaky = task((file: string, times: number, salt: number): number => {
    const text = Deno.readTextFileSync(file);
    Deno.writeTextFileSync(file, `${text}x`);
    if (text.length < times) throw new Error(`attempt ${text.length}`);
    return text.length + salt;
  });
  try {
    using patient = c.client.submit(flaky(file, 2, 0), { retries: 3 });
    assertEquals(await patient.result(), 2);
    await Deno.writeTextFile(file, "");
    const seen: string[] = [];
    using asked = c.client.submit(flaky(file, 2, 10), {
      retryOn: (error) => seen.push((error.cause as Error).message) > 0,
    });
    assertEquals(await asked.result(), 12);
    assertEquals(seen, ["attempt 0", "attempt 1"]);
    await Deno.writeTextFile(file, "");
    using refused = c.client.submit(flaky(file, 2, 20), { retryOn: () => false });
    await assertRejects(() => refused.result(), TaskError, "attempt 0");
    await Deno.writeTextFile(file, "");
    using few = c.client.submit(flaky(file, 9, 30), { retries: 2, retryOn: () => true });
    await assertRejects(() => few.result(), TaskError, "attempt 2");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("a detached task runs to its end without futures", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  try {
    const write = task(async (file: string) => {
      await new Promise((resolve) => setTimeout(resolve, 200));
      await Deno.writeTextFile(file, "done");
    });
    const future = c.client.submit(write(file));
    future.detach();
    future.release();
    await until(async () => (await Deno.readTextFile(file)) === "done");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("the same key asked again under other restrictions is another task, or a warning", async () => {
  await using c = await cluster(here, 2);
  const lines: string[] = [];
  await using client = await connect({
    address: here,
    logger: { log: (_, message) => void lines.push(message) },
  });
  const [a, b] = c.addresses as [string, string];
  const node = add(40, 2);
  using first = client.submit(node, { workers: [a] });
  using second = client.submit(node, { workers: [b] });
  using same = client.submit(node, { workers: [a] });
  assertNotEquals(second.key, first.key);
  assertEquals(same.key, first.key);
  await client.gather([first, second]);
  const who = await client.whoHas([first, second]);
  assertEquals([who.get(first.key), who.get(second.key)], [[a], [b]]);
  using given = client.submit(node, { key: "given-1", workers: [a] });
  using again = client.submit(node, { key: "given-1", workers: [b] });
  assertEquals(again.key, given.key);
  assertEquals(lines.filter((line) => line.includes("given-1")).length, 1);
});

Deno.test("a value that was read stays with the future; large ones pass both ways unharmed", async () => {
  await using c = await cluster(here, 2);
  const [a, b] = c.addresses as [string, string];
  const sent = crypto.getRandomValues(new Uint8Array(65_536));
  const big = new Uint8Array(9_000_000);
  for (let i = 0; i < big.length; i += sent.length) {
    big.set(sent.subarray(0, Math.min(sent.length, big.length - i)), i);
  }
  using there = await c.client.scatter(big, { workers: [a] });
  using back = c.client.submit(task((bytes: Uint8Array) => bytes.slice().reverse())(there), { workers: [b] });
  const result = await back.result();
  assertEquals(result.length, big.length);
  assertEquals(result[0], big.at(-1));
  assert(result === await back.result());
});

// --- Failures ---

Deno.test("a dependent of a failed task names its origin, through tasks that nobody holds", async () => {
  await using c = await cluster(here, 1);
  const bad = fails("deep down");
  const middle = add(bad, 1);
  using future = c.client.submit(add(middle, 1));
  const error = await assertRejects(() => future.result(), DependencyError, "RangeError: deep down");
  assertEquals([error.key, error.origin], [future.key, bad.key]);
  assertEquals((error.cause as Error).name, "RangeError");
  // Also when the failure is there already.
  using origin = c.client.submit(bad);
  await wait([origin]);
  using late = c.client.submit(add(origin, 5));
  assertEquals((await assertRejects(() => late.result(), DependencyError)).origin, bad.key);
});

Deno.test("a task that takes its process with it is a WorkerLostError", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(() => Deno.exit(7), []);
  const error = await assertRejects(() => future.result(), WorkerLostError);
  assertEquals(error.key, future.key);
  assert(error.attempts.length > 0, error.message);
  using next = c.client.submit(add(70, 7));
  assertEquals(await next.result(), 77);
});

Deno.test("a task whose workers leave again and again is given up, and the error names them", async () => {
  await using strict = await startScheduler({ env: { DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES: "1" } });
  await using client = await connect(strict.address);
  using future = client.submit(slowly(60_000, 1));
  using dependent = client.submit(add(future, 1));
  const left: string[] = [];
  for (let i = 0; i < 2; i++) {
    await using worker = await workerProcess(strict.address, ["--nthreads", "1", "--no-nanny"]);
    await until(async () => [...(await client.processing()).values()].flat().includes(future.key));
    left.push((await client.workers())[0]!.address);
    worker.kill("SIGKILL");
    await worker.ended;
    await until(async () => (await client.workers()).length === 0);
  }
  const error = await assertRejects(() => future.result(), WorkerLostError, "given up");
  assertEquals(error.attempts.map(({ worker }) => worker), left);
  const above = await assertRejects(() => dependent.result(), DependencyError, left[0]!);
  assertEquals(above.origin, future.key);
  assertInstanceOf(above.cause, WorkerLostError);
});

Deno.test("an argument that cannot travel is refused at once, by its path", async () => {
  await using client = await connect(here);
  const take = task((_: unknown) => 0);
  const error = assertThrows(() => client.submit(take({ list: [1, new WeakMap()] })), SerializationError);
  assert(error.path.includes("list[1]"), `${error.path}: ${error.message}`);
  await assertRejects(() => client.scatter(() => 1), SerializationError);
  assertThrows(() => client.submit((x: number) => x + here.length, [1]), TypeError);
});

Deno.test("calls that make no sense are refused with a TypeError before anything is sent", async () => {
  await using client = await connect(here);
  // deno-lint-ignore no-explicit-any
  const any = client as any, node: any = add(1, 1);
  const bad: (() => unknown)[] = [
    () => any.submit(1),
    () => any.submit(null),
    () => any.submit(() => 1),
    () => any.submit(() => 1, 5),
    () => any.submit(node, 5),
    () => any.submit(node, { retry: 1 }),
    () => any.submit(node, { retries: -1 }),
    () => any.submit(node, { retries: 1.5 }),
    () => any.submit(node, { priority: NaN }),
    () => any.submit(node, { timeout: 0 }),
    () => any.submit(node, { workers: "tcp://a:1" }),
    () => any.submit(node, { workers: [] }),
    () => any.submit(node, { resources: { gpu: -1 } }),
    () => any.submit(node, { signal: {} }),
    () => any.submit(node, { key: "" }),
    () => any.map(5, [1]),
    () => any.map(() => 5, [1]),
    () => any.map(() => node, 5),
    () => any.map(() => node, [1], { batchSize: 5 }),
    () => any.map(() => node, (async function* () {})(), { maxPending: 0 }),
    () => any.future(""),
    () => any.future(1),
    () => any.with({ key: "x" }),
    () => any.with(5),
    () => asCompleted([node]),
    () => new any.constructor({}, null),
  ];
  for (const call of bad) assertThrows(call, TypeError, undefined, String(call));
  const rejected: (() => Promise<unknown>)[] = [
    () => any.gather(5),
    () => any.gather([node]),
    () => any.scatter(node),
    () => any.scatter(1, { broadcast: 1 }),
    () => any.scatter(1, { workers: "x" }),
    () => any.cancel(5),
    () => any.cancel([5]),
    () => any.replicate([5]),
    () => any.replicate([], { copies: 0 }),
    () => any.whoHas([5]),
    () => any.hasWhat("x"),
    () => any.hasWhat(["not an address at all"]),
    () => any.waitForWorkers("2"),
    () => any.shutdownWorkers("tcp://a:1"),
    () => any.run(5),
    () => any.run([5]),
    () => any.run([node], { input: 1 }),
    () => any.runSettled([node], { retries: "1" }),
    () => wait([], { until: "never" as "all" }),
    () => connect({ adress: here } as object),
    () => connect({ address: here, timeout: -1 }),
    () => connect("tcp://::1:80:80"),
  ];
  for (const call of rejected) await assertRejects(call, TypeError, undefined, String(call));
  assertEquals((await client.schedulerInfo()).address, here); // and the stream still lives
});

// --- Many ---

Deno.test("asCompleted gives futures as they end, takes more on the way, and ends", async () => {
  await using c = await cluster(here, 2);
  await c.client.waitForWorkers(2);
  const folder = await Deno.makeTempDir();
  try {
    const last = c.client.submit(async (file: string) => {
      while (!await Deno.stat(file).then(() => true, () => false)) {
        await new Promise((done) => setTimeout(done, 10));
      }
      return 0;
    }, [`${folder}/go`]);
    const futures = [last, c.client.submit(slowly(10, 1))];
    const order: (number | string)[] = [];
    const iterable = asCompleted(futures);
    for await (const future of iterable) {
      const settled = await future.settled();
      order.push(settled.status === "fulfilled" ? settled.value : future.status);
      if (order.length === 1) iterable.add(c.client.submit(fails("on the way")));
      if (order.length === 2) await Deno.writeTextFile(`${folder}/go`, "");
    }
    assertEquals(order, [1, "error", 0]);
    futures.forEach((future) => future.release());
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("asCompleted gives failed and cancelled futures, too", async () => {
  await using c = await cluster(here, 1);
  const bad = c.client.submit(fails("early")),
    gone = c.client.submit(slowly(60_000, 1)),
    good = c.client.submit(add(5, 6));
  await gone.cancel();
  const seen: Record<string, string> = {};
  for await (const future of asCompleted([bad, gone, good])) seen[future.key] = future.status;
  assertEquals(seen, { [bad.key]: "error", [gone.key]: "cancelled", [good.key]: "finished" });
});

Deno.test("wait waits for all, for the first, or for an error", async () => {
  await using c = await cluster(here, 2);
  const quick = c.client.submit(add(61, 1)), slow = c.client.submit(slowly(500, 2));
  await wait([quick, slow], { until: "first" });
  assertEquals([quick.status, slow.status], ["finished", "pending"]);
  await wait([quick, slow]);
  assertEquals(slow.status, "finished");
  const bad = c.client.submit(fails("wait")), never = c.client.submit(slowly(60_000, 3));
  await wait([never, bad], { until: "error" });
  assertEquals([bad.status, never.status], ["error", "pending"]);
  await assertRejects(() => wait([never], { signal: AbortSignal.timeout(20) }), DOMException);
  await never.cancel();
});

Deno.test("map over an async iterable reads no faster than its tasks end", async () => {
  await using c = await cluster(here, 2);
  let read = 0, open = true;
  async function* source() {
    try {
      for (let i = 0; i < 1_000; i++) {
        read++;
        yield await Promise.resolve(i);
      }
    } finally {
      open = false;
    }
  }
  const results: number[] = [];
  for await (const future of c.client.map((i: number) => slowly(5, i), source(), { maxPending: 4 })) {
    results.push(await future.result());
    assert(read <= results.length + 5, `read ${read} of which ${results.length} are done`);
    future.release();
    if (results.length === 20) break;
  }
  assertEquals(results, Array.from({ length: 20 }, (_, i) => i));
  assertFalse(open);
  const all: number[] = [];
  async function* few() {
    yield 1;
    await pause(1);
    throw new Error("source broke");
  }
  await assertRejects(
    async () => {
      for await (const future of c.client.map((i: number) => add(i, 1), few())) {
        all.push(await future.result());
      }
    },
    Error,
    "source broke",
  );
  assertEquals(all, [2]);
});

Deno.test("progress counts until all came to an end", async () => {
  await using c = await cluster(here, 1);
  const futures = [
    c.client.submit(add(71, 1)),
    c.client.submit(fails("progress")),
    c.client.submit(add(71, 2)),
  ];
  const seen: { done: number; erred: number; total: number }[] = [];
  for await (const one of c.client.progress(futures)) seen.push(one);
  assertEquals(seen[0], { done: 0, erred: 0, total: 3 });
  assertEquals(seen.at(-1), { done: 3, erred: 1, total: 3 });
});

Deno.test("options of with() hold for every task, below those of the task", async () => {
  await using c = await cluster(here, 2);
  const [a, b] = c.addresses as [string, string];
  const there = c.client.with({ workers: [b] });
  using plain = there.submit(add(81, 1));
  using own = there.submit(task((x: number) => x).with({ workers: [a] })(81));
  using called = there.submit(add(81, 2), { workers: [a] });
  await wait([plain, own, called]);
  const who = await c.client.whoHas();
  assertEquals([plain, own, called].map(({ key }) => who.get(key)), [[b], [a], [a]]);
});

Deno.test("functions of a module travel once and run on every worker", async () => {
  await using c = await cluster(here, 2);
  const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
  const futures = c.addresses.map((address, i) => c.client.submit(t.area(i + 2, 3), { workers: [address] }));
  assertEquals(await c.client.gather(futures), [6, 9]);
  const [whole, rest] = t.divmod(17, 5);
  assertEquals(await c.client.run([whole, rest]), [3, 2]);
});

Deno.test("ten thousand tasks come back in order", async () => {
  await using c = await cluster(here, 2, ["--nthreads", "4"]);
  const futures = c.client.map((i: number) => add(i, 0.5), Array.from({ length: 10_000 }, (_, i) => i));
  const values = await c.client.gather(futures);
  assertEquals(values.length, 10_000);
  assert(values.every((value, i) => value === i + 0.5));
  for (const future of futures) future.release();
});

// --- Data and workers ---

Deno.test("scatter puts a value on some worker, on one, or on all", async () => {
  await using c = await cluster(here, 2);
  const [, b] = c.addresses as [string, string];
  using anywhere = await c.client.scatter({ a: [1, 2] });
  using one = await c.client.scatter(new Float64Array([1, 2, 3]), { workers: [b] });
  using all = await c.client.scatter("everywhere", { broadcast: true });
  assertEquals([anywhere.status, one.status, all.status], ["finished", "finished", "finished"]);
  const who = await c.client.whoHas([anywhere, one, all]);
  assertEquals([who.get(anywhere.key)?.length, who.get(one.key), who.get(all.key)?.length], [1, [b], 2]);
  assertEquals(await c.client.gather([anywhere, one, all]), [
    { a: [1, 2] },
    new Float64Array([1, 2, 3]),
    "everywhere",
  ]);
  using sum = c.client.submit(task((xs: Float64Array) => xs.reduce((a, b) => a + b, 0))(one));
  assertEquals(await sum.result(), 6);
});

Deno.test("rebalance moves results, and none is lost", async () => {
  await using c = await cluster(here, 2);
  const [a] = c.addresses as [string];
  const futures = c.client.with({ workers: [a], allowOtherWorkers: true }).map(
    (i: number) => op((i: number) => new Uint8Array(2_000_000).fill(i), i),
    [1, 2, 3, 4],
  );
  await wait(futures);
  await c.client.rebalance();
  const values = await c.client.gather(futures);
  assertEquals(values.map((bytes) => [bytes.length, bytes[9]]), [1, 2, 3, 4].map((i) => [2_000_000, i]));
});

Deno.test("workers, schedulerInfo, hasWhat and processing tell how things stand", async () => {
  await using c = await cluster(here, 2);
  const info = await c.client.schedulerInfo();
  assertEquals(info.address, here);
  assert(/^20\d\d\./.test(info.version));
  assert(Math.abs(info.started.getTime() - Date.now()) < 600_000);
  assertEquals(info.workers.map(({ slots, language }) => [slots, language]), [[1, "typescript"], [
    1,
    "typescript",
  ]]);
  using running = c.client.submit(slowly(60_000, 5));
  await until(async () => [...(await c.client.processing()).values()].flat().includes(running.key));
  using done = c.client.submit(add(91, 0), { workers: [c.addresses[0]!] });
  await running.cancel();
  await done.result();
  assertEquals((await c.client.hasWhat([c.addresses[0]!])).get(c.addresses[0]!), [done.key]);
});

Deno.test("waitForWorkers waits until they are there; its signal ends it", async () => {
  await using c = await cluster(here, 1);
  await c.client.waitForWorkers(1);
  await assertRejects(() => c.client.waitForWorkers(2, { signal: AbortSignal.timeout(50) }), DOMException);
  const there = c.client.waitForWorkers(2);
  await using _ = await workerProcess(here, ["--nthreads", "1", "--no-nanny"]);
  await there;
  assertEquals((await c.client.workers()).length, 2);
});

Deno.test("retired workers hand on what they hold, then end; unknown addresses are refused", async () => {
  await using c = await cluster(here, 2);
  const [a, b] = c.addresses as [string, string];
  using future = c.client.submit(op(() => Math.random()), { workers: [a], allowOtherWorkers: true });
  const value = await future.result();
  await assertRejects(
    () => c.client.shutdownWorkers([a, "tcp://127.0.0.1:1"]),
    DaskError,
    "tcp://127.0.0.1:1",
  );
  assertEquals((await c.client.workers()).length, 2);
  assertEquals(await c.client.retireWorkers([a]), [a]);
  assertEquals((await c.client.whoHas([future])).get(future.key), [b]);
  await using other = await connect(here);
  assertEquals(await other.gather([future]), [value]);
  await Promise.race(c.processes.map(({ ended }) => ended));
});

Deno.test("shutdownWorkers ends workers also when nobody can take what they hold", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(add(95, 0));
  await future.result();
  assertEquals(await c.client.shutdownWorkers(c.addresses), c.addresses);
  await c.processes[0]!.ended;
  await until(async () => (await c.client.workers()).length === 0);
});

Deno.test("reset gives everything up; the client and the workers go on", async () => {
  await using c = await cluster(here, 1);
  using done = c.client.submit(add(97, 0));
  await done.result();
  using running = c.client.submit(slowly(60_000, 6));
  const result = running.result();
  const refused = assertRejects(() => result, CancelledError, "reset");
  await c.client.reset();
  await refused;
  assertEquals([done.status, await done.result()], ["cancelled", 97]);
  await until(async () => (await c.client.whoHas()).size === 0);
  using again = c.client.submit(add(97, 0));
  assertEquals(await again.result(), 97);
});

Deno.test("a key that nobody submitted is cancelled, not waited for", async () => {
  await using client = await connect(here);
  using future = client.future("nobody-knows-this");
  await assertRejects(() => future.result(), CancelledError, "does not know it");
});

Deno.test("a restart of the scheduler's tasks by another client cancels all futures", async () => {
  await using own = await startScheduler();
  await using client = await connect(own.address);
  using future = client.submit(add(98, 0));
  const result = future.result();
  const refused = assertRejects(() => result, CancelledError, "restarted");
  await runPython(
    `
import sys
from distributed import Client
with Client(sys.argv[1], set_as_default=False) as client:
    client.sync(client.scheduler.restart, client=client.id, timeout=1, wait_for_workers=False, stimulus_id="r")
`,
    [own.address],
  );
  await refused;
});

// --- Mixed clusters ---

Deno.test("in a mixed cluster TypeScript tasks run on TypeScript workers only", async () => {
  await using client = await connect(here);
  await until(async () => (await client.workers()).length === 0);
  await using _python = await pythonWorker(here, ["--nthreads", "1"]);
  await client.waitForWorkers(1, { signal: AbortSignal.timeout(30_000) });
  const early = client.map((i: number) => add(i, 100), [1, 2, 3]); // waits here for a worker that can
  await using _typescript = await workerProcess(here, ["--nthreads", "1", "--no-nanny"]);
  await client.waitForWorkers(2);
  assertEquals(await client.gather(early), [101, 102, 103]);
  const late = client.map((i: number) => add(i, 200), Array.from({ length: 20 }, (_, i) => i));
  assertEquals(await client.gather(late), Array.from({ length: 20 }, (_, i) => i + 200));
  const languages = (await client.workers()).map(({ language }) => language).sort();
  assertEquals(languages, ["python", "typescript"]);
});

Deno.test("a result of a Python client's task is read here", async () => {
  await using client = await connect(here);
  await until(async () => (await client.workers()).length === 0);
  await using _python = await pythonWorker(here, ["--nthreads", "1"]);
  await client.waitForWorkers(1, { signal: AbortSignal.timeout(30_000) });
  const { code, stderr } = await runPython(
    `
import sys
from distributed import Client, fire_and_forget
with Client(sys.argv[1], set_as_default=False) as client:
    future = client.submit(sorted, [3, 1, 2], key="python-sorted")
    bad = client.submit(int, "x", key="python-int")
    client.scheduler  # both stay wanted by name
    client._send_to_scheduler({"op": "client-desires-keys", "keys": ["python-sorted", "python-int"], "client": "test"})
    future.result()
    bad.exception()
`,
    [here],
  );
  assertEquals(code, 0, stderr);
  using sorted = client.future<number[]>("python-sorted");
  assertEquals(await sorted.result(), [1, 2, 3]);
  using bad = client.future("python-int");
  const error = await assertRejects(() => bad.result(), TaskError, "ValueError");
  assert(error.remoteStack.length > 0 || error.message.includes("invalid literal"), error.message);
});
