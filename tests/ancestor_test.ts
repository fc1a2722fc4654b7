/**
 * What the tests of DaskDistributedDispatcher.jl check, in their order and under their names, on Python's own
 * scheduler. Its sections "Communication" and "Addressing" are tests/comm/pool_test.ts, tests/comm/channel_test.ts and
 * tests/protocol/address_test.ts, line by line; the rest is here. Comments say where this package differs on purpose.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { connect } from "../client/mod.ts";
import { lower } from "../dispatch/lower.ts";
import { AsyncExecutor, collect, DispatchGraph, type Op, op, task } from "../dispatch/mod.ts";
import { CancelledError, DaskError, DependencyError, TaskError } from "../protocol/errors.ts";
import { decodeValue, encodeValue } from "../protocol/value.ts";
import { startWorker } from "../worker/mod.ts";
import { current } from "../worker/execute/current.ts";
import { cluster, until } from "./client/cluster.ts";
import { runPython, sharedScheduler } from "./support/scheduler.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;

const plus = task((...numbers: number[]) => numbers.reduce((a, b) => a + b));
const minus = task((a: number, b: number) => a - b);
const max = task((a: number, b: number) => Math.max(a, b));
const sqrt = task((x: number) => Math.sqrt(x));
/** Julia's `Int(x)`. */
const int = task((x: number): number => {
  if (!Number.isInteger(x)) throw new RangeError(`InexactError: Int(${x})`);
  return x;
});
const sleep = task(async (ms: number, salt: number): Promise<number> => {
  await new Promise((resolve) => setTimeout(resolve, ms));
  return salt;
});
const factorials = task((x: number): [number, number] => {
  const factorial = (n: number): number => n < 2 ? 1 : n * factorial(n - 1);
  return [factorial(x), factorial(2 * x)];
});
/** The side channel of the ancestor's tests is a queue of the cluster here. */
const put = task(async (queue: string, x: number): Promise<void> => {
  const client = await current().client();
  await client.queue<number>(queue).put(x);
});

// --- Communication utils ---

Deno.test("Communication utils: serialization", () => {
  // Functions, arguments and keywords each survive: here functions travel as source, keywords are a last object.
  const node = op((x: number, options: { by: number }) => x * options.by, 2, { by: 3 });
  const [lowered] = lower([node], { held: () => false }).tasks;
  const { function: fn, args } = lowered!.call;
  assert(fn.kind === "source");
  assertEquals(new Function(`return (${fn.source})(2, { by: 3 })`)(), 6);
  const { header, frames } = encodeValue(args);
  assertEquals(decodeValue({ header, frames: frames as Uint8Array[] }), args);
});

Deno.test("Communication utils: data packing; K7 values stand where nodes stood, one level deep", async () => {
  const x = op(() => 1);
  const kinds = op((...args: unknown[]) => args, x, [x, "y"], "y");
  assertEquals(await new AsyncExecutor().run([kinds]), [[1, [1, "y"], "y"]]);
  // In objects, maps and sets the ancestor replaces too, silently not below: here that is refused, with the place.
  for (const [hidden, place] of [[new Set([x]), "args[0].values()"], [{ a: x }, "args[0].a"]] as const) {
    assertThrows(() => op((value: unknown) => value, hidden), TypeError, place);
  }
  assertThrows(() => op((value: unknown) => value, [[x]]), TypeError, "args[0][0][0]");
});

Deno.test("Communication utils: data unpacking", () => {
  const node = int(2);
  const args = (...args: unknown[]) => {
    const tasks = lower([op((..._: unknown[]) => 0, ...args)], { held: () => false }).tasks;
    const { call, dependencies } = tasks.at(-1)!;
    return { args: call.args, dependencies };
  };
  assertEquals(args(1).args, [1]);
  assertEquals(args([]).args, [[]]);
  assertEquals(args(node), { args: [{ $dependency: 0 }], dependencies: [node.key] });
  assertEquals(args([1, node]), { args: [[1, { $dependency: 0 }]], dependencies: [node.key] });
});

// --- Dispatcher.jl: macros and nodes ---

