/** Hello: one function on a worker, a graph of a module's functions, and the same graph without any cluster. */
// deno-lint-ignore-file no-console
import { AsyncExecutor, tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

await using cluster = await localCluster({ workers: 1 });
const { client } = cluster;

// A self-contained function travels as its source.
using hello = client.submit((name: string) => `Hello, ${name}, from process ${Deno.pid}`, ["world"]);
console.log((await hello.result()).replace(/ from process \d+/, (text) => `${text}, not ${Deno.pid}`));

// Functions of a module: calling one builds a node, and nothing runs.
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
const [quotient, remainder] = t.divmod(47, 5);
const sum = t.add(quotient, remainder);
console.log("on the cluster:", ...await client.run([quotient, remainder, sum]));

const [here] = await new AsyncExecutor().run([sum]);
console.log("in this process:", here);
