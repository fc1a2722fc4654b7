import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { ActorStoppedError, cloneMessages } from "../../../actors/kernel/mod.ts";
import { startStore, storeAllocator, type StoreOptions } from "../../../actors/store/mod.ts";
import { SerializationError } from "../../../protocol/errors.ts";
import type { Frame, Payload } from "../../../protocol/payload.ts";

/** Runs a test with a folder of its own, once with messages as references and once with cloned ones. */
function storeTest(name: string, test: (directory: string) => Promise<void>): void {
  for (const cloned of [false, true]) {
    Deno.test(`${name} (${cloned ? "cloned" : "by reference"})`, async () => {
      const directory = await Deno.makeTempDir();
      cloneMessages(cloned);
      try {
        await test(directory);
      } finally {
        cloneMessages(false);
        await Deno.remove(directory, { recursive: true });
      }
    });
  }
}

function start(directory: string | null, options: Partial<StoreOptions> = {}): ReturnType<typeof startStore> {
  return startStore({ directory, fileBytesMin: 100, ...options });
}

function payload(...frames: Frame[]): Payload {
  return { header: Uint8Array.of(0x80), frames };
}

function filesOf(directory: string): string[] {
  return [...Deno.readDirSync(directory)].map((entry) => `${directory}/${entry.name}`).sort();
}

/** A frame as it comes in: through the allocator of a comm. */
function received(directory: string, bytes: Uint8Array): Frame {
  const sink = storeAllocator(directory, 100)(bytes.byteLength);
  if (sink === null) return bytes;
  sink.write(bytes);
  return sink.finish();
}

