/**
 * Stateful tasks by themselves: what is told of their making, and how their calls end when something goes.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { silent } from "../../../base/log.ts";
import { readActor } from "../../../protocol/actor.ts";
import { decodeValue, encodeValue, type ReadablePayload } from "../../../protocol/value.ts";
import type { ExecutorCall, Outcome } from "../../../worker/execute/executor.ts";
import type { TaskPermissions } from "../../../worker/execute/permissions.ts";
import { startProcessPool } from "../../../worker/execute/processes.ts";
import { type InstanceCall, StatefulTasks } from "../../../worker/execute/stateful.ts";
import { startThreadPool } from "../../../worker/execute/threads.ts";
import { isAlive } from "../../support/proc.ts";
import { callOf, inputOf } from "./specs.ts";

/** Stateful tasks in a folder of their own, and all that they told. */
class TestTasks implements AsyncDisposable {
  readonly directory = Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "dask-ts-test-" });
  readonly told: string[] = [];
  readonly outcomes = new Map<string, Outcome>();
  readonly tasks: StatefulTasks;
  #waiting: { readonly word: string; readonly met: () => void }[] = [];

  constructor(permissions?: TaskPermissions, isolation: "process" | "thread" = "process") {
    const { directory } = this;
    this.tasks = new StatefulTasks({
      start: (listener, permissions, lost) =>
        isolation === "thread"
          ? startThreadPool({ slots: 1, listener, permissions, lost })
          : startProcessPool({
            slots: 1,
            directory,
            socketDirectory: directory,
            listener,
            permissions,
            lost,
            graceMs: 20,
          }),
      permissions,
      address: "tcp://me:1",
      logger: silent,
      listener: {
        started: (key) => this.#tell(`started ${key}`),
        withdrawn: (key) => this.#tell(`withdrawn ${key}`),
        seceded: (key) => this.#tell(`seceded ${key}`),
        event: (key, _runId, topic) => this.#tell(`event ${key} ${topic}`),
        items: (key) => this.#tell(`items ${key}`),
        ended: (key, _runId, outcome) => {
          this.outcomes.set(key, outcome);
          this.#tell(`ended ${key} ${outcome.type}`);
        },
      },
    });
  }

  /** Resolves when this was told. */
  hears(word: string): Promise<void> {
    if (this.told.includes(word)) return Promise.resolve();
    return new Promise((met) => this.#waiting.push({ word, met }));
  }

  /** Why the making of an instance failed. */
  async failure(key: string): Promise<string> {
    await this.hears(`ended ${key} failed`);
    const outcome = this.outcomes.get(key);
    assert(outcome?.type === "failed");
    return outcome.exceptionText;
  }

  call(key: string, method: string, ...args: unknown[]): Promise<unknown> {
    return this.answer(key, { method, args: args.map((arg) => encodeValue(arg)), options: new Map() });
  }

  /** The value of a call, or the text of its failure. */
  async answer(key: string, call: InstanceCall): Promise<unknown> {
    const outcome = await this.tasks.call(key, call);
    if (outcome.type !== "succeeded") return outcome.type === "failed" ? outcome.exceptionText : outcome.type;
    return decodeValue(outcome.payload as ReadablePayload);
  }

  get processes(): readonly number[] {
    return this.tasks.pools.flatMap((pool) => pool.processes());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tasks[Symbol.asyncDispose]();
    assertEquals([...Deno.readDirSync(this.directory)], []);
    await Deno.remove(this.directory);
  }

  #tell(word: string): void {
    this.told.push(word);
    const met = this.#waiting.filter((waiting) => waiting.word === word);
    this.#waiting = this.#waiting.filter((waiting) => waiting.word !== word);
    for (const waiting of met) waiting.met();
  }
}

/** A call that makes a `Counter`; `extra` are further members of the class. */
function making(key: string, extra = "", runId = 1): ExecutorCall {
  const source = `class Counter {
    constructor(n) { this.n = n; this.begin?.(); }
    add(by) { return this.n += by; }
    ${extra}
  }`;
  const hash = `${key}${extra}`.padEnd(64, "0");
  const start = inputOf("ten", 10);
  return callOf(
    key,
    { function: { kind: "source", hash, source }, args: [{ $dependency: 0 }] },
    [start],
    runId,
  );
}

for (const isolation of ["process", "thread"] as const) {
  Deno.test(`an instance is made of its inputs, called, and freed: ${isolation}`, async () => {
    await using test = new TestTasks(undefined, isolation);
    test.tasks.place(making("c"));
    await test.hears("ended c succeeded");
    const made = test.outcomes.get("c");
    assert(made?.type === "succeeded");
    assertEquals(readActor(decodeValue(made.payload as ReadablePayload)), {
      className: "Counter",
      key: "c",
      address: "tcp://me:1",
      methods: ["add"],
      fields: ["n"],
    });
    assertEquals(await Promise.all([test.call("c", "add", 1), test.call("c", "add", 2)]), [11, 13]);
    assertEquals(await test.answer("c", { attribute: "n" }), 13);
    const unknown = await Promise.all([
      test.call("c", "constructor"),
      test.call("c", "toString"),
      test.answer("c", { attribute: "__proto__" }),
    ]);
    for (const text of unknown) assertStringIncludes(String(text), "of the actor Counter: its ");
    test.tasks.free(["c"]);
    assertStringIncludes(String(await test.call("c", "add", 1)), "is not on this worker");
    assertEquals(test.told, ["started c", "ended c succeeded"]);
  });
}

