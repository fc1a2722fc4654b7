/**
 * What operators do with a cluster, against the real scheduler, from a Python client, with TypeScript and Python workers
 * side by side.
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { LogLevel } from "../../base/log.ts";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/mod.ts";
import { errorsInLog, type LoggedProcess, pythonWorker, sharedScheduler } from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";

// Workers in this process have the memory of all of it; what they hold for the scheduler is what `rebalance` should go by.
const scheduler = await sharedScheduler({
  env: { DASK_DISTRIBUTED__WORKER__MEMORY__REBALANCE__MEASURE: "managed" },
});
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

function worker(options: WorkerOptions = {}): Promise<WorkerHandle> {
  return startWorker({ address: scheduler.address, slots: 1, validate: true, ...options });
}

/** A worker of Python's, named `name`, that is known to the scheduler. */
async function pythonPeer(name: string): Promise<LoggedProcess & { readonly address: string }> {
  const process = await pythonWorker(scheduler.address, ["--nthreads", "1", "--name", name]);
  const address = await python.run(`
def named():
    workers = client.scheduler_info(n_workers=-1)["workers"].items()
    return [addr for addr, w in workers if w["name"] == "${name}" and w["status"] == "running"]
until(named)
return named()[0]`);
  return Object.assign(process, { address: String(address) });
}

/** The test's Python code sees the addresses of its workers as `a`, `b`, … */
function run(body: string, ...workers: readonly { readonly address: string }[]): Promise<unknown> {
  const names = workers.map(({ address }, i) => `${"abcdef"[i]} = ${JSON.stringify(address)}\n`);
  return python.run(names.join("") + body);
}

// --- Data and work go from worker to worker ---

Deno.test("tasks move to a worker that joins, each to one result", async () => {
  await using own = await worker();
  await run(
    `
global futures
futures = [client.submit(ts("nap"), 100, i, key=f"steal-{i}") for i in range(40)]
until(lambda: client.processing()[a])`,
    own,
  );
  await using other = await worker();
  const moved = await run(
    `
global futures
values = client.gather(futures)
who = client.who_has(futures)
futures = None
return [values == list(range(40)), all(len(w) == 1 for w in who.values()), sum(b in w for w in who.values())]`,
    own,
    other,
  ) as [boolean, boolean, number];
  assertEquals(moved.slice(0, 2), [true, true]);
  assert(moved[2] > 0, "some moved");
});

Deno.test("replicate, rebalance and the active memory manager move copies between languages", async () => {
  // A limit that 19 MB are much of makes `rebalance` move them. A worker takes more than it by itself.
  const memory = { target: false, spill: false, pause: false, terminate: false } as const;
  await using own = await worker({ memoryLimit: 40e6, memory });
  await using other = await worker({ memoryLimit: 40e6, memory });
  await using peer = await pythonPeer("replicas");
  const copies = await run(
    `
x = client.submit(ts("ones"), 50000, workers=[a], pure=False, allow_other_workers=True); wait(x)
client.replicate([x])
three = len(client.who_has(x)[x.key])
# Results that earlier tests let go may still be on their way out.
until(lambda: all(list(rpc(w, op="keys")) == [x.key] for w in [a, b, c]))
client.amm.run_once()
until(lambda: len(client.who_has(x)[x.key]) == 1)
until(lambda: sum(len(rpc(w, op="keys")) for w in [a, b, c]) == 1)
many = client.map(ts("ones"), [200000] * 12, workers=[a], pure=False, allow_other_workers=True); wait(many)
client.rebalance(many)
held = {w: len(keys) for w, keys in client.has_what().items()}
total = [int(value.sum()) for value in client.gather(many)]
return [three, int(x.result().sum()), total == [200000] * 12, len(held), held[a] < 12]`,
    own,
    other,
    peer,
  );
  assertEquals(copies, [3, 50000, true, 3, true]);
});

Deno.test("retirement hands the only copy over, from TypeScript to Python and back", async () => {
  await using own = await worker();
  await using peer = await pythonPeer("retire-py");
  const kept = await run(
    `
global x
x = client.submit(ts("ones"), 30000, key="retired", workers=[a], allow_other_workers=True); wait(x)
retired = list(client.retire_workers([a]))
return [retired == [a], client.who_has(x)[x.key] == (b,), int(x.result().sum())]`,
    own,
    peer,
  );
  assertEquals(kept, [true, true, 30000]);
  await own.closed;
  await using other = await worker();
  const back = await run(
    `
global x
until(lambda: client.scheduler_info(n_workers=-1)["workers"][b]["status"] == "running")
retired = list(client.retire_workers([a]))
out = [retired == [a], client.who_has(x)[x.key] == (b,), int(client.gather(x, direct=False).sum())]
x = None
return out`,
    peer,
    other,
  );
  assertEquals(back, [true, true, 30000]);
  await peer.ended;
});

