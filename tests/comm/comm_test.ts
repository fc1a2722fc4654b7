/** What holds for connections of every kind: TCP, unix sockets, memory. */
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import type { Comm, CommOptions, Listener } from "../../comm/comm.ts";
import { memoryTransport } from "../../comm/memory.ts";
import { tcp } from "../../comm/tcp.ts";
import { tlsTransport } from "../../comm/tls.ts";
import { encodeMessage, serialized } from "../../protocol/envelope.ts";
import { CommClosedError, DaskError, ProtocolError } from "../../protocol/errors.ts";
import { encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { type Frame, isFileFrame } from "../../protocol/payload.ts";
import { authority } from "../support/certificates.ts";

interface Kind {
  readonly name: string;
  listen(onComm: (comm: Comm) => void, options?: CommOptions): Promise<Listener>;
  connect(address: string, options?: CommOptions): Promise<Comm>;
}

const memory = memoryTransport();
const tls = tlsTransport(await (await authority()).issue());
const KINDS: readonly Kind[] = [
  { name: "tcp", listen: (...args) => tcp.listen("tcp://127.0.0.1:0", ...args), connect: tcp.connect },
  { name: "tls", listen: (...args) => tls.listen("tls://127.0.0.1:0", ...args), connect: tls.connect },
  { name: "memory", listen: (...args) => memory.listen("tcp://here", ...args), connect: memory.connect },
];

/** Both ends of a fresh connection. */
async function pair(
  kind: Kind,
  options: CommOptions = {},
): Promise<{ near: Comm; far: Comm; [Symbol.asyncDispose](): Promise<void> }> {
  const arrived = Promise.withResolvers<Comm>();
  const listener = await kind.listen(arrived.resolve, options);
  const near = await kind.connect(listener.address);
  const far = await arrived.promise;
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

function filled(byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = i % 251;
  return bytes;
}

for (const kind of KINDS) {
  Deno.test(`${kind.name}: messages come through whole and in order, both ways`, async () => {
    await using ends = await pair(kind);
    const { near, far } = ends;
    const messages: Uint8Array[][] = [
      [filled(1)],
      [filled(3), filled(0), filled(100_000)],
      [filled(5_000_000), filled(2)],
      [filled(7)],
    ];
    for (const [from, to] of [[near, far], [far, near]] as const) {
      const sent = Promise.all([
        from.send(messages[0]!, messages[1]!),
        from.send(messages[2]!),
        from.send(messages[3]!),
      ]);
      for (const message of messages) assertEquals(await to.receive(), message);
      await sent;
    }
  });

  Deno.test(`${kind.name}: the end of the other side is null between messages`, async () => {
    await using ends = await pair(kind);
    const { near, far } = ends;
    await near.send([filled(10)]);
    await near.close();
    await near.close();
    assertEquals(await far.receive(), [filled(10)]);
    assertEquals(await far.receive(), null);
    await assertRejects(() => far.receive(), CommClosedError);
    await assertRejects(() => near.send([filled(1)]), CommClosedError, "closed on this side");
  });

  Deno.test(`${kind.name}: close sends what is queued first`, async () => {
    await using ends = await pair(kind);
    const { near, far } = ends;
    near.send([filled(3_000_000)]);
    near.send([filled(2)]);
    const closed = near.close();
    assertEquals((await far.receive())?.[0]?.byteLength, 3_000_000);
    assertEquals(await far.receive(), [filled(2)]);
    assertEquals(await far.receive(), null);
    await closed;
  });

  Deno.test(`${kind.name}: abort ends pending calls at both ends`, async () => {
    await using ends = await pair(kind);
    const { near, far } = ends;
    const waiting = assertRejects(() => near.receive(), CommClosedError, "closed on this side");
    const stuck = assertRejects(() => near.send([filled(50_000_000)]), CommClosedError);
    await new Promise((resolve) => setTimeout(resolve, 5));
    near.abort();
    near.abort();
    await waiting;
    await stuck;
    await assertRejects(() => far.receive(), CommClosedError);
  });

  Deno.test(`${kind.name}: a reader that does not read holds the writer back`, async () => {
    await using ends = await pair(kind);
    const { near, far } = ends;
    let done = 0;
    const sends = Array.from({ length: 40 }, () => near.send([filled(1_000_000)]).then(() => done++));
    await new Promise((resolve) => setTimeout(resolve, 30));
    assertLess(done, 30);
    for (let i = 0; i < 40; i++) await far.receive();
    await Promise.all(sends);
    assertEquals(done, 40);
  });

  Deno.test(`${kind.name}: nonsense is a ProtocolError and ends the connection`, async () => {
    await using ends = await pair(kind, { frameBytesMax: 1000 });
    const { near, far } = ends;
    near.send([filled(1001)]).catch(() => {});
    await assertRejects(() => far.receive(), ProtocolError, "1001 bytes");
    await assertRejects(() => far.receive(), CommClosedError);
  });

  Deno.test(`${kind.name}: a file is sent without being in memory, also when its name is gone`, async () => {
    const file = await Deno.makeTempFile();
    await Deno.writeFile(file, filled(3_000_001));
    const frame = { file, byteLength: 3_000_001 };
    await using ends = await pair(kind);
    const { near, far } = ends;
    const sent = near.send([filled(1), frame, filled(2)], [frame]);
    await Deno.remove(file);
    assertEquals(await far.receive(), [filled(1), filled(3_000_001), filled(2)]);
    assertEquals(await far.receive(), [filled(3_000_001)]);
    await sent;
    await assertRejects(() => near.send([frame]), DaskError, "Cannot send a value");
    await near.send([filled(4)]); // the failure left nothing behind
    assertEquals(await far.receive(), [filled(4)]);
  });

  Deno.test(`${kind.name}: a file shorter than it should be breaks the connection`, async () => {
    const file = await Deno.makeTempFile();
    await Deno.writeFile(file, filled(100));
    await using ends = await pair(kind);
    const { near, far } = ends;
    await assertRejects(() => near.send([filled(1), { file, byteLength: 101 }]), ProtocolError, "file ends");
    await assertRejects(() => far.receive(), CommClosedError, "middle of a message");
    await Deno.remove(file);
  });

  Deno.test(`${kind.name}: large data frames go to the sink that is asked for`, async () => {
    const file = await Deno.makeTempFile();
    const sizes: number[] = [];
    await using ends = await pair(kind, {
      allocate(byteLength) {
        sizes.push(byteLength);
        const handle = Deno.openSync(file, { write: true, truncate: true });
        return {
          write(chunk) {
            for (let at = 0; at < chunk.byteLength;) at += handle.writeSync(chunk.subarray(at));
          },
          finish(): Frame {
            handle.close();
            return { file, byteLength };
          },
          abort: () => handle.close(),
        };
      },
    });
    const { near, far } = ends;
    const big = filled(5_000_000);
    const header = encodeMsgpack({ "num-sub-frames": 1 });
    const sent = near.send(encodeMessage({ v: serialized({ header, frames: [big] }) }));
    const frames = await far.receive();
    await sent;
    assertEquals(sizes, [5_000_000]);
    assert(frames !== null && isFileFrame(frames[2]!));
    assertEquals(await Deno.readFile(file), big);
    await Deno.remove(file);
  });
}

Deno.test("tcp: addresses are canonical, with the real port", async () => {
  await using ends = await pair(KINDS[0]!);
  assertEquals(ends.near.peer, ends.far.local);
  assertEquals(ends.near.local, ends.far.peer);
  assert(/^tcp:\/\/127\.0\.0\.1:[1-9][0-9]*$/.test(ends.near.peer));
});

Deno.test("tcp: a listener on all interfaces shows IPv4 peers as IPv4", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using listener = await tcp.listen("tcp://[::]:0", arrived.resolve);
  const near = await tcp.connect(`tcp://127.0.0.1:${listener.address.split(":").at(-1)}`);
  const far = await arrived.promise;
  assertEquals(far.peer, near.local);
  assert(far.peer.startsWith("tcp://127.0.0.1:"));
  near.abort();
  far.abort();
});

Deno.test("tcp: errors of connecting name the address and the way out", async () => {
  const listener = await tcp.listen("tcp://127.0.0.1:0", () => {});
  const { address } = listener;
  await assertRejects(() => tcp.listen(address, () => {}), DaskError, "port is taken");
  await listener.close();
  await listener.close();
  const refused = await assertRejects(() => tcp.connect(address), CommClosedError, "connection refused");
  assertStringIncludes(refused.message, address);
  assertEquals(refused.address, address);
  await assertRejects(() => tcp.connect("tcp://no-such-host.invalid:1"), CommClosedError, "is not known");
  await assertRejects(() => tcp.connect("tcp://127.0.0.1"), CommClosedError, "the port is missing");
  await assertRejects(() => tcp.connect("tls://127.0.0.1:1"), DaskError, "TLS needs certificates");
  await assertRejects(async () => await tcp.listen("tls://127.0.0.1:1", () => {}), DaskError, "TLS");
});

Deno.test("tcp: an aborted signal gives its own reason", async () => {
  const reason = new Error("enough");
  await assertRejects(
    () => tcp.connect("tcp://127.0.0.1:1", { signal: AbortSignal.abort(reason) }),
    Error,
    "enough",
  );
});

Deno.test("tcp: a listener that closes leaves accepted connections alone", async () => {
  const arrived = Promise.withResolvers<Comm>();
  const listener = await tcp.listen("tcp://127.0.0.1:0", arrived.resolve);
  const near = await tcp.connect(listener.address);
  const far = await arrived.promise;
  await listener.close();
  await near.send([filled(1)]);
  assertEquals(await far.receive(), [filled(1)]);
  near.abort();
  far.abort();
});

Deno.test("memory: a fence holds bytes back, and all is accounted for", async () => {
  const transport = memoryTransport();
  const arrived = Promise.withResolvers<Comm>();
  const listener = await transport.listen("tcp://alice:0", arrived.resolve);
  const near = await transport.connect(listener.address);
  const far = await arrived.promise;
  assertEquals(transport.openCount, 2);
  transport.fence();
  await near.send([filled(10)]);
  let got: Frame[] | null = null;
  const receiving = far.receive().then((message) => got = message);
  await new Promise((resolve) => setTimeout(resolve, 2));
  assertEquals(got, null);
  assertGreater(transport.pendingBytes, 10);
  transport.releaseFence();
  assertEquals(await receiving, [filled(10)]);
  assertEquals(transport.pendingBytes, 0);
  await near.close();
  await far.close();
  await listener.close();
  assertEquals(transport.openCount, 0);
  await assertRejects(() => transport.connect(listener.address), CommClosedError, "refused");
});

Deno.test("memory: dropped connections break at both ends, others do not", async () => {
  const transport = memoryTransport();
  const comms: Comm[] = [];
  const alice = await transport.listen("tcp://alice:1", (comm) => comms.push(comm));
  const bob = await transport.listen("tcp://bob:1", (comm) => comms.push(comm));
  const toAlice = await transport.connect(alice.address);
  const toBob = await transport.connect(bob.address);
  const broken = [toAlice, comms[0]!].map((comm) => assertRejects(() => comm.receive(), CommClosedError));
  assertEquals(transport.drop(alice.address), 1);
  await Promise.all(broken);
  await toBob.send([filled(1)]);
  assertEquals(await comms[1]!.receive(), [filled(1)]);
  for (const comm of [...comms, toAlice, toBob]) comm.abort();
  assertEquals(transport.openCount, 0);
});
