import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { lower, type LowerContext, type LoweredGraph } from "../../dispatch/lower.ts";
import {
  type AnyOp,
  cleanup,
  collect,
  data,
  FUTURE,
  type FutureLike,
  op,
  PART,
  python,
  task,
} from "../../dispatch/mod.ts";
import { DaskError } from "../../protocol/errors.ts";

const add = task((a: number, b: number) => a + b).with({ label: "add" });
const total = task((parts: readonly number[]) => parts.length).with({ label: "total" });

function lowered(outputs: readonly AnyOp[], context: Partial<LowerContext> = {}): LoweredGraph {
  return lower(outputs, { held: () => false, ...context });
}

function future<T>(key: string, value: T): FutureLike<T> {
  return { key, [FUTURE]: true, result: () => Promise.resolve(value) };
}

Deno.test("lower: tasks come dependencies first, each key once, with priorities for all", () => {
  const x = add(1, 2);
  const graph = lowered([add(x, add(1, 2)), x]);
  assertEquals(graph.tasks.length, 2);
  assertEquals(graph.outputs, [graph.tasks[1]!.key, graph.tasks[0]!.key]);
  assertEquals(graph.tasks[1]!.dependencies, [graph.tasks[0]!.key]);
  assertEquals(graph.tasks[1]!.call.args, [{ $dependency: 0 }, { $dependency: 0 }]);
  assertEquals([...graph.priorities], [[graph.tasks[0]!.key, 0], [graph.tasks[1]!.key, 1]]);
});

Deno.test("lower: is plain data", () => {
  const graph = lowered([total([add(1, 2), 3, add(4, 5)]), collect([data([1]), add(1, 2)])]);
  assertEquals(
    structuredClone(graph.tasks.map(({ options: _, ...task }) => task)).length,
    graph.tasks.length,
  );
});

Deno.test("K7: references stand at the top level and one level inside arrays", () => {
  const [a, b] = [add(1, 2), add(3, 4)];
  const graph = lowered([total([a, 7, b, a])]);
  assertEquals(graph.tasks.at(-1)!.call.args, [[{ $dependency: 0 }, 7, { $dependency: 1 }, {
    $dependency: 0,
  }]]);
  assertEquals(graph.tasks.at(-1)!.dependencies, [a.key, b.key]);
});

Deno.test("lower: futures are dependencies and make no tasks", () => {
  const graph = lowered([add(future("far-1", 1), add(1, 2))]);
  assertEquals(graph.tasks.length, 2);
  assertEquals(graph.tasks[1]!.dependencies, ["far-1", graph.tasks[0]!.key]);
});

Deno.test("C7: what the caller holds is not made again, nor what only it needs", () => {
  const deep = add(1, 2);
  const middle = add(deep, 3);
  const top = add(middle, add(deep, 10));
  assertEquals(lowered([top]).tasks.length, 4);
  const graph = lowered([top], { held: (key) => key === middle.key });
  assertEquals(graph.tasks.map(({ key }) => key), [deep.key, add(deep, 10).key, top.key]);
  assertEquals(graph.tasks[2]!.dependencies[0], middle.key);
  const all = lowered([top], { held: (key) => key === top.key });
  assertEquals([all.tasks.length, all.outputs], [0, [top.key]]);
});

Deno.test("C9: options of the submission bind the submitted nodes alone; defaults bind all; a node's own bind it", () => {
  const x = add.with({ retries: 3, priority: 1 })(1, 2);
  const y = add(x, 1);
  const graph = lowered([y], {
    options: { workers: ["w"], priority: 5 },
    defaults: { retries: 1, timeout: 9 },
  });
  const [first, second] = graph.tasks;
  assertEquals(first!.options, { label: "add", retries: 3, priority: 1, timeout: 9 });
  assertEquals(second!.options, { label: "add", retries: 1, timeout: 9, workers: ["w"], priority: 5 });
});

