import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { pickled } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";
import {
  averageBandwidth,
  firstFigures,
  readHeartbeatReply,
  writeExecuting,
  writeMetrics,
} from "../../worker/heartbeat.ts";
import { Monitor, parseDisks, parseNetwork } from "../../worker/monitor.ts";
import { memoryLimitBytes } from "../../worker/options.ts";
import { LogRing } from "../../worker/log_ring.ts";
import { readFromScheduler, readRefusable, writeLogEvent, writeToScheduler } from "../../worker/wire.ts";

const AT = 1_700_000_000_000;

const COMPUTE = {
  op: "compute-task",
  key: "y",
  run_id: 3,
  priority: [0, 1, 2.5],
  who_has: { x: ["tcp://127.0.0.1:1"] },
  nbytes: { x: 8 },
  run_spec: pickled(Uint8Array.of(1), [Uint8Array.of(2)]),
  resource_restrictions: { GPU: 1 },
  actor: false,
  annotations: { retries: 2 },
  span_id: null,
  stimulus_id: "s",
};

Deno.test("W10 the stream's ops become events", () => {
  assertEquals(readFromScheduler(COMPUTE, AT), {
    type: "event",
    event: {
      type: "compute-task",
      key: "y",
      runId: 3,
      priority: [0, 1, 2.5],
      whoHas: new Map([["x", ["tcp://127.0.0.1:1"]]]),
      nbytes: new Map([["x", 8]]),
      runSpec: { pickle: Uint8Array.of(1), buffers: [Uint8Array.of(2)] },
      resources: { GPU: 1 },
      annotations: { retries: 2 },
      stimulusId: "s",
      at: AT,
    },
  });
  const actor = readFromScheduler({ ...COMPUTE, actor: true }, AT);
  assert(
    actor.type === "event" && actor.event.type === "compute-task" && actor.event.runSpec.stateful === true,
  );
  const rest = { stimulusId: "s", at: AT };
  const cases: [Record<string, unknown>, Record<string, unknown>][] = [
    [{ op: "free-keys", keys: ["x", ["t", 1]] }, { type: "free-keys", keys: ["x", keyFromWire(["t", 1])] }],
    [{ op: "remove-replicas", keys: [] }, { type: "remove-replicas", keys: [] }],
    [{ op: "acquire-replicas", who_has: { x: ["a"] }, nbytes: { x: 1 } }, {
      type: "acquire-replicas",
      whoHas: new Map([["x", ["a"]]]),
      nbytes: new Map([["x", 1]]),
    }],
    [{ op: "refresh-who-has", who_has: { x: [] } }, {
      type: "refresh-who-has",
      whoHas: new Map([["x", []]]),
    }],
    [{ op: "steal-request", key: "x" }, { type: "steal-request", key: "x" }],
    [{ op: "cancel-compute", key: "x" }, { type: "cancel-compute", key: "x" }],
    [{ op: "remove-worker", worker: "a" }, { type: "remove-worker", worker: "a" }],
  ];
  for (const [message, event] of cases) {
    assertEquals<unknown>(readFromScheduler({ ...message, stimulus_id: "s" }, AT), {
      type: "event",
      event: { ...event, ...rest },
    });
  }
  assertEquals(readFromScheduler({ op: "close" }, AT), { type: "close", reason: "no reason given" });
  assertEquals(readFromScheduler({ op: "close-stream" }, AT), { type: "ignore", op: null });
});

Deno.test("a field that makes no sense is named", () => {
  const cases: [Record<string, unknown>, string][] = [
    [{ ...COMPUTE, priority: "high" }, "compute-task.priority"],
    [{ ...COMPUTE, run_spec: 5 }, "compute-task.run_spec"],
    [{ ...COMPUTE, who_has: { x: [5] } }, 'compute-task.who_has["x"]'],
    [{ ...COMPUTE, nbytes: { x: -1 } }, 'compute-task.nbytes["x"]'],
    [{ ...COMPUTE, run_id: 1.5 }, "compute-task.run_id"],
    [{ op: "free-keys", keys: null, stimulus_id: "s" }, "free-keys.keys"],
    [{ op: "steal-request", key: "x" }, "steal-request.stimulus_id"],
    [{}, "op"],
  ];
  for (const [message, path] of cases) {
    const error = assertThrows(() => readFromScheduler(message, AT), ProtocolError);
    assertEquals(error.message.includes(path), true, error.message);
  }
  assertEquals(readRefusable({ ...COMPUTE, priority: null }), { key: "y", runId: 3 });
  assertEquals(readRefusable({ op: "free-keys", key: "y", run_id: 3 }), null);
  assertEquals(readRefusable(7), null);
});

