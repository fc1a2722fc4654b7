/**
 * Python and TypeScript in one graph: tasks of both languages on a cluster of both, on Python's own scheduler.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { collect, type Op, python, tasks } from "../../dispatch/mod.ts";
import { TaskError } from "../../protocol/errors.ts";
import { NDArray } from "../../protocol/nd_array.ts";
import { errorsInLog, pythonWorker, sharedScheduler } from "../support/scheduler.ts";
import { pythonClient } from "../worker/python_client.ts";
import { cluster } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;
const t = tasks<typeof import("./python_tasks.ts")>(new URL("./python_tasks.ts", import.meta.url));
const observer = await pythonClient(here, new URL("./python_tasks.ts", import.meta.url));

const mean = python<(array: Float64Array) => number>("numpy:mean");
const norm = python<(array: Float64Array) => number>("numpy:linalg.norm");
const concatenate = python<(parts: Float64Array[]) => Float64Array>("numpy:concatenate");
const double = python<(array: Float64Array, two: number) => Float64Array>("numpy:multiply");
const sqrt = python<(x: number) => number>("math:sqrt");
const toHsv = python<(r: number, g: number, b: number) => [number, number, number]>("colorsys:rgb_to_hsv");

async function both(): Promise<AsyncDisposable & Pick<Awaited<ReturnType<typeof cluster>>, "client">> {
  const stack = new AsyncDisposableStack();
  const c = stack.use(await cluster(here, 1));
  stack.use(await pythonWorker(here, ["--nthreads", "1"]));
  await c.client.waitForWorkers(2, { signal: AbortSignal.timeout(30_000) });
  return { client: c.client, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

Deno.test("values go from TypeScript to Python and back within one graph", async () => {
  await using c = await both();
  const { client } = c;
  const ramp = t.ramp(1000);
  const doubled = double(ramp, 2);
  assertEquals(await client.run([mean(ramp), norm(data()), t.total(doubled), t.typeName(doubled)]), [
    248.75,
    5,
    497_500,
    "Float64Array",
  ]);
  // Nodes one level inside a list, beside constants; a tuple comes back and is taken apart.
  const [joined, [hue]] = await client.run([
    concatenate([t.ramp(2), Float64Array.of(7), t.ramp(1)]),
    toHsv(0.5, 0.25, 0.25),
  ]);
  assertEquals(joined, Float64Array.of(-1, -0.5, 7, -1));
  assertEquals(hue, 0);
  using future = client.submit(sqrt(16));
  assertEquals(await client.submit(t.same(future)).result(), 4);
  assertEquals(await client.submit(sqrt(future)).result(), 2);
});

const data = (): Float64Array => Float64Array.of(3, 4);

Deno.test("200 ops in turns leave every byte as it was", async () => {
  await using c = await both();
  const { client } = c;
  const same = python<<T>(value: T) => T>("copy:copy");
  const values: unknown[] = [
    Float64Array.of(0.1, -0, NaN, Infinity, 5e-324),
    Uint8Array.from({ length: 300 }, (_, i) => i),
    BigInt64Array.of(-(1n << 63n), 1n),
    new NDArray(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]),
    { text: "ü\u{1F600}", big: 2n ** 70n, list: [1, 2.5, null, true, [Uint16Array.of(9)]] },
  ];
  const ends = values.map((value) => {
    let node = t.same(value) as Op<unknown>;
    for (let i = 0; i < 20; i++) node = t.same(same(node)) as Op<unknown>;
    return node;
  });
  const [results] = await client.run([collect(ends)]);
  assertEquals(results, values as typeof results);
  const bytes = (value: unknown): string => new Uint8Array((value as Float64Array).buffer).toHex();
  assertEquals(bytes(results![0]).slice(0, 80), bytes(values[0]));
});

Deno.test("an error of Python keeps its class, text and traceback; who depends on it names the origin", async () => {
  await using c = await both();
  const error = await assertRejects(() => c.client.submit(sqrt(-1)).result(), TaskError);
  assertStringIncludes(error.message, "math domain error");
  assertEquals((error.cause as Error).name, "ValueError");
  const missing = python<() => number>("no_such_module:f");
  const next = await assertRejects(() => c.client.submit(t.same(missing())).result(), TaskError);
  assertStringIncludes(next.message, "No module named 'no_such_module'");
});

Deno.test("nothing of the user's is imported on the scheduler", async () => {
  await using c = await both();
  const modules =
    "return client.run_on_scheduler(lambda: [m in __import__('sys').modules for m in ('wave', 'chunk')])";
  const before = await observer.run(modules);
  const name = python<(path: string) => unknown>("wave:open");
  await assertRejects(() => c.client.submit(name("/nowhere/at/all.wav")).result(), TaskError, "No such file");
  assertEquals(await observer.run(modules), before);
  assertEquals((before as boolean[])[0], false);
});

Deno.test("a task of Python waits for a worker of Python; others go on meanwhile", async () => {
  await using c = await cluster(here, 1);
  using waits = c.client.submit(t.same(sqrt(81)));
  assertEquals(await c.client.submit(t.same(5)).result(), 5);
  assertEquals(waits.status, "pending");
  await using _worker = await pythonWorker(here, ["--nthreads", "1"]);
  assertEquals(await waits.result(), 9);
});

Deno.test("a cluster of TypeScript alone is sent no restrictions, a mixed one is", async () => {
  await using c = await cluster(here, 1);
  const restrictions = (key: string) =>
    observer.run(`
async def look(dask_scheduler, key):
    return bool(dask_scheduler.tasks[key].worker_restrictions)
return client.run_on_scheduler(look, key=${JSON.stringify(key)})`);
  using alone = c.client.submit(t.same("alone"));
  await alone.result();
  assertEquals(await restrictions(alone.key), false);
  await using _worker = await pythonWorker(here, ["--nthreads", "1"]);
  await c.client.waitForWorkers(2);
  using mixed = c.client.submit(t.same("mixed"));
  await mixed.result();
  assert(await restrictions(mixed.key));
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(await errorsInLog(scheduler, [/math domain error|No module named|No such file/]), []);
});
