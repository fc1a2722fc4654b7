import { assert, assertEquals, assertThrows } from "@std/assert";
import type { SubmittedTask } from "../../client/machine/events.ts";
import { readFromScheduler, type SubmittingTask, writeToScheduler } from "../../client/wire.ts";
import { isSerialized } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";

const ID = "Client-1";
const read = (message: unknown) => readFromScheduler(message, { clientId: ID });
const bytes = (text: string) => Uint8Array.from(text, (char) => char.charCodeAt(0));

Deno.test("the client reads what the scheduler says", () => {
  const cases: [unknown, unknown][] = [
    [{ op: "stream-start", warning: null, error: null }, { type: "ignore", op: null }],
    [{ op: "key-in-memory", key: "x" }, { type: "key-in-memory", key: "x", holder: null }],
    [{ op: "key-in-memory", key: "x", workers: ["tcp://a:1"] }, {
      type: "key-in-memory",
      key: "x",
      holder: "tcp://a:1",
    }],
    [{ op: "task-erred", key: "x", exception: 1, traceback: null }, {
      type: "task-erred",
      key: "x",
      exception: 1,
      traceback: null,
    }],
    [{ op: "cancelled-keys", keys: ["x", ["y", 1]] }, {
      type: "cancelled-keys",
      keys: ["x", '\u0001["y",1]'],
      reason: null,
    }],
    [{ op: "cancelled-keys", keys: [], reason: "lost dependencies", msg: null }, {
      type: "cancelled-keys",
      keys: [],
      reason: "lost dependencies",
    }],
    [{ op: "cancelled-keys", keys: [], reason: "a", msg: "b" }, {
      type: "cancelled-keys",
      keys: [],
      reason: "a: b",
    }],
    [{ op: "lost-data", key: "x" }, { type: "lost-data", key: "x" }],
    [{ op: "task-retried", key: "x" }, { type: "task-retried", key: "x" }],
    [{ op: "restart" }, { type: "restart" }],
    [{ op: "stream-closed" }, { type: "stream-closed" }],
    [{ op: "adjust-heartbeat-interval", interval: 2.5 }, { type: "heartbeat-interval", ms: 2_500 }],
    [{ op: "error", exception: 5 }, { type: "scheduler-error", exception: 5 }],
    [{ op: "something-new", field: 1 }, { type: "ignore", op: "something-new" }],
  ];
  for (const [message, meaning] of cases) assertEquals(read(message), meaning as ReturnType<typeof read>);
});

Deno.test("the client finds the worker that a result lies on behind the pickle of its type", () => {
  const holder = (type: string) => {
    const event = read({ op: "key-in-memory", key: "x", type: bytes(type) });
    return event.type === "key-in-memory" ? event.holder : undefined;
  };
  assertEquals(holder("\x80\x04\x8c\x08builtins\x8c\x03int\x93."), null);
  assertEquals(
    holder("\x80\x04\x8c\x08builtins\x8c\x03int\x93.tcp://10.0.0.7:34567"),
    "tcp://10.0.0.7:34567",
  );
  assertEquals(holder("\x80\x04\x8c\x08builtins\x8c\x03int\x93.tls://[::1]:1"), "tls://[::1]:1");
  assertEquals(holder(".tcp://"), null);
  assertEquals(holder(".tcp://a:1 and more."), null);
  assertEquals(holder(""), null);
  const memory = { clientId: ID };
  const holders = ["a", "a", "b"].map((host) => {
    const event = readFromScheduler(
      { op: "key-in-memory", key: "x", type: bytes(`.tcp://${host}:1`) },
      memory,
    );
    return event.type === "key-in-memory" ? event.holder : undefined;
  });
  assertEquals(holders, ["tcp://a:1", "tcp://a:1", "tcp://b:1"]);
});

Deno.test("the client hears from the event log what became of its graphs, and what topics are told", () => {
  const logged = (topic: string, entry: unknown) => read({ op: "event", topic, event: [1.5, entry] });
  assertEquals(logged(ID, { action: "update-graph", stimulus_id: "s", status: "OK", metrics: {} }), {
    type: "graph-handled",
    stimulusId: "s",
    status: "OK",
  });
  assertEquals(logged(ID, { action: "retry" }), { type: "ignore", op: null });
  const event = { action: "update-graph", stimulus_id: "s", status: "OK" };
  assertEquals(logged("other", event), { type: "topic", topic: "other", event });
  assertEquals(logged(ID, null), { type: "ignore", op: null });
});

Deno.test("a message that makes no sense names its field", () => {
  assertThrows(() => read({ op: "key-in-memory" }), ProtocolError, "key-in-memory.key");
  assertThrows(() => read({ op: "cancelled-keys", keys: 5 }), ProtocolError, "cancelled-keys.keys");
  assertThrows(() => read(5), ProtocolError, "stream message");
  assertThrows(() => read({}), ProtocolError, "op");
});

Deno.test("the client writes what the scheduler expects, field by field", () => {
  const task: SubmittedTask = {
    key: "x",
    function: "deno:op/f",
    payload: new Uint8Array([1]),
    dependencies: ["y"],
    order: 0,
    annotations: null,
    signature: "",
  };
  const graph = (
    annotations: SubmittedTask["annotations"],
    submitting: SubmittingTask | null = null,
    tasks: readonly SubmittedTask[] = [task],
  ) =>
    writeToScheduler({
      op: "update-graph",
      tasks,
      keys: ["x"],
      priorities: [4],
      annotations,
      form: "reconstruct",
      stimulusId: "s-1",
    }, () => submitting);
  const plain = graph(null);
  assert(isSerialized(plain["expr_ser"]));
  assertEquals({ ...plain, expr_ser: null }, {
    op: "update-graph",
    expr_ser: null,
    keys: ["x"],
    internal_priority: new Map([["x", 4]]),
    submitting_task: null,
    span_metadata: {},
    stimulus_id: "s-1",
  });
  assertEquals(graph(null, null, [{ ...task, actor: true }])["actors"], true);
  assertEquals(
    ["submitting_task", "internal_priority", "annotations"].map((name) =>
      graph(null, { key: keyFromWire(["t", 1]), depth: 1 })[name]
    ),
    [["t", 1], new Map([["x", 4 - 2e9]]), { deno: { depth: 2 } }],
  );
  const annotations = {
    workers: ["tcp://a:1"],
    allowOtherWorkers: true,
    resources: { gpu: 1 },
    retries: 2,
    priority: 3,
    timeout: 500,
    permissions: "none",
  };
  assertEquals(graph(annotations)["annotations"], {
    workers: ["tcp://a:1"],
    allow_other_workers: true,
    resources: { gpu: 1 },
    retries: 2,
    priority: 3,
    deno: { timeout: 500, permissions: "none" },
  });
  assertEquals(writeToScheduler({ op: "client-releases-keys", keys: ['\u0001["y",1]'] }), {
    op: "client-releases-keys",
    keys: [["y", 1]],
  });
  assertEquals(writeToScheduler({ op: "client-desires-keys", keys: ["x"], client: "c" }), {
    op: "client-desires-keys",
    keys: ["x"],
    client: "c",
  });
  assertEquals(writeToScheduler({ op: "report-key", key: "x" }), { op: "report-key", key: "x" });
  assertEquals(writeToScheduler({ op: "subscribe-topic", topic: "t" }), {
    op: "subscribe-topic",
    topic: "t",
  });
});
