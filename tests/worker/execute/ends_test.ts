/**
 * How calls end that do not end by themselves: aborts, timeouts, executors that die.
 */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type ExecutorCall, ISOLATIONS } from "../../../worker/execute/executor.ts";
import { inputOf, sourceCall, TestPool } from "./specs.ts";

declare const current: () => { signal: AbortSignal; secede(): void };

const add = (a: number, b: number) => a + b;
const spin = () => {
  for (;;);
};
/** Ends `ms` after its signal was aborted; null: never. */
const obeysAfter = (ms: number | null) =>
  new Promise((resolve) => {
    const { signal } = current();
    signal.addEventListener("abort", () => {
      if (ms !== null) setTimeout(() => resolve(`obeyed ${signal.reason.name}`), ms);
    });
  });

/** The call with its own policy. */
function under(deno: Readonly<Record<string, unknown>>, call: ExecutorCall): ExecutorCall {
  return { ...call, annotations: { deno } };
}

// --- Aborts ---

Deno.test("a call that acknowledges its abort has the grace, one that cannot has none", async () => {
  // Were there a grace for the one, or none for the other, this test would not come to an end.
  await using test = new TestPool({ slots: 2, graceMs: 1e6, acknowledgeMs: 1_000 });
  await test.pool.ready();
  test.pool.place(sourceCall("obeys", obeysAfter, [1_500]));
  test.pool.place(sourceCall("spins", spin));
  await test.started("obeys");
  await test.started("spins");
  for (const key of ["obeys", "spins"]) test.pool.abort(key, 1, "enough");
  assertStringIncludes(failureText(await test.ended("spins")), `Stopped task "spins": enough`);
  assertEquals(test.valueOf(await test.ended("obeys")), "obeyed AbortError");
});

Deno.test("a call that acknowledges and goes on is ended after the grace", async () => {
  await using test = new TestPool({ graceMs: 100, acknowledgeMs: 1e6 });
  test.pool.place(sourceCall("ignores", obeysAfter, [null]));
  await test.started("ignores");
  test.pool.abort("ignores", 1, "enough");
  assertStringIncludes(failureText(await test.ended("ignores")), "AbortError");
  assertEquals(await test.value(sourceCall("next", add, [1, 2])), 3);
});

Deno.test("a slot runs fresh work soon after its executor was ended", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  const gaps: number[] = [];
  for (let round = 0; round < 5; round++) {
    test.pool.place(sourceCall(`spin${round}`, spin));
    await test.started(`spin${round}`);
    test.pool.place(sourceCall(`next${round}`, () => Date.now()));
    const asked = Date.now();
    test.pool.abort(`spin${round}`, 1, "enough");
    gaps.push(test.valueOf(await test.ended(`next${round}`)) as number - asked);
    await test.ended(`spin${round}`);
  }
  // deno-lint-ignore no-console
  console.log(
    `from abort to fresh work, 50 ms of waiting for the acknowledgement included: ${gaps.join(", ")} ms`,
  );
});

Deno.test("a seceded call is aborted without harm to its old slot", async () => {
  await using test = new TestPool({ acknowledgeMs: 100 });
  test.pool.place(sourceCall("away", () => {
    current().secede();
    for (;;);
  }));
  await test.until(() => test.story().includes("seceded away"));
  test.pool.place(sourceCall("pid1", () => Deno.pid));
  const pid = test.valueOf(await test.ended("pid1"));
  test.pool.abort("away", 1, "enough");
  assertStringIncludes(failureText(await test.ended("away")), "enough");
  assertEquals(await test.value(sourceCall("pid2", () => Deno.pid)), pid);
});

// --- Timeouts ---

for (const isolation of ISOLATIONS) {
  Deno.test(`${isolation}: a call that runs longer than its timeout fails with a TimeoutError`, async () => {
    await using test = new TestPool({ isolation, acknowledgeMs: 1e6, graceMs: 1e6 });
    // Obeying late is failing, too.
    const { exceptionText } = await test.failure(
      under({ timeout: 50 }, sourceCall("slow", obeysAfter, [1])),
    );
    assertEquals(
      exceptionText,
      `TimeoutError: Stopped task "slow": it ran longer than its timeout of 50 ms`,
    );
    assertEquals(await test.value(under({ timeout: 1e6 }, sourceCall("quick", add, [1, 2]))), 3);
    assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
  });

  Deno.test(`${isolation}: a policy that makes no sense fails its own call only`, async () => {
    await using test = new TestPool({ isolation });
    const { exceptionText } = await test.failure(under({ timeout: -1 }, sourceCall("bad", add, [1, 2])));
    assertStringIncludes(exceptionText, "annotation deno.timeout");
    assertEquals(test.story(), ["started bad", "ended bad"]);
    assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
  });
}

Deno.test("permissions with which no process can be started fail their own call only", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  const strange = under({ permissions: { read: ["/a\0b"] } }, sourceCall("strange", add, [1, 2]));
  assertMatch((await test.failure(strange)).exceptionText, /Cannot|nul/);
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
});

Deno.test("a call that spins is ended at its timeout; what waited behind it does not age", async () => {
  await using test = new TestPool();
  await test.pool.ready();
  test.pool.place(under({ timeout: 300 }, sourceCall("spin", spin)));
  test.pool.place(under({ timeout: 10_000 }, sourceCall("waits", add, [1, 2])));
  assertMatch(failureText(await test.ended("spin")), /^TimeoutError: .*timeout of 300 ms/);
  assertEquals(test.valueOf(await test.ended("waits")), 3);
});

