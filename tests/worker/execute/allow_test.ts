/**
 * Which code executors may load, when that is restricted.
 */
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { AllowedModules, type AllowList, readAllowModules } from "../../../worker/execute/allow.ts";
import { ISOLATIONS } from "../../../worker/execute/executor.ts";
import { ModuleNotAllowedError } from "../../../protocol/errors.ts";
import { callOf, inputOf, namedCall, sha256, sourceCall, TestPool } from "./specs.ts";

const TASKS = new URL("../tasks.ts", import.meta.url).href;

function allow(...entries: readonly (string | RegExp)[]): AllowList {
  return { ...readAllowModules(entries), worker: "guarded" };
}

/** Those of `urls` that may be loaded. */
function loadable(entries: readonly (string | RegExp)[], urls: readonly string[]): string[] {
  const allowed = new AllowedModules(allow(...entries));
  return urls.filter((url) => {
    try {
      allowed.checkUrl(url);
      return true;
    } catch (error) {
      assert(error instanceof ModuleNotAllowedError);
      return false;
    }
  });
}

Deno.test("a URL allows its module and what lies beneath it, to the end of a part of the path", () => {
  const good = [
    "https://h.org/lib",
    "https://h.org/lib?x",
    "https://h.org/lib#area",
    "https://h.org/lib/a/b.ts",
    "https://h.org:443/lib/a.ts",
    "https://H.org/other/../lib/a.ts",
    "https://h.org/x/%2e%2e/lib/a.ts",
  ];
  const bad = [
    "https://h.org/library.ts",
    "https://h.org/lib@2/a.ts",
    "https://h.org/",
    "https://h.org/lib/../a.ts",
    "https://h.org/lib/%2E%2e/a.ts",
    "https://h.org/lib/..%2fa.ts",
    "https://h.org/lib/..%5Ca.ts",
    "http://h.org/lib/a.ts",
    "https://h.org.evil.org/lib/a.ts",
    "https://h.org@evil.org/lib/a.ts",
    "lib/a.ts",
    "./a.ts",
    "",
  ];
  assertEquals(loadable(["https://h.org/lib"], [...good, ...bad]), good);
  assertEquals(loadable(["https://h.org"], good), good);
  assertEquals(loadable(["https://h.org/lib/"], ["https://h.org/lib", "https://h.org/lib/a"]), [
    "https://h.org/lib/a",
  ]);
  assertEquals(loadable(["https://h.org/a.ts?v=1"], ["https://h.org/a.ts?v=1", "https://h.org/a.ts?v=1/b"]), [
    "https://h.org/a.ts?v=1",
  ]);
  assertEquals(loadable([], [...good, ...bad]), []);
});

Deno.test("files and packages are allowed by the same rule, packages in all versions", () => {
  assertEquals(
    loadable(["file:///opt/my tasks/", "npm:zod", "jsr:@std/", "node:os"], [
      "file:///opt/my%20tasks/a.ts",
      "file:///opt/my tasks/a.ts",
      "file:///opt/my%20tasks/..%2f..%2fetc/a.ts",
      "file://h/opt/my%20tasks/a.ts",
      "file:///opt/a.ts",
      "npm:zod",
      "npm:zod@4.1.0/mini",
      "npm:zod/../evil",
      "npm:zod-evil",
      "jsr:@std/path@1",
      "jsr:@stdx/path@1",
      "node:os",
      "node:fs",
    ]),
    [
      "file:///opt/my%20tasks/a.ts",
      "file:///opt/my tasks/a.ts",
      "npm:zod",
      "npm:zod@4.1.0/mini",
      "jsr:@std/path@1",
      "node:os",
    ],
  );
  assertEquals(loadable(["npm:zod@4.1.0"], ["npm:zod@4.1.0", "npm:zod@4.1.01", "npm:zod"]), [
    "npm:zod@4.1.0",
  ]);
});

Deno.test("a pattern is looked for in the whole URL, each time from its beginning, and never in data: URLs", () => {
  const pattern = /^https:\/\/h\.org\/.*\.ts$/g;
  const url = "https://h.org/a.ts";
  assertEquals(loadable([pattern], [url, url, `data:text/javascript,//${url}`, "https://h.org/a.js"]), [
    url,
    url,
  ]);
  assertEquals(loadable([/h\.org/], ["data:text/javascript,//h.org", "blob:https://h.org/1"]), []);
});

Deno.test("entries that could allow nothing are refused", () => {
  for (
    const wrong of ["", "x", "./tasks.ts", "/opt/tasks", "bundle", "deno:https://h.org/", "data:", "sha256-x"]
  ) {
    assertThrows(() => readAllowModules([wrong]), TypeError, `Cannot allow the modules "${wrong}"`);
  }
  assertThrows(() => readAllowModules(["https://h.org/a.ts#area"]), TypeError, 'leave out "#area"');
  assertThrows(() => readAllowModules(["https://h.org/a%2fb"]), TypeError, "%2f");
  assertThrows(() => readAllowModules([7 as never]), TypeError, "expected texts and RegExps, got number");
  assertThrows(() => readAllowModules("npm:zod" as never), TypeError, "expected a list, got string");
});