Deno.test("lower: pure: false gives the submitted node alone a fresh key", () => {
  const x = add(1, 2);
  const y = add(x, 3);
  const [once, twice] = [
    lowered([y], { options: { pure: false } }),
    lowered([y], { options: { pure: false } }),
  ];
  assertNotEquals(once.outputs[0], twice.outputs[0]);
  assertMatch(once.outputs[0]!, /^add-[0-9a-f]{32}$/);
  assertEquals(once.tasks[0]!.key, x.key);
  assertNotEquals(once.outputs[0], y.key);
  const both = lowered([x, y], { options: { pure: false } });
  assertEquals(both.tasks[1]!.dependencies, [both.outputs[0]!]);
});

Deno.test("lower: key and label of the submission", () => {
  const x = add(1, 2);
  assertEquals(lowered([x], { options: { key: "mine" } }).tasks[0]!.key, "mine");
  assertThrows(
    () => lowered([x, add(x, 1)], { options: { key: "mine" } }),
    TypeError,
    `the key "mine" to 2 outputs`,
  );
  const named = lowered([x], { options: { label: "sum" } });
  assertMatch(named.outputs[0]!, /^sum-[0-9a-f]{32}$/);
  assertEquals(named.outputs[0]!.slice(-32), x.key.slice(-32));
});

Deno.test("lower: one given key for two different tasks is refused, for the same task not", () => {
  const mine = add.with({ key: "mine" });
  assertEquals(lowered([collect([mine(1, 2), mine(1, 2)])]).tasks.length, 2);
  assertThrows(() => lowered([collect([mine(1, 2), mine(1, 3)])]), TypeError, `the key "mine" for two`);
});

Deno.test("lower: small constants travel inside calls, others as tasks of their own", () => {
  const small = lowered([add(data(1), data(2)), collect([data("a"), add(3, 4)])]);
  assertEquals(small.tasks.map(({ label }) => label), ["add", "add", "collect"]);
  assertEquals(small.tasks[0]!.call.args, [1, 2]);
  assertEquals(small.tasks[2]!.call.args, ["a", { $dependency: 0 }]);
  const table = data(new Float64Array(3));
  const large = lowered([collect([table, table]), collect([table])]);
  assertEquals(large.tasks.map(({ label }) => label), ["data", "collect", "collect"]);
  assertEquals(large.tasks[0]!.call, {
    function: { kind: "builtin", name: "identity" },
    args: [new Float64Array(3)],
  });
  assertEquals(lowered([data(1)]).tasks.length, 1);
});

Deno.test("K10: parts and lists are built in", () => {
  const pair = op((): [number, number] => [1, 2]);
  const graph = lowered([collect([pair[0], pair[1]])]);
  assertEquals(graph.tasks.map(({ call }) => call.function.kind), [
    "source",
    "builtin",
    "builtin",
    "builtin",
  ]);
});

Deno.test("N16: a cleanup waits for the children and does not hold the parent", () => {
  const parent = add(1, 2);
  const child = add(parent, 3);
  const graph = lowered([cleanup(parent, [child])]);
  assertEquals(graph.tasks.map(({ label }) => label), ["add", "add", "cleanup"]);
  assertEquals(graph.tasks[2]!.dependencies, [child.key]);
});

Deno.test("E4: inputs stand in the place of nodes; what only they needed is not made, and keys below them change", () => {
  const deep = add(1, 2);
  const x = add(deep, 3);
  const y = add(x, 4);
  const graph = lowered([y], { inputs: new Map([[x, 50]]) });
  assertEquals(graph.tasks.map(({ call }) => call.function.kind), ["builtin", "source"]);
  assertEquals(graph.tasks[0]!.call.args, [50]);
  assertNotEquals(graph.outputs[0], y.key);
  assertEquals(graph.outputs, lowered([y], { inputs: new Map([[x, 50]]) }).outputs);
  assertNotEquals(graph.outputs, lowered([y], { inputs: new Map([[x, 51]]) }).outputs);
  const far = lowered([y], { inputs: new Map([[x, future("far-1", 1)]]) });
  assertEquals(far.tasks.map(({ dependencies }) => dependencies), [["far-1"]]);
});

