import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { type Channel, connectChannel } from "../../comm/channel.ts";
import { serve, type ServerHandler } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { CommClosedError } from "../../protocol/errors.ts";
import { encodeFrames } from "../../protocol/frame.ts";
import { encodeMessage } from "../../protocol/envelope.ts";
import { HELLO } from "../../protocol/handshake.ts";
import { concatBytes } from "../../protocol/bytes.ts";
import { randomness } from "../protocol/randomness.ts";

const ANY = "tcp://127.0.0.1:0";
const echo: ServerHandler = ({ op, fields }) => Promise.resolve(op === "echo" ? { reply: fields } : null);

async function ask(channel: Channel, message: unknown): Promise<unknown> {
  channel.send(message);
  return (await channel.receive())?.message;
}

Deno.test("B16 a server answers many connections at once, by op", async () => {
  let inside = 0;
  let most = 0;
  const all = Promise.withResolvers<void>();
  await using server = await serve(tcp, ANY, async ({ op, fields, peer }) => {
    assert(peer.startsWith("tcp://127.0.0.1:"));
    most = Math.max(most, ++inside);
    if (inside === 20) all.resolve();
    await all.promise;
    inside--;
    return { reply: [op, fields] };
  });
  const channels = await Promise.all(Array.from({ length: 20 }, () => connectChannel(tcp, server.address)));
  const replies = await Promise.all(channels.map((channel, i) => ask(channel, { op: `op${i}`, i })));
  assertEquals(replies, channels.map((_, i) => [`op${i}`, { i }]));
  assertEquals(most, 20);
  assertEquals(server.connections, 20);
  for (const channel of channels) await channel.close();
});

Deno.test("B17 an answer is sent only when asked for; close after the answer is honoured", async () => {
  const seen: string[] = [];
  await using server = await serve(tcp, ANY, ({ op }) => {
    seen.push(op);
    return Promise.resolve({ reply: op });
  });
  const channel = await connectChannel(tcp, server.address);
  channel.send({ op: "quiet", reply: false });
  assertEquals(await ask(channel, { op: "loud" }), "loud");
  assertEquals(await ask(channel, { op: "last", close: true, serializers: ["pickle"] }), "last");
  assertEquals(await channel.receive(), null);
  assertEquals(seen, ["quiet", "loud", "last"]);
});

Deno.test("B17 an op close ends politely", async () => {
  await using server = await serve(tcp, ANY, echo);
  const silent = await connectChannel(tcp, server.address);
  silent.send({ op: "close", reply: false });
  assertEquals(await silent.receive(), null);
  const polite = await connectChannel(tcp, server.address);
  assertEquals(await ask(polite, { op: "close" }), "OK");
  assertEquals(await polite.receive(), null);
});

Deno.test("B18 a lost connection ends only its own handler", async () => {
  const gate = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  await using server = await serve(tcp, ANY, async ({ op, fields }) => {
    if (op === "wait") {
      started.resolve();
      await gate.promise;
    }
    return { reply: fields };
  });
  const lost = await connectChannel(tcp, server.address);
  const other = await connectChannel(tcp, server.address);
  lost.send({ op: "wait" });
  await started.promise;
  lost.abort();
  gate.resolve();
  assertEquals(await ask(other, { op: "echo", x: 1 }), { x: 1 });
  await other.close();
});

Deno.test("an op that nobody knows is answered with null", async () => {
  await using server = await serve(tcp, ANY, echo);
  const channel = await connectChannel(tcp, server.address);
  assertEquals(await ask(channel, { op: "nonsense" }), null);
  assertEquals(await ask(channel, { op: "echo", x: 1 }), { x: 1 });
  await channel.close();
});

Deno.test("what a handler throws, or answers and cannot be encoded, is answered as an error", async () => {
  await using server = await serve(tcp, ANY, ({ op }) => {
    if (op === "reject") return Promise.reject(new TypeError("no good"));
    if (op === "text") throw "just text";
    return Promise.resolve({ reply: { bad: () => 1 } });
  });
  const channel = await connectChannel(tcp, server.address);
  for (const [op, text] of [["reject", "no good"], ["text", "just text"], ["reply", "plain data"]] as const) {
    const reply = await ask(channel, { op }) as Record<string, string>;
    assertEquals(reply.status, "uncaught-error");
    assertStringIncludes(reply.exception_text!, text);
    assertEquals(Object.keys(reply).sort(), [
      "exception",
      "exception_text",
      "status",
      "traceback",
      "traceback_text",
    ]);
  }
  await channel.close();
});

