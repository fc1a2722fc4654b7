/**
 * A worker's stream against a scheduler that says what no real one says.
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { LogLevel } from "../../base/log.ts";
import { encodeMessage, pickled } from "../../protocol/envelope.ts";
import { DaskError } from "../../protocol/errors.ts";
import { startWorker, type WorkerHandle } from "../../worker/mod.ts";
import { FakeScheduler, type Message } from "../support/fake_scheduler.ts";

interface Line {
  readonly level: LogLevel;
  readonly message: string;
}

async function start(scheduler: FakeScheduler, lines: Line[] = []): Promise<WorkerHandle> {
  const worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    logger: { log: (level, message) => lines.push({ level, message }) },
  });
  await scheduler.hears((message) =>
    message["op"] === "worker-status-change" && message["status"] === "running"
  );
  return worker;
}

/** A steal-request is answered at once: after it, all that was said before has been handled. */
async function roundTrip(scheduler: FakeScheduler, id: string): Promise<Message> {
  scheduler.say({ op: "steal-request", key: `unknown-${id}`, stimulus_id: id });
  return await scheduler.hears((message) =>
    message["op"] === "steal-response" && message["stimulus_id"] === id
  );
}

Deno.test("unknown ops and unreadable messages are skipped, with a line in the log", async () => {
  await using scheduler = await FakeScheduler.start();
  const lines: Line[] = [];
  await using _worker = await start(scheduler, lines);
  scheduler.say({ op: "shuffle-fail", shuffle_id: "x" }, 5, {
    op: "free-keys",
    keys: "all",
    stimulus_id: "s",
  });
  await scheduler.babble([Uint8Array.of(0xc1)]);
  await scheduler.babble([...encodeMessage([{ __Serialized__: 7 }])] as Uint8Array[]);
  assertEquals((await roundTrip(scheduler, "after-nonsense"))["state"], null);
  const told = lines.map(({ message }) => message).join("\n");
  assertStringIncludes(told, '"shuffle-fail"');
  assertStringIncludes(told, '"free-keys.keys"');
  assertEquals(lines.filter(({ level }) => level === "error").length, 4);
});

Deno.test("W15 a compute-task that cannot be read is refused as erred, by its key and run", async () => {
  await using scheduler = await FakeScheduler.start();
  await using _worker = await start(scheduler);
  scheduler.say({ op: "compute-task", key: ["x", 1], run_id: 7, priority: "high" });
  const refusal = await scheduler.hears((message) => message["op"] === "task-erred");
  assertEquals([refusal["key"], refusal["run_id"], refusal["status"]], [["x", 1], 7, "error"]);
  assertStringIncludes(String(refusal["exception_text"]), "compute-task.");
});

Deno.test("a run_spec that is no pickle fails that task alone", async () => {
  await using scheduler = await FakeScheduler.start();
  await using _worker = await start(scheduler);
  scheduler.say({
    op: "compute-task",
    key: "x",
    run_id: 1,
    priority: [0, 1, 2],
    who_has: {},
    nbytes: {},
    run_spec: pickled(new TextEncoder().encode("no pickle")),
    resource_restrictions: null,
    actor: false,
    annotations: {},
    span_id: null,
    stimulus_id: "s",
  });
  const erred = await scheduler.hears((message) => message["op"] === "task-erred");
  assertEquals([erred["key"], erred["run_id"]], ["x", 1]);
  await roundTrip(scheduler, "still-there");
});

