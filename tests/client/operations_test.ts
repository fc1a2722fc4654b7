/**
 * What is asked of a cluster as a whole, with real schedulers and workers of both languages.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { versions } from "../../client/operations.ts";
import { asCompleted, type Client, connect, task, tasks, wait } from "../../mod.ts";
import { CancelledError, DaskError, TaskError } from "../../protocol/errors.ts";
import { errorsInLog, pythonWorker, startScheduler, workerProcess } from "../support/scheduler.ts";
import { cluster, until } from "./cluster.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));

Deno.test("runOnWorkers runs a task once on each worker, with code that it has never seen, while it is busy", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 2);
  const { client, addresses } = c;
  await using _ = await pythonWorker(scheduler.address);
  await client.waitForWorkers(3);
  const python = (await client.workers()).find(({ language }) => language === "python")!.address;
  using _busy = client.submit(() => new Promise<void>((end) => setTimeout(end, 600_000)), [], {
    workers: [addresses[0]!],
  });

  // A module, which travels as a bundle, on all of ours.
  const areas = await client.runOnWorkers(t.area, [3, 4]);
  assertEquals([...areas.keys()].toSorted(), addresses.toSorted());
  for (const outcome of areas.values()) assertEquals(outcome, { status: "fulfilled", value: 12 });

  // A function by its source, on one of them, named twice.
  const [first, second] = addresses as [string, string];
  const pids = await client.runOnWorkers(task((add: number) => Deno.pid + add), [0], {
    workers: [first, first],
  });
  assertEquals([...pids.keys()], [first]);
  const [pid] = pids.values();
  assert(pid!.status === "fulfilled" && pid!.value > 0 && pid!.value !== Deno.pid);

  // Large values both ways.
  const bytes = new Uint8Array(3_000_000).fill(7);
  const large = await client.runOnWorkers(task((bytes: Uint8Array) => bytes), [bytes], { workers: [second] });
  assertEquals(large.get(second), { status: "fulfilled", value: bytes });

  // Each failure by itself; workers of Python are not asked.
  const fail = task((): number => {
    throw new RangeError("odd");
  });
  const failed = await client.runOnWorkers(fail, [], { workers: [python, second] });
  assertEquals([...failed.keys()], [python, second]);
  const [there, here] = [...failed.values()].map((outcome) => {
    assert(outcome.status === "rejected" && outcome.reason instanceof TaskError);
    return outcome.reason;
  });
  assertEquals([there!.worker, here!.worker], [python, second]);
  assertStringIncludes(there!.message, `failed on ${python}: it is a Python worker`);
  assertStringIncludes(here!.message, `failed on ${second}: RangeError: odd`);
  assertEquals((here!.cause as Error).name, "RangeError");
  assertStringIncludes(here!.remoteStack, "odd");

  // The scheduler knows of none of it.
  assertEquals([...(await client.whoHas()).keys()].filter((key) => !key.startsWith("code-")), [_busy.key]);
  assertEquals(await errorsInLog(scheduler), []);
});

Deno.test("runOnWorkers refuses what cannot be run before anything runs", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client, addresses } = c;
  const [address] = addresses as [string];
  const unknown = await assertRejects(
    () => client.runOnWorkers(t.area, [1, 2], { workers: ["tcp://127.0.0.1:9"] }),
    DaskError,
    'Cannot run "area" on tcp://127.0.0.1:9: no such worker; there are ',
  );
  assertStringIncludes(unknown.message, address);
  using future = client.submit(t.area(1, 2));
  for (
    const [args, text] of [
      [[t.area(1, 2), 3], "is a task; pass plain values"],
      [[future, 3], "is a task; pass plain values"],
      [3, "expected a list of arguments, got a number"],
    ] as const
  ) {
    await assertRejects(() => client.runOnWorkers(t.area, args as never), TypeError, text);
  }
  let ran = false;
  await assertRejects(
    () => client.runOnWorkers((() => ran = true) as never, []),
    TypeError,
    "expected a task",
  );
  assert(!ran);
  for (const limited of [t.area.with({ permissions: "none" }), t.area.with({ timeout: 9 })]) {
    await assertRejects(() => client.runOnWorkers(limited, [1, 2]), TypeError, "only tasks have them");
  }
  await assertRejects(
    () => client.with({ resources: { GPU: 1 } }).runOnWorkers(t.area, [1, 2]),
    TypeError,
    "only tasks have them",
  );
  await assertRejects(() => client.runOnWorkers(t.area, [1, 2], { workers: "all" as never }), TypeError);

  // The signal ends the waiting.
  const controller = new AbortController();
  const waiting = client.runOnWorkers(task(() => new Promise<void>((end) => setTimeout(end, 600_000))), [], {
    signal: controller.signal,
  });
  const reason = new Error("enough");
  setTimeout(() => controller.abort(reason), 50);
  assertEquals(await waiting.catch((error) => error), reason);
  await client.close();
  await assertRejects(() => client.runOnWorkers(t.area, [1, 2]), DaskError, "closed");
});

Deno.test("runOnWorkers without workers gives nothing", async () => {
  await using scheduler = await startScheduler();
  await using client = await connect(scheduler.address);
  assertEquals(await client.runOnWorkers(t.area, [1, 2]), new Map());
});

/** A cluster whose workers have nannies: when one ends, another one follows. */
async function nannied(scheduler: string, count: number) {
  const stack = new AsyncDisposableStack();
  const processes = [];
  for (let i = 0; i < count; i++) {
    processes.push(stack.use(await workerProcess(scheduler, ["--nthreads", "1", "--name", `worker-${i}`])));
  }
  const client = stack.use(await connect(scheduler));
  await client.waitForWorkers(count);
  return { client, processes, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const processIds = async (client: Client): Promise<Map<string, number>> => {
  const pids = await client.runOnWorkers(task(() => Deno.ppid), []);
  const names = new Map((await client.workers()).map(({ address, name }) => [address, name]));
  return new Map([...pids].map(([address, outcome]) => {
    assert(outcome.status === "fulfilled");
    return [names.get(address)!, outcome.value];
  }));
};

Deno.test("restart gives fresh workers, cancels all futures, and what comes after it runs", async () => {
  await using scheduler = await startScheduler();
  await using c = await nannied(scheduler.address, 2);
  const { client } = c;
  const before = await processIds(client);
  using done = client.submit(t.area(3, 4));
  assertEquals(await done.result(), 12);
  using endless = client.submit(() => new Promise<void>((end) => setTimeout(end, 600_000)), []);
  const waiting = endless.settled();
  using value = await client.scatter("value");
  // Of the same turn, with code that is there already.
  using late = client.submit(t.area(5, 6), { pure: false });
  await client.restart({ timeout: 60_000 });
  assertEquals([done, endless, value, late].map(({ status }) => status), Array(4).fill("cancelled"));
  const outcome = await waiting;
  assert(outcome.status === "rejected" && outcome.reason instanceof CancelledError);
  assertStringIncludes(outcome.reason.message, "the scheduler was restarted and forgot all tasks");

  const after = await processIds(client);
  assertEquals([...after.keys()].toSorted(), ["worker-0", "worker-1"]);
  for (const [name, pid] of before) assert(after.get(name) !== pid, name);
  await until(async () => [...(await client.processing()).values()].flat().length === 0);
  await until(async () => (await client.whoHas()).size === 0);
  // The same node and its code, anew.
  using again = client.submit(t.area(3, 4));
  assertEquals(await again.result(), 12);

  // One of them.
  const one = (await client.workers()).find(({ name }) => name === "worker-1")!.address;
  await client.restartWorkers([one]);
  const last = await processIds(client);
  assertEquals(last.get("worker-0"), after.get("worker-0"));
  assert(last.get("worker-1") !== after.get("worker-1"));
  await client.restartWorkers([]);
  for (const options of [{ timeout: 0 }, { timeout: "30s" }, { waitForWorkers: 3 }]) {
    await assertRejects(() => client.restart(options as never), TypeError);
  }
  await assertRejects(
    () => client.restartWorkers(["tcp://127.0.0.1:9"]),
    DaskError,
    "no such worker; there are",
  );
  await assertRejects(() => client.restartWorkers(one as never), TypeError, "expected a list");

  await assertRejects(() => client.restart({ timeout: 1 }), DaskError, "The restart took longer than 1 ms");
  await until(() => again.status === "cancelled");
});

Deno.test("restart refuses workers without a nanny, or ends them", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client, addresses: [address], processes: [process] } = c;
  using future = client.submit(t.area(3, 4));
  assertEquals(await future.result(), 12);
  for (const attempt of [() => client.restart(), () => client.restartWorkers([address!])]) {
    await assertRejects(attempt, DaskError, `Cannot restart ${address}: without a nanny a worker only ends`);
  }
  assertEquals(future.status, "finished");
  await client.restart({ waitForWorkers: false });
  assertEquals(future.status, "cancelled");
  await process!.ended;
  assertEquals(await client.workers(), []);
});

