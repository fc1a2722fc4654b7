/**
 * Bad input from a user's side, through the whole of the library: each line is one typed error that names the thing,
 * and neither the client nor the worker dies of it. What single parts make of bad input is tested beside them.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { type Client, connect } from "../client/mod.ts";
import { AsyncExecutor, data, DispatchGraph, op, task, tasks } from "../dispatch/mod.ts";
import {
  CommClosedError,
  DaskError,
  SerializationError,
  TaskError,
  WorkerLostError,
} from "../protocol/errors.ts";
import { startWorker } from "../worker/mod.ts";
import { errorsInLog, PROJECT, runPython, sharedScheduler, startLogged } from "./support/scheduler.ts";

const scheduler = await sharedScheduler();
const add = task((a: number, b: number) => a + b);

/** A client and one worker of one slot, and at the end a look whether both are alive. */
async function withCluster(body: (client: Client) => Promise<void>, env: Record<string, string> = {}) {
  await using worker = await startLogged(Deno.execPath(), [
    "run",
    "-A",
    `${PROJECT}worker/main.ts`,
    scheduler.address,
    "--no-nanny",
    "--nthreads=1",
  ], { env });
  await using client = await connect(scheduler.address);
  await client.waitForWorkers(1, { signal: AbortSignal.timeout(30_000) });
  const [before] = await client.workers();
  await body(client);
  using next = client.submit(add(20, 22), { pure: false });
  assertEquals(await next.result(), 42, "the next op runs");
  assertEquals((await client.workers()).map(({ address }) => address), [before!.address], await worker.log());
}

Deno.test("addresses that make no sense are refused by their text", async () => {
  for (const address of ["http://127.0.0.1:8786", "127.0.0.1:99999", "tcp://", "8786", "tcp://a b:1", ""]) {
    const error = await assertRejects(() => connect({ address }), TypeError);
    assert(error.message.includes(JSON.stringify(address)), error.message);
    const worker = await assertRejects(() => startWorker({ address, slots: 1 }), TypeError);
    assert(worker.message.includes(JSON.stringify(address)), worker.message);
  }
  const no = { address: 8786 } as unknown as { address: string };
  await assertRejects(() => connect(no), TypeError, `"address"`);
});

Deno.test("a worker is told of a peer that accepts and never answers after the time given", async () => {
  using mute = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const conn of mute) accepted.push(conn);
  })();
  const at = Date.now();
  const address = `tcp://127.0.0.1:${mute.addr.port}`;
  await assertRejects(
    () => startWorker({ address, slots: 1, connectTimeoutMs: 300 }),
    DaskError,
    address,
  );
  assert(Date.now() - at < 5_000, `${Date.now() - at} ms`);
  assert(accepted.length > 0);
  mute.close();
  await accepting;
  for (const conn of accepted) conn.close();
});

Deno.test("a cycle is refused with the cycle printed, by every way to run it", async () => {
  const a = op((x: number) => x, 1);
  a.label = "a";
  const b = op((x: number) => x, a);
  b.label = "b";
  Object.assign(a, { dependencies: [b] }); // nodes are immutable: only force makes a cycle
  await withCluster(async (client) => {
    assertThrows(() => client.submit(b), RangeError, "a -> b");
    for (const executor of [client, new AsyncExecutor()]) {
      await assertRejects(() => executor.run([b]), RangeError, "a graph with a cycle");
      await assertRejects(() => executor.run([data(1), a]), RangeError, "a graph with a cycle");
    }
    assertThrows(() => new DispatchGraph([b]), RangeError, "a graph with a cycle");
  });
});

Deno.test("what cannot travel is refused by its place, as an argument and as a result", async () => {
  await withCluster(async (client) => {
    const take = task((_: unknown) => 0);
    for (
      const [value, place] of [
        [{ list: [1, new WeakMap()] }, "list[1]"],
        [{ when: () => 1 }, "when"],
        [[Symbol("s")], "[0]"],
        [{ deep: { promise: Promise.resolve() } }, "deep.promise"],
      ] as const
    ) {
      const error = assertThrows(() => client.submit(take(value)), SerializationError);
      assert(
        error.path.includes(`args[0]${place.startsWith("[") ? "" : "."}${place}`),
        `${error.path}: ${error.message}`,
      );
    }
    using result = client.submit(op(() => ({ rows: [1, new WeakMap()] })));
    const error = await assertRejects(() => result.result(), TaskError, "SerializationError");
    assert(error.message.includes(result.key) && error.message.includes("rows[1]"), error.message);
    using handler = client.submit(op(() => () => 1));
    await assertRejects(() => handler.result(), TaskError, "function");
  });
});

