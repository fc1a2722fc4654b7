import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { openChannel } from "../../comm/channel.ts";
import type { Comm, Transport } from "../../comm/comm.ts";
import { memoryTransport } from "../../comm/memory.ts";
import { RpcPool } from "../../comm/pool.ts";
import { serve, type Server, type ServerHandler } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { announcedAddress } from "../../protocol/address.ts";
import { CommClosedError, DaskError } from "../../protocol/errors.ts";
import { randomness } from "../protocol/randomness.ts";

const echo: ServerHandler = ({ fields }) => Promise.resolve({ reply: fields });

function servers(count: number, handler = echo, transport: Transport = tcp): Promise<Server[]> {
  return Promise.all(Array.from({ length: count }, () => serve(transport, "tcp://127.0.0.1:0", handler)));
}
async function closeAll(servers: readonly AsyncDisposable[]): Promise<void> {
  await Promise.all(servers.map((server) => server[Symbol.asyncDispose]()));
}

/** A handler whose answers wait until they are let go. */
function gated(): { handler: ServerHandler; arrived(count: number): Promise<void>; open(): void } {
  let held: (() => void)[] = [];
  let watch: (() => void) | null = null;
  let open = false;
  return {
    async handler({ fields }) {
      if (!open) {
        await new Promise<void>((resolve) => {
          held.push(resolve);
          watch?.();
        });
      }
      return { reply: fields };
    },
    arrived: (count) =>
      new Promise((resolve) => {
        watch = () => held.length >= count && resolve();
        watch();
      }),
    open() {
      open = true;
      for (const go of held) go();
      held = [];
    },
  };
}

Deno.test("B2 a call sends and waits for the answer", async () => {
  const [server] = await servers(1);
  await using pool = new RpcPool(tcp);
  assertEquals(await pool.call(server!.address, { op: "echo", x: 1 }), { x: 1 });
  await pool.close();
  await server!.close();
});

Deno.test("B3 idle connections are kept and reused", async () => {
  const [server] = await servers(1);
  await using pool = new RpcPool(tcp);
  for (let i = 0; i < 5; i++) {
    assertEquals(await pool.call(server!.address, { op: "echo", i }), { i });
    assertEquals([pool.open, pool.active, server!.connections], [1, 0, 1]);
  }
  await pool.close();
  await server!.close();
});

Deno.test("B4 a connection that the peer closed while idle is dropped, and the call goes over a fresh one", async () => {
  const [first] = await servers(1);
  await using pool = new RpcPool(tcp);
  await pool.call(first!.address, { op: "echo" });
  await first!.close();
  const again = await serve(tcp, first!.address, echo);
  // The end may or may not have been noticed by now: both ways the call succeeds.
  assertEquals(await pool.call(first!.address, { op: "echo", y: 2 }), { y: 2 });
  assertEquals(pool.open, 1);
  await pool.close();
  await again.close();
});

Deno.test("B4 a connection that turns out stale under the request is tried once more, and only once", async () => {
  let requests = 0;
  // Answers the first request of all; from then on every connection closes upon its request, without a word.
  const listener = await tcp.listen("tcp://127.0.0.1:0", async (comm) => {
    const channel = await openChannel(comm);
    while (await channel.receive().catch(() => null) !== null) {
      if (++requests > 1) break;
      channel.send("first");
    }
    channel.abort();
  });
  await using pool = new RpcPool(tcp);
  assertEquals(await pool.call(listener.address, { op: "x" }), "first");
  await assertRejects(() => pool.call(listener.address, { op: "x" }), CommClosedError, listener.address);
  assertEquals(requests, 3);
  await assertRejects(() => pool.call(listener.address, { op: "x" }), CommClosedError);
  assertEquals(requests, 4); // nothing was idle: no second try
  assertEquals([pool.open, pool.active], [0, 0]);
  await pool.close();
  await listener.close();
});

Deno.test("B5 no more connections are open than the limit, callers wait in line", async () => {
  const gate = gated();
  let most = 0;
  const all = await servers(3, gate.handler);
  await using pool = new RpcPool(tcp, { connectionsMax: 2 });
  const calls = Array.from({ length: 9 }, (_, i) => pool.call(all[i % 3]!.address, { op: "x", i }));
  const watch = () => most = Math.max(most, pool.open);
  await gate.arrived(2);
  watch();
  gate.open();
  for (const call of calls) call.then(watch);
  assertEquals(await Promise.all(calls), Array.from({ length: 9 }, (_, i) => ({ i })));
  assertEquals(most, 2);
  assert(pool.open <= 2);
  assertEquals(pool.active, 0);
  await pool.close();
  await closeAll(all);
});

Deno.test("B6 five servers, limit five, ten calls leave five open and none active", async () => {
  const all = await servers(5);
  await using pool = new RpcPool(tcp, { connectionsMax: 5 });
  for (let i = 0; i < 10; i++) await pool.call(all[i % 5]!.address, { op: "echo" });
  assertEquals([pool.open, pool.active], [5, 0]);
  // B8: five further servers leave five open
  const more = await servers(5);
  for (const server of more) await pool.call(server.address, { op: "echo" });
  assertEquals([pool.open, pool.active], [5, 0]);
  await pool.close();
  await closeAll([...all, ...more]);
});

