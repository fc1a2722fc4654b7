/**
 * `deno task demo`: starts Python's scheduler and three TypeScript workers on this machine, runs the 500 ops of
 * `graph.ts` on them, and prints the best comparison. Progress goes to standard error, the result to standard output.
 */
import { DaskError, type Future, showProgress } from "../../mod.ts";
import { localCluster } from "../local_cluster.ts";
import { clusterGraph } from "./graph.ts";

const WORKERS = 3;

try {
  await demo();
} catch (error) {
  if (!(error instanceof DaskError)) throw error;
  print(Deno.stderr, `${error.message}\n`);
  Deno.exit(1);
}

async function demo(): Promise<void> {
  await using cluster = await localCluster({ workers: WORKERS });
  const { client, version } = cluster;
  print(Deno.stderr, `dask ${version} scheduler at ${client.scheduler}\n`);

  const graph = clusterGraph();
  const start = performance.now();
  const futures = graph.ops.map((op) => client.submit(op));
  await showProgress(client.progress(futures), { unit: "ops" });
  const best = futures.at(-1) as Future<number>;
  const value = await best.result();
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  for (const future of futures) future.release();
  print(
    Deno.stdout,
    `best = ${value.toFixed(6)} (${graph.ops.length} ops, ${WORKERS} workers, ${seconds} s)\n`,
  );
}

function print(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  stream.writeSync(new TextEncoder().encode(text));
}
