/**
 * `deno task fuzz`: what a worker process promises of hostile, slow and broken surroundings, measured from outside. Each
 * row is a file beside this one; prints each figure beside its goal, and ends with code 1 when one was missed.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { Report, type Row } from "./frame.ts";
import { row as malformed } from "./row_07_malformed.ts";
import { row as lyingLengths } from "./row_08_lying_lengths.ts";
import { row as hostilePickles } from "./row_09_hostile_pickles.ts";
import { row as slowPeers } from "./row_10_slow_peers.ts";
import { row as schedulerLoss } from "./row_11_scheduler_loss.ts";
import { row as responsive } from "./row_13_responsive.ts";
import { row as badTasks } from "./row_14_bad_tasks.ts";

const ROWS: readonly Row[] = [
  malformed,
  lyingLengths,
  hostilePickles,
  slowPeers,
  schedulerLoss,
  responsive,
  badTasks,
];

const flags = parseArgs(Deno.args, {
  string: ["requests", "seed", "rows"],
  default: { requests: "100000", seed: String(Date.now() % 1_000_000_000) },
  unknown: (arg) => {
    say(`Unknown argument ${arg}: --requests --seed --rows are known`);
    Deno.exit(2);
  },
});
const requests = count("requests");
const seed = count("seed");
const chosen = flags["rows"] === undefined
  ? ROWS.map(({ number }) => number)
  : String(flags["rows"]).split(",").map(Number);

const missed: string[] = [];
for (const row of ROWS) {
  if (!chosen.includes(row.number)) continue;
  say(`row ${row.number}: ${row.title}`);
  const report = new Report(say);
  const startedAt = performance.now();
  try {
    await row.run(report, { seed, requests });
  } catch (error) {
    report.figure(
      "end",
      String(error instanceof Error ? error.stack : error),
      "the row runs to its end",
      false,
    );
  }
  report.note(`${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
  missed.push(...[...report.missed, ...report.late].map((line) => `row ${row.number}: ${line}`));
}
say(missed.length === 0 ? "all goals reached" : `${missed.length} goals missed:\n${missed.join("\n")}`);
if (missed.length > 0) {
  say(`again with: deno task fuzz --seed ${seed} --requests ${requests} --rows ${chosen.join(",")}`);
}
Deno.exit(missed.length > 0 ? 1 : 0);

function count(name: "requests" | "seed"): number {
  const value = Number(flags[name]);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  say(`Cannot read --${name} "${flags[name]}": expected a whole number of at least 1`);
  Deno.exit(2);
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}