storeTest("a store without a folder keeps all in memory", async () => {
  const store = start(null);
  assertEquals(await store.ref.ask("allocate", { byteLength: 1_000_000 }), null);
  const bytes = Uint8Array.of(1, 2, 3);
  assertEquals(await store.ref.ask("commit", { key: "x", payload: payload(bytes) }), { id: 1, nbytes: 4 });
  const { lease, found } = await store.ref.ask("view", { keys: ["x", "y"] });
  assertEquals(found, [{ key: "x", id: 1, nbytes: 4, spilled: false, payload: payload(bytes) }]);
  await store.ref.ask("release", { lease });
  assertEquals(await store.ref.ask("free", { keys: ["x", "y"] }), { ids: [1] });
  assertEquals(await store.ref.ask("usage", {}), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  await store.stop();
  await assertRejects(() => store.ref.ask("usage", {}), ActorStoppedError);
});

storeTest("files live as long as somebody reads them, and go then", async (directory) => {
  const store = start(directory);
  const bytes = new Uint8Array(1000).map((_, index) => index % 251);
  const frame = received(directory, bytes);
  await store.ref.ask("commit", { key: "x", payload: payload(frame) });
  const files = filesOf(directory);
  assertEquals(files.length, 1);
  assertEquals(await store.ref.ask("usage", {}), { keys: 1, bytes: 1001, fileBytes: 1000, diskBytes: 0 });
  const { lease, found } = await store.ref.ask("view", { keys: ["x"] });
  assertEquals(found[0]?.payload.frames, [{ file: files[0]!, byteLength: 1000 }]);
  await store.ref.ask("free", { keys: ["x"] });
  assertEquals(await Deno.readFile(files[0]!), bytes);
  await store.ref.ask("release", { lease });
  await store.stop();
  assertEquals(filesOf(directory), []);
});

storeTest("stop removes committed, leased and allocated files", async (directory) => {
  const store = start(directory);
  for (const key of ["x", "y"]) {
    await store.ref.ask("commit", { key, payload: payload(received(directory, new Uint8Array(200))) });
  }
  await store.ref.ask("view", { keys: ["x"] });
  store.ref.tell("free", { keys: ["x"] });
  const allocation = await store.ref.ask("allocate", { byteLength: 300 });
  await Deno.writeFile(allocation!.file, new Uint8Array(300));
  await store.ref.ask("allocate", { byteLength: 300 });
  assertEquals(filesOf(directory).length, 3);
  await Promise.all([store.stop(), store.stopped]);
  assertEquals(filesOf(directory), []);
});

storeTest(
  "an allocation is a fresh file, is committed or discarded, and counts for the room",
  async (directory) => {
    const store = start(directory, { fileRoomBytes: 1000 });
    assertEquals(await store.ref.ask("allocate", { byteLength: 99 }), null);
    assertEquals(await store.ref.ask("allocate", { byteLength: 1001 }), null);
    const a = (await store.ref.ask("allocate", { byteLength: 600 }))!.file;
    assertEquals(await store.ref.ask("allocate", { byteLength: 600 }), null);
    const b = (await store.ref.ask("allocate", { byteLength: 400 }))!.file;
    assertEquals(a === b, false);
    assertMatch(a.slice(directory.length), /^\/[0-9]+-[0-9a-f]{32}$/);
    await Deno.writeFile(a, new Uint8Array(600));
    await Deno.writeFile(b, new Uint8Array(400));
    const committed = { file: a, byteLength: 600 };
    await store.ref.ask("commit", { key: "x", payload: payload(committed) });
    await store.ref.ask("discard", { file: b });
    await store.ref.ask("discard", { file: a });
    await store.ref.ask("discard", { file: "/etc/hostname" });
    assertEquals(await store.ref.ask("allocate", { byteLength: 401 }), null);
    assertEquals(await store.ref.ask("usage", {}), { keys: 1, bytes: 601, fileBytes: 600, diskBytes: 0 });
    assertEquals((await Deno.stat(a)).size, 600);
    await store.stop();
    assertEquals(filesOf(directory), []);
  },
);

storeTest("a payload that names a foreign, missing or wrong file is refused", async (directory) => {
  const store = start(directory);
  const outside = await Deno.makeTempFile();
  await Deno.writeFile(outside, new Uint8Array(200));
  const refused = async (frame: Frame, text: string): Promise<void> => {
    const commit = store.ref.ask("commit", { key: "x", payload: payload(Uint8Array.of(1), frame) });
    await assertRejects(() => commit, SerializationError, text);
  };
  await refused({ file: outside, byteLength: 200 }, `the file "${outside}" does not lie in the folder`);
  await refused({ file: `${directory}/../x`, byteLength: 200 }, "does not lie in the folder");
  await refused({ file: `${directory}/..`, byteLength: 200 }, "does not lie in the folder");
  await refused({ file: `${directory}-other/x`, byteLength: 200 }, "does not lie in the folder");
  await refused({ file: `${directory}/missing`, byteLength: 200 }, "cannot be read");
  await Deno.mkdir(`${directory}/folder`);
  await refused({ file: `${directory}/folder`, byteLength: 200 }, "is not a file");
  await Deno.symlink(outside, `${directory}/link`);
  await refused({ file: `${directory}/link`, byteLength: 200 }, "is not a file");
  for (const frame of [7, null, "x", {}, { file: 7, byteLength: 7 }, { file: "x" }]) {
    await refused(frame as unknown as Frame, "neither bytes nor a file");
  }
  for (
    const nonsense of [undefined, null, 7, {}, { header: "x", frames: [] }, {
      header: new Uint8Array(1),
      frames: 7,
    }]
  ) {
    const ask = { key: "x", payload: nonsense as unknown as Payload };
    await assertRejects(() => store.ref.ask("commit", ask), SerializationError, "it is not a payload");
  }
  const short = received(directory, new Uint8Array(200)) as { file: string };
  const good = received(directory, new Uint8Array(200));
  const commit = store.ref.ask("commit", {
    key: "y",
    payload: payload(good, { file: outside, byteLength: 200 }),
  });
  await assertRejects(() => commit, SerializationError);
  await refused({ file: short.file, byteLength: 300 }, "should have 300 bytes, and has 200");
  assertEquals(await store.ref.ask("usage", {}), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  await store.stop();
  assertEquals(filesOf(directory), [], "the files of refused payloads are removed");
  assertEquals((await Deno.stat(outside)).size, 200);
  await Deno.remove(outside);
});

storeTest("a small frame does not keep a large buffer alive", async () => {
  const store = start(null);
  const buffer = new Uint8Array(100_000).map((_, index) => index % 251);
  const frames = [buffer.subarray(10, 20), buffer.subarray(500, 99_000)];
  await store.ref.ask("commit", { key: "x", payload: { header: buffer.subarray(0, 5), frames } });
  const { found } = await store.ref.ask("view", { keys: ["x"] });
  assertEquals(found[0]?.payload, {
    header: buffer.slice(0, 5),
    frames: frames.map((frame) => frame.slice()),
  });
  assertEquals(found[0]?.payload.header.buffer.byteLength, 5);
  assertEquals((found[0]?.payload.frames[0] as Uint8Array).buffer.byteLength, 10);
  await store.stop();
});

Deno.test("messages pass payloads by reference: nothing is copied", async () => {
  const store = start(null);
  const frame = new Uint8Array(10);
  await store.ref.ask("commit", { key: "x", payload: payload(frame) });
  const { found } = await store.ref.ask("view", { keys: ["x"] });
  assertEquals(found[0]?.payload.frames[0] === frame, true);
  await store.stop();
});
