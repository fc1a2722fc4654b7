import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import { decodeValue, encodeValue } from "../../../protocol/value.ts";
import { callOf, inputOf, sha256, sourceCall, TestPool } from "./specs.ts";

declare const current: () => {
  key: string;
  signal: AbortSignal;
  secede(): void;
};

const spin = () => {
  for (;;);
};
const add = (a: number, b: number) => a + b;
const nap = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

// --- Running ---

Deno.test("a pool runs calls and leaves nothing behind", async () => {
  await using test = new TestPool({ slots: 2 });
  await test.pool.ready();
  assertMatch(
    test.pool.description,
    /^2 executor processes, task permissions: read, write, net, env, sys, import; /,
  );
  assertEquals(await test.value(sourceCall("a", add, [1, 2])), 3);
  assertEquals(
    await test.value(sourceCall("b", async (x: string) => (await Promise.resolve(), x + "!"), ["hi"])),
    "hi!",
  );
  assertEquals(test.story(), ["started a", "ended a", "started b", "ended b"]);
  await test.pool.close();
  await test.pool.close();
  assertEquals(test.files(), []);
});

Deno.test("stray rejections and errors are logged, and harm nobody", async () => {
  await using test = new TestPool();
  await test.value(sourceCall("stray", () => {
    Promise.reject(new Error("stray rejection"));
    setTimeout(() => {
      throw new Error("stray error");
    });
  }));
  await test.until(() => test.lines.some((line) => line.includes("stray rejection")));
  await test.until(() => test.lines.some((line) => line.includes("stray error")));
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
});

Deno.test("megabytes of output do not stop a task", async () => {
  await using test = new TestPool();
  const print = () => {
    const line = "x".repeat(1_000);
    // deno-lint-ignore no-console
    for (let i = 0; i < 10_000; i++) console.log(line);
    return "printed";
  };
  assertEquals(await test.value(sourceCall("print", print)), "printed");
  await test.pool.close();
  const lines = test.lines.filter((line) => line.includes("xxx")).length;
  assert(lines >= 1_000 && lines < 10_000, `${lines}`);
  assert(test.lines.some((line) => /… \d+ more lines/.test(line)));
});

// --- Code ---

// --- Values ---

Deno.test("large inputs are sent once and kept, large results come as files", async () => {
  await using test = new TestPool({ inputCacheBytesMax: 20_000_000 });
  await test.pool.ready();
  const big = inputOf("big", new Float64Array(1_000_000).fill(0.5));
  const sum = (array: Float64Array) => array.reduce((a, b) => a + b, 0);
  assertEquals(await test.value(sourceCall("a", sum, [{ $dependency: 0 }], [big])), 500_000);
  // The second time its bytes are not there any more: they must have been kept.
  const gone = { ...big, payload: { ...big.payload, frames: [{ file: "/nowhere", byteLength: 8_000_000 }] } };
  assertEquals(await test.value(sourceCall("b", sum, [{ $dependency: 0 }], [gone])), 500_000);
  test.pool.forget([big.id]);
  assertStringIncludes(
    (await test.failure(sourceCall("c", sum, [{ $dependency: 0 }], [{ ...gone, id: gone.id }])))
      .exceptionText,
    "/nowhere",
  );
  // A file of the store; the least recently used one goes when there is no room for three.
  const file = `${test.directory}/frame`;
  const payload = encodeValue(new Float64Array(1_000_000).fill(2));
  await Deno.writeFile(file, payload.frames[0] as Uint8Array);
  const stored = inputOf("stored", null, {
    header: payload.header,
    frames: [{ file, byteLength: 8_000_000 }],
  });
  assertEquals(await test.value(sourceCall("d", sum, [{ $dependency: 0 }], [stored])), 2_000_000);
  await Deno.remove(file);
  assertEquals(await test.value(sourceCall("e", sum, [{ $dependency: 0 }], [stored])), 2_000_000);
  for (const key of ["f", "g", "h"]) {
    const other = inputOf(key, new Float64Array(1_000_000).fill(1));
    assertEquals(await test.value(sourceCall(key, sum, [{ $dependency: 0 }], [other])), 1_000_000);
  }
  assertMatch(
    (await test.failure(sourceCall("i", sum, [{ $dependency: 0 }], [stored]))).exceptionText,
    /frame/,
  );

  // Plain data takes several times its bytes once it is read, so of 4 MB there is no room for it.
  const list = inputOf("list", Array.from({ length: 2_000_000 }, () => 1));
  const count = (values: number[]) => values.length;
  assertEquals(await test.value(sourceCall("j", count, [{ $dependency: 0 }], [list])), 2_000_000);
  const lost = {
    ...list,
    payload: { ...list.payload, frames: [{ file: "/nowhere", byteLength: 4_000_000 }] },
  };
  assertStringIncludes(
    (await test.failure(sourceCall("k", count, [{ $dependency: 0 }], [lost]))).exceptionText,
    "/nowhere",
  );

  test.pool.place(sourceCall("result", (n: number) => new Uint8Array(n).fill(7), [1_000_000]));
  const outcome = await test.ended("result");
  assert(outcome.type === "succeeded");
  const [frame] = outcome.payload.frames;
  assert(frame !== undefined && !(frame instanceof Uint8Array) && frame.file.startsWith(test.directory));
  assertEquals(test.valueOf(outcome), new Uint8Array(1_000_000).fill(7));
  await test.pool.close();
  assertEquals(test.files(), []);
});

