/**
 * One chaos run: a scheduler, a fleet, a graph, the faults of a seed, and a look at what is left of it all.
 *
 * @module
 */
import { type PythonScheduler, startPythonScheduler } from "../cluster/python_scheduler.ts";
import { RpcPool } from "../comm/pool.ts";
import { tcp } from "../comm/tcp.ts";
import { type Client, connect, type Future } from "../mod.ts";
import { randomness } from "../tests/protocol/randomness.ts";
import { type Fault, planFaults, type PlannedFault } from "./faults.ts";
import { Fleet } from "./fleet.ts";
import { chaosGraph } from "./graph.ts";
import { unexplainedErrors } from "./scheduler_log.ts";

/** No value came for so long: stuck, ms. Longer than the scheduler's patience with a stopped worker, many times. */
const STUCK_MS = 120_000;
/** What was released must be forgotten by scheduler and workers within this, ms. */
const FORGET_MS_MAX = 30_000;
/** Keys whose story is printed when a run is stuck. */
const STORIES_MAX = 3;

/** Options of {@linkcode chaosRun}. */
export interface ChaosOptions {
  readonly ops: number;
  readonly faults: number;
  readonly workers: number;
  readonly seed: number;
  onProgress(done: number, total: number): void;
}

/** How a run went. */
export interface ChaosFigures {
  readonly seed: number;
  /** From submission to the last value. */
  readonly seconds: number;
  /** Faults that happened. */
  readonly faults: Readonly<Record<Fault["type"], number>>;
  /** Times that a function ran: more than there are ops, when results were lost. */
  readonly executions: number;
  /** Lines of the scheduler's log that tell of an error which no fault explains. */
  readonly schedulerErrors: number;
  /** Tasks, results, processes and files that were left. */
  readonly leaks: number;
  /** Longest time that an executor outlived its worker, ms. */
  readonly orphanMs: number;
  /** What went wrong; empty when all is well. */
  readonly failures: readonly string[];
}

/** Runs it; never rejects for what it is to find. */
export async function chaosRun(options: ChaosOptions): Promise<ChaosFigures> {
  const run = new Run(options);
  await using stack = new AsyncDisposableStack();
  const folder = await Deno.makeTempDir({ prefix: "dask-chaos-" });
  let keep = false;
  stack.defer(() => keep ? Promise.resolve() : Deno.remove(folder, { recursive: true }));
  const frames = await Deno.makeTempDir({ dir: "/dev/shm", prefix: "dask-chaos-" });
  stack.defer(() => Deno.remove(frames, { recursive: true }));
  await Deno.mkdir(`${folder}/tmp`);
  const scheduler = stack.use(
    await startPythonScheduler({
      env: {
        DASK_DISTRIBUTED__SCHEDULER__VALIDATE: "True",
        DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES: "100000",
        DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL: "8s",
      },
    }),
  );
  const rpc = stack.use(new RpcPool(tcp));
  const mark = ["DASK_TS_CHAOS", `${Deno.pid}-${crypto.randomUUID()}`] as const;
  const fleet = new Fleet({ scheduler: scheduler.address, size: options.workers, folder, frames, mark });
  try {
    await fleet.start();
    await run.compute(scheduler, fleet, rpc, `${folder}/tally`);
  } finally {
    await fleet.close();
  }
  await run.lookForFiles(scheduler.address, [frames, `${folder}/tmp`], mark);
  const figures = await run.figures(scheduler, fleet);
  if (figures.failures.length === 0) return figures;
  keep = true;
  await Deno.writeTextFile(`${folder}/scheduler.log`, await scheduler.log());
  return { ...figures, failures: [...figures.failures, `The logs are kept in ${folder}`] };
}

class Run {
  readonly #options: ChaosOptions;
  readonly #failures: string[] = [];
  readonly #faults: Record<Fault["type"], number> = { kill: 0, terminate: 0, stop: 0, join: 0 };
  #seconds = 0;
  #executions = 0;
  #leaks = 0;

  constructor(options: ChaosOptions) {
    this.#options = options;
  }

