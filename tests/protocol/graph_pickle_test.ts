import { assert, assertEquals } from "@std/assert";
import { encodeCall } from "../../protocol/call.ts";
import { type GraphForm, type GraphTask, writeExprPayload, writeGraph } from "../../protocol/graph_pickle.ts";
import { keyFromWire } from "../../protocol/key.ts";
import { decodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { decodePickle } from "../../protocol/pickle/decode.ts";
import { isNode, qualifiedName } from "../../protocol/pickle/value.ts";
import { runPython } from "../support/scheduler.ts";

const FORMS: readonly GraphForm[] = ["reconstruct", "newobj"];
const collect = encodeCall({ function: { kind: "builtin", name: "collect" }, args: [{ $dependency: 0 }] });

const tasks: readonly GraphTask[] = [
  { key: "a-1", function: "deno:op/a", payload: Uint8Array.of(1), dependencies: [] },
  { key: "b-1", function: "deno:op/b", payload: collect, dependencies: ["a-1"] },
  {
    key: "c-1",
    function: "deno:op/b",
    payload: new Uint8Array(300),
    dependencies: ["b-1", "a-1", "elsewhere"],
  },
  {
    key: keyFromWire(["x", 1, ["y", 2.5]]),
    function: "deno:op/é",
    payload: new Uint8Array(0),
    dependencies: ["c-1"],
  },
  {
    key: keyFromWire(7),
    function: "deno:op/a",
    payload: Uint8Array.of(2),
    dependencies: [keyFromWire(["x", 1, ["y", 2.5]])],
  },
  {
    key: "schlüssel",
    function: "deno:op/a",
    payload: Uint8Array.of(3),
    dependencies: [keyFromWire(7), "z-1"],
  },
  { key: "z-1", function: "deno:op/a", payload: Uint8Array.of(4), dependencies: [] },
];

Deno.test("graph: dask rebuilds the expression and its tasks, in both forms", async () => {
  const { code, stdout, stderr } = await runPython(
    `
import base64, json, pickle, sys
from dask._task_spec import Task
from dask.utils import methodcaller
for text in json.loads(sys.argv[1]):
    expr = pickle.loads(base64.b64decode(text))
    assert type(expr).__name__ == "LLGExpr", expr
    assert expr.deterministic_token == "0" * 32
    graph = expr.__dask_graph__()
    deps = {k: set(t.dependencies) for k, t in graph.items()}
    T = ("x", 1, ("y", 2.5))
    assert deps == {"a-1": set(), "b-1": {"a-1"}, "c-1": {"b-1", "a-1", "elsewhere"}, T: {"c-1"}, 7: {T},
                    "schl\\u00fcssel": {7, "z-1"}, "z-1": set()}, deps
    assert all(type(t) is Task and t.key == k and type(t.func) is methodcaller for k, t in graph.items())
    assert [t.func.method for t in graph.values()] == ["deno:op/a", "deno:op/b", "deno:op/b", "deno:op/\\u00e9"] + ["deno:op/a"] * 3
    assert [len(t.args) for t in graph.values()] == [1, 2, 4, 2, 2, 3, 1]
    assert [t.args[0] for t in graph.values()][4:] == [b"\\x02", b"\\x03", b"\\x04"]
    assert [a.key for a in graph["c-1"].args[1:]] == ["b-1", "a-1", "elsewhere"]
    again = pickle.loads(pickle.dumps(graph["c-1"]))
    assert again == graph["c-1"]
print("ok")
`,
    [JSON.stringify(FORMS.map((form) => writeGraph(tasks, "0".repeat(32), form).toBase64()))],
  );
  assertEquals([code, stdout.trim()], [0, "ok"], stderr);
});

Deno.test("graph: names, keys and functions are written once", () => {
  const many = Array.from({ length: 2000 }, (_, i): GraphTask => ({
    key: `task-${i}`,
    function: "deno:op/f",
    payload: Uint8Array.of(i & 255),
    dependencies: i === 0 ? [] : [`task-${i - 1}`],
  }));
  const pickle = writeGraph(many, "t", "reconstruct");
  assert(pickle.length < 2000 * 52, `${pickle.length} bytes`);
  const expr = decodePickle(pickle);
  assert(isNode(expr, "object"));
  assertEquals(qualifiedName(expr.callable), "dask._expr.Expr._reconstruct");
  const graph = expr.args[1];
  assert(isNode(graph, "dict"));
  assertEquals(graph.entries.length, 4000);
  const [, task, , next] = graph.entries;
  assert(isNode(task, "object") && isNode(next, "object"));
  assert(task.args[1] === next.args[1], "the function is one object");
});

Deno.test("graph: the payload has one frame and the smallest header", () => {
  const pickle = writeGraph([], "t", "newobj");
  const payload = writeExprPayload(pickle);
  assertEquals(payload.frames, [pickle]);
  assertEquals({ ...(decodeMsgpack(payload.header) as object) }, {
    serializer: "pickle",
    writeable: [],
    "num-sub-frames": 1,
  });
});

Deno.test("graph: the bytes of a small graph are those that were checked by hand", () => {
  const one: GraphTask = { key: "k", function: "deno:op/f", payload: Uint8Array.of(5), dependencies: ["d"] };
  const text = (word: string) => `\x8c${String.fromCharCode(word.length)}${word}`;
  const global = (module: string, name: string) => `${text(module)}${text(name)}\x93\x94`;
  assertEquals(
    String.fromCharCode(...writeGraph([one], "t", "reconstruct")),
    `\x80\x04${global("dask._expr", "Expr._reconstruct")}(${global("dask._expr", "LLGExpr")}}(${
      text("k")
    }\x94` +
      `${global("dask._task_spec", "Task")}(h\x02${global("dask.utils", "methodcaller")}${
        text("deno:op/f")
      }\x85R\x94` +
      `C\x01\x05${global("dask._task_spec", "TaskRef")}${text("d")}\x94\x85RtRu${text("t")}}tR.`,
  );
});
