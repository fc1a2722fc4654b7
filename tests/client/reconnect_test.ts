/**
 * What becomes of a client when its connection breaks: with `reconnect` it goes on, by a scheduler that was started
 * again or by the one that only the network had hidden; without it everything that waits ends.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { asCompleted, type Client, connect, wait } from "../../client/mod.ts";
import { openClient } from "../../client/client.ts";
import { pauseMs } from "../../client/reconnect.ts";
import { serve } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { op, python, tasks } from "../../dispatch/mod.ts";
import { DaskError, TaskError, WorkerLostError } from "../../protocol/errors.ts";
import {
  errorsInLog,
  type LoggedProcess,
  type PythonScheduler,
  pythonWorker,
  startScheduler,
  workerProcess,
} from "../support/scheduler.ts";
import { until } from "./cluster.ts";

const QUIET = { log: () => {} };
/** What the scheduler logs when a client has gone that it still has something to tell. */
const CUT = [/Closed comm <BatchedSend: closed>/, /^Traceback/, /CommClosedError/];
/** Longer than anything here takes: a failure means that it hangs. */
const LONG_MS = 60_000;

const worker = (address: string, ...args: string[]): Promise<LoggedProcess> =>
  workerProcess(address, ["--nthreads", "1", "--no-nanny", ...args]);

const again = (scheduler: PythonScheduler): Promise<PythonScheduler> =>
  startScheduler({ args: ["--port", scheduler.address.split(":").at(-1)!] });

async function kill(process: LoggedProcess): Promise<void> {
  process.kill("SIGKILL");
  await process.ended;
}

/** A road to a scheduler that can be cut. */
interface Road extends AsyncDisposable {
  readonly address: string;
  /** Where connections lead that are made from now on; null: nowhere, they are closed at once. */
  target: number | null;
  /** How many connections were tried. */
  readonly tried: number;
  /** Ends all connections. */
  cut(): void;
  /** As `cut`, but the scheduler does not hear of it until the answer is called. */
  cutSilently(): () => void;
}

function road(scheduler: string): Road {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const here = new Set<Deno.Conn>();
  const there = new Set<Deno.Conn>();
  let tried = 0;
  const close = (conns: Set<Deno.Conn>, conn: Deno.Conn): void => {
    if (conns.delete(conn)) conn.close();
  };
  const pump = async (from: Deno.Conn, to: Deno.Conn): Promise<void> => {
    const room = new Uint8Array(1 << 16);
    for (let read = await from.read(room); read !== null; read = await from.read(room)) {
      for (let at = 0; at < read;) at += await to.write(room.subarray(at, read));
    }
  };
  /** Far ends of which nobody is to hear that the near ones are gone. */
  const silent = new Set<Deno.Conn>();
  const lead = async (conn: Deno.Conn): Promise<void> => {
    tried++;
    here.add(conn);
    if (self.target === null) return close(here, conn);
    const far = await Deno.connect({ hostname: "127.0.0.1", port: self.target });
    there.add(far);
    const back = pump(far, conn).catch(() => {}).finally(() => close(here, conn));
    leading.push(back);
    await pump(conn, far).catch(() => {});
    close(here, conn);
    if (silent.has(far)) return;
    close(there, far);
    await back;
  };
  const leading: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const conn of listener) leading.push(lead(conn));
  })();
  const self: Road = {
    address: `tcp://127.0.0.1:${(listener.addr as Deno.NetAddr).port}`,
    target: Number(scheduler.split(":").at(-1)),
    get tried() {
      return tried;
    },
    cut() {
      for (const conn of [...here]) close(here, conn);
      for (const conn of [...there]) close(there, conn);
    },
    cutSilently() {
      const old = [...there];
      for (const conn of old) silent.add(conn);
      for (const conn of [...here]) close(here, conn);
      return () => old.forEach((conn) => close(there, conn));
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      self.cut();
      await accepting;
      await Promise.all(leading);
    },
  };
  return self;
}