Deno.test("shutdown ends workers, nannies and the scheduler, then the client", async () => {
  for (const reconnect of [false, true]) {
    await using scheduler = await startScheduler();
    await using c = await nannied(scheduler.address, 1);
    const lines: string[] = [];
    await using client = await connect({
      address: scheduler.address,
      reconnect,
      logger: { log: (_, line) => void lines.push(line) },
    });
    using endless = client.submit(() => new Promise<void>((end) => setTimeout(end, 600_000)), []);
    const waiting = endless.result().catch((error) => error);
    await client.shutdown();
    await Promise.all([scheduler.ended, ...c.processes.map((process) => process.ended)]);
    const error = await waiting;
    assert(error instanceof DaskError);
    assertEquals(error.message, "The cluster was shut down by this client");
    await assertRejects(() => client.workers(), DaskError, "shut down by this client");
    await assertRejects(() => client.shutdown(), DaskError, "shut down by this client");
    assertEquals(lines, []);
  }
});

Deno.test("versions tells what each process runs on, and check names what differs", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client, addresses: [ours] } = c;
  await using _ = await pythonWorker(scheduler.address);
  await client.waitForWorkers(2);
  const python = (await client.workers()).find(({ language }) => language === "python")!.address;
  const all = await client.versions({ check: true });
  assertEquals(all.client.host, { ...Deno.version, OS: Deno.build.os, machine: Deno.build.arch });
  assertEquals([...all.workers.keys()].toSorted(), [ours!, python].toSorted());
  assertEquals(all.workers.get(ours!)!.host.deno, Deno.version.deno);
  assertEquals(all.workers.get(ours!)!.packages, all.scheduler.packages);
  assertEquals(all.workers.get(python), all.scheduler);
  assertEquals(all.scheduler.packages["distributed"], (await client.schedulerInfo()).version);
  await assertRejects(() => client.versions({ check: 1 as never }), TypeError);
});

