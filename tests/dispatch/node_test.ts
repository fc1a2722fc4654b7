import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { lower } from "../../dispatch/lower.ts";
import {
  AsyncExecutor,
  cleanup,
  collect,
  data,
  FUTURE,
  type FutureLike,
  op,
  python,
  task,
  tasks,
} from "../../dispatch/mod.ts";
import { SerializationError } from "../../protocol/errors.ts";

interface Module {
  add(a: number, b: number): number;
  divmod(a: number, b: number): [number, number];
}

const nothing = { held: () => false };
const url = "file:///nowhere/tasks.ts";

function future<T>(key: string, value: T): FutureLike<T> {
  return { key, [FUTURE]: true, result: () => Promise.resolve(value) };
}

Deno.test("N1 N3: op defers a call; arguments are evaluated at once", () => {
  let calls = 0;
  let argument = 1;
  const node = op((x: number) => {
    calls++;
    return x;
  }, argument++);
  assertEquals(calls, 0);
  assertEquals(argument, 2);
  assertEquals(node.dependencies, []);
});

Deno.test("N1: calling a task builds a node and imports nothing", () => {
  const t = tasks<Module>(url);
  assertEquals(t.add(1, 2).label, "add");
});

Deno.test("N4: what is no function is refused at run time too", () => {
  for (const value of [3, true, undefined, null, [1, 2], {}]) {
    assertThrows(() => op(value as () => void), TypeError, "expects a function");
    assertThrows(() => task(value as () => void), TypeError, "Cannot make a task of");
  }
  const inc = task((x: number) => x + 1);
  assertThrows(() => op(inc as unknown as () => void), TypeError, "is a task already");
});

Deno.test("N5: the label is the function's name, and can be set until the key is known", () => {
  function slowadd(a: number, b: number): number {
    return a + b;
  }
  const node = op(slowadd, 1, 2);
  assertEquals(node.label, "slowadd");
  assertEquals(op((a: number) => a, 1).label, "anonymous");
  assertEquals(op(Math.max, 1, 2).label, "max");
  node.label = "four";
  assertEquals(node.label, "four");
  assertMatch(node.key, /^four-[0-9a-f]{32}$/);
  assertThrows(() => node.label = "five", TypeError, "its key is known already");
  assertEquals(node.label, "four");
});

Deno.test("N6: every kind of node has a label", () => {
  const one = data(1);
  assertEquals(
    [one.label, collect([one]).label, cleanup(one, []).label, data([1]).at(0).label],
    ["data", "collect", "cleanup", "at"],
  );
});

Deno.test("N7: dependencies are the nodes in the arguments, each once, also one level inside arrays", () => {
  const a = op(() => 3);
  const b = op((x: number) => x, 4);
  assertEquals(a.dependencies.length, 0);
  const c = op(Math.max, a, b, a, 7);
  assertEquals(c.dependencies.length, 2);
  assert(c.dependencies[0] === a && c.dependencies[1] === b);
  const sum = op((xs: number[]) => xs.length, [a, 1, c]);
  assertEquals(sum.dependencies.length, 2);
  assert(sum.dependencies[0] === a && sum.dependencies[1] === c);
});

Deno.test("N7: an array with nodes is copied, so that later changes do not reach the node", () => {
  const list = [op(() => 1)];
  const node = op((xs: number[]) => xs.length, list);
  list.push(op(() => 2));
  assertEquals(lower([node], nothing).tasks.at(-1)!.call.args, [[{ $dependency: 0 }]]);
});

Deno.test("N8: a node is no promise and is not awaited away", async () => {
  const node = op(() => 1);
  const returned = await (async () => await Promise.resolve(node))();
  assertStrictEquals(returned, node);
});

Deno.test("N11: data is a constant", async () => {
  const [value] = await new AsyncExecutor().run([data(new Map([["a", 1]]))]);
  assertEquals(value, new Map([["a", 1]]));
  assertThrows(() => data(op(() => 1)), TypeError, "Cannot make data of a node");
});

Deno.test("N12: tuples destructure, parts are taken by index, and nesting works", async () => {
  const t = task((a: number, b: number): [number, [number, number]] => [a, [a, b]]);
  const node = t(7, 2);
  const [a, pair] = node;
  const [, b] = pair;
  assertEquals(await new AsyncExecutor().run([a, b, node[1][0], node.at(0)]), [7, 2, 7, 7]);
  assertStrictEquals(node.at(0), a);
  assertStrictEquals(node[0], a);
});

Deno.test("N12: parts of objects are taken by name", async () => {
  const node = op(() => ({ name: "x", size: 3 }));
  assertEquals(await new AsyncExecutor().run([node.at("size")]), [3]);
  assertThrows(() => node.at(Symbol("s") as never), TypeError, "expected a string or a number");
});

Deno.test("N12: spreading a node ends with a hint to at()", () => {
  const node = op((): [number, number] => [1, 2]);
  const many: unknown[] = [];
  assertThrows(
    () => {
      for (const part of node as unknown as Iterable<unknown>) many.push(part);
    },
    RangeError,
    "at(i)",
  );
  assertEquals(many.length, 64);
});

