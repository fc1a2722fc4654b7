import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../protocol/errors.ts";
import { writeRunSpec } from "../../protocol/graph_pickle.ts";
import { keyFromWire } from "../../protocol/key.ts";
import {
  type CallFunction,
  evaluateSpec,
  readPickledCall,
  readTaskSpec,
  specDependencies,
  type SpecFunction,
  type TaskSpec,
} from "../../protocol/task_spec.ts";
import { runPython } from "../support/scheduler.ts";
import { byteLists, bytes, vectors } from "../vectors/vectors.ts";

const RELEASES = ["2025.4.0", "2026.8.0"];

const inputs = new Map<string, unknown>([
  ["a", "A"],
  ["b", "B"],
  ["delayed-leaf", "L"],
  [keyFromWire(["x", 1]), "X1"],
]);

/** A call as a list: what was called, positional arguments, keyword arguments. */
const told: CallFunction = (fn, args, kwargs) => [nameOf(fn), args, Object.fromEntries(kwargs)];

function nameOf(fn: SpecFunction): string {
  return fn.kind === "methodcaller" ? fn.name : fn.kind === "global" ? `${fn.module}.${fn.name}` : fn.text;
}

const add = (args: unknown[], kwargs = {}) => ["deno:add", args, kwargs];

/** By the names of `run_specs` in `tests/vectors/generate.py`. */
const EXPECTED: Readonly<Record<string, unknown>> = {
  a: add([1, 2]),
  b: add(["A", 10]),
  "two-futures": add(["A", "B"]),
  kwargs: add([1], { x: 2, name: "n" }),
  "kwargs-future": add([1], { x: "A" }),
  "list-of-futures": add([["A", "B", 3]]),
  "dict-of-futures": add([{ x: "A", y: ["B", 1] }]),
  "tuple-and-set": add([["A", 1], new Set(["B"])]),
  "plain-containers": add([[1, [2, 3]], { k: new Set([4]) }]),
  "bytes-argument": add([Uint8Array.of(0, 1)]),
  "ref-lookalike": add([{ $ref: "a" }, "a"]),
  "tuple-key": add([1]),
  "('x', 1)": add([1]),
  "uses-tuple-key": add(["X1"]),
  "operator-add": ["_operator.add", ["A", 1], {}],
  partial: add([1, "A"], { k: 2 }),
  lambda: ["run_specs.<locals>.<lambda> (a Python function that was sent by value)", ["A"], {}],
  "numpy-argument": add([Float64Array.from({ length: 300 }, (_, i) => i)]),
  "map-0": add([1]),
  "map-1": add([2]),
  "map2-0": add(["A", 3]),
  "map2-1": add(["B", 4]),
  "map-kwargs-0": add([1], { y: "A" }),
  "delayed-leaf": add([1]),
  "delayed-top": add([["L", { k: "L" }]], { n: "L" }),
  "delayed-dict": { a: "L", b: 2 },
};

for (const release of RELEASES) {
  Deno.test(`task spec: every task of Python's client ${release}`, () => {
    const seen: string[] = [];
    for (const vector of vectors(`run_specs-${release}.json`)) {
      const { name } = vector;
      assert(name in EXPECTED, `no expectation for ${name}`);
      const spec = readTaskSpec(bytes(vector.pickle), byteLists(vector.buffers));
      assertEquals(evaluateSpec(spec, inputs, told), EXPECTED[name], `${name}: ${vector.repr}`);
      assertEquals(specDependencies(spec).sort(), (vector.dependencies ?? []).map(keyFromWire).sort(), name);
      seen.push(name);
    }
    assertEquals(seen.length, Object.keys(EXPECTED).length);
  });
}

/** A pickle from opcodes written as text, `\x94` and all. */
function opcodes(text: string): Uint8Array {
  return Uint8Array.from(`\x80\x04${text}.`, (character) => character.charCodeAt(0));
}
const word = (text: string) => `\x8c${String.fromCharCode(text.length)}${text}`;
const name = (module: string, what: string) => `${word(module)}${word(what)}\x93`;
const spec = (what: string) => name("dask._task_spec", what);
const F = `${name("dask.utils", "methodcaller")}${word("deno:f")}\x85R`;
const ref = (key: string) => `${spec("TaskRef")}${word(key)}\x85R`;

Deno.test("task spec: tasks written as calls of their class", () => {
  const evaluate = (text: string) => evaluateSpec(readTaskSpec(opcodes(text)), inputs, told);
  assertEquals(evaluate(`${spec("Task")}(${word("k")}${F}C\x01x${ref("a")}${ref("b")}tR`), [
    "deno:f",
    [Uint8Array.of(120), "A", "B"],
    {},
  ]);
  // NEWOBJ_EX with keyword arguments.
  assertEquals(evaluate(`${spec("Task")}${word("k")}${F}K\x01\x87}(${word("n")}${ref("a")}u\x92`), [
    "deno:f",
    [1],
    { n: "A" },
  ]);
  assertEquals(evaluate(`${spec("Alias")}${word("k")}${word("a")}\x86R`), "A");
  assertEquals(evaluate(`${spec("Alias")}${word("a")}\x85R`), "A");
  assertEquals(evaluate(`${spec("Alias")}${word("k")}${ref("b")}\x86R`), "B");
  assertEquals(evaluate(`${spec("DataNode")}${word("k")}](K\x01K\x02e\x86R`), [1, 2]);
  assertEquals(evaluate(`${spec("List")}${ref("a")}K\x01\x86R`), ["A", 1]);
  assertEquals(evaluate(`${spec("Tuple")}${ref("a")}K\x01\x86R`), ["A", 1]);
  assertEquals(evaluate(`${spec("Set")}${ref("a")}K\x01\x86R`), new Set(["A", 1]));
  assertEquals(evaluate(`${spec("Dict")}${word("x")}${ref("a")}\x86R`), { x: "A" });
  assertEquals(evaluate(`${spec("Dict")}K\x05${ref("a")}\x86R`), new Map([[5, "A"]]));
  assertEquals(evaluate(`${spec("Dict")}}${word("x")}${ref("a")}s\x85R`), { x: "A" });
});