Deno.test("a client lives on when its scheduler was killed and is started again on the same port", async () => {
  await using first = await startScheduler();
  await using worker1 = await worker(first.address);
  await using client = await connect({
    address: first.address,
    reconnect: { timeout: LONG_MS },
    logger: QUIET,
  });
  const { id } = client;
  using done = client.submit(op(() => 5));
  using read = client.submit(op(() => [6]));
  const kept = await read.result();
  using data = await client.scatter([1, 2, 3]);
  using sum = client.submit(op((list: number[]) => list.length, data));
  using failed = client.submit(op(() => {
    throw new Error("no luck");
  }));
  await wait([done, sum, failed]);
  // Only the second worker has what this needs: it waits through the loss, with its options.
  using twice = client.submit(op((x: number) => 2 * x, done), { resources: { LENS: 1 } });
  const heard = client.topic<{ n: number }>("news");
  const counts: number[] = [];
  const completed: string[] = [];
  const waiting = [
    twice.result(),
    client.gather([done, twice]),
    wait([done, twice]),
    (async () => {
      for await (const future of asCompleted([twice, done])) completed.push(future.key);
    })(),
    (async () => {
      for await (const now of client.progress([done, twice])) counts.push(now.done);
    })(),
    client.waitForWorkers(2),
    heard.next(),
  ] as const;
  const lock = await client.lock("taken");
  const jobs = client.queue<number>("jobs");
  const underWay = Promise.all([
    jobs.get(),
    client.variable("unset").get(),
    client.event("unset").wait(),
    client.lock("taken"),
  ].map((call) => assertRejects(() => call, DaskError, "Lost the scheduler")));
  await until(async () => (await client.queue("jobs").size()) === 0);

  await kill(first);
  await underWay;
  await kill(worker1);
  using late = client.submit(op((x: number) => x + 1, done));
  const workers = client.workers();
  await using second = await again(first);
  await using _worker2 = await worker(second.address, "--resources", "LENS=1");
  await using _worker3 = await worker(second.address);

  assertEquals(await waiting[0], 10);
  assertEquals(await waiting[1], [5, 10]);
  await waiting[2];
  assertEquals(await late.result(), 6);
  await Promise.all([waiting[3], waiting[4], waiting[5]]);
  assertEquals(completed.toSorted(), [done.key, twice.key].toSorted());
  assertEquals(counts.at(-1), 2);
  assertEquals([done.status, read.status === "pending" ? "finished" : read.status], ["finished", "finished"]);
  assertEquals(await read.result(), kept);
  await workers;
  for (const lost of [data, sum]) {
    assertEquals(lost.status, "lost");
    await assertRejects(() => lost.result(), WorkerLostError, "does not know it");
  }
  assertEquals(failed.status, "error");
  await assertRejects(() => failed.result(), TaskError, "no luck");
  await failed.retry();
  await wait([failed]);
  assertEquals(failed.status, "error");

  await client.logEvent("news", { n: 1 });
  assertEquals((await waiting[6]).value, { n: 1 });
  await heard.return!();
  await jobs.put(9);
  assertEquals(await jobs.get(), 9);
  await lock.release();
  {
    await using _ = await client.lock("taken");
  }
  assertNotEquals(client.id, id);
  assert(client.id.startsWith(id));
  await client.close();
  assertEquals(await errorsInLog(second), []);
});

Deno.test("a client lives on when its connection is cut again and again while the scheduler works on", async () => {
  await using scheduler = await startScheduler();
  await using _worker = await worker(scheduler.address);
  await using way = road(scheduler.address);
  await using client = await connect({ address: way.address, reconnect: true, logger: QUIET });
  for (let i = 0; i < 3; i++) {
    using base = client.submit(op((i: number) => i, i));
    using next = client.submit(op((x: number) => x + 1, base));
    if (i === 1) await wait([base, next]);
    way.cut();
    using after = client.submit(op((x: number, y: number) => [x, y], base, next));
    assertEquals(await after.result(), [i, i + 1]);
    assertEquals(await client.gather([next, base]), [i + 1, i]);
  }
  await client.close();
  assertEquals(await errorsInLog(scheduler, CUT), []);
});

