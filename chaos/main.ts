/**
 * `deno task chaos`: a graph whose answer is known runs on a validating Python scheduler and TypeScript workers, while
 * workers are killed, told to leave, stopped for a while and joined by others, by chance from a seed. Ends with a table;
 * the exit code is 0 when every seed had the right answer, nothing stuck and nothing leaked.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { ProgressView } from "../client/progress.ts";
import { type ChaosFigures, type ChaosOptions, chaosRun } from "./run.ts";

/** With faults a run may take so many times as long as without. */
const SLOWDOWN_MAX = 3;

const flags = parseArgs(Deno.args, {
  string: ["seeds", "seed", "ops", "faults", "workers"],
  default: { seeds: "20", ops: "10000", faults: "50", workers: "4" },
  unknown: (arg) => {
    say(`Unknown argument ${arg}: --seeds --seed --ops --faults --workers are known`);
    Deno.exit(2);
  },
});
const [ops, faults, workers] = [count("ops"), count("faults"), count("workers")];
const seeds = flags["seed"] === undefined
  ? Array.from({ length: count("seeds") }, (_, i) => Date.now() % 1_000_000_000 + i)
  : [count("seed")];

say(`without faults: ${ops} ops on ${workers} workers`);
const calm = await run({ ops, faults: 0, workers, seed: 0 });
const rows = [row(calm)];
let failed = calm.failures.length > 0 ? 1 : 0;
for (const [i, seed] of seeds.entries()) {
  say(`seed ${seed} (${i + 1} of ${seeds.length}): ${faults} faults`);
  const figures = await run({ ops, faults, workers, seed });
  rows.push(row(figures));
  if (figures.failures.length === 0) continue;
  failed++;
  say(
    `seed ${seed} FAILED, again with: deno task chaos --seed ${seed} --ops ${ops} --faults ${faults} --workers ${workers}`,
  );
}
table(rows);
const slowest = Math.max(...rows.slice(1).map(([, , , , slowdown]) => Number(slowdown)));
say(`slowdown at most ${slowest} (goal ${SLOWDOWN_MAX}); ${failed} of ${rows.length} runs failed`);
Deno.exit(failed > 0 ? 1 : 0);

async function run(options: Omit<ChaosOptions, "onProgress">): Promise<ChaosFigures> {
  const view = new ProgressView({ unit: "ops" });
  const figures = await chaosRun({ ...options, onProgress: (done, total) => view.show({ done, total }) });
  view.end();
  for (const failure of figures.failures) say(`FAILED: ${failure}`);
  return figures;
}

function row(figures: ChaosFigures): string[] {
  const { kill, terminate, stop, join } = figures.faults;
  return [
    figures.seed === 0 ? "no faults" : String(figures.seed),
    `${kill}/${terminate}/${stop}/${join}`,
    figures.seconds.toFixed(1),
    String(figures.executions),
    (figures.seconds / calmSeconds(figures)).toFixed(2),
    String(figures.schedulerErrors),
    String(figures.leaks),
    String(Math.round(figures.orphanMs)),
    figures.failures.length === 0 ? "right" : "FAILED",
  ];
}

/** The run without faults is its own measure. */
function calmSeconds(figures: ChaosFigures): number {
  return figures.seed === 0 ? figures.seconds : calm.seconds;
}

function table(rows: readonly (readonly string[])[]): void {
  const head = [
    "seed",
    "kill/term/stop/join",
    "s",
    "executions",
    "slowdown",
    "scheduler errors",
    "leaks",
    "orphans ms",
    "answer",
  ];
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((cells) => cells[column]!.length)));
  for (const cells of all) say(cells.map((cell, i) => cell.padStart(widths[i]!)).join("  "), Deno.stdout);
}

function count(name: "seeds" | "seed" | "ops" | "faults" | "workers"): number {
  const value = Number(flags[name]);
  if (Number.isSafeInteger(value) && value >= (name === "faults" ? 0 : 1)) return value;
  say(`Cannot read --${name} "${flags[name]}": expected a whole number`);
  Deno.exit(2);
}

function say(line: string, to: { writeSync(bytes: Uint8Array): number } = Deno.stderr): void {
  to.writeSync(new TextEncoder().encode(`${line}\n`));
}