Deno.test("B7 the loopback and the host address share a connection", async () => {
  const [server] = await servers(1);
  await using pool = new RpcPool(tcp, {
    canonicalAddress: (address) => announcedAddress(address, "127.0.0.1"),
  });
  const port = server!.address.split(":").at(-1);
  for (const host of ["127.0.0.1", "tcp://127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"]) {
    await pool.call(`${host}:${port}`, { op: "echo" });
  }
  assertEquals(pool.open, 1);
  await pool.close();
  await server!.close();
});

Deno.test("B8 at the limit the connection unused longest makes room", async () => {
  const all = await servers(4);
  await using pool = new RpcPool(tcp, { connectionsMax: 3 });
  const call = (i: number) => pool.call(all[i]!.address, { op: "echo" });
  for (const i of [0, 1, 2, 0, 3]) await call(i);
  assertEquals(pool.open, 3);
  await new Promise((resolve) => setTimeout(resolve, 10));
  assertEquals(all.map(({ connections }) => connections), [1, 0, 1, 1]);
  await pool.close();
  await closeAll(all);
});

Deno.test("B9 several calls at once to one server open as many connections as needed", async () => {
  const gate = gated();
  const [server] = await servers(1, gate.handler);
  await using pool = new RpcPool(tcp);
  const calls = Array.from({ length: 3 }, (_, i) => pool.call(server!.address, { op: "x", i }));
  await gate.arrived(3);
  assertEquals([pool.open, pool.active], [3, 3]);
  gate.open();
  assertEquals(await Promise.all(calls), [{ i: 0 }, { i: 1 }, { i: 2 }]);
  assertEquals([pool.open, pool.active], [3, 0]);
  await pool.close();
  await server!.close();
});

