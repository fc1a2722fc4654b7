/** The TypeScript side of submitting many ops: the same as `submit.py`. */
import { connect, tasks } from "../mod.ts";

const [address = "", count = "0", known = ""] = Deno.args;
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using client = await connect(address);
const [cpu, start] = [cpuSeconds(), Date.now()];
const futures = client.map((i: number) => t.inc(i), range(Number(count)), { pure: false });
let seconds: number | null = null;
while (seconds === null) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  seconds = await Deno.readTextFile(known).then((text) => Number(text) - start / 1000, () => null);
}
const figures = { submitCpuSeconds: cpuSeconds() - cpu, submitSeconds: seconds };
for (const future of futures) future.release();
Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(figures)}\n`));

function* range(end: number): Generator<number> {
  for (let i = 0; i < end; i++) yield i;
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
