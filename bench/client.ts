/** The TypeScript side of the bench: the same measurements as `python_client.py`, one JSON object on stdout. */
import { connect, tasks, wait } from "../mod.ts";

const [address = "", count = "0", roundTrips = "0", megabytes = ""] = Deno.args;
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using client = await connect(address);
const [from, to] = ["a", Number(count) > 0 ? "b" : "c"];
await client.waitForWorkers(Number(count) > 0 ? 2 : 3);
const named = new Map((await client.workers()).map((worker) => [worker.name, worker.address]));
const [a, b] = [named.get(from), named.get(to)];
const fresh = { pure: false };

let result: Record<string, number> = {};
if (Number(count) > 0) {
  result = { ...await throughput(Number(count)), roundTripMs: await roundTrip(Number(roundTrips)) };
}

const speeds: number[] = [];
for (let i = 0; i < 3; i++) {
  using array = client.submit(t.make(Number(megabytes) * 131072, i), { ...fresh, workers: [a!] });
  await wait([array]);
  const start = performance.now();
  using last = client.submit(t.last(array), { ...fresh, workers: [b!] });
  if (await last.result() !== i) throw new Error("The transferred array differs");
  speeds.push(Number(megabytes) / ((performance.now() - start) / 1000));
}
result.transferMBPerSecond = median(speeds);
Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(result)}\n`));

/** The median of three runs, after one of a twentieth: a worker lives for hours, not for its first seconds. */
async function throughput(count: number): Promise<{ opsPerSecond: number; clientCpuSeconds: number }> {
  const speeds: number[] = [];
  const cpus: number[] = [];
  for (const ops of [count / 20, count, count, count]) {
    const cpu = cpuSeconds();
    const start = performance.now();
    const futures = client.map((i: number) => t.inc(i), range(ops), fresh);
    await wait(futures);
    speeds.push(ops / ((performance.now() - start) / 1000));
    cpus.push(cpuSeconds() - cpu);
    for (const future of futures) future.release();
    await rest();
  }
  return { opsPerSecond: median(speeds.slice(1)), clientCpuSeconds: median(cpus.slice(1)) };
}

async function roundTrip(count: number): Promise<number> {
  const samples: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    using future = client.submit(t.inc(i), fresh);
    await future.result();
    samples.push(performance.now() - start);
  }
  return median(samples);
}

/** Time for the cluster to forget what was released, so that it is not counted in the next run. */
function rest(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 2_000));
}

function median(values: number[]): number {
  return values.sort((x, y) => x - y)[Math.floor(values.length / 2)]!;
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function* range(length: number): Iterable<number> {
  for (let i = 0; i < length; i++) yield i;
}
