/**
 * Functions that tests run on workers, in which the package itself is used.
 *
 * @module
 */
import { current, op, Reschedule } from "../../mod.ts";

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

/** Runs only in the process of a worker with this id. */
export function onlyIn(pid: number): number {
  if (Deno.ppid !== pid) throw new Reschedule();
  return Deno.ppid;
}

/** Adds on the cluster. */
export async function addsThere(a: number, b: number): Promise<number> {
  const client = await current().client();
  return await client.submit(op((x: number, y: number) => x + y, a, b)).result();
}
