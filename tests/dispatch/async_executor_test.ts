import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  AsyncExecutor,
  cleanup,
  collect,
  data,
  DispatchGraph,
  FUTURE,
  type FutureLike,
  type Op,
  op,
  type RunOptions,
  task,
  type Values,
} from "../../dispatch/mod.ts";
import { current } from "../../worker/execute/current.ts";
import { CancelledError, DaskError, DependencyError, TaskError } from "../../protocol/errors.ts";

function factorial(n: number): number {
  return n < 2 ? 1 : n * factorial(n - 1);
}

/** The ancestor's first example; `seen` is its side channel. */
function factorials(seen: unknown[], broken = false): { h: Op<number>; c: Op<number> } {
  const a = op(() => 3);
  const b = op((x: number) => x, 4);
  const c = op(Math.max, a, b);
  op(Math.sqrt, c);
  const e = op((x: number): [number, number] => {
    if (broken) throw new RangeError("Application Error");
    return [factorial(x), factorial(2 * x)];
  }, c);
  e.label = "factorials";
  const [, g] = e;
  return { c, h: op((x: number) => seen.push(x / 2), g) };
}

async function failure(run: Promise<unknown>): Promise<Error> {
  return await run.then(() => {
    throw new Error("It did not fail");
  }, (error) => error);
}

Deno.test("E1: answers come in the order asked", async () => {
  const a = op(() => 1);
  const b = op((x: number) => x + 1, a);
  const executor = new AsyncExecutor();
  assertEquals(await executor.run([b, a, b]), [2, 1, 2]);
  assertEquals(await executor.run([]), []);
});

Deno.test("E2: a graph runs its leaves", async () => {
  const a = op(() => 1);
  const graph = new DispatchGraph([op((x: number) => x + 1, a), op((x: number) => x + 2, a)]);
  assertEquals(await new AsyncExecutor().run(graph), [2, 3]);
  assertEquals(await new AsyncExecutor().run(graph.leaves), [2, 3]);
});

Deno.test("E3 E4: inputs stand in for nodes, and what only they needed is not run", async () => {
  let runs = 0;
  const before = op(() => ++runs);
  const x = op((n: number) => n + ++runs, before);
  const y = op((n: number) => n * 2, x);
  const executor = new AsyncExecutor();
  assertEquals(await executor.run([y], { inputs: new Map([[x, 5]]) }), [10]);
  assertEquals(runs, 0);
  const [kept] = await executor.run([x]);
  assertEquals(await executor.run([y], { inputs: new Map([[x, kept]]) }), [2 * kept]);
  assertEquals(runs, 2);
  assertEquals(await executor.run([x], { inputs: new Map([[x, 7]]) }), [7]);
});

Deno.test("E5 E6: runSettled tells of each how it ended; run throws", async () => {
  const good = op(() => 1);
  const bad = op((): number => {
    throw new Error("no");
  });
  const after = op((a: number, b: number) => a + b, good, bad);
  const executor = new AsyncExecutor();
  const [first, second, third] = await executor.runSettled([good, bad, after]);
  assertEquals(first, { status: "fulfilled", value: 1 });
  assert(second.status === "rejected" && third.status === "rejected");
  assertInstanceOf(second.reason, TaskError);
  assertInstanceOf(third.reason, DependencyError);
  await assertRejects(() => executor.run([good, after]), DependencyError, "needs");
  await assertRejects(() => executor.run([bad]), TaskError, `Task "anonymous" failed: Error: no`);
});

Deno.test("E7 E8: a DependencyError carries the origin, its cause and its stack, however far away", async () => {
  const cause = new RangeError("too deep");
  const origin = op((): number => {
    throw cause;
  });
  origin.label = "origin";
  let node: Op<number> = origin;
  for (let i = 0; i < 5; i++) node = op((x: number) => x + 1, node);
  node.label = "far";
  const error = await failure(new AsyncExecutor().run([node]));
  assertInstanceOf(error, DependencyError);
  assertStrictEquals(error.cause, cause);
  assertEquals(error.key, node.key);
  assertEquals(error.origin, origin.key);
  assertStringIncludes(error.remoteStack, "async_executor_test.ts");
  assertEquals(error.message, `Task "far" was not run: it needs "origin" failed: RangeError: too deep`);
});

