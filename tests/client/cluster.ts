/**
 * What the tests of the client share: a scheduler, workers as processes of their own that end with the test, a client,
 * and small waits for things that the client is not told of.
 *
 * @module
 */
import { Client, connect } from "../../client/mod.ts";
import { type LoggedProcess, workerProcess } from "../support/scheduler.ts";

/** A client and its workers, all ended with the test. */
export interface Cluster extends AsyncDisposable {
  readonly client: Client;
  /** Addresses of the workers, in the order in which they registered. */
  readonly addresses: readonly string[];
  readonly processes: readonly LoggedProcess[];
}

/** Starts `count` workers of one slot each, and a client, at a scheduler that has no other workers. */
export async function cluster(
  scheduler: string,
  count: number,
  args: readonly string[] = [],
): Promise<Cluster> {
  const stack = new AsyncDisposableStack();
  try {
    const client = stack.use(await connect(scheduler));
    await until(async () => (await client.workers()).length === 0);
    const processes = await Promise.all(
      Array.from(
        { length: count },
        () => workerProcess(scheduler, ["--nthreads", "1", "--no-nanny", ...args]),
      ),
    );
    for (const process of processes) stack.use(process);
    try {
      await client.waitForWorkers(count, { signal: AbortSignal.timeout(30_000) });
    } catch (cause) {
      const logs = await Promise.all(processes.map((process) => process.log()));
      throw new Error(`Not all of ${count} workers came; they say:\n${logs.join("\n---\n")}`, { cause });
    }
    const addresses = (await client.workers()).map(({ address }) => address);
    const owned = stack.move();
    return { client, addresses, processes, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  } finally {
    await stack.disposeAsync();
  }
}

/** Waits for something that nobody announces; fails after `limitMs`. */
export async function until(condition: () => boolean | Promise<boolean>, limitMs = 15_000): Promise<void> {
  const end = Date.now() + limitMs;
  while (!await condition()) {
    if (Date.now() > end) throw new Error(`Waited ${limitMs} ms in vain for ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A moment. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