Deno.test("versions with check refuses Python workers of other releases, by package and place", async () => {
  const host = { python: "3" };
  const worker = (packages: Record<string, string | null>) => ({ host, packages });
  const about = (language?: string) => ({
    name: "w",
    nthreads: 1,
    ...(language === undefined ? {} : { language }),
  });
  const answers: Record<string, unknown> = {
    identity: { workers: { "tcp://a:1": about(), "tcp://b:1": about(), "tcp://c:1": about("typescript") } },
    versions: { host, packages: { dask: "2026.8.0", numpy: "9", toolz: null } },
    broadcast: {
      "tcp://a:1": worker({ dask: "2026.8.0", numpy: "1", toolz: null }),
      "tcp://b:1": worker({ dask: "2025.4.0", numpy: "2", toolz: null }),
      "tcp://c:1": worker({ dask: "1", numpy: "3", toolz: "1" }),
    },
  };
  const ask = (op: string) => Promise.resolve(answers[op]);
  const { workers } = await versions(ask, false);
  assertEquals(workers.size, 3);
  const error = await assertRejects(() => versions(ask, true), DaskError);
  assertEquals(
    error.message,
    "The versions on the cluster differ: dask 2026.8.0 on the scheduler, tcp://a:1 and 2025.4.0 on tcp://b:1; " +
      "numpy 1 on tcp://a:1 and 2 on tcp://b:1. Install the same ones everywhere",
  );
});

Deno.test("asCompleted brings values along, and throws the first failure", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client } = c;
  const futures = client.map((i: number) => t.area(i, 2), [1, 2, 3]);
  const seen = new Map<string, number>();
  const iterable = asCompleted(futures, { withResults: true });
  for await (const [future, value] of iterable) {
    seen.set(future.key, value);
    if (seen.size === 1) iterable.add(client.submit(t.area(5, 5)));
  }
  assertEquals([...seen.values()].toSorted((a, b) => a - b), [2, 4, 6, 25]);
  for (const [i, future] of futures.entries()) assertEquals(seen.get(future.key), 2 * (i + 1));

  using bad = client.submit((): number => {
    throw new RangeError("odd");
  }, []);
  await bad.settled();
  const values = asCompleted([bad], { withResults: true });
  assertEquals((await assertRejects(() => values.next(), TaskError)).key, bad.key);
  assertEquals(await values.next(), { done: true, value: undefined });
  assertThrows(
    () => asCompleted(futures, { withResults: "all" as never }),
    TypeError,
    'true, false or "settled"',
  );
});