Deno.test("tasks of both languages and modules go on, whichever workers come back first", async () => {
  await using first = await startScheduler();
  await using worker1 = await worker(first.address);
  await using python1 = await pythonWorker(first.address, ["--nthreads", "1"]);
  await using client = await connect({
    address: first.address,
    reconnect: { timeout: LONG_MS },
    logger: QUIET,
  });
  await client.waitForWorkers(2);
  const t = tasks<typeof import("./python_tasks.ts")>(new URL("./python_tasks.ts", import.meta.url));
  const mean = python<(array: Float64Array) => number>("numpy:mean");
  using ramp = client.submit(t.ramp(100));
  using middle = client.submit(mean(ramp));
  const value = await middle.result();
  using total = client.submit(t.total(ramp), { resources: { LENS: 1 } });
  const waits = total.result();
  await kill(first);
  await Promise.all([kill(worker1), kill(python1)]);
  using other = client.submit(mean(t.ramp(50)));
  await using second = await again(first);
  await using _python2 = await pythonWorker(second.address, ["--nthreads", "1"]);
  await client.waitForWorkers(1);
  assertEquals([total.status, other.status], ["pending", "pending"]);
  await using _worker2 = await worker(second.address, "--resources", "LENS=1");
  assertEquals([await waits, await other.result(), await middle.result()], [2375, 11.25, value]);
  await client.close();
  assertEquals(await errorsInLog(second), []);
});

Deno.test("a graph that is cut off again and again gives the right values", async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  let state = seed;
  const random = (n: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >> 8) % n;
  };
  try {
    await using scheduler = await startScheduler();
    await using _worker = await worker(scheduler.address);
    await using way = road(scheduler.address);
    const options = { address: way.address, reconnect: { timeout: LONG_MS }, logger: QUIET };
    const { client, connected } = openClient(options, { validate: true });
    await using _client = client;
    await connected;
    let over = false;
    let cuts = 0;
    const cutting = (async () => {
      while (!over && cuts < 6) {
        // Now before the scheduler knows us, now in the middle of a submission, now after some results.
        await new Promise((resolve) => setTimeout(resolve, random(400)));
        if (random(4) === 0) way.cutSilently();
        else way.cut();
        cuts++;
      }
    })();
    for (let round = 0; round < 4; round++) {
      const add = (x: number, y: number): number => x + y;
      const futures = [client.submit(op(add, round, 1)), client.submit(op(add, round, 2))];
      const values = [round + 1, round + 2];
      for (let i = 2; i < 60; i++) {
        const [a, b] = [random(i), random(i)];
        // Some that others need are held by nobody.
        futures.push(client.submit(op(add, futures[a]!, op(add, futures[b]!, i))));
        values.push(values[a]! + values[b]! + i);
        if (random(10) === 0) await wait(futures, { until: "first" });
        if (random(10) === 0) assertEquals(await futures[random(i)]!.result() > 0, true);
      }
      const some = futures.filter(() => random(2) === 0);
      for (const future of futures) if (!some.includes(future)) future.release();
      assertEquals(await client.gather(some), values.filter((_, i) => some.includes(futures[i]!)));
      for (const future of some) future.release();
    }
    over = true;
    await cutting;
    assert(cuts > 0);
    await client.close();
    assertEquals(await errorsInLog(scheduler, CUT), []);
  } catch (error) {
    throw new Error(`With seed ${seed}`, { cause: error });
  }
});

Deno.test("results and data are found again at a scheduler that has not noticed the loss", async () => {
  await using scheduler = await startScheduler();
  await using _worker = await worker(scheduler.address);
  await using way = road(scheduler.address);
  await using client = await connect({ address: way.address, reconnect: true, logger: QUIET });
  using data = await client.scatter({ list: [1, 2] });
  using once = client.submit(op(() => crypto.randomUUID()));
  using derived = client.submit(op((d: { list: number[] }) => [...d.list, crypto.randomUUID()], data));
  await wait([once, derived]);
  await using observer = await connect({ address: scheduler.address, logger: QUIET });
  using seen = observer.future<string>(once.key);
  const value = await seen.result();
  seen.release();
  const { id } = client;
  const notice = way.cutSilently();
  assertEquals(await once.result(), value);
  assertEquals((await derived.result()).slice(0, 2), [1, 2]);
  assertEquals(await data.result(), { list: [1, 2] });
  using more = client.submit(op((d: { list: number[] }) => d.list.length, data));
  assertEquals(await more.result(), 2);
  assertNotEquals(client.id, id);
  // Once it notices, what the new registration wants stays.
  notice();
  await until(async () =>
    (await client.schedulerLogs()).some(({ message }) => message.endsWith(`Remove client ${id}`))
  );
  assertEquals([...(await client.whoHas([once, data])).values()].map((holders) => holders.length), [1, 1]);
  using last = client.submit(op((id: string) => id.length, once));
  assertEquals(await last.result(), 36);
  await client.close();
});