Deno.test("what cannot be made fails, and nothing is left of it", async () => {
  await using test = new TestTasks();
  test.tasks.place(making("throws", `begin() { throw new RangeError("no"); }`));
  assertStringIncludes(await test.failure("throws"), "RangeError: no");
  test.tasks.place(
    making("elsewhere", `begin() { throw Object.assign(new Error(), { name: "Reschedule" }); }`),
  );
  assertStringIncludes(await test.failure("elsewhere"), "only tasks can ask for that");
  test.tasks.place({ ...making("nonsense"), annotations: { deno: { timeout: "soon" } } });
  assertStringIncludes(await test.failure("nonsense"), "deno.timeout");
  test.tasks.place(making("exits", "begin() { Deno.exit(7); }"));
  assertStringIncludes(await test.failure("exits"), "Deno.exit(7) was called");
  test.tasks.place({ ...making("late", "begin() { for (;;); }"), annotations: { deno: { timeout: 50 } } });
  assertStringIncludes(await test.failure("late"), "longer than its timeout of 50 ms");
  assertEquals(test.tasks.pools, []);
  for (const key of ["throws", "elsewhere", "nonsense", "exits", "late"]) {
    assertEquals(test.told.filter((word) => word.includes(key)), [`started ${key}`, `ended ${key} failed`]);
  }
});

Deno.test("one that is being made is withdrawn before it begins, and aborted after", async () => {
  await using test = new TestTasks();
  test.tasks.place(making("early"));
  test.tasks.withdraw("early", 1);
  await test.hears("withdrawn early");
  test.tasks.withdraw("early", 1);
  test.tasks.abort("nobody", 1, "no");
  test.tasks.place(making("late", "begin() { for (;;); }"));
  await test.hears("started late");
  test.tasks.free(["late"]); // it is no value yet
  test.tasks.abort("late", 1, "nobody wants it");
  assertStringIncludes(await test.failure("late"), "nobody wants it");
  assertEquals(test.told.slice(0, 3), ["withdrawn early", "withdrawn early", "withdrawn nobody"]);
});

Deno.test("its permissions are its own, and no more than those of tasks", async () => {
  await using test = new TestTasks({ env: ["HOME"] });
  const read = "home() { return Deno.env.get('HOME'); } path() { return Deno.env.get('PATH'); }";
  test.tasks.place(making("all", read));
  test.tasks.place({ ...making("less", read), annotations: { deno: { permissions: "none" } } });
  test.tasks.place({ ...making("more", read), annotations: { deno: { permissions: { env: true } } } });
  await Promise.all(["all", "less", "more"].map((key) => test.hears(`ended ${key} succeeded`)));
  const home = Deno.env.get("HOME");
  assertEquals([await test.call("all", "home"), await test.call("more", "home")], [home, home]);
  for (const key of ["all", "less", "more"]) {
    assertStringIncludes(String(await test.call(key, "path")), "NotCapable");
  }
  assertStringIncludes(String(await test.call("less", "home")), "NotCapable");
  assertEquals(test.processes.length, 3);
});

Deno.test("when its executor ends, its calls fail with how that was, until it is freed", async () => {
  await using test = new TestTasks();
  const endless = "forever() { return new Promise(() => {}); }";
  test.tasks.place(making("c", endless));
  await test.hears("ended c succeeded");
  const [pid] = test.processes;
  const calls = [test.call("c", "forever"), test.call("c", "add", 1), test.call("c", "add", 2)];
  Deno.kill(pid!, "SIGKILL");
  for (const text of await Promise.all(calls)) {
    assertStringIncludes(String(text), "ExecutorLostError");
    assertStringIncludes(String(text), "SIGKILL");
  }
  assertStringIncludes(String(await test.call("c", "add", 1)), "SIGKILL");
  assertEquals(test.processes, []);
  test.tasks.free(["c"]);
  assertStringIncludes(String(await test.call("c", "add", 1)), "is not on this worker");

  test.tasks.place(making("d", endless));
  await test.hears("ended d succeeded");
  // As when it takes too much memory.
  const [pool] = test.tasks.pools;
  const call = test.call("d", "forever");
  pool!.terminate(pool!.processes()[0]!, "was ended at 2 GiB of 1 GiB");
  assertStringIncludes(String(await call), "was ended at 2 GiB of 1 GiB");
});

Deno.test("the end of all ends its processes and answers its calls", async () => {
  let calls: Promise<unknown>[];
  let processes: readonly number[];
  {
    await using test = new TestTasks();
    test.tasks.place(making("c", "forever() { return new Promise(() => {}); }"));
    await test.hears("ended c succeeded");
    ({ processes } = test);
    calls = [test.call("c", "forever"), test.call("c", "add", 1)];
  }
  for (const text of await Promise.all(calls)) assertStringIncludes(String(text), "its worker ends");
  assertEquals(processes.filter(isAlive), []);
});
