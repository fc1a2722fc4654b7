/** The TypeScript side of the bench: the same measurements as `python_client.py`, one JSON object on stdout. */
import { connect, tasks, wait } from "../mod.ts";

const [address = "", count = "", roundTrips = "", megabytes = ""] = Deno.args;
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using client = await connect(address);
await client.waitForWorkers(2);
const [a, b] = (await client.workers()).map((worker) => worker.address);
const fresh = { pure: false };

await wait(client.map((i: number) => t.inc(i), range(500), fresh));
const cpu = cpuSeconds();
let start = performance.now();
const futures = client.map((i: number) => t.inc(i), range(Number(count)), fresh);
await wait(futures);
const opsPerSecond = Number(count) / ((performance.now() - start) / 1000);
const clientCpuSeconds = cpuSeconds() - cpu;
for (const future of futures) future.release();

const samples: number[] = [];
for (let i = 0; i < Number(roundTrips); i++) {
  start = performance.now();
  using future = client.submit(t.inc(i), fresh);
  await future.result();
  samples.push(performance.now() - start);
}

const speeds: number[] = [];
for (let i = 0; i < 3; i++) {
  using array = client.submit(t.make(Number(megabytes) * 131072, i), { ...fresh, workers: [a!] });
  await wait([array]);
  start = performance.now();
  using last = client.submit(t.last(array), { ...fresh, workers: [b!] });
  if (await last.result() !== i) throw new Error("The transferred array differs");
  speeds.push(Number(megabytes) / ((performance.now() - start) / 1000));
}
const median = (values: number[]) => values.sort((x, y) => x - y)[Math.floor(values.length / 2)]!;
const result = {
  opsPerSecond,
  clientCpuSeconds,
  roundTripMs: median(samples),
  transferMBPerSecond: median(speeds),
};
Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(result)}\n`));

function cpuSeconds(): number {
  const { user, system } = Deno.build.os === "linux" ? (process.cpuUsage()) : { user: 0, system: 0 };
  return (user + system) / 1e6;
}

function* range(length: number): Iterable<number> {
  for (let i = 0; i < length; i++) yield i;
}
