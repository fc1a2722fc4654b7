import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import type { Logger } from "../../base/log.ts";
import { ParallelExecutor } from "../../cluster/parallel_executor.ts";
import {
  AsyncExecutor,
  collect,
  data,
  DispatchGraph,
  FUTURE,
  type FutureLike,
  type Op,
  op,
  task,
  tasks,
} from "../../dispatch/mod.ts";
import {
  CancelledError,
  DaskError,
  DependencyError,
  SerializationError,
  TaskError,
  WorkerLostError,
} from "../../protocol/errors.ts";
import { current } from "../../worker/execute/current.ts";
import { type Arrival, openGate, passGate } from "../support/gate.ts";

const quiet: Logger = { log: () => {} };
const add = task((a: number, b: number) => a + b);
const pid = task((_: number) => Deno.pid);

/** Seven nodes, each of which passes the gate; the last one gives 60. */
function gatedGraph(port: number): Op<number> {
  const before = [1, 2, 3].map((i) => passGate(port, `a${i}`, i));
  const after = before.map((node, i) => passGate(port, `b${i}`, op((x: number) => 10 * x, node)));
  return passGate(port, "sum", op((xs: number[]) => xs.reduce((x, y) => x + y), after));
}

function isAlive(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return true;
  } catch {
    return false;
  }
}

Deno.test("E11: one, two and three processes give the same answer, as this process does", async () => {
  const parts = Array.from({ length: 12 }, (_, i) => add(i, 1));
  const pair = op((xs: number[]): [number, number] => [Math.max(...xs), Math.min(...xs)], parts);
  const nodes = [collect(parts), pair[0], pair[1], add(pair[0], pair[1])] as const;
  const expected = await new AsyncExecutor().run(nodes);
  for (const slots of [1, 2, 3]) {
    await using executor = new ParallelExecutor({ slots });
    assertEquals(await executor.run(nodes), expected);
    assertEquals(await executor.run(new DispatchGraph([add(1, 1), add(2, 2)])), [2, 4]);
  }
});

Deno.test("E11: nodes run in processes of their own, as many at a time as there are slots", async () => {
  const arrivals: Arrival[] = [];
  await using gate = openGate((arrival) => {
    arrivals.push(arrival);
    // The third can come only when one of the first two has ended.
    if (arrivals.length === 2) arrivals.forEach((each) => each.pass());
    if (arrivals.length > 2) arrival.pass();
  });
  await using executor = new ParallelExecutor({ slots: 2 });
  const nodes = [1, 2, 3].map((i) => passGate(gate.port, "x", i));
  assertEquals(await executor.run(nodes), [1, 2, 3]);
  const pids = new Set(arrivals.map(({ pid }) => pid));
  assertEquals(pids.size, 2);
  assert(!pids.has(Deno.pid));
});

Deno.test("E15: a node whose process is killed runs again elsewhere, whatever retries says", async () => {
  const pids: number[] = [];
  await using gate = openGate((arrival) => {
    pids.push(arrival.pid);
    if (arrival.number <= 2) Deno.kill(arrival.pid, "SIGKILL");
    else arrival.pass();
  });
  await using executor = new ParallelExecutor({ slots: 1, retries: 0, retryOn: () => false, logger: quiet });
  assertEquals(await executor.run([passGate(gate.port, "x", 7)]), [7]);
  assertEquals(new Set(pids).size, 3);
});

Deno.test("E15: a node that ends process after process is given up, and what needs it with it", async () => {
  await using executor = new ParallelExecutor({ slots: 1, logger: quiet, retryPause: { first: 1 } });
  const deadly = op((): number => Deno.exit(3));
  const [own, after, other] = await executor.runSettled([deadly, add(deadly, 1), add(1, 1)]);
  assert(own.status === "rejected" && after.status === "rejected");
  assertInstanceOf(own.reason, WorkerLostError);
  assertEquals(own.reason.attempts.length, 6);
  assertMatch(own.reason.attempts[0]!.exit, /code 3/);
  assertInstanceOf(after.reason, DependencyError);
  assertEquals(after.reason.origin, deadly.key);
  assertEquals(other, { status: "fulfilled", value: 2 });
});

