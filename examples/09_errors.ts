/** What fails: the error of a task, what follows from it, and running it again. */
// deno-lint-ignore-file no-console
import { DependencyError, task, TaskError } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

await using cluster = await localCluster({ workers: 1 });
const { client } = cluster;

const half = task(function half(x: number) {
  if (x % 2 !== 0) throw new RangeError(`${x} is odd`);
  return x / 2;
});
const add = task(function add(a: number, b: number) {
  return a + b;
});

// Each with its own outcome; the good one is not lost.
const [good, bad, dependent] = await client.runSettled([half(4), half(3), add(half(4), half(3))]);
console.log("half(4):", good.status === "fulfilled" && good.value);
if (bad.status === "rejected" && bad.reason instanceof TaskError) {
  console.log("half(3):", String(bad.reason.cause));
}
if (dependent.status === "rejected" && dependent.reason instanceof DependencyError) {
  console.log("add: not run, because of", dependent.reason.origin.split("-")[0]);
}

// Again, a few times: the scheduler repeats a task that fails.
const flaky = task(function flaky(file: string) {
  const tries = Number(Deno.readTextFileSync(file)) + 1;
  Deno.writeTextFileSync(file, String(tries));
  if (tries < 3) throw new Error(`try ${tries}`);
  return tries;
});
const file = await Deno.makeTempFile();
await Deno.writeTextFile(file, "0");
using future = client.submit(flaky(file), { retries: 5 });
console.log("flaky: there after", await future.result(), "tries");
await Deno.remove(file);
