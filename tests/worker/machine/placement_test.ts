/**
 * Slots, resources, pausing, stealing, and what comes of taking a placed call back.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import {
  acquire,
  arrived,
  cancelCompute,
  compute,
  failed,
  free,
  removeReplicas,
  rescheduled,
  resources,
  seceded,
  started,
  status,
  steal,
  succeeded,
  TestWorker,
  withdrawn,
} from "../../support/machine.ts";

Deno.test("W13 WorkerMachine places two calls a slot, the most urgent first, the newest first among equals", () => {
  const worker = new TestWorker({ slots: 1 });
  assertEquals(worker.when(compute("a", { priority: [5] })), ["execute a#1"]);
  assertEquals(worker.when(compute("b", { priority: [5] })), ["execute b#1"]);
  worker.given(
    compute("low", { priority: [9] }),
    compute("old", { priority: [3, 1] }),
    compute("new", { priority: [3, 1] }),
    compute("short", { priority: [3] }),
    compute("high", { priority: [-1] }),
  );
  const order: string[] = [];
  for (let running = "a", placed = "b"; running !== "";) {
    worker.given(started(running));
    const [, next = ""] = worker.when(succeeded(running));
    order.push(running);
    [running, placed] = [placed, next.replace("execute ", "").replace("#1", "")];
  }
  assertEquals(order, ["a", "b", "high", "short", "new", "old", "low"]);
});

Deno.test("WorkerMachine shows a placed task as ready until it begins", () => {
  const worker = new TestWorker().given(compute("x"));
  assertEquals(worker.machine.counts(), { ready: 1 });
  assertEquals([...worker.machine.executing()], []);
  worker.given(started("x"));
  assertEquals(worker.machine.counts(), { executing: 1 });
  assertEquals([...worker.machine.executing()], [["x", worker.now]]);
});

Deno.test("WorkerMachine answers a steal request for a placed task when it knows", () => {
  const intime = new TestWorker().given(compute("x"));
  assertEquals(intime.when(steal("x", "s1")), ["withdraw x#1"]);
  assertEquals(intime.when(steal("x", "s2")), [], "one withdrawal answers both");
  assertEquals(intime.when(withdrawn("x")), ["steal-response x ready s1", "steal-response x ready s2"]);
  assertEquals(intime.state("x"), "unknown");

  const late = new TestWorker().given(compute("x"), steal("x", "s1"));
  assertEquals(late.when(started("x")), ["steal-response x executing s1"]);
  assertEquals(late.when(succeeded("x")), ["task-finished x#1"]);
});

Deno.test("WorkerMachine answers with the newest run id at the beginning of the run", () => {
  const worker = new TestWorker().given(compute("x", { run: 1 }));
  assertEquals(worker.when(compute("x", { run: 2 })), []);
  worker.given(started("x", 1));
  assertEquals(worker.when(compute("x", { run: 3 })), [], "too late for this run");
  assertEquals(worker.when(succeeded("x", 1)), ["task-finished x#2"]);
  assertEquals(worker.when(compute("x", { run: 3 })), ["task-finished x#3"]);
});

Deno.test("WorkerMachine keeps a placed task that is asked for again while it is stolen", () => {
  const worker = new TestWorker().given(compute("x", { run: 1 }), steal("x"));
  assertEquals(worker.when(compute("x", { run: 2 })), ["steal-response x executing steal-1"]);
  assertEquals(worker.when(withdrawn("x", 1)), ["execute x#2"]);
});

Deno.test("WorkerMachine never reuses a call that it was told to give up", () => {
  // The name may come back as another task: its old call must not answer for it.
  const other = { pickle: Uint8Array.of(2), buffers: [] };
  const worker = new TestWorker().given(compute("x", { run: 1 }));
  assertEquals(worker.when(free("x")), ["withdraw x#1"]);
  assertEquals(worker.when(compute("x", { run: 2, spec: other })), []);
  assertEquals(worker.when(started("x", 1)), ["abort x#1"], "too late to withdraw");
  const [freed, again] = worker.handle(succeeded("x", 1));
  assertEquals(freed, { type: "free", keys: ["x"] });
  assert(again?.type === "execute" && again.runId === 2 && again.runSpec === other);
  worker.given(started("x", 2));
  assertEquals(worker.when(succeeded("x", 2)), ["task-finished x#2"]);
});

Deno.test("WorkerMachine runs a task again that is cancelled and asked for while it runs", () => {
  for (const end of [succeeded, failed, rescheduled]) {
    const worker = new TestWorker().given(compute("x"), started("x"), free("x"), compute("x", { run: 2 }));
    const instructions = worker.when(end("x", 1));
    assertEquals(instructions.at(-1), "execute x#2");
    assertEquals(instructions.filter((text) => text.includes("task-")), [], "the old run says nothing");
  }
});

Deno.test("WorkerMachine forgets what was to follow a cancelled run when that is cancelled too", () => {
  const worker = new TestWorker().given(
    compute("x"),
    started("x"),
    free("x"),
    compute("x", { run: 2 }),
    free("x"),
  );
  assertEquals(worker.when(failed("x", 1)), []);
  assertEquals(worker.machine.counts(), {});
});

Deno.test("WorkerMachine answers a steal request before it gives up the task", () => {
  const worker = new TestWorker().given(compute("x"), steal("x"));
  assertEquals(worker.when(free("x")), ["steal-response x cancelled steal-1"], "withdraw was sent before");
  assertEquals(worker.when(withdrawn("x")), []);
});

Deno.test("WorkerMachine cancels a computation that waits, never one that runs", () => {
  const worker = new TestWorker().given(compute("x"));
  assertEquals(worker.when(cancelCompute("x")), ["withdraw x#1"]);
  assertEquals(worker.when(withdrawn("x")), []);
  assertEquals(worker.state("x"), "unknown");
  const late = new TestWorker().given(compute("x"), cancelCompute("x"), started("x"));
  assertEquals(late.when(cancelCompute("x")), []);
  assertEquals(late.when(succeeded("x")), ["task-finished x#1"]);
});

Deno.test("WorkerMachine withdraws placed calls when it pauses and starts nothing until it runs again", () => {
  const worker = new TestWorker().given(compute("a"), started("a"), compute("b"));
  assertEquals(worker.when(status("paused")), ["withdraw b#1"]);
  assertEquals(worker.when(status("closing_gracefully")), []);
  assertEquals(worker.when(withdrawn("b")), []);
  assertEquals(worker.state("b"), "ready");
  assertEquals(worker.when(acquire({ z: ["alice"] })), []);
  assertEquals(worker.when(succeeded("a")), ["task-finished a#1"], "what runs goes on");
  assertEquals(worker.when(status("running")), ["fetch alice z", "execute b#1"]);
});

Deno.test("WorkerMachine goes on with a placed call that began before it could be withdrawn", () => {
  const worker = new TestWorker().given(compute("a"), status("paused"));
  assertEquals(worker.when(started("a")), []);
  assertEquals(worker.when(succeeded("a")), ["task-finished a#1"]);
});

Deno.test("WorkerMachine fetches again what a withdrawn task lost while it was placed", () => {
  const worker = new TestWorker().given(compute("x", { needs: { d: ["alice"] } }), arrived("alice", ["d"]));
  assertEquals(worker.state("x"), "ready(placed)");
  worker.given(status("paused"), free("d"));
  assertEquals(worker.state("d"), "released");
  worker.given(withdrawn("x"));
  assertEquals([worker.state("x"), worker.state("d")], ["waiting", "fetch"]);
  assertEquals(worker.when(status("running")), ["fetch alice d"]);
});

Deno.test("WorkerMachine gives the slot of a seceded task to another, and its resources only at its end", () => {
  const worker = new TestWorker({ resources: { GPU: 1 } }).given(
    compute("x", { resources: { GPU: 1 } }),
    started("x"),
    compute("gpu", { resources: { GPU: 1 } }),
    compute("b"),
    compute("c"),
  );
  assertEquals(worker.when(seceded("x")), ["long-running x#1", "execute c#1"]);
  assertEquals(worker.when(seceded("x")), [], "said once");
  worker.given(started("b"), succeeded("b"), started("c"), succeeded("c"));
  assertEquals(worker.state("gpu"), "constrained");
  assertEquals(worker.when(succeeded("x")), ["task-finished x#1", "execute gpu#1"]);
});

Deno.test("WorkerMachine frees the slot of a cancelled task that secedes, silently", () => {
  const worker = new TestWorker().given(compute("x"), started("x"), free("x"), compute("b"), compute("c"));
  assertEquals(worker.when(seceded("x")), ["execute c#1"]);
  assertEquals(worker.when(succeeded("x")), ["free x"]);
});

Deno.test("WorkerMachine never places a task with resources ahead, nor less urgent ones before it", () => {
  const gpu = { resources: { GPU: 1 } };
  const worker = new TestWorker({ slots: 1, resources: { GPU: 1 } }).given(
    compute("a", { priority: [5] }),
    started("a"),
  );
  assertEquals(worker.when(compute("g", { priority: [1], ...gpu })), []);
  assertEquals(worker.when(compute("b", { priority: [3] })), [], "would keep g from the slot");
  assertEquals(worker.when(compute("c", { priority: [0] })), ["execute c#1"], "more urgent than g");
  worker.given(succeeded("a"), started("c"));
  assertEquals(worker.when(succeeded("c")), ["task-finished c#1", "execute g#1", "execute b#1"]);
});

Deno.test("WorkerMachine keeps resources for the most urgent task that wants them", () => {
  const worker = new TestWorker({ slots: 4, resources: { GPU: 2, DISK: 1, TPU: 0 } }).given(
    compute("one", { resources: { GPU: 1 } }),
    compute("both", { priority: [-1], resources: { GPU: 2 } }),
    compute("impossible", { priority: [-2], resources: { GPU: 1, TPU: 1 } }),
  );
  assertEquals(
    worker.when(compute("late", { resources: { GPU: 1 } })),
    [],
    "a GPU is free, but both waits for it",
  );
  assertEquals(worker.when(compute("disk", { resources: { DISK: 1 } })), ["execute disk#1"]);
  worker.given(started("one"));
  assertEquals(worker.when(succeeded("one")), ["task-finished one#1", "execute both#1"]);
  worker.given(started("both"));
  assertEquals(worker.when(failed("both")), ["task-erred both#1", "execute late#1"]);
});

Deno.test("WorkerMachine counts resources exactly", () => {
  const worker = new TestWorker({ slots: 20, resources: { DISK: 1 } });
  for (let i = 0; i < 11; i++) worker.given(compute(`k${i}`, { resources: { DISK: 0.1 } }));
  assertEquals(worker.machine.counts(), { constrained: 11 });
  for (let i = 0; i < 10; i++) worker.given(started(`k${i}`));
  assertEquals(worker.machine.counts(), { constrained: 1, executing: 10 });
  for (let i = 0; i < 10; i++) worker.given(i % 2 ? failed(`k${i}`) : succeeded(`k${i}`));
  worker.given(free("k10"), withdrawn("k10"));
  assertEquals(worker.machine.snapshot()["available"], { DISK: 1 });
});

Deno.test("WorkerMachine returns the resources of a withdrawn and of a cancelled run", () => {
  const worker = new TestWorker({ resources: { GPU: 1 } }).given(compute("x", { resources: { GPU: 1 } }));
  worker.given(steal("x"), withdrawn("x"));
  assertEquals(worker.when(compute("y", { resources: { GPU: 1 } })), ["execute y#1"]);
  worker.given(started("y"), free("y"), compute("y", { run: 2, resources: { GPU: 1 } }));
  assertEquals(worker.when(failed("y")), ["execute y#2"]);
});

Deno.test("WorkerMachine keeps a replica that a task uses, placed or running, and says so", () => {
  const worker = new TestWorker().given(compute("x", { needs: { d: ["alice"] } }), arrived("alice", ["d"]));
  assertEquals(worker.when(removeReplicas("d", "unknown")), ["add-keys d"]);
  worker.given(started("x"));
  assertEquals(worker.when(removeReplicas("d")), ["add-keys d"]);
  worker.given(succeeded("x"));
  assertEquals(worker.when(removeReplicas("d")), ["release-worker-data d", "free d"]);
});

Deno.test("WorkerMachine gives up a replica that is only waited with, and fetches it again", () => {
  const worker = new TestWorker().given(
    compute("x", { needs: { d: ["alice"], e: ["bob"] } }),
    arrived("alice", ["d"]),
  );
  assertEquals(worker.when(removeReplicas("d")), ["release-worker-data d", "free d", "fetch alice d"]);
  const ready = new TestWorker().given(
    compute("a"),
    compute("b"),
    compute("x", { needs: { d: ["alice"] } }),
    arrived("alice", ["d"]),
  );
  assertEquals(ready.state("x"), "ready");
  assertEquals(ready.when(removeReplicas("d")), ["release-worker-data d", "free d", "fetch alice d"]);
  assertEquals(ready.state("x"), "waiting");
});

Deno.test("WorkerMachine keeps the code of a module until it leaves, and says so", () => {
  const code = "code-0123456789abcdef0123456789abcdef";
  const worker = new TestWorker().given(
    compute("x", { needs: { [code]: ["alice"] } }),
    arrived("alice", [code]),
    started("x"),
    succeeded("x"),
  );
  assertEquals(worker.when(removeReplicas(code)), [`add-keys ${code}`]);
  worker.given(status("closing_gracefully"));
  assertEquals(worker.when(removeReplicas(code)), [`release-worker-data ${code}`, `free ${code}`]);
  worker.given(status("running"), acquire({ [code]: ["alice"] }), arrived("alice", [code]));
  assertEquals(worker.when(free(code)), [`release-worker-data ${code}`, `free ${code}`]);
});

const GPU = { resources: { GPU: 1 } };

Deno.test("WorkerMachine begins what waited for resources when there are more of them", () => {
  const worker = new TestWorker({ slots: 2, ...GPU }).given(compute("a", GPU), compute("b", GPU));
  worker.given(compute("new", { resources: { TPU: 1 } }));
  assertEquals(worker.when(resources({ GPU: 2 })), ["execute b#1"]);
  worker.given(started("a"), failed("a"));
  assertEquals(worker.when(resources({ TPU: 1 })), ["execute new#1"], "those not named stay");
  assertEquals(worker.machine.snapshot()["available"], { GPU: 1, TPU: 0 });
});

Deno.test("WorkerMachine lets what runs go on when there are fewer resources, and takes back what waits", () => {
  const worker = new TestWorker({ slots: 4, resources: { GPU: 2 } });
  worker.given(
    compute("runs", GPU),
    started("runs"),
    compute("placed", GPU),
    compute("queued", GPU),
    compute("free"),
  );
  assertEquals(worker.when(resources({ GPU: 1 })), ["withdraw placed#1"], "what needs none is left alone");
  assertEquals(worker.machine.snapshot()["available"], { GPU: -1 });
  assertEquals(worker.when(withdrawn("placed")), []);
  assertEquals(worker.state("placed"), "constrained");
  assertEquals(worker.when(succeeded("runs")), ["task-finished runs#1", "execute queued#1"]);
  assertEquals(worker.machine.snapshot()["available"], { GPU: 0 });
});

Deno.test("WorkerMachine waits until enough has ended when a call began that was to be taken back", () => {
  const worker = new TestWorker({ slots: 4, resources: { GPU: 2 } });
  worker.given(compute("a", GPU), started("a"), compute("b", GPU), resources({ GPU: 1 }));
  assertEquals(worker.when(started("b")), [], "too late");
  worker.given(compute("c", GPU));
  assertEquals(worker.when(succeeded("b")), ["task-finished b#1"], "a has the one that is left");
  assertEquals(worker.when(resources({ GPU: 0 })), []);
  assertEquals(worker.when(succeeded("a")), ["task-finished a#1"]);
  assertEquals(worker.when(resources({ GPU: 1 })), ["execute c#1"]);
});

Deno.test("WorkerMachine keeps a call that is taken back for want of resources when they are back before it is", () => {
  const worker = new TestWorker({ slots: 4, ...GPU }).given(compute("a", GPU), resources({ GPU: 0 }));
  assertEquals(worker.when(resources({ GPU: 1 })), []);
  assertEquals(worker.when(withdrawn("a")), ["execute a#1"]);
  worker.given(started("a"));
  assertEquals(worker.when(succeeded("a")), ["task-finished a#1"]);
});