for (const kills of [1, 2]) {
  for (const first of [1, 2, 3, 4, 5, 6]) {
    Deno.test(`E16: ${kills} of the processes killed, from node ${first} on: the answer is right`, async () => {
      let runs = 0;
      await using gate = openGate((arrival) => {
        runs = arrival.number;
        if (arrival.number >= first && arrival.number < first + kills) Deno.kill(arrival.pid, "SIGKILL");
        else arrival.pass();
      });
      await using executor = new ParallelExecutor({ slots: 2, logger: quiet });
      assertEquals(await executor.run([gatedGraph(gate.port)]), [60]);
      assertEquals(runs, 7 + kills);
    });
  }
}

Deno.test("E17: a graph that runs again in processes starts clean", async () => {
  await using executor = new ParallelExecutor({ slots: 1 });
  const chance = op(() => Math.random());
  const twice = op((x: number) => [x, x], chance);
  const [[a, b]] = await executor.run([twice]);
  const [[c]] = await executor.run([twice]);
  assertEquals(a, b);
  assertNotEquals(a, c);
});

Deno.test("E18: reset cancels what runs; the processes stay and go on", async () => {
  const running = Promise.withResolvers<void>();
  await using gate = openGate(() => running.resolve());
  await using executor = new ParallelExecutor({ slots: 2 });
  const before = new Set(await executor.run([pid(1), pid(2), pid(3)]));
  const run = assertRejects(() => executor.run([passGate(gate.port, "x", 1)]), CancelledError, "reset");
  await running.promise;
  await executor.reset();
  await run;
  const after = await executor.run([4, 5, 6, 7, 8].map((i) => pid(i)));
  assert(after.some((each) => before.has(each)));
});

Deno.test("E22: a logger is told what runs, ends, fails and is repeated", async () => {
  for (const local of [true, false]) {
    const lines: string[] = [];
    const logger: Logger = {
      log: (level, message, fields) => {
        if (level === "debug" && fields?.["node"] !== undefined) {
          lines.push(`${message} ${fields["attempt"] ?? ""}`.trim());
        }
      },
    };
    const flaky = task((x: number): number => {
      if (current().attempt === 1) throw new Error("first");
      return x;
    }).with({ label: "flaky", retries: 1, retryPause: { first: 0 } });
    const bad = task((_: number): number => {
      throw new Error("bad");
    }).with({ label: "bad" });
    await using executor = local ? new AsyncExecutor({ logger }) : new ParallelExecutor({ slots: 1, logger });
    await executor.runSettled([bad(flaky(1))]);
    assertEquals(lines, [
      `Runs "flaky" 1`,
      `Repeats "flaky"`,
      `Runs "flaky" 2`,
      `Has run "flaky"`,
      `Runs "bad" 1`,
      `Failed "bad"`,
    ]);
  }
});

Deno.test("large values go from process to process as they are", async () => {
  await using executor = new ParallelExecutor({ slots: 2 });
  const large = op((n: number) => new Float64Array(n).fill(0.5), 200_000);
  const sums = [1, 2, 3].map((i) =>
    op((xs: Float64Array, factor: number) => factor * xs.reduce((a, b) => a + b), large, i)
  );
  const bytes = new Uint8Array(300_000).map((_, i) => i);
  const [back, ...values] = await executor.run([
    op((xs: Uint8Array) => xs.map((x) => x ^ 1), data(bytes)),
    ...sums,
  ]);
  assertEquals(values, [100_000, 200_000, 300_000]);
  assertEquals(back, bytes.map((x) => x ^ 1));
});

Deno.test("no file of a value is left when a run is over, and no folder when the executor has ended", async () => {
  const folder = () => {
    const folders: string[] = [];
    for (const base of ["/dev/shm", Deno.env.get("TMPDIR") ?? "/tmp"]) {
      for (const { name } of Deno.readDirSync(base)) {
        if (name.startsWith(`dask-ts-${Deno.pid}-`)) folders.push(`${base}/${name}`);
      }
    }
    return folders;
  };
  assertEquals(folder(), []);
  {
    await using executor = new ParallelExecutor({ slots: 1 });
    const large = op((n: number) => new Uint8Array(n), 200_000);
    const bad = op((_: Uint8Array): number => {
      throw new Error("no");
    }, large);
    await executor.runSettled([large, bad, op((x: Uint8Array) => x.length, large)]);
    const files = folder().flatMap((path) => [...Deno.readDirSync(path)].map(({ name }) => name));
    assertEquals(files.filter((name) => /\.r\d+$|spool|\.s\d+$/.test(name)), []);
  }
  assertEquals(folder(), []);
});