Deno.test("Macros: N2 a call with options, a class, and components of several nodes", async () => {
  const split = op(
    (text: string, options: { limit: number }) => text.split(" ").slice(0, options.limit),
    "a b",
    {
      limit: 1,
    },
  );
  assertEquals([...new DispatchGraph([split]).nodes].length, 1);
  // A class is called by a function that makes one.
  const made = op((year: number) => new Date(Date.UTC(year, 0)), 2017);
  const component = (node: Op<number>) => [plus(node, 3), plus(node, 1)] as const;
  const a = plus(1, 2);
  const [b, c] = component(a);
  const d = op((x: number, y: number) => x * y, b, c);
  assertEquals(new DispatchGraph([d]).size, 4);
  assertEquals(await new AsyncExecutor().run([split, made, d]), [["a"], new Date(Date.UTC(2017, 0)), 24]);
});

Deno.test("Nodes: N10 a node holds no result: it can be an input of one run and run in the next", async () => {
  let runs = 0;
  const node = op(() => ++runs);
  const user = op((x: number) => 10 * x, node);
  const executor = new AsyncExecutor();
  assertEquals(await executor.run([user]), [10]);
  assertEquals(await executor.run([user], { inputs: new Map([[node, 7]]) }), [70]);
  assertEquals(await executor.run([user]), [20]);
  assertThrows(() => (node as unknown as { result(): void }).result(), TypeError);
});

// --- Client ---

Deno.test("Client with single worker", async () => {
  const first = minus(1, 1);
  const client = await connect(here);
  const before = client.submit(first);
  assertEquals(client.toString(), `Client(${here})`);

  await using worker = await startWorker({ address: here, slots: 1 });
  assertMatch(
    `${worker}`,
    /^<Worker: tcp:\/\/127\.0\.0\.1:\d+, running, stored: \d+, running: \d+, ready: \d+, waiting: \d+>$/,
  );
  assertStringIncludes(`${worker}`, worker.address);
  assertEquals(await before.result(), 0);

  const op1 = client.submit(int(2));
  assertEquals(await op1.result(), 2);
  // The ancestor runs an equal op again; here it has the same key and is there already.
  const op2 = client.submit(int(2));
  assertEquals(op2.status, "finished");
  assertEquals(op2.key, op1.key);
  assertEquals(await op2.result(), 2);
  assertEquals(await client.gather([op1, op2]), [2, 2]);

  const op3 = client.submit(int(2.3));
  const error = await op3.result().then(() => null, (error) => error);
  assertInstanceOf(error, TaskError);
  assertStringIncludes((error.cause as Error).message, "InexactError");

  const op4 = client.submit(plus(10, 1));
  assertEquals(await op4.result(), 11);
  await assertRejects(() => client.gather([op3]), TaskError, "InexactError");

  const op5 = client.submit(plus(5, op1));
  const op6 = client.submit(plus(op1, op5));
  assertEquals([await op5.result(), await op6.result()], [7, 9]);
  const op7 = client.submit((text: string) => JSON.stringify(text), ["hello"]);
  assertEquals(await op7.result(), `"hello"`);

  const slow = [client.submit(sleep(60_000, 8)), client.submit(sleep(60_000, 9))];
  await Promise.all(slow.map((future) => future.cancel()));
  for (const future of slow) {
    assertEquals(future.status, "cancelled");
    await assertRejects(() => future.result(), CancelledError);
  }
  // The one slot is free at once, and what was cancelled is nowhere.
  assertEquals(await client.submit(plus(20, 1)).result(), 21);
  assertEquals([...(await client.processing()).values()].flat(), []);

  const op9 = op(() => 3), op10 = plus(op9, 2), op11 = plus(op9, 3), op12 = plus(op10, op11);
  const last = client.submit(op12);
  assertEquals(await last.result(), 11);
  const all = [op9, op10, op11, op12].map((node) => client.submit(node));
  assertEquals(await client.gather(all), [3, 5, 6, 11]);

  // From 0, where the ancestor counts from 1; a part of a number is refused.
  const node = op((x: number): [number] => [x], 4)[0];
  assertEquals(await client.submit(node).result(), 4);

  await client.shutdownWorkers([worker.address]);
  await worker.closed;
  await client.close();
  await client.close(); // twice is allowed here
  assertEquals(await client.gather([before]).catch(() => "refused"), "refused");
  assertEquals(await before.result(), 0);
  assertThrows(() => client.submit(first), DaskError, "closed");
});

