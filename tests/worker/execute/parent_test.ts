import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { removeStaleDirectories } from "../../../worker/execute/directory_lock.ts";

const PARENT = new URL("./parent.ts", import.meta.url).href;

/** Ids of the processes that `parent` started, by looking at all processes. */
function childrenOf(parent: number): number[] {
  const children: number[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = Deno.readTextFileSync(`/proc/${name}/stat`);
      if (Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === parent) children.push(Number(name));
    } catch { /* ended meanwhile */ }
  }
  return children;
}

function isRunning(pid: number): boolean {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

/** Kills a worker whose executors spin; gives how long they lived on, ms, and what the worker said. */
async function killedWorker(
  flags: readonly string[],
  directory: string,
  permissions: string,
): Promise<{ ms: number; said: string }> {
  const parent = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "--no-prompt", ...flags, PARENT, directory, permissions],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let said = "";
  const decoder = new TextDecoder();
  for await (const chunk of parent.stdout) {
    said += decoder.decode(chunk, { stream: true });
    if (said.includes("spinning")) break;
  }
  assertStringIncludes(said, "large: [100000]");
  const children = childrenOf(parent.pid);
  assertEquals(children.length, 2, said);
  parent.kill("SIGKILL");
  const start = performance.now();
  await parent.status;
  while (children.some(isRunning) && performance.now() - start < 10_000) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const left = children.filter(isRunning);
  for (const pid of left) Deno.kill(pid, "SIGKILL");
  assertEquals(left, []);
  return { ms: performance.now() - start, said };
}

Deno.test("when a worker is killed its spinning executors are gone within a second", async () => {
  const base = await Deno.makeTempDir();
  const directory = `${base}/dask-ts-${Deno.pid}-test`;
  await Deno.mkdir(directory);
  const { ms, said } = await killedWorker(["-A"], directory, "inherit");
  assertStringIncludes(said, "ended with the worker by the kernel");
  assert(ms < 1_000, `${ms} ms`);
  // Nobody cleaned; the next worker does.
  assertEquals(removeStaleDirectories(base), [directory]);
  await Deno.remove(base, { recursive: true });
});

Deno.test("without ffi a thread in each executor watches the worker", async () => {
  const directory = await Deno.makeTempDir();
  const { ms, said } = await killedWorker(
    [`--allow-read`, `--allow-write=${directory}`, "--allow-run", "--allow-net"],
    directory,
    "none",
  );
  assertStringIncludes(said, "ended with the worker by a watching thread each");
  // The thread looks every 250 ms, then needs a moment to end the process.
  assert(ms < 5_000, `${ms} ms`);
  await Deno.remove(directory, { recursive: true });
});