Deno.test("an input of 8 MB that 500 calls use is read once by each executor", async () => {
  await using test = new TestPool({ slots: 2 });
  await test.pool.ready();
  const file = `${test.directory}/frame`;
  const payload = encodeValue(new Float64Array(1_000_000).fill(2));
  await Deno.writeFile(file, payload.frames[0] as Uint8Array);
  const stored = inputOf("in a file", null, {
    header: payload.header,
    frames: [{ file, byteLength: 8_000_000 }],
  });
  const inMemory = inputOf("in memory", new Float64Array(1_000_000).fill(3));
  const before = bytesMoved("self").written;
  const pids = new Set<number>();
  const use = (a: Float64Array, b: Float64Array) => [Deno.pid, a[0]! + b[999_999]!];
  for (let i = 0; i < 500; i++) {
    test.pool.place(
      sourceCall(`k${i}`, use, [{ $dependency: 0 }, { $dependency: 1 }], [stored, inMemory]),
    );
  }
  for (let i = 0; i < 500; i++) {
    const [pid, sum] = test.valueOf(await test.ended(`k${i}`)) as number[];
    assertEquals(sum, 5);
    pids.add(pid!);
  }
  const written = bytesMoved("self").written - before;
  const read = [...pids].map((pid) => bytesMoved(pid).read);
  // deno-lint-ignore no-console
  console.log(`written by the worker: ${written} bytes; read by each executor: ${read.join(", ")} bytes`);
  // Once into a file for each time that no call used it, and once out of it for each executor, beside its own start.
  assert(written < 4 * 8_000_000, `${written}`);
  for (const bytes of read) assert(bytes < 5 * 8_000_000, `${bytes}`);
});

Deno.test("without room in the folder large values go over the link", async () => {
  await using test = new TestPool();
  assertEquals(await test.value(sourceCall("a", add, [1, 2])), 3);
  await Deno.remove(test.directory, { recursive: true });
  const big = inputOf("big", new Uint8Array(3_000_000).fill(9));
  test.pool.place(
    sourceCall("b", (array: Uint8Array) => array.map((x) => x + 1), [{ $dependency: 0 }], [big]),
  );
  const outcome = await test.ended("b");
  assert(outcome.type === "succeeded");
  const [frame] = outcome.payload.frames;
  assert(frame instanceof Uint8Array);
  assertEquals(
    decodeValue({ header: outcome.payload.header, frames: [frame] }),
    new Uint8Array(3_000_000).fill(10),
  );
  await Deno.mkdir(test.directory);
});

// --- Taking back, moving, stopping ---

Deno.test("a waiting call is withdrawn while its executor is blocked", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  test.pool.place(sourceCall("block", () => {
    const end = Date.now() + 300;
    while (Date.now() < end);
    return "done";
  }));
  await test.started("block");
  const big = inputOf("big", new Uint8Array(200_000).fill(1));
  test.pool.place(sourceCall("wait", (x: Uint8Array) => x.length, [{ $dependency: 0 }], [big]));
  test.pool.withdraw("wait", 1);
  test.pool.place(sourceCall("next", (x: Uint8Array) => x.length, [{ $dependency: 0 }], [big]));
  await test.until(() => test.story().includes("withdrawn wait"));
  assertEquals(test.story("block"), ["started block"]);
  assertEquals(test.valueOf(await test.ended("next")), 200_000);
  assertEquals(test.story(), [
    "started block",
    "withdrawn wait",
    "ended block",
    "started next",
    "ended next",
  ]);
  // Unknown ones are withdrawn, running ones are not.
  test.pool.withdraw("nothing", 1);
  await test.until(() => test.story().includes("withdrawn nothing"));
  test.pool.place(sourceCall("late", () => new Promise((resolve) => setTimeout(() => resolve("late"), 50))));
  await test.started("late");
  test.pool.withdraw("late", 1);
  await test.ended("late");
  assertEquals(test.story("late"), ["started late", "ended late"]);
});