Deno.test("N13: a part is a task of its own beside its parent", () => {
  const graph = lower([op((): [number, number] => [1, 2])[1]], nothing);
  assertEquals(graph.tasks.length, 2);
  assertEquals(graph.tasks[1]!.call, {
    function: { kind: "builtin", name: "at" },
    args: [{ $dependency: 0 }, 1],
  });
  assertEquals(graph.tasks[1]!.dependencies, [graph.tasks[0]!.key]);
});

Deno.test("N14 N15: collect gathers many nodes into one list, from any iterable", async () => {
  const nodes = [1, 2, 3].map((i) => op((x: number) => 2 * x, i));
  const [list] = await new AsyncExecutor().run([collect(nodes)]);
  assertEquals(list, [2, 4, 6]);
  const [again] = await new AsyncExecutor().run([collect(new Set(nodes) as unknown as typeof nodes)]);
  assertEquals(again, [2, 4, 6]);
  assertStringIncludes(Deno.inspect(collect(nodes)), "3 Ops");
});

Deno.test("N16: the result of a cleanup cannot be a dependency", () => {
  const parent = op(() => 1);
  const done = cleanup(parent, [op((x: number) => x, parent)]);
  assertThrows(() => op((x: unknown) => x, done), TypeError, "cleanup node");
  assertThrows(() => collect([done]), TypeError, "cleanup node");
  assertEquals(done.dependencies.length, 2);
});

Deno.test("N17: nodes compare by identity", () => {
  const [a, b] = [op(() => 1), op(() => 1)];
  assert(a !== b);
  assertEquals(new Set([a, b, a]).size, 2);
  assertEquals(a.key, b.key);
});

Deno.test("N18: nodes print their kind, label and types of arguments, and do not compute a key for it", () => {
  const t = tasks<Module>(url); // there is no such module: a key could not be computed
  const pair = t.divmod(7, 2);
  assertEquals(Deno.inspect(pair), "Op divmod(number, number)");
  assertEquals(Deno.inspect(t.add(pair[0], 1)), "Op add(Op at, number)");
  assertEquals(Deno.inspect(pair[1]), "Op divmod.at(1)");
  assertEquals(Deno.inspect(data(new Float64Array(3))), "Op data(Float64Array(3))");
  assertEquals(Deno.inspect(t), "Tasks file:///nowhere/tasks.ts");
});

Deno.test("tasks(): the proxy is not thenable and answers no symbols", async () => {
  const t = await Promise.resolve(tasks<Module>(url));
  assertEquals((t as { then?: unknown }).then, undefined);
  assertEquals(Reflect.get(t, Symbol.iterator), undefined);
  assertStrictEquals(t.add, t.add);
  assertThrows(() => Object.assign(t, { add: 1 }), TypeError, "Cannot set");
});

Deno.test("tasks(): a relative path is refused with the way out", () => {
  assertThrows(() => tasks<Module>("./tasks.ts"), TypeError, `new URL("./tasks.ts", import.meta.url)`);
  assertThrows(() => tasks<Module>(url, { integrity: "md5-x" }), TypeError, "Cannot read the integrity");
  assertThrows(() => python("numpy.mean"), TypeError, `"module:function"`);
});

Deno.test("with(): options bind the nodes that the task builds, and add up", () => {
  const inc = task((x: number) => x + 1).with({ retries: 2 }).with({ label: "plus" });
  const node = inc(inc(1));
  assertEquals(node.label, "plus");
  const graph = lower([node], nothing);
  assertEquals(graph.tasks.map(({ options }) => options.retries), [2, 2]);
  assertEquals(task((x: number) => x + 1)(1).key.slice(-32), inc(1).key.slice(-32));
});

Deno.test("K1: identical Ops have the same key; other arguments, code or dependencies another one", () => {
  const make = (a: unknown): string => op((x: unknown) => x, a).key;
  assertEquals(make(1), make(1));
  assertEquals(make([1, { a: "x" }]), make([1, { a: "x" }]));
  assertNotEquals(make(1), make(2));
  assertNotEquals(op((x: number) => x, 1).key, op((x: number) => x + 0, 1).key);
  const one = op(() => 1);
  const two = op(() => 2);
  const of = (node: typeof one): string => op((x: number) => x, node).key;
  assertEquals(of(one), of(op(() => 1)));
  assertNotEquals(of(one), of(two));
  const pair = op((a: number, b: number) => a - b, one, two);
  assertNotEquals(pair.key, op((a: number, b: number) => a - b, two, one).key);
});

Deno.test("K1: a future and the node behind it are the same dependency", () => {
  const one = op(() => 1);
  const double = task((x: number) => 2 * x);
  assertEquals(double(one).key, double(future(one.key, 1)).key);
  assertNotEquals(double(one).key, double(one.key as unknown as number).key);
});