Deno.test("an actor that cannot be made fails that task alone", async () => {
  await using scheduler = await FakeScheduler.start();
  await using _worker = await start(scheduler);
  const task = {
    op: "compute-task",
    priority: [0],
    who_has: {},
    nbytes: {},
    resource_restrictions: null,
    actor: true,
    span_id: null,
    stimulus_id: "s",
  };
  const run_spec = pickled(new TextEncoder().encode("no pickle"));
  for (const [run_id, annotations] of [{}, { deno: { timeout: -1 } }].entries()) {
    scheduler.say({ ...task, key: `actor-${run_id}`, run_id, run_spec, annotations });
    const erred = await scheduler.hears((message) => message["key"] === `actor-${run_id}`);
    assertEquals([erred["op"], erred["run_id"]], ["task-erred", run_id]);
    assertStringIncludes(String(erred["exception_text"]), run_id === 0 ? "pickle" : "deno.timeout");
  }
  await roundTrip(scheduler, "still-there");
});

Deno.test("a compute-task without key or run ends the worker, so that the scheduler places it again", async () => {
  await using scheduler = await FakeScheduler.start();
  const worker = await start(scheduler);
  scheduler.say({ op: "compute-task", priority: [0] });
  assertStringIncludes((await worker.ended).reason, "compute-task");
});

Deno.test("a message that cannot be decoded and may have held a task ends the worker, too", async () => {
  await using scheduler = await FakeScheduler.start();
  const worker = await start(scheduler);
  const batch = [{ op: "compute-task", key: "x" }, { __Serialized__: 7 }];
  await scheduler.babble(encodeMessage(batch) as Uint8Array[]);
  assertStringIncludes((await worker.ended).reason, "compute-task");
});

Deno.test("a status of the scheduler is taken and echoed with its stimulus", async () => {
  await using scheduler = await FakeScheduler.start();
  await using worker = await start(scheduler);
  for (const status of ["closing_gracefully", "running", "paused", "paused"]) {
    const id = crypto.randomUUID();
    scheduler.say({ op: "worker-status-change", status, stimulus_id: id });
    const echo = await scheduler.hears((message) => message["stimulus_id"] === id);
    assertEquals(echo, { op: "worker-status-change", status, stimulus_id: id });
    assertEquals(worker.status, status);
  }
});

Deno.test("close from the scheduler, a lost connection and an unknown heartbeat end the worker", async () => {
  const ends: [string, (scheduler: FakeScheduler) => void][] = [
    [
      "scheduler-remove-worker",
      (scheduler) => scheduler.say({ op: "close", reason: "scheduler-remove-worker" }),
    ],
    ["scheduler", (scheduler) => scheduler.hangUp()],
    ["does not know", (scheduler) => scheduler.heartbeat = { status: "missing" }],
  ];
  for (const [reason, end] of ends) {
    await using scheduler = await FakeScheduler.start();
    const worker = await start(scheduler);
    const at = Date.now();
    end(scheduler);
    const ended = await worker.ended;
    assertStringIncludes(ended.reason, reason);
    assertEquals([ended.crashed, worker.status], [false, "closed"]);
    assert(Date.now() - at < 5_000);
  }
});

Deno.test("a closing worker says so, unregisters and closes its stream, in this order", async () => {
  await using scheduler = await FakeScheduler.start();
  const worker = await start(scheduler);
  await worker.close();
  await scheduler.hears((message) => message["op"] === "close-stream");
  assertEquals(scheduler.heard.slice(-2).map((message) => [message["op"], message["status"]]), [
    ["worker-status-change", "closing"],
    ["close-stream", undefined],
  ]);
});

Deno.test("an older scheduler is refused by its release, a newer one warned of", async () => {
  await using old = await FakeScheduler.start("2025.3.0");
  const error = await assertRejects(() => startWorker({ address: old.address, slots: 1 }), DaskError);
  assertStringIncludes(error.message, "it runs dask 2025.3.0, expected 2025.4.0 or later");
  assertStringIncludes(error.message, "pip install");
  await using young = await FakeScheduler.start("2027.1.0");
  const lines: Line[] = [];
  await using _worker = await start(young, lines);
  assertStringIncludes(
    lines.filter(({ level }) => level === "warning").map(({ message }) => message).join(),
    "2027.1.0",
  );
});
