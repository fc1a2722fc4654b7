/** Spilling: the machine against a model, the actor with real files and with a disk that takes nothing. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { ManualClock } from "../../../actors/kernel/mod.ts";
import { SPILL_RETRY_MS } from "../../../actors/store/actor.ts";
import { spillWriter } from "../../../actors/store/disk.ts";
import { StoreMachine } from "../../../actors/store/machine.ts";
import { type SpillOptions, startStore, storeAllocator } from "../../../actors/store/mod.ts";
import type { Logger } from "../../../base/log.ts";
import { SerializationError } from "../../../protocol/errors.ts";
import { type FileFrame, type Frame, isFileFrame, type Payload } from "../../../protocol/payload.ts";

const header = Uint8Array.of(0x80);
const payload = (...frames: Frame[]): Payload => ({ header, frames });
const file = (name: string, byteLength = 10_000): FileFrame => ({ file: name, byteLength });
const machine = (targetBytes = Infinity) =>
  new StoreMachine({ fileBytesMin: 100, roomBytes: Infinity, targetBytes });

Deno.test("what was used least recently is spilled first, down to the target", () => {
  const store = machine(25_000);
  for (const name of ["a", "b"]) store.commit(name, payload(file(`/r/${name}`)));
  assertEquals(store.beginSpill(), null);
  store.release(store.view(["a"]).lease);
  store.commit("c", payload(file("/r/c")));
  assertEquals(store.beginSpill(), { key: "b", frames: [file("/r/b")] });
  assertEquals(store.beginSpill(), null, "one at a time");
  assertEquals(store.endSpill([file("/d/b")]), ["/r/b"]);
  assertEquals(store.beginSpill(), null);
  assertEquals(store.usage(), { keys: 3, bytes: 30_003, fileBytes: 20_000, diskBytes: 10_000 });
  const { found } = store.view(["b"]);
  assertEquals([found[0]?.id, found[0]?.spilled, found[0]?.payload.frames], [2, true, [file("/d/b")]]);
  store.validate();
});

Deno.test("small frames stay; large ones in memory and in files go, each in its place", () => {
  const store = machine(0);
  const [small, large] = [new Uint8Array(10), new Uint8Array(5_000)];
  store.commit("tiny", payload(small));
  store.commit("x", payload(small, large, file("/r/1"), small));
  assertEquals(store.beginSpill(), { key: "x", frames: [large, file("/r/1")] });
  assertEquals(store.endSpill([file("/d/1", 5_000), file("/d/2")]), ["/r/1"]);
  assertEquals(store.view(["x"]).found[0]?.payload.frames, [small, file("/d/1", 5_000), file("/d/2"), small]);
  assertEquals(store.beginSpill(), null, "nothing else can be");
  assertEquals(store.memoryBytes, 32);
  store.validate();
});

Deno.test("what is read is not spilled; what is read while it is spilled stays to the end of the lease", () => {
  const store = machine(0);
  store.commit("x", payload(file("/r/1")));
  const { lease } = store.view(["x"]);
  assertEquals(store.beginSpill(), null);
  store.release(lease);
  assertEquals(store.beginSpill()?.key, "x");
  const during = store.view(["x"]);
  assertEquals(during.found[0]?.payload.frames, [file("/r/1")]);
  assertEquals(store.endSpill([file("/d/1")]), []);
  assertEquals(store.usage(), { keys: 1, bytes: 20_002, fileBytes: 10_000, diskBytes: 10_000 });
  assertEquals(store.release(during.lease), ["/r/1"]);
  store.validate();
});

Deno.test("a key that is freed or committed again while it is spilled leaves the new files unneeded", () => {
  const store = machine(0);
  store.commit("x", payload(file("/r/1")));
  store.beginSpill();
  assertEquals(store.free(["x"]).unneeded, ["/r/1"]);
  assertEquals(store.endSpill([file("/d/1")]), ["/d/1"]);
  store.commit("y", payload(file("/r/2")));
  store.beginSpill();
  assertEquals(store.commit("y", payload(file("/r/3"))).unneeded, ["/r/2"]);
  assertEquals(store.endSpill([file("/d/2")]), ["/d/2"]);
  assertEquals(store.beginSpill()?.frames, [file("/r/3")]);
  store.validate();
});

Deno.test("what could not be spilled stays, last in the queue; more is wanted until it is reached or not wanted", () => {
  const store = machine();
  for (const name of ["a", "b"]) store.commit(name, payload(file(`/r/${name}`)));
  assertEquals(store.beginSpill(), null);
  store.wantBytes(15_000);
  assertEquals(store.beginSpill()?.key, "a");
  assertEquals(store.endSpill(null), []);
  assertEquals(store.beginSpill()?.key, "b");
  store.endSpill([file("/d/b")]);
  assertEquals(store.beginSpill(), null);
  store.commit("c", payload(file("/r/c")));
  assertEquals(store.beginSpill(), null, "it was reached before");
  store.wantBytes(0);
  store.wantBytes(null);
  assertEquals(store.beginSpill(), null);
  store.validate();
});

Deno.test("files of a folder on disk are no memory", () => {
  const store = new StoreMachine({
    fileBytesMin: 100,
    roomBytes: Infinity,
    ramBacked: false,
    targetBytes: 0,
  });
  store.commit("x", payload(file("/d/1")));
  assertEquals(store.usage(), { keys: 1, bytes: 10_001, fileBytes: 0, diskBytes: 10_000 });
  assertEquals(store.beginSpill(), null);
  assertEquals(store.free(["x"]).unneeded, ["/d/1"]);
  store.validate();
});

Deno.test("whatever happens while payloads are spilled, every key reads what was put there, and no file is lost", () => {
  for (let seed = 1; seed <= 100; seed++) {
    let random = seed;
    const below = (n: number) => {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
      return Math.floor(random / 2 ** 32 * n);
    };
    const store = machine(30_000);
    /** Files that exist, with what was written to them. */
    const disk = new Map<string, string>();
    const current = new Map<string, string>();
    const leases: { readonly lease: number; readonly read: readonly (readonly [FileFrame, string])[] }[] = [];
    let [made, spill] = [0, null as ReturnType<StoreMachine["beginSpill"]>];
    const remove = (files: readonly string[]) => {
      for (const name of files) assert(disk.delete(name), `seed ${seed}: ${name} is removed twice`);
    };
    const read = (frames: readonly Frame[], content: string) => {
      const found = frames.filter(isFileFrame);
      for (const frame of found) assertEquals(disk.get(frame.file), content, `seed ${seed}: ${frame.file}`);
      return found.map((frame) => [frame, content] as const);
    };
    for (let step = 0; step < 300; step++) {
      const key = `k${below(6)}`;
      switch (below(7)) {
        case 0:
        case 1: {
          const [name, content] = [`/r/${++made}`, `content ${made}`];
          disk.set(name, content);
          current.set(key, content);
          remove(store.commit(key, payload(file(name))).unneeded);
          break;
        }
        case 2: {
          const { lease, found } = store.view([key]);
          assertEquals(found.length, current.has(key) ? 1 : 0);
          leases.push({
            lease,
            read: found.flatMap(({ payload }) => read(payload.frames, current.get(key)!)),
          });
          break;
        }
        case 3: {
          const [ended] = leases.splice(below(leases.length), 1);
          if (ended === undefined) break;
          for (const [frame, content] of ended.read) read([frame], content);
          remove(store.release(ended.lease));
          break;
        }
        case 4:
          current.delete(key);
          remove(store.free([key]).unneeded);
          break;
        case 5:
          if (below(4) === 0) store.wantBytes(below(2) === 0 ? null : below(30_000));
          spill ??= store.beginSpill();
          break;
        default: {
          if (spill === null) break;
          const written = below(4) === 0 ? null : spill.frames.map((frame) => {
            const name = `/d/${++made}`;
            // It may be gone: then it was read before it went, and nobody wants it.
            disk.set(name, isFileFrame(frame) ? disk.get(frame.file) ?? "gone" : "");
            return file(name);
          });
          remove(store.endSpill(written));
          spill = null;
        }
      }
      store.validate();
    }
    if (spill !== null) store.endSpill(null);
    while (leases.length > 0) remove(store.release(leases.pop()!.lease));
    remove(store.free([...current.keys()]).unneeded);
    assertEquals([...disk.keys()], [], `seed ${seed}`);
    assertEquals(store.usage(), { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 });
  }
});