Deno.test("a failure is written the way that was asked for", async () => {
  const handler: ServerHandler = () => Promise.reject(new Error("x"));
  const writeFailure = (error: unknown) => ({ exception_text: `<${(error as Error).message}>` });
  await using server = await serve(tcp, ANY, handler, { writeFailure });
  const channel = await connectChannel(tcp, server.address);
  assertEquals(await ask(channel, { op: "x" }), { status: "uncaught-error", exception_text: "<x>" });
  await channel.close();
  await using broken = await serve(tcp, ANY, handler, {
    writeFailure: () => {
      throw new Error("cannot write that");
    },
  });
  const other = await connectChannel(tcp, broken.address);
  assertEquals((await ask(other, { op: "x" }) as { exception_text: string }).exception_text, "Error: x");
  await other.close();
});

Deno.test("requests that are none are answered with an error, and the connection ends", async () => {
  await using server = await serve(tcp, ANY, echo);
  for (const wrong of [null, "OK", 5, [], [{ op: "echo" }], {}, { op: 5 }, { op: null }, { OP: "echo" }]) {
    const channel = await connectChannel(tcp, server.address);
    const reply = await ask(channel, wrong) as { status: string } | null;
    assertEquals(reply?.status, "uncaught-error", JSON.stringify(wrong));
    assertEquals(await channel.receive(), null);
  }
});

Deno.test("the next request waits for the acknowledgement of the last reply", async () => {
  const events: string[] = [];
  await using server = await serve(tcp, ANY, (request) => {
    events.push(request.op);
    request.acknowledged().then(() => events.push(`${request.op} acknowledged`));
    return Promise.resolve({ reply: request.op, acknowledge: request.op === "get_data" });
  });
  const channel = await connectChannel(tcp, server.address);
  assertEquals(await ask(channel, { op: "get_data" }), "get_data");
  assertEquals(events, ["get_data"]);
  channel.send("OK");
  assertEquals(await ask(channel, { op: "ping" }), "ping");
  assertEquals(events.slice(0, 3), ["get_data", "get_data acknowledged", "ping"]);
  await channel.close();
});

Deno.test("an acknowledgement that never comes, or is something else, ends the wait", async () => {
  const ended: Promise<void>[] = [];
  await using server = await serve(tcp, ANY, (request) => {
    ended.push(request.acknowledged());
    return Promise.resolve({ reply: 1, acknowledge: true });
  });
  const gone = await connectChannel(tcp, server.address);
  await ask(gone, { op: "x" });
  gone.abort();
  const wrong = await connectChannel(tcp, server.address);
  await ask(wrong, { op: "x" });
  wrong.send({ op: "y" });
  await assertRejects(async () => {
    if (await wrong.receive() === null) throw new CommClosedError("closed", "");
  }, CommClosedError);
  assertEquals(ended.length, 2);
  await Promise.all(ended);
});

Deno.test("connections beyond the limit are closed at once, and there is room again later", async () => {
  await using server = await serve(tcp, ANY, echo, { connectionsMax: 2 });
  const first = await connectChannel(tcp, server.address);
  const second = await connectChannel(tcp, server.address);
  await assertRejects(() => connectChannel(tcp, server.address), CommClosedError);
  await first.close();
  assertEquals(await ask(second, { op: "echo", x: 1 }), { x: 1 });
  while (server.connections > 1) await new Promise((resolve) => setTimeout(resolve, 1));
  const third = await connectChannel(tcp, server.address);
  assertEquals(await ask(third, { op: "echo", x: 1 }), { x: 1 });
  await second.close();
  await third.close();
});

Deno.test("connections that say nothing are closed", async () => {
  await using server = await serve(tcp, ANY, echo, { handshakeTimeoutMs: 20 });
  const silent = await Promise.all(Array.from({ length: 50 }, () => tcp.connect(server.address)));
  for (const comm of silent) {
    await comm.receive(); // its hello
    await assertRejects(async () => {
      if (await comm.receive() === null) throw new CommClosedError("closed", "");
    }, CommClosedError);
  }
  assertEquals(server.connections, 0);
});