Deno.test("messages to the scheduler have dask's fields, exactly, and its clock in seconds", () => {
  assertEquals(
    writeToScheduler(
      {
        op: "task-finished",
        key: keyFromWire(["y", 1]),
        runId: 3,
        nbytes: 8,
        typename: "int",
        pythonType: Uint8Array.of(1),
        startstop: { start: 1000, stop: 2000 },
        stimulusId: "s",
      },
      500,
      "",
    ),
    {
      op: "task-finished",
      key: ["y", 1],
      run_id: 3,
      status: "OK",
      nbytes: 8,
      type: Uint8Array.of(1),
      typename: "int",
      metadata: {},
      thread: null,
      startstops: [{ action: "compute", start: 1.5, stop: 2.5 }],
      stimulus_id: "s",
    },
  );
  const cases: [Parameters<typeof writeToScheduler>[0], Record<string, unknown>][] = [
    [{ op: "add-keys", keys: [keyFromWire([1])], stimulusId: "s" }, { op: "add-keys", keys: [[1]] }],
    [{ op: "release-worker-data", key: "x", stimulusId: "s" }, { op: "release-worker-data", key: "x" }],
    [{ op: "reschedule", key: "x", stimulusId: "s" }, { op: "reschedule", key: "x" }],
    [{ op: "steal-response", key: "x", state: null, stimulusId: "s" }, {
      op: "steal-response",
      key: "x",
      state: null,
    }],
    [{ op: "request-refresh-who-has", keys: ["x"], stimulusId: "s" }, {
      op: "request-refresh-who-has",
      keys: ["x"],
    }],
    [{ op: "long-running", key: "x", runId: 1, computeDuration: 1500, stimulusId: "s" }, {
      op: "long-running",
      key: "x",
      run_id: 1,
      compute_duration: 1.5,
    }],
  ];
  for (const [message, written] of cases) {
    assertEquals(writeToScheduler(message, 0, ""), { ...written, stimulus_id: "s" });
  }
  assertEquals(writeLogEvent("topic", { n: 1 }), { op: "log-event", topic: "topic", msg: { n: 1 } });
});

Deno.test("metrics hold all that the scheduler and its dashboard read", () => {
  const monitor = new Monitor();
  const figures = firstFigures(AT, monitor);
  monitor.stop();
  const metrics = writeMetrics({
    ...figures,
    counts: { states: { memory: 1 }, executing: new Map(), ranSeconds: { add: 1.5 } },
    sample: { ...figures.sample, memory: 1000 },
    store: { keys: 1, bytes: 50, fileBytes: 20, diskBytes: 15 },
    memoryBytes: 1020,
    peer: { ...figures.peer, bandwidth: { a: [30, 2], b: [60, 1] } },
    bandwidth: 30,
  });
  assertEquals(metrics["bandwidth"], { total: 30, workers: { a: [30, 2], b: [60, 1] }, types: {} });
  assertEquals([metrics["memory"], metrics["managed_bytes"], metrics["time"]], [1020, 50, AT / 1000]);
  assertEquals(
    { ...metrics["digests_total_since_heartbeat"] as Record<string, number> },
    { [keyFromWire(["execute", "add", "executor", "seconds"])]: 1.5 },
  );
  const fields: Record<string, readonly string[] | "number"> = {
    "cpu": "number",
    "num_fds": "number",
    "event_loop_interval": "number",
    "spilled_bytes": ["memory", "disk"],
    "host_net_io": ["read_bps", "write_bps"],
    "host_disk_io": ["read_bps", "write_bps"],
    "transfer": [
      "incoming_bytes",
      "incoming_count",
      "incoming_count_total",
      "outgoing_bytes",
      "outgoing_count",
      "outgoing_count_total",
    ],
  };
  for (const [name, parts] of Object.entries(fields)) {
    if (parts === "number") assertEquals(typeof metrics[name], "number", name);
    else assertEquals(Object.keys(metrics[name] as object), parts, name);
  }
  assertEquals(metrics["spilled_bytes"], { memory: 15, disk: 15 });
  assertEquals((writeMetrics(figures)["bandwidth"] as { total: number }).total, 100e6);
  assertEquals({ ...writeExecuting(new Map([["x", AT - 1500]]), AT) }, { x: 1.5 });
});

