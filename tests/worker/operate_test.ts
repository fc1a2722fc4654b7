/**
 * Operating a worker: lifetime, preload, pages, configuration, files that tell others; with a real scheduler.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { startWorker } from "../../worker/mod.ts";
import {
  errorsInLog,
  type LoggedProcess,
  PROJECT,
  pythonWorker,
  sharedScheduler,
  startLogged,
  startScheduler,
  workerProcess,
} from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

/** Until the log of a process has `count` matches; the first groups. */
async function logged(process: LoggedProcess, pattern: RegExp, count = 1): Promise<string[]> {
  let ended = false;
  process.ended.then(() => ended = true);
  for (;;) {
    const found = [...(await process.log()).matchAll(new RegExp(pattern, "g"))];
    if (found.length >= count) return found.map((match) => match[1] ?? "");
    if (ended) throw new Error(`It ended without ${pattern}: ${await process.log()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const REGISTERED = /Worker at (tcp:\/\/\S+) \(.*\), registered to/;

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-operate-" });
  try {
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a worker whose lifetime is over retires, and ends with code 0", async () => {
  await using heir = await workerProcess(scheduler.address, ["--no-nanny", "--nthreads=1"]);
  await logged(heir, REGISTERED);
  await using own = await workerProcess(scheduler.address, [
    ..."--no-nanny --nthreads=1 --lifetime=200ms --lifetime-stagger=100ms --lifetime-restart".split(" "),
  ]);
  assertEquals((await own.ended).code, 0, await own.log());
  assertMatch(await own.log(), /Retiring worker at tcp:\S+: its lifetime is over/);
  assert(!(await own.log()).includes("will be computed again"));
});

Deno.test("with --lifetime-restart the nanny starts another worker", async () => {
  await using own = await workerProcess(scheduler.address, [
    ..."--nthreads=1 --name=reborn --lifetime=500ms --lifetime-restart".split(" "),
  ]);
  await logged(own, REGISTERED, 2);
  own.kill("SIGTERM");
  assertEquals((await own.ended).code, 0, await own.log());
});

Deno.test("a lifetime without other workers ends all the same, and says what is lost", async () => {
  await using alone = await startScheduler();
  await using worker = await startWorker({
    address: alone.address,
    slots: 1,
    lifetime: 1,
    lifetimeRestart: true,
  });
  const end = await worker.ended;
  assertEquals([end.reason, end.crashed, end.restart], ["its lifetime is over", false, true]);
});

Deno.test("a worker that retires hands its data over, and what runs there runs elsewhere", async () => {
  await using heir = await workerProcess(scheduler.address, ["--no-nanny", "--nthreads=1", "--name=next"]);
  await logged(heir, REGISTERED);
  await using worker = await startWorker({ address: scheduler.address, slots: 1, name: "leaving" });
  await python.run(`
global busy, data, scattered
scattered = client.scatter(list(range(20)), workers=["${worker.address}"])
data = client.submit(ts("ones"), 200000, workers=["leaving"], pure=False)
wait(data)
busy = client.submit(ts("nap"), 400, 7, workers=["leaving"], allow_other_workers=True, pure=False)
until(lambda: any(busy.key in ks for ks in client.processing().values()))`);
  await worker.retire();
  assertEquals(worker.status, "closed");
  assertEquals(
    await python.run(`
out = [busy.result(), client.submit(ts("sum"), data, workers=["next"], pure=False).result(), sum(client.gather(scattered))]
del globals()["busy"], globals()["data"], globals()["scattered"]
return out`),
    // What was scattered nobody can compute again: it was handed over.
    [7, 200000, 190],
  );
});

Deno.test("--preload runs in each task process before its first task", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/pre load.ts`,
      "(globalThis as Record<string, unknown>).answer = 42;\n",
    );
    await Deno.writeTextFile(
      `${folder}/tasks.ts`,
      "export const answer = () => (globalThis as Record<string, unknown>).answer ?? null;\n",
    );
    await using own = await workerProcess(scheduler.address, [
      "--no-nanny",
      "--nthreads=2",
      "--name=preloaded",
      `--preload=${folder}/pre load.ts`,
    ]);
    await logged(own, REGISTERED);
    assertEquals(
      await python.run(`
return client.gather([client.submit(methodcaller("deno:file://${folder}/tasks.ts#answer"), 1, i, key=f"answer-{i}", workers=["preloaded"], pure=False) for i in range(4)])`),
      [42, 42, 42, 42],
    );
  });
});

