/** Clusters on IPv6: addresses in brackets at every place where one is told. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { connect } from "../../client/mod.ts";
import { addressOf } from "../../comm/tcp.ts";
import { startWorker } from "../../worker/mod.ts";
import { pythonWorker, startScheduler, workerProcess } from "../support/scheduler.ts";

/** A machine without IPv6 can only be asked how addresses are written. */
function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

Deno.test("sockets give addresses in brackets, and IPv4 in IPv6 clothes as IPv4", () => {
  const tell = (hostname: string) => addressOf({ transport: "tcp", hostname, port: 1 });
  assertEquals(tell("::1"), "tcp://[::1]:1");
  assertEquals(tell("::ffff:127.0.0.1"), "tcp://127.0.0.1:1");
  assertEquals(addressOf({ transport: "tcp", hostname: "FE80::1", port: 2 }, "tls"), "tls://[fe80::1]:2");
});

Deno.test("a cluster on [::1]: workers of both languages, values across, clients", async () => {
  if (!hasIpv6()) return;
  await using scheduler = await startScheduler({ host: "[::1]" });
  assertMatch(scheduler.address, /^tcp:\/\/\[::1\]:\d+$/);
  await using client = await connect(scheduler.address);
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    name: "one",
    validate: true,
  });
  assertMatch(worker.address, /^tcp:\/\/\[::1\]:\d+$/);
  await using process = await workerProcess(scheduler.address, ["--host=::1", "--name=two", "--nthreads=1"]);
  await using python = await pythonWorker(scheduler.address, ["--name", "py", "--nthreads", "1"]);
  await client.waitForWorkers(3, { signal: AbortSignal.timeout(60_000) }).catch(async (cause) => {
    throw new Error(`Not all workers came:\n${await process.log()}\n---\n${await python.log()}`, { cause });
  });
  for (const { address } of await client.workers()) assertMatch(address, /^tcp:\/\/\[::1\]:\d+$/);
  const made = client.submit((n: number) => new Float64Array(n).fill(2), [100_000], { workers: ["one"] });
  const sum = client.submit((a: Float64Array) => a.reduce((x, y) => x + y, 0), [made], { workers: ["two"] });
  assertEquals(await sum.result(), 200_000);
  assertEquals((await made.result())[99_999], 2);
});

Deno.test("a worker on all interfaces announces the host by which the scheduler is reached", async () => {
  if (!hasIpv6()) return;
  await using six = await startScheduler({ host: "[::1]" });
  await using four = await startScheduler();
  await using onSix = await startWorker({ address: six.address, slots: 1, host: "::" });
  assertMatch(onSix.address, /^tcp:\/\/\[::1\]:\d+$/);
  await using onFour = await startWorker({ address: four.address, slots: 1, host: "::" });
  assertMatch(onFour.address, /^tcp:\/\/127\.0\.0\.1:\d+$/);
  for (const [address, worker] of [[six.address, onSix], [four.address, onFour]] as const) {
    await using client = await connect(address);
    assertEquals((await client.workers()).map((info) => info.address), [worker.address]);
    assert(await client.submit((a: number) => a === 1, [1]).result());
  }
});