/** A store with two folders, and lines that it logged. */
async function withStore(
  spill: Partial<SpillOptions>,
  test: (context: {
    readonly store: ReturnType<typeof startStore>;
    readonly commit: (key: string, fill: number) => Promise<unknown>;
    readonly read: (key: string) => Promise<{ readonly spilled: boolean; readonly bytes: Uint8Array }>;
    readonly spillFolder: string;
    readonly clock: ManualClock;
    readonly lines: string[];
  }) => Promise<void>,
): Promise<void> {
  const [directory, spillFolder] = [await Deno.makeTempDir(), await Deno.makeTempDir()];
  const [clock, lines]: [ManualClock, string[]] = [new ManualClock(), []];
  const logger: Logger = { log: (level, message) => void lines.push(`${level} ${message}`) };
  const store = startStore({
    directory,
    fileBytesMin: 100,
    clock,
    logger,
    spill: { directory: spillFolder, targetBytes: 25_000, limitBytes: 45_000, ...spill },
  });
  try {
    await test({
      store,
      spillFolder,
      clock,
      lines,
      commit(key, fill) {
        const sink = storeAllocator(directory, 100)(10_000)!;
        sink.write(new Uint8Array(10_000).fill(fill));
        return store.ref.ask("commit", { key, payload: payload(sink.finish()) });
      },
      async read(key) {
        const { lease, found } = await store.ref.ask("view", { keys: [key] });
        const [frame] = found[0]!.payload.frames;
        const bytes = isFileFrame(frame!) ? await Deno.readFile(frame.file) : frame!;
        await store.ref.ask("release", { lease });
        return { spilled: found[0]!.spilled, bytes };
      },
    });
    await store.stop();
    assertEquals([...Deno.readDirSync(directory), ...Deno.readDirSync(spillFolder)], []);
  } finally {
    await store.stop();
    for (const folder of [directory, spillFolder]) await Deno.remove(folder, { recursive: true });
  }
}

