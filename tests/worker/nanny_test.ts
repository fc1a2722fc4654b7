/**
 * The nanny, as dask's scheduler and Python clients use it: restarts of all workers and of some, of silent ones, and
 * what it refuses.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { silent } from "../../base/log.ts";
import { RpcPool } from "../../comm/pool.ts";
import { tcp } from "../../comm/tcp.ts";
import { LogRing } from "../../worker/log_ring.ts";
import { askForNanny, startNanny, tellRegistered, type Watcher } from "../../worker/nanny.ts";
import { errorsInLog, type LoggedProcess, sharedScheduler, workerProcess } from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler({ env: { DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL: "8s" } });
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

await python.run(`
global workers
def workers():
    return client.run_on_scheduler(lambda dask_scheduler: {
        a: {"name": w.name, "pid": w.pid, "nanny": w.nanny} for a, w in dask_scheduler.workers.items()})`);

/** A worker with a nanny; its address. */
async function nannied(process: LoggedProcess): Promise<string> {
  for (;;) {
    const [, address] = /Worker at (tcp:\/\/\S+) \(.*\), registered to/.exec(await process.log()) ?? [];
    if (address !== undefined) return address;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

Deno.test("client.restart() gives fresh workers, and client.restart_workers() a fresh one", async () => {
  await using one = await workerProcess(scheduler.address, ["--nthreads=1", "--name=one"]);
  await using two = await workerProcess(scheduler.address, ["--nthreads=1", "--name=two"]);
  const addresses = [await nannied(one), await nannied(two)];
  const after = await python.run(`
pids = lambda: {w["name"]: w["pid"] for w in workers().values()}
before = pids()
client.restart(timeout=30)
after = pids()
done = client.submit(ts("add"), 1, 2, pure=False).result()
two = next(a for a, w in workers().items() if w["name"] == "two")
answer = client.restart_workers([two], timeout=30)
last = pids()
return {
    "all": sorted(after) == ["one", "two"] and not set(before.values()) & set(after.values()),
    "done": done,
    "answer": list(answer.values()),
    "some": [last["one"] == after["one"], last["two"] == after["two"]],
}`);
  assertEquals(after, { all: true, done: 3, answer: ["OK"], some: [true, false] }, addresses.join());

  // What may be asked of nannies beside.
  assertEquals(
    await python.run(`
nannies = [w["nanny"] for w in workers().values()]
try:
    client.run(lambda: 1, nanny=True)
    run = "ran"
except Exception as e:
    run = str(e)
class Plugin(distributed.diagnostics.plugin.NannyPlugin):
    name = "plugin"
client.register_plugin(Plugin())
return {
    "logs": [len(lines) > 0 for lines in client.get_worker_logs(nanny=True).values()],
    "run": "runs no functions" in run,
    "identity": [rpc(nanny, op="identity")["type"] for nanny in nannies],
    "unknown": rpc(nannies[0], op="no-such-op"),
    "instantiate": rpc(nannies[0], op="instantiate"),
    "restart": rpc(nannies[0], op="restart", timeout=30),
}`),
    {
      logs: [true, true],
      run: true,
      identity: ["Nanny", "Nanny"],
      unknown: null,
      instantiate: "running",
      restart: "OK",
    },
  );

  // After that the supervisor ends with its worker.
  await python.run(`
one = next(w["nanny"] for w in workers().values() if w["name"] == "one")
assert rpc(one, op="terminate", reason="test") == "OK"`);
  assertEquals((await one.ended).code, 0, await one.log());
  two.kill("SIGTERM");
  assertEquals((await two.ended).code, 0, await two.log());
});

Deno.test("a worker that is silent for too long is restarted by the scheduler through its nanny", async () => {
  await using own = await workerProcess(scheduler.address, ["--nthreads=1", "--name=silent"]);
  await nannied(own);
  await python.run(`
import os, signal
pid = next(w["pid"] for w in workers().values() if w["name"] == "silent")
os.kill(pid, signal.SIGSTOP)
until(lambda: [w["pid"] for w in workers().values() if w["name"] == "silent"] not in ([], [pid]), 40)`);
});

Deno.test("a worker that dies comes back under the same nanny", async () => {
  await using own = await workerProcess(scheduler.address, ["--nthreads=1", "--name=mortal"]);
  await nannied(own);
  assertEquals(
    await python.run(`
import os, signal
find = lambda: next((w for w in workers().values() if w["name"] == "mortal"), {"pid": None, "nanny": None})
first = find()
os.kill(first["pid"], signal.SIGKILL)
until(lambda: find()["pid"] not in (None, first["pid"]))
return find()["nanny"] == first["nanny"]`),
    true,
  );
  assertMatch(await own.log(), /The worker died by SIGKILL, it is started again/);
});

Deno.test("close_gracefully: a worker that ends then is not started again", async () => {
  await using own = await workerProcess(scheduler.address, ["--nthreads=1", "--name=graceful"]);
  await nannied(own);
  await python.run(`
import os, signal
w = next(w for w in workers().values() if w["name"] == "graceful")
rpc(w["nanny"], op="close_gracefully")
os.kill(w["pid"], signal.SIGKILL)`);
  assertEquals((await own.ended).code, 0, await own.log());
});

Deno.test("several workers have names, ports and nannies of their own, and end together", async () => {
  const base = 20_000 + Math.floor(Math.random() * 20_000);
  await using own = await workerProcess(scheduler.address, [
    ..."--nworkers=2 --nthreads=1 --name=many".split(" "),
    `--worker-port=${base}:${base + 5}`,
    `--nanny-port=${base + 6}:${base + 11}`,
  ]);
  const [ports, nannies] = await python.run(`
find = lambda: {a: w for a, w in workers().items() if str(w["name"]).startswith("many")}
until(lambda: len(find()) == 2)
assert sorted(w["name"] for w in find().values()) == ["many-0", "many-1"]
port = lambda address: int(address.rsplit(":", 1)[1])
by_name = sorted(find().items(), key=lambda item: item[1]["name"])
return [[port(a) for a, _ in by_name], [port(w["nanny"]) for _, w in by_name]]`) as number[][];
  for (const [index, port] of ports!.entries()) {
    assertEquals((port - base) % 2, index);
    assert(port >= base && port <= base + 5);
  }
  for (const [index, port] of nannies!.entries()) {
    assertEquals((port - base) % 2, index);
    assert(port >= base + 6 && port <= base + 11);
  }
  own.kill("SIGTERM");
  assertEquals((await own.ended).code, 0, await own.log());
});

Deno.test("a restart that takes too long is told so; times and reasons reach the watcher", async () => {
  const told: unknown[] = [];
  const watcher: Watcher = {
    kill: (timeoutMs, reason) => (told.push(["kill", timeoutMs, reason]), Promise.resolve()),
    running: () => new Promise(() => {}),
    terminate: (timeoutMs, reason) => (told.push(["terminate", timeoutMs, reason]), Promise.resolve()),
    letGo: (reason) => void told.push(["letGo", reason]),
    registered: () => void told.push(["registered"]),
  };
  await using pool = new RpcPool(tcp);
  await using nanny = await startNanny(watcher, { ports: [0], log: new LogRing(silent) });
  const address = await askForNanny(nanny.supervisorAddress, "tcp://127.0.0.1:1");
  // A worker that was started again finds the same nanny.
  assertEquals(await askForNanny(nanny.supervisorAddress, "tcp://127.0.0.1:2"), address);
  await tellRegistered(nanny.supervisorAddress);
  assertEquals(await pool.call(address, { op: "restart", timeout: 0.05, reason: "why" }), "timed out");
  assertEquals(await pool.call(address, { op: "kill", timeout: 2 }), null);
  assertEquals(await pool.call(address, { op: "terminate" }), "OK");
  assertEquals(await pool.call(address, { op: "close_gracefully" }), null);
  assertEquals(told, [
    ["registered"],
    ["kill", 5000, "why"],
    ["kill", 2000, "nanny-kill"],
    ["terminate", 5000, "nanny-close"],
    ["letGo", "nanny-close-gracefully"],
  ]);
  const failed = await pool.call(address, { op: "kill", timeout: "soon" }).then(
    () => "",
    (error) => String(error),
  );
  assertStringIncludes(failed, "kill.timeout");
  // What only the worker on this machine may ask is not asked from outside.
  assertEquals(await pool.call(address, { op: "listen", worker: "tcp://0.0.0.0:0" }), null);
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(
    await errorsInLog(scheduler, [
      /runs no functions/,
      /caused the cluster to lose/,
      /Worker failed to heartbeat/,
      /Traceback/,
      /Connection to tcp/,
    ]),
    [],
  );
});
