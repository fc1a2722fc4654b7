/**
 * Actors: instances of users' classes that live on a worker, on the real scheduler with validation.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  CancelledError,
  CommClosedError,
  connect,
  DaskError,
  type Remote,
  SerializationError,
  startWorker,
  TaskError,
  tasks,
  WorkerLostError,
} from "../../mod.ts";
import { RpcPool } from "../../comm/pool.ts";
import { tcp } from "../../comm/tcp.ts";
import { remote } from "../../client/remote.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { isAlive, processTree } from "../support/proc.ts";
import { pythonClient } from "../worker/python_client.ts";
import { type Cluster, cluster, until } from "./cluster.ts";
import type { Counter } from "./actor_classes.ts";

const CLASSES = new URL("./actor_classes.ts", import.meta.url);
const t = tasks<typeof import("./actor_classes.ts")>(CLASSES);
const scheduler = await sharedScheduler();
const here = scheduler.address;
const python = await pythonClient(here, CLASSES);
/** What says that an actor hangs, ms. */
const HANGS_MS = 10_000;

// --- Living ---

Deno.test("an actor keeps its state: arguments, futures as arguments, fields, methods of all kinds", async () => {
  await using c = await running(1);
  using ten = c.client.submit(() => 10, []);
  await using counter = await c.client.actor(t.Counter, [ten, [1, 2]]);
  assertEquals(await counter.n, 13);
  assertEquals(await counter.add(2), 15);
  assertEquals([await counter.n, await counter.twice, await counter.label], [15, 30, null as unknown]);
  assertEquals(await counter.scale({ factor: 2 }), 30);
  assertEquals(await counter.secret(), 42);
  assertEquals(await counter.arrow(1), 31);
  assertEquals(await counter.nothing() as unknown, null);
  assertEquals(await counter.size(), 2);
  assertEquals(await counter.log, ["begin 2", "end 2"]);
  await counter.add(-27);
  assertEquals(await counter.countdown(), [3, 2, 1]);
});

Deno.test("calls run one after the other in the order in which they were written, asynchronous ones too", async () => {
  await using c = await running(1);
  await using counter = await c.client.actor(t.Counter, [0]);
  const calls = [counter.add(1, 30), counter.add(2), counter.n, counter.add(3, 10), counter.add(4)];
  assertEquals(await Promise.all(calls), [1, 3, 3, 6, 10]);
  const log = await counter.log;
  assertEquals(log, [1, 2, 3, 4].flatMap((by) => [`begin ${by}`, `end ${by}`]));
  // Of several clients in some order, and none in the middle of another.
  await using other = await connect(here);
  await using same = await other.remote<Counter>(await counter.key());
  await Promise.all([counter, same].flatMap((one) => [one.add(1, 5), one.add(1), one.add(1, 5)]));
  assertEquals(await counter.n, 16);
  const words = (await same.log).slice(8);
  for (let i = 0; i < words.length; i += 2) assertEquals([words[i], words[i + 1]], ["begin 1", "end 1"]);
});

Deno.test("large arguments and results travel, and leave no files", async () => {
  await using client = await connect(here);
  await using _ = await startWorker({ address: here, slots: 1, validate: true });
  await using counter = await client.actor(t.Counter, [3]);
  assertEquals(await counter.sum(new Float64Array(100_000).fill(2)), 200_000);
  const filled = await counter.filled(100_000);
  assertEquals([filled.length, filled[99_999]], [100_000, 3]);
});

Deno.test("an actor takes no slot while it is idle or called, and has a process of its own", async () => {
  await using c = await running(1);
  await using one = await c.client.actor(t.Counter, [0]);
  await using two = await c.client.actor(t.Counter, [0]);
  const busy = one.add(1, 300);
  using task = c.client.submit(() => Deno.pid, []);
  const pids = [await task.result(), await one.pid(), await two.pid()];
  assertEquals(new Set(pids).size, 3);
  assertEquals(await busy, 1);
});

Deno.test("more actors than slots, of one class, are all made at once", async () => {
  await using c = await running(2);
  const made = await Promise.all(Array.from({ length: 12 }, (_, i) => c.client.actor(t.Counter, [i])));
  assertEquals(await Promise.all(made.map((counter) => counter.add(1))), made.map((_, i) => i + 1));
  await Promise.all(made.map((counter) => counter[Symbol.asyncDispose]()));
});

Deno.test("a method starts tasks and waits for them, and the actor stays where it is", async () => {
  await using c = await running(1);
  await using counter = await c.client.actor(t.Counter, [40]);
  const pid = await counter.pid();
  assertEquals(await counter.nested(), 42);
  assertEquals([await counter.pid(), await counter.n], [pid, 42]);
});