Deno.test("K1: pure: false gives a fresh key, to this node alone", () => {
  const now = task(() => Date.now()).with({ pure: false });
  const [a, b] = [now(), now()];
  assertNotEquals(a.key, b.key);
  assertEquals(a.key, a.key);
  assertEquals(op((x: number) => x, a).key, op((x: number) => x, a).key);
  assertMatch(a.key, /^anonymous-[0-9a-f]{32}$/);
});

Deno.test("K1: a given key stays as it is", () => {
  assertEquals(task((x: number) => x).with({ key: "my key" })(1).key, "my key");
});

Deno.test("K2: the key begins with the label", () => {
  const inc = (x: number): number => x + 1;
  assertMatch(op(inc, 1).key, /^inc-[0-9a-f]{32}$/);
});

Deno.test("K3: parts, lists and constants have keys of their own kind", () => {
  const pair = op((): [number, number] => [1, 2]);
  assertMatch(pair[0].key, /^at-[0-9a-f]{32}$/);
  assertMatch(collect([pair]).key, /^collect-/);
  assertMatch(data(1).key, /^data-/);
  assertNotEquals(pair[0].key, pair[1].key);
  assertNotEquals(pair.at(0).key, pair.at("0" as unknown as 0).key);
});

Deno.test("K4: what is no node is refused with its type's name", () => {
  assertThrows(() => collect([new Date() as never]), TypeError, "expected an Op, got Date");
  assertThrows(() => lower([5 as never], nothing), TypeError, "expected an Op, got number");
});

Deno.test("K6: a string that equals a key stays a string", () => {
  const one = op(() => 1);
  const node = op((x: number, y: string) => `${x}${y}`, one, one.key);
  const graph = lower([node], nothing);
  assertEquals(graph.tasks[1]!.call.args, [{ $dependency: 0 }, one.key]);
  assertThrows(
    () => op((x: unknown) => x, { $dependency: 0 }),
    TypeError,
    `reserved field "$dependency"`,
  );
});

Deno.test("K8: a node deeper than one level, or inside an object, is refused with its path", () => {
  const one = op(() => 1);
  const take = task((x: unknown) => x);
  const refused = (value: unknown, path: string): void => {
    const error = assertThrows(() => take(value), TypeError, "collect()");
    assertStringIncludes(error.message, path);
  };
  refused([[one]], "anonymous(args[0][0][0])");
  refused({ a: { b: one } }, "anonymous(args[0].a.b)");
  refused([{ x: [one] }], "anonymous(args[0][0].x[0])");
  refused(new Map([["k", one]]), "anonymous(args[0].get(string))");
  refused(new Set([future("k", 1)]), "a future (k)");
  assertThrows(() => data({ x: one }), TypeError, "data(value.x)");
});

Deno.test("K5 K9: an argument that cannot be sent is refused at submit by its place", () => {
  class Box {
    constructor(readonly x: number) {}
  }
  const take = task((..._: unknown[]) => 1).with({ label: "take" });
  const refused = (value: unknown, path: string, text: string): void => {
    const error = assertThrows(() => lower([take(0, value)], nothing), SerializationError, text);
    assertEquals(error.path, path);
  };
  refused(() => 1, "take(args[1])", "a function");
  refused({ x: { y: Math.max } }, "take(args[1].x.y)", `the function "max"`);
  refused([1, [Symbol("s")]], "take(args[1][1][0])", "a symbol");
  refused({ "a b": new Box(1) }, `take(args[1]["a b"])`, "an instance of Box");
  refused(Promise.resolve(1), "take(args[1])", "await it first");
  refused(new Map([["k", [/x/]]]), `take(args[1].get("k")[0])`, "an instance of RegExp");
  refused(new ArrayBuffer(8), "take(args[1])", "wrap it in a Uint8Array");
  refused(new Set([[1]]), "take(args[1])", "use an Array");
  const loop: unknown[] = [];
  loop.push(loop);
  refused(loop, "take(args[1][0])", "contains itself");
  const one = op(() => 1);
  const error = assertThrows(
    () => lower([take([one, new Box(1)])], nothing),
    SerializationError,
  );
  assertEquals(error.path, "take(args[0][1])");
  assertThrows(() => data(new Box(1)).key, SerializationError, "data(value)");
});

Deno.test("keys of long chains do not overflow the stack", () => {
  let node = op(() => 0);
  for (let i = 0; i < 50_000; i++) node = op((x: number) => x + 1, node);
  assertMatch(node.key, /^anonymous-/);
});

Deno.test("a function that cannot travel is refused at submit, not before", async () => {
  const captured = Math.random();
  const node = op(() => captured);
  assertEquals(await new AsyncExecutor().run([node]), [captured]);
  const error = assertThrows(() => lower([node], nothing), TypeError, `"captured"`);
  assertInstanceOf(error, TypeError);
  assertThrows(() => lower([op(Math.max, 1, 2)], nothing), TypeError, `Cannot send the function "max"`);
  await assertRejects(() => new AsyncExecutor().run([5 as never]), TypeError, "node 0 of the run");
});
