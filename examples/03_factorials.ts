/** Results in parts: tuples and lists are taken apart before they are computed, where the data is. */
// deno-lint-ignore-file no-console
import { collect, task } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const factorials = task((n: number) => {
  const list = [1n];
  for (let i = 1; i <= n; i++) list.push(list[i - 1]! * BigInt(i));
  return list;
});
const halves = task((x: bigint): [quotient: bigint, remainder: bigint] => [x / 2n, x % 2n]);
const text = task((label: string, x: bigint) => `${label} = ${x}`);

const list = factorials(30);
const [half, rest] = halves(list.at(30)); // at() takes one part; what is not asked for is not sent
const report = collect([text("30!", list.at(30)), text("half of it", half), text("remainder", rest)]);

await using cluster = await localCluster({ workers: 2 });
const [lines] = await cluster.client.run([report]);
for (const line of lines) console.log(line);