Deno.test("a task and another client find an actor by its key; there is one for all", async () => {
  await using c = await running(2);
  await using counter = await c.client.actor(t.Counter, [1], { key: "actors-test-shared" });
  assertEquals(await counter.key(), "actors-test-shared");
  assertEquals(await c.client.submit(t.addsTo("actors-test-shared", 2)).result(), 3);
  await using other = await connect(here);
  {
    await using same = await other.actor(t.Counter, [100], { key: "actors-test-shared" });
    assertEquals(await same.add(1), 4);
  }
  // The other one wants it no more, and we do.
  assertEquals(await counter.n, 4);
  await assertRejects(() => other.remote("actors-test-nobody"), CancelledError, "does not know");
  using plain = c.client.submit(() => 1, []);
  await plain.result();
  await assertRejects(
    () => c.client.remote(plain.key),
    DaskError,
    "expected one of a TypeScript class, got a number",
  );
});

for (const isolation of ["thread", "inline"] as const) {
  Deno.test(`an actor lives in a worker with isolation ${isolation}, too`, async () => {
    await using client = await connect(here);
    await using _ = await startWorker({ address: here, slots: 1, isolation, validate: true });
    await using one = await client.actor(t.Counter, [1]);
    await using two = await client.actor(t.Counter, [10]);
    assertEquals(await Promise.all([one.add(1), two.add(1), one.nested(), one.n]), [2, 11, 4, 4]);
    await assertRejects(() => one.fails("no"), TaskError, "RangeError: no");
  });
}

Deno.test("an actor needs none of the permissions that its worker keeps from tasks", async () => {
  await using c = await running(1, ["--task-permissions", "none"]);
  await using counter = await c.client.actor(t.Counter, [1]);
  assertEquals([await counter.add(1), await counter.n], [2, 2]);
  await assertRejects(() => counter.nested(), TaskError, `lacks the permission "net"`);
});

Deno.test("an actor that grows beyond its worker's memory is ended, the worker is not", async () => {
  await using client = await connect(here);
  const memoryLimit = Deno.memoryUsage().rss + 400e6;
  await using _ = await startWorker({
    address: here,
    slots: 1,
    validate: true,
    memoryLimit,
    memory: { target: false, spill: false, pause: false, terminate: 0.9 },
  });
  await using counter = await client.actor(t.Counter, [1]);
  const error = await lossOf(counter.grow(1e9));
  assertStringIncludes(error.message, "of its memory limit");
  assertEquals(await client.submit(() => 1, []).result(), 1);
});

// --- Failing ---

Deno.test("a method that throws rejects with what it threw, by whom and where; the actor lives on", async () => {
  await using c = await running(1);
  await using counter = await c.client.actor(t.Counter, [1]);
  const error = await assertRejects(() => counter.fails("too far"), TaskError);
  const key = await counter.key();
  assertEquals([error.key, error.worker], [key, c.addresses[0]]);
  assert(!(error instanceof WorkerLostError));
  for (const part of [`"fails"`, key, c.addresses[0]!, "RangeError: too far"]) {
    assertStringIncludes(error.message, part);
  }
  assertStringIncludes(error.remoteStack, "actor_classes.ts");
  assertInstanceOf(error.cause, Error);
  assertEquals([error.cause.name, error.cause.message], ["RangeError", "too far"]);
  const unsent = await assertRejects(() => counter.itself(), TaskError);
  assertStringIncludes(unsent.message, "an instance of Counter");
  assertEquals(await counter.n, 1);
});

Deno.test("a constructor that throws, or is none, rejects where the actor is made", async () => {
  await using c = await running(1);
  const error = await assertRejects(() => c.client.actor(t.Counter, [-1]), TaskError);
  assertStringIncludes(error.message, "RangeError: -1 is below zero");
  assertEquals(error.worker, c.addresses[0]);
  // What the compiler refuses, and JavaScript does not.
  const wrong = t.notAClass as unknown as typeof t.Counter;
  await assertRejects(() => c.client.actor(wrong, [1]), TaskError, "expected a class, got a function");
  // Nothing is left of either, and a slot is free.
  using task = c.client.submit(() => 1, []);
  await task.result();
  assertEquals((await c.client.processing()).get(c.addresses[0]!), []);
  await using empty = await c.client.actor(t.Empty, []);
  assertThrows(() => (empty as unknown as { add(): void }).add(), TypeError, "its methods are none");
});

Deno.test("a constructor that never ends is ended by its timeout", async () => {
  await using c = await running(1);
  const error = await assertRejects(() => c.client.actor(t.Endless, [], { timeout: 200 }), TaskError);
  assertStringIncludes(error.message, "it ran longer than its timeout of 200 ms");
  await until(() => processTree(c.processes[0]!.pid).length === 2);
});

