/**
 * The examples do what the README says of them.
 *
 * @module
 */
import { assert, assertEquals, assertFalse, assertMatch, assertStringIncludes } from "@std/assert";
import { clusterGraph } from "../examples/cluster/graph.ts";
import { PROJECT } from "./support/scheduler.ts";

Deno.test("the graph of the cluster example has 500 ops, and each comes after what it needs", () => {
  const { best, ops } = clusterGraph();
  const counts: Record<string, number> = {};
  for (const op of ops) counts[op.label] = (counts[op.label] ?? 0) + 1;
  assertEquals(counts, { load: 100, loadReference: 1, process: 100, roll: 98, compare: 200, best: 1 });
  assertEquals(ops.length, 500);
  assertEquals(new Set(ops.map((op) => op.key)).size, 500);
  assert(ops.at(-1) === best);
});

/** What each example prints, in parts that are the same in every run. */
const PRINTED: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  "01_hello.ts": [
    /^Hello, world, from process (\d+), not (?!\1\n)\d+\n/,
    "on the cluster: 9 2 11\nin this process: 11\n",
  ],
  "02_dask_do.ts": ["DispatchGraph(13 nodes: inc, ", "\ntotal: 357\n"],
  "03_factorials.ts": [
    "30! = 265252859812191058636308480000000\nhalf of it = 132626429906095529318154240000000\nremainder = 0\n",
  ],
  "04_npm_in_tasks.ts": ["2 statements: let x", "1 statements: export", "4 statements: for"],
  "05_queue_in_tasks.ts": ["jobs done: 20, by 2 tasks; sum of the results: 2100\n"],
  "06_cancel.ts": [
    "2 loops without end run on 2 slots\nslot 0 works\nslot 1 works\n",
    /\nafter \d+ ms\nthe loop: rejected true\n$/,
  ],
  "07_mixed.ts": ["spread: 7.49 °C by day, 6.81 °C as means of 29 days\nnumpy gave a Float64Array of 337; "],
  "08_progress.ts": ["task 11 is done\nheard from inside\n"],
  "09_errors.ts": [
    "half(4): 2\nhalf(3): RangeError: 3 is odd\nadd: not run, because of half\nflaky: there after 3 tries\n",
  ],
  "10_actors.ts": ["after two numbers: 1.5\nof 1000 numbers: 500.5\nafter its end: "],
};

for (const [name, parts] of Object.entries(PRINTED)) {
  Deno.test(`example ${name} runs by itself, says what it shows and ends`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--quiet", `${PROJECT}examples/${name}`],
        cwd: folder,
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
        env: { NO_COLOR: "1" },
      }).output();
      const said = new TextDecoder().decode(stdout);
      assertEquals(code, 0, new TextDecoder().decode(stderr));
      for (const part of parts) {
        if (typeof part === "string") assertStringIncludes(said, part);
        else assertMatch(said, part);
      }
      if (name === "07_mixed.ts") {
        const svg = await Deno.readTextFile(`${folder}/temperatures.svg`);
        assertEquals(svg.match(/<circle /g)!.length, 365);
        assertEquals(/points="([^"]+)"/.exec(svg)![1]!.split(" ").length, 337);
        assertFalse(svg.includes("NaN"));
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("the cells of the notebook run in their order, and are kept without output", async () => {
  const { cells } = JSON.parse(await Deno.readTextFile(`${PROJECT}examples/notebook.ipynb`)) as {
    readonly cells: readonly {
      readonly cell_type: string;
      readonly source: readonly string[];
      readonly outputs?: readonly unknown[];
    }[];
  };
  const code = cells.filter(({ cell_type }) => cell_type === "code");
  assertEquals(code.flatMap(({ outputs }) => outputs), []);
  const program = await Deno.makeTempFile({ dir: `${PROJECT}examples`, prefix: ".notebook-", suffix: ".ts" });
  try {
    await Deno.writeTextFile(program, code.map(({ source }) => source.join("")).join("\n"));
    const { code: status, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--check", program],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(status, 0, new TextDecoder().decode(stderr));
    assertEquals(new TextDecoder().decode(stdout), "0.1842\n");
  } finally {
    await Deno.remove(program);
  }
});

Deno.test("every example is tested, and short enough to be read", () => {
  const names = [...Deno.readDirSync(`${PROJECT}examples`)].map(({ name }) => name);
  const examples = names.filter((name) => /^\d\d_.*\.ts$/.test(name)).sort();
  assertEquals(examples, Object.keys(PRINTED));
  for (const name of examples) {
    const lines = Deno.readTextFileSync(`${PROJECT}examples/${name}`).split("\n").length;
    assert(lines < 60, `${name} has ${lines} lines`);
  }
});

Deno.test("the cluster example starts its cluster, shows progress and ends with the answer", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${PROJECT}examples/cluster/main.ts`],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).output();
  const said = new TextDecoder().decode(stderr);
  assertEquals(code, 0, said);
  const last = new TextDecoder().decode(stdout).trimEnd().split("\n").at(-1) ?? "";
  assertMatch(last, /^best = -?\d+\.\d+ \(500 ops, 3 workers, \d+\.\d+ s\)$/);
  const value = Number(last.split(" ")[2]);
  assert(value > 0.5 && value <= 1, last); // signals of one pitch are much alike

  // No terminal: lines that can be read in a log, without bars or colours.
  const counts = [...said.matchAll(/^(\d+)\/500 ops$/gm)].map(([, count]) => Number(count));
  assert(counts.length >= 2, said);
  assertEquals(counts, counts.toSorted((a, b) => a - b));
  assertEquals(counts.at(-1), 500);
  // deno-lint-ignore no-control-regex
  assert(!/[\r\x1b]/.test(said), said);
});
