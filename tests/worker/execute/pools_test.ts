/**
 * What every pool does, wherever its calls run.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { encodeValue } from "../../../protocol/value.ts";
import { ISOLATIONS } from "../../../worker/execute/executor.ts";
import { functionsByUrl } from "./functions_by_url.ts";
import { callOf, inputOf, namedCall, sha256, sourceCall, taskPickle, TestPool } from "./specs.ts";

declare const current: () => {
  key: string;
  signal: AbortSignal;
  secede(): void;
  log(topic: string, event: unknown): void;
};

const add = (a: number, b: number) => a + b;

for (const isolation of ISOLATIONS) {
  Deno.test(`${isolation}: what a generator yields is its result`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: builtins`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: whatever is thrown becomes an error of the task, and the executor goes on`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: a result that cannot be stored names the task and the place`, async () => {
    await using test = new TestPool({ isolation });
    const { exceptionText } = await test.failure(sourceCall("bad", () => ({ rows: [1, () => 2] })));
    assertStringIncludes(exceptionText, `task "bad"`);
    assertStringIncludes(exceptionText, "rows[1]");
  });

  Deno.test(`${isolation}: a run_spec that cannot be read fails its own task only`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: a task asks about itself`, async () => {
    await using test = new TestPool({ isolation });
    assertEquals(await test.value(sourceCall("me", () => [current().key, current().signal.aborted])), [
      "me",
      false,
    ]);
    await test.value(sourceCall("logs", () => current().log("topic", { n: 1 })));
    assertEquals(test.told.filter(({ type }) => type === "event"), [
      { type: "event", key: "logs", topic: "topic", message: { n: 1 } },
    ]);
    assertEquals(
      await test.value(sourceCall("outside", async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        return current().key;
      })),
      "outside",
    );
    test.pool.place(sourceCall("elsewhere", () => {
      const error = new Error("not here");
      error.name = "Reschedule";
      throw error;
    }));
    assertEquals(await test.ended("elsewhere"), { type: "rescheduled" });
  });

  Deno.test(`${isolation}: a task that secedes gives its slot to others`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: a bundle is checked and its exports are called`, async () => {
    await using test = new TestPool({ isolation });
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

  Deno.test(`${isolation}: functions by URL, with and without integrity`, async () => {
    if (isolation === "process") return await functionsByUrl(isolation);
    // In a process of its own, without the lock file: the URL is that of a moment.
    const script = new URL("./functions_by_url.ts", import.meta.url);
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-lock", "-A", "--quiet", script.href, isolation],
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
  });

  Deno.test(`${isolation}: functions by the name that a Python client writes`, async () => {
    const folder = await Deno.makeTempDir();
    const path = `${folder}/mod.ts`;
    const first =
      `export const f = (a: number, b: number) => a + b;\nexport const g = (x: number, o: object) => [x, o];\nexport const n = 1;\n`;
    await Deno.writeTextFile(path, first);
    try {
      await using test = new TestPool({ isolation });
      const url = `deno:file://${path}`;
      assertEquals(await test.value(namedCall("a", `${url}#f`, [1, 2])), 3);
      assertEquals(await test.value(namedCall("b", `deno:${path}#f`, [1, 2])), 3);
      assertEquals(await test.value(namedCall("c", `${url}#g`, [1], { mode: "fast" })), [1, {
        mode: "fast",
      }]);
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

  Deno.test(`${isolation}: an input that a task transferred away is read again for the next`, async () => {
    await using test = new TestPool({ isolation });
    const file = `${test.directory}/frame`;
    const payload = encodeValue(new Uint8Array(100_000).fill(1));
    await Deno.writeFile(file, payload.frames[0] as Uint8Array);
    const stored = inputOf("stored", null, {
      header: payload.header,
      frames: [{ file, byteLength: 100_000 }],
    });
    const take = (array: Uint8Array<ArrayBuffer>) => array.buffer.transfer().byteLength;
    assertEquals(await test.value(sourceCall("a", take, [{ $dependency: 0 }], [stored])), 100_000);
    assertEquals(await test.value(sourceCall("b", take, [{ $dependency: 0 }], [stored])), 100_000);
  });

  Deno.test(`${isolation}: an aborted call that listens ends by itself`, async () => {
    await using test = new TestPool({ isolation, graceMs: 10_000, acknowledgeMs: 10_000 });
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
}
