/** Many small calls as one graph: three numbers, each increased by 1, 10 and 100, all summed up. */
// deno-lint-ignore-file no-console
import { DispatchGraph, task } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const inc = task(function inc(x: number) {
  return x + 1;
});
const add = task(function add(x: number, y: number) {
  return x + y;
});
const sum = task(function sum(...parts: number[]) {
  return parts.reduce((x, y) => x + y);
});

const a = [1, 2, 3].map((i) => inc(i));
const b = a.map((x) => add(x, 10));
const c = a.map((x) => add(x, 100));
const total = sum(sum(...a), sum(...b), sum(...c));
// Named functions, so that keys, messages and the dashboard can say what is what.
console.log(String(new DispatchGraph([total])), "and nothing has run");

await using cluster = await localCluster();
const [value] = await cluster.client.run([total]);
console.log("total:", value);
