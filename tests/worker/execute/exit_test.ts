import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { describeExit } from "../../../worker/execute/executor_process.ts";
import { holdDirectory, removeStaleDirectories } from "../../../worker/execute/directory_lock.ts";

const HEAP = `first
second
<--- Last few GCs --->

[11985:0x55b7af796000]      160 ms: Mark-Compact (reduce) 63.7 (65.5) -> 63.7 (65.5) MB, pooled: 0.0 MB, 4.38 / 0.00 ms


#
# Fatal JavaScript out of memory: Reached heap limit
#
==== C stack trace ===============================

    deno(+0x28b0d2e) [0x55b7948fed2e]
`;

Deno.test("the end of a process is told in words", () => {
  const heap = describeExit({ success: false, code: 133, signal: "SIGTRAP" }, HEAP, true);
  assertEquals(heap.text, "ran out of memory (V8 heap limit, about 66 MB)");
  assert(heap.outOfMemory);
  assertEquals(heap.lines, ["first", "second", "Fatal JavaScript out of memory: Reached heap limit"]);

  const killed = describeExit({ success: false, code: 137, signal: "SIGKILL" }, "", true);
  assertStringIncludes(killed.text, "signal 9 (SIGKILL)");
  assert(!killed.outOfMemory);

  const exit = describeExit({ success: false, code: 3, signal: null }, "bye\n", true);
  assertEquals(exit.text, "ended with code 3: Deno.exit(3) was called");
  assertEquals(exit.lines, ["bye"]);

  const long = describeExit(
    { success: true, code: 0, signal: null },
    Array.from({ length: 50 }, (_, i) => `${i}`).join("\n"),
    false,
  );
  assertEquals(long.text, "ended with code 0");
  assertEquals(long.lines.length, 20);
  assertEquals(long.lines.at(-1), "49");
});

Deno.test("folders of workers that are gone are removed, those in use are not", () => {
  const base = Deno.makeTempDirSync();
  const make = (name: string, age: number) => {
    Deno.mkdirSync(`${base}/${name}`);
    const then = new Date(Date.now() - age);
    Deno.utimeSync(`${base}/${name}`, then, then);
    return `${base}/${name}`;
  };
  const inUse = make("dask-ts-1-live", 0);
  const left = make("dask-ts-2-left", 0);
  Deno.writeTextFileSync(`${left}/.lock`, "");
  Deno.writeTextFileSync(`${left}/frame`, "x");
  const starting = make("dask-ts-3-starting", 0);
  const neverStarted = make("dask-ts-4-never", 3_600_000);
  const other = make("other", 3_600_000);
  const held = holdDirectory(inUse);
  const heldToo = holdDirectory(inUse);
  assertEquals(removeStaleDirectories(base).sort(), [left, neverStarted]);
  assertEquals([...Deno.readDirSync(base)].length, 3);
  for (const path of [inUse, starting, other]) Deno.statSync(path);
  held.release();
  heldToo.release();
  assertEquals([...Deno.readDirSync(inUse)], []);
  assertEquals(removeStaleDirectories(`${base}/nowhere`), []);
  Deno.removeSync(base, { recursive: true });
});

Deno.test("a folder is never seen with a lock file that nobody has locked yet", () => {
  const base = Deno.makeTempDirSync();
  const folder = `${base}/dask-ts-1-starting`;
  Deno.mkdirSync(folder);
  const prototype = Deno.FsFile.prototype;
  const { lockSync } = prototype;
  const removed: string[] = [];
  // Another worker that starts looks around just before the lock is taken.
  prototype.lockSync = function (exclusive) {
    removed.push(...removeStaleDirectories(base));
    lockSync.call(this, exclusive);
  };
  try {
    const held = holdDirectory(folder);
    assertEquals(removed.concat(removeStaleDirectories(base)), []);
    held.release();
  } finally {
    prototype.lockSync = lockSync;
    Deno.removeSync(base, { recursive: true });
  }
});
