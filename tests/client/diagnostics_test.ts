/**
 * What scheduler and workers tell of their past, in a cluster of both languages.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { performanceReport } from "../../client/diagnostics.ts";
import { connect } from "../../client/mod.ts";
import { RpcPool } from "../../comm/pool.ts";
import { serve, type ServerRequest } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { op } from "../../dispatch/mod.ts";
import { DaskError } from "../../protocol/errors.ts";
import { pythonWorker, startScheduler } from "../support/scheduler.ts";
import { cluster } from "./cluster.ts";

Deno.test("getTaskStream tells of each run where and when it was, and what the time went into", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client } = c;
  assertEquals(await client.getTaskStream(), []);
  const before = Date.now();
  using good = client.submit(op((x: number) => x + 1, 1));
  assertEquals(await good.result(), 2);
  using bad = client.submit(op((): number => {
    throw new Error("no");
  }));
  await bad.settled();
  const runs = await client.getTaskStream();
  const of = (key: string) => runs.find((run) => run.key === key)!;
  assertEquals([of(good.key).ok, of(bad.key).ok], [true, false]);
  assertEquals(of(good.key).worker, c.addresses[0]);
  assert(of(good.key).bytes > 0);
  const compute = of(good.key).steps.find(({ action }) => action === "compute")!;
  assert(before - 1_000 <= compute.start && compute.start <= compute.stop);
  assert(compute.stop <= Date.now() + 1_000);
  assertEquals(await client.getTaskStream({ count: 1 }), runs.slice(-1));
  assertEquals(await client.getTaskStream({ stop: new Date(before - 60_000) }), []);
  assertEquals(await client.getTaskStream({ start: before - 60_000 }), runs);
  for (const options of [{ count: 0 }, { count: 1.5 }, { start: "1s" }, { stop: NaN }]) {
    await assertRejects(() => client.getTaskStream(options as never), TypeError);
  }
});

Deno.test("schedulerLogs and workerLogs give the last lines of both languages, newest first", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1);
  const { client } = c;
  await using _ = await pythonWorker(scheduler.address);
  await client.waitForWorkers(2);
  const lines = await client.schedulerLogs();
  assert(lines.some(({ level, message }) => level === "INFO" && /Register worker/.test(message)));
  assertEquals(await client.schedulerLogs({ count: 1 }), lines.slice(0, 1));
  const all = await client.workerLogs();
  assertEquals([...all.keys()].toSorted(), (await client.workers()).map(({ address }) => address).toSorted());
  for (const [address, lines] of all) {
    assert(lines.length > 0, `${address} says something`);
    for (const { level, message } of lines) assert(/^[A-Z]+$/.test(level) && message !== "");
  }
  const [ours] = c.addresses;
  assertEquals([...(await client.workerLogs({ workers: [ours!], count: 1 })).keys()], [ours]);
  await assertRejects(() => client.workerLogs({ count: -1 }), TypeError);
  await assertRejects(() => client.workerLogs({ workers: "tcp://x:1" as never }), TypeError);
});

Deno.test("performanceReport writes the page that the scheduler makes, once", async () => {
  const asked: ServerRequest[] = [];
  await using fake = await serve(tcp, "tcp://127.0.0.1:0", (message) => {
    asked.push(message);
    return Promise.resolve({ reply: message.op === "performance_report" ? "<h1>Report</h1>" : [] });
  }, {});
  const folder = await Deno.makeTempDir();
  await using pool = new RpcPool(tcp);
  const ask = (op: string, fields: Record<string, unknown>) => pool.call(fake.address, { op, ...fields });
  const file = `${folder}/report.html`;
  {
    await using report = await performanceReport(ask, file, "let x");
    await report[Symbol.asyncDispose]();
  }
  assertEquals(await Deno.readTextFile(file), "<h1>Report</h1>");
  assertEquals(asked.map(({ op }) => op), ["get_task_stream", "performance_report"]);
  assertEquals(asked[1]!.fields["code"], "let x");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("performanceReport names what the scheduler lacks, or writes the page", async () => {
  await using scheduler = await startScheduler();
  await using client = await connect(scheduler.address);
  const file = await Deno.makeTempFile({ suffix: ".html" });
  const report = await client.performanceReport(file, { code: "the program" });
  const end = report[Symbol.asyncDispose]();
  try {
    await end;
    assertStringIncludes(await Deno.readTextFile(file), "the program");
  } catch (error) {
    assert(error instanceof DaskError);
    assertStringIncludes(error.message, "pip install bokeh");
  }
  await Deno.remove(file);
  await assertRejects(() => client.performanceReport(3 as never), TypeError);
  await assertRejects(() => client.performanceReport(file, { code: 1 as never }), TypeError);
});