Deno.test("the average bandwidth moves towards that of transfers, by as many as there were", () => {
  assertEquals(averageBandwidth(100, {}), 100);
  assertAlmostEquals(averageBandwidth(100, { a: [200, 1] }), 105);
  assertAlmostEquals(averageBandwidth(100, { a: [400, 2] }), 100 + 100 * (1 - 0.95 ** 2));
});

Deno.test("a monitor counts itself and its executors, and keeps its samples by number", () => {
  const alone = new Monitor();
  const monitor = new Monitor(() => [Deno.pid]); // as if we were our own executor
  try {
    const [one, both] = [alone.sample(), monitor.sample()];
    assert(one.memory > 0 && one.num_fds > 0, JSON.stringify(one));
    assert(both.memory > one.memory, "what an executor has comes on top");
    const end = performance.now() + 20;
    while (performance.now() < end);
    assert(alone.sample().cpu > 0);
    assertEquals(alone.count, 2);
    assertEquals(alone.since(0)["time"]?.length, 2);
    assertEquals(alone.since(1)["time"], [alone.lastTime]);
    assertEquals(alone.since(2), {});
    assertEquals(alone.recent()["time"], alone.lastTime);
  } finally {
    alone.stop();
    monitor.stop();
  }
});

Deno.test("traffic is that of all interfaces and of whole disks", () => {
  const network = `Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:     100       1    0    0    0     0          0         0     100       1    0    0
  eth0:1000 2 0 0 0 0 0 0 200 3 0 0`;
  assertEquals(parseNetwork(network), { netRead: 1100, netWritten: 300 });
  const disks = `   7       0 loop0 9 9 9 9 9 9 9 9
 254       0 vda 62397 7602 10 30497 11906 27673 20 5133 0
 254       1 vda1 62397 7602 10 30497 11906 27673 20 5133 0
 259       0 nvme0n1 1 1 1 1 1 1 2 1 0
 259       1 nvme0n1p1 1 1 1 1 1 1 2 1 0`;
  assertEquals(parseDisks(disks), { diskRead: 11 * 512, diskWritten: 22 * 512 });
});

Deno.test("heartbeat replies are read in milliseconds; missing means unknown", () => {
  assertEquals(readHeartbeatReply({ status: "OK", time: 2, "heartbeat-interval": 0.5 }), {
    time: 2000,
    intervalMs: 500,
  });
  assertEquals(readHeartbeatReply({ status: "missing" }), null);
  assertEquals(readHeartbeatReply("nonsense"), { time: null, intervalMs: null });
});

Deno.test("memory limits are read as dask reads them", () => {
  assertEquals(memoryLimitBytes(0, 1), null);
  assertEquals(memoryLimitBytes("0", 1), null);
  assertEquals(memoryLimitBytes("100MB", 1), 100e6);
  assertEquals(memoryLimitBytes(5e6, 1), 5e6);
  const whole = memoryLimitBytes(1, 1) ?? 0;
  assertEquals(Math.abs((memoryLimitBytes("0.5", 1) ?? 0) - whole / 2) <= 1, true);
  assertEquals(memoryLimitBytes("auto", navigator.hardwareConcurrency), whole);
  assertEquals(memoryLimitBytes("9PB", 1), whole);
  assertThrows(() => memoryLimitBytes(-1, 1), RangeError);
});

Deno.test("LogRing keeps the last lines, newest first, without those for debugging", () => {
  const ring = new LogRing({ log: () => {} });
  for (let i = 0; i < 600; i++) ring.log("info", `line ${i}`);
  ring.log("debug", "not kept");
  assertEquals(ring.newestFirst(0, 2, false), [["INFO", "line 599"], ["INFO", "line 598"]]);
  assertEquals(ring.newestFirst(0, Infinity, false).length, 500);
  assertEquals(ring.newestFirst(Date.now() / 1000 + 60, Infinity, true), []);
});