Deno.test("Client with multiple workers", async () => {
  await using c = await cluster(here, 3);
  const { client, addresses: [one, two, three] } = c;
  const ops: Op<number>[] = [int(1), int(2)];
  ops.push(plus(ops[0]!, ops[1]!));
  ops.push(plus(1, ops[1]!, ops[2]!), int(5), int(6), sleep(50, 7));
  ops.push(plus(1, ops[5]!));
  const places = [one, two, three, one, one, one];
  const futures = ops.slice(0, 7).map((node, i) =>
    client.submit(node, places[i] === undefined ? {} : { workers: [places[i]] })
  );
  assertEquals(await client.gather(futures), [1, 2, 3, 6, 5, 6, 7]);
  for (const [i, holders] of [...(await client.whoHas(futures)).values()].entries()) {
    if (i < 6) assert(holders.includes(places[i]!), `op ${i + 1} is on ${holders}`);
  }

  // The scheduler's own gather.
  const keys = futures.map(({ key }) => key);
  const { stdout, stderr, code } = await runPython(
    `
import asyncio, json, sys
from distributed.core import rpc
async def main():
    async with rpc(sys.argv[1]) as scheduler:
        answer = await scheduler.gather(keys=json.loads(sys.argv[2]))
        assert answer["status"] == "OK", answer
        print(json.dumps([answer["data"][key] for key in json.loads(sys.argv[2])]))
asyncio.run(main())
`,
    [here, JSON.stringify(keys)],
  );
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout), [1, 2, 3, 6, 5, 6, 7]);

  // The worker that alone may run op 6 dies with its result: what needs that waits.
  let dead = -1;
  for (const [i, process] of c.processes.entries()) if ((await process.log()).includes(one!)) dead = i;
  c.processes[dead]!.kill("SIGKILL");
  await until(async () => (await client.workers()).length === 2);
  using eight = client.submit(ops[7]!, { workers: [two!] });
  assertEquals(await client.submit(plus(30, 1), { workers: [two!] }).result(), 31);
  assertEquals(eight.status, "pending");
});

Deno.test("Multiple clients", async () => {
  await using c = await cluster(here, 1);
  await using two = await connect(here);
  await using three = await connect(here);
  const inc = task((x: number) => x + 1), dec = task((x: number) => x - 1);
  const build = (numbers: readonly number[]) => numbers.map((x) => plus(inc(x), dec(x)));
  const futures1 = build([1, 2, 3]).map((node) => c.client.submit(node));
  const futures2 = build([5, 6, 3]).map((node) => two.submit(node));
  assertEquals(await Promise.all(futures1.map((future) => future.result())), [2, 4, 6]);
  assertEquals(await Promise.all(futures2.map((future) => future.result())), [10, 12, 6]);
  for (const client of [c.client, two, three]) {
    const seen = [...futures1, ...futures2].map(({ key }) => client.future<number>(key));
    assertEquals(await client.gather(seen), [2, 4, 6, 10, 12, 6]);
  }
});

Deno.test("Replication", async () => {
  await using c = await cluster(here, 5);
  const ops: Op<number>[] = [op(() => 1), op(() => 2)];
  ops.push(plus(ops[0]!, ops[1]!), plus(1, ops[0]!, ops[1]!), op(() => 5), op(() => 6));
  const futures = ops.map((node) => c.client.submit(node));
  assertEquals(await c.client.gather(futures), [1, 2, 3, 4, 5, 6]);
  await c.client.replicate();
  const wanted = futures.map(({ key }) => key).sort();
  const held = await c.client.hasWhat(c.addresses);
  assertEquals(held.size, 5);
  for (const keys of held.values()) assertEquals(keys.filter((key) => wanted.includes(key)).sort(), wanted);
});

// --- Executor ---

/** The ancestor's example: factorials by way of a tuple, and one value through a side channel. */
function example(
  queue: string,
  broken = false,
): { readonly outputs: readonly [Op<number>, Op<void>]; readonly truth: number } {
  const a = op(() => 3), b = op((x: number) => x, 4);
  const c = max(a, b);
  const d = sqrt(c);
  a.label = "three";
  b.label = "four";
  const made = broken
    ? op((_: number): [number, number] => {
      throw new Error("Application Error");
    }, c)
    : factorials(c);
  const [, f] = made;
  const half = op((x: number) => x / 2, f);
  return { outputs: [d, put(queue, half)], truth: 40_320 / 2 };
}

