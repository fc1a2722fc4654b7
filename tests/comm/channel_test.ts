import { assert, assertEquals, assertGreater, assertLess, assertRejects, assertThrows } from "@std/assert";
import { type Channel, connectChannel, openChannel } from "../../comm/channel.ts";
import type { Comm, CommOptions } from "../../comm/comm.ts";
import { memoryTransport } from "../../comm/memory.ts";
import { tcp } from "../../comm/tcp.ts";
import { encodeMessage } from "../../protocol/envelope.ts";
import { CommClosedError, ProtocolError } from "../../protocol/errors.ts";
import type { Frame } from "../../protocol/payload.ts";

/** Two ends of a TCP connection; the second gets its comm wrapped when a wrapper is given. */
async function pair(
  options: CommOptions = {},
): Promise<{ near: Channel; far: Channel; [Symbol.asyncDispose](): Promise<void> }> {
  const arrived = Promise.withResolvers<Comm>();
  const listener = await tcp.listen("tcp://127.0.0.1:0", arrived.resolve, options);
  const opening = arrived.promise.then((comm) => openChannel(comm));
  const near = await connectChannel(tcp, listener.address);
  const far = await opening;
  return {
    near,
    far,
    async [Symbol.asyncDispose]() {
      near.abort();
      far.abort();
      await listener.close();
    },
  };
}

/** A comm that records what is sent in one go. */
class RecordingComm implements Comm {
  readonly local = "tcp://a:1";
  readonly peer = "tcp://b:1";
  readonly writes: Frame[][][] = [];
  readonly #held: (() => void)[] = [];
  hold = false;
  #onWrite: () => void = () => {};
  /** Resolves when there are so many writes. */
  async written(count: number): Promise<void> {
    while (this.writes.length < count) await new Promise<void>((resolve) => this.#onWrite = resolve);
  }
  send(...messages: readonly (readonly Frame[])[]): Promise<void> {
    this.writes.push(messages.map((message) => [...message]));
    this.#onWrite();
    return this.hold ? new Promise((resolve) => this.#held.push(resolve)) : Promise.resolve();
  }
  release(): void {
    for (const go of this.#held.splice(0)) go();
  }
  receive(): Promise<Frame[] | null> {
    return new Promise(() => {});
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
  abort(): void {}
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("messages go both ways", async () => {
  await using ends = await pair();
  const { near, far } = ends;
  near.send({ op: "ping", n: 1 });
  far.send(["pong"]);
  assertEquals(await far.receive(), { message: { op: "ping", n: 1 } });
  assertEquals(await near.receive(), { message: ["pong"] });
});

Deno.test("what is said in one turn is one write, one message each", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false });
  channel.send({ n: 1 });
  channel.send({ n: 2 });
  await channel.flush();
  channel.send({ n: 3 });
  await channel.flush();
  assertEquals(comm.writes, [
    [encodeMessage({ n: 1 }), encodeMessage({ n: 2 })],
    [encodeMessage({ n: 3 })],
  ]);
});

Deno.test("B12 what is said in one turn on a stream is one message, a list in order", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false });
  for (let n = 1; n <= 3; n++) channel.sendBatched({ n });
  await channel.flush();
  assertEquals(comm.writes, [[encodeMessage([{ n: 1 }, { n: 2 }, { n: 3 }])]]);
});

Deno.test("B12 with an interval the first batch goes at once, what follows closely goes together", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false, batchIntervalMs: 20 });
  channel.sendBatched({ n: 1 });
  await turn();
  assertEquals(comm.writes.length, 1);
  channel.sendBatched({ n: 2 });
  await turn();
  channel.sendBatched({ n: 3 });
  await channel.close();
  assertEquals(comm.writes, [[encodeMessage([{ n: 1 }])], [encodeMessage([{ n: 2 }, { n: 3 }])]]);
});

Deno.test("after very many messages the next batch gathers for four intervals", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false, batchIntervalMs: 100 });
  channel.sendBatched(0);
  await turn();
  for (let n = 1; n <= 20_000; n++) channel.sendBatched(n);
  await comm.written(2);
  const busyAt = performance.now();
  channel.sendBatched("busy");
  await comm.written(3);
  const calmAt = performance.now();
  assert(calmAt - busyAt >= 250, `the third batch went after ${calmAt - busyAt} ms`);
  channel.sendBatched("calm");
  await comm.written(4);
  await channel.close();
  assertEquals(comm.writes.slice(2), [[encodeMessage(["busy"])], [encodeMessage(["calm"])]]);
});

Deno.test("B13 three messages, and two after a pause, arrive as two lists, in order", async () => {
  await using ends = await pair();
  const { near, far } = ends;
  for (const n of [1, 2, 3]) near.sendBatched({ n });
  await near.flush();
  assertEquals(await far.receive(), { message: [{ n: 1 }, { n: 2 }, { n: 3 }] });
  for (const n of [4, 5]) near.sendBatched({ n });
  assertEquals(await far.receive(), { message: [{ n: 4 }, { n: 5 }] });
});

Deno.test("B14 closing first sends what is left", async () => {
  await using ends = await pair();
  const { near, far } = ends;
  near.sendBatched({ n: 1 });
  near.sendBatched({ n: 2 });
  const closed = near.close();
  near.send("too late");
  assertEquals(await far.receive(), { message: [{ n: 1 }, { n: 2 }] });
  assertEquals(await far.receive(), null);
  await closed;
  await near.closed;
  await far.closed;
});