  /** Submits the graph, takes values as they come, does faults meanwhile, and looks whether all is forgotten after. */
  async compute(scheduler: PythonScheduler, fleet: Fleet, rpc: RpcPool, tally: string): Promise<void> {
    await Deno.writeTextFile(tally, "");
    const { wanted } = chaosGraph(this.#options.ops, tally);
    let stuck = false;
    {
      await using client = await connect(scheduler.address);
      const startedAt = performance.now();
      const futures = client.map((node) => node, wanted.map(({ node }) => node)) as Future<number>[];
      const arrivals = new Arrivals(futures.length, this.#options.onProgress);
      const faults = this.#injectFaults(fleet, arrivals);
      const values = futures.map(async (future, i) => {
        let value: unknown;
        try {
          value = await future.result();
        } catch (error) {
          value = error;
        }
        // What was fetched may go: only what is on its way can be lost.
        future.release();
        if (value !== wanted[i]!.value && !stuck) {
          this.#fail(`"${future.key}" is ${value}, expected ${wanted[i]!.value}`);
        }
        arrivals.one(future.key);
      });
      stuck = !await arrivals.all(STUCK_MS);
      if (stuck) {
        this.#fail(await stuckReport(client, rpc, fleet, futures.filter(({ key }) => !arrivals.has(key))));
        for (const future of futures) future.release();
      }
      this.#seconds = (performance.now() - startedAt) / 1000;
      arrivals.end();
      await Promise.all([...values, faults]);
    }
    this.#executions = (await Deno.stat(tally)).size;
    if (!stuck) await this.#lookForKeys(scheduler.address, rpc);
  }

  /** A worker that starts cleans up after those that were killed; when it has ended, nothing may be left. */
  async lookForFiles(
    scheduler: string,
    folders: readonly [frames: string, temporary: string],
    mark: readonly [string, string],
  ): Promise<void> {
    const [frames, temporary] = folders;
    const folder = await Deno.makeTempDir({ prefix: "dask-chaos-last-" });
    const last = new Fleet({ scheduler, size: 1, folder, frames, mark });
    // The same temporary folder as the others, so that it can clean there.
    await Deno.symlink(temporary, `${folder}/tmp`);
    await last.start();
    await last.close();
    await Deno.remove(folder, { recursive: true });
    for (const path of folders) {
      const left = [...Deno.readDirSync(path)].map(({ name }) => name);
      this.#leaks += left.length;
      if (left.length > 0) this.#fail(`Files are left in ${path}: ${left.join(", ")}`);
    }
  }

  async figures(scheduler: PythonScheduler, fleet: Fleet): Promise<ChaosFigures> {
    const errors = unexplainedErrors(await scheduler.log());
    if (errors.length > 0) this.#fail(`The scheduler says:\n${errors.slice(0, 5).join("")}`);
    this.#failures.push(...fleet.complaints);
    const happened = Object.values(this.#faults).reduce((sum, count) => sum + count, 0);
    if (happened < this.#options.faults) {
      this.#fail(`Only ${happened} of ${this.#options.faults} faults happened`);
    }
    return {
      seed: this.#options.seed,
      seconds: this.#seconds,
      faults: this.#faults,
      executions: this.#executions,
      schedulerErrors: errors.length,
      leaks: this.#leaks,
      orphanMs: fleet.orphanMs,
      failures: this.#failures,
    };
  }

  async #injectFaults(fleet: Fleet, arrivals: Arrivals): Promise<void> {
    for (const planned of planFaults(randomness(this.#options.seed), this.#options.faults)) {
      await arrivals.share(planned.progress);
      await pause(planned.delayMs);
      if (arrivals.over) return;
      await inject(fleet, planned);
      this.#faults[planned.fault.type]++;
    }
  }

  /** The client has gone: nobody wants anything, so nobody may keep anything. */
  async #lookForKeys(scheduler: string, rpc: RpcPool): Promise<void> {
    const end = performance.now() + FORGET_MS_MAX;
    for (;;) {
      const tasks = Object.entries(
        await rpc.call(scheduler, { op: "get_task_prefix_states" }) as Record<string, unknown>,
      );
      const workers = Object.keys(await rpc.call(scheduler, { op: "ncores", workers: null }) as object);
      // One that has been stopped or killed a moment ago answers later, or is known no more then.
      const kept = await Promise.all(workers.map(async (worker) => {
        const keys = await rpc.call(worker, { op: "keys" }, { timeoutMs: 5_000 }).catch((error) => [error]);
        return (keys as unknown[]).map((key) => `${worker} ${key}`);
      }));
      const left = [...tasks.map((task) => JSON.stringify(task)), ...kept.flat()];
      if (left.length === 0) return;
      if (performance.now() > end) {
        this.#leaks += left.length;
        return this.#fail(`Not forgotten after ${FORGET_MS_MAX} ms: ${left.slice(0, 20).join(", ")}`);
      }
      await pause(100);
    }
  }

  #fail(text: string): void {
    this.#failures.push(text);
  }
}

async function inject(fleet: Fleet, { fault, victim }: PlannedFault): Promise<void> {
  switch (fault.type) {
    case "kill":
      return await fleet.end("SIGKILL", victim);
    case "terminate":
      return await fleet.end("SIGTERM", victim);
    case "stop":
      return await fleet.stop(fault.ms, fault.executorsToo, victim);
    case "join":
      return await fleet.join();
  }
}

/** Counts values as they come, and wakes those who wait for a share of them. */
class Arrivals {
  readonly #total: number;
  readonly #onProgress: (done: number, total: number) => void;
  readonly #keys = new Set<string>();
  readonly #wakes = new Set<() => void>();
  #lastAt = performance.now();
  over = false;

  constructor(total: number, onProgress: (done: number, total: number) => void) {
    this.#total = total;
    this.#onProgress = onProgress;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  one(key: string): void {
    this.#keys.add(key);
    this.#lastAt = performance.now();
    if (!this.over) this.#onProgress(this.#keys.size, this.#total);
    this.#wake();
  }

  /** Until so much has come, 0 to 1, or it is over. */
  async share(share: number): Promise<void> {
    while (!this.over && this.#keys.size < share * this.#total) {
      await new Promise<void>((resolve) => this.#wakes.add(resolve));
    }
  }

  /** Whether all came; false when nothing came for `stuckMs`. */
  async all(stuckMs: number): Promise<boolean> {
    const watch = setInterval(() => this.#wake(), 1_000);
    try {
      while (this.#keys.size < this.#total) {
        if (performance.now() - this.#lastAt > stuckMs) return false;
        await new Promise<void>((resolve) => this.#wakes.add(resolve));
      }
      return true;
    } finally {
      clearInterval(watch);
    }
  }

  end(): void {
    this.over = true;
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#wakes) wake();
    this.#wakes.clear();
  }
}

/** Who believes what of the keys that do not come. */
async function stuckReport(
  client: Client,
  rpc: RpcPool,
  fleet: Fleet,
  missing: readonly Future<number>[],
): Promise<string> {
  const lines = [`Stuck: nothing came for ${STUCK_MS} ms, ${missing.length} values are missing`];
  const tell = async (what: string, answer: () => Promise<unknown>) => {
    const text = await answer().then((value) => JSON.stringify(value), String);
    lines.push(`${what}: ${text.slice(0, 10_000)}`);
  };
  const processing = await client.processing();
  lines.push(`the scheduler waits for: ${JSON.stringify([...processing])}`);
  await tell("the scheduler's tasks", () => rpc.call(client.scheduler, { op: "get_task_prefix_states" }));
  const keys = [...processing.values()].flat().slice(0, STORIES_MAX);
  if (keys.length === 0) keys.push(...missing.slice(0, STORIES_MAX).map(({ key }) => key));
  const story = { op: "get_story", keys_or_stimuli: keys };
  await tell("the scheduler's story", () => rpc.call(client.scheduler, story));
  for (const worker of (await client.workers()).map(({ address }) => address)) {
    await tell(`story of ${worker}`, () => rpc.call(worker, story, { timeoutMs: 5_000 }));
    await tell(`state of ${worker}`, () => rpc.call(worker, { op: "dump_state" }, { timeoutMs: 5_000 }));
  }
  lines.push(await fleet.logs(10));
  return lines.join("\n");
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
