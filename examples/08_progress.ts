/** How far is it? A bar over all tasks, and what one task says from inside. */
// deno-lint-ignore-file no-console
import { showProgress, tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using cluster = await localCluster();
const { client } = cluster;

// Tasks tell this topic how far they are.
const stop = new AbortController();
const topic = client.topic<{ key: string; done: number; total: number }>("dask-ts-progress", stop);
const heard: string[] = [];
const listening = (async () => {
  for await (const { done, total } of topic) heard.push(`${done}/${total}`);
})().catch(() => {}); // ends by the signal

const futures = client.map((i: number) => t.steps(`task ${i}`, 10), Array.from({ length: 12 }, (_, i) => i));
await showProgress(client.progress(futures));

console.log((await client.gather(futures)).at(-1));
stop.abort();
await listening;
console.log(heard.length > 0 ? "heard from inside" : "heard nothing");