Deno.test("what is said while a write is under way goes together afterwards", async () => {
  const comm = new RecordingComm();
  comm.hold = true;
  const channel = await openChannel(comm, { handshake: false });
  channel.sendBatched(1);
  await turn();
  for (const n of [2, 3]) {
    channel.sendBatched(n);
    await turn();
  }
  assertEquals(comm.writes.length, 1);
  assertGreater(channel.bufferedBytes, 0);
  comm.hold = false;
  comm.release();
  await channel.flush();
  assertEquals(comm.writes, [[encodeMessage([1])], [encodeMessage([2, 3])]]);
  assertEquals(channel.bufferedBytes, 0);
});

Deno.test("flush waits for what was said before it, not for what is said after", async () => {
  const comm = new RecordingComm();
  comm.hold = true;
  const channel = await openChannel(comm, { handshake: false });
  const done: string[] = [];
  channel.send(1);
  channel.flush().then(() => done.push("first"));
  await turn();
  channel.send(2);
  channel.flush().then(() => done.push("second"));
  comm.release();
  await turn();
  assertEquals(done, ["first"]);
  comm.release();
  await turn();
  assertEquals(done, ["first", "second"]);
});

Deno.test("single messages and batches keep their order", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false });
  channel.sendBatched(1);
  channel.send(2);
  channel.sendBatched(3);
  await channel.flush();
  assertEquals(comm.writes, [[encodeMessage([1]), encodeMessage(2), encodeMessage([3])]]);
});

Deno.test("a message is what it was when it was said; what cannot be sent throws there", async () => {
  const comm = new RecordingComm();
  const channel = await openChannel(comm, { handshake: false });
  const message = { keys: ["a"] };
  channel.send(message);
  channel.sendBatched(message);
  message.keys.push("b");
  assertThrows(() => channel.send({ bad: () => 1 }), ProtocolError);
  assertThrows(() => channel.sendBatched({ bad: () => 1 }), ProtocolError);
  await channel.flush();
  assertEquals(comm.writes, [[encodeMessage({ keys: ["a"] }), encodeMessage([{ keys: ["a"] }])]]);
});

Deno.test("a reader that does not read shows in bufferedBytes and flush", async () => {
  await using ends = await pair();
  const { near, far } = ends;
  const chunk = new Uint8Array(1_000_000);
  for (let i = 0; i < 40; i++) near.send(chunk);
  let flushed = false;
  const flushing = near.flush().then(() => flushed = true);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert(!flushed);
  assertGreater(near.bufferedBytes, 30_000_000);
  for (let i = 0; i < 40; i++) await far.receive();
  await flushing;
  assertEquals(near.bufferedBytes, 0);
});

Deno.test("a peer that never shakes hands is given up, its socket freed", async () => {
  const comms: Comm[] = [];
  await using listener = await tcp.listen("tcp://127.0.0.1:0", (comm) => comms.push(comm));
  const before = performance.now();
  await assertRejects(
    () => connectChannel(tcp, listener.address, { timeoutMs: 50 }),
    CommClosedError,
    listener.address,
  );
  assertLess(performance.now() - before, 2000);
  const comm = await tcp.connect(listener.address);
  await assertRejects(() => openChannel(comm, { handshakeTimeoutMs: 20 }), CommClosedError, "no handshake");
  for (const comm of comms) comm.abort();
});

Deno.test("a peer that closes before the handshake, or says something else, is named", async () => {
  await using closing = await tcp.listen("tcp://127.0.0.1:0", (comm) => comm.close());
  await assertRejects(() => connectChannel(tcp, closing.address), CommClosedError, closing.address);
  await using wrong = await tcp.listen("tcp://127.0.0.1:0", (comm) => {
    comm.send(encodeMessage({ hello: 1 })).then(() => comm.receive().catch(() => {})).then(() =>
      comm.abort()
    );
  });
  await assertRejects(() => connectChannel(tcp, wrong.address), ProtocolError, "handshake");
});

Deno.test("a signal gives up connecting and the handshake with its reason", async () => {
  const comms: Comm[] = [];
  await using listener = await tcp.listen("tcp://127.0.0.1:0", (comm) => comms.push(comm));
  const controller = new AbortController();
  const connecting = assertRejects(
    () => connectChannel(tcp, listener.address, { signal: controller.signal }),
    Error,
    "enough",
  );
  setTimeout(() => controller.abort(new Error("enough")), 10);
  await connecting;
  await assertRejects(
    () => connectChannel(tcp, listener.address, { signal: AbortSignal.abort(new Error("before")) }),
    Error,
    "before",
  );
  for (const comm of comms) comm.abort();
});

Deno.test("a broken connection rejects receive and flush, and resolves closed", async () => {
  const transport = memoryTransport();
  const arrived = Promise.withResolvers<Comm>();
  const listener = await transport.listen("tcp://here:1", arrived.resolve);
  const opening = arrived.promise.then((comm) => openChannel(comm));
  const near = await connectChannel(transport, listener.address);
  const far = await opening;
  const receiving = assertRejects(() => near.receive(), CommClosedError);
  transport.drop();
  await receiving;
  await near.closed;
  near.send("nobody hears this");
  await assertRejects(() => near.flush(), CommClosedError);
  await assertRejects(() => far.receive(), CommClosedError);
  await listener.close();
  assertEquals(transport.openCount, 0);
});

Deno.test("frames that are no message end the channel with a ProtocolError", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using listener = await tcp.listen("tcp://127.0.0.1:0", arrived.resolve);
  const near = await tcp.connect(listener.address);
  const far = await openChannel(await arrived.promise, { handshake: false });
  await near.send([Uint8Array.of(0xc1)]);
  await assertRejects(() => far.receive(), ProtocolError);
  await far.closed;
  near.abort();
});
