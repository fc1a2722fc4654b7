/** An object that stays on a worker: this program and tasks on all workers call it, and it keeps what they told it. */
// deno-lint-ignore-file no-console
import { tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using cluster = await localCluster({ workers: 2 });
const { client } = cluster;

const mean = await client.actor(t.Mean, [], { key: "mean" });
console.log(`after two numbers: ${await mean.tell(Float64Array.of(1, 2))}`);

// Tasks find it by its key.
const told = client.map((from: number) => t.tellMean("mean", from, 100), [
  3,
  103,
  203,
  303,
  403,
  503,
  603,
  703,
  803,
]);
await client.gather([...told, client.submit(t.tellMean("mean", 903, 98))]);
console.log(`of ${await mean.count} numbers: ${await mean.value()}`);

// Released, it ends with its process: unless somebody else wants it.
await mean[Symbol.asyncDispose]();
await mean.value().catch((error) => console.log(`after its end: ${error.message}`));