Deno.test("a worker whose data nobody can take pauses, and is set to work again", async () => {
  await using own = await worker();
  const after = await run(
    `
x = client.submit(ts("ones"), 1000, workers=[a], pure=False); wait(x)
retired = client.retire_workers([a], close_workers=True)
until(lambda: client.scheduler_info(n_workers=-1)["workers"][a]["status"] == "running")
statuses = [s for _, event in client.get_events(a) for s in [event.get("status")] if event["action"] == "worker-status-change"]
return [retired, statuses, client.submit(ts("add"), 1, 2, workers=[a], pure=False).result(), int(x.result().sum())]`,
    own,
  );
  assertEquals(after, [{}, ["running", "closing_gracefully", "running"], 3, 1000]);
  assertEquals(own.status, "running");
});

Deno.test("a worker that is told of a peer's end forgets it, and lost inputs are computed anew", async () => {
  await using own = await worker();
  await using peer = await pythonPeer("killed");
  await run(
    `
global x
x = client.submit(ts("ones"), 1000, workers=[a], pure=False)
client.replicate([client.submit(numpy.ones, 1000, key="lost-input", workers=[b], allow_other_workers=True)], n=1)
global lost
lost = client.submit(numpy.ones, 2000, key="lost", workers=[b]); wait([x, lost])
assert client.submit(ts("sum"), lost, workers=[a], pure=False).result() == 2000`,
    own,
    peer,
  );
  peer.kill("SIGKILL");
  await peer.ended;
  await using again = await pythonPeer("killed-2");
  const sum = await run(
    `
global x, lost
until(lambda: b not in client.scheduler_info(n_workers=-1)["workers"])
until(lambda: b not in str(rpc(a, op="dump_state", exclude=[])["state"]["peers"]))
lost = client.submit(numpy.ones, 3000, key="lost-2", workers=[c])
out = client.submit(ts("sum"), lost, workers=[a], pure=False).result()
x = lost = None
return out`,
    own,
    peer,
    again,
  );
  assertEquals(sum, 3000);
});

Deno.test("scattered values go to both languages and come back from both", async () => {
  await using own = await worker();
  await using peer = await pythonPeer("scatter");
  const same = await run(
    `
data = {"list": [1, 2, "x"], "array": numpy.arange(200000.0), "bytes": b"\\0" * 100000, "text": "é" * 10, "none": None}
out = []
for w in [a, b]:
    for direct in [True, False]:
        futures = client.scatter(data, workers=[w], direct=direct)
        back = client.gather(futures, direct=direct)
        out.append(all(str(back[k]) == str(data[k]) for k in data) and (back["array"] == data["array"]).all())
        out.append(all(ws == (w,) for ws in client.who_has(list(futures.values())).values()))
        for f in futures.values(): f.release()
        until(lambda: not client.who_has())
everywhere = client.scatter(numpy.arange(1000.0), broadcast=True, hash=False)
out.append(sorted(client.who_has(everywhere)[everywhere.key]) == sorted([a, b]))
out.append(client.submit(ts("sum"), everywhere, workers=[a], pure=False).result() == 499500)
out.append(client.submit(numpy.sum, everywhere, workers=[b], pure=False).result() == 499500)
return [bool(x) for x in out]`,
    own,
    peer,
  ) as boolean[];
  assertEquals(same, same.map(() => true));
});

// --- Functions that are no tasks ---

Deno.test("client.run calls a TypeScript function in a process of its own, and gives its value", async () => {
  await using own = await worker();
  await using other = await worker();
  const values = await run(
    `
pids = client.run(ts("pid"), workers=[a, b])
big = client.run(ts("ones"), 50000, workers=[a])[a]
return {
  "add": client.run(ts("add"), 1, 2, workers=[a]),
  "both": sorted(client.run(ts("add"), 1, 2)) == sorted([a, b]),
  "keywords": client.run(ts("scaled"), 5, factor=3, workers=[a])[a],
  "async": client.run(ts("nap"), 10, "slept", workers=[a])[a],
  "big": [type(big).__name__, len(big), float(big.sum())],
  "none": client.run(ts("nothing"), workers=[a])[a],
  "apart": ${Deno.pid} not in pids.values() and len(set(pids.values())) == 2,
  "coroutine": rpc(a, op="run_coroutine", function=distributed.protocol.pickle.dumps(ts("add")),
    args=distributed.protocol.pickle.dumps((3, 4)))["result"],
}`,
    own,
    other,
  );
  assertEquals(values, {
    add: { [own.address]: 3 },
    both: true,
    keywords: 15,
    async: "slept",
    big: ["ndarray", 50000, 50000],
    none: null,
    apart: true,
    coroutine: 7,
  });
});