function serveFive(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve(
    { port: 0, onListen() {} },
    () => new Response("export const five = () => 5;", { headers: { "content-type": "text/javascript" } }),
  );
}

for (const isolation of ISOLATIONS) {
  Deno.test(`${isolation}: named modules are loaded when they are allowed, others fail their task alone`, async () => {
    // In this process a module from a server would get into the lock file.
    await using server = isolation === "process" ? serveFive() : null;
    const host = `http://127.0.0.1:${server?.addr.port ?? 9}`;
    await using test = new TestPool({ isolation, allow: allow(TASKS, `${host}/good/`) });
    const byUrl = (key: string, url: string, name: string, ...args: unknown[]) =>
      callOf(key, { function: { kind: "url", url, export: name, integrity: null }, args });
    assertEquals(await test.value(namedCall("a", `deno:${TASKS}#add`, [1, 2])), 3);
    assertEquals(await test.value(byUrl("b", TASKS, "add", 3, 4)), 7);
    if (server !== null) assertEquals(await test.value(byUrl("s", `${host}/good/mod.js`, "five")), 5);
    for (
      const [call, url] of [
        [namedCall("c", `deno:${host}/bad.js#five`), `${host}/bad.js`],
        [byUrl("d", `${host}/good/../bad.js`, "five"), `${host}/good/../bad.js`],
        [namedCall("e", "deno:data:text/javascript,export const five=()=>5#five"), "data:text/javascript,"],
        [byUrl("f", "./run.ts", "five"), "./run.ts"],
      ] as const
    ) {
      const { exceptionText } = await test.failure(call);
      assertStringIncludes(exceptionText, `ModuleNotAllowedError: Cannot load ${url}`);
      assertStringIncludes(exceptionText, "allowModules of the worker guarded does not allow it");
    }
    assertEquals(
      await test.value(callOf("g", { function: { kind: "builtin", name: "collect" }, args: [1] })),
      [1],
    );
  });

  Deno.test(`${isolation}: what travels is known by its content, whatever its sender calls it`, async () => {
    const bundle = new TextEncoder().encode("export const six = () => 6;");
    const hash = await sha256(bundle);
    const bundled = (key: string, claimed = hash) => {
      const ref = { kind: "bundle", hash: claimed, dependency: 0, export: "six", url: TASKS } as const;
      return callOf(key, { function: ref, args: [] }, [inputOf(`${key}-bytes`, bundle)]);
    };
    const seven = "() => 7";
    const known = await sha256(seven);
    /** The sender says that it is `seven`. */
    const forged = (key: string) =>
      callOf(key, { function: { kind: "source", hash: known, source: "() => 8" }, args: [] });
    const integrity = `sha256-${Uint8Array.fromHex(hash).toBase64()}`;
    {
      await using test = new TestPool({ isolation, allow: allow(TASKS, /./) });
      assertStringIncludes((await test.failure(bundled("a"))).exceptionText, `${TASKS}: allowModules`);
      assertStringIncludes((await test.failure(bundled("b"))).exceptionText, `"${integrity}" or "bundles"`);
      assertStringIncludes(
        (await test.failure(sourceCall("c", seven))).exceptionText,
        '"functions" in allowModules',
      );
    }
    {
      await using test = new TestPool({ isolation, allow: allow(integrity, `sha256=${known}`) });
      assertEquals(await test.value(bundled("a")), 6);
      assertStringIncludes((await test.failure(bundled("b", known))).exceptionText, `got ${hash}`);
      assertStringIncludes((await test.failure(forged("c"))).exceptionText, 'the function "() => 8"');
      assertEquals(await test.value(sourceCall("d", seven)), 7);
      assertStringIncludes((await test.failure(forged("e"))).exceptionText, "ModuleNotAllowedError");
    }
    {
      await using test = new TestPool({ isolation, allow: allow("bundles", "functions") });
      assertEquals(await test.value(bundled("a")), 6);
      assertEquals(await test.value(forged("b")), 8);
      assertStringIncludes(
        (await test.failure(namedCall("c", `deno:${TASKS}#add`, [1, 2]))).exceptionText,
        "ModuleNotAllowedError",
      );
    }
  });
}

Deno.test("process: the list needs no permission of tasks", async () => {
  await using test = new TestPool({ permissions: "none", allow: allow("functions") });
  assertEquals(await test.value(sourceCall("a", () => 1)), 1);
  assertStringIncludes(
    (await test.failure(namedCall("b", `deno:${TASKS}#add`, [1, 2]))).exceptionText,
    "ModuleNotAllowedError",
  );
});
