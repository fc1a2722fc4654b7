/**
 * What the examples run on: Python's scheduler, and workers as processes of this machine, all ended with the example.
 * A program of yours only needs `connect("tcp://host:8786")`.
 *
 * @module
 */
import { type Client, connect } from "../mod.ts";
import { pythonEnv, startLogged, startPythonScheduler } from "../cluster/python_scheduler.ts";

/** A client, and what ends with it. */
export interface LocalCluster extends AsyncDisposable {
  readonly client: Client;
  /** Version of dask. */
  readonly version: string;
}

/** Starts a scheduler, workers of one slot each, and a client. `pythonWorkers`: how many of Python's beside. */
export async function localCluster(
  options: { readonly workers?: number; readonly pythonWorkers?: number } = {},
): Promise<LocalCluster> {
  const { workers = 3, pythonWorkers = 0 } = options;
  await using stack = new AsyncDisposableStack();
  const scheduler = stack.use(
    await startPythonScheduler({
      onProgress: (line) => Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`)),
    }),
  );
  const { address, folder, environment } = scheduler;
  const common = [address, "--nthreads", "1", "--no-nanny"];
  const worker = new URL("../worker/main.ts", import.meta.url).href;
  for (let i = 1; i <= workers; i++) {
    const args = ["run", "-A", "--quiet", worker, ...common, "--name", `typescript-${i}`];
    stack.use(await startLogged(Deno.execPath(), args));
  }
  for (let i = 1; i <= pythonWorkers; i++) {
    const args = ["-m", "dask", "worker", ...common, "--no-dashboard", "--name", `python-${i}`];
    stack.use(
      await startLogged(environment.python, [...args, "--local-directory", folder], {
        env: pythonEnv(folder),
      }),
    );
  }
  const client = stack.use(await connect(address));
  await client.waitForWorkers(workers + pythonWorkers, { signal: AbortSignal.timeout(60_000) });
  const owned = stack.move();
  return { client, version: environment.version, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
