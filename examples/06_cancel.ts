/** Cancelling stops what runs: loops without end on every slot, cancelled, and how long until the slots work again. */
// deno-lint-ignore-file no-console
import { CancelledError, task, tasks } from "../mod.ts";
import { localCluster } from "./local_cluster.ts";

await using cluster = await localCluster({ workers: 2 });
const { client } = cluster;
const slots = (await client.workers()).map(({ address }) => address);

const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
const fresh = task(function fresh(slot: number) {
  return `slot ${slot} works`;
});

const spinning = client.topic("spinning");
const endless = slots.map((address, i) => client.submit(t.spin(i), { workers: [address] }));
for (const _ of slots) await spinning.next();
console.log(`${endless.length} loops without end run on ${slots.length} slots`);

const start = performance.now();
await client.cancel(endless);
const again = slots.map((address, i) => client.submit(fresh(i), { workers: [address] }));
for (const text of await client.gather(again)) console.log(text);
console.log(`after ${Math.round(performance.now() - start)} ms`);

const outcome = await endless[0]!.settled();
console.log(
  "the loop:",
  outcome.status,
  outcome.status === "rejected" && outcome.reason instanceof CancelledError,
);
