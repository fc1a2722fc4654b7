/**
 * One graph, three places: what this process, child processes and a cluster make of the same graphs, failures
 * included.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { ParallelExecutor } from "../cluster/parallel_executor.ts";
import { cluster } from "./client/cluster.ts";
import {
  AsyncExecutor,
  cleanup,
  collect,
  data,
  DispatchGraph,
  type Executor,
  type Op,
  op,
  type RetryPause,
  type RunOptions,
  task,
  type TaskOptions,
} from "../dispatch/mod.ts";
import { CancelledError, DependencyError, TaskError } from "../protocol/errors.ts";
import { sharedScheduler } from "./support/scheduler.ts";

const scheduler = await sharedScheduler();

const EXECUTORS: Readonly<Record<string, () => Promise<Executor & { reset(): Promise<void> }>>> = {
  "this process": () => Promise.resolve(new AsyncExecutor()),
  "child processes": () => Promise.resolve(new ParallelExecutor({ slots: 2 })),
  "a cluster": async () => {
    const { client, [Symbol.asyncDispose]: dispose } = await cluster(scheduler.address, 2);
    return Object.assign(client, { [Symbol.asyncDispose]: dispose });
  },
};

/** Runs `check` in all three places and compares what it gives. */
function everywhere(
  name: string,
  check: (executor: Executor & { reset(): Promise<void> }) => Promise<unknown>,
): void {
  Deno.test(`${name}: the same in this process, in child processes and on a cluster`, async (t) => {
    const answers: unknown[] = [];
    for (const [place, start] of Object.entries(EXECUTORS)) {
      await t.step(place, async () => {
        await using executor = await start();
        answers.push(await check(executor));
      });
    }
    assertEquals(answers.length, 3);
    assertEquals(answers[1], answers[0]);
    assertEquals(answers[2], answers[0]);
  });
}

/** A failure, as far as it is the same everywhere. */
function told(outcome: PromiseSettledResult<unknown>): unknown {
  if (outcome.status === "fulfilled") return outcome;
  const { reason } = outcome;
  assertInstanceOf(reason, TaskError);
  const { name, message } = reason.cause as Error;
  return {
    class: reason.name,
    key: reason.key,
    origin: reason instanceof DependencyError ? reason.origin : null,
    cause: `${name}: ${message}`,
    hasStack: reason.remoteStack.length > 0,
  };
}

const add = task((a: number, b: number) => a + b);
const fails = task((text: string): number => {
  throw new RangeError(text);
});
/** Fails until it has run `failures` times, as a file counts. */
const flaky = task((file: string, failures: number): number => {
  const runs = Deno.readTextFileSync(file).length;
  Deno.writeTextFileSync(file, "x", { append: true });
  if (runs < failures) throw new TypeError(`run ${runs}`);
  return runs;
});

async function counted<T>(use: (file: string, runs: () => number) => Promise<T>): Promise<T> {
  const file = await Deno.makeTempFile();
  try {
    return await use(file, () => Deno.readTextFileSync(file).length);
  } finally {
    await Deno.remove(file);
  }
}

everywhere("E1 E12 answers come in the order asked", async (executor) => {
  const parts = Array.from({ length: 20 }, (_, i) => add(i, 1));
  const pair = op((xs: number[]): [number, number] => [Math.max(...xs), Math.min(...xs)], parts);
  const generated = op(function* (n: number) {
    for (let i = 0; i < n; i++) yield i;
  }, 3);
  const [most, least] = pair;
  const nodes = [most, collect(parts), least, data({ x: [1, "a", null] }), generated, add(most, least), most];
  const answers = await executor.run(nodes);
  assertEquals(answers[5], 21);
  return answers;
});

everywhere("E2 a graph runs its leaves", async (executor) => {
  const one = add(0, 1);
  const leaves = new DispatchGraph([add(one, 1), add(one, 2)]).leaves;
  return await executor.run(leaves);
});

everywhere("E3 E4 inputs stand in for nodes, and what only they needed is not run", async (executor) => {
  const never = fails("not needed");
  const node = add(never, 1);
  const answers = await executor.run([add(node, 1), node], {
    inputs: new Map<Op<number>, unknown>([[node, 5]]),
  });
  assertEquals(answers, [6, 5]);
  return answers;
});

everywhere("E5 E6 E7 E8 each outcome is told, and a failure carries its origin", async (executor) => {
  const bad = fails("eight");
  const far = add(add(bad, 1), 1);
  const settled = await executor.runSettled([add(1, 1), bad, far, collect([add(2, 2), far])]);
  const outcomes = settled.map(told);
  assertEquals((outcomes[2] as { origin: string }).origin, bad.key);
  assertEquals((outcomes[1] as { cause: string }).cause, "RangeError: eight");
  const thrown = await executor.run([add(1, 1), far]).catch((error) =>
    told({ status: "rejected", reason: error })
  );
  assertEquals(thrown, outcomes[2]);
  return outcomes;
});

everywhere("E9 a cycle is refused before anything runs", async (executor) => {
  const first = add(data(1), 1), second = add(first, 1);
  (first.dependencies as Op<unknown>[]).push(second);
  return await executor.run([second]).then(() => "ran", (error) => `${error.name}: ${error.message}`);
});