for (const count of [1, 2]) {
  Deno.test(`Dask - ${count} process`, async () => {
    await using c = await cluster(here, count);
    const { outputs, truth } = example(`example-${count}`);
    const [two] = await c.client.run(outputs);
    assertEquals(two, 2);
    assertEquals(await c.client.queue<number>(`example-${count}`).get(), truth);
  });
}

Deno.test("Dask - Application Errors; N9 who depends on a failed node gets a DependencyError", async () => {
  await using c = await cluster(here, 1);
  const { outputs } = example("errors", true);
  const error = await c.client.run(outputs).then(() => null, (error) => error);
  assertInstanceOf(error, DependencyError);
  assertEquals((error.cause as Error).message, "Application Error");
  const settled = await c.client.runSettled(outputs);
  assertEquals(settled[0], { status: "fulfilled", value: 2 });
  assert(settled[1].status === "rejected" && settled[1].reason instanceof DependencyError);
  const queue = c.client.queue<number>("errors");
  await assertRejects(() => queue.get({ signal: AbortSignal.timeout(300) }));
  using future = c.client.submit(outputs[1]);
  await assertRejects(() => future.result(), DependencyError, "Application Error");
});

Deno.test("Dask Do; E19 the executor is the client, open for whatever else a client does", async () => {
  await using c = await cluster(here, 1);
  const slowadd = task((x: number, y: number) => x + y);
  const slowinc = task((x: number) => x + 1);
  const slowsum = task((...numbers: number[]) => numbers.reduce((a, b) => a + b));
  const a = [1, 2, 3].map((i) => slowinc(i));
  const b = a.map((x) => slowadd(x, 10));
  const c3 = a.map((x) => slowadd(x, 100));
  const result = plus(slowsum(...a), slowsum(...b), slowsum(...c3));
  assertEquals(await c.client.run([result]), [357]);
  const { id } = c.client;
  await c.client.reset();
  assertEquals(c.client.id, id);
  assertEquals(await c.client.run([result]), [357]);
  // The same object submits, scatters and looks around.
  using future = c.client.submit(result);
  assertEquals(await future.result(), 357);
  assertEquals([...(await c.client.whoHas([future])).keys()], [future.key]);
});

Deno.test("Dask Cluster; D3 load, process, roll, compare, reduce: 500 ops on three workers", async () => {
  await using c = await cluster(here, 3);
  const load = task((_: string) => 1);
  const process = task((data: number, reference: number) => data * reference);
  const roll = task((a: number, b: number, c: number) => (a + b + c) / 3);
  const compare = task((a: number, b: number) => a === b ? 1 : 0);
  const reduction = task((numbers: readonly number[]) => Math.min(...numbers));
  const loaded = Array.from({ length: 100 }, (_, i) => load(`mydata-${i + 1}.dat`));
  const reference = load("sql://mytable");
  const processed = loaded.map((each) => process(each, reference));
  const rolled = processed.slice(2).map((c, i) => roll(processed[i]!, processed[i + 1]!, c));
  const compared = Array.from({ length: 200 }, (_, i) => compare(rolled[i % 98]!, rolled[(7 * i + 1) % 98]!));
  const best = reduction(collect(compared));
  assertEquals(new DispatchGraph([best]).size, 501); // the list is a node, too
  assertEquals(await c.client.run([best]), [1]);
});

Deno.test("docs/coming-from-dispatcher.md has a row for every name that the two packages export", async () => {
  const page = await Deno.readTextFile(new URL("../docs/coming-from-dispatcher.md", import.meta.url));
  const rows = page.split("\n").filter((line) => line.startsWith("| `") || line.startsWith("| chan")).map((
    line,
  ) => line.split(" | ")[0]!).join("\n");
  const names =
    "DispatchGraph DispatchNode DispatchResult DataNode IndexNode Op CollectNode CleanupNode DispatcherError " +
    "DependencyError add_edge! nodes dependencies has_label get_label set_label! Executor AsyncExecutor ParallelExecutor " +
    "dispatch! prepare! run! @op DaskExecutor reset! Client submit cancel gather replicate shutdown get_key result " +
    "default_client Worker Address push! subgraph fetch isready wait";
  for (const name of names.split(" ")) {
    const pattern = new RegExp(`(?<![\\w@])${name.replace("!", "\\!")}(?![\\w!])`);
    assertMatch(rows, pattern);
  }
});
