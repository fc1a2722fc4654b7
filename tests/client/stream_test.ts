/**
 * `Future.stream`: what generator tasks yield, while they run. On Python's own scheduler with validation on; the tasks
 * wait for the test after each item, so that what was read was read while they ran.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { connect } from "../../client/mod.ts";
import { RpcPool } from "../../comm/pool.ts";
import { tcp } from "../../comm/tcp.ts";
import { current, Reschedule } from "../../worker/execute/current.ts";
import { startWorker } from "../../worker/mod.ts";
import { op, python, task } from "../../dispatch/mod.ts";
import { CancelledError, DaskError, TaskError } from "../../protocol/errors.ts";
import { type Arrival, openGate } from "../support/gate.ts";
import { errorsInLog, pythonWorker, sharedScheduler } from "../support/scheduler.ts";
import { cluster, until } from "./cluster.ts";

const scheduler = await sharedScheduler();
const here = scheduler.address;

/** Yields numbers from 0; after each stands at the gate, as "worker's process, number". Fails at `fails` in a first try. */
const count = task(async function* (port: number, to: number, fails?: number): AsyncGenerator<number> {
  const { attempt } = current();
  for (let i = 0; i < to; i++) {
    if (i === fails && attempt === 1) throw new RangeError(`failed at ${i}`);
    yield i;
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new TextEncoder().encode(`${Deno.ppid} ${i}`));
    if (await conn.read(new Uint8Array(1)) === null) throw new Error("The gate was closed");
  }
});

/** A gate whose arrivals are awaited one by one. */
function turnstile(): AsyncDisposable & { readonly port: number; next(): Promise<Arrival> } {
  const come: Arrival[] = [];
  const awaited: ((arrival: Arrival) => void)[] = [];
  const gate = openGate((arrival) => {
    const waiting = awaited.shift();
    if (waiting === undefined) come.push(arrival);
    else waiting(arrival);
  });
  return {
    port: gate.port,
    next: () => {
      const arrival = come.shift();
      if (arrival !== undefined) return Promise.resolve(arrival);
      const { promise, resolve } = Promise.withResolvers<Arrival>();
      awaited.push(resolve);
      return inTime(promise, "Nobody came to the gate");
    },
    [Symbol.asyncDispose]: () => gate[Symbol.asyncDispose](),
  };
}

/** What a promise gives, unless it hangs. */
async function inTime<T>(promise: Promise<T>, message: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(message)), 30_000);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function read<T>(reader: ReadableStreamDefaultReader<T>, items: number): Promise<T[]> {
  const list: T[] = [];
  for (let i = 0; i < items; i++) {
    const { done, value } = await inTime(reader.read(), `Item ${i} did not come`);
    assert(!done, `The stream ended after ${i} items`);
    list.push(value);
  }
  return list;
}

for (const isolation of ["process", "thread", "inline"]) {
  Deno.test(`${isolation}: items come one by one while the task runs`, async () => {
    await using gate = turnstile();
    await using c = await cluster(here, 1, ["--isolation", isolation]);
    using future = c.client.submit(count(gate.port, 3));
    const reader = future.stream().getReader();
    for (let i = 0; i < 3; i++) {
      assertEquals(await read(reader, 1), [i]);
      assertEquals(future.status, "pending");
      (await gate.next()).pass();
    }
    assertEquals((await reader.read()).done, true);
    assertEquals([future.status, await future.result()], ["finished", [0, 1, 2]]);
  });
}

Deno.test("whoever comes late gets all items; each of several listeners does", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 4));
  (await gate.next()).pass();
  (await gate.next()).pass();
  const third = await gate.next();
  const one = future.stream().getReader(), two = future.stream().getReader();
  assertEquals(await read(one, 3), [0, 1, 2]);
  assertEquals(await read(two, 2), [0, 1]);
  third.pass();
  assertEquals(await read(one, 1), [3]);
  assertEquals(await read(two, 2), [2, 3]);
  const ends = [one.read(), two.read()];
  (await gate.next()).pass();
  assertEquals((await Promise.all(ends)).map(({ done }) => done), [true, true]);
  // And one who comes when all is over.
  assertEquals(await Array.fromAsync(future.stream()), [0, 1, 2, 3]);
});