everywhere("E13 retries repeat, and run out", async (executor) => {
  return await counted(async (file, runs) => {
    const answers: unknown[] = [await executor.run([flaky(file, 2)], { retries: 2 }), runs()];
    Deno.truncateSync(file);
    const [failed] = await executor.runSettled([flaky(file, 9)], { retries: 2, pure: false });
    answers.push(failed.status === "rejected" && (failed.reason.cause as Error).message, runs());
    Deno.truncateSync(file);
    // Without a word about it there are none.
    const [once] = await executor.runSettled([flaky(file, 1)]);
    answers.push(once.status, runs());
    return answers;
  });
});

everywhere(
  "E13 E14 retryOn decides, with growing pauses; what depends on the task waits",
  async (executor) => {
    return await counted(async (file, runs) => {
      const seen: string[] = [];
      let drawn = 0;
      const options: TaskOptions = {
        retryOn: (error) => {
          seen.push((error.cause as Error).message);
          return error.cause instanceof Error && error.cause.name === "TypeError";
        },
        retryPause: { first: 2, factor: 2, max: 5, jitter: 0.5, random: () => (drawn++, 0) },
      };
      const node = flaky.with(options)(file, 3);
      const answers = await executor.run([add(node, 10), node, add(node, 20)]);
      const decided = fails.with(options)("no");
      const [refused, after] = await executor.runSettled([decided, add(decided, 1)]);
      assertEquals(told(after), {
        ...told(refused) as object,
        class: "DependencyError",
        key: add(decided, 1).key,
        origin: decided.key,
      });
      return [answers, runs(), seen, drawn, (told(refused) as { cause: string }).cause];
    });
  },
);

everywhere(
  "E13 a node that nobody asked for is repeated for those who need it, and it alone",
  async (executor) => {
    return await counted(async (file, runs) => {
      const options: TaskOptions = { retryOn: () => true, retryPause: { first: 1 } };
      const node = flaky.with(options)(file, 2);
      const answers = await executor.run([add(node, 10), add(node, 20)]);
      const after = runs();
      return await counted(async (other, others) => {
        // A failure that nobody wants repeated is left as it is.
        const once = flaky(other, 99);
        const [own, both] = await executor.runSettled([flaky.with(options)(file, 5), add(once, 1)]);
        return [answers, after, own, both.status, others()];
      });
    });
  },
);

everywhere(
  "E13 with retryOn a task is repeated five times unless retries says otherwise",
  async (executor) => {
    return await counted(async (file, runs) => {
      const options: TaskOptions = { retryOn: () => true, retryPause: { first: 0 } };
      const [five] = await executor.runSettled([flaky.with(options)(file, 99)]);
      const after = runs();
      const [two] = await executor.runSettled([flaky.with({ ...options, retries: 2 })(file, 98)]);
      return [five.status, after, two.status, runs() - after];
    });
  },
);

everywhere("E13 a retryOn that throws fails the task, and says so", async (executor) => {
  const options: RunOptions = {
    retryOn: () => {
      throw new Error("cannot decide");
    },
  };
  const [outcome] = await executor.runSettled([fails("x")], options).catch((reason) =>
    [{ status: "rejected", reason }] as const
  );
  assert(outcome.status === "rejected");
  return /cannot decide/.test(outcome.reason.message);
});

everywhere("E17 a graph that runs again starts with clean results", async (executor) => {
  return await counted(async (file) => {
    const node = flaky(file, 1);
    const first = await executor.runSettled([add(node, 1)]);
    const second = await executor.runSettled([add(node, 1)]);
    return [first[0].status, second];
  });
});

everywhere("E18 reset gives up what runs; the executor goes on", async (executor) => {
  const never = op(() => new Promise<number>(() => {}));
  const run = executor.run([never]).then(() => null, (error) => error);
  await executor.run([add(1, 1)]);
  await executor.reset();
  assertInstanceOf(await run, CancelledError);
  return await executor.run([add(1, 2)]);
});

everywhere("N16 a cleanup runs after the children, whose values stay", async (executor) => {
  const parent = add(1, 1);
  const children = [add(parent, 1), add(parent, 2)];
  const [, ...values] = await executor.run([cleanup(parent, children), ...children]);
  return values;
});

everywhere("options that make no sense are refused by name", async (executor) => {
  const messages: string[] = [];
  const wrong: readonly Record<string, unknown>[] = [
    { retries: -1 },
    { retries: 1.5 },
    { retryOn: 5 },
    { retryPause: { first: -1 } },
    { retryPause: { factor: 0.5 } },
    { retryPause: { pause: 5 } },
    { retryPause: null },
    { timeout: 0 },
    { signal: {} },
    { nonsense: 1 },
  ];
  for (const options of wrong) {
    const error = await assertRejects(() => executor.run([add(1, 1)], options), TypeError);
    messages.push(error.message);
    assertStringIncludes(error.message, `"${Object.keys(options)[0]}"`);
  }
  await assertRejects(() => executor.run([add.with({ retries: -1 })(1, 1)]), TypeError, `"retries"`);
  await assertRejects(() => executor.run([5 as unknown as Op<number>]), TypeError, "expected an Op");
  return messages;
});

everywhere("the defaults of the pause are those that are told", async (executor) => {
  return await counted(async (file) => {
    let drawn = 0;
    const random: RetryPause["random"] = () => (drawn++, 0);
    const start = performance.now();
    await executor.run([flaky.with({ retryOn: () => true, retryPause: { random } })(file, 2)]);
    // 50 ms and 100 ms; timers may be a little early.
    return [drawn, performance.now() - start >= 145];
  });
});