Deno.test("a preload that fails ends the worker at its start, with its name and error", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/broken.ts`, "throw new Error('no\\nlicence');\n");
    await using own = await workerProcess(scheduler.address, [
      "--nthreads=1",
      `--preload=${folder}/broken.ts`,
    ]);
    assertEquals((await own.ended).code, 1);
    assertStringIncludes(
      await own.log(),
      `it said: Cannot load the preload file://${folder}/broken.ts: Error: no licence`,
    );
  });
});

Deno.test("pages: health, metrics, info; known to the scheduler; gone with the worker", async () => {
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 2,
    name: "<paged>",
    dashboardAddress: ":0",
  });
  const port = worker.dashboardPort;
  assertEquals(
    await python.run(`
client.submit(ts("add"), 1, 2, workers=["<paged>"], pure=False, key="kept-page").result()
return client.scheduler_info(n_workers=-1)["workers"]["${worker.address}"]["services"]`),
    { dashboard: port },
  );
  const get = async (path: string, init: RequestInit = {}) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { redirect: "manual", ...init });
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      text: await response.text(),
    };
  };
  assertEquals(await get("/health"), { status: 200, type: "text/plain; charset=utf-8", text: "ok" });
  const info = await get("/info");
  assertStringIncludes(info.text, "<h1>Dask worker &lt;paged&gt;</h1>");
  assert(!info.text.includes("<paged>"), "what others name is escaped");
  const json = JSON.parse((await get("/info.json")).text);
  assertEquals([json.name, json.address, json.nthreads], ["<paged>", worker.address, 2]);
  assertEquals(
    JSON.parse((await get("/info", { headers: { accept: "application/json" } })).text).id,
    json.id,
  );
  assertEquals((await get("/status")).status, 302);
  assertEquals((await get("/nothing")).status, 404);
  assertEquals((await get("/health", { method: "POST" })).status, 405);
  const metrics = await get("/metrics");
  assertEquals(metrics.type, "text/plain; version=0.0.4; charset=utf-8");
  assertMatch(metrics.text, /^dask_worker_threads 2$/m);

  // A reader who never finishes does not hold up the end.
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: port! });
  await conn.write(new TextEncoder().encode("GET /info HTTP/1.1\r\nHost: x\r\n"));
  await worker.close();
  conn.close();
  await fetch(`http://127.0.0.1:${port}/health`).then(
    () => Promise.reject(new Error("it still answers")),
    (error) => assert(error instanceof TypeError),
  );
});

