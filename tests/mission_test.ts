/**
 * The mission list: every capability of DaskDistributedDispatcher.jl and Dispatcher.jl, and that a test is named after
 * it. What each line is to do, its test says.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { startWorker } from "../worker/mod.ts";
import { PROJECT, startScheduler } from "./support/scheduler.ts";

/** Groups of lines, and how many each has. */
const GROUPS: Readonly<Record<string, readonly [what: string, lines: number]>> = {
  A: ["addresses", 10],
  B: ["connections", 19],
  C: ["client", 32],
  D: ["examples and deployment", 8],
  E: ["executors", 22],
  G: ["graph", 13],
  K: ["keys and serialising", 10],
  N: ["nodes", 18],
  W: ["worker", 30],
};

/** How tests are named: by `Deno.test`, or by a helper that calls it. */
const NAMED = /(?:Deno\.test|everywhere)\(\s*(?:\{\s*name:\s*)?(["`])((?:(?!\1)[^\\\n]|\\.)*)\1/g;

Deno.test("every line of the mission list has a test that is named after it", async () => {
  const named = new Map<string, string[]>();
  for (const path of testFiles(`${PROJECT}tests/`)) {
    for (const [, , name = ""] of (await Deno.readTextFile(path)).matchAll(NAMED)) {
      for (const [id] of name.matchAll(/\b[ABCDEGKNW][1-9]\d?\b/g)) {
        named.set(id, [...named.get(id) ?? [], `${path.slice(PROJECT.length)}: ${name}`]);
      }
    }
  }
  const lines = Object.entries(GROUPS).flatMap(([group, [what, count]]) =>
    Array.from({ length: count }, (_, i) => ({ id: `${group}${i + 1}`, what }))
  );
  assertEquals(lines.length, 162);
  const missing = lines.filter(({ id }) => !named.has(id)).map(({ id, what }) => `${id} (${what})`);
  assertEquals(missing, []);
  const unknown = [...named.keys()].filter((id) => !lines.some((line) => line.id === id));
  assertEquals(unknown, []);
});

Deno.test("D1 the ten lines of the README run as they stand there", async () => {
  const readme = await Deno.readTextFile(`${PROJECT}README.md`);
  const blocks = [...readme.matchAll(/```ts[^\n]*\n(\/\/ (tasks|main)\.ts[^]*?)```/g)];
  assertEquals(blocks.map(([, , name]) => name), ["tasks", "main"]);
  await using scheduler = await startScheduler();
  await using _worker = await startWorker({ address: scheduler.address, slots: 1 });
  const folder = await Deno.makeTempDir();
  try {
    for (const [, text = "", name] of blocks) {
      const placed = text.replaceAll("./mod.ts", new URL("../mod.ts", import.meta.url).href)
        .replaceAll("127.0.0.1:8786", scheduler.address);
      await Deno.writeTextFile(`${folder}/${name}.ts`, placed);
    }
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--check", `${folder}/main.ts`],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    assertEquals(new TextDecoder().decode(stdout).trim(), "4");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("D8 the gate is the README's own command, against a real scheduler", async () => {
  const readme = await Deno.readTextFile(`${PROJECT}README.md`);
  const ci = await Deno.readTextFile(`${PROJECT}.ci/run`);
  const command = /npx -y deno@\S+ task test/.exec(readme)?.[0];
  assert(command !== undefined);
  assertStringIncludes(ci, command);
  const { tasks } = JSON.parse(await Deno.readTextFile(`${PROJECT}deno.json`));
  assertStringIncludes(tasks.test.command, "deno test");
  // No test is switched off on any system.
  for (const path of testFiles(`${PROJECT}tests/`)) {
    const text = await Deno.readTextFile(path);
    assert(!/^\s*(Deno\.test\.(ignore|only)|ignore: |only: )/m.test(text), path);
  }
});

function testFiles(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) =>
    isDirectory ? testFiles(`${folder}${name}/`) : name.endsWith("_test.ts") ? [`${folder}${name}`] : []
  ).sort();
}