Deno.test("nonsense is refused by name before anything is sent", async () => {
  await using c = await running(1);
  const { client } = c;
  // deno-lint-ignore no-explicit-any
  const loose = client as any;
  await assertRejects(() => loose.actor(class {}, []), TypeError, "as a task");
  await assertRejects(
    () => loose.actor(t.Counter, 10),
    TypeError,
    "expected the constructor's arguments as an array",
  );
  await assertRejects(() => loose.actor(t.Counter, [1], { retry: 1 }), TypeError, `"retry" of actor`);
  await assertRejects(() => loose.actor(t.Counter, [() => 1]), SerializationError);
  await assertRejects(() => loose.remote(5), TypeError, "expected a key");
  await assertRejects(() => client.actor(t.Counter, [1], { signal: AbortSignal.abort() }), DOMException);

  await using counter = await client.actor(t.Counter, [1]);
  // deno-lint-ignore no-explicit-any
  const any = counter as any;
  const error = assertThrows(() => any.substract(1), TypeError);
  assertStringIncludes(error.message, `Cannot use "substract" of the actor "Counter-`);
  assertStringIncludes(error.message, "add");
  assertThrows(() => any.n = 5, TypeError, "Cannot set");
  await assertRejects(() => any.add(() => 1), SerializationError, "args[0]");
  using future = client.submit(() => 1, []);
  await assertRejects(() => any.add(future), TypeError, "await its result first");
  assertThrows(() => client.submit((x: unknown) => x, [counter]), TypeError, "give its key");
  assertThrows(() => client.submit((x: unknown[]) => x, [[counter]]), TypeError, "give its key");
  await assertRejects(() => any.add(counter), TypeError, "give its key");
  // A handle is no promise, and says what it is.
  assertEquals(any.then, undefined);
  assertEquals(`${any}`, "[object Remote]");
  assertStringIncludes(Deno.inspect(counter), `Remote(Counter, "Counter-`);
  assertEquals(await counter.size(), 0);
});

// --- Ending ---

Deno.test("releasing an actor ends its process and refuses later calls; so does the end of its client", async () => {
  await using c = await running(1);
  let kept: Remote<Counter>;
  let pid: number;
  {
    await using counter = await c.client.actor(t.Counter, [1]);
    pid = await counter.pid();
    assert(isAlive(pid));
    kept = counter;
  }
  await until(() => !isAlive(pid));
  await assertRejects(() => kept.add(1), DaskError, "it was released");
  await kept[Symbol.asyncDispose]();

  const other = await connect(here);
  const counter = await other.actor(t.Counter, [1]);
  pid = await counter.pid();
  const waiting = assertRejects(() => counter.forever(), DaskError, "closed");
  await other.close();
  await waiting;
  await until(() => !isAlive(pid));
  await assertRejects(() => counter.n, DaskError, "closed");
});

Deno.test("a method under way does not keep a released actor, and hears that it is not wanted", async () => {
  await using c = await running(1);
  const counter = await c.client.actor(t.Counter, [1]);
  const pid = await counter.pid();
  const refused = assertRejects(() => counter.forever(), DaskError, "it was released");
  const next = assertRejects(() => counter.n, DaskError, "it was released");
  await counter[Symbol.asyncDispose]();
  await Promise.all([refused, next]);
  await until(() => !isAlive(pid));
});

Deno.test("when the process of an actor is killed, pending and later calls of all its holders reject as lost", async () => {
  await using c = await running(1);
  const { client, addresses } = c;
  const key = "actors-test-killed";
  await using counter = await client.actor(t.Counter, [1], { key });
  await using other = await connect(here);
  await using same = await other.remote<Counter>(key);
  const pid = await counter.pid();
  const pending = [counter.forever(), counter.add(1), counter.n].map((call) => lossOf(call));
  Deno.kill(pid, "SIGKILL");
  const [first, ...others] = await Promise.all(pending);
  assertStringIncludes(first!.message, "SIGKILL");
  assertEquals([first!.key, first!.attempts[0]!.worker], [key, addresses[0]]);
  for (const error of others) assertInstanceOf(error, WorkerLostError);
  await lossOf(counter.add(1));
  // Whoever was idle meanwhile hears of it with the next call; whoever comes now, too.
  await using late = await other.remote<Counter>(key);
  for (const one of [same, late]) assertStringIncludes((await lossOf(one.n)).message, "SIGKILL");
  // The worker lives on, and there can be another one under this key.
  await until(async () => !(await client.whoHas()).has(key));
  await using again = await client.actor(t.Counter, [5], { key });
  assertEquals(await again.add(1), 6);
});

