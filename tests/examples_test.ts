/**
 * The examples do what the README says of them.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
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
