/**
 * A gate that tasks in other processes pass: each says who it is and waits to be let through, so that a test can do
 * something while a task certainly runs.
 *
 * @module
 */
import { task } from "../../dispatch/mod.ts";

/** A task that waits at the gate. */
export interface Arrival {
  readonly pid: number;
  readonly name: string;
  /** How many came before it, and it: from 1. */
  readonly number: number;
  /** Lets it go on. */
  pass(): void;
}

/** Stands at the gate with this number of a port until it is let through; gives `value`. */
export const passGate = task(async (port: number, name: string, value: number): Promise<number> => {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode(`${Deno.pid} ${name}`));
  if (await conn.read(new Uint8Array(1)) === null) throw new Error("The gate was closed");
  return value;
});

/** Opens a gate; `arrived` is called for each task. */
export function openGate(arrived: (arrival: Arrival) => void): AsyncDisposable & { readonly port: number } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conns = new Set<Deno.Conn>();
  let count = 0;
  const meet = async (conn: Deno.Conn): Promise<void> => {
    conns.add(conn);
    const room = new Uint8Array(200);
    const bytes = await conn.read(room) ?? 0;
    const [pid = "", name = ""] = new TextDecoder().decode(room.subarray(0, bytes)).split(" ");
    const pass = (): void => void conn.write(new Uint8Array(1)).catch(() => {});
    arrived({ pid: Number(pid), name, number: ++count, pass });
    // Until the task, or its process, has gone.
    await conn.read(room).catch(() => null);
    if (conns.delete(conn)) conn.close();
  };
  const accepting = (async () => {
    const meetings: Promise<void>[] = [];
    for await (const conn of listener) meetings.push(meet(conn).catch(() => {}));
    await Promise.all(meetings);
  })();
  return {
    port: (listener.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose]() {
      listener.close();
      for (const conn of [...conns]) if (conns.delete(conn)) conn.close();
      await accepting;
    },
  };
}
