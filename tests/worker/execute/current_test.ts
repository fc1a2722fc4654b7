/**
 * What tasks ask about themselves and say, and what becomes of it, in a pool without a scheduler.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Current, Reschedule as RescheduleClass } from "../../../worker/execute/current.ts";
import { EVENT_BYTES_MAX, PROGRESS_MS, PROGRESS_TOPIC } from "../../../worker/execute/news.ts";
import { CURRENT_MODULE, PACKAGE_MODULE } from "../../../protocol/call.ts";
import { callOf, inputOf, namedCall, sha256, sourceCall, TestPool } from "./specs.ts";

// What functions that travel by their source find around them.
declare const current: () => Current;
declare const Reschedule: typeof RescheduleClass;

/** What a test's calls said, `[topic, message]` each. */
function events(test: TestPool, key: string): [string, unknown][] {
  return test.told.flatMap((told) =>
    told.type === "event" && told.key === key ? [[told.topic, told.message] as [string, unknown]] : []
  );
}

Deno.test("a task knows its key, its try and that nobody has stopped it, also after it has waited", async () => {
  await using test = new TestPool();
  const ask = async () => {
    const before = current().key;
    await new Promise((resolve) => setTimeout(resolve, 5));
    return [before, current().key, current().attempt, current().signal.aborted];
  };
  assertEquals(await test.value(sourceCall("me", ask)), ["me", "me", 1, false]);
  assertEquals(await test.value({ ...sourceCall("again", ask), attempt: 3 }), ["again", "again", 3, false]);
});

Deno.test("events are plain data; anything else is refused where it is said", async () => {
  await using test = new TestPool();
  const say = (event: unknown) => {
    const { log } = current(); // taken out, it works all the same
    log("topic", event);
  };
  const fine: unknown[] = [
    null,
    true,
    1.5,
    "text",
    [1, [2]],
    { a: { b: [null] } },
    new Uint8Array([1, 2]),
  ];
  for (const [i, event] of fine.entries()) {
    await test.value(sourceCall(`fine-${i}`, say, [event]));
    const [[topic, message]] = events(test, `fine-${i}`) as [[string, unknown]];
    assertEquals([topic, structuredClone(message)], ["topic", plain(event)]);
  }
  await test.value(sourceCall("undefined", () => current().log("topic", undefined)));
  assertEquals(events(test, "undefined"), [["topic", null]]);

  const bad: [string, () => unknown, RegExp][] = [
    ["function", () => current().log("topic", () => 1), /under "topic".*plain|lists and records/],
    ["class", () => current().log("topic", { when: new Date(0) }), /Date/],
    ["set", () => current().log("topic", new Set([1])), /a Set/],
    ["python", () => current().log("topic", { __Enum__: true }), /begins with "__"/],
    ["large", () => current().log("topic", "x".repeat(2_000_000)), /at most 1048576/],
    ["endless", () => {
      const loop: unknown[] = [];
      loop.push(loop);
      current().log("topic", loop);
    }, /deep|depth/i],
    ["no topic", () => current().log("", 1), /expected its topic/],
  ];
  for (const [key, fn, expected] of bad) {
    const { exceptionText } = await test.failure(sourceCall(key, fn));
    assertMatch(exceptionText, expected, key);
    assertMatch(exceptionText, /Cannot log an event/, key);
    assertEquals(events(test, key), [], key);
  }
  assertEquals(EVENT_BYTES_MAX, 1_048_576);
});

/** As msgpack gives records back: without a prototype. */
function plain(value: unknown): unknown {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
}

Deno.test("an event is what it was when it was said", async () => {
  await using test = new TestPool();
  await test.value(sourceCall("changes", () => {
    const event = { n: 0 };
    for (; event.n < 3; event.n++) current().log("topic", event);
  }));
  assertEquals(events(test, "changes").map(([, message]) => (message as { n: number }).n), [0, 1, 2]);
});

