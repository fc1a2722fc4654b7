import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import { decodeValue, encodeValue } from "../../../protocol/value.ts";
import { callOf, inputOf, namedCall, sha256, sourceCall, taskPickle, TestPool } from "./specs.ts";

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

Deno.test("what a generator yields is its result", async () => {
  await using test = new TestPool();
  assertEquals(
    await test.value(sourceCall("g", function* (n: number) {
      for (let i = 0; i < n; i++) yield i;
    }, [3])),
    [0, 1, 2],
  );
  assertEquals(
    await test.value(sourceCall("h", async function* () {
      yield 1;
      await Promise.resolve();
      yield "b";
    })),
    [1, "b"],
  );
});

Deno.test("builtins", async () => {
  await using test = new TestPool();
  const builtin = (
    key: string,
    name: "collect" | "at" | "identity" | "bundle",
    args: unknown[],
    ...values: unknown[]
  ) =>
    test.value(
      callOf(
        key,
        { function: { kind: "builtin", name }, args },
        values.map((value, i) => inputOf(`${key}-${i}`, value)),
      ),
    );
  assertEquals(await builtin("a", "collect", [{ $dependency: 1 }, { $dependency: 0 }], 1, 2), [2, 1]);
  assertEquals(await builtin("b", "at", [{ $dependency: 0 }, 1], [5, 6]), 6);
  assertEquals(await builtin("c", "at", [{ $dependency: 0 }, "x"], { x: null }), null);
  assertEquals(await builtin("d", "identity", [{ $dependency: 0 }], "same"), "same");
  assertEquals(await builtin("e", "bundle", [new Uint8Array([1, 2])]), new Uint8Array([1, 2]));
  assertEquals(await builtin("f", "collect", [[{ $dependency: 0 }, 7]], 1), [[1, 7]]);
  await assertRejects(
    () => builtin("g", "at", [{ $dependency: 0 }, "length2"], { x: 1 }),
    Error,
    "Cannot take element",
  );
  await assertRejects(
    () => builtin("h", "at", [{ $dependency: 0 }, "toString"], { x: 1 }),
    Error,
    "Cannot take element",
  );
});

Deno.test("whatever is thrown becomes an error of the task, and the executor goes on", async () => {
  await using test = new TestPool();
  const cases: [string, () => unknown, RegExp][] = [
    ["error", () => {
      throw new TypeError("no good");
    }, /no good/],
    ["null", () => {
      throw null;
    }, /null/],
    ["undefined", () => {
      throw undefined;
    }, /undefined/],
    ["string", () => {
      throw "text";
    }, /text/],
    ["object", () => {
      throw { code: 5 };
    }, /5/],
    ["frozen", () => {
      throw Object.freeze(new RangeError("cold"));
    }, /cold/],
    ["rejected", () => Promise.reject(new Error("later")), /later/],
    ["hostile", () => {
      throw new Proxy(new Error("x"), {
        get() {
          throw new Error("trap");
        },
      });
    }, /./],
    ["huge", () => {
      throw new Error("y".repeat(5_000_000));
    }, /yyy/],
  ];
  for (const [key, fn, expected] of cases) {
    const { exceptionText, start, stop } = await test.failure(sourceCall(key, fn));
    assertMatch(exceptionText, expected, key);
    assert(exceptionText.length < 100_000, key);
    assert(start <= stop);
  }
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
  assertEquals(test.lines.filter((line) => line.startsWith("warning")), []);
});

Deno.test("a result that cannot be stored names the task and the place", async () => {
  await using test = new TestPool();
  const { exceptionText } = await test.failure(sourceCall("bad", () => ({ rows: [1, () => 2] })));
  assertStringIncludes(exceptionText, `task "bad"`);
  assertStringIncludes(exceptionText, "rows[1]");
});