Deno.test("a generator that never waits is heard while it runs", async () => {
  await using c = await cluster(here, 1);
  const folder = await Deno.makeTempDir();
  const spin = task(function* (path: string): Generator<number> {
    for (let i = 0;; i++) {
      yield i;
      try {
        Deno.statSync(path);
        return;
      } catch { /* not yet */ }
    }
  });
  try {
    using future = c.client.submit(spin(`${folder}/stop`));
    let last = -1;
    for await (const item of future.stream()) {
      assertEquals(item, ++last);
      if (item === 100) await Deno.writeTextFile(`${folder}/stop`, "");
    }
    assert(last >= 100);
    assertEquals((await future.result()).length, last + 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a retry after a failure half way gives no item twice", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 4, 2), { retries: 1 });
  const reader = future.stream().getReader();
  assertEquals(await read(reader, 1), [0]);
  (await gate.next()).pass();
  assertEquals(await read(reader, 1), [1]);
  const rest = read(reader, 2);
  // The first try's second, then the second try's four.
  for (let i = 0; i < 5; i++) (await gate.next()).pass();
  assertEquals(await rest, [2, 3]);
  assertEquals((await reader.read()).done, true);
});

Deno.test("a retry that the client decides on goes on in the same stream", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 3, 1), { retryOn: () => true });
  const items = Array.fromAsync(future.stream());
  for (let i = 0; i < 4; i++) (await gate.next()).pass();
  assertEquals(await items, [0, 1, 2]);
});

Deno.test("a task that moves to another worker goes on where the stream stands", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 2);
  using future = c.client.submit(count(gate.port, 3));
  const reader = future.stream().getReader();
  assertEquals(await read(reader, 1), [0]);
  const { pid, pass } = await gate.next();
  pass();
  assertEquals(await read(reader, 1), [1]);
  await gate.next();
  const rest = read(reader, 1);
  Deno.kill(pid, "SIGKILL");
  for (let i = 0; i < 3; i++) {
    const again = await gate.next();
    assert(again.pid !== pid);
    again.pass();
  }
  assertEquals(await rest, [2]);
  assertEquals((await reader.read()).done, true);
  assertEquals(await future.result(), [0, 1, 2]);
});

Deno.test("a stream errors with what result rejects with", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 4, 1));
  const reader = future.stream().getReader();
  assertEquals(await read(reader, 1), [0]);
  const next = reader.read();
  (await gate.next()).pass();
  const error = await assertRejects(() => next, TaskError, "failed at 1");
  assert(await future.result().catch((thrown) => thrown) === error);
  assert(await future.stream().getReader().read().catch((thrown) => thrown) === error);

  // What cannot be encoded is told as the error of the task that it is.
  using odd = c.client.submit(op(function* (): Generator<unknown> {
    yield 1;
    yield Symbol("x");
  }));
  await assertRejects(() => Array.fromAsync(odd.stream()), TaskError, "Cannot store the result");
});

Deno.test("to cancel a stream, or to abort its signal, ends the listening alone", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 3));
  const left = future.stream().getReader();
  assertEquals(await read(left, 1), [0]);
  const abort = new AbortController();
  const aborted = future.stream({ signal: abort.signal }).getReader();
  assertEquals(await read(aborted, 1), [0]);
  const [pendingLeft, pendingAborted] = [left.read(), aborted.read()];
  await left.cancel("seen enough");
  assertEquals((await pendingLeft).done, true);
  abort.abort(new Error("no longer"));
  await assertRejects(() => pendingAborted, Error, "no longer");
  await assertRejects(() => future.stream({ signal: abort.signal }).getReader().read(), Error, "no longer");
  for (let i = 0; i < 3; i++) (await gate.next()).pass();
  assertEquals(await future.result(), [0, 1, 2]);
  for await (const item of future.stream()) {
    assertEquals(item, 0);
    break;
  }
  assertThrows(() => future.stream({ signal: 5 as unknown as AbortSignal }), TypeError);
});

Deno.test("a cancelled task ends its streams with a CancelledError", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  using future = c.client.submit(count(gate.port, 3));
  const reader = future.stream().getReader();
  assertEquals(await read(reader, 1), [0]);
  const next = reader.read();
  await future.cancel("enough");
  await assertRejects(() => next, CancelledError, "enough");
});

Deno.test("a stream keeps its task while the future is released", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  const future = c.client.submit(count(gate.port, 2));
  const reader = future.stream().getReader();
  assertEquals(await read(reader, 1), [0]);
  future.release();
  assertThrows(() => future.stream(), DaskError, "was released");
  const rest = read(reader, 1);
  (await gate.next()).pass();
  assertEquals(await rest, [1]);
  const end = reader.read();
  (await gate.next()).pass();
  assertEquals((await end).done, true);
  await until(async () => !(await c.client.whoHas()).has(future.key));
});