Deno.test("each call is either withdrawn or runs, whatever the timing", async () => {
  await using test = new TestPool({ slots: 2 });
  await test.pool.ready();
  const keys: string[] = [];
  for (let i = 0; i < 400; i++) {
    const key = `k${i}`;
    keys.push(key);
    test.pool.place(sourceCall(key, add, [i, 1]));
    if (i % 3 === 0) await nap(0);
    // What has ended is unknown to the pool, and unknown calls are told as withdrawn.
    if (i % 2 === 0 && !test.story().includes(`ended ${key}`)) test.pool.withdraw(key, 1);
  }
  await test.until(() => keys.every((key) => /ended|withdrawn/.test(test.story(key).at(-1) ?? "")));
  for (const key of keys) {
    const story = test.story(key).join(", ");
    assert(story === `withdrawn ${key}` || story === `started ${key}, ended ${key}`, story);
  }
});

Deno.test("a waiting call moves to a slot that becomes idle", async () => {
  await using test = new TestPool({ slots: 2 });
  await test.pool.ready();
  test.pool.place(sourceCall("long", () => {
    const end = Date.now() + 1_500;
    while (Date.now() < end);
  }));
  test.pool.place(sourceCall("short", () => {
    const end = Date.now() + 100;
    while (Date.now() < end);
  }));
  await test.started("long");
  await test.started("short");
  for (const key of ["w1", "w2"]) test.pool.place(sourceCall(key, () => key.length.toString(), []));
  await test.ended("w1");
  await test.ended("w2");
  assertEquals(test.story("long"), ["started long"]);
});

Deno.test("an aborted call that never returns is ended with its process, and the slot works again", async () => {
  await using test = new TestPool({ graceMs: 100 });
  await test.pool.ready();
  test.pool.place(sourceCall("spin", spin));
  await test.started("spin");
  test.pool.place(sourceCall("next", add, [1, 2]));
  test.pool.abort("spin", 1, "nobody wants it");
  assertEquals(test.valueOf(await test.ended("next")), 3);
  const outcome = await test.ended("spin");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "nobody wants it");
});

// --- Ends of executors ---

Deno.test("Deno.exit ends only its executor; what waited there runs elsewhere", async () => {
  await using test = new TestPool();
  test.pool.place(sourceCall("exit", () => {
    // deno-lint-ignore no-console
    console.error("last words");
    Deno.exit(3);
  }));
  test.pool.place(sourceCall("next", add, [1, 2]));
  const outcome = await test.ended("exit");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "Deno.exit(3) was called");
  assertEquals(test.valueOf(await test.ended("next")), 3);
  assertEquals(test.story("next"), ["started next", "ended next"]);
});

Deno.test("an executor that is killed is told by its signal", async () => {
  await using test = new TestPool();
  test.pool.place(sourceCall("pid", () => Deno.pid));
  const pid = test.valueOf(await test.ended("pid")) as number;
  test.pool.place(sourceCall("spin", spin));
  await test.started("spin");
  test.pool.place(sourceCall("next", add, [1, 2]));
  Deno.kill(pid, "SIGKILL");
  const outcome = await test.ended("spin");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "signal 9 (SIGKILL)");
  assertEquals(test.valueOf(await test.ended("next")), 3);
});