Deno.test("B10 connections broken at random, idle or busy, break only their own call", async () => {
  const random = randomness();
  const network = memoryTransport();
  const all = await servers(4, async ({ fields }) => {
    if (random.below(3) === 0) await new Promise((resolve) => setTimeout(resolve, random.below(3)));
    return { reply: fields };
  }, network);
  const pool = new RpcPool(network, { connectionsMax: 6 });
  let succeeded = 0;
  let broken = 0;
  const caller = async (id: number) => {
    for (let i = 0; i < 60; i++) {
      const { address } = all[random.below(4)]!;
      if (random.below(12) === 0) network.drop(address);
      try {
        assertEquals(await pool.call(address, { op: "x", id, i }), { id, i }, `seed ${random.seed}`);
        succeeded++;
      } catch (error) {
        if (!(error instanceof CommClosedError)) throw error;
        broken++;
      }
      assert(pool.open <= 6, `seed ${random.seed}: ${pool.open} open`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, (_, id) => caller(id)));
  assertEquals(succeeded + broken, 480);
  assert(succeeded > broken, `seed ${random.seed}: ${broken} of 480 calls broke`);
  assertEquals(pool.active, 0);
  await pool.close();
  assertEquals(pool.open, 0);
  await closeAll(all);
  assertEquals(network.openCount, 0);
});

Deno.test("B11 closing the pool closes idle and busy connections, and those who wait", async () => {
  const gate = gated();
  const [server, idle] = await Promise.all([
    serve(tcp, "tcp://127.0.0.1:0", gate.handler, { closeMsMax: 10 }),
    serve(tcp, "tcp://127.0.0.1:0", echo),
  ]);
  const pool = new RpcPool(tcp, { connectionsMax: 2 });
  await pool.call(idle.address, { op: "echo" });
  const ended = [
    assertRejects(() => pool.call(server.address, { op: "x" }), CommClosedError, "closed"),
    assertRejects(() => pool.call(server.address, { op: "x" }), CommClosedError, "closed"),
    assertRejects(() => pool.call(server.address, { op: "x" }), CommClosedError, "closed"),
  ];
  await gate.arrived(2);
  await pool.close();
  await pool.close();
  await Promise.all(ended);
  assertEquals([pool.open, pool.active], [0, 0]);
  await assertRejects(() => pool.call(idle.address, { op: "echo" }), CommClosedError, "closed");
  gate.open();
  await closeAll([server, idle]);
});

Deno.test("B15 closing a connection tells the peer first", async () => {
  const heard: unknown[] = [];
  const done = Promise.withResolvers<void>();
  const listener = await tcp.listen("tcp://127.0.0.1:0", async (comm) => {
    const channel = await openChannel(comm);
    for (let next = await channel.receive(); next !== null; next = await channel.receive()) {
      heard.push(next.message);
      channel.send("answer");
    }
    done.resolve();
  });
  const pool = new RpcPool(tcp);
  await pool.call(listener.address, { op: "x" });
  await pool.close();
  await done.promise;
  assertEquals(heard, [{ op: "x" }, { op: "close", reply: false }]);
  await listener.close();
});

Deno.test("a call that is given up, or takes too long, closes its connection", async () => {
  const gate = gated();
  const [server] = await servers(1, gate.handler);
  await using pool = new RpcPool(tcp);
  const controller = new AbortController();
  const ended = assertRejects(
    () => pool.call(server!.address, { op: "x" }, { signal: controller.signal }),
    Error,
    "enough",
  );
  await gate.arrived(1);
  controller.abort(new Error("enough"));
  await ended;
  assertEquals(pool.open, 0);
  const late = await assertRejects(
    () => pool.call(server!.address, { op: "slow" }, { timeoutMs: 20 }),
    CommClosedError,
  );
  assertStringIncludes(late.message, '"slow"');
  assertStringIncludes(late.message, "20 ms");
  assertEquals(late.address, server!.address);
  assertEquals(pool.open, 0);
  gate.open();
  await assertRejects(
    () => pool.call(server!.address, { op: "x" }, { signal: AbortSignal.abort(new Error("before")) }),
    Error,
    "before",
  );
  assertEquals(await pool.call(server!.address, { op: "x", ok: 1 }), { ok: 1 });
  await pool.close();
  await server!.close();
});

Deno.test("whoever waits in line may give up, and leaves no trace", async () => {
  const gate = gated();
  const [server] = await servers(1, gate.handler);
  await using pool = new RpcPool(tcp, { connectionsMax: 1 });
  const first = pool.call(server!.address, { op: "x", n: 1 });
  await gate.arrived(1);
  await assertRejects(() => pool.call(server!.address, { op: "x" }, { timeoutMs: 10 }), CommClosedError);
  const third = pool.call(server!.address, { op: "x", n: 3 });
  gate.open();
  assertEquals(await Promise.all([first, third]), [{ n: 1 }, { n: 3 }]);
  assertEquals([pool.open, pool.active], [1, 0]);
  await pool.close();
  await server!.close();
});

Deno.test("an acknowledgement is sent after the reply that asks for it", async () => {
  const acknowledged: string[] = [];
  const [server] = await servers(1, (request) => {
    if (request.fields.busy === true) return Promise.resolve({ reply: { status: "busy" } });
    request.acknowledged().then(() => acknowledged.push(request.op));
    return Promise.resolve({ reply: { status: "OK" }, acknowledge: true });
  });
  await using pool = new RpcPool(tcp);
  const acknowledge = (reply: unknown) => (reply as { status: string }).status === "OK" ? "OK" : undefined;
  for (let i = 0; i < 3; i++) {
    assertEquals(await pool.call(server!.address, { op: "get_data" }, { acknowledge }), { status: "OK" });
    assertEquals(await pool.call(server!.address, { op: "get_data", busy: true }, { acknowledge }), {
      status: "busy",
    });
  }
  assertEquals(pool.open, 1);
  assertEquals(acknowledged, ["get_data", "get_data", "get_data"]);
  await pool.close();
  await server!.close();
});

Deno.test("a failure of the other side is a DaskError with its text; the connection lives on", async () => {
  const [server] = await servers(1, ({ op }) => {
    if (op === "unknown") return Promise.resolve(null);
    throw new RangeError("far out");
  });
  await using pool = new RpcPool(tcp);
  const error = await assertRejects(() => pool.call(server!.address, { op: "bad" }), DaskError, "far out");
  assertStringIncludes(error.message, '"bad"');
  assertStringIncludes(error.message, server!.address);
  assertEquals(await pool.call(server!.address, { op: "unknown" }), null);
  assertEquals(pool.open, 1);
  await pool.close();
  await server!.close();
});

Deno.test("no connection is a CommClosedError, and forgets itself", async () => {
  const [server] = await servers(1);
  await server!.close();
  await using pool = new RpcPool(tcp);
  await assertRejects(() => pool.call(server!.address, { op: "x" }), CommClosedError, "refused");
  assertEquals([pool.open, pool.active], [0, 0]);
});

Deno.test("forget closes the idle connections to one address", async () => {
  const all = await servers(2);
  await using pool = new RpcPool(tcp);
  for (const server of all) await pool.call(server.address, { op: "echo" });
  pool.forget(all[0]!.address);
  pool.forget("no address at all"); // from a scheduler that says nonsense: no reason to die of
  assertEquals(pool.open, 1);
  await pool.close();
  await closeAll(all);
});

Deno.test("a peer that says something unasked, or a half message, is not used again", async () => {
  const network = memoryTransport();
  const comms: Comm[] = [];
  const listener = await network.listen("tcp://here:1", async (comm) => {
    comms.push(comm);
    const channel = await openChannel(comm);
    while (await channel.receive().catch(() => null) !== null) {
      channel.send("answer");
      channel.send("and more");
    }
  });
  await using pool = new RpcPool(network);
  assertEquals(await pool.call(listener.address, { op: "x" }), "answer");
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(pool.open, 0);
  assertEquals(await pool.call(listener.address, { op: "x" }), "answer");
  assertEquals(comms.length, 2);
  await pool.close();
  await listener.close();
});