Deno.test("task spec: nested tasks are called first; only promises of calls are awaited", async () => {
  const inner = `${spec("Task")}N${F}${ref("a")}\x87R`;
  const whole = readTaskSpec(opcodes(`${spec("Task")}N${F}${spec("List")}${inner}K\x07\x86R\x87R`));
  const calls: unknown[] = [];
  const sync: CallFunction = (_, args) => (calls.push(args), calls.length);
  assertEquals(evaluateSpec(whole, inputs, sync), 2);
  assertEquals(calls, [["A"], [[1, 7]]]);
  const later = evaluateSpec(whole, inputs, (_, args) => Promise.resolve(args));
  assert(later instanceof Promise);
  assertEquals(await later, [[["A"], 7]]);
  const thenable = { then: 1 };
  const alias: TaskSpec = { kind: "alias", target: "t" };
  assertStrictEquals(evaluateSpec(alias, new Map([["t", thenable]]), sync), thenable);
});

Deno.test("task spec: what is no task, or lacks an input, says so", () => {
  assertThrows(() => readTaskSpec(opcodes("K\x01")), ProtocolError, "expected a task, got an int");
  assertThrows(
    () => readTaskSpec(opcodes(`${name("os", "system")}${word("x")}\x85R`)),
    ProtocolError,
    "os.system",
  );
  assertThrows(() => readTaskSpec(opcodes(`${spec("Task")})\x81K\x01b`)), ProtocolError, "slots");
  const task = readTaskSpec(opcodes(`${spec("Alias")}${word("k")}${word("nowhere")}\x86R`));
  assertThrows(() => evaluateSpec(task, inputs, told), ProtocolError, '"nowhere"');
});

Deno.test("task spec: doublings and nesting are refused quickly", () => {
  // x = List(1); x = List(x, x), 100 times, by the memo.
  let doubled = `${spec("List")}\x94K\x01\x85R\x94`;
  for (let i = 0; i < 100; i++) {
    doubled += `h\x00h${String.fromCharCode(i + 1)}h${String.fromCharCode(i + 1)}\x86R\x94`;
  }
  const start = performance.now();
  assertThrows(() => readTaskSpec(opcodes(doubled)), ProtocolError, "too many times");
  const nested = `${spec("List")}\x94`.repeat(1) + "h\x00".repeat(999) + `K\x01` + "\x85R".repeat(1000);
  assertThrows(() => readTaskSpec(opcodes(nested)), ProtocolError, "levels of nesting");
  assert(performance.now() - start < 2000);
});

Deno.test("task spec: one task by itself is read as it was written", () => {
  const payload = Uint8Array.of(1, 2);
  const pickle = writeRunSpec({ key: "k", function: "deno:op/f", payload, dependencies: ["a", "b"] });
  assertEquals(evaluateSpec(readTaskSpec(pickle), inputs, told), ["deno:op/f", [payload, "A", "B"], {}]);
  assertEquals(specDependencies(readTaskSpec(pickle)), ["a", "b"]);
});

Deno.test("task spec: a call whose parts are pickled each by itself", async () => {
  const { code, stdout, stderr } = await runPython(`
import functools, json, os, pickle
from dask.utils import methodcaller
from distributed.protocol.pickle import dumps
f = methodcaller("deno:f")
def mine(): pass
parts = [(f, (1, "x"), {"k": [2]}), (functools.partial(f, 0, j=1), (1,), {"k": 2}), (os.getpid, (), {}), (mine, (), {})]
print(json.dumps([[dumps(part).hex() for part in call] for call in parts]))`);
  assertEquals(code, 0, stderr);
  const calls = (JSON.parse(stdout) as string[][]).map((call) => call.map((hex) => Uint8Array.fromHex(hex)));
  const values = calls.map(([fn, args, kwargs]) =>
    evaluateSpec(readPickledCall(fn!, args!, kwargs!), inputs, told)
  );
  assertEquals(values, [
    ["deno:f", [1, "x"], { k: [2] }],
    ["deno:f", [0, 1], { j: 1, k: 2 }],
    ["posix.getpid", [], {}],
    ["mine (a Python function that was sent by value)", [], {}],
  ]);
  const [fn, args, kwargs] = calls[0]!;
  assertEquals(evaluateSpec(readPickledCall(fn!, null, null), inputs, told), ["deno:f", [], {}]);
  assertThrows(() => readPickledCall(fn!, kwargs!, null), ProtocolError, "a tuple of arguments");
  assertThrows(() => readPickledCall(fn!, args!, args!), ProtocolError, "a dict of keyword arguments");
});