Deno.test("python: tasks are refused unless the caller takes them", () => {
  const mean = python<(xs: number[]) => number>("numpy:mean");
  const node = mean([add(1, 2), 3]);
  assertThrows(() => lowered([node]), DaskError, `"numpy:mean"`);
  const graph = lowered([node], { python: true });
  assertEquals(graph.tasks[1]!.python, { module: "numpy", name: "mean" });
  assertEquals(graph.tasks[1]!.call.args, [[{ $dependency: 0 }, 3]]);
  assertMatch(graph.outputs[0]!, /^mean-/);
});

Deno.test("a function that captures is refused by name, with the way out", () => {
  const captured = Math.random();
  const error = assertThrows(() => lowered([op(() => captured)]), TypeError);
  assertStringIncludes(error.message, `Cannot send the function "anonymous": it uses "captured"`);
  assertStringIncludes(error.message, "use tasks()");
});

Deno.test("lower: 100,000 small ops with keys take about a second or less", () => {
  lowered(Array.from({ length: 5_000 }, (_, i) => add(i, -1))); // warm
  const nodes = Array.from({ length: 100_000 }, (_, i) => add(i, i + 1));
  const start = performance.now();
  const graph = lowered(nodes);
  const ms = performance.now() - start;
  assertEquals(graph.tasks.length, 100_000);
  // 0.4 to 0.6 s on a quiet machine of two cores.
  assertLess(ms, 3000);
  assert(new Set(graph.outputs).size === 100_000);
});

Deno.test("lower: a chain of 100,000 takes no more than as many side by side", () => {
  let node = add(0, 1);
  for (let i = 0; i < 100_000; i++) node = add(node, 1);
  const start = performance.now();
  assertEquals(lowered([node]).tasks.length, 100_001);
  assertLess(performance.now() - start, 3000);
});

// --- Parts of lists ---

function part<T>(key: string, index: number, value: T): FutureLike<T> {
  return { ...future(key, value), [PART]: index };
}

Deno.test("lower: a future of a part is one dependency for all parts of its list, taken where the call runs", () => {
  const [task] = lowered([total([part("list-1", 3, 5), part("list-1", 4, 6)])], { parts: true }).tasks;
  assertEquals(task!.dependencies, ["list-1"]);
  assertEquals(task!.call.args, [[{ $dependency: 0, part: 3 }, { $dependency: 0, part: 4 }]]);
});

Deno.test("lower: where the list cannot be had, each part is a value with a name of its own", () => {
  const graph = lowered([add(part("list-1", 3, 5), part("list-1", 4, 6))]);
  assertEquals(graph.tasks[0]!.dependencies, ["list-1[3]", "list-1[4]"]);
  assertEquals(graph.tasks[0]!.call.args, [{ $dependency: 0 }, { $dependency: 1 }]);
  assertEquals(graph.futures.length, 2);
});

Deno.test("lower: for Python, and in the place of a node, a part is a task, made once", () => {
  const sqrt = python<(x: number) => number>("math:sqrt");
  const third = part("list-1", 3, 9);
  const graph = lowered([sqrt(third), sqrt.with({ pure: false })(third)], { parts: true, python: true });
  const taken = graph.tasks.filter(({ label }) => label === "at");
  assertEquals(taken.map(({ call, dependencies }) => [call.args, dependencies]), [
    [[{ $dependency: 0 }, 3], ["list-1"]],
  ]);
  assertEquals(graph.tasks.length, 3);
  const x = data(1);
  const replaced = lowered([add(x, 1)], { parts: true, inputs: new Map([[x, third]]) });
  assertEquals(replaced.tasks.map(({ key }) => key), [taken[0]!.key, replaced.outputs[0]!]);
});

Deno.test("lower: keys tell parts of one list apart", () => {
  const keys = [part("list-1", 3, 0), part("list-1", 4, 0), future("list-1", 0)].map((f) => add(f, 1).key);
  assertEquals(new Set(keys).size, 3);
});
