/**
 * `map` with a `chunkSize`: many tiny items are few tasks, and each item has its future all the same. On Python's own
 * scheduler with validation on.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { asCompleted, connect, type Future, wait } from "../../client/mod.ts";
import { AsyncExecutor, collect, data, type Op, op, python, task, tasks } from "../../dispatch/mod.ts";
import { ParallelExecutor } from "../../cluster/parallel_executor.ts";
import { CancelledError, DependencyError, SerializationError, TaskError } from "../../protocol/errors.ts";
import { errorsInLog, pythonWorker, sharedScheduler } from "../support/scheduler.ts";
import { cluster, until } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
const add = task((a: number, b: number) => a + b);
const total = task((parts: readonly number[]) => parts.reduce((sum, part) => sum + part, 0));
const picky = task((i: number) => {
  if (i === 5) throw new RangeError("not five");
  return i;
});
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

function release(futures: readonly Future<unknown>[]): void {
  for (const future of futures) future.release();
}

Deno.test("10,000 items in chunks of 500 are 20 tasks, with a future each", async () => {
  await using c = await cluster(here, 2);
  const futures = c.client.map((i: number) => add(i, 1), numbers(10_000), { chunkSize: 500 });
  assertEquals(futures.length, 10_000);
  assertEquals(await c.client.gather(futures), numbers(10_000).map((i) => i + 1));
  const known = await c.client.whoHas();
  assertEquals(new Set(futures.map((future) => future.key)), new Set(known.keys()));
  assertEquals(known.size, 20);
  assertEquals(String(futures[503]), `Future(finished, "${futures[503]!.key}[3]")`);
  release(futures);
});

Deno.test("chunks call the exports of modules, functions that wait, and generators, the last chunk may be short", async () => {
  await using c = await cluster(here, 1);
  const areas = c.client.map((i: number) => t.area(i, 2), numbers(7), { chunkSize: 3 });
  assertEquals(await c.client.gather(areas), [0, 2, 4, 6, 8, 10, 12]);
  const later = task(async (i: number) => await new Promise<number>((resolve) => setTimeout(resolve, 1, i)));
  const waited = c.client.map((i: number) => later(i), numbers(5), { chunkSize: 2 });
  assertEquals(await c.client.gather(waited), numbers(5));
  const count = task(function* (to: number): Generator<number> {
    for (let i = 0; i < to; i++) yield i;
  });
  const lists = c.client.map((i: number) => count(i), numbers(4), { chunkSize: 10 });
  assertEquals(await c.client.gather(lists), [[], [0], [0, 1], [0, 1, 2]]);
  assertEquals(await Array.fromAsync(lists[3]!.stream()), [0, 1, 2]);
  const inPlace = c.client.map((i: number) => op((x: number) => x * 2, i), numbers(4), { chunkSize: 2 });
  assertEquals(await c.client.gather(inPlace), [0, 2, 4, 6]);
  // Calls with more and with fewer arguments, and with undefined among them.
  const sum = task((...parts: (number | undefined)[]) => [parts.length, ...parts.map((part) => part ?? -1)]);
  const shapes = c.client.map((parts: (number | undefined)[]) => sum(...parts), [[], [1], [undefined, 2]], {
    chunkSize: 3,
  });
  assertEquals(await c.client.gather(shapes), [[0], [1, 1], [2, -1, 2]]);
  for (const futures of [areas, waited, lists, inPlace, shapes]) release(futures);
});

Deno.test("nodes and futures are arguments of items, also in lists", async () => {
  await using c = await cluster(here, 1);
  using ten = c.client.submit(add(4, 6));
  const two = add(1, 1);
  const sums = c.client.map((i: number) => add(i % 2 === 0 ? ten : two, i), numbers(6), { chunkSize: 4 });
  assertEquals(await c.client.gather(sums), [10, 3, 12, 5, 14, 7]);
  const totals = c.client.map((i: number) => total([ten, i, two]), numbers(3), { chunkSize: 2 });
  assertEquals(await c.client.gather(totals), [12, 13, 14]);
  release([...sums, ...totals]);
});

Deno.test("futures of items are arguments of other tasks, of both languages, and of chunks", async () => {
  await using c = await cluster(here, 1);
  await using _python = await pythonWorker(here, ["--nthreads", "1"]);
  const { client } = c;
  await client.waitForWorkers(2, { signal: AbortSignal.timeout(30_000) });
  const squares = client.map((i: number) => add(i * i, 0), numbers(10), { chunkSize: 5 });
  using sum = client.submit(add(squares[2]!, squares[7]!));
  assertEquals(await sum.result(), 53);
  using listed = client.submit(total([squares[3]!, 1, squares[3]!, squares[4]!]));
  assertEquals(await listed.result(), 35);
  // Two items of one list are two values: so their calls have two keys.
  const keys = new Set(squares.map((square) => add(square, 1).key));
  assertEquals(keys.size, 10);

  const sqrt = python<(x: number) => number>("math:sqrt");
  using root = client.submit(sqrt(squares[9]!));
  assertEquals(await root.result(), 9);

  const next = client.map((square: Future<number>) => add(square, 1), squares, { chunkSize: 10 });
  assertEquals(await client.gather(next), numbers(10).map((i) => i * i + 1));

  const x = data(0);
  const [through] = await client.run([add(x, 1)], { inputs: new Map([[x, squares[6]!]]) });
  assertEquals(through, 37);
  const [local] = await new AsyncExecutor().run([add(squares[6]!, squares[1]!)]);
  assertEquals(local, 37);
  await using parallel = new ParallelExecutor({ slots: 1 });
  assertEquals(await parallel.run([add(squares[6]!, squares[1]!), total([squares[2]!])]), [37, 4]);
  release([...squares, ...next]);
});

Deno.test("others get the value of an item by queues, by datasets, and by gather of another client", async () => {
  await using c = await cluster(here, 1);
  await using other = await connect(here);
  const squares = c.client.map((i: number) => add(i * i, 0), numbers(4), { chunkSize: 4 });
  await c.client.queue<unknown>("chunk items").put(squares[3]);
  assertEquals(await other.queue("chunk items").get(), 9);
  await c.client.publish("chunk item", squares[2]!);
  assertEquals(await other.gather([squares[3]!, squares[1]!]), [9, 1]);
  release(squares);
  using published = await other.dataset<number>("chunk item");
  assertEquals(await published.result(), 4);
  await other.unpublish("chunk item");
});

Deno.test("with one item its chunk fails, and no other", async () => {
  await using c = await cluster(here, 1);
  const { client } = c;
  const futures = client.map((i: number) => picky(i), numbers(9), { chunkSize: 3 });
  await wait(futures);
  assertEquals(futures.map(({ status }) => status), [
    ...Array(3).fill("finished"),
    ...Array(3).fill("error"),
    ...Array(3).fill("finished"),
  ]);
  const error = await assertRejects(() => futures[3]!.result(), TaskError, "not five");
  assertEquals(error.key, futures[5]!.key);
  assert(error.remoteStack.includes("in item 2 of its chunk"), error.remoteStack);
  using after = client.submit(add(futures[4]!, 1));
  assertInstanceOf((await after.settled() as PromiseRejectedResult).reason, DependencyError);
  const seen: Future<number>[] = [];
  for await (const future of asCompleted(futures)) seen.push(future);
  assertEquals(new Set(seen), new Set(futures));
  release(futures);
});

Deno.test("options bind the chunk: retries repeat all of it, a timeout ends it", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  const flaky = task((path: string, i: number) => {
    Deno.writeTextFileSync(path, `${i} `, { append: true });
    if (i === 2 && Deno.readTextFileSync(path).length < 10) throw new Error("not yet");
    return i;
  });
  try {
    const futures = c.client.map((i: number) => flaky(file, i), numbers(3), { chunkSize: 3, retries: 1 });
    assertEquals(await c.client.gather(futures), [0, 1, 2]);
    assertEquals(await Deno.readTextFile(file), "0 1 2 0 1 2 ");
    release(futures);
  } finally {
    await Deno.remove(file);
  }
  const never = task(async (_: number): Promise<number> =>
    await new Promise(() => setTimeout(() => {}, 1e6))
  );
  const late = c.client.map((i: number) => never(i), numbers(2), { chunkSize: 2, timeout: 50 });
  await assertRejects(() => late[1]!.result(), TaskError, "timeout of 50 ms");
  release(late);
});

Deno.test("a chunk goes when all its futures are released; a cancel stops all of it", async () => {
  await using c = await cluster(here, 1);
  const { client } = c;
  const futures = client.map((i: number) => add(i, 7), numbers(4), { chunkSize: 2 });
  await wait(futures);
  const [first, second, third, fourth] = futures as [
    Future<number>,
    Future<number>,
    Future<number>,
    Future<number>,
  ];
  first.release();
  third.release();
  fourth.release();
  await until(async () => !(await client.whoHas()).has(third.key));
  assertEquals(await second.result(), 8);
  second.release();
  await until(async () => (await client.whoHas()).size === 0);

  const slow = task(async (i: number) =>
    await new Promise<number>((resolve) => setTimeout(resolve, 60_000, i))
  );
  const doomed = client.map((i: number) => slow(i), numbers(4), { chunkSize: 2 });
  await doomed[0]!.cancel("enough");
  await assertRejects(() => doomed[1]!.result(), CancelledError, "enough");
  assertEquals(doomed.map(({ status }) => status), ["cancelled", "cancelled", "pending", "pending"]);
  await client.cancel(doomed.slice(2));
  assertEquals(doomed[3]!.status, "cancelled");
});

Deno.test("items of an async iterable become chunks, also what came before it failed; maxPending counts chunks", async () => {
  await using c = await cluster(here, 1);
  async function* source(count: number, failure?: Error): AsyncGenerator<number> {
    for (let i = 0; i < count; i++) yield await Promise.resolve(i);
    if (failure !== undefined) throw failure;
  }
  const values: number[] = [];
  const keys = new Set<string>();
  for await (
    const future of c.client.map((i: number) => add(i, 1), source(25), { chunkSize: 10, maxPending: 1 })
  ) {
    values.push(await future.result());
    keys.add(future.key);
    future.release();
  }
  assertEquals([values, keys.size], [numbers(25).map((i) => i + 1), 3]);

  const before: number[] = [];
  const failing = c.client.map((i: number) => add(i, 2), source(5, new Error("no more")), { chunkSize: 3 });
  const error = await assertRejects(async () => {
    for await (const future of failing) {
      before.push(await future.result());
      future.release();
    }
  });
  assertEquals([before, (error as Error).message], [[2, 3, 4, 5, 6], "no more"]);

  // Left early: what was submitted and not taken is let go.
  for await (
    const future of c.client.map((i: number) => add(i, 3), source(1e9), { chunkSize: 4, maxPending: 2 })
  ) {
    assertEquals(await future.result(), 3);
    future.release();
    break;
  }
  await until(async () => (await c.client.whoHas()).size === 0);
});

Deno.test("what cannot be a chunk is refused before anything is sent", async () => {
  await using client = await connect(here);
  for (const chunkSize of [0, -1, 1.5, NaN, Infinity, "5", null] as unknown as number[]) {
    assertThrows(
      () => client.map((i: number) => add(i, 1), [1], { chunkSize }),
      TypeError,
      'Cannot use the option "chunkSize" of map',
    );
    assertThrows(
      () => client.map((i: number) => add(i, 1), (async function* () {})(), { chunkSize }),
      TypeError,
      'Cannot use the option "chunkSize" of map',
    );
  }
  const refused = (fn: (i: number) => Op<unknown>, text: string) =>
    assertThrows(() => client.map(fn, numbers(4), { chunkSize: 2 }), TypeError, text);
  refused((i) => i % 2 === 0 ? add(i, 1) : picky(i), "expected calls of one task");
  refused((i) => add.with({ priority: i })(i, 1), "expected calls of one task with the same options");
  refused((i) => collect([add(i, 1)]), "expected a call of a task");
  refused((i) => add(i, 1).at("toFixed"), "expected a call of a task");
  refused((i) => add.with({ key: "mine" })(i, 1), "what has a key of its own");
  refused((i) => python<(x: number) => number>("math:sqrt")(i), "expected a task in TypeScript");
  refused((i) => task(() => client.id + i)(), "Cannot send the function");
  const error = assertThrows(
    () =>
      client.map((i: number) => add(i, (i === 3 ? Symbol("x") : i) as number), numbers(4), { chunkSize: 4 }),
    SerializationError,
  );
  assert(error.message.includes("args[1]"), error.message);
  assertEquals(await client.map((i: number) => add(i, 1), [], { chunkSize: 5 }), []);
  // Equal options made anew for each item are the same options.
  const same = client.map((i: number) => add.with({ priority: 1 })(i, 1), numbers(4), { chunkSize: 4 });
  assertEquals(new Set(same.map(({ key }) => key)).size, 1);
  release(same);
});

Deno.test("the scheduler found nothing wrong", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});
