/** The wire against Python's own scheduler. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connectChannel } from "../../comm/channel.ts";
import { RpcPool } from "../../comm/pool.ts";
import { tcp } from "../../comm/tcp.ts";
import { CommClosedError, DaskError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";
import { readRecord, readString } from "../../protocol/read.ts";
import { sharedScheduler } from "../support/scheduler.ts";

const scheduler = await sharedScheduler();

Deno.test("scheduler: handshake, identity and versions over one reused connection", async () => {
  await using pool = new RpcPool(tcp);
  const identity = readRecord(await pool.call(scheduler.address, { op: "identity" }), "identity");
  assertEquals(readString(identity.type, "identity.type"), "Scheduler");
  assertEquals(identity.address, scheduler.address);
  const versions = readRecord(await pool.call(scheduler.address, { op: "versions" }), "versions");
  const packages = readRecord(versions.packages, "versions.packages");
  assert(/^20\d\d\./.test(readString(packages.distributed, "versions.packages.distributed")));
  assertEquals([pool.open, pool.active], [1, 0]);
});

Deno.test("scheduler: an op that it does not know is null, a field that it does not know is an error", async () => {
  await using pool = new RpcPool(tcp);
  assertEquals(await pool.call(scheduler.address, { op: "no-such-op" }), null);
  const error = await assertRejects(
    () => pool.call(scheduler.address, { op: "identity", no_such_field: 1 }),
    DaskError,
    "no_such_field",
  );
  assertStringIncludes(error.message, scheduler.address);
  assertEquals(pool.open, 1);
});

Deno.test("scheduler: keys of all kinds come back as they went", async () => {
  await using pool = new RpcPool(tcp);
  const keys = ["x", ["x", 0], ["y", ["z", 1.5]], 7, "ключ"];
  const reply = readRecord(await pool.call(scheduler.address, { op: "who_has", keys }), "who_has");
  assertEquals(new Set(Object.keys(reply)), new Set(keys.map(keyFromWire)));
  for (const key of keys) assertEquals(reply[keyFromWire(key)], []);
});

Deno.test("scheduler: many calls at once", async () => {
  await using pool = new RpcPool(tcp, { connectionsMax: 8 });
  const replies = await Promise.all(
    Array.from({ length: 50 }, (_, i) => pool.call(scheduler.address, { op: "who_has", keys: [`k${i}`] })),
  );
  assertEquals(replies, Array.from({ length: 50 }, (_, i) => ({ [`k${i}`]: [] })));
  assertEquals([pool.open, pool.active], [8, 0]);
});

Deno.test("scheduler: a client's stream takes and gives batches", async () => {
  const channel = await connectChannel(tcp, scheduler.address);
  channel.send({ op: "register-client", client: "Client-wire-test", reply: false, versions: {} });
  const greeting = await channel.receive();
  assertEquals((greeting?.message as { op: string }[])[0]!.op, "stream-start");
  channel.sendBatched({ op: "heartbeat-client" });
  channel.sendBatched({ op: "client-desires-keys", keys: ["nothing", ["x", 1]], client: "Client-wire-test" });
  channel.sendBatched({
    op: "client-releases-keys",
    keys: ["nothing", ["x", 1]],
    client: "Client-wire-test",
  });
  channel.sendBatched({ op: "close-stream" });
  await channel.flush();
  const rest: unknown[] = [];
  for (let next = await channel.receive(); next !== null; next = await channel.receive()) {
    if (Array.isArray(next.message)) rest.push(...next.message);
    if (rest.some((message) => (message as { op: string }).op === "stream-closed")) break;
  }
  await channel.close();
});

Deno.test("scheduler: a port where nothing listens is named", async () => {
  await using pool = new RpcPool(tcp);
  const error = await assertRejects(
    () => pool.call("tcp://127.0.0.1:1", { op: "identity" }),
    CommClosedError,
  );
  assertStringIncludes(error.message, "tcp://127.0.0.1:1");
});