Deno.test("of much progress little is told, and always the last", async () => {
  await using test = new TestPool();
  const began = performance.now();
  const steps = async (count: number) => {
    const { progress } = current();
    for (let i = 1; i <= count; i++) {
      progress(i, count);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  await test.value(sourceCall("many", steps, [250]));
  const told = events(test, "many");
  const most = Math.ceil((performance.now() - began) / PROGRESS_MS) + 2;
  assert(told.length > 1 && told.length <= most, `${told.length} of at most ${most}`);
  for (const [topic, message] of told) {
    assertEquals(topic, PROGRESS_TOPIC);
    assertEquals((message as { key: string }).key, "many");
  }
  assertEquals({ ...told[0]![1] as object }, { key: "many", done: 1, total: 250 });
  assertEquals({ ...told.at(-1)![1] as object }, { key: "many", done: 250, total: 250 });

  await test.value(sourceCall("busy", () => {
    for (let i = 0; i < 1_000; i++) current().progress(i);
  }));
  assertEquals({ ...events(test, "busy").at(-1)![1] as object }, { key: "busy", done: 999, total: null });
  await test.failure(sourceCall("fails", () => {
    current().progress(1);
    current().progress(2);
    throw new Error("half way");
  }));
  assertEquals(events(test, "fails").map(([, message]) => (message as { done: number }).done), [1, 2]);
  const { exceptionText } = await test.failure(sourceCall("odd", () => current().progress("half" as never)));
  assertStringIncludes(exceptionText, "expected numbers, got half");
});

Deno.test("progress that was held back is told while the task waits", async () => {
  await using test = new TestPool();
  test.pool.place(sourceCall("waits", async () => {
    current().progress(1);
    current().progress(2);
    await new Promise((resolve) => current().signal.addEventListener("abort", resolve));
  }));
  await test.until(() => events(test, "waits").length === 2);
  test.pool.abort("waits", 1, "enough");
  await test.ended("waits");
});

Deno.test("a task reschedules itself, whatever copy or realm its Reschedule is of", async () => {
  await using test = new TestPool();
  const calls = {
    given: () => {
      throw new Reschedule("not here");
    },
    later: () => Promise.reject(new Reschedule()),
    extended: () => {
      throw new (class Elsewhere extends Reschedule {})();
    },
    copy: () => {
      throw Object.assign(new Error("not here"), { name: "Reschedule" });
    },
    realm: () => {
      throw Object.assign(Object.create(null), { name: "Reschedule", message: "no Error of this realm" });
    },
  };
  for (const [key, fn] of Object.entries(calls)) {
    test.pool.place(sourceCall(key, fn));
    assertEquals(await test.ended(key), { type: "rescheduled" }, key);
  }
});

Deno.test("bundles find this package in the executor, also without any permission", async () => {
  await using test = new TestPool({ permissions: "none" });
  const call = async (key: string, text: string, name: string, args: unknown[] = []) => {
    const bytes = new TextEncoder().encode(text);
    const url = "file:///src/tasks.ts";
    const fn = { kind: "bundle", hash: await sha256(bytes), dependency: 0, export: name, url } as const;
    return callOf(key, { function: fn, args }, [inputOf(`code ${key}`, bytes)]);
  };
  const light = `
    import { current, Reschedule as Again } from "${CURRENT_MODULE}";
    export const key = () => current().key;
    export const again = () => { throw new Again(); };`;
  assertEquals(await test.value(await call("light", light, "key")), "light");
  test.pool.place(await call("again", light, "again"));
  assertEquals(await test.ended("again"), { type: "rescheduled" });
  const whole = `
    import { AsyncExecutor, current, op } from "${PACKAGE_MODULE}";
    export const sum = async (a, b) => [
      current().key, await new AsyncExecutor().run([op((a, b) => a + b, a, b)]), current().key,
    ];`;
  assertEquals(await test.value(await call("whole", whole, "sum", [1, 2])), ["whole", [3], "whole"]);
  const newer = `import { nonsense } from "${PACKAGE_MODULE}"; export const f = () => nonsense;`;
  const { exceptionText } = await test.failure(await call("newer", newer, "f"));
  assertStringIncludes(exceptionText, "Cannot load file:///src/tasks.ts");
  assertStringIncludes(exceptionText, "nonsense");
});

Deno.test("modules by URL and by file import current from mod.ts", async () => {
  const face = new URL("../../../mod.ts", import.meta.url).href;
  const source = `import { current } from "${face}";\nexport const key = () => current().key;\n`;
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/tasks.ts`, source);
    await using test = new TestPool();
    assertEquals(await test.value(namedCall("file", `deno:file://${folder}/tasks.ts#key`)), "file");
    // Another copy of the package, as far as Deno knows.
    const project = new URL("../../../", import.meta.url);
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      const { pathname } = new URL(request.url);
      const text = pathname === "/tasks.ts"
        ? 'import { current } from "/mod.ts";\nexport const key = () => current().key;\n'
        : await Deno.readTextFile(new URL(`.${pathname}`, project));
      return new Response(text, { headers: { "content-type": "application/typescript" } });
    });
    const url = `http://127.0.0.1:${server.addr.port}/tasks.ts`;
    const byUrl = callOf("url", { function: { kind: "url", url, export: "key", integrity: null }, args: [] });
    assertEquals(await test.value(byUrl), "url");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a task without a scheduler, or without net, is told why it gets no client", async () => {
  const ask = async () => (await current().client()).id;
  {
    await using test = new TestPool();
    const { exceptionText } = await test.failure(sourceCall("a", ask));
    assertStringIncludes(exceptionText, "its worker did not name a scheduler");
  }
  for (const permissions of ["none", { net: ["example.org:443"] }] as const) {
    await using test = new TestPool({ permissions, scheduler: "tcp://127.0.0.1:8786" });
    const { exceptionText } = await test.failure(sourceCall("b", ask));
    assertStringIncludes(exceptionText, `lacks the permission "net"`, JSON.stringify(permissions));
    assertStringIncludes(exceptionText, "net=127.0.0.1:8786");
  }
});