Deno.test("a run_spec that cannot be read fails its own task only", async () => {
  await using test = new TestPool();
  const broken = {
    ...sourceCall("broken", add),
    runSpec: { pickle: new Uint8Array([1, 2, 3]), buffers: [] },
  };
  assertMatch((await test.failure(broken)).exceptionText, /pickle|run_spec/i);
  const python = {
    ...sourceCall("python", add),
    runSpec: { pickle: taskPickle("python", { module: "_operator", name: "add" }, [1, 2]), buffers: [] },
  };
  const { exceptionText } = await test.failure(python);
  assertStringIncludes(exceptionText, "Cannot run the Python function _operator.add");
  assertStringIncludes(exceptionText, "workers=");
  assertMatch((await test.failure(sourceCall("text", "no function"))).exceptionText, /Cannot compile/);
  assertEquals(await test.value(sourceCall("good", add, [1, 2])), 3);
});

Deno.test("a task asks about itself", async () => {
  await using test = new TestPool();
  assertEquals(await test.value(sourceCall("me", () => [current().key, current().signal.aborted])), [
    "me",
    false,
  ]);
  assertEquals(
    await test.value(sourceCall("outside", async () => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      return current().key;
    })),
    "outside",
  );
});

Deno.test("a task that secedes gives its slot to others", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  test.pool.place(sourceCall("slow", async () => {
    current().secede();
    await new Promise((resolve) => setTimeout(resolve, 400));
    return "slow";
  }));
  test.pool.place(sourceCall("next", () => "next"));
  assertEquals(test.valueOf(await test.ended("next")), "next");
  assertEquals(test.story("slow"), ["started slow", "seceded slow"]);
  assertEquals(test.valueOf(await test.ended("slow")), "slow");
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

Deno.test("a bundle is checked and its exports are called", async () => {
  await using test = new TestPool();
  const bytes = new TextEncoder().encode(`
    let calls = 0;
    export function count() { return ++calls; }
    export default (x) => x * 2;
    export function fail() { throw new Error("inside"); }
    export const five = 5;
  `);
  const hash = await sha256(bytes);
  const bundle = inputOf("bundle-1", bytes);
  const url = "file:///src/mod.ts";
  const call = (key: string, name: string, args: unknown[] = [], input = bundle) =>
    callOf(key, { function: { kind: "bundle", hash, dependency: 0, export: name, url }, args }, [input]);
  assertEquals(await test.value(call("a", "count")), 1);
  assertEquals(await test.value(call("b", "count")), 2);
  assertEquals(await test.value(call("c", "default", [21])), 42);
  const failed = await test.failure(call("d", "fail"));
  assertStringIncludes(failed.tracebackText + failed.exceptionText, "inside");
  assertStringIncludes(failed.tracebackText + failed.exceptionText, `${url}@${hash.slice(0, 8)}`);
  assert(!failed.tracebackText.includes("blob:"));
  assertStringIncludes(
    (await test.failure(call("e", "nope"))).exceptionText,
    "it exports the functions count, default, fail",
  );
  assertStringIncludes(
    (await test.failure(call("f", "five"))).exceptionText,
    "expected a function, got number",
  );
  const other = inputOf("bundle-2", new TextEncoder().encode("export const x = () => 1;"));
  const wrong = callOf("g", {
    function: { kind: "bundle", hash: "0".repeat(64), dependency: 0, export: "x", url },
    args: [],
  }, [other]);
  assertStringIncludes((await test.failure(wrong)).exceptionText, "expected SHA-256 000000");
});

Deno.test("functions by URL, with and without integrity", async () => {
  const source = "export const twice = (x: number): number => 2 * x;\n";
  await using server = Deno.serve(
    { port: 0, onListen() {} },
    () => new Response(source, { headers: { "content-type": "application/typescript" } }),
  );
  const url = `http://127.0.0.1:${server.addr.port}/mod.ts`;
  const hash = await sha256(source);
  await using test = new TestPool();
  const call = (key: string, integrity: string | null) =>
    callOf(key, { function: { kind: "url", url, export: "twice", integrity }, args: [4] });
  assertEquals(await test.value(call("a", null)), 8);
  assertEquals(await test.value(call("b", `sha256=${hash}`)), 8);
  assertEquals(await test.value(call("c", `sha256-${Uint8Array.fromHex(hash).toBase64()}`)), 8);
  assertStringIncludes(
    (await test.failure(call("d", `sha256=${"0".repeat(64)}`))).exceptionText,
    `got ${hash}`,
  );
  assertStringIncludes((await test.failure(call("e", "md5-x"))).exceptionText, "Cannot read the integrity");
  assertEquals(await test.value(namedCall("f", `deno:${url}#twice?sha256=${hash}`, [5])), 10);
});

Deno.test("functions by the name that a Python client writes", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/mod.ts`;
  const first =
    `export const f = (a: number, b: number) => a + b;\nexport const g = (x: number, o: object) => [x, o];\nexport const n = 1;\n`;
  await Deno.writeTextFile(path, first);
  try {
    await using test = new TestPool();
    const url = `deno:file://${path}`;
    assertEquals(await test.value(namedCall("a", `${url}#f`, [1, 2])), 3);
    assertEquals(await test.value(namedCall("b", `deno:${path}#f`, [1, 2])), 3);
    assertEquals(await test.value(namedCall("c", `${url}#g`, [1], { mode: "fast" })), [1, { mode: "fast" }]);
    assertEquals(await test.value(namedCall("d", `${url}#f?sha256=${await sha256(first)}`, [3, 4])), 7);
    // The file changes: the next call runs the new code, the pin refuses it.
    const second = "export const f = (a: number, b: number) => a * b + 100;\n";
    await Deno.writeTextFile(path, second);
    assertEquals(await test.value(namedCall("e", `${url}#f`, [3, 4])), 112);
    const pinned = await test.failure(namedCall("g", `${url}#f?sha256=${await sha256(first)}`, [3, 4]));
    assertStringIncludes(pinned.exceptionText, `got ${await sha256(second)}`);
    const failures: [string, string][] = [
      [`${url}#nope`, "it exports the functions f"],
      [`deno:file://${folder}/none.ts#f`, `there is no file ${folder}/none.ts`],
      [`deno:add`, 'expected "deno:<module URL>#<export>"'],
      [`${url}#f?md5=1`, "sha256="],
    ];
    for (const [name, text] of failures) {
      assertStringIncludes((await test.failure(namedCall(name, name))).exceptionText, text);
    }
    await Deno.writeTextFile(path, "export const n = ;");
    assertStringIncludes(
      (await test.failure(namedCall("h", `${url}#n`))).exceptionText,
      `Cannot load file://${path}`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

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

  test.pool.place(sourceCall("result", (n: number) => new Uint8Array(n).fill(7), [1_000_000]));
  const outcome = await test.ended("result");
  assert(outcome.type === "succeeded");
  const [frame] = outcome.payload.frames;
  assert(frame !== undefined && !(frame instanceof Uint8Array) && frame.file.startsWith(test.directory));
  assertEquals(test.valueOf(outcome), new Uint8Array(1_000_000).fill(7));
  await test.pool.close();
  assertEquals(test.files(), []);
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

Deno.test("an input that a task transferred away is read again for the next", async () => {
  await using test = new TestPool();
  const file = `${test.directory}/frame`;
  const payload = encodeValue(new Uint8Array(100_000).fill(1));
  await Deno.writeFile(file, payload.frames[0] as Uint8Array);
  const stored = inputOf("stored", null, { header: payload.header, frames: [{ file, byteLength: 100_000 }] });
  const take = (array: Uint8Array<ArrayBuffer>) => array.buffer.transfer().byteLength;
  assertEquals(await test.value(sourceCall("a", take, [{ $dependency: 0 }], [stored])), 100_000);
  assertEquals(await test.value(sourceCall("b", take, [{ $dependency: 0 }], [stored])), 100_000);
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

Deno.test("an aborted call that listens ends by itself", async () => {
  await using test = new TestPool({ graceMs: 10_000 });
  test.pool.place(sourceCall("listens", () =>
    new Promise((_, reject) => {
      const { signal } = current();
      signal.addEventListener("abort", () => reject(signal.reason));
    })));
  await test.started("listens");
  test.pool.place(sourceCall("waiting", add, [1, 2]));
  test.pool.abort("waiting", 1, "changed my mind");
  await test.until(() => test.story().includes("withdrawn waiting"));
  test.pool.abort("listens", 1, "enough of it");
  const outcome = await test.ended("listens");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "enough of it");
  assertEquals(await test.value(sourceCall("after", () => Deno.pid !== 0)), true);
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