Deno.test("a retry whose pause outlasts a loss runs with the next connection", async () => {
  await using scheduler = await startScheduler();
  await using _worker = await worker(scheduler.address);
  await using way = road(scheduler.address);
  await using client = await connect({ address: way.address, reconnect: true, logger: QUIET });
  const { port } = (() => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return listener.addr;
  })();
  const failures: string[] = [];
  let before = Infinity;
  const patient = client.with({
    retries: 1,
    retryPause: { first: 1_000 },
    retryOn: (error) => {
      failures.push(error.message);
      way.target = null;
      before = way.tried;
      way.cut();
      return true;
    },
  });
  const base = op(async (port: number) => {
    using _ = await Deno.connect({ hostname: "127.0.0.1", port });
    return "met";
  }, port);
  const value = patient.run([op((text: string) => `${text}!`, base), base]);
  await until(() => way.tried > before);
  using listener = Deno.listen({ hostname: "127.0.0.1", port });
  way.target = Number(scheduler.address.split(":").at(-1));
  assertEquals(await value, ["met!", "met"]);
  assertEquals(failures.length, 1);
  listener.close();
  await client.close();
});

/** Everything that may wait for a scheduler, where no worker is. */
function everyCall(client: Client, endless: ReturnType<Client["submit"]>): Promise<unknown>[] {
  const first = (iterable: AsyncIterable<unknown>) => iterable[Symbol.asyncIterator]().next();
  const second = async (iterable: AsyncIterable<unknown>) => {
    const iterator = iterable[Symbol.asyncIterator]();
    const first = await iterator.next();
    // The future in it counts as long as somebody has it.
    return [await iterator.next(), first];
  };
  async function* endlessly() {
    for (let i = 0;; i++) yield await Promise.resolve(i);
  }
  return [
    endless.result(),
    endless.settled(),
    client.gather([endless]),
    client.run([op(() => new Promise(() => {}))]),
    client.runSettled([op((_: number) => new Promise(() => {}), 1)]),
    wait([endless]),
    wait([endless], { until: "first" }),
    first(asCompleted([endless])),
    second(client.progress([endless])),
    second(
      client.map((i: number) => op((i: number) => new Promise(() => i), i), endlessly(), { maxPending: 1 }),
    ),
    client.scatter(1),
    client.replicate([endless]),
    client.rebalance([endless]),
    client.waitForWorkers(9),
    first(client.topic("silence")),
    client.queue("empty").get(),
    first(client.queue("empty")),
    client.queue("full", 1).put(2),
    client.variable("unset").get(),
    client.event("unset").wait(),
    client.lock("taken"),
    client.lock("taken-twice", { leases: 2 }),
  ];
}

async function prepare(client: Client): Promise<void> {
  await client.queue("full", 1).put(1);
  await client.lock("taken");
  await client.lock("taken-twice", { leases: 2 });
  await client.lock("taken-twice", { leases: 2 });
}

/** Fails when some calls still wait after a while. */
async function within<T>(ms: number, calls: readonly Promise<T>[]): Promise<T[]> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`Some calls still wait after ${ms} ms`)), ms);
  try {
    return await Promise.race([Promise.all(calls), promise]);
  } finally {
    clearTimeout(timer);
  }
}