Deno.test("client.run tells what went wrong: thrown, missing, gone, Python", async () => {
  await using own = await worker();
  const [thrown, missing, gone, byName, byValue, nowait, returned] = await run(
    `
def failure(*args, **kwargs):
    try:
        return f"no failure: {client.run(*args, workers=[a], **kwargs)}"
    except Exception as e:
        return f"{type(e).__name__}: {e} {getattr(e, '__notes__', '')}"
def my_function(): pass
async def my_coroutine(): pass
import os
out = [failure(ts("fails"), "on purpose"), failure(ts("not_there")), failure(ts("exits")), failure(os.getpid),
  failure(my_function), failure(my_coroutine, wait=False)]
out.append(str(client.run(my_function, workers=[a], on_error="return")[a]))
assert client.submit(ts("add"), 1, 2, workers=[a], pure=False).result() == 3
return out`,
    own,
  ) as string[];
  assertStringIncludes(thrown!, "on purpose");
  assertStringIncludes(thrown!, "tasks.ts");
  assertStringIncludes(missing!, 'Cannot find "not_there"');
  assertStringIncludes(gone!, "Deno.exit(3)");
  assertStringIncludes(byName!, "Cannot run the Python function posix.getpid");
  for (const text of [byValue, returned]) assertStringIncludes(text!, "my_function");
  for (const text of [byName, byValue, nowait, returned]) {
    assertStringIncludes(text!, 'methodcaller("deno:<module URL>#<export>")');
  }
});