/** Until the figures are so. */
async function until(store: ReturnType<typeof startStore>, diskBytes: number): Promise<void> {
  while ((await store.ref.ask("usage", {})).diskBytes !== diskBytes) {
    await new Promise((done) => setTimeout(done, 5));
  }
}

Deno.test("an actor spills what exceeds the target, reads it in place, and leaves no file", async () => {
  await withStore({}, async ({ store, commit, read, spillFolder }) => {
    for (let i = 0; i < 5; i++) await commit(`k${i}`, i);
    await until(store, 30_000);
    for (let i = 0; i < 5; i++) {
      assertEquals(await read(`k${i}`), { spilled: i < 3, bytes: new Uint8Array(10_000).fill(i) });
    }
    const files = [...Deno.readDirSync(spillFolder)];
    assertEquals(files.map(({ name }) => /^\d+-[0-9a-f]{32}$/.test(name)), [true, true, true]);
    await store.ref.ask("free", { keys: ["k0", "k1", "k2"] });
    while ([...Deno.readDirSync(spillFolder)].length > 0) await new Promise((done) => setTimeout(done, 5));
    await store.ref.ask("spill", { memoryBytes: 15_000 });
    await until(store, 10_000);
  });
});

Deno.test("a disk that is full keeps values in memory, is told of once, and tried again", async () => {
  let full = true;
  const writes: number[] = [];
  let folder = "";
  const write = (frames: readonly Frame[]) => {
    writes.push(frames.length);
    if (full) return Promise.reject(new Error("No space left on device (os error 28)"));
    return spillWriter(folder)(frames);
  };
  await withStore({ write }, async ({ store, commit, read, spillFolder, clock, lines }) => {
    folder = spillFolder;
    for (let i = 0; i < 4; i++) await commit(`k${i}`, i);
    while (lines.length === 0) await new Promise((done) => setTimeout(done, 5));
    assertEquals(lines, ["warning Cannot spill to disk, values stay in memory"]);
    const error = await assertRejects(() => commit("k4", 4), SerializationError);
    assert(
      /do not fit into the memory limit of .*No space left on device/.test(error.message),
      error.message,
    );
    for (let i = 0; i < 4; i++) assertEquals((await read(`k${i}`)).bytes[0], i);
    const tries = writes.length;
    clock.advance(SPILL_RETRY_MS);
    while (writes.length === tries || clock.timers === 0) await new Promise((done) => setTimeout(done, 5));
    assertEquals(lines.length, 1);
    full = false;
    clock.advance(SPILL_RETRY_MS);
    await until(store, 20_000);
    await commit("k4", 4);
    await until(store, 30_000);
    for (let i = 0; i < 5; i++) assertEquals((await read(`k${i}`)).bytes[0], i);
  });
});

Deno.test("of frames that cannot all be written nothing is left", async () => {
  const folder = await Deno.makeTempDir();
  const write = spillWriter(folder);
  await assertRejects(() => write([new Uint8Array(10), file(`${folder}/missing`)]), Deno.errors.NotFound);
  assertEquals([...Deno.readDirSync(folder)], []);
  const [frame] = await write([Uint8Array.of(1, 2)]);
  await assertRejects(() => write([file(frame!.file, 3)]), Error, "should have 3 bytes, and has 2");
  assertEquals([...Deno.readDirSync(folder)].length, 1);
  await Deno.remove(folder, { recursive: true });
});
