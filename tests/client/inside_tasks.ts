/**
 * Functions that tests run on workers, in which the package itself is used.
 *
 * @module
 */
import { current, op, Reschedule, tasks } from "../../mod.ts";

/** Key and try of the task, by the names that this module imports. */
export function whoAmI(): [string, number] {
  const { key, attempt } = current();
  return [key, attempt];
}

/** Fails until it is tried for the `n`-th time. */
export function succeedsAt(n: number): number {
  if (current().attempt < n) throw new Error(`try ${current().attempt}`);
  return current().attempt;
}

/** Runs only in the process of a worker with this id; elsewhere it waits for a file to have text, and leaves. */
export async function onlyIn(pid: number, file: string): Promise<number> {
  while (Deno.ppid !== pid) {
    if (await Deno.readTextFile(file) !== "") throw new Reschedule();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return Deno.ppid;
}

/** Adds on the cluster. */
export async function addsThere(a: number, b: number): Promise<number> {
  const { client: connect, progress } = current();
  progress(0, 1);
  const client = await connect();
  return await client.submit(op((x: number, y: number) => x + y, a, b)).result();
}

const own = tasks<typeof import("./inside_tasks.ts")>(import.meta.url);
const double = (n: number): number => 2 * n;

/** Goes on in further tasks of this module, with what it has beside them. */
export async function powerOfTwo(n: number): Promise<number> {
  if (n === 0) return 1;
  const client = await current().client();
  return double(await client.submit(own.powerOfTwo(n - 1)).result());
}

/** Closes the client, as other programs do. */
export async function closesItsClient(n: number): Promise<number> {
  await using client = await current().client();
  return await client.submit(op((n: number) => n, n)).result();
}