Deno.test("asCompleted gives failures as outcomes where it is asked for them", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client } = c;
  using bad = client.submit((): number => {
    throw new RangeError("odd");
  }, []);
  using good = client.submit(t.area(3, 4));
  using gone = client.submit(t.area(1, 1), { resources: { NOBODY: 1 } });
  const outcomes = new Map<string, PromiseSettledResult<number>>();
  for await (const [future, outcome] of asCompleted([bad, good, gone], { withResults: "settled" })) {
    outcomes.set(future.key, outcome);
    if (outcomes.size === 2) await gone.cancel("enough");
  }
  assertEquals(outcomes.get(good.key), { status: "fulfilled", value: 12 });
  const reasons = [bad, gone].map(({ key }) => {
    const outcome = outcomes.get(key)!;
    assert(outcome.status === "rejected");
    return outcome.reason as Error;
  });
  assertStringIncludes(reasons[0]!.message, "RangeError: odd");
  assert(reasons[1] instanceof CancelledError);

  // What is no outcome of a task is thrown, also while values are on their way.
  using never = client.submit(t.area(2, 2), { resources: { NOBODY: 1 } });
  const waiting = asCompleted([never], { withResults: "settled" }).next().catch((error) => error);
  await client.close();
  assertStringIncludes((await waiting).message, "The client is closed");
});

Deno.test("asCompleted gives batches of all that has come, and a failure after those before it", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client } = c;
  const futures = client.map((i: number) => t.area(i, 3), [1, 2, 3, 4]);
  await wait(futures);
  assertEquals(await Array.fromAsync(asCompleted(futures).batches()), [futures]);

  // Later ones come in later batches.
  using later = client.submit(t.area(9, 9), { resources: { NOBODY: 1 } });
  const iterable = asCompleted([...futures, later]);
  const all: string[][] = [];
  for await (const batch of iterable.batches()) {
    all.push(batch.map(({ key }) => key));
    if (all.length === 1) await later.cancel();
  }
  assertEquals(all, [futures.map(({ key }) => key), [later.key]]);

  await client.gather(futures);
  using bad = client.submit((): number => {
    throw new RangeError("odd");
  }, []);
  await bad.settled();
  const values: number[] = [];
  const error = await assertRejects(async () => {
    for await (const batch of asCompleted([...futures, bad], { withResults: true }).batches()) {
      for (const [, value] of batch) values.push(value);
    }
  }, TaskError);
  assertEquals([values, error.key], [[3, 6, 9, 12], bad.key]);

  // Whoever leaves the loop has ended it.
  const left = asCompleted(futures);
  for await (const _ of left.batches()) break;
  assertEquals(await left.next(), { done: true, value: undefined });
});

Deno.test("runOnWorkers tells of a worker that dies meanwhile, and what the others say", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 2);
  const { client, addresses } = c;
  const [dying, living] = addresses as [string, string];
  const pid = (await client.runOnWorkers(task(() => Deno.ppid), [], { workers: [dying] })).get(dying)!;
  assert(pid.status === "fulfilled");
  // Once it is asked, it dies.
  await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (request) => {
    const asking = Number(new URL(request.url).searchParams.get("pid"));
    if (asking === pid.value) Deno.kill(asking, "SIGKILL");
    return new Response("lives");
  });
  const call = task(async (port: number) => {
    return await (await fetch(`http://127.0.0.1:${port}/?pid=${Deno.ppid}`)).text();
  });
  const outcomes = await client.runOnWorkers(call, [server.addr.port]);
  assertEquals(outcomes.get(living), { status: "fulfilled", value: "lives" });
  const lost = outcomes.get(dying)!;
  assert(lost.status === "rejected" && lost.reason instanceof TaskError);
  assertEquals(lost.reason.worker, dying);
  assertMatch(lost.reason.message, new RegExp(`failed on ${dying}: .*(Comm|OSError)`));
});