Deno.test("client.run with wait=False answers at once and runs on; what fails then is logged", async () => {
  const lines: string[] = [];
  const failed = Promise.withResolvers<void>();
  await using own = await worker({
    logger: {
      log: (_level: LogLevel, message) => {
        lines.push(message);
        if (message.includes("unheard")) failed.resolve();
      },
    },
  });
  const folder = await Deno.makeTempDir();
  const file = `${folder}/touched`;
  try {
    await run(
      `
assert client.run(ts("touch"), ${JSON.stringify(file)}, workers=[a], wait=False) is None
assert client.run(ts("fails"), "unheard", workers=[a], wait=False) is None
import os
until(lambda: os.path.exists(${JSON.stringify(file)}))`,
      own,
    );
    await failed.promise;
    assertStringIncludes(lines.join("\n"), "The function deno:");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.run is answered while every slot spins, and a stuck one ends with the worker", async () => {
  await using own = await worker();
  const sum = await run(
    `
global spinning
spinning = client.submit(ts("forever"), key="spin", workers=[a])
until(lambda: rpc(a, op="call_stack", keys=None))
assert client.run(ts("forever"), workers=[a], wait=False) is None
return client.run(ts("add"), 1, 2, workers=[a])[a]`,
    own,
  );
  assertEquals(sum, 3);
  await own.close();
  await run(`
global spinning
spinning = None`);
});

// --- What is going on ---

Deno.test("call_stack names task, function and time, and only what runs", async () => {
  await using own = await worker();
  const stacks = await run(
    `
x = client.submit(ts("nap"), 60000, 1, key=("stack", 0), workers=[a])
y = client.submit(ts("nap"), 60000, 1, key="waits", workers=[a])
until(lambda: client.call_stack())
out = [list(client.call_stack()[a].values()), client.call_stack([y]), list(client.call_stack([x])[a])]
x.cancel(); y.cancel()
until(lambda: not client.call_stack())
return out`,
    own,
  ) as [string[][], unknown, unknown];
  assertEquals(stacks[0].length, 1);
  assertStringIncludes(stacks[0][0]![0]!, "Task ('stack', 0), for ");
  assertStringIncludes(stacks[0][0]![1]!, "tasks.ts#nap");
  assertEquals(stacks.slice(1), [{}, [["stack", 0]]]);
});

Deno.test("story, logs, monitor and dump have the forms of Python's workers", async () => {
  await using own = await worker();
  await using peer = await pythonPeer("forms");
  const folder = await Deno.makeTempDir();
  try {
    const forms = await run(
      `
import msgpack, gzip, yaml
from distributed.cluster_dump import DumpArtefact
x = client.submit(ts("add"), 1, 2, key=("story", 1), workers=[a]); x.result()
story = [s for s in client.story(("story", 1)) if s[0] == a]
stimulus = story[0][6]
shapes = {w: {len(s) for s in client.story(x.key) if s[0] == w} for w in [a, b]}
logs = client.get_worker_logs(n=2)
async def monitor(dask_scheduler): return await dask_scheduler.get_worker_monitor_info(recent=True)
monitors = client.run_on_scheduler(monitor)
filename = ${JSON.stringify(folder)} + "/dump"
client.dump_cluster_state(filename)
client.dump_cluster_state(filename, format="yaml", exclude=["logs", "run_spec"])
dump = DumpArtefact.from_url(filename + ".msgpack.gz")
read = yaml.safe_load(open(filename + ".yaml"))["workers"][a]
return {
  "story": [s[1:4] for s in story], "stimulus": any(s[0] == a for s in client.story(stimulus)), "shapes": shapes[a],
  "logs": [len(logs[a]), all(isinstance(line, str) and level in ("INFO", "WARNING") for level, line in logs[a])],
  "monitor": monitors[a]["range_query"]["memory"] > 0 and set(monitors[a]) == set(monitors[b]),
  "history": rpc(a, op="get_monitor_info", start=0)["count"] >= 1,
  "dump": [dump["workers"][a]["type"], dump["workers"][b]["type"]],
  "tasks": list(dump["workers"][a]["tasks"]), "yaml": ["logs" in read, read["tasks"]["('story', 1)"]["state"]],
}`,
      own,
      peer,
    );
    assertEquals(forms, {
      story: [
        [["story", 1], "released", "ready"],
        [["story", 1], "ready", "ready(placed)"],
        [["story", 1], "ready(placed)", "executing"],
        [["story", 1], "executing", "memory"],
      ],
      stimulus: true,
      shapes: "{8}",
      logs: [2, true],
      monitor: true,
      history: true,
      dump: ["Worker", "Worker"],
      tasks: ["('story', 1)"],
      yaml: [false, "memory"],
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("benchmarks measure every size in bytes per second, and the worker answers meanwhile", async () => {
  await using own = await worker();
  await using peer = await pythonPeer("benchmarks");
  const measured = await run(
    `
import threading
out = {}
for op, fields in [("benchmark_disk", {}), ("benchmark_memory", {}), ("benchmark_network", {"address": b})]:
    results = []
    def measure():
        try: results.append(rpc(a, op=op, **fields))
        except BaseException as e: results.append(repr(e))
    thread = threading.Thread(target=measure)
    thread.start()
    pings = 0
    while thread.is_alive():
        assert rpc(a, op="ping") == b"pong"
        pings += 1
    assert isinstance(results[0], dict), results[0]
    out[op] = [list(results[0]), all(v > 1000 for v in results[0].values()), pings > 2]
return out`,
    own,
    peer,
  );
  assertEquals(measured, {
    benchmark_disk: [["1 kiB", "100 kiB", "1 MiB", "10 MiB", "100 MiB"], true, true],
    benchmark_memory: [["2 kiB", "10 kiB", "100 kiB", "1 MiB", "10 MiB"], true, true],
    benchmark_network: [["1 kiB", "10 kiB", "100 kiB", "1 MiB", "10 MiB", "50 MiB"], true, true],
  });
});

Deno.test("resources change while the worker runs, and the scheduler hears of it", async () => {
  await using own = await worker();
  await own.setResources({ GPU: 2 });
  const answer = await run(
    `
future = client.submit(ts("add"), 1, 2, resources={"GPU": 2}, pure=False)
return [future.result(timeout=15), client.scheduler_info(n_workers=-1)["workers"][a]["resources"]]`,
    own,
  );
  assertEquals(answer, [3, { GPU: 2 }]);
  await assertRejects(() => own.setResources({ GPU: -1 }), RangeError, "GPU");
});

Deno.test("a plugin of Python's is registered for Python workers, and each TypeScript worker says so once", async () => {
  const lines: string[] = [];
  const logger = { log: (level: LogLevel, message: string) => void lines.push(`${level} ${message}`) };
  await using own = await worker({ logger });
  await using peer = await pythonPeer("plugins");
  const answers = await run(
    `
from distributed import WorkerPlugin
class Mine(WorkerPlugin):
    name = "mine"
    def setup(self, worker): worker.mine = 5
client.register_plugin(Mine())
return client.run(lambda dask_worker: dask_worker.mine, workers=[b])[b]`,
    own,
    peer,
  );
  assertEquals(answers, 5);
  await using late = await worker({ logger });
  assertEquals(late.status, "running");
  assertEquals(lines.filter((line) => line.startsWith('warning Ignored the plugin "mine"')).length, 2);
  await run(`client.unregister_worker_plugin("mine")`);
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(
    await errorsInLog(scheduler, [/lose scattered data/, /broadcast to .* failed/]),
    [],
  );
});