Deno.test("E10 D4: the factorials example, with destructuring and a side channel", async () => {
  const seen: unknown[] = [];
  const { h } = factorials(seen);
  await new AsyncExecutor().run([h]);
  assertEquals(seen, [factorial(8) / 2]);
});

Deno.test("E6: an error in the factorials example reaches what depends on it", async () => {
  const seen: unknown[] = [];
  const { h } = factorials(seen, true);
  const executor = new AsyncExecutor();
  const error = await failure(executor.run([h]));
  assertInstanceOf(error, DependencyError);
  assertInstanceOf(error.cause, RangeError);
  const [settled] = await executor.runSettled([h]);
  assert(settled.status === "rejected" && settled.reason instanceof DependencyError);
  assertEquals(seen, []);
});

Deno.test("D2: Dask Do gives 357", async () => {
  const slowinc = task((x: number) => x + 1);
  const slowadd = task((x: number, y: number) => x + y);
  const slowsum = task((...parts: number[]) => parts.reduce((x, y) => x + y));
  const a = [1, 2, 3].map((i) => slowinc(i));
  const b = a.map((x) => slowadd(x, 10));
  const c = a.map((x) => slowadd(x, 100));
  const result = slowsum(slowsum(...a), slowsum(...b), slowsum(...c));
  assertEquals(await new AsyncExecutor().run([result]), [357]);
});

Deno.test("E13: failed nodes are repeated, with a growing pause", async () => {
  const at: number[] = [];
  const flaky = task((): number => {
    at.push(performance.now());
    if (at.length < 4) throw new Error("not yet");
    return at.length;
  }).with({ retries: 3 });
  assertEquals(await new AsyncExecutor().run([flaky()]), [4]);
  const pauses = at.slice(1).map((time, i) => time - at[i]!);
  assert(pauses[0]! >= 45 && pauses[1]! >= 95 && pauses[2]! >= 190, String(pauses));
});

Deno.test("E13: retries run out; the options of the run bind the outputs alone", async () => {
  const runs = { inner: 0, outer: 0 };
  const inner = op(() => {
    runs.inner++;
    return 1;
  });
  const outer = op((x: number): number => {
    runs.outer += x;
    throw new Error("always");
  }, inner);
  await assertRejects(() => new AsyncExecutor().run([outer], { retries: 2 }), TaskError, "always");
  assertEquals(runs, { inner: 1, outer: 3 });
  const failing = op((): number => {
    runs.inner++;
    throw new Error("inner");
  });
  const after = op((x: number) => x, failing);
  await assertRejects(() => new AsyncExecutor().run([after], { retries: 2 }), DependencyError);
  assertEquals(runs.inner, 2);
});

Deno.test("E13 E14: retryOn decides; what it does not match is not repeated", async () => {
  let runs = 0;
  const node = op((): number => {
    throw ++runs < 3 ? new TypeError("again") : new RangeError("enough");
  });
  const seen: TaskError[] = [];
  const executor = new AsyncExecutor({
    retryOn: (error) => {
      seen.push(error);
      return error.cause instanceof TypeError;
    },
  });
  await assertRejects(() => executor.run([node]), TaskError, "enough");
  assertEquals(runs, 3);
  assertEquals(seen.length, 3);
  assert(seen.every((error) => error instanceof TaskError && error.key === node.key));
});

Deno.test("E17: a graph that runs again starts clean", async () => {
  let runs = 0;
  const node = op(() => ++runs);
  const twice = op((x: number) => 2 * x, node);
  const executor = new AsyncExecutor();
  assertEquals(await executor.run([twice]), [2]);
  assertEquals(await executor.run([twice]), [4]);
  assertEquals(runs, 2);
});

