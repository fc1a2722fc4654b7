/**
 * `deno task memory`: far more results than memory pass through one worker with a limit. All are kept, then each is
 * summed by a task and, some of them, gathered by the client; every value is checked. Prints the peak of what the
 * worker took, which is the PSS of its processes and its RAM-backed files, and exits with 1 when that was too much, a
 * value was wrong or a file is left.
 *
 * Words, all optional: gigabytes of results (10), gigabytes of the limit (1).
 *
 * @module
 */
import { startLogged, startPythonScheduler } from "../cluster/python_scheduler.ts";
import { connect, tasks } from "../mod.ts";

const VALUE_BYTES = 25e6;
/** The peak may be this many times the limit. */
const PEAK_MAX = 1.3;
const SAMPLE_MS = 100;
/** Every so many values one is gathered by the client. */
const GATHER_EVERY = 20;

const [totalBytes = 10e9, limitBytes = 1e9] = Deno.args.map((word) => Number(word) * 1e9);
const count = Math.round(totalBytes / VALUE_BYTES);
const length = VALUE_BYTES / 8;
const t = tasks<typeof import("./memory_tasks.ts")>(new URL("./memory_tasks.ts", import.meta.url));

Deno.exit(await run() ? 0 : 1);

async function run(): Promise<boolean> {
  await using stack = new AsyncDisposableStack();
  const folder = await Deno.makeTempDir({ prefix: "dask-memory-" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const scheduler = stack.use(await startPythonScheduler());
  const worker = stack.use(
    await startLogged(Deno.execPath(), [
      "run",
      "-A",
      "--quiet",
      new URL("../worker/main.ts", import.meta.url).href,
      scheduler.address,
      "--no-nanny",
      "--nthreads=1",
      `--memory-limit=${limitBytes}`,
      `--local-directory=${folder}`,
    ]),
  );
  const figures = sample(worker.pid, folder);
  let wrong = 0;
  const startedAt = performance.now();
  {
    await using client = await connect(scheduler.address);
    await client.waitForWorkers(1, { signal: AbortSignal.timeout(60_000) });
    const blocks = client.map(
      (index: number) => t.block(index, length),
      Array.from({ length: count }, (_, i) => i),
    );
    for (const future of blocks) await future.settled();
    print(
      `${count} results of ${VALUE_BYTES / 1e6} MB are there after ${
        seconds(startedAt)
      } s; ${figures.text()}`,
    );
    const totals = client.map((block: typeof blocks[number]) => t.total(block), blocks);
    for (const [index, future] of totals.entries()) {
      if (await future.result() !== expected(index)) wrong++;
    }
    for (let index = 0; index < count; index += GATHER_EVERY) {
      const block = await blocks[index]!.result();
      if (block.length !== length || block.reduce((sum, number) => sum + number, 0) !== expected(index)) {
        wrong++;
      }
    }
    for (const future of [...blocks, ...totals]) future.release();
  }
  const { code } = await worker.stop(10_000);
  figures.stop();
  const left = [...Deno.readDirSync(folder)].length + filesOf(worker.pid).length;
  const good = wrong === 0 && left === 0 && code === 0 && figures.peakBytes < limitBytes * PEAK_MAX;
  print(
    `${count} values checked after ${
      seconds(startedAt)
    } s: ${wrong} wrong; ${left} folders left; ${figures.text()}`,
  );
  print(`${good ? "ok" : "FAILED"}: at most ${mb(limitBytes * PEAK_MAX)} are allowed`);
  if (!good) print(await worker.log());
  return good;
}

/** What `total` gives for a block. */
function expected(index: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += index + (i % 1024) / 1024;
  return sum;
}

interface Figures {
  readonly peakBytes: number;
  text(): string;
  stop(): void;
}

/** Looks at a worker now and then. */
function sample(pid: number, folder: string): Figures {
  let [peakBytes, peakFiles, peakDisk] = [0, 0, 0];
  const look = (): void => {
    const files = filesOf(pid).reduce((sum, path) => sum + bytesUnder(path), 0);
    const bytes = files + treeOf(pid).reduce((sum, process) => sum + privateBytes(process), 0);
    peakFiles = Math.max(peakFiles, files);
    peakDisk = Math.max(peakDisk, bytesUnder(folder));
    peakBytes = Math.max(peakBytes, bytes);
  };
  const timer = setInterval(look, SAMPLE_MS);
  return {
    get peakBytes() {
      return peakBytes;
    },
    text: () =>
      `peak ${mb(peakBytes)}, RAM-backed files up to ${mb(peakFiles)}, on disk up to ${mb(peakDisk)}`,
    stop: () => clearInterval(timer),
  };
}

/** Folders of a worker in shared memory. */
function filesOf(pid: number): string[] {
  return [...Deno.readDirSync("/dev/shm")].filter(({ name }) => name.startsWith(`dask-ts-${pid}-`)).map((
    { name },
  ) => `/dev/shm/${name}`);
}

function bytesUnder(path: string): number {
  let bytes = 0;
  try {
    for (const { name, isDirectory } of Deno.readDirSync(path)) {
      bytes += isDirectory ? bytesUnder(`${path}/${name}`) : Deno.lstatSync(`${path}/${name}`).size;
    }
  } catch { /* removed meanwhile */ }
  return bytes;
}

function treeOf(pid: number): number[] {
  const found = [pid];
  for (const parent of found) {
    try {
      for (const thread of Deno.readDirSync(`/proc/${parent}/task`)) {
        const children = Deno.readTextFileSync(`/proc/${parent}/task/${thread.name}/children`);
        found.push(...children.trim().split(" ").filter((word) => word !== "").map(Number));
      }
    } catch { /* it ended meanwhile */ }
  }
  return found;
}

/**
 * PSS of a process without files of shared memory that it has mapped: those are counted as files. So is a private page
 * that was written to, as anonymous memory.
 */
function privateBytes(pid: number): number {
  try {
    const rollup = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
    const kB = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(rollup)?.[1] ?? 0);
    return (kB("Pss") - kB("Pss_Shmem")) * 1024;
  } catch {
    return 0;
  }
}

function seconds(since: number): string {
  return ((performance.now() - since) / 1000).toFixed(1);
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}