Deno.test("metrics have the names of dask's own worker", async () => {
  await using theirs = await pythonWorker(scheduler.address, [
    "--nthreads=1",
    "--dashboard",
    "--name=page-python",
  ]);
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    dashboardAddress: "127.0.0.1:0",
  });
  const port = await python.run(`
until(lambda: any(w["name"] == "page-python" for w in client.scheduler_info(n_workers=-1)["workers"].values()))
return next(w["services"].get("dashboard") for w in client.scheduler_info(n_workers=-1)["workers"].values() if w["name"] == "page-python")`);
  assert(worker.dashboardPort !== null, `${port}`);
  const ours = await (await fetch(`http://127.0.0.1:${worker.dashboardPort}/metrics`)).text();
  const names = (text: string) =>
    new Set([...text.matchAll(/^# TYPE (dask_worker_\S+ \S+)$/gm)].map(([, name]) => name!));
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  const text = await response.text();
  const known = names(text);
  theirs.kill("SIGTERM");
  // Without prometheus_client Python's worker has nothing to compare with; the names stand in its source.
  const expected = known.size > 0 ? known : new Set(
    (await python.run(`
import re, inspect, pathlib
source = pathlib.Path(distributed.__file__).parent.joinpath("http/worker/prometheus/core.py").read_text()
found = re.findall(r'(Gauge|Counter)MetricFamily\\(\\s*self.build_name\\("(\\w+)"\\)(.*?)(?=yield|(?:Gauge|Counter)MetricFamily|def )', source, re.S)
out = []
for kind, name, rest in found:
    unit = re.search(r'unit="(\\w+)"', rest)
    if unit and not name.endswith(unit[1]): name += "_" + unit[1]
    if kind == "Counter" and not name.endswith("_total"): name += "_total"
    out.append(f"dask_worker_{name} {kind.lower()}")
return out`)) as string[],
  );
  const own = names(ours);
  assert(own.size >= 10, ours);
  for (const name of own) assert(expected.has(name), `${name} is not among ${[...expected].join(", ")}`);
  for (const line of ours.trim().split("\n")) {
    if (!line.startsWith("#")) assertMatch(line, /^[a-z_]+(\{[a-z_]+="[^"\n]*"\})? -?[0-9.e+-]+$/);
  }
});

Deno.test("a port for pages that is taken is replaced by another one, with a warning", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  const lines: string[] = [];
  await using worker = await startWorker({
    address: scheduler.address,
    slots: 1,
    dashboardAddress: `127.0.0.1:${port}`,
    logger: { log: (level, message) => void (level === "warning" && lines.push(message)) },
  });
  assert(worker.dashboardPort !== port);
  assertEquals(lines, [`Port ${port} is taken: pages are at port ${worker.dashboardPort} instead`]);
});

Deno.test("a range of ports: the first free one is taken", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using free = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const [first, second] = [taken, free].map(({ addr }) => (addr as Deno.NetAddr).port) as [number, number];
  free.close();
  await using worker = await startWorker({ address: scheduler.address, slots: 1, port: [first, second] });
  assertEquals(worker.address, `tcp://127.0.0.1:${second}`);
});

Deno.test("environment and files configure the worker; flags win", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/dask.yaml`,
      `scheduler-address: ${scheduler.address}\ndistributed:\n  worker:\n    resources: {GPU: 1, MEM: 3}\n` +
        "    lifetime: {duration: 1 hour, restart: yes}\n    preload: [some.python.module]\n",
    );
    await using own = await startLogged(
      Deno.execPath(),
      [
        "run",
        "-A",
        `${PROJECT}worker/main.ts`,
        "--no-nanny",
        "--nthreads=1",
        "--name=configured",
        "--lifetime=2h",
      ],
      {
        env: { DASK_CONFIG: folder, DASK_TEMPORARY_DIRECTORY: `${folder}/files` },
      },
    );
    await logged(own, REGISTERED);
    assertEquals(
      await python.run(`
w = next(w for w in client.scheduler_info(n_workers=-1)["workers"].values() if w["name"] == "configured")
return [w["resources"], w["local_directory"].startswith("${folder}/files/")]`),
      [{ GPU: 1, MEM: 3 }, true],
    );
    own.kill("SIGTERM");
    assertEquals((await own.ended).code, 0);
  });
});

Deno.test("variables reach a worker under a nanny that has only the permissions of deno.json", async () => {
  await withFolder(async (folder) => {
    await using own = await startLogged(
      Deno.execPath(),
      [
        ...`run --config=${PROJECT}deno.json -P=worker --no-prompt ${PROJECT}worker/main.ts`.split(" "),
        ..."--nthreads=1 --name=limited".split(" "),
      ],
      {
        env: {
          DASK_CONFIG: folder,
          DASK_SCHEDULER_ADDRESS: scheduler.address,
          DASK_DISTRIBUTED__WORKER__RESOURCES: "{'GPU': 2}",
        },
      },
    );
    await logged(own, REGISTERED);
    assertEquals(
      await python.run(`
return next(w["resources"] for w in client.scheduler_info(n_workers=-1)["workers"].values() if w["name"] == "limited")`),
      { GPU: 2 },
    );
    own.kill("SIGTERM");
    assertEquals((await own.ended).code, 0);
  });
});

Deno.test("a configuration that makes no sense ends the worker by file and key", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/dask.yaml`, "distributed: {worker: {lifetime: {duration: soon}}}\n");
    await using own = await startLogged(
      Deno.execPath(),
      ["run", "-A", `${PROJECT}worker/main.ts`, scheduler.address, "--nthreads=1"],
      { env: { DASK_CONFIG: folder } },
    );
    assertEquals((await own.ended).code, 1);
    assertStringIncludes(
      await own.log(),
      `Cannot read "distributed.worker.lifetime.duration" in ${folder}/dask.yaml: Cannot read time "soon"`,
    );
  });
});