Deno.test("what a call made too late leaves no file", async () => {
  await using test = new TestPool({ acknowledgeMs: 1e6, graceMs: 1e6 });
  const late = () =>
    new Promise((resolve) => {
      current().signal.addEventListener("abort", () => resolve(new Uint8Array(1_000_000)));
    });
  assertMatch(
    (await test.failure(under({ timeout: 20 }, sourceCall("late", late)))).exceptionText,
    /Timeout/,
  );
  await test.pool.close();
  assertEquals(test.files(), []);
});

// --- Ends of executors ---

const DEATHS: { [what: string]: { run: () => unknown; args?: unknown[]; expected: RegExp } } = {
  SIGSEGV: { run: spin, expected: /ended by signal 11 \(SIGSEGV\)/ },
  SIGKILL: { run: spin, expected: /ended by signal 9 \(SIGKILL\)/ },
  SIGTERM: { run: spin, expected: /ended by signal 15 \(SIGTERM\)/ },
  "Deno.exit(0)": { run: () => Deno.exit(0), expected: /code 0: Deno.exit\(0\) was called/ },
  "Deno.exit(3)": { run: () => Deno.exit(3), expected: /code 3: Deno.exit\(3\) was called/ },
  heap: {
    run: () => {
      const all: unknown[] = [];
      for (;;) all.push(new Array(1_000).fill(Math.random()));
    },
    expected: /MemoryError.*ran out of memory \(V8 heap limit/s,
  },
  "closing all that it has open": {
    run: () => {
      // By a door that is no API, as a task could that means harm.
      const { internal } = Deno as unknown as { internal: symbol };
      const { core } = (Deno as unknown as Record<symbol, { core: Core }>)[internal]!;
      for (const id of Object.keys(core.resources())) if (Number(id) > 2) core.tryClose(Number(id));
      for (;;);
    },
    expected: /was ended by the worker: it closed its connection to the worker/,
  },
};

for (const [what, { run, expected }] of Object.entries(DEATHS)) {
  Deno.test(`an executor ended by ${what} costs its own call alone, and says so`, async () => {
    await using test = new TestPool({ slots: 2, v8Flags: ["--max-old-space-size=48"] });
    await test.pool.ready();
    const other = new Uint8Array(300_000).fill(1);
    const input = inputOf("input", other);
    const total = (bytes: Uint8Array) => bytes.reduce((sum, byte) => sum + byte, 0);
    assertEquals(await test.value(sourceCall("before", total, [{ $dependency: 0 }], [input])), 300_000);
    const source = `() => {
      for (let i = 0; i < 30; i++) console.error("line " + i);
      console.log("pid " + Deno.pid);
      return (${run})();
    }`;
    test.pool.place(sourceCall("dies", source));
    await test.started("dies");
    test.pool.place(sourceCall("w1", total, [{ $dependency: 0 }], [input]));
    test.pool.place(sourceCall("w2", total, [{ $dependency: 0 }], [input]));
    const ended = test.ended("dies");
    if (what.startsWith("SIG")) {
      const line = await test.until(() => test.lines.find((line) => line.includes("pid ")));
      await kill(Number(/pid (\d+)/.exec(line)![1]), what as Deno.Signal, ended);
    }
    const outcome = await ended;
    assertMatch(failureText(outcome), expected);
    assertEquals(test.story("dies"), ["started dies", "ended dies"]);
    for (const key of ["w1", "w2"]) {
      assertEquals(test.valueOf(await test.ended(key)), 300_000);
      assertEquals(test.story(key), [`started ${key}`, `ended ${key}`]);
    }
    await test.pool.close();
    assertEquals(test.files(), []);
  });
}

Deno.test("endless recursion and a huge array are ordinary errors", async () => {
  await using test = new TestPool();
  const recursion = `() => { const f = (n) => 1 + f(n + 1); return f(0); }`;
  assertMatch((await test.failure(sourceCall("deep", recursion))).exceptionText, /Maximum call stack/);
  assertMatch(
    (await test.failure(sourceCall("huge", () => new ArrayBuffer(2 ** 52)))).exceptionText,
    /RangeError: Array buffer allocation failed/,
  );
  assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
});

Deno.test("array buffers that do not fit into memory are an ordinary error", async () => {
  const folder = await Deno.makeTempDir();
  // A limit of the address space: Deno itself reserves about 18 GB of it.
  const limited = `${folder}/deno`;
  await Deno.writeTextFile(limited, `#!/bin/sh\nulimit -v 45000000\nexec "${Deno.execPath()}" "$@"\n`, {
    mode: 0o700,
  });
  try {
    await using test = new TestPool({ execPath: limited });
    const hoard = () => {
      const all: ArrayBuffer[] = [];
      for (let i = 0; i < 100; i++) all.push(new ArrayBuffer(2 ** 30));
    };
    assertMatch((await test.failure(sourceCall("hoard", hoard))).exceptionText, /allocation failed/);
    assertEquals(await test.value(sourceCall("after", add, [1, 2])), 3);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** Sends a signal until the call ended: the first SIGSEGV from outside is taken for one that Deno's runtime explains. */
async function kill(pid: number, signal: Deno.Signal, ended: Promise<unknown>): Promise<void> {
  const send = () => {
    try {
      Deno.kill(pid, signal);
    } catch { /* it is gone */ }
  };
  send();
  const timer = setInterval(send, 50);
  await ended;
  clearInterval(timer);
}

interface Core {
  resources(): Record<string, string>;
  tryClose(id: number): void;
}

function failureText(outcome: { type: string; exceptionText?: string }): string {
  assertEquals(outcome.type, "failed");
  return outcome.exceptionText ?? "";
}
