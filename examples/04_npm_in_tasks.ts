/** A task that uses a package from npm: the module names it, the workers load it. Nothing was installed there. */
// deno-lint-ignore-file no-console
import { tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const t = tasks<typeof import("./npm_tasks.ts")>(new URL("./npm_tasks.ts", import.meta.url));
await using cluster = await localCluster();
const { client } = cluster;

const sources = ["let x = 1; x++;", "export const y = 2;", "for (;;) { break }; done(); done();"];
const futures = client.map((source: string) => t.statements(source), sources);
const counts = await client.gather(futures);
sources.forEach((source, i) => console.log(`${counts[i]} statements: ${source}`));
