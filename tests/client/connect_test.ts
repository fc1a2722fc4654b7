/**
 * Beginnings and ends of connections: addresses where nobody is, peers that say nothing or nonsense, releases of dask
 * that do not fit, and the loss of the scheduler.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connect, openClient } from "../../client/client.ts";
import { serve } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { op } from "../../dispatch/mod.ts";
import { CommClosedError, DaskError } from "../../protocol/errors.ts";
import { PROJECT, startScheduler, workerProcess } from "../support/scheduler.ts";
import { until } from "./cluster.ts";

/** A listening socket that accepts and does `then`. */
function peer(then: (conn: Deno.Conn) => void): Disposable & { readonly address: string } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const open: Deno.Conn[] = [];
  (async () => {
    for await (const conn of listener) {
      open.push(conn);
      then(conn);
    }
  })();
  return {
    address: `tcp://127.0.0.1:${listener.addr.port}`,
    [Symbol.dispose]() {
      listener.close();
      for (const conn of open) {
        try {
          conn.close();
        } catch { /* closed by the test */ }
      }
    },
  };
}

Deno.test("a port where nobody listens is one clear error at once", async () => {
  const { port } = (() => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return listener.addr;
  })();
  const error = await assertRejects(() => connect(`127.0.0.1:${port}`), CommClosedError);
  assertStringIncludes(error.message, `tcp://127.0.0.1:${port}`);
  assertStringIncludes(error.message, "running");
});

Deno.test("a host that does not exist is one clear error", async () => {
  await assertRejects(
    () => connect({ address: "tcp://no-such-host.invalid:8786", timeout: 10_000 }),
    CommClosedError,
    "no-such-host",
  );
});

Deno.test("a peer that accepts and never answers ends with the time-out", async () => {
  using mute = peer(() => {});
  const start = Date.now();
  await assertRejects(() => connect({ address: mute.address, timeout: 300 }), CommClosedError, mute.address);
  assert(Date.now() - start < 3_000);
});

Deno.test("a peer that shakes hands and then says nothing ends with the time-out", async () => {
  const end = Promise.withResolvers<{ readonly reply: unknown }>();
  await using mute = await serve(tcp, "tcp://127.0.0.1:0", () => end.promise, {});
  using _ = { [Symbol.dispose]: () => end.resolve({ reply: null }) };
  await assertRejects(
    () => connect({ address: mute.address, timeout: 300 }),
    CommClosedError,
    "is it a dask scheduler",
  );
});

Deno.test("a peer that speaks something else is refused", async () => {
  using web = peer((conn) =>
    conn.write(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n....................")).catch(
      () => {},
    )
  );
  await assertRejects(() => connect({ address: web.address, timeout: 2_000 }), DaskError);
});

Deno.test("the signal ends connecting, with its reason", async () => {
  using mute = peer(() => {});
  const reason = new Error("changed my mind");
  const abort = new AbortController();
  setTimeout(() => abort.abort(reason), 50);
  assertEquals(await assertRejects(() => connect({ address: mute.address, signal: abort.signal })), reason);
  assertEquals(await assertRejects(() => connect({ address: mute.address, signal: abort.signal })), reason);
});

Deno.test("a client that is closed while it connects leaves nothing behind", async () => {
  using mute = peer(() => {});
  const { client, connected } = openClient({ address: mute.address });
  const future = client.submit(op(() => 1));
  const refused = assertRejects(() => future.result(), DaskError, "closed");
  await client.close();
  await assertRejects(() => connected, DaskError);
  await refused;
});

for (
  const [version, outcome] of [
    ["2025.3.0", "refused"],
    ["2024.12.1", "refused"],
    ["2027.1.0", "warned"],
  ] as const
) {
  Deno.test(`a scheduler of release ${version} is ${outcome}`, async () => {
    const lines: string[] = [];
    await using fake = await serve(tcp, "tcp://127.0.0.1:0", ({ op }) => {
      const reply = op === "versions" ? { host: {}, packages: { distributed: version } } : null;
      return Promise.resolve({ reply });
    }, {});
    const error = await assertRejects(
      () =>
        connect({
          address: fake.address,
          timeout: 2_000,
          logger: { log: (_, line) => void lines.push(line) },
        }),
      DaskError,
    );
    if (outcome === "refused") {
      assertStringIncludes(error.message, version);
      assertStringIncludes(error.message, "2025.4.0");
    } else {
      assertEquals(lines.length, 1); // and then it fails for another reason: this one cannot be registered with
      assertStringIncludes(lines[0]!, version);
    }
  });
}

Deno.test("the client says who it is in the scheduler's own versions: nobody is warned of a mismatch", async () => {
  await using scheduler = await startScheduler();
  await using client = await connect(scheduler.address);
  assert(client.id.startsWith("Client-"));
  assert(!/mismatch/i.test(await scheduler.log()));
});

