/**
 * A worker process for `threads_test.ts`: aborts calls that never return, and says what came of it.
 *
 * @module
 */
import { sourceCall, TestPool } from "./specs.ts";

const test = new TestPool({ isolation: "thread" });
const values: unknown[] = [];
const errors: string[] = [];
for (const key of ["spin0", "spin1"]) {
  test.pool.place(sourceCall(key, "() => { for (;;); }"));
  await test.started(key);
  test.pool.abort(key, 1, "enough");
  const outcome = await test.ended(key);
  if (outcome.type === "failed") errors.push(outcome.exceptionText);
  values.push(await test.value(sourceCall(`after ${key}`, "(a, b) => a + b", [1, 2])));
}
const warnings = test.lines.filter((line) =>
  line.startsWith("warning") && line.includes("a core may be lost")
);
await test[Symbol.asyncDispose]();
Deno.stdout.writeSync(
  new TextEncoder().encode(JSON.stringify({ values, errors, warnings: warnings.length })),
);
Deno.exit(0);