for (const reconnect of [false, { timeout: 700 }]) {
  const name = reconnect === false
    ? "without reconnect every call that waits ends within 5 s of the loss"
    : "a client gives up after its time: every call that waits ends";
  Deno.test(name, async () => {
    await using scheduler = await startScheduler();
    await using client = await connect({ address: scheduler.address, reconnect, logger: QUIET });
    await prepare(client);
    using endless = client.submit(op((_: number) => new Promise(() => {}), 0));
    const refused = everyCall(client, endless).map((call, i) =>
      assertRejects(() => call, DaskError, undefined, `call ${i}`)
    );
    await client.processing(); // all were asked before this
    await kill(scheduler);
    const errors = await within(5_000, refused);
    await assertRejects(() => client.processing(), DaskError, "Lost the scheduler");
    assertThrows(() => client.submit(op(() => 2)), DaskError, "Lost the scheduler");
    if (reconnect !== false) {
      const { message } = errors[0]!;
      assertMatch(message, /^Lost the scheduler at .*Tried \d+ times within \d\.\d s to connect with/);
      assert(message.includes(scheduler.address));
      const given = errors.filter((error) => error.message === message);
      assert(given.length >= 12, errors.map(({ message }) => message).join("\n"));
    }
  });
}

Deno.test("connections that break as soon as they stand are given up as one loss", async () => {
  await using scheduler = await startScheduler();
  await using way = road(scheduler.address);
  let stood = 0;
  await using client = await connect({
    address: way.address,
    reconnect: { timeout: 1_500 },
    logger: {
      log(_, line) {
        if (!/^Connected .* again$/.test(line)) return;
        stood++;
        way.cut();
      },
    },
  });
  using future = client.submit(op(() => 1));
  const refused = assertRejects(() => future.result(), DaskError, "to connect with");
  way.cut();
  const { message } = await refused;
  assert(stood > 1);
  const times = /Tried (\d+) times within [1-9]/.exec(message)?.[1];
  assert(Number(times) >= stood, message);
});

Deno.test("close and the signal end the attempts at once, and what waited for a connection", async () => {
  await using scheduler = await startScheduler();
  for (const way of ["close", "signal"] as const) {
    await using between = road(scheduler.address);
    const abort = new AbortController();
    const broken = Promise.withResolvers<void>();
    const client = await connect({
      address: between.address,
      reconnect: { timeout: Infinity, signal: abort.signal },
      logger: { log: (_, line) => /connecting again/.test(line) && broken.resolve() },
    });
    const future = client.submit(op(() => 1));
    const waiting = [future.result()];
    between.target = null;
    between.cut();
    await broken.promise;
    waiting.push(client.processing().then(() => 0), client.scatter(1).then(() => 0));
    const text = way === "close" ? "The client is closed" : "the signal ended the attempts";
    const refused = waiting.map((call) => assertRejects(() => call, DaskError, text));
    if (way === "signal") abort.abort(new Error("enough"));
    else await client.close();
    await Promise.all(refused);
    await client.close();
  }
});

Deno.test("a scheduler of an old release that comes back is refused at once", async () => {
  await using scheduler = await startScheduler();
  await using way = road(scheduler.address);
  await using old = await serve(tcp, "tcp://127.0.0.1:0", ({ op }) => {
    const reply = op === "versions" ? { host: {}, packages: { distributed: "2024.12.1" } } : null;
    return Promise.resolve({ reply });
  }, {});
  await using client = await connect({
    address: way.address,
    reconnect: { timeout: Infinity },
    logger: QUIET,
  });
  using future = client.submit(op(() => 1));
  const refused = assertRejects(() => future.result(), DaskError, "2025.4.0");
  way.target = Number(old.address.split(":").at(-1));
  way.cut();
  assertMatch((await refused).message, /Tried once/);
});

Deno.test("reconnect takes true, false, or a time and a signal", async () => {
  for (
    const reconnect of [1, "yes", null, { timeout: 0 }, { timeout: "1s" }, { pause: 3 }, { signal: 1 }]
  ) {
    await assertRejects(() => connect({ reconnect: reconnect as never }), TypeError, "");
  }
});

Deno.test("pauses between attempts double, up to some seconds, and differ by chance", () => {
  assertEquals([1, 2, 3, 4, 7, 20].map((attempt) => pauseMs(attempt, 1)), [100, 200, 400, 800, 5_000, 5_000]);
  assertEquals([1, 2].map((attempt) => pauseMs(attempt, 0)), [50, 100]);
});