Deno.test("a scheduler file is waited for; digits are a number as name; --interface is its address; a pid file", async () => {
  await withFolder(async (folder) => {
    await using own = await startLogged(Deno.execPath(), [
      ...`run -A ${PROJECT}worker/main.ts --no-nanny --nthreads=1 --name=17 --interface=lo`.split(" "),
      `--scheduler-file=${folder}/scheduler.json`,
      `--pid-file=${folder}/worker.pid`,
    ]);
    while (await Deno.readTextFile(`${folder}/worker.pid`).catch(() => "") === "") {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assertEquals(await Deno.readTextFile(`${folder}/worker.pid`), `${own.pid}`);
    await Deno.writeTextFile(`${folder}/scheduler.json`, `{"address": "tcp`);
    await Deno.writeTextFile(`${folder}/scheduler.json`, JSON.stringify({ address: scheduler.address }));
    const [address] = await logged(own, REGISTERED);
    assertMatch(address!, /^tcp:\/\/127\.0\.0\.1:/);
    assertEquals(
      await python.run(`
return client.submit(ts("add"), 1, 2, workers=[17], pure=False).result()`),
      3,
    );
    own.kill("SIGTERM");
    assertEquals((await own.ended).code, 0);
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["scheduler.json"]);
  });
});

Deno.test("a scheduler file that does not come in time is named", async () => {
  await using own = await startLogged(Deno.execPath(), [
    ...`run -A ${PROJECT}worker/main.ts --no-nanny --nthreads=1 --death-timeout=300ms`.split(" "),
    "--scheduler-file=/nowhere/scheduler.json",
  ]);
  assertEquals((await own.ended).code, 1);
  assertStringIncludes(await own.log(), `Cannot read the scheduler file "/nowhere/scheduler.json"`);
});

Deno.test("JSON lines hold level, message and fields; the default is a few lines for people", async () => {
  await using own = await workerProcess(scheduler.address, [
    ..."--no-nanny --nthreads=1 --log-format=json --log-level=debug".split(" "),
  ]);
  const [port] = await logged(own, /Worker at tcp:\/\/127.0.0.1:(\d+) /);
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  await conn.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
  await logged(own, /A connection ended/);
  conn.close();
  own.kill("SIGTERM");
  await own.ended;
  const lines = (await own.log()).trim().split("\n").map((line) => JSON.parse(line));
  for (const line of lines) {
    assertEquals(
      Object.keys(line).slice(0, 4),
      ["@timestamp", "level", "message", "logger"],
      JSON.stringify(line),
    );
  }
  assert(lines.some(({ message, level }) => level === "INFO" && REGISTERED.test(message)));
  const { properties } = lines.find(({ message }) => message === "A connection ended");
  assertEquals(Object.keys(properties), ["peer", "reason"]);

  await using plain = await workerProcess(scheduler.address, ["--no-nanny", "--nthreads=1"]);
  await logged(plain, REGISTERED);
  plain.kill("SIGTERM");
  await plain.ended;
  const texts = (await plain.log()).trim().split("\n");
  assert(texts.length <= 4, texts.join("\n"));
  for (const text of texts) assertMatch(text, /^\d\d:\d\d:\d\dZ [A-Z0-9]/);
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(await errorsInLog(scheduler, [/caused the cluster to lose/]), []);
});
