/** Whole graphs over TLS: Python's scheduler, workers and clients of both languages, and workers as processes. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connect } from "../../client/mod.ts";
import { DaskError, TlsError } from "../../protocol/errors.ts";
import { startWorker } from "../../worker/mod.ts";
import { authority, certificateFiles } from "../support/certificates.ts";
import { errorsInLog, pythonWorker, runPython, startScheduler, workerProcess } from "../support/scheduler.ts";

const root = await authority();

Deno.test("a graph over TLS: two TypeScript workers, one of Python, clients of both", async () => {
  await using files = await certificateFiles(await root.issue());
  await using scheduler = await startScheduler({ tls: files });
  await using client = await connect({ address: scheduler.address, tls: files });
  const bare = scheduler.address.replace("tls://", "");
  await using first = await workerProcess(scheduler.address, [...files.flags, "--name=one", "--nthreads=1"]);
  await using second = await workerProcess(bare, [
    ...files.flags,
    "--protocol=tls://",
    "--name=two",
    "--nthreads=1",
    "--nworkers=1",
  ]);
  await using third = await pythonWorker(scheduler.address, [
    ...files.flags,
    "--name",
    "py",
    "--nthreads",
    "1",
  ]);
  try {
    await client.waitForWorkers(3, { signal: AbortSignal.timeout(60_000) });
  } catch (cause) {
    const logs = await Promise.all([first, second, third].map((process) => process.log()));
    throw new Error(`Not all workers came; they say:\n${logs.join("\n---\n")}`, { cause });
  }
  for (const { address } of await client.workers()) assert(address.startsWith("tls://127.0.0.1:"), address);

  const MB20 = 2_500_000;
  const made = client.submit((n: number) => new Float64Array(n).fill(1), [MB20], { workers: ["one"] });
  const summed = client.submit((a: Float64Array) => a.reduce((x, y) => x + y, 0), [made], {
    workers: ["two"],
  });
  assertEquals(await summed.result(), MB20);
  assertEquals((await made.result()).length, MB20);

  const python = await runPython(
    `
import sys
from dask.utils import methodcaller
from distributed import Client
from distributed.security import Security
address, ca, cert, key, tasks = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
with Client(address, security=security) as client:
    ts = lambda name: methodcaller(f"deno:{tasks}#{name}")
    ones = client.submit(ts("ones"), ${MB20}, workers=["one"], pure=False)
    there = client.submit(lambda a: float(sum(a[:10])) + len(a), ones, workers=["py"], pure=False)
    print(there.result())
    back = client.submit(lambda: [1.5] * 10, workers=["py"], pure=False)
    print(client.submit(ts("total"), back, workers=["two"], pure=False).result())
    print(len(ones.result()))
`,
    [scheduler.address, files.ca, files.cert, files.key, new URL("./tasks.ts", import.meta.url).href],
  );
  assertEquals(python.stdout, `${MB20 + 10}.0\n15\n${MB20}\n`, python.stderr);
  assertEquals(await errorsInLog(scheduler), []);
});

Deno.test("a worker and a client that cannot be let in say so at once, and do not try for ever", async () => {
  await using files = await certificateFiles(await root.issue());
  await using scheduler = await startScheduler({ tls: files });
  const { address } = scheduler;
  const foreign = await (await authority()).issue();
  const good = await root.issue();
  const refused = async (start: () => Promise<unknown>, text: string) =>
    assertStringIncludes((await assertRejects(start, DaskError)).message, text);
  await refused(() => startWorker({ address, slots: 1 }), "TLS needs certificates");
  await refused(() => connect({ address }), "TLS needs certificates");
  await refused(() => startWorker({ address, slots: 1, tls: foreign }), "not signed by the authority");
  await refused(() => connect({ address, tls: foreign }), "not signed by the authority");
  const unknown = { ...foreign, ca: good.ca };
  await assertRejects(
    () => startWorker({ address, slots: 1, tls: unknown }),
    TlsError,
    "refused our certificate",
  );
  await assertRejects(() => connect({ address, tls: unknown }), TlsError, "refused our certificate");
  const plain = address.replace("tls", "tcp");
  await refused(() => startWorker({ address: plain, slots: 1, tls: good }), "encryption is required");
  await refused(() => connect({ address: plain, tls: good }), "encryption is required");
  await refused(() => startWorker({ address: plain, slots: 1, connectTimeoutMs: 2_000 }), "tls://");
  await refused(() => startWorker({ address, slots: 1, tls: { ...good, ca: "/no/ca.pem" } }), '"/no/ca.pem"');
  await using process = await workerProcess(address, ["--tls-ca-file", files.cert, "--tls-cert", files.key]);
  await process.ended;
  assertStringIncludes(await process.log(), "-----BEGIN CERTIFICATE-----");
  await using worker = await startWorker({ address, slots: 1, tls: good });
  assert(worker.address.startsWith("tls://"));
});