Deno.test("E20: executors of one's own need two methods", async () => {
  class Counting {
    runs = 0;
    readonly #inner = new AsyncExecutor();
    run<const L extends readonly Op<unknown>[]>(nodes: L, options?: RunOptions): Promise<Values<L>> {
      this.runs++;
      return this.#inner.run(nodes, options);
    }
  }
  const counting = new Counting();
  assertEquals(await counting.run([data(1)]), [1]);
  assertEquals(counting.runs, 1);
});

Deno.test("E21: what does not depend on each other runs side by side; 100,000 nodes need no 100,000 promises", async () => {
  let running = 0;
  let most = 0;
  const gate = Promise.withResolvers<void>();
  const waiting = Array.from({ length: 10 }, (_, i) =>
    op(async (x: number) => {
      most = Math.max(most, ++running);
      if (running === 10) gate.resolve();
      await gate.promise;
      return x;
    }, i));
  assertEquals(await new AsyncExecutor().run([collect(waiting)]), [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]);
  assertEquals(most, 10);

  const inc = task((x: number) => x + 1);
  let chain: Op<number> = data(0);
  for (let i = 0; i < 100_000; i++) chain = inc(chain);
  assertEquals(await new AsyncExecutor().run([chain]), [100_000]);
});

Deno.test("E12: each node runs once a run, whoever needs it", async () => {
  let runs = 0;
  const shared = op(() => ++runs);
  const users = Array.from({ length: 20 }, (_, i) => op((x: number, y: number) => x + y, shared, i));
  await new AsyncExecutor().run([...users, shared]);
  assertEquals(runs, 1);
});

Deno.test("values of sync, async and generator functions", async () => {
  const executor = new AsyncExecutor();
  const values = await executor.run([
    op(async () => await Promise.resolve(1)),
    op(function* () {
      yield 1;
      yield 2;
    }),
    op(async function* () {
      yield await Promise.resolve("a");
    }),
    op(() => new Set([1])),
    op(() => undefined),
    op((xs: number[]) => xs.reduce((a, b) => a + b), [op(() => 1), 2, op(() => Promise.resolve(3))]),
  ]);
  assertEquals(values, [1, [1, 2], ["a"], new Set([1]), undefined, 6]);
});

Deno.test("futures in arguments and inputs are read", async () => {
  const future: FutureLike<number> = { key: "k", [FUTURE]: true, result: () => Promise.resolve(20) };
  const node = op((a: number, xs: number[]) => a + xs[0]!, future, [future]);
  const executor = new AsyncExecutor();
  assertEquals(await executor.run([node]), [40]);
  assertEquals(await executor.run([node], { inputs: new Map([[node, future]]) }), [20]);
});

Deno.test("run rejects at the first failure and starts nothing more", async () => {
  const started: string[] = [];
  const gate = Promise.withResolvers<number>();
  const slow = op(() => gate.promise);
  const later = op((x: number) => started.push(`later ${x}`), slow);
  const bad = op(async (): Promise<number> => {
    await Promise.resolve();
    throw new Error("first");
  });
  await assertRejects(() => new AsyncExecutor().run([later, bad]), TaskError, "first");
  gate.resolve(1);
  await gate.promise;
  await Promise.resolve();
  assertEquals(started, []);
});

Deno.test("signal: cancels the run, also in a pause and in synchronous work", async () => {
  const controller = new AbortController();
  const never = op(() => new Promise<number>(() => {}));
  const run = new AsyncExecutor().run([never], { signal: controller.signal });
  controller.abort(new Error("enough"));
  const error = await failure(run);
  assertInstanceOf(error, CancelledError);
  assertStringIncludes(error.message, "enough");

  const failing = op((): number => {
    throw new Error("x");
  });
  const paused = new AsyncExecutor({ retries: 100 }).run([failing], { signal: AbortSignal.timeout(60) });
  assertInstanceOf(await failure(paused), CancelledError);

  const spin = task((x: number) => {
    const until = performance.now() + 2;
    while (performance.now() < until);
    return x;
  });
  let chain: Op<number> = data(0);
  for (let i = 0; i < 5_000; i++) chain = spin(chain);
  const start = performance.now();
  assertInstanceOf(
    await failure(new AsyncExecutor().run([chain], { signal: AbortSignal.timeout(50) })),
    CancelledError,
  );
  assert(performance.now() - start < 5_000);
  await assertRejects(
    () => new AsyncExecutor().run([data(1)], { signal: AbortSignal.abort() }),
    CancelledError,
  );
});