Deno.test("modules travel by their content, and tasks of them run in the processes", async () => {
  const t = tasks<typeof import("../client/tasks.ts")>(new URL("../client/tasks.ts", import.meta.url));
  await using executor = new ParallelExecutor({ slots: 2 });
  assertEquals(await executor.run([t.area(t.area(1, 2), t.divmod(7, 2)[0])]), [6]);
});

Deno.test("futures in arguments, in lists and as inputs are read", async () => {
  const future: FutureLike<number> = { key: "k", [FUTURE]: true, result: () => Promise.resolve(20) };
  const lost: FutureLike<number> = {
    key: "l",
    [FUTURE]: true,
    result: () => Promise.reject(new Error("gone")),
  };
  await using executor = new ParallelExecutor({ slots: 1 });
  const node = op((a: number, xs: number[]) => a + xs[0]!, future, [future]);
  assertEquals(await executor.run([node]), [40]);
  assertEquals(await executor.run([node, add(node, 1)], { inputs: new Map([[node, future]]) }), [20, 21]);
  await assertRejects(() => executor.run([add(lost, 1)]), DependencyError, "gone");
});

Deno.test("what cannot be sent is refused before anything runs", async () => {
  await using executor = new ParallelExecutor({ slots: 1 });
  await assertRejects(() => executor.run([op((x: unknown) => x, () => 1)]), SerializationError, "args[0]");
  const outside = 1;
  await assertRejects(() => executor.run([op(() => outside)]), TypeError, "outside");
  assertThrows(() => new ParallelExecutor({ slots: 0 }), RangeError, "0 slots");
  assertThrows(() => new ParallelExecutor({ slots: 1.5 }), RangeError, "1.5 slots");
});

Deno.test("timeout: a node that takes too long is stopped, also when it keeps the processor to itself", async () => {
  await using executor = new ParallelExecutor({ slots: 1, logger: quiet });
  const spin = task((_: number): number => {
    for (;;);
  }).with({ timeout: 50 });
  const [spun, other] = await executor.runSettled([spin(1), add(1, 1)]);
  assert(spun.status === "rejected");
  assertInstanceOf(spun.reason, TaskError);
  assertEquals((spun.reason.cause as Error).name, "TimeoutError");
  assertEquals(other, { status: "fulfilled", value: 2 });
});

Deno.test("signal: cancels the run and stops what runs", async () => {
  const controller = new AbortController();
  const running = Promise.withResolvers<void>();
  await using gate = openGate(() => running.resolve());
  await using executor = new ParallelExecutor({ slots: 1 });
  const run = assertRejects(
    () => executor.run([passGate(gate.port, "x", 1)], { signal: controller.signal }),
    CancelledError,
    "enough",
  );
  await running.promise;
  controller.abort(new Error("enough"));
  await run;
  assertEquals(await executor.run([add(1, 2)]), [3]);
});

Deno.test("closing ends all processes, by using, await using and close, and refuses further runs", async () => {
  const pids = new Set<number>();
  const ended = async (): Promise<void> => {
    while ([...pids].some(isAlive)) await new Promise((resolve) => setTimeout(resolve, 10));
  };
  {
    await using executor = new ParallelExecutor({ slots: 2 });
    for (const each of await executor.run([1, 2, 3, 4].map((i) => pid(i)))) pids.add(each);
  }
  assertEquals([...pids].filter(isAlive), []);
  let kept: ParallelExecutor;
  {
    using executor = kept = new ParallelExecutor({ slots: 1 });
    for (const each of await executor.run([pid(5)])) pids.add(each);
  }
  await kept.close();
  await ended();
  await assertRejects(() => kept.run([add(1, 1)]), DaskError, "is closed");
  await kept.close();
  // Never used: nothing was started.
  await new ParallelExecutor().close();
});

Deno.test("without --allow-run the error says so", async () => {
  const program = `
    import { op, ParallelExecutor } from "${new URL("../../mod.ts", import.meta.url)}";
    const executor = new ParallelExecutor({ slots: 1 });
    await executor.run([op(() => 1)]).catch((error) => console.log(error.name + ": " + error.message));
    await executor.close();
  `;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, program);
    const { stdout, stderr, code } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--no-prompt",
        "--allow-read",
        "--allow-write",
        "--allow-net",
        "--allow-env",
        file,
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const said = new TextDecoder().decode(stdout);
    assertStringIncludes(said, "DaskError: ");
    assertStringIncludes(said, "--allow-run");
  } finally {
    await Deno.remove(file);
  }
});
