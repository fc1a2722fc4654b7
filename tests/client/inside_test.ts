/**
 * Tasks that ask about themselves, say something, and start tasks, on workers at the real scheduler.
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connect, op, startWorker, task, TaskError, tasks } from "../../mod.ts";
import type { Current } from "../../worker/execute/current.ts";
import { errorsInLog, sharedScheduler, startScheduler } from "../support/scheduler.ts";
import { pythonClient } from "../worker/python_client.ts";
import { sourceCall, TestPool } from "../worker/execute/specs.ts";
import { cluster, until } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;
const python = await pythonClient(here, new URL("../worker/tasks.ts", import.meta.url));
const t = tasks<typeof import("./inside_tasks.ts")>(new URL("./inside_tasks.ts", import.meta.url));

// What functions that travel by their source find around them.
declare const current: () => Current;

/** Counts below itself; every call waits for another. */
const fib = task(async function fib(n: number): Promise<number> {
  if (n < 2) return n;
  const client = await current().client();
  const parts = [n - 1, n - 2].map((m) => client.submit(fib, [m]));
  const [a, b] = await client.gather(parts);
  return a! + b!;
});

/** The same; no two calls share a result. */
const deep = task(async function deep(n: number, file: string): Promise<number> {
  if (n > 0) {
    const client = await current().client();
    return 1 + await client.submit(deep, [n - 1, file], { pure: false }).result();
  }
  while (await Deno.readTextFile(file) === "") await new Promise((resolve) => setTimeout(resolve, 10));
  return 0;
});

// --- Itself ---

Deno.test("current of mod.ts is that of the worker, in a bundle that does not hold the package", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(t.whoAmI());
  assertEquals(await future.result(), [future.key, 1]);
  const code = (await c.client.whoHas()).keys().find((key) => key.startsWith("code-"));
  using bundle = c.client.future<Uint8Array>(code!);
  const { length } = await bundle.result();
  assert(length < 10_000, `${length} bytes`);
});

Deno.test("a repeated task knows which try it is", async () => {
  await using c = await cluster(here, 1);
  using repeated = c.client.submit(t.succeedsAt(3), { retries: 5 });
  assertEquals(await repeated.result(), 3);
  using once = c.client.submit(t.succeedsAt(2));
  await assertRejects(() => once.result(), TaskError, "try 1");
  await once.retry();
  assertEquals(await once.result(), 2);
});

Deno.test("the topics of tasks reach a Python client, with the worker that said it", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(op(async () => {
    current().log("inside-topic", { text: "hello", list: [1, 2.5, null], bytes: new Uint8Array([7]) });
    for (let i = 1; i <= 5; i++) {
      current().progress(i, 5);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }));
  await future.result();
  const told = await python.run(`
until(lambda: client.get_events("inside-topic"))
[(_, event)] = client.get_events("inside-topic")
assert event["bytes"] == b"\\x07", event
until(lambda: any(e["done"] == 5 for _, e in client.get_events("dask-ts-progress")))
steps = [e for _, e in client.get_events("dask-ts-progress") if e["key"] == ${JSON.stringify(future.key)}]
return [event["text"], list(event["list"]), event["worker"], steps[0]["done"], len(steps), steps[-1]]`) as unknown[];
  const [text, list, worker, first, count, last] = told;
  assertEquals([text, list, worker, first], ["hello", [1, 2.5, null], c.addresses[0], 1]);
  assert(Number(count) >= 2 && Number(count) <= 5, `${count}`);
  assertEquals(last, { key: future.key, done: 5, total: 5, worker: c.addresses[0] });
});

Deno.test("a task that reschedules itself ends up on the worker that it wants", async () => {
  await using c = await cluster(here, 2);
  const pids = await Promise.all(
    c.addresses.map((address) =>
      c.client.submit(op(() => Deno.ppid), { workers: [address], pure: false }).result()
    ),
  );
  // The worker that is not wanted is idle, so the task comes there first; then it is the one that is busy.
  const [unwanted, wanted] = c.addresses as [string, string];
  const file = await Deno.makeTempFile();
  try {
    const holds = task(async (file: string, text: string) => {
      while (await Deno.readTextFile(file) !== text) await new Promise((resolve) => setTimeout(resolve, 10));
    });
    using busy = c.client.submit(holds(file, "one"), { workers: [wanted] });
    await until(async () => (await c.client.processing()).get(wanted)?.length === 1);
    using future = c.client.submit(t.onlyIn(pids[1]!, file));
    await until(async () => (await c.client.processing()).get(unwanted)?.length === 1);
    using other = c.client.submit(holds(file, "two"), { workers: [unwanted] });
    await until(async () => (await c.client.processing()).get(unwanted)?.length === 2);
    await Deno.writeTextFile(file, "one");
    await busy.result();
    assertEquals(await future.result(), pids[1]);
    await Deno.writeTextFile(file, "two");
    await other.result();
  } finally {
    await Deno.remove(file);
  }
});

// --- Tasks that start tasks ---

Deno.test("recursion on one slot ends, and few processes are kept", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(fib(12));
  assertEquals(await future.result(), 144);
  await until(async () => await executors(c.processes[0]!.pid) === 1);
});

