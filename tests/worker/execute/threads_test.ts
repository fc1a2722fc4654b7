/**
 * What threads cannot do as processes do.
 */
import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import { sourceCall, TestPool } from "./specs.ts";

const add = (a: number, b: number) => a + b;

for (const isolation of ["thread", "inline"] as const) {
  Deno.test(`${isolation}: other permissions than the worker's are refused`, async () => {
    assertThrows(
      () => new TestPool({ isolation, permissions: "none" }),
      DaskError,
      "use --isolation process",
    );
    await using test = new TestPool({ isolation, permissions: "inherit" });
    const narrow = { ...sourceCall("narrow", add, [1, 2]), annotations: { deno: { permissions: "none" } } };
    assertStringIncludes((await test.failure(narrow)).exceptionText, "use --isolation process");
    const inherit = { ...sourceCall("all", add, [1, 2]), annotations: { deno: { permissions: "inherit" } } };
    assertEquals(await test.value(inherit), 3);
  });
}

Deno.test("thread: Deno.exit and self.close end the thread, tell its call, and the slot works again", async () => {
  await using test = new TestPool({ isolation: "thread" });
  const { exceptionText } = await test.failure(sourceCall("exit", () => Deno.exit(3)));
  assertMatch(exceptionText, /Lost the executor of task "exit": its thread called Deno.exit\(3\)/);
  assertMatch(
    (await test.failure(sourceCall("close", "() => self.close()"))).exceptionText,
    /Deno.exit\(0\)/,
  );
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
});

Deno.test("thread: stray errors harm nobody", async () => {
  await using test = new TestPool({ isolation: "thread" });
  const stray = () =>
    new Promise((resolve) => {
      setTimeout(() => resolve("went on"), 10);
      Promise.reject(new Error("stray rejection"));
      setTimeout(() => {
        throw new Error("stray error");
      });
    });
  assertEquals(await test.value(sourceCall("stray", stray)), "went on");
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
});

Deno.test("thread: one that does not obey is forgotten with one warning, and its slot works again", async () => {
  // In a process of its own: the threads spin until it ends.
  const script = new URL("./spinning_threads.ts", import.meta.url);
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-lock", "-A", "--quiet", script.href],
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  assertEquals(JSON.parse(new TextDecoder().decode(stdout)), {
    values: [3, 3],
    errors: ['AbortError: Stopped task "spin0": enough', 'AbortError: Stopped task "spin1": enough'],
    warnings: 1,
  });
});
