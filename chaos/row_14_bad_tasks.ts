/**
 * Row 14: bad user code gets a clear error to its client and does not take the worker down.
 *
 * @module
 */
import { startPythonScheduler } from "../cluster/python_scheduler.ts";
import { type Client, connect, op } from "../mod.ts";
import { type Row, startSubject, within } from "./frame.ts";

const ANSWER_MS_MAX = 30_000;

/** See the module. */
export const row: Row = {
  number: 14,
  title: "Bad user code does not take the cluster down",
  async run(report) {
    await using scheduler = await startPythonScheduler();
    await using worker = await startSubject(scheduler.address, ["--nthreads=1"]);
    await using client = await connect(scheduler.address);
    for (const [name, attempt, words] of CASES) {
      const said = await within(
        attempt(client).then((value) => `it gave ${value}`, (error) => `${error.name}: ${error.message}`),
        ANSWER_MS_MAX,
      );
      report.figure(name, said.split("\n")[0]!.slice(0, 160), words.source, words.test(said));
      using next = client.submit((a: number, b: number) => a + b, [20, 22], { pure: false });
      const sum = await within(next.result().catch(String), ANSWER_MS_MAX);
      if (sum !== 42) report.figure(`the next task after "${name}"`, String(sum), "42", false);
    }
    const workers = (await client.workers()).map(({ address }) => address);
    const survived = worker.alive() && workers.includes(worker.address);
    report.figure("the worker", survived ? "survived" : "died", "survived", survived);
  },
};

type Case = readonly [name: string, attempt: (client: Client) => Promise<unknown>, words: RegExp];

function failing(name: string, run: () => unknown, words: RegExp): Case {
  return [name, async (client) => {
    using future = client.submit(op(run));
    return await future.result();
  }, words];
}

const CASES: readonly Case[] = [
  failing(
    "a task that exits its process",
    () => Deno.exit(3),
    /WorkerLostError: .*Deno\.exit\(3\)/s,
  ),
  failing(
    "a task that kills its process",
    () => Deno.kill(Deno.pid, "SIGKILL"),
    /WorkerLostError: .*SIGKILL|NotCapable/s,
  ),
  failing(
    "a task whose promise fails unheard",
    async () => {
      Promise.reject(new Error("unheard"));
      await new Promise((resolve) => setTimeout(resolve, 50));
      return "unharmed";
    },
    /unheard|unharmed/,
  ),
  failing("a task that throws a text", () => {
    throw "just text";
  }, /TaskError: .*just text/s),
  failing("a task that throws nothing", () => {
    throw undefined;
  }, /TaskError: .*undefined/s),
  failing("a task that throws an object", () => {
    throw { code: "E1" };
  }, /TaskError: .*E1/s),
  failing("a task that throws an object without a prototype", () => {
    throw Object.create(null);
  }, /TaskError/),
  failing("a task that throws a trap", () => {
    throw new Proxy({}, {
      get() {
        throw new Error("trapped");
      },
    });
  }, /TaskError|WorkerLostError/),
  failing(
    "a result that cannot travel",
    () => ({ deep: new WeakMap() }),
    /SerializationError.*deep/s,
  ),
  failing("a result that is a function", () => () => 1, /SerializationError.*function/s),
  failing("a result with a getter that throws", () => ({
    get x() {
      throw new Error("no x");
    },
  }), /TaskError.*no x/s),
  failing("recursion without end", () => {
    const down = (): number => down() + 1;
    return down();
  }, /RangeError.*stack/s),
  ["a task without end that is cancelled", async (client) => {
    const giveUp = new AbortController();
    using future = client.submit(
      () => {
        for (;;);
      },
      [],
      { signal: giveUp.signal },
    );
    while ([...(await client.processing()).values()].flat().length === 0);
    giveUp.abort();
    return await future.result();
  }, /CancelledError|AbortError/],
  ["a task without end that has a time limit", async (client) => {
    using future = client.submit(
      () => {
        for (;;);
      },
      [],
      { timeout: 300 },
    );
    return await future.result();
  }, /300 ms|timeout|Timeout/],
];