Deno.test("where no two calls share a result the deepest go first, and a worker can take those that wait", async () => {
  await using c = await cluster(here, 1);
  const fib = task(async function fib(n: number): Promise<number> {
    if (n < 2) return n;
    const client = await current().client();
    const parts = [n - 1, n - 2].map((m) => client.submit(fib, [m], { pure: false }));
    const [a, b] = await client.gather(parts);
    return a! + b!;
  });
  using future = c.client.submit(fib(10)); // 177 calls, 88 of which wait for others
  assertEquals(await future.result(), 55);
});

Deno.test("every call of a chain waits in a process of its own, and all end with the chain", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  try {
    using future = c.client.submit(deep(8, file), { pure: false });
    await until(async () => await executors(c.processes[0]!.pid) === 9);
    await Deno.writeTextFile(file, "go on");
    assertEquals(await future.result(), 8);
    await until(async () => await executors(c.processes[0]!.pid) === 1);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("cancelling a task ends those that it started", async () => {
  await using c = await cluster(here, 1);
  const nested = task(async () => {
    const client = await current().client();
    const never = client.submit(() => new Promise<number>(() => {}), [], { label: "never" });
    return await never.result();
  });
  using parent = c.client.submit(nested());
  await until(async () => (await c.client.processing()).get(c.addresses[0]!)?.length === 2);
  await parent.cancel();
  await until(async () => (await c.client.processing()).get(c.addresses[0]!)?.length === 0);
  using next = c.client.submit(op(() => 1));
  assertEquals(await next.result(), 1);
  await until(async () => await executors(c.processes[0]!.pid) === 1);
});

Deno.test("the ways to wait inside a task free its slot", async () => {
  await using c = await cluster(here, 1);
  const settled = op(async () => {
    const client = await current().client();
    return (await client.submit(() => 1, [], { pure: false }).settled()).status;
  });
  const gather = op(async () => {
    const client = await current().client();
    const futures = [1, 2].map((n) => client.submit((n: number) => n, [n], { pure: false }));
    return await client.gather(futures);
  });
  const progress = op(async () => {
    const client = await current().client();
    const futures = [1, 2].map((n) => client.submit((n: number) => n, [n], { pure: false }));
    const told: number[] = [];
    for await (const { done } of client.progress(futures)) told.push(done);
    return told;
  });
  const replicate = op(async () => {
    const client = await current().client();
    await client.replicate([client.submit(() => 1, [], { pure: false })]);
    return "replicated";
  });
  assertEquals(await c.client.submit(settled).result(), "fulfilled");
  assertEquals(await c.client.submit(gather).result(), [1, 2]);
  // Both may be done in one step.
  const told = await c.client.submit(progress).result();
  assertEquals([told[0], told.at(-1)], [0, 2]);
  assertEquals(await c.client.submit(replicate).result(), "replicated");
});

Deno.test("a module's task uses op of mod.ts and a client together", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(t.addsThere(20, 22));
  assertEquals(await future.result(), 42);
});

Deno.test("a task that Python named starts tasks, and says how far it is, under a key that is a tuple", async () => {
  await using _ = await cluster(here, 1);
  const url = new URL("./inside_tasks.ts", import.meta.url).href;
  const answer = await python.run(`
fn = methodcaller("deno:${url}#addsThere")
future = client.submit(fn, 20, 22, key=("inside-tuple", 1))
value = future.result()
until(lambda: any(e["key"] == ("inside-tuple", 1) for _, e in client.get_events("dask-ts-progress")))
return value`);
  assertEquals(answer, 42);
});

Deno.test("a module's task submits further tasks of its own module", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(t.powerOfTwo(5));
  assertEquals(await future.result(), 32);
});

Deno.test("a client that a task closed is no loss for the next", async () => {
  await using c = await cluster(here, 1);
  using first = c.client.submit(t.closesItsClient(1));
  assertEquals(await first.result(), 1);
  const twice = async () => {
    await (await current().client()).close();
    return await (await current().client()).submit(() => 2, []).result();
  };
  assertEquals(await c.client.submit(op(twice)).result(), 2);
});

Deno.test("failures of started tasks come to the task that waits, and on to the user", async () => {
  await using c = await cluster(here, 1);
  using future = c.client.submit(op(async () => {
    const client = await current().client();
    await client.submit(() => {
      throw new RangeError("deep down");
    }, []).result();
  }));
  const error = await assertRejects(() => future.result(), TaskError);
  assertStringIncludes(error.message, "deep down");
});

Deno.test("futures of a task are released when it ends; one cannot be its result", async () => {
  await using c = await cluster(here, 1);
  using kept = c.client.submit(op(async () => {
    const client = await current().client();
    const futures = [1, 2, 3].map((n) => client.submit((n: number) => n, [n], { label: "left" }));
    await client.gather(futures);
    return futures.map(({ key }) => key);
  }));
  const keys = await kept.result();
  assertEquals(keys.length, 3);
  await until(async () => {
    const held = await c.client.whoHas();
    return keys.every((key) => !held.has(key));
  });
  using never = c.client.submit(op(async () => {
    const client = await current().client();
    return client.submit(() => 1, []) as unknown;
  }));
  const error = await assertRejects(() => never.result(), TaskError);
  assertStringIncludes(error.message, "Future");
});

