/**
 * The programs of `chaos/`, in short: what they find on every change. Times are theirs alone, not looked at here.
 *
 * @module
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { type FuzzOptions, Report, type Row } from "../chaos/frame.ts";
import { row as malformed } from "../chaos/row_07_malformed.ts";
import { row as lyingLengths } from "../chaos/row_08_lying_lengths.ts";
import { row as hostilePickles } from "../chaos/row_09_hostile_pickles.ts";
import { row as slowPeers } from "../chaos/row_10_slow_peers.ts";
import { chaosRun } from "../chaos/run.ts";
import { chaosGraph } from "../chaos/graph.ts";
import { unexplainedErrors } from "../chaos/scheduler_log.ts";
import { AsyncExecutor } from "../dispatch/mod.ts";

const seed = Number(Deno.env.get("SEED") ?? Date.now() % 1_000_000);

Deno.test("chaos: the graph has the ops it says, and the answers it says", async () => {
  const tally = await Deno.makeTempFile();
  try {
    const { ops, wanted } = chaosGraph(300, tally);
    const values = await new AsyncExecutor().run(wanted.map(({ node }) => node));
    assertEquals(values, wanted.map(({ value }) => value));
    assertEquals([ops, (await Deno.stat(tally)).size], [300, 300]);
  } finally {
    await Deno.remove(tally);
  }
});

Deno.test("chaos: a scheduler's log is read entry by entry", () => {
  const info = "2026-11-28 03:03:05,034 - distributed.core - INFO - Connection to tcp://x has been closed.\n";
  const closed =
    "2026-11-28 03:03:05,879 - distributed.batched - INFO - Batched Comm Closed <TCP (closed)>\n" +
    "Traceback (most recent call last):\n  File x\ndistributed.comm.core.CommClosedError\n";
  const failed = "2026-11-28 03:03:06,000 - distributed.core - ERROR - Exception while handling op\n" +
    "Traceback (most recent call last):\n  File y\nAssertionError: ('a', 'b')\n";
  assertEquals(unexplainedErrors(info + closed + failed + info + closed), [failed]);
  assertStringIncludes(unexplainedErrors(`${closed}${failed}`)[0]!, "AssertionError");
});

Deno.test("chaos: killed, stopped and joining workers, the right answer, nothing left", async () => {
  const figures = await chaosRun({ ops: 600, faults: 6, workers: 3, seed, onProgress: () => {} });
  assertEquals(figures.failures, [], `deno task chaos --seed ${seed} --ops 600 --faults 6 --workers 3`);
});

for (
  const [row, options] of [
    [malformed, { seed, requests: 1_000 }],
    [lyingLengths, { seed, requests: 0, short: true }],
    [hostilePickles, { seed, requests: 0 }],
    [slowPeers, { seed, requests: 0, short: true }],
  ] as const satisfies readonly (readonly [Row, FuzzOptions])[]
) {
  Deno.test(`fuzz: row ${row.number}, ${row.title}`, async () => {
    const lines: string[] = [];
    const report = new Report((line) => lines.push(line));
    await row.run(report, options);
    assertEquals(
      report.missed,
      [],
      `deno task fuzz --rows ${row.number} --seed ${seed}\n${lines.join("\n")}`,
    );
  });
}