Deno.test("an executor that ran out of memory says so", async () => {
  await using test = new TestPool({ v8Flags: ["--max-old-space-size=48"] });
  test.pool.place(sourceCall("oom", () => {
    const all: unknown[] = [];
    for (;;) all.push(new Array(1_000).fill(Math.random()));
  }));
  const outcome = await test.ended("oom");
  assert(outcome.type === "failed");
  assertMatch(outcome.exceptionText, /ran out of memory \(V8 heap limit/);
  assertMatch(outcome.exceptionText, /MemoryError/);
  assertEquals(await test.value(sourceCall("next", add, [1, 2])), 3);
});

Deno.test("an executor that cannot start gives one clear error", async () => {
  await using test = new TestPool({ execPath: "/bin/false" });
  await assertRejects(
    () => test.pool.ready(),
    DaskError,
    "Cannot start an executor, after 3 tries: /bin/false ended with code 1",
  );
  assertStringIncludes((await test.failure(sourceCall("a", add, [1, 2]))).exceptionText, "Cannot");
});

Deno.test("a program that is not there gives one clear error", async () => {
  await using test = new TestPool({ execPath: "/nowhere/deno" });
  test.pool.place(sourceCall("early", add, [1, 2]));
  await assertRejects(() => test.pool.ready(), DaskError, "/nowhere/deno");
  assertEquals((await test.ended("early")).type, "failed");
});

Deno.test("task code that overwrites the ledger harms only its own executor", async () => {
  await using test = new TestPool({ inMemory: false });
  await test.pool.ready();
  test.pool.place(sourceCall("vandal", (folder: string) => {
    for (const { name } of Deno.readDirSync(folder)) {
      if (name.includes(".claims")) Deno.writeTextFileSync(`${folder}/${name}`, "no ledger any more");
    }
    const end = Date.now() + 100;
    while (Date.now() < end);
    return "vandal";
  }, [test.directory]));
  await test.started("vandal");
  test.pool.place(sourceCall("waiting", add, [1, 2]));
  assertEquals(test.valueOf(await test.ended("vandal")), "vandal");
  assertEquals(test.valueOf(await test.ended("waiting")), 3);
  assert(test.lines.some((line) => line.includes("its ledger")));
});

Deno.test("connections without a token are closed", async () => {
  await using test = new TestPool({ inMemory: false });
  await test.pool.ready();
  const socket = test.files().find((name) => name.endsWith(".sock"));
  for (const bytes of [new Uint8Array(100).fill(255), new Uint8Array(40)]) {
    const conn = await Deno.connect({ transport: "unix", path: `${test.directory}/${socket}` });
    await conn.write(bytes);
    await conn.closeWrite();
    assertEquals(await conn.read(new Uint8Array(10)).catch(() => null), null);
    conn.close();
  }
  assertEquals(await test.value(sourceCall("a", add, [1, 2])), 3);
});

// --- Permissions ---

Deno.test("tasks have the permissions that they were given", async () => {
  const probe = async () => {
    const tries: Record<string, () => unknown> = {
      read: () => Deno.readTextFileSync("/etc/hostname"),
      net: () => Deno.listen({ port: 0 }).close(),
      env: () => Deno.env.get("HOME"),
      run: () => new Deno.Command("true").outputSync(),
      ffi: () => Deno.dlopen("libc.so.6", {}),
      sys: () => Deno.hostname(),
    };
    const able: string[] = [];
    for (const [name, attempt] of Object.entries(tries)) {
      try {
        await attempt();
        able.push(name);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotCapable)) throw error;
      }
    }
    return able;
  };
  {
    await using test = new TestPool();
    assertEquals(await test.value(sourceCall("all", probe)), ["read", "net", "env", "sys"]);
  }
  {
    await using test = new TestPool({ permissions: "none" });
    assertStringIncludes(test.pool.description, "task permissions: none");
    assertEquals(await test.value(sourceCall("none", probe)), []);
    const { exceptionText } = await test.failure(
      sourceCall("hosts", () => Deno.readTextFileSync("/etc/hosts")),
    );
    assertMatch(exceptionText, /read access/);
    // It can still load a bundle, and take and give large values.
    const code = new TextEncoder().encode("export const f = (x) => x + 1;");
    const fn = {
      kind: "bundle",
      hash: await sha256(code),
      dependency: 0,
      export: "f",
      url: "file:///m.ts",
    } as const;
    assertEquals(await test.value(callOf("bundle", { function: fn, args: [1] }, [inputOf("code", code)])), 2);
    const big = inputOf("big", new Uint8Array(500_000).fill(3));
    const twice = (x: Uint8Array) => x.map((item) => 2 * item);
    assertEquals(
      await test.value(sourceCall("twice", twice, [{ $dependency: 0 }], [big])),
      new Uint8Array(500_000).fill(6),
    );
  }
  {
    await using test = new TestPool({ permissions: { read: ["/etc"] } });
    assertEquals(await test.value(sourceCall("some", probe)), ["read"]);
  }
});

/** Bytes that a process has read and written so far, files and pipes. */
function bytesMoved(pid: number | "self"): { read: number; written: number } {
  const text = Deno.readTextFileSync(`/proc/${pid}/io`);
  const count = (name: string) => Number(new RegExp(`^${name}: (\\d+)$`, "m").exec(text)?.[1]);
  return { read: count("rchar"), written: count("wchar") };
}
