/** Tasks that talk while they run: two of them share the jobs of a queue; a variable tells both by what to multiply. */
// deno-lint-ignore-file no-console
import { tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using cluster = await localCluster({ workers: 2 });
const { client } = cluster;

await client.variable<number>("factor").set(10);
const jobs = client.queue<number | "stop">("jobs");
const results = client.queue<number>("results");

// Equal calls are one task, and these two are meant to be two.
const workers = [1, 2].map(() => client.submit(t.workThrough("jobs", "results"), { pure: false }));
for (let job = 1; job <= 20; job++) await jobs.put(job);
for (const _ of workers) await jobs.put("stop");

const done = await client.gather(workers);
let sum = 0;
for (let i = 0; i < 20; i++) sum += await results.get();
console.log(
  `jobs done: ${done.reduce((a, b) => a + b)}, by ${done.length} tasks; sum of the results: ${sum}`,
);