Deno.test("signal of a node: cancels that node alone", async () => {
  const controller = new AbortController();
  const never = task(() => new Promise<number>(() => {})).with({ signal: controller.signal })();
  const run = new AsyncExecutor().runSettled([never, op(() => 1)]);
  controller.abort(new Error("enough"));
  const [first, second] = await run;
  assert(first.status === "rejected");
  assertInstanceOf(first.reason.cause, CancelledError);
  assertEquals(second, { status: "fulfilled", value: 1 });
});

Deno.test("current() tells of the task, and its signal of the end of the run", async () => {
  const told: unknown[] = [];
  const flaky = task((): Promise<number> => {
    const { key, attempt, signal, progress } = current();
    progress(1, 2);
    told.push(key, attempt);
    if (attempt === 1) throw new Error("again");
    signal.addEventListener("abort", () => told.push("stopped"));
    return new Promise(() => {});
  }).with({ retries: 1 })();
  const error = await failure(new AsyncExecutor().run([flaky], { signal: AbortSignal.timeout(150) }));
  assertInstanceOf(error, CancelledError);
  assertEquals(told, [flaky.key, 1, flaky.key, 2, "stopped"]);
  assertThrows(() => current(), DaskError);
});

Deno.test("timeout: a node that takes too long fails, and may be repeated", async () => {
  let runs = 0;
  const slow = task(() => ++runs < 3 ? new Promise<number>(() => {}) : runs).with({ timeout: 20 });
  const error = await failure(new AsyncExecutor().run([slow()]));
  assertInstanceOf(error, TaskError);
  assertEquals((error.cause as DOMException).name, "TimeoutError");
  assertEquals(await new AsyncExecutor().run([slow()], { retries: 3 }), [3]);
});

Deno.test("N16: a cleanup runs after the children", async () => {
  const order: string[] = [];
  const parent = op(() => order.push("parent"));
  const child = op((x: number) => order.push(`child ${x}`), parent);
  const [done, value] = await new AsyncExecutor().run([cleanup(parent, [child]), child]);
  assertEquals([done, value], [undefined, 2]);
  assertEquals(order, ["parent", "child 1"]);
});

Deno.test("at: a part of nothing is an error that says so", async () => {
  const node = op((): [number, number] => null as unknown as [number, number]);
  const error = await failure(new AsyncExecutor().run([node[1]]));
  assertInstanceOf(error.cause, TypeError);
  assertStringIncludes(error.message, "Cannot take part 1 of null");
});

Deno.test("values that are no plain data pass as they are; such a node still has a key in its errors", async () => {
  class Box {
    constructor(readonly x: number) {}
  }
  const box = new Box(1);
  const [same] = await new AsyncExecutor().run([op((b: Box) => b, box)]);
  assertStrictEquals(same, box);
  const fail = op((_: Box): number => {
    throw new Error("x");
  }, box);
  const error = await failure(new AsyncExecutor().run([fail]));
  assertInstanceOf(error, TaskError);
  assertMatch(error.key, /^anonymous-[0-9a-f]{32}$/);
});

Deno.test("closing an executor cancels what runs, and it runs nothing more", async () => {
  const executor = new AsyncExecutor();
  const run = executor.run([op(() => new Promise<number>(() => {}))]);
  await executor[Symbol.asyncDispose]();
  assertInstanceOf(await failure(run), CancelledError);
  await assertRejects(() => executor.run([data(1)]), DaskError, "is closed");
});