Deno.test("a client that ends while somebody reads ends the stream", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  const client = await connect(here);
  const running = client.submit(count(gate.port, 2)).stream().getReader();
  assertEquals(await read(running, 1), [0]);
  const waiting = client.submit(count(gate.port, 2), { workers: ["nobody"], allowOtherWorkers: false })
    .stream()
    .getReader();
  const reads = [running, waiting].map((reader) =>
    assertRejects(() => reader.read(), DaskError, "client is closed")
  );
  await client.close();
  await Promise.all(reads);
  assertEquals(c.addresses.length, 1);
});

Deno.test("what is no generator streams at its end: lists item by item, all else as one", async () => {
  await using c = await cluster(here, 1);
  await using _python = await pythonWorker(here, ["--nthreads", "1"]);
  const { client } = c;
  await client.waitForWorkers(2, { signal: AbortSignal.timeout(30_000) });
  const sorted = python<(list: number[]) => number[]>("builtins:sorted");
  assertEquals(await Array.fromAsync(client.submit(sorted([3, 1, 2])).stream()), [1, 2, 3]);
  assertEquals(await Array.fromAsync(client.submit(op(() => ["a", "b"])).stream()), ["a", "b"]);
  assertEquals(await Array.fromAsync(client.submit(op(() => "text")).stream()), ["text"]);
  assertEquals(await Array.fromAsync(client.submit(op(() => null)).stream()), [null]);
  assertEquals(await Array.fromAsync(client.submit(op(() => Float64Array.of(1, 2))).stream()), [
    Float64Array.of(1, 2),
  ]);
  assertEquals(await Array.fromAsync(client.submit(op(function* () {})).stream()), []);
  const scattered = await client.scatter([7, 8]);
  assertEquals(await Array.fromAsync(scattered.stream()), [7, 8]);
  scattered.release();
  await until(async () => !(await client.whoHas()).has(scattered.key));
});

Deno.test("large items come whole, and what the task writes to later is not what was sent", async () => {
  await using gate = turnstile();
  await using c = await cluster(here, 1);
  const produce = task(async function* (port: number): AsyncGenerator<Uint8Array> {
    const room = new Uint8Array(3 << 20);
    for (let i = 1; i <= 4; i++) yield room.fill(i);
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new TextEncoder().encode("0 large"));
    await conn.read(new Uint8Array(1));
    yield room.fill(9).subarray(0, 1);
  });
  using future = c.client.submit(produce(gate.port));
  const arrival = await gate.next();
  const reader = future.stream().getReader();
  const items = await read(reader, 4);
  arrival.pass();
  for (const item of items) {
    assertEquals(item.byteLength, 3 << 20);
    assert(item.every((byte) => byte === 4));
  }
  assertEquals(await read(reader, 1), [Uint8Array.of(9)]);
  assertEquals((await reader.read()).done, true);
});

Deno.test("a stream waits for a task that asked for another place", async () => {
  await using c = await cluster(here, 1);
  const moving = op(async function* (): AsyncGenerator<number> {
    yield 1;
    await Promise.resolve();
    if (current().attempt === 1) throw new Reschedule("again");
    yield 2;
  });
  assertEquals(await Array.fromAsync(c.client.submit(moving).stream()), [1, 2]);
});

Deno.test("a task reads what another one yields, on one slot", async () => {
  await using c = await cluster(here, 1);
  const sum = op(async (to: number): Promise<number> => {
    const client = await current().client();
    const child = client.submit(async function* (end: number): AsyncGenerator<number> {
      for (let i = 0; i < end; i++) yield await Promise.resolve(i);
    }, [to]);
    let total = 0;
    for await (const item of child.stream()) total += item;
    return total;
  }, 100);
  assertEquals(await c.client.submit(sum).result(), 4950);
});

Deno.test("a worker that ends answers those who wait for items; others learn that a task does not run there", async () => {
  await using gate = turnstile();
  await using worker = await startWorker({ address: here, slots: 1, validate: true });
  await using client = await connect(here);
  const future = client.submit(count(gate.port, 2), { workers: [worker.address] });
  const { key } = future;
  await gate.next();
  await using pool = new RpcPool(tcp);
  const ask = (fields: Readonly<Record<string, unknown>>) =>
    pool.call(worker.address, { op: "stream_items", ...fields });
  assertEquals(await ask({ key: "unknown", from: 0 }), null);
  await assertRejects(() => ask({ key, from: -1 }), DaskError, "stream_items.from");
  assertEquals((await ask({ key, from: 0 }) as { readonly last: boolean }).last, false);
  const parked = assertRejects(() => ask({ key, from: 1 }), DaskError, "stream_items");
  future.release();
  await worker.close();
  await parked;
});

Deno.test("the scheduler found nothing wrong", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});
