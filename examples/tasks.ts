/** Ordinary functions in a module, which the examples call on workers. A module travels with all that it imports. */
import { current } from "../mod.ts";

export const add = (a: number, b: number): number => a + b;

/** Both at once: a tuple, which can be destructured before it is computed. */
export const divmod = (a: number, b: number): [number, number] => [Math.trunc(a / b), a % b];

/** Takes jobs from a shared queue until it finds "stop", and says how many it did. */
export async function workThrough(jobs: string, results: string): Promise<number> {
  const client = await current().client();
  const [input, output] = [client.queue<number | "stop">(jobs), client.queue<number>(results)];
  const factor = await client.variable<number>("factor").get();
  for (let done = 0;; done++) {
    const job = await input.get();
    if (job === "stop") return done;
    await output.put(job * factor);
  }
}

/** The mean of all numbers that it was told, however many they are: an actor keeps it. */
export class Mean {
  count = 0;
  #sum = 0;

  tell(values: Float64Array): number {
    this.count += values.length;
    this.#sum += values.reduce((sum, value) => sum + value, 0);
    return this.value();
  }

  value(): number {
    return this.#sum / this.count;
  }
}

/** Tells the actor under a key of so many numbers from `from` on. */
export async function tellMean(key: string, from: number, count: number): Promise<void> {
  const client = await current().client();
  await using mean = await client.remote<Mean>(key);
  await mean.tell(Float64Array.from({ length: count }, (_, i) => from + i));
}

/** Works in steps and says how far it is. */
export async function steps(name: string, count: number): Promise<string> {
  const { progress } = current();
  for (let i = 1; i <= count; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    progress(i, count);
  }
  return `${name} is done`;
}

/** Says that it runs, and never ends by itself. */
export async function spin(slot: number): Promise<never> {
  current().log("spinning", { slot });
  await new Promise((resolve) => setTimeout(resolve, 20)); // news goes out when a task awaits
  while (true);
}

/** The numbers of the last column of a table of comma-separated values. */
export function parseCsv(text: string): Float64Array {
  const rows = text.trim().split("\n").slice(1);
  return Float64Array.from(rows, (row) => Number(row.split(",").at(-1)));
}

/** A chart of two curves as SVG: dots for the one, a line for the other. */
export function drawChart(dots: Float64Array, line: Float64Array, title: string): string {
  const [width, height] = [720, 240];
  const [low, high] = [Math.min(...dots), Math.max(...dots)];
  const y = (value: number): string =>
    (height - 20 - (value - low) / (high - low) * (height - 50)).toFixed(1);
  const x = (i: number): string => (10 + i / (dots.length - 1) * (width - 20)).toFixed(1);
  const offset = (dots.length - line.length) / 2;
  const points = Array.from(line, (value, i) => `${x(i + offset)},${y(value)}`).join(" ");
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif">
<text x="10" y="18">${title}</text>
${Array.from(dots, (value, i) => `<circle cx="${x(i)}" cy="${y(value)}" r="1.5" fill="#8aa"/>`).join("\n")}
<polyline points="${points}" fill="none" stroke="#c33" stroke-width="2"/>
</svg>
`;
}
