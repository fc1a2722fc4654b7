/** One graph, two languages: TypeScript parses a table, numpy smooths it, TypeScript draws the chart. */
// deno-lint-ignore-file no-console
import { python, tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const file = Deno.args[0] ?? "temperatures.svg";
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
const convolve = python<(data: Float64Array, kernel: Float64Array, mode: "valid") => Float64Array>(
  "numpy:convolve",
);
const std = python<(data: Float64Array) => number>("numpy:std");

// A year of temperatures, made up.
let random = 1;
const noise = () => (random = random * 16807 % 2147483647) / 2147483647 - 0.5;
const days = Array.from({ length: 365 }, (_, day) => {
  const season = -10 * Math.cos(2 * Math.PI * (day - 20) / 365);
  return `${new Date(Date.UTC(2026, 0, 1 + day)).toISOString().slice(0, 10)},${
    (10 + season + 8 * noise()).toFixed(1)
  }`;
});
const csv = `date,temperature\n${days.join("\n")}\n`;

await using cluster = await localCluster({ workers: 1, pythonWorkers: 1 });
const { client } = cluster;

const WINDOW = 29;
const readings = t.parseCsv(csv); // TypeScript
const smooth = convolve(readings, new Float64Array(WINDOW).fill(1 / WINDOW), "valid"); // Python
const chart = t.drawChart(readings, smooth, "Temperatures of a year, °C"); // TypeScript

const [svg, before, after, line] = await client.run([chart, std(readings), std(smooth), smooth]);
await Deno.writeTextFile(file, svg);
console.log(`spread: ${before.toFixed(2)} °C by day, ${after.toFixed(2)} °C as means of ${WINDOW} days`);
console.log(`numpy gave a ${line.constructor.name} of ${line.length}; the chart is in ${file}`);
