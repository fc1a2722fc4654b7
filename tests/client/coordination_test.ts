/**
 * What is shared by name through the scheduler: between two clients of ours, and with a client of Python's.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { type Client, connect } from "../../client/mod.ts";
import { op, task } from "../../dispatch/mod.ts";
import { DaskError, TaskError } from "../../protocol/errors.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { pythonClient } from "../worker/python_client.ts";
import { cluster } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;
const python = await pythonClient(here, new URL("../worker/tasks.ts", import.meta.url));
const add = task((a: number, b: number) => a + b);

async function two(): Promise<AsyncDisposable & { readonly a: Client; readonly b: Client }> {
  const [a, b] = await Promise.all([connect(here), connect(here)]);
  return { a, b, [Symbol.asyncDispose]: async () => void await Promise.all([a.close(), b.close()]) };
}

const ITEM = { text: "ü", list: [1, 2.5, null, true], bytes: Uint8Array.of(1, 2), deep: { a: [{ b: -1 }] } };

Deno.test("a queue hands plain data from client to client, in order", async () => {
  await using c = await two();
  const [put, get] = [c.a.queue<unknown>("plain"), c.b.queue<unknown>("plain")];
  await put.put(ITEM);
  await put.put("second");
  assertEquals(await put.size(), 2);
  assertEquals(await get.get(), ITEM);
  assertEquals(await get.get(), "second");
  const later = get.get(); // nothing there yet
  await put.put(3);
  assertEquals(await later, 3);
});

Deno.test("a queue is iterated as items come; leaving the loop loses nothing", async () => {
  await using c = await two();
  const [jobs, other] = [c.a.queue<number>("jobs"), c.b.queue<number>("jobs")];
  for (const n of [1, 2, 3]) await jobs.put(n);
  const seen: number[] = [];
  for await (const n of other) {
    seen.push(n);
    if (n === 2) break;
  }
  assertEquals(seen, [1, 2]);
  assertEquals(await jobs.get(), 3);
});

Deno.test("who gives up waiting for an item takes none", async () => {
  await using c = await two();
  const queue = c.a.queue<string>("given up");
  const stop = new AbortController();
  const waiting = queue.get({ signal: stop.signal });
  stop.abort(new Error("enough"));
  await assertRejects(() => waiting, Error, "enough");
  await c.b.queue<string>("given up").put("kept");
  assertEquals(await queue.get(), "kept");
});

Deno.test("a full queue makes who puts wait", async () => {
  await using c = await two();
  const small = c.a.queue<number>("small", 1);
  await small.put(1);
  let put = false;
  const second = small.put(2).then(() => put = true);
  assertEquals(await c.b.queue<number>("small").size(), 1);
  assert(!put);
  assertEquals(await c.b.queue<number>("small").get(), 1);
  await second;
  assertEquals(await c.b.queue<number>("small").get(), 2);
});

Deno.test("of futures and nodes in a queue or variable the others get the value, or the error", async () => {
  await using c = await cluster(here, 1);
  await using other = await connect(here);
  const queue = c.client.queue<number>("futures");
  {
    using future = c.client.submit(add(1, 2));
    await queue.put(future);
  }
  await queue.put(add(3, 4));
  assertEquals(await other.queue<number>("futures").get(), 3);
  assertEquals(await other.queue<number>("futures").get(), 7);
  const variable = c.client.variable<number>("future");
  await variable.set(add(10, 20));
  assertEquals(await other.variable<number>("future").get(), 30);
  assertEquals(await other.variable<number>("future").get(), 30);
  await variable.set(op((): number => {
    throw new RangeError("no number");
  }));
  await assertRejects(() => other.variable<number>("future").get(), TaskError, "no number");
  await variable.delete();
});

Deno.test("a variable is waited for, set, and set again", async () => {
  await using c = await two();
  const waiting = c.b.variable<unknown>("v").get();
  await c.a.variable<unknown>("v").set(ITEM);
  assertEquals(await waiting, ITEM);
  await c.b.variable<unknown>("v").set([1]);
  assertEquals(await c.a.variable<unknown>("v").get(), [1]);
  const signal = AbortSignal.timeout(20);
  await assertRejects(() => c.a.variable("never").get({ signal }), DOMException);
});

Deno.test("an event wakes who waits for it", async () => {
  await using c = await two();
  const event = c.a.event("go");
  assert(!await event.isSet());
  const waiting = c.b.event("go").wait();
  await event.set();
  await waiting;
  assert(await c.b.event("go").isSet());
  await event.clear();
  assert(!await event.isSet());
});

Deno.test("a lock is held by one at a time; who gives up waiting does not get it", async () => {
  await using c = await two();
  const order: string[] = [];
  const first = await c.a.lock("l");
  const second = c.b.lock("l").then((lease) => (order.push("second"), lease));
  const stop = new AbortController();
  const never = c.a.lock("l", { signal: stop.signal });
  stop.abort(new Error("too long"));
  await assertRejects(() => never, Error, "too long");
  order.push("released");
  await first.release();
  await first.release();
  await using _held = await second;
  assertEquals(order, ["released", "second"]);
  await (await second).release();
  await using _again = await c.a.lock("l");
});

Deno.test("a semaphore has as many leases as it was made with", async () => {
  await using c = await two();
  await using _one = await c.a.lock("s", { leases: 2 });
  await using _two = await c.b.lock("s", { leases: 2 });
  const signal = AbortSignal.timeout(50);
  await assertRejects(() => c.a.lock("s", { leases: 2, signal }), DOMException);
  await assertRejects(() => c.a.lock("s", { leases: 3 }), DaskError, "Inconsistent max leases");
});

Deno.test("a topic is heard from now on, and looked up from the past", async () => {
  await using c = await two();
  await c.a.logEvent("news", { n: 0 });
  const heard: unknown[] = [];
  const stop = new AbortController();
  const listening = (async () => {
    for await (const event of c.b.topic<{ n: number }>("news", { signal: stop.signal })) {
      heard.push(event);
      if (event.n === 2) return;
    }
  })();
  // The subscription travels by another connection: repeat until it is there.
  while (heard.length === 0) await c.a.logEvent("news", { n: 1 });
  await c.a.logEvent("news", { n: 2 });
  await listening;
  assertEquals(heard.at(-1), { n: 2 });
  const past = await c.a.pastEvents("news");
  assertEquals(past[0]!.event, { n: 0 });
  assert(Math.abs(past[0]!.at - Date.now()) < 60_000);
  const silent = c.b.topic("silence", { signal: stop.signal }).next();
  stop.abort(new Error("no news"));
  await assertRejects(() => silent, Error, "no news");
});

Deno.test("a topic is heard before anybody asks, and one that nobody asks ends as well", async () => {
  await using c = await cluster(here, 1);
  const { client } = c;
  const stop = new AbortController();
  const early = client.topic<{ n: number }>("early");
  const unasked = client.topic("early", { signal: stop.signal });
  const left = client.topic("early");
  await left.return?.();
  assertEquals(await left.next(), { value: undefined, done: true });
  using sum = client.submit(add(1, 1)); // goes the way of the subscription, after it
  assertEquals(await sum.result(), 2);
  await client.logEvent("early", { n: 3 });
  assertEquals(await early.next(), { value: { n: 3 }, done: false });
  await early.return?.();
  stop.abort(new Error("no news"));
  assertEquals(await unasked.next(), { value: { n: 3 }, done: false });
  await assertRejects(() => unasked.next(), Error, "no news");
  client.topic("late"); // ends with the client
});

Deno.test("a published result outlives its client, and is found by name", async () => {
  await using c = await cluster(here, 1);
  {
    await using publisher = await connect(here);
    await publisher.publish("answer", publisher.submit(add(40, 2)));
    await assertRejects(
      () => publisher.publish("answer", publisher.submit(add(0, 0))),
      DaskError,
      "already exists",
    );
  }
  assertEquals(await c.client.datasets(), ["answer"]);
  using found = await c.client.dataset<number>("answer");
  assertEquals(await found.result(), 42);
  await c.client.publish("answer", c.client.submit(add(1, 1)), { override: true });
  using replaced = await c.client.dataset<number>("answer");
  assertEquals(await replaced.result(), 2);
  await c.client.unpublish("answer");
  const error = await assertRejects(() => c.client.dataset("answer"), DaskError);
  assertStringIncludes(error.message, "nothing is published");
});

Deno.test("Python meets us in queues, variables, events and locks", async () => {
  await using client = await connect(here);
  await client.queue<unknown>("both").put({ from: "ts", list: [1, 2] });
  assertEquals(
    await python.run(`
from distributed import Queue
q = Queue("both")
got = q.get(timeout=5)
q.put({"from": "py", 1: (1, 2), "half": 0.5})
q.put(numpy.arange(3.0))
return [got["from"], list(got["list"])]`),
    ["ts", [1, 2]],
  );
  const queue = client.queue<unknown>("both");
  assertEquals(await queue.get(), new Map<unknown, unknown>([["from", "py"], [1, [1, 2]], ["half", 0.5]]));
  assertEquals(await queue.get(), Float64Array.of(0, 1, 2));

  await client.variable("both").set(["x", 1]);
  assertEquals(
    await python.run(`
from distributed import Variable, Event, Lock
v = Variable("both")
old = list(v.get(timeout=5))
v.set(7)
Event("both").set()
return old`),
    ["x", 1],
  );
  assertEquals(await client.variable("both").get(), 7);
  await client.event("both").wait();
  const lease = await client.lock("both");
  assertEquals(
    await python.run(`from distributed import Lock\nreturn Lock("both").acquire(timeout=0.2)`),
    false,
  );
  await lease.release();
  assertEquals(
    await python.run(`
from distributed import Lock
lock = Lock("both")
got = lock.acquire(timeout=5)
lock.release()
return got`),
    true,
  );
});

Deno.test("futures travel by name between the languages", async () => {
  await using c = await cluster(here, 1);
  await c.client.queue<number>("crossing").put(add(5, 6));
  await c.client.publish("from-ts", c.client.submit(add(7, 8)));
  assertEquals(
    await python.run(`
from distributed import Queue
first = Queue("crossing").get(timeout=5).result(timeout=10)
second = client.get_dataset("from-ts").result(timeout=10)
made = client.submit(ts("add"), 1, 1, key="crossing-1", pure=False)
client.publish_dataset(made, name="from-py")
Queue("crossing").put(made)
made.result(timeout=10)
return [first, second]`),
    [11, 15],
  );
  assertEquals(await c.client.queue<number>("crossing").get(), 2);
  using found = await c.client.dataset<number>("from-py");
  assertEquals(await found.result(), 2);
  for (const name of await c.client.datasets()) await c.client.unpublish(name);
});

Deno.test("what is no name, no size, or no plain data is refused before anything is sent", async () => {
  await using client = await connect(here);
  assertThrows(() => client.queue(""), TypeError, "expected its name");
  assertThrows(() => client.queue("q", -1), RangeError, "largest size");
  assertThrows(() => client.variable(7 as unknown as string), TypeError, "expected its name");
  assertThrows(() => client.topic(""), TypeError, "expected its name");
  await assertRejects(() => client.lock("l", { leases: 0 }), RangeError, "from 1");
  const queue = client.queue<unknown>("refused");
  const refused: [unknown, string][] = [
    [{ a: [new Map()] }, "value.a[0]"],
    [Float64Array.of(1), "value"],
    [() => 1, "value"],
    [{ when: new Date() }, "value.when"],
    [1n << 70n, "value"],
  ];
  for (const [value, place] of refused) {
    const error = await assertRejects(() => queue.put(value), TypeError);
    assertStringIncludes(error.message, ` at ${place};`);
    assertStringIncludes(error.message, "scatter it");
  }
  assertEquals(await queue.size(), 0);
  await client.close();
  assertThrows(() => client.queue("q"), DaskError, "closed");
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(
    await errorsInLog(scheduler, [
      /RangeError|no number/,
      /Dataset answer already exists/,
      /Inconsistent max leases/,
      /handling op (publish_put|semaphore_register)/,
      /Traceback|^\s/,
      /distributed\.utils - ERROR/,
    ]),
    [],
  );
});