Deno.test("closing answers what is under way and ends the rest", async () => {
  const gate = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  const server = await serve(tcp, ANY, async ({ fields }) => {
    started.resolve();
    await gate.promise;
    return { reply: fields };
  });
  const idle = await connectChannel(tcp, server.address);
  const busy = await connectChannel(tcp, server.address);
  const reply = ask(busy, { op: "x", n: 1 });
  await started.promise;
  const closed = server.close();
  gate.resolve();
  assertEquals(await reply, { n: 1 });
  assertEquals(await busy.receive(), null);
  assertEquals(await idle.receive(), null);
  await closed;
  await server.close();
  await assertRejects(() => connectChannel(tcp, server.address), CommClosedError, "refused");
});

Deno.test("closing does not wait for a handler that never ends", async () => {
  const started = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<null>();
  const server = await serve(tcp, ANY, () => {
    started.resolve();
    return gate.promise;
  }, { closeMsMax: 20 });
  const channel = await connectChannel(tcp, server.address);
  channel.send({ op: "x" });
  await started.promise;
  const closing = server.close();
  await assertRejects(async () => {
    if (await channel.receive() === null) throw new CommClosedError("closed", "");
  }, CommClosedError);
  gate.resolve(null);
  await closing;
});

Deno.test("slow and stalled peers do not hold up others", async () => {
  const big = new Uint8Array(20_000_000);
  const server = await serve(tcp, ANY, ({ op, fields }) => {
    return Promise.resolve({ reply: op === "big" ? big : fields });
  }, { closeMsMax: 10 });
  // Three that ask for much and read nothing, fifty that connect and say nothing, one that dribbles.
  const stalled = await Promise.all(Array.from({ length: 3 }, () => connectChannel(tcp, server.address)));
  for (const channel of stalled) channel.send({ op: "big" });
  const silent = await Promise.all(Array.from({ length: 50 }, () => tcp.connect(server.address)));
  const dribble = await Deno.connect({ port: Number(server.address.split(":").at(-1)) });
  const words = concatBytes(
    encodeFrames([encodeMessage(HELLO), encodeMessage({ op: "echo", x: 1 })]) as Uint8Array[],
  );
  const other = await connectChannel(tcp, server.address);
  let slowest = 0;
  for (const byte of words) {
    await dribble.write(Uint8Array.of(byte));
    const before = performance.now();
    assertEquals(await ask(other, { op: "echo", y: 2 }), { y: 2 });
    slowest = Math.max(slowest, performance.now() - before);
  }
  assertLess(slowest, 100);
  dribble.close();
  for (const channel of [...stalled, other]) channel.abort();
  for (const comm of silent) comm.abort();
  await server.close();
});

Deno.test("mutated bytes on the port neither crash the server nor pile up", async () => {
  const random = randomness();
  const server = await serve(tcp, ANY, echo, { handshakeTimeoutMs: 500, closeMsMax: 10 });
  const port = Number(server.address.split(":").at(-1));
  const valid = concatBytes(
    encodeFrames([
      encodeMessage(HELLO),
      encodeMessage({ op: "echo", keys: ["a", "b"], n: 1 }),
    ]) as Uint8Array[],
  );
  const before = Deno.memoryUsage().rss;
  for (let round = 0; round < 40; round++) {
    await Promise.all(Array.from({ length: 10 }, async () => {
      const mutated = valid.slice();
      for (let j = random.below(4); j >= 0; j--) mutated[random.below(mutated.length)] = random.below(256);
      const conn = await Deno.connect({ port });
      try {
        await conn.write(mutated.subarray(0, 1 + random.below(mutated.length)));
        await conn.closeWrite();
        const sink = new Uint8Array(1000);
        while (await conn.read(sink) !== null);
      } catch (error) {
        assert(error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe);
      } finally {
        conn.close();
      }
    }));
  }
  const channel = await connectChannel(tcp, server.address);
  assertEquals(await ask(channel, { op: "echo", x: 1 }), { x: 1 }, `seed ${random.seed}`);
  assertGreater(server.connections, 0);
  assertLess(Deno.memoryUsage().rss - before, 100e6);
  await channel.close();
  await server.close();
});
