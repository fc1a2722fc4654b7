/**
 * Every administrative call of a Python client on a mixed cluster: each answers, or errs clearly, in time, and the
 * cluster works afterwards. The workers are processes that somebody starts again, as in production.
 */
import { assertEquals } from "@std/assert";
import { PROJECT, pythonWorker, runPython, startScheduler, workerProcess } from "../support/scheduler.ts";

/** Each call with what must come of it; a call that takes longer than its seconds has hung. */
const PROGRAM = `
import json, sys, time, threading, os, tempfile
import numpy
from dask.utils import methodcaller
from distributed import Client, WorkerPlugin, NannyPlugin, wait
from distributed.diagnostics.plugin import UploadFile
address, tasks, folder = sys.argv[1:]
ts = lambda name: methodcaller(f"deno:{tasks}#{name}")
client = Client(address, timeout=20)
client.wait_for_workers(3, timeout=60)
info = client.scheduler_info(n_workers=-1)["workers"]
typescript = [w for w, i in info.items() if i.get("language") == "typescript"]
[python] = [w for w in info if w not in typescript]
assert len(typescript) == 2
a, b = typescript
out = {}

def call(name, do, seconds=10):
    begin = time.time()
    result = []
    def run():
        try:
            value = do()
            result.append("ok" if value is None or value is True else f"not as expected: {value!r}")
        except Exception as e:
            result.append(f"{type(e).__name__}: {e}")
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    out[name] = result[0] if result else "hung"
    print(name, out[name], f"{time.time() - begin:.1f} s", file=sys.stderr)

def data():
    global x, y, z
    x = client.submit(ts("ones"), 1000, key="on-a", workers=[a], allow_other_workers=True)
    y = client.submit(ts("ones"), 2000, key="on-b", workers=[b], allow_other_workers=True)
    z = client.submit(numpy.ones, 3000, key="on-python", workers=[python])
    wait([x, y, z])
data()

call("scheduler_info", lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 3)
call("ncores", lambda: sum(client.ncores().values()) == 3)
call("nthreads", lambda: set(client.nthreads()) == {a, b, python})
call("who_has", lambda: client.who_has()["on-a"] == (a,))
call("has_what", lambda: set(client.has_what()) == {a, b, python})
call("processing", lambda: set(client.processing()) == {a, b, python})
# Before "replicate", whose own event the scheduler cannot send.
call("get_events", lambda: len(client.get_events()) > 0)
call("nbytes", lambda: client.nbytes(summary=False)["on-a"] >= 8000)
call("call_stack", lambda: client.call_stack() == {})
busy = client.submit(ts("nap"), 60000, 1, workers=[a], pure=False)
def stack():
    while not client.call_stack(): time.sleep(0.05)
    return "nap" in str(client.call_stack())
call("call_stack of a task", stack)
call("call_stack by key", lambda: list(client.call_stack([busy])) == [a])
call("cancel", lambda: client.cancel([busy]))
call("profile", lambda: isinstance(client.profile(), dict))
call("profile of a worker", lambda: client.profile(workers=[a])["count"] == 0)
call("profile server", lambda: isinstance(client.profile(server=True), dict))
call("get_scheduler_logs", lambda: len(client.get_scheduler_logs()) > 0)
call("get_worker_logs", lambda: set(client.get_worker_logs()) == {a, b, python})
call("get_worker_logs n", lambda: len(client.get_worker_logs(n=1, workers=[a])[a]) == 1)
call("get_worker_logs nanny", lambda: a in client.get_worker_logs(nanny=True))
def versions():
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return set(client.get_versions(check=True)["workers"]) == {a, b, python}
call("get_versions check", versions)
call("run", lambda: set(client.run(ts("add"), 1, 2, workers=[a, b]).values()) == {3})
call("run on Python", lambda: client.run(os.getpid, workers=[python])[python] > 0)
def refused():
    try:
        client.run(os.getpid)
    except Exception as e:
        return "TypeScript worker" in str(e)
call("run a Python function everywhere", refused)
def refused_by_nanny():
    try:
        client.run(ts("add"), 1, 2, nanny=True, workers=[a])
    except Exception as e:
        return "the nanny of a TypeScript worker runs no functions" in str(e)
call("run on the nanny", refused_by_nanny)
call("run wait=False", lambda: client.run(ts("nothing"), wait=False, workers=[a, b]))
call("run_on_scheduler", lambda: client.run_on_scheduler(lambda: 5) == 5)
call("replicate", lambda: client.replicate([x, z]))
call("replicated", lambda: all(len(w) == 3 for w in client.who_has([x, z]).values()))
call("rebalance", lambda: client.rebalance())
call("scatter", lambda: client.scatter([1, 2, 3], broadcast=True) is not None)
call("gather", lambda: [len(v) for v in client.gather([x, y, z], direct=False)] == [1000, 2000, 3000])
call("gather direct", lambda: [len(v) for v in client.gather([x, y, z], direct=True)] == [1000, 2000, 3000])
call("amm", lambda: client.amm.run_once())
call("story", lambda: {s[0] for s in client.story("on-a")} >= {"scheduler", a})
call("get_task_stream", lambda: client.get_task_stream() is not None)
call("log_event", lambda: client.log_event("topic", "message"))
call("metadata", lambda: client.set_metadata("m", 1) or client.get_metadata("m") == 1)
class Plugin(WorkerPlugin):
    name = "mine"
    def setup(self, worker): worker.mine = 1
class Nurse(NannyPlugin):
    name = "nurse"
    def setup(self, nanny): nanny.mine = 1
call("register_plugin", lambda: set(client.register_plugin(Plugin())) == {a, b, python})
call("unregister_worker_plugin", lambda: set(client.unregister_worker_plugin("mine")) == {a, b, python})
call("register nanny plugin", lambda: set(client.register_plugin(Nurse())) == {a, b, python})
call("unregister nanny plugin", lambda: set(client.unregister_worker_plugin("nurse", nanny=True)) == {a, b, python})
with open(folder + "/uploaded.py", "w") as f: f.write("five = 5")
call("upload_file", lambda: client.upload_file(folder + "/uploaded.py") is not None)
def uploaded():
    import uploaded
    return uploaded.five
sys.path.append(folder)
call("uploaded on Python", lambda: client.submit(uploaded, workers=[python], pure=False).result(timeout=8) == 5)
def retry():
    f = client.submit(ts("fails"), "once", workers=[a], pure=False)
    wait(f)
    client.retry([f])
    wait(f)
    return f.status == "error"
call("retry", retry)
def actor():
    class Counter: pass
    try:
        client.submit(Counter, actor=True, workers=[a], pure=False).result(timeout=8)
    except Exception as e:
        return "TypeScript worker" in str(e)
call("actor", actor)
call("dump_cluster_state", lambda: client.dump_cluster_state(folder + "/dump"))
call("dump_cluster_state yaml", lambda: client.dump_cluster_state(folder + "/dump", format="yaml"))
# Python's own part takes 12 s of this.
call("benchmark_hardware", lambda: {k: len(v) for k, v in client.benchmark_hardware().items()} == {"disk": 5, "memory": 5, "network": 6}, 60)
call("subscribe_topic", lambda: client.subscribe_topic("topic", print) or client.unsubscribe_topic("topic"))
call("wait_for_workers", lambda: client.wait_for_workers(3, timeout=8))
def names(): return sorted(str(i["name"]) for i in client.scheduler_info(n_workers=-1)["workers"].values())
before = names()
call("restart_workers", lambda: set(client.restart_workers([a], timeout=9).values()) == {"OK"})
call("restarted one", lambda: client.wait_for_workers(3, timeout=9))
call("restart", lambda: client.restart(timeout=25), 30)
# The scheduler goes on as soon as there are as many workers as before, be some of them just about to leave.
def all_back():
    while names() != before: time.sleep(0.1)
    return True
call("all are back", all_back)
call("nothing is left of before", lambda: client.who_has() == {})
info = client.scheduler_info(n_workers=-1)["workers"]
call("all are new", lambda: not set(info) & {a, b, python})
a, b = [w for w, i in info.items() if i.get("language") == "typescript"]
[python] = [w for w in info if w not in (a, b)]
data()
call("the cluster works", lambda: [len(v) for v in client.gather([x, y, z])] == [1000, 2000, 3000])
call("the workers work", lambda: [client.submit(ts("add"), 1, 2, workers=[w], pure=False).result(timeout=8) for w in [a, b]] == [3, 3])
call("retire_workers", lambda: list(client.retire_workers([a])) == [a])
call("all data is there", lambda: [len(v) for v in client.gather([x, y, z])] == [1000, 2000, 3000])
call("shutdown", lambda: client.shutdown())
print(json.dumps(out))
os._exit(0)
`;

Deno.test("every administrative call of a Python client answers or errs clearly on a mixed cluster", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await using scheduler = await startScheduler();
    await using first = await workerProcess(scheduler.address, ["--nthreads", "1", "--name", "ts-1"]);
    await using second = await workerProcess(scheduler.address, ["--nthreads", "1", "--name", "ts-2"]);
    await using third = await pythonWorker(scheduler.address, ["--nthreads", "1", "--name", "py", "--nanny"]);
    const tasks = `file://${PROJECT}tests/worker/tasks.ts`;
    const { code, stdout, stderr } = await runPython(PROGRAM, [scheduler.address, tasks, folder]);
    assertEquals(code, 0, stderr);
    const calls = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Record<string, string>;
    assertEquals(Object.entries(calls).filter(([, result]) => result !== "ok"), []);
    // With the scheduler everything ends, and nobody starts it again.
    const ends = await Promise.all([first, second, third].map((process) => process.ended));
    assertEquals(ends.slice(0, 2).map(({ code }) => code), [0, 0]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