Deno.test("a call that seceded is stopped, by its signal or by force", async () => {
  await using test = new TestPool({ graceMs: 100 });
  await test.pool.ready();
  const secedes = (spins: boolean) => {
    current().secede();
    current().secede();
    if (spins) { for (;;); }
    return new Promise((_, reject) => {
      const { signal } = current();
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  };
  for (const [key, spins] of [["listens", false], ["spins", true]] as const) {
    test.pool.place(sourceCall(key, secedes, [spins]));
    await test.until(() => test.story(key).includes(`seceded ${key}`));
    assertEquals(await test.value(sourceCall(`beside ${key}`, () => 1)), 1);
    test.pool.abort(key, 1, "nobody wants it");
    const outcome = await test.ended(key);
    assert(outcome.type === "failed");
    assertStringIncludes(outcome.exceptionText, "nobody wants it");
    assertEquals(test.story(key), [`started ${key}`, `seceded ${key}`, `ended ${key}`]);
  }
});

Deno.test("no more calls secede than a machine can take", async () => {
  await using test = new TestPool({ secededMax: 2, graceMs: 50 });
  const waits = () => {
    current().secede();
    return new Promise(() => {});
  };
  for (const key of ["one", "two"]) {
    test.pool.place(sourceCall(key, waits));
    await test.until(() => test.story(key).includes(`seceded ${key}`));
  }
  const { exceptionText } = await test.failure(sourceCall("three", waits));
  assertStringIncludes(exceptionText, "as 2 tasks of this worker do already");
  assertEquals(test.story("three"), ["started three", "ended three"]);
  assertEquals(await test.value(sourceCall("next", () => 1)), 1);
  test.pool.abort("one", 1, "enough");
  await test.ended("one");
});

Deno.test("a pool that closes tells the tasks that run, and waits for those that listen", async () => {
  const file = await Deno.makeTempFile();
  try {
    await using test = new TestPool({ slots: 2, graceMs: 20_000 });
    const listens = (file: string) =>
      new Promise((_, reject) => {
        const { signal } = current();
        signal.addEventListener("abort", () => {
          Deno.writeTextFileSync(file, `${signal.reason.message}\n`, { append: true });
          reject(signal.reason);
        });
      });
    test.pool.place(sourceCall("a", listens, [file]));
    test.pool.place(sourceCall("b", (file: string) => {
      current().secede();
      return new Promise((_, reject) => {
        const { signal } = current();
        signal.addEventListener("abort", () => {
          Deno.writeTextFileSync(file, `${signal.reason.message}\n`, { append: true });
          reject(signal.reason);
        });
      });
    }, [file]));
    await test.started("a");
    await test.until(() => test.story("b").includes("seceded b"));
    await test.pool.close();
    assertEquals(await Deno.readTextFile(file), "its worker ends\nits worker ends\n");
    assertEquals(test.files(), []);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("a fetch with the task's signal ends with the task", async () => {
  const asked = Promise.withResolvers<void>();
  const gone = Promise.withResolvers<void>();
  await using server = Deno.serve({ port: 0, onListen() {} }, (request) => {
    asked.resolve();
    request.signal.addEventListener("abort", () => gone.resolve());
    return gone.promise.then(() => new Response());
  });
  await using test = new TestPool({ graceMs: 20_000 });
  const get = (url: string) => fetch(url, { signal: current().signal });
  test.pool.place(sourceCall("get", get, [`http://127.0.0.1:${server.addr.port}/`]));
  await asked.promise;
  await test.started("get");
  test.pool.abort("get", 1, "nobody wants it");
  const outcome = await test.ended("get");
  assert(outcome.type === "failed");
  assertStringIncludes(outcome.exceptionText, "nobody wants it");
  await gone.promise;
  assertEquals(await test.value(sourceCall("same process", () => 1)), 1);
});
