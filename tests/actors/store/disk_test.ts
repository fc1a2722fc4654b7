import { assert, assertEquals, assertThrows } from "@std/assert";
import { ManualClock } from "../../../actors/kernel/mod.ts";
import { DISK_RETRY_MS } from "../../../actors/store/disk.ts";
import { filesIn, type OpenFile, storeAllocator } from "../../../actors/store/mod.ts";
import type { FrameSink } from "../../../comm/comm.ts";
import { isFileFrame } from "../../../protocol/payload.ts";

const bytes = new Uint8Array(300_000).map((_, index) => index % 251);

function writeIn(sink: FrameSink, chunkBytes: number): void {
  // One buffer for all chunks, as a comm reads: what is kept must be copied.
  const chunk = new Uint8Array(chunkBytes);
  for (let at = 0; at < bytes.byteLength; at += chunkBytes) {
    const part = bytes.subarray(at, at + chunkBytes);
    chunk.set(part);
    sink.write(chunk.subarray(0, part.byteLength));
    chunk.fill(0);
  }
}

async function withFolder(test: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir();
  try {
    await test(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function filesOf(directory: string): number {
  return [...Deno.readDirSync(directory)].length;
}

Deno.test("a sink writes a large frame into a private file, however it is cut", () =>
  withFolder(async (directory) => {
    const allocate = storeAllocator(directory, 1000);
    assertEquals(allocate(999), null);
    assertEquals(storeAllocator(null)(1_000_000), null);
    for (const chunkBytes of [300_000, 65_536, 777]) {
      const sink = allocate(bytes.byteLength);
      assert(sink !== null);
      writeIn(sink, chunkBytes);
      const frame = sink.finish();
      assert(isFileFrame(frame));
      assertEquals(frame.byteLength, bytes.byteLength);
      assertEquals(await Deno.readFile(frame.file), bytes);
      assertEquals((await Deno.stat(frame.file)).mode! & 0o777, 0o600);
    }
    assertEquals(filesOf(directory), 3);
  }));

Deno.test("an aborted sink leaves nothing, also after it was finished", () =>
  withFolder((directory) => {
    const allocate = storeAllocator(directory, 1000);
    const broken = allocate(bytes.byteLength);
    broken?.write(bytes.subarray(0, 5000));
    broken?.abort();
    broken?.abort();
    const complete = allocate(bytes.byteLength);
    complete?.write(bytes);
    complete?.finish();
    assertEquals(filesOf(directory), 1);
    complete?.abort();
    assertEquals(filesOf(directory), 0);
    return Promise.resolve();
  }));

Deno.test("a frame that is longer or shorter than announced is a bug of the comm", () =>
  withFolder((directory) => {
    const allocate = storeAllocator(directory, 1000);
    const long = allocate(1000);
    assertThrows(() => long?.write(bytes.subarray(0, 1001)));
    long?.abort();
    const short = allocate(1000);
    short?.write(bytes.subarray(0, 999));
    assertThrows(() => short?.finish());
    short?.abort();
    return Promise.resolve();
  }));

/** A disk that has room for `roomBytes`, and takes at most 1,000 bytes in one write. */
function smallDisk(roomBytes: number): {
  open(file: string): OpenFile;
  remove(file: string): void;
  readonly files: Map<string, number[]>;
  opened: number;
} {
  const files = new Map<string, number[]>();
  const disk = {
    files,
    opened: 0,
    open(file: string): OpenFile {
      if (roomBytes === 0) throw new Error("No space left on device");
      disk.opened++;
      const content: number[] = [];
      files.set(file, content);
      let at = 0;
      return {
        writeSync(chunk) {
          const taken = Math.min(chunk.byteLength, 1000, roomBytes - content.length);
          if (taken <= 0) throw new Error("No space left on device");
          for (const byte of chunk.subarray(0, taken)) content.push(byte);
          at = content.length;
          return taken;
        },
        readSync(into) {
          const part = content.slice(at, at + Math.min(into.byteLength, 700));
          into.set(part);
          at += part.length;
          return part.length === 0 ? null : part.length;
        },
        seekSync: (offset) => at = offset,
        close: () => disk.opened--,
      };
    },
    remove: (file: string) => void files.delete(file),
  };
  return disk;
}

Deno.test("when the disk is full on the way, the frame goes on in memory", () => {
  for (const roomBytes of [1, 12_345, 131_072, 299_999]) {
    for (const chunkBytes of [300_000, 65_536, 777]) {
      const disk = smallDisk(roomBytes);
      const sink = storeAllocator("/folder", 1000, disk)(bytes.byteLength);
      assert(sink !== null);
      writeIn(sink, chunkBytes);
      assertEquals(sink.finish(), bytes, `room ${roomBytes}, chunks of ${chunkBytes}`);
      assertEquals([disk.files.size, disk.opened], [0, 0]);
    }
  }
});

Deno.test("after the disk was full, frames go to memory for a while", () => {
  const clock = new ManualClock(1000);
  const logged: string[] = [];
  const logger = { log: (_: string, message: string) => void logged.push(message) };
  const disk = smallDisk(5000);
  const allocate = storeAllocator("/folder", 1000, { ...disk, clock, logger });
  const sink = allocate(bytes.byteLength);
  sink?.write(bytes);
  assertEquals(allocate(2000), null);
  clock.advance(DISK_RETRY_MS - 1);
  assertEquals(allocate(2000), null);
  clock.advance(1);
  allocate(2000)?.abort();
  assertEquals(logged.length, 1);
  sink?.abort();
  assertEquals(disk.files.size, 0);
});

Deno.test("a disk on which no file can be made means memory", () => {
  assertEquals(storeAllocator("/folder", 1000, smallDisk(0))(2000), null);
  assertEquals(storeAllocator("/no such folder", 1000)(2000), null);
});

Deno.test("an announced length allocates nothing by itself", () => {
  const sink = storeAllocator("/folder", 1000, smallDisk(10))(2 ** 50);
  sink?.write(bytes);
  sink?.abort();
});

Deno.test("filesIn finds the files of a message wherever they are", () => {
  const file = (name: string) => ({
    header: Uint8Array.of(1),
    frames: [Uint8Array.of(2), { file: name, byteLength: 9 }],
  });
  const message = {
    op: "update_data",
    data: Object.assign(Object.create(null), { x: { $: "serialized", payload: file("a") } }),
    more: [new Map([["k", [file("b")]]]), new Set([file("c")]), null, 7, "text", bytes],
  };
  assertEquals(filesIn(message).sort(), ["a", "b", "c"]);
  assertEquals(filesIn(null), []);
  // As much as a stranger likes to send, as deep as it likes.
  let deep: unknown = file("d");
  for (let depth = 0; depth < 100_000; depth++) deep = [deep];
  assertEquals(filesIn([deep, new Array(1_000_000).fill(file("e"))]).length, 1_000_001);
});