Deno.test("modules and exports that are not there are named, from TypeScript and from Python", async () => {
  const nowhere = new URL("nowhere.ts", import.meta.url);
  const gone = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) =>
      new URL(request.url).pathname === "/there.ts"
        ? new Response("export const here = () => 1;", {
          headers: { "content-type": "application/typescript" },
        })
        : new Response("not found", { status: 404 }),
  );
  const origin = `http://127.0.0.1:${gone.addr.port}`;
  await withCluster(async (client) => {
    type Any = { f(): number };
    assertThrows(
      () => client.submit(tasks<Any>(nowhere).f()),
      DaskError,
      `"${nowhere.href}": no such module`,
    );
    assertThrows(
      () => client.submit(tasks<Any>(new URL("client/tasks.ts", import.meta.url)).f()),
      DaskError,
      `the export "f"`,
    );
    // What a URL stands for only the worker sees.
    for (const [path, words] of [["/there.ts", `"f"`], ["/gone.ts", `${origin}/gone.ts`]] as const) {
      using future = client.submit(tasks<Any>(new URL(path, origin)).f());
      const error = await assertRejects(() => future.result(), TaskError, words);
      assertEquals(error.key, future.key);
    }
    const python = await runPython(
      `
import sys, json
from dask.utils import methodcaller
from distributed import Client
client = Client(sys.argv[1], set_as_default=False)
out = []
for i, name in enumerate(sys.argv[2:]):
    out.append(str(client.submit(methodcaller(name), key=f"bad-{i}").exception()))
print(json.dumps(out))
client.close()`,
      [scheduler.address, `deno:${nowhere.href}#f`, `deno:file://${PROJECT}tests/client/tasks.ts#f`, "upper"],
    );
    assertEquals(python.code, 0, python.stderr);
    const [module = "", missing = "", foreign = ""] = JSON.parse(python.stdout) as string[];
    assert(module.includes(nowhere.href), module);
    assert(missing.includes(`"f"`), missing);
    assert(foreign.includes("upper"), foreign);
  });
  await gone.shutdown();
});

Deno.test("whatever a task throws is an error with a name and a text", async () => {
  await withCluster(async (client) => {
    const thrown = task((what: string) => {
      const values: Record<string, unknown> = {
        text: "just text",
        nothing: undefined,
        none: null,
        number: 7,
      };
      values["object"] = { code: "E1" };
      values["bare"] = Object.create(null);
      throw values[what];
    });
    for (
      const [what, words] of [
        ["text", "just text"],
        ["nothing", "undefined"],
        ["none", "null"],
        ["number", "7"],
        ["object", "E1"],
        ["bare", ""],
      ] as const
    ) {
      using future = client.submit(thrown(what));
      const error = await assertRejects(() => future.result(), TaskError, words);
      assert(error.message.includes(future.key), error.message);
      assertInstanceOf(error.cause, Error);
    }
    using rejected = client.submit(op(() => Promise.reject("no error either")));
    await assertRejects(() => rejected.result(), TaskError, "no error either");
  });
});

Deno.test("a task that exits its process is lost with the code that it gave", async () => {
  await withCluster(async (client) => {
    using future = client.submit(op(() => Deno.exit(3)));
    const error = await assertRejects(() => future.result(), WorkerLostError, "Deno.exit(3)");
    assertEquals(error.key, future.key);
    assertEquals(error.attempts.length, 1);
  });
});

Deno.test("a task that runs out of memory is lost and says so", async () => {
  // Executors and the worker have the small heap; only the task fills it.
  await withCluster(async (client) => {
    using future = client.submit(op(() => {
      const all: unknown[] = [];
      for (;;) all.push(new Array(1_000).fill(Math.random()));
    }));
    const error = await assertRejects(() => future.result(), WorkerLostError, "ran out of memory");
    assertEquals(error.key, future.key);
    assertEquals(error.attempts.length, 1);
  }, { DENO_V8_FLAGS: "--max-old-space-size=64" });
});

Deno.test("nobody listens: the client and the worker name the address", async () => {
  const { port } = (() => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return listener.addr;
  })();
  const address = `tcp://127.0.0.1:${port}`;
  await assertRejects(() => connect(address), CommClosedError, address);
  await assertRejects(() => startWorker({ address, slots: 1, connectTimeoutMs: 200 }), DaskError, address);
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(await errorsInLog(scheduler, [/Couldn't gather/]), []);
});
