/**
 * `deno task demo`: starts Python's scheduler and three TypeScript workers on this machine, runs the 500 ops of
 * `graph.ts` on them, and prints the best comparison. Progress goes to standard error, the result to standard output.
 */
import { connect, type Future } from "../../mod.ts";
import { type LoggedProcess, startLogged, startPythonScheduler } from "../../cluster/python_scheduler.ts";
import { DaskError } from "../../protocol/errors.ts";
import { clusterGraph } from "./graph.ts";
import { progressView } from "./progress_view.ts";

const WORKERS = 3;
const worker = new URL("../../worker/main.ts", import.meta.url).href;

try {
  await demo();
} catch (error) {
  if (!(error instanceof DaskError)) throw error;
  print(Deno.stderr, `${error.message}\n`);
  Deno.exit(1);
}

async function demo(): Promise<void> {
  await using processes = new AsyncDisposableStack();
  const scheduler = processes.use(
    await startPythonScheduler({ onProgress: (line) => print(Deno.stderr, `${line}\n`) }),
  );
  print(Deno.stderr, `dask ${scheduler.environment.version} scheduler at ${scheduler.address}\n`);
  const workers: LoggedProcess[] = [];
  for (let i = 1; i <= WORKERS; i++) {
    const args = [
      "run",
      "-A",
      "--quiet",
      worker,
      scheduler.address,
      "--nthreads",
      "1",
      "--name",
      `demo-${i}`,
      "--no-nanny",
    ];
    workers.push(processes.use(await startLogged(Deno.execPath(), args)));
  }
  await using client = await connect(scheduler.address);
  await client.waitForWorkers(WORKERS, { signal: AbortSignal.timeout(60_000) });

  const graph = clusterGraph();
  const start = performance.now();
  const futures = graph.ops.map((op) => client.submit(op));
  const view = progressView(Deno.stderr);
  for await (const { done, erred, total } of client.progress(futures)) view.show(done + erred, total);
  view.end();
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