Deno.test("when the scheduler is lost all who wait are refused within 5 s, and all later calls", async () => {
  await using scheduler = await startScheduler();
  await using client = await connect(scheduler.address);
  await using worker = await workerProcess(scheduler.address, ["--nthreads", "1", "--no-nanny"]);
  using done = client.submit(op(() => 5));
  assertEquals(await done.result(), 5);
  using future = client.submit(op(() => new Promise(() => {})));
  const waits = [future.result(), client.waitForWorkers(9), client.gather([future])].map((promise) =>
    assertRejects(() => promise, DaskError, "Lost the scheduler")
  );
  await until(async () => [...(await client.processing()).values()].flat().length === 1);
  const start = Date.now();
  scheduler.kill("SIGKILL");
  await Promise.all(waits);
  assert(Date.now() - start < 5_000);
  await assertRejects(() => client.workers(), DaskError, "Lost the scheduler");
  await assertRejects(() => future.result(), DaskError, "Lost the scheduler");
  assertEquals(await done.result(), 5);
  await client.close();
  worker.kill("SIGKILL");
});

Deno.test("a program ends by itself once its client is closed, and fails when the scheduler is lost", async () => {
  await using scheduler = await startScheduler();
  const run = (body: string) => {
    const program = `
import { connect } from "${PROJECT}client/mod.ts";
import { op } from "${PROJECT}dispatch/mod.ts";
const client = await connect("${scheduler.address}");
${body}`;
    const folder = Deno.makeTempDirSync({ dir: `${PROJECT}tests/client`, prefix: ".program_" });
    Deno.writeTextFileSync(`${folder}/main.ts`, program);
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", `${folder}/main.ts`],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    return { child, [Symbol.dispose]: () => Deno.removeSync(folder, { recursive: true }) };
  };
  {
    using ends = run(`client.submit(op(() => 1)); await client.close(); console.log("bye");`);
    const { code, stdout, stderr } = await ends.child.output();
    assertEquals([code, new TextDecoder().decode(stdout)], [0, "bye\n"], new TextDecoder().decode(stderr));
  }
  using waits = run(`console.log("connected"); console.log(await client.submit(op(() => 1)).result());`);
  const { child } = waits;
  const said = child.stdout.getReader();
  assertEquals(new TextDecoder().decode((await said.read()).value), "connected\n");
  const start = Date.now();
  scheduler.kill("SIGKILL");
  const stderr = await new Response(child.stderr).text();
  assertEquals((await said.read()).done, true);
  assert(Date.now() - start < 5_000);
  assertEquals((await child.status).code, 1);
  assertStringIncludes(stderr, "Lost the scheduler");
});

/** Passes everything on to `target`, with `from` in what goes there replaced by `to`, byte by byte. */
function tampering(target: string, from: string, to: string): Disposable & { readonly address: string } {
  const [before, after] = [from, to].map((text) => new TextEncoder().encode(text)) as [
    Uint8Array,
    Uint8Array,
  ];
  assertEquals(before.length, after.length);
  const port = Number(target.split(":").at(-1));
  return peer(async (conn) => {
    const there = await Deno.connect({ hostname: "127.0.0.1", port });
    const back = there.readable.pipeTo(conn.writable).catch(() => {});
    const tamper = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        for (let at = 0; at < chunk.length; at++) {
          if (before.every((byte, i) => chunk[at + i] === byte)) chunk.set(after, at);
        }
        controller.enqueue(chunk);
      },
    });
    await conn.readable.pipeThrough(tamper).pipeTo(there.writable).catch(() => {});
    await back;
  });
}

Deno.test("a scheduler that does not understand the first form of graphs gets all of them in the other", async () => {
  await using scheduler = await startScheduler();
  await using _ = await workerProcess(scheduler.address, ["--nthreads", "1", "--no-nanny"]);
  using between = tampering(scheduler.address, "Expr._reconstruct", "Expr._reinvented_");
  {
    await using client = await connect(between.address);
    await client.waitForWorkers(1);
    const first = client.submit(op(() => 1));
    const second = client.submit(op((x: number) => x + 1, first));
    await Promise.resolve();
    const third = client.submit(op((x: number) => x + 1, second));
    first.release();
    assertEquals(await third.result(), 3);
    using later = client.submit(op(() => 4));
    assertEquals([await second.result(), await later.result()], [2, 4]);
  }
});

Deno.test("a scheduler that understands neither form is one clear error that names both releases", async () => {
  await using scheduler = await startScheduler();
  using between = tampering(scheduler.address, "LLGExpr", "LLGNone");
  {
    await using client = await connect(between.address);
    using future = client.submit(op(() => 1));
    const error = await assertRejects(() => future.result(), DaskError, "does not understand");
    assertStringIncludes(error.message, "2025.4.0");
    assertStringIncludes(error.message, (await client.schedulerInfo()).version);
  }
});