Deno.test("an actor that ends its own process is lost, with the reason", async () => {
  await using c = await running(1);
  await using counter = await c.client.actor(t.Counter, [1]);
  const error = await lossOf(counter.exit(3));
  assertStringIncludes(error.message, "Deno.exit(3) was called");
});

Deno.test("when its worker is killed, pending and later calls reject as lost, and it is not made again", async () => {
  await using c = await running(2);
  await using counter = await c.client.actor(t.Counter, [1], {
    workers: [c.addresses[0]!],
    allowOtherWorkers: true,
  });
  await using other = await connect(here);
  await using idle = await other.remote<Counter>(await counter.key());
  const key = await counter.key();
  const pid = await counter.pid();
  const [victim] = c.processes.filter((process) => processTree(process.pid).includes(pid));
  const pending = [counter.forever(), counter.n].map((call) => lossOf(call));
  victim!.kill("SIGKILL");
  for (const error of await Promise.all(pending)) {
    assertEquals([error.key, error.worker], [key, c.addresses[0]]);
  }
  await Promise.all([lossOf(counter.n), lossOf(idle.n)]);
  await until(() => !isAlive(pid));
  await until(async () => (await c.client.workers()).length === 1);
  await lossOf(counter.add(1));
  // Nobody wants it any more.
  await until(async () => !(await c.client.whoHas()).has(key));
});

Deno.test("a worker that closes takes its actors along", async () => {
  await using client = await connect(here);
  const worker = await startWorker({ address: here, slots: 1, validate: true });
  await using counter = await client.actor(t.Counter, [1]);
  const pid = await counter.pid();
  const pending = lossOf(counter.forever());
  await worker.close();
  await pending;
  assert(!isAlive(pid));
  await lossOf(counter.n);
});

Deno.test("a worker that cannot be reached is called through the scheduler", async () => {
  await using c = await running(1);
  await using pool = new RpcPool(tcp);
  await using own = await c.client.actor(t.Counter, [1]);
  const future = c.client.future<unknown>(await own.key());
  await using counter = await remote<Counter>(future, {
    worker: () => Promise.reject(new CommClosedError("No way", "")),
    scheduler: (request, signal) => pool.call(here, request, { signal }),
  }, undefined);
  assertEquals([await counter.add(2), await counter.sum(Float64Array.of(1, 2)), await counter.n], [3, 3, 3]);
  await assertRejects(() => counter.fails("far away"), TaskError, "far away");
});

// --- Python ---

Deno.test("a Python client makes an actor, calls it, reads its fields, and shares it with us", async () => {
  await using c = await running(1);
  const told = await python.run(`
global counter
future = client.submit(ts("Counter"), 10, actor=True, key="python-counter")
counter = future.result(timeout=10)
answers = [counter.add(2).result(timeout=10), counter.scale(factor=3).result(timeout=10), counter.n, repr(counter)]
try:
    counter.fails("from Python").result(timeout=10)
except Exception as error:
    answers.append(f"{type(error).__name__}: {error}")
try:
    counter.nosuch
except AttributeError as error:
    answers.append("no attribute")
return answers`);
  assertEquals(told, [
    12,
    36,
    36,
    "<Actor: Counter, key=python-counter>",
    "ValueError: RangeError: from Python",
    "no attribute",
  ]);
  await using counter = await c.client.remote<Counter>("python-counter");
  assertEquals(await counter.add(6), 42);
  assertEquals(
    await python.run(`
value = counter.n
del globals()["counter"]
return value`),
    42,
  );
});

Deno.test("the scheduler found nothing to complain about, and its books are right", async () => {
  await python.run("client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.validate_state())");
  // Asked to reach a worker that was killed.
  assertEquals(await errorsInLog(scheduler, [/broadcast to tcp:.* failed: CommClosedError/]), []);
});

/**
 * A cluster whose workers all run. One that has registered may not run yet, and then the scheduler with its validation
 * fails over the actor that it cannot place, whoever submits it.
 */
async function running(count: number, args: readonly string[] = []): Promise<Cluster> {
  const c = await cluster(here, count, args);
  await Promise.all(
    c.addresses.map((address) => c.client.submit(() => 0, [], { workers: [address], pure: false }).result()),
  );
  return c;
}

/** The loss that a call must reject with, and soon. */
async function lossOf(call: Promise<unknown>): Promise<WorkerLostError> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise((_, reject) => timer = setTimeout(() => reject(new Error("It hangs")), HANGS_MS));
  try {
    return await assertRejects(() => Promise.race([call, late]), WorkerLostError);
  } finally {
    clearTimeout(timer);
  }
}
