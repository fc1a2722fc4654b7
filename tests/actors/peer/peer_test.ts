import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { cloneMessages, ManualClock } from "../../../actors/kernel/mod.ts";
import { PROBE_AFTER_MS, PROBE_ANSWER_MS_MAX } from "../../../actors/peer/actor.ts";
import { type Peer, type PeerPool, startPeer } from "../../../actors/peer/mod.ts";
import { startStore, storeAllocator, storeLinker } from "../../../actors/store/mod.ts";
import type { Transport } from "../../../comm/comm.ts";
import { type MemoryTransport, memoryTransport } from "../../../comm/memory.ts";
import { RpcPool } from "../../../comm/pool.ts";
import { serve, type ServerHandler } from "../../../comm/server.ts";
import { connectChannel } from "../../../comm/channel.ts";
import { tcp } from "../../../comm/tcp.ts";
import { serialized } from "../../../protocol/envelope.ts";
import { keyFromWire } from "../../../protocol/key.ts";
import { encodeMsgpack } from "../../../protocol/msgpack/mod.ts";
import { type Frame, isFileFrame, type Payload } from "../../../protocol/payload.ts";

const FILE_BYTES_MIN = 65_536;

/** Bytes that look random, and follow from the seed. */
function noise(byteLength: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  let state = seed;
  for (let index = 0; index < byteLength; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

function payloadOf(...frames: Frame[]): Payload {
  return {
    header: encodeMsgpack({ serializer: "pickle", writeable: [], "num-sub-frames": frames.length }),
    frames,
  };
}

/** What a worker is to its peers: a store, a peer actor, and a server that answers `get_data`. */
interface Node extends AsyncDisposable {
  readonly address: string;
  readonly directory: string;
  readonly store: ReturnType<typeof startStore>;
  readonly peer: Peer;
  readonly pool: RpcPool;
  put(key: string, ...frames: Uint8Array[]): Promise<void>;
  /** All bytes of a value that is here, without its header. */
  read(key: string): Promise<Uint8Array | null>;
  files(): string[];
}

async function startNode(
  transport: Transport,
  options: {
    outgoingMax?: number;
    clock?: ManualClock;
    pool?: PeerPool;
    answer?: ServerHandler;
    host?: string;
    /** Takes over files of peers on the same machine. */
    link?: boolean;
    /** Beginning of the folder's name. */
    prefix?: string;
  } = {},
): Promise<Node> {
  const directory = await Deno.makeTempDir({ prefix: options.prefix ?? "dask-ts-1-" });
  const allocate = storeAllocator(directory, FILE_BYTES_MIN);
  const store = startStore({ directory, fileBytesMin: FILE_BYTES_MIN });
  const pool = new RpcPool(transport, { allocate, timeoutMs: 2_000 });
  const made: { peer?: Peer } = {};
  const server = await serve(transport, `tcp://${options.host ?? "127.0.0.1"}:0`, async (request) => {
    const replaced = await options.answer?.(request);
    if (replaced !== undefined && replaced !== null) return replaced;
    if (request.op !== "get_data") return { reply: null };
    const got = await made.peer!.answerGetData(request.fields, request.peer, request.serializers);
    request.acknowledged().then(() => got.done());
    return got;
  }, { allocate, closeMsMax: 100 });
  const peer = made.peer = startPeer({
    address: server.address,
    store: store.ref,
    pool: options.pool ?? pool,
    ...(options.link === true ? { link: storeLinker(directory) } : {}),
    ...(options.outgoingMax === undefined ? {} : { outgoingMax: options.outgoingMax }),
    ...(options.clock === undefined ? {} : { clock: options.clock }),
  });
  return {
    address: server.address,
    directory,
    store,
    peer,
    pool,
    async put(key, ...frames) {
      const kept = frames.map((bytes) => {
        const sink = allocate(bytes.byteLength);
        if (sink === null) return bytes;
        sink.write(bytes);
        return sink.finish();
      });
      await store.ref.ask("commit", { key, payload: payloadOf(...kept) });
    },
    async read(key) {
      const { lease, found: [stored] } = await store.ref.ask("view", { keys: [key] });
      const parts = (stored?.payload.frames ?? []).map((frame) =>
        isFileFrame(frame) ? Deno.readFileSync(frame.file) : frame
      );
      store.ref.tell("release", { lease });
      return stored === undefined ? null : new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
    },
    files: () => [...Deno.readDirSync(directory)].map((entry) => entry.name),
    async [Symbol.asyncDispose]() {
      await peer.stop();
      await pool.close();
      await server.close();
      await store.stop();
      await Deno.remove(directory, { recursive: true });
    },
  };
}

/** Runs a test over a network in memory, with messages as references and once more with cloned ones. */
function peerTest(name: string, test: (network: MemoryTransport) => Promise<void>): void {
  for (const cloned of [false, true]) {
    Deno.test(`${name} (${cloned ? "cloned" : "by reference"})`, async () => {
      cloneMessages(cloned);
      try {
        const network = memoryTransport();
        await test(network);
        assertEquals(network.openCount, 0, "connections are left");
      } finally {
        cloneMessages(false);
      }
    });
  }
}

/** Waits until `condition` holds; each time the actors and connections get their turn. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let turn = 0; turn < 5_000; turn++) {
    if (await condition()) return;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  throw new Error("What was waited for has not happened");
}

async function outgoingOf(node: Node): Promise<number> {
  return (await node.peer.ref.ask("usage", {})).outgoingCount;
}

for (const [name, transportOf] of [["memory", memoryTransport], ["tcp", () => tcp]] as const) {
  Deno.test(`peers exchange small and large values byte for byte, over ${name}`, async () => {
    const transport = transportOf();
    await using alice = await startNode(transport);
    await using bob = await startNode(transport);
    const small = noise(100, 1);
    const [large, larger] = [noise(3_000_001, 2), noise(5_000_000, 3)];
    const key = keyFromWire(["part", 0, 1]);
    await alice.put("small", small);
    await alice.put(key, small, large, new Uint8Array(0), larger);
    assertEquals(alice.files().length, 2);
    const answer = await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["small", "nowhere", key] });
    assert(answer.type === "arrived");
    const header = payloadOf(small).header.byteLength;
    assertEquals(answer.missing, ["nowhere"]);
    assertEquals({ ...answer.nbytes }, { small: 100 + header, [key]: 8_000_101 + header });
    assertEquals(await bob.read("small"), small);
    assertEquals(await bob.read(key), new Uint8Array([...small, ...large, ...larger]));
    assertEquals(bob.files().length, 2, "large frames lie in files of the receiver's store");
    const usage = await bob.store.ref.ask("usage", {});
    assertEquals([usage.keys, usage.fileBytes], [2, 8_000_001]);
    await until(async () => await outgoingOf(alice) === 0);

    // What the sender forgets stays with the receiver, and the other way round.
    await alice.store.ref.ask("free", { keys: ["small", key] });
    await bob.store.ref.ask("free", { keys: [key] });
    assertEquals(await bob.read("small"), small);
    await until(() => alice.files().length === 0 && bob.files().length === 0);
  });
}

peerTest("a fetch of nothing that is there arrives empty", async (network) => {
  await using alice = await startNode(network);
  await using bob = await startNode(network);
  const answer = await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["x", "y"] });
  assertEquals(answer, { type: "arrived", nbytes: {}, missing: ["x", "y"] });
});

peerTest(
  "values are kept under a lease until they are acknowledged, whatever is freed meanwhile",
  async (network) => {
    await using alice = await startNode(network);
    const bytes = noise(4_000_000, 1);
    await alice.put("x", bytes);
    const channel = await connectChannel(network, alice.address);
    channel.send({ op: "get_data", keys: ["x"], who: null });
    await until(() => network.pendingBytes > 0);
    await alice.store.ref.ask("free", { keys: ["x"] });
    assertEquals([alice.files().length, await outgoingOf(alice)], [1, 1]);
    const reply = (await channel.receive())?.message as { data: { x: { payload: Payload } } };
    assertEquals(reply.data.x.payload.frames, [bytes]);
    assertEquals([alice.files().length, await outgoingOf(alice)], [1, 1]);
    channel.send("OK");
    await until(async () => await outgoingOf(alice) === 0 && alice.files().length === 0);
    assertEquals(await alice.store.ref.ask("usage", {}), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
    await channel.close();
  },
);

peerTest("who has no free place is busy, and serves again after an acknowledgement", async (network) => {
  await using alice = await startNode(network, { outgoingMax: 2, host: "10.0.0.1" });
  await using bob = await startNode(network);
  await alice.put("x", noise(10, 1));
  const request = { keys: ["x"], who: null };
  const first = await alice.peer.answerGetData(request, "tcp://10.0.0.2:1");
  const second = await alice.peer.answerGetData(request, "tcp://10.0.0.2:1");
  assertEquals([first.acknowledge, second.acknowledge], [true, true]);
  const third = await alice.peer.answerGetData(request, "tcp://10.0.0.2:1");
  assertEquals([third.reply, third.acknowledge], [{ status: "busy" }, false]);
  assertEquals(await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["x"] }), { type: "busy" });
  third.done();
  first.done();
  first.done();
  // Not acknowledged: the connection that heard "busy" is as good as new.
  assertEquals((await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["x"] })).type, "arrived");
  second.done();
  await until(async () => await outgoingOf(alice) === 0);
  const usage = await alice.peer.ref.ask("usage", {});
  assertEquals([usage.outgoingCountTotal, usage.outgoingBytes], [3, 0]);
});

peerTest("peers on the same host get twice as many places, and one when paused", async (network) => {
  await using alice = await startNode(network, { outgoingMax: 2 });
  const request = { keys: ["x"], who: null };
  const places: { done(): void }[] = [];
  const take = async (connection: string): Promise<boolean> => {
    const answer = await alice.peer.answerGetData(request, connection);
    if (answer.acknowledge) places.push(answer);
    return answer.acknowledge;
  };
  const same = "tcp://127.0.0.1:7777";
  for (const expected of [true, true, true, true, false]) assertEquals(await take(same), expected);
  for (const place of places.splice(0)) place.done();
  await alice.peer.ref.ask("limit", { outgoingMax: 1 });
  for (const expected of [true, false]) assertEquals(await take(same), expected);
  for (const place of places.splice(0)) place.done();
  assertEquals(await take("tcp://10.0.0.2:1"), true);
  await alice.peer.ref.ask("limit", { outgoingMax: 50 });
  assertEquals(await take("tcp://10.0.0.2:1"), true);
});

peerTest("a forgotten acknowledgement frees the place when the connection ends", async (network) => {
  await using alice = await startNode(network);
  await alice.put("x", noise(100_000, 1));
  const channel = await connectChannel(network, alice.address);
  channel.send({ op: "get_data", keys: ["x"], who: null });
  assert((await channel.receive()) !== null);
  assertEquals(await outgoingOf(alice), 1);
  await alice.store.ref.ask("free", { keys: ["x"] });
  assertEquals(alice.files().length, 1, "leased");
  channel.abort();
  await until(async () => await outgoingOf(alice) === 0 && alice.files().length === 0);
});

peerTest("a reader that stops reading frees the place when its connection breaks", async (network) => {
  await using alice = await startNode(network);
  await alice.put("x", noise(5_000_000, 1));
  const channel = await connectChannel(network, alice.address);
  channel.send({ op: "get_data", keys: ["x"], who: null });
  await until(async () => await outgoingOf(alice) === 1 && network.pendingBytes > 0);
  network.drop(alice.address);
  await until(async () => await outgoingOf(alice) === 0);
  channel.abort();
});

peerTest("a request that is no get_data is refused and takes no place", async (network) => {
  await using alice = await startNode(network);
  for (const fields of [{}, { keys: 7 }, { keys: ["x"], who: 7 }, { keys: [null] }]) {
    await assertRejects(() => alice.peer.answerGetData(fields, "tcp://10.0.0.2:1"), Error, "get_data");
  }
  const answer = await alice.peer.answerGetData({ keys: new Set(["x"]) }, "not an address");
  assertEquals(answer.acknowledge, true);
  answer.done();
  await until(async () => await outgoingOf(alice) === 0);
});

peerTest("a peer that is not there is unreachable at once", async (network) => {
  await using bob = await startNode(network);
  const answer = await bob.peer.ref.ask("fetch", { peer: "tcp://127.0.0.1:9", keys: ["x"] });
  assert(answer.type === "unreachable");
  assertMatch(answer.message, /tcp:\/\/127\.0\.0\.1:9/);
  const nonsense = await bob.peer.ref.ask("fetch", { peer: "no address at all", keys: ["x"] });
  assertEquals(nonsense.type, "unreachable");
});

peerTest("a peer that dies amid a transfer is unreachable, and leaves nothing behind", async (network) => {
  await using alice = await startNode(network);
  await using bob = await startNode(network);
  await alice.put("x", noise(200_000, 1), noise(300_000, 2), noise(500_000, 3));
  // The sender cannot go on in the middle of the last frame, when others have come whole, and breaks the connection.
  await Deno.truncate(`${alice.directory}/${alice.files().find((name) => name.startsWith("3-"))}`, 100_000);
  const answer = await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["x"] });
  assert(answer.type === "unreachable", JSON.stringify(answer));
  assertEquals(await bob.store.ref.ask("usage", {}), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  await until(async () => await outgoingOf(alice) === 0);
  assertEquals(bob.files(), []);
});

peerTest("forget ends what is under way with a peer, both ways", async (network) => {
  await using alice = await startNode(network);
  await using bob = await startNode(network);
  await alice.put("x", noise(5_000_000, 1));
  await alice.put("y", noise(10, 1));
  network.fence();
  const fetch = bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["x"] });
  await bob.peer.ref.ask("forget", { peer: "tcp://127.0.0.1:9" });
  assertEquals((await bob.peer.ref.ask("usage", {})).incomingCount, 1);
  await bob.peer.ref.ask("forget", { peer: alice.address });
  assertEquals(await fetch, { type: "unreachable", message: `${alice.address} is gone` });
  network.releaseFence();

  const place = await alice.peer.answerGetData({ keys: ["y"], who: bob.address }, "tcp://127.0.0.1:5");
  assertEquals(await outgoingOf(alice), 1);
  await alice.peer.ref.ask("forget", { peer: bob.address });
  assertEquals(await outgoingOf(alice), 0);
  place.done();
  // It may come back.
  assertEquals((await bob.peer.ref.ask("fetch", { peer: alice.address, keys: ["y"] })).type, "arrived");
});

const HOSTILE: readonly (readonly [string, unknown])[] = [
  ["null", null],
  ["a text", "OK"],
  ["a list", [1, 2]],
  ["an unknown status", { status: "maybe" }],
  ["no status", { data: {} }],
  ["no data", { status: "OK" }],
  ["data that is no map", { status: "OK", data: [1] }],
  ["a value that is not serialized", { status: "OK", data: { x: 7 } }],
  ["an error", { status: "uncaught-error", exception: null, traceback: null, exception_text: "Broken()" }],
];

for (const [name, reply] of HOSTILE) {
  peerTest(`a peer that replies with ${name} is unreachable`, async (network) => {
    const answer: ServerHandler = () => Promise.resolve({ reply });
    await using mallory = await startNode(network, { answer });
    await using bob = await startNode(network);
    const fetched = await bob.peer.ref.ask("fetch", { peer: mallory.address, keys: ["x"] });
    assert(fetched.type === "unreachable", JSON.stringify(fetched));
    assertEquals(fetched.message.length > 0, true);
    // Still in order:
    assertEquals((await bob.peer.ref.ask("usage", {})).incomingCount, 0);
  });
}

peerTest("values that were not asked for, and payloads that are none, are dropped", async (network) => {
  const outside = await Deno.makeTempFile();
  const reply = {
    status: "OK",
    data: {
      x: serialized(payloadOf(noise(10, 1))),
      extra: serialized(payloadOf(noise(200_000, 1))),
      // Written as a map that looks like what a reader makes of a serialized value.
      fake: {
        "$": "not serialized",
        payload: { header: new Uint8Array(1), frames: [{ file: outside, byteLength: 0 }] },
      },
    },
  };
  const honest = { ...reply, data: { x: reply.data.x, extra: reply.data.extra } };
  for (const [sent, type] of [[reply, "unreachable"], [honest, "arrived"]] as const) {
    await using mallory = await startNode(network, {
      answer: () => Promise.resolve({ reply: sent, acknowledge: true }),
    });
    await using bob = await startNode(network);
    const answer = await bob.peer.ref.ask("fetch", { peer: mallory.address, keys: ["x", "fake"] });
    assertEquals(answer.type, type);
    if (answer.type === "arrived") {
      assertEquals([Object.keys(answer.nbytes), answer.missing], [["x"], ["fake"]]);
    }
    assertEquals(await bob.read("extra"), null);
    await until(() => bob.files().length === 0);
  }
  await Deno.remove(outside);
});

Deno.test("a payload that the store refuses counts as missing", async () => {
  const data = {
    good: serialized(payloadOf(noise(10, 1))),
    foreign: serialized({ header: new Uint8Array(1), frames: [{ file: "/etc/hostname", byteLength: 1 }] }),
    nonsense: { $: "serialized", payload: 7 },
    empty: { $: "serialized" },
  };
  const pool: PeerPool = { call: () => Promise.resolve({ status: "OK", data }), forget: () => {} };
  await using bob = await startNode(memoryTransport(), { pool });
  const keys = ["good", "foreign", "nonsense", "empty"];
  const answer = await bob.peer.ref.ask("fetch", { peer: "tcp://127.0.0.1:9", keys });
  assert(answer.type === "arrived", JSON.stringify(answer));
  assertEquals([Object.keys(answer.nbytes), answer.missing], [["good"], ["foreign", "nonsense", "empty"]]);
});

/** A pool of which the test ends every call. */
function heldPool(): PeerPool & {
  readonly calls: { op: string; end(reply: unknown): void; aborted: boolean }[];
} {
  const calls: { op: string; end(reply: unknown): void; aborted: boolean }[] = [];
  return {
    calls,
    call: (_, { op }, { signal } = {}) =>
      new Promise((resolve, reject) => {
        const call = { op, end: resolve, aborted: false };
        signal?.addEventListener("abort", () => {
          call.aborted = true;
          reject(signal.reason);
        });
        calls.push(call);
      }),
    forget: () => {},
  };
}

peerTest(
  "a silent peer is asked whether it is there, and given up when it does not answer",
  async (network) => {
    const clock = new ManualClock(1_000_000);
    const pool = heldPool();
    await using bob = await startNode(network, { pool, clock });
    const ops = (): string[] => pool.calls.map((call) => call.op);
    const fetch = bob.peer.ref.ask("fetch", { peer: "tcp://127.0.0.1:9", keys: ["x"] });
    await until(() => pool.calls.length === 1);
    clock.advance(PROBE_AFTER_MS);
    await until(() => pool.calls.length === 2);
    pool.calls[1]!.end("pong");
    await until(() => clock.timers === 1);
    clock.advance(PROBE_AFTER_MS - 1);
    assertEquals(ops(), ["get_data", "ping"]);
    clock.advance(1);
    await until(() => pool.calls.length === 3);
    assertEquals(ops(), ["get_data", "ping", "ping"]);
    clock.advance(PROBE_ANSWER_MS_MAX);
    const answer = await fetch;
    assert(answer.type === "unreachable");
    assertMatch(answer.message, /has not answered for 30000 ms/);
    assertEquals([pool.calls[0]?.aborted, pool.calls[2]?.aborted, clock.timers], [true, true, 0]);
  },
);

peerTest("stop gives up fetches, ends leases and leaves no timer", async (network) => {
  const clock = new ManualClock();
  const pool = heldPool();
  await using bob = await startNode(network, { pool, clock });
  await bob.put("x", noise(100_000, 1));
  await bob.peer.answerGetData({ keys: ["x"], who: null }, "tcp://10.0.0.1:1");
  const fetch = bob.peer.ref.ask("fetch", { peer: "tcp://127.0.0.1:9", keys: ["x"] });
  await until(() => pool.calls.length === 1);
  await Promise.all([bob.peer.stop(), assertRejects(() => fetch)]);
  assertEquals([pool.calls[0]?.aborted, clock.timers], [true, 0]);
  await bob.store.ref.ask("free", { keys: ["x"] });
  await until(() => bob.files().length === 0);
});

peerTest(
  "figures: totals, and the bandwidth of large transfers since they were last asked for",
  async (network) => {
    await using alice = await startNode(network);
    await using bob = await startNode(network);
    await alice.put("large", noise(2_000_000, 1));
    await alice.put("small", noise(10, 1));
    for (const key of ["large", "small", "large"]) {
      await bob.peer.ref.ask("fetch", { peer: alice.address, keys: [key] });
    }
    await until(async () => await outgoingOf(alice) === 0);
    const usage = await bob.peer.ref.ask("usage", {});
    assertEquals([usage.incomingCount, usage.incomingCountTotal], [0, 3]);
    assertEquals(Object.keys(usage.bandwidth), [alice.address]);
    const [sum, count] = usage.bandwidth[alice.address]!;
    assertEquals([sum > 0, count], [true, 2]);
    assertEquals((await bob.peer.ref.ask("usage", {})).bandwidth, {});
    assertEquals((await alice.peer.ref.ask("usage", {})).outgoingCountTotal, 3);
  },
);

peerTest("many fetches at once in both directions", async (network) => {
  await using alice = await startNode(network);
  await using bob = await startNode(network);
  const count = 40;
  for (let index = 0; index < count; index++) {
    await alice.put(`a${index}`, noise(50_000 + index * 1_000, index));
    await bob.put(`b${index}`, noise(50_000 + index * 1_000, -index));
  }
  await Promise.all(Array.from({ length: count }, async (_, index) => {
    const [toBob, toAlice] = await Promise.all([
      bob.peer.ref.ask("fetch", { peer: alice.address, keys: [`a${index}`] }),
      alice.peer.ref.ask("fetch", { peer: bob.address, keys: [`b${index}`] }),
    ]);
    assertEquals([toBob.type, toAlice.type], ["arrived", "arrived"]);
  }));
  for (let index = 0; index < count; index++) {
    assertEquals(await bob.read(`a${index}`), noise(50_000 + index * 1_000, index));
    assertEquals(await alice.read(`b${index}`), noise(50_000 + index * 1_000, -index));
  }
});

/** The inode behind the only file of a node. */
function inodeOf(node: Node): number | null {
  const [file] = node.files();
  return Deno.statSync(`${node.directory}/${file}`).ino;
}

Deno.test(
  "on one machine a large value is taken over without copying, and outlives its first holder",
  async () => {
    await using near = await startNode(tcp, { link: true });
    await using far = await startNode(tcp);
    const large = noise(300_000, 7);
    await far.put("x", large, Uint8Array.of(1, 2));
    const answer = await near.peer.ref.ask("fetch", { peer: far.address, keys: ["x", "y"] });
    assertEquals(answer.type === "arrived" && answer.missing, ["y"]);
    assertEquals(inodeOf(near), inodeOf(far));
    await far.store.ref.ask("free", { keys: ["x"] });
    await until(() => far.files().length === 0);
    assertEquals(await near.read("x"), new Uint8Array([...large, 1, 2]));
    await until(async () => await outgoingOf(far) === 0);
  },
);

Deno.test("where files cannot be taken over bytes come", async () => {
  await using near = await startNode(tcp, { link: true });
  await using foreign = await startNode(tcp, { prefix: "other-1-" });
  await using remote = await startNode(tcp, { host: "127.0.0.2" });
  for (const far of [foreign, remote]) {
    const large = noise(200_000, 8);
    await far.put("x", large);
    const answer = await near.peer.ref.ask("fetch", { peer: far.address, keys: ["x"] });
    assertEquals(answer.type, "arrived");
    assert(inodeOf(near) !== inodeOf(far));
    assertEquals(await near.read("x"), large);
    await near.store.ref.ask("free", { keys: ["x"] });
    await until(() => near.files().length === 0);
  }
});

peerTest("a peer that names files of others is not believed", async (network) => {
  const secret = await Deno.makeTempFile();
  await Deno.writeFile(secret, noise(100_000, 9));
  const header = encodeMsgpack({ serializer: "pickle", writeable: [], "num-sub-frames": 1 });
  let asked = 0;
  const answer: ServerHandler = () => {
    asked++;
    const data = new Map([["x", { header, linked: [[secret, 100_000]] }]]);
    return Promise.resolve({ reply: { status: "OK", data }, acknowledge: true });
  };
  try {
    await using near = await startNode(network, { link: true });
    await using liar = await startNode(network, { answer });
    const got = await near.peer.ref.ask("fetch", { peer: liar.address, keys: ["x"] });
    assertEquals(got.type, "unreachable");
    assertEquals(asked, 2, "by files first, then by bytes");
    assertEquals(near.files(), []);
  } finally {
    await Deno.remove(secret);
  }
});