Deno.test("a detached task runs on when the task that started it has ended", async () => {
  await using c = await cluster(here, 1);
  const file = await Deno.makeTempFile();
  try {
    using future = c.client.submit(op(async (file: string) => {
      const client = await current().client();
      client.submit((file: string) => Deno.writeTextFile(file, "done"), [file]).detach();
    }, file));
    await future.result();
    await until(async () => await Deno.readTextFile(file) === "done");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("what a task submits goes before what waits", async () => {
  await using own = await startScheduler();
  await using c = await cluster(own.address, 1);
  const order = await Deno.makeTempFile();
  try {
    const writes = task(async (file: string, text: string) => {
      await Deno.writeTextFile(file, `${text} `, { append: true });
      await new Promise((resolve) => setTimeout(resolve, 30));
    });
    using parent = c.client.submit(op(async (file: string) => {
      const client = await current().client();
      while (await Deno.readTextFile(file) === "") await new Promise((resolve) => setTimeout(resolve, 10));
      await client.submit(async (file: string) => {
        await Deno.writeTextFile(file, "child ", { append: true });
      }, [file]).result();
    }, order));
    await until(async () => (await c.client.processing()).get(c.addresses[0]!)?.length === 1);
    const others = c.client.map((i: number) => writes(order, `other${i}`), Array(20).keys());
    await until(async () => (await c.client.processing()).get(c.addresses[0]!)!.length >= 2);
    await Deno.writeTextFile(order, "begin ");
    await parent.result();
    await c.client.gather(others);
    const words = (await Deno.readTextFile(order)).trim().split(" ");
    // Some were on their way to the slot already.
    assert(words.indexOf("child") < 12, words.join(" "));
  } finally {
    await Deno.remove(order);
  }
});

Deno.test("a worker without net for its tasks says so, and the task fails", async () => {
  await using c = await cluster(here, 1, ["--task-permissions", "none"]);
  using future = c.client.submit(fib(2));
  const error = await assertRejects(() => future.result(), TaskError);
  assertStringIncludes(error.message, `lacks the permission "net"`);
  assertStringIncludes(error.message, `net=${here.replace("tcp://", "")}`);
});

Deno.test("a task that cannot wait, because too many do, is told so", async () => {
  await using own = await startScheduler();
  await using test = new TestPool({ scheduler: own.address, secededMax: 1, graceMs: 20_000 });
  const waits = async () => await (await current().client()).submit(() => 1, []).result();
  test.pool.place(sourceCall("one", waits));
  await test.until(() => test.story().includes("seceded one"));
  const { exceptionText } = await test.failure(sourceCall("two", waits));
  assertStringIncludes(exceptionText, "as 1 tasks of this worker do already");
  test.pool.abort("one", 1, "nobody wants it");
  const outcome = await test.ended("one");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "nobody wants it");
});

// --- Ends ---

Deno.test("a seceded task is long-running for the scheduler, its result arrives, and a closing worker ends it", async () => {
  await using c = await cluster(here, 1);
  const secedes = task(async (ms: number) => {
    current().secede();
    await new Promise((resolve) => setTimeout(resolve, ms));
    return "late";
  });
  using endless = c.client.submit(secedes(600_000));
  using short = c.client.submit(secedes(300));
  using beside = c.client.submit(op(() => "beside"));
  assertEquals(await beside.result(), "beside");
  assertEquals(await short.result(), "late");
  const running = await python.run(`
return client.run_on_scheduler(lambda dask_scheduler: [
  ts.key for ws in dask_scheduler.workers.values() for ts in ws.long_running])`);
  assertEquals(running, [endless.key]);
  const [process] = c.processes;
  process!.kill("SIGTERM");
  assertEquals((await process!.ended).code, 0);
  assertEquals(endless.status, "pending");
  await endless.cancel();
});

Deno.test("a worker that closes aborts the signals of its tasks", async () => {
  const file = await Deno.makeTempFile();
  try {
    await using client = await connect(here);
    await using worker = await startWorker({ address: here, slots: 1 });
    using future = client.submit(op((file: string) =>
      new Promise((_, reject) => {
        const { signal } = current();
        signal.addEventListener("abort", () => {
          Deno.writeTextFileSync(file, signal.reason.message);
          reject(signal.reason);
        });
        Deno.writeTextFileSync(file, "began");
      }), file));
    await until(async () => await Deno.readTextFile(file) === "began");
    await worker.close();
    assertEquals(await Deno.readTextFile(file), "its worker ends");
    await future.cancel();
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});

/** Executors of a worker process. */
async function executors(worker: number): Promise<number> {
  const { stdout } = await new Deno.Command("ps", { args: ["-o", "pid=", "--ppid", String(worker)] })
    .output();
  return new TextDecoder().decode(stdout).trim().split("\n").filter((line) => line !== "").length;
}
