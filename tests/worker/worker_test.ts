/**
 * Workers in this process against the real scheduler, seen through a Python client. Names beginning with W are lines of
 * the list of what a worker can do.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { startWorker, type WorkerHandle, type WorkerOptions } from "../../worker/mod.ts";
import { DaskError } from "../../protocol/errors.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

/** A worker of a test, with the machine's invariants checked. */
function worker(options: WorkerOptions = {}): Promise<WorkerHandle> {
  return startWorker({ address: scheduler.address, slots: 1, validate: true, ...options });
}

/** The test's Python code sees the addresses of its workers as `a`, `b`, … */
function run(body: string, ...workers: readonly WorkerHandle[]): Promise<unknown> {
  const names = workers.map(({ address }, i) => `${"abcdef"[i]} = ${JSON.stringify(address)}\n`);
  return python.run(names.join("") + body);
}

Deno.test("W2 startWorker takes host:port with and without tcp://", async () => {
  const bare = scheduler.address.replace("tcp://", "");
  await using first = await startWorker(bare);
  await using second = await startWorker({ address: scheduler.address, slots: 1 });
  assertNotEquals(first.address, second.address);
  assertEquals(
    await run(
      `return sorted(client.scheduler_info(n_workers=-1)["workers"]) == sorted([a, b])`,
      first,
      second,
    ),
    true,
  );
});

Deno.test("W1 startWorker finds the scheduler by DASK_SCHEDULER_ADDRESS", async () => {
  Deno.env.set("DASK_SCHEDULER_ADDRESS", scheduler.address);
  try {
    await using own = await startWorker({ slots: 1 });
    assertEquals(
      await run(`return client.submit(ts("add"), 1, 2, workers=[a], pure=False).result()`, own),
      3,
    );
  } finally {
    Deno.env.delete("DASK_SCHEDULER_ADDRESS");
  }
});

Deno.test("W3 W4 a worker listens on a free port and registers name, slots, memory limit, resources, status", async () => {
  await using own = await worker({ name: "w4", slots: 2, memoryLimit: "2GiB", resources: { GPU: 2 } });
  const info = await run(
    `
until(lambda: client.scheduler_info(n_workers=-1)["workers"][a]["status"] == "running")
w = client.scheduler_info(n_workers=-1)["workers"][a]
return {k: w[k] for k in ["name", "nthreads", "memory_limit", "resources", "status", "language"]}`,
    own,
  );
  assertEquals(info, {
    name: "w4",
    nthreads: 2,
    memory_limit: 2 ** 31,
    resources: { GPU: 2 },
    status: "running",
    language: "typescript",
  });
  assertMatch(own.address, /^tcp:\/\/127\.0\.0\.1:\d+$/);
});

Deno.test("W3 a worker listens on the port that it is told", async () => {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = probe.addr.port;
  probe.close();
  await using own = await worker({ port });
  assertEquals(own.address, `tcp://127.0.0.1:${port}`);
});

Deno.test("a Python client runs a TypeScript function: plain, futures, nested, keywords", async () => {
  await using own = await worker();
  const values = await run(
    `
where = dict(workers=[a], pure=False)
three = client.submit(ts("add"), 1, 2, **where)
return [
  three.result(),
  client.submit(ts("add"), three, 4, **where).result(),
  client.submit(ts("total"), [three, 10, three], **where).result(),
  client.submit(ts("field"), {"x": three, "y": "text"}, "x", **where).result(),
  client.submit(ts("scaled"), 5, factor=three, **where).result(),
  client.gather(client.map(ts("add"), range(20), range(20), **where)),
]`,
    own,
  );
  assertEquals(values, [3, 7, 16, 3, 15, Array.from({ length: 20 }, (_, i) => 2 * i)]);
});

Deno.test("W26 an exception in a task reaches the client with name, message and stack, and the worker goes on", async () => {
  await using own = await worker();
  const text = await run(
    `
future = client.submit(ts("fails"), "no such luck", workers=[a], pure=False)
try:
    future.result()
except Exception as e:
    text = str(e) + " | " + " ".join(getattr(e, "__notes__", []))
assert client.submit(ts("add"), 1, 1, workers=[a], pure=False).result() == 2
return text`,
    own,
  );
  assertStringIncludes(String(text), "no such luck");
  assertStringIncludes(String(text), "tasks.ts");
});

Deno.test("W15 a task that cannot be read, or is Python's, is reported as erred with the reason", async () => {
  await using own = await worker();
  const text = await run(
    `
future = client.submit(sum, [1, 2], workers=[a], pure=False)
return str(future.exception())`,
    own,
  );
  assertStringIncludes(String(text), "Python function");
});

Deno.test("W7 W27 the address can be passed to submit and to retire; the worker ends with it", async () => {
  await using own = await worker();
  await using other = await worker();
  await run(
    `
assert client.submit(ts("add"), 1, 2, workers=a, pure=False).result() == 3
assert list(client.retire_workers([a], close_workers=True)) == [a]`,
    own,
    other,
  );
  await own.closed;
  assertEquals(own.status, "closed");
});

Deno.test("W5 W28 workers join and leave under load, and all work is done", async () => {
  await using first = await worker({ slots: 2 });
  const results = run(
    `
futures = client.map(ts("nap"), [5] * 200, range(200), pure=False)
return sum(client.gather(futures))`,
    first,
  );
  await using _second = await worker();
  {
    await using third = await worker();
    await run_status(third);
  }
  assertEquals(await results, 199 * 100);
});

/** Until the scheduler takes the worker for running. */
async function run_status(own: WorkerHandle): Promise<void> {
  while (own.status !== "running") await new Promise((resolve) => setTimeout(resolve, 10));
}

Deno.test("W6 several workers in one process", async () => {
  await using first = await worker();
  await using second = await worker();
  const sums = await run(
    `
return [client.submit(ts("add"), 1, i, workers=[w], pure=False).result() for i, w in enumerate([a, b])]`,
    first,
    second,
  );
  assertEquals(sums, [1, 2]);
});

Deno.test("W8 a worker prints itself", async () => {
  await using own = await worker();
  await run(
    `
global kept
kept = client.submit(ts("add"), 1, 2, workers=[a], pure=False)
kept.result()`,
    own,
  );
  assertEquals(
    Deno.inspect(own),
    `<Worker: ${own.address}, running, stored: 1, running: 0, ready: 0, waiting: 0>`,
  );
  await run(`global kept; del kept`, own);
});

Deno.test("W9 W29 the rpc handlers answer", async () => {
  await using own = await worker({ name: "w9" });
  const answers = await run(
    `
held = client.submit(ts("add"), 1, 2, key="w9-held", workers=[a]); held.result()
out = {}
for op, fields in {"ping": {}, "keys": {}, "identity": {}, "get_logs": {}, "call_stack": {"keys": None}, "profile": {},
    "profile_metadata": {}, "get_story": {"keys_or_stimuli": ["w9-held"]}, "versions": {},
    "dump_state": {"exclude": []}, "plugin-add": {"plugin": b"x", "name": "shuffle"}, "plugin-remove": {"name": "x"},
    "run": {"function": b"x"}, "run_coroutine": {"function": b"x"}, "upload_file": {"filename": "x.py", "data": b""},
    "actor_execute": {}, "connection_stream": {}, "echo": {"data": [1, "x"]}, "no-such-op": {}}.items():
    out[op] = rpc(a, op=op, **fields)
out["versions"] = [
    out["versions"]["packages"] == rpc(client.scheduler.address, op="versions")["packages"],
    out["versions"]["host"]["deno"]]
out["get_story"] = len(out["get_story"]) > 0
out["dump_state"] = out["dump_state"]["status"]
out["get_logs"] = any("registered to" in line for level, line in out["get_logs"])
out["run"] = [out["run"]["status"], out["run"]["exception_text"]]
out["run_coroutine"] = out["run_coroutine"]["status"]
return {k: (v.decode() if isinstance(v, bytes) else v) for k, v in out.items()}`,
    own,
  ) as Record<string, unknown>;
  const { identity, upload_file, actor_execute, connection_stream, run: refused, profile, ...rest } = answers;
  assertEquals(rest, {
    "ping": "pong",
    "keys": ["w9-held"],
    "get_logs": true,
    "call_stack": {},
    "profile_metadata": { counts: [], keys: [] },
    "get_story": true,
    "echo": [1, "x"],
    "versions": [true, Deno.version.deno],
    "dump_state": "running",
    "plugin-add": { status: "OK" },
    "plugin-remove": { status: "OK" },
    "run_coroutine": "error",
    "no-such-op": null,
  });
  assertEquals((identity as { nthreads: number }).nthreads, 1);
  assertEquals((profile as { identifier: string }).identifier, "root");
  assertStringIncludes(JSON.stringify(refused), "Cannot read a pickle"); // b"x" is none
  assertStringIncludes(String(upload_file), "TypeScript worker");
  assertStringIncludes(String(actor_execute), "actor_execute.function");
  assertStringIncludes(String(connection_stream), "connection_stream");
});

Deno.test("requests that make no sense are answered with the field's name, and the worker lives on", async () => {
  await using own = await worker();
  const answers = await run(
    `
return [str(rpc(a, **m)) for m in [
  {"op": "free_keys", "keys": 5, "stimulus_id": "s"},
  {"op": "free_keys", "keys": ["x"]},
  {"op": "update_data"},
  {"op": "update_data", "data": {"x": 1}},
  {"op": "gather", "who_has": [1]},
  {"op": "get_data", "keys": 3},
  {"op": "get_story"},
]]`,
    own,
  ) as string[];
  const named = [
    "free_keys.keys",
    "free_keys.stimulus_id",
    "update_data.data",
    'update_data.data["x"]',
    "gather.who_has",
    "keys",
    "get_story.keys_or_stimuli",
  ];
  for (const [i, name] of named.entries()) assertStringIncludes(answers[i] ?? "", name);
  assertEquals(await run(`return client.submit(ts("add"), 1, 2, workers=[a], pure=False).result()`, own), 3);
});

Deno.test("W14 asked again for a key that it holds, it answers without running", async () => {
  await using own = await worker();
  await using other = await worker();
  const counts = await run(
    `
first = client.submit(ts("counted"), key="w14-x", workers=[a])
one = first.result()
first.release()
again = client.submit(ts("counted"), key="w14-x", workers=[a])
return [one, again.result()]`,
    own,
    other,
  );
  assert(Array.isArray(counts));
  assertEquals(counts[0], 1);
});

Deno.test("W12 W16 W17 dependencies are fetched from peers and stay sound", async () => {
  await using own = await worker();
  await using other = await worker();
  const results = await run(
    `
big = [client.submit(ts("ones"), 300000 + i, workers=[a], pure=False) for i in range(4)]
sums = [client.submit(ts("sum"), f, workers=[b], pure=False) for f in big]
out = [s.result() for s in sums]
return [out, all(rpc(b, op="get_story", keys_or_stimuli=[f.key]) for f in big)]`,
    own,
    other,
  );
  assertEquals(results, [[300000, 300001, 300002, 300003], true]);
});

Deno.test("W20 replicate and rebalance bring keys by gather", async () => {
  await using own = await worker();
  await using other = await worker();
  const holders = await run(
    `
future = client.submit(ts("ones"), 1000, workers=[a], pure=False); wait(future)
client.replicate([future], n=2)
two = len(client.who_has([future])[future.key])
client.replicate([future], n=1)
until(lambda: len(client.who_has([future])[future.key]) == 1)
client.rebalance([future])
return [two, int(client.gather(future).sum())]`,
    own,
    other,
  );
  assertEquals(holders, [2, 1000]);
});

Deno.test("W20 gather names what nobody has", async () => {
  await using own = await worker();
  const answer = await run(
    `
answer = rpc(a, op="gather", who_has={"w20-none": ["tcp://127.0.0.1:1"], ("w20", 1): []})
return {**answer, "keys": sorted(answer["keys"], key=str)}`,
    own,
  );
  assertEquals(answer, { status: "partial-fail", keys: [["w20", 1], "w20-none"] });
});

Deno.test("W21 scattered values are held and used; W24 their size is told", async () => {
  await using own = await worker();
  const answer = await run(
    `
data = numpy.arange(100000.0)
future = client.scatter(data, workers=[a], hash=False, direct=False)
n = client.nbytes(summary=False)[future.key]
direct = client.scatter({"w21-d": [1, 2, 3]}, workers=[a], direct=True)
return [client.submit(ts("sum"), future, workers=[a], pure=False).result(), n > 800000,
  client.submit(ts("total"), direct["w21-d"], workers=[a], pure=False).result(), client.gather(direct)]`,
    own,
  );
  assertEquals(answer, [4999950000, true, 6, { "w21-d": [1, 2, 3] }]);
});

Deno.test("W22 released values are freed on the worker", async () => {
  await using own = await worker();
  const left = await run(
    `
future = client.submit(ts("ones"), 1000, key="w22-x", workers=[a]); wait(future)
before = rpc(a, op="keys")
future.release()
until(lambda: not rpc(a, op="keys"))
return list(before)`,
    own,
  );
  assertEquals(left, ["w22-x"]);
});

Deno.test("W25 a release while a task runs stops the task", async () => {
  await using own = await worker();
  const seconds = await run(
    `
future = client.submit(ts("forever"), key="w25-x", workers=[a])
until(lambda: client.processing()[a] and rpc(a, op="call_stack", keys=None))
begin = time.time()
future.release()
assert client.submit(ts("add"), 1, 2, workers=[a], pure=False).result(timeout=15) == 3
return time.time() - begin`,
    own,
  );
  assert(Number(seconds) < 10, `${seconds} s`);
});

Deno.test("W23 W10 work is stolen, and every task runs to one result", async () => {
  await using own = await worker();
  await using other = await worker();
  const answer = await run(
    `
root = client.submit(ts("add"), 0, 0, workers=[a], pure=False); wait(root)
futures = [client.submit(ts("nap"), 100, i, workers=[a, b], allow_other_workers=True, pure=False) for i in range(40)]
values = client.gather(futures)
who = client.who_has(futures)
return [sorted(values) == list(range(40)), all(sum(w in v for v in who.values()) > 5 for w in [a, b])]`,
    own,
    other,
  );
  assertEquals(answer, [true, true]);
});

Deno.test("tuple keys travel both ways", async () => {
  await using own = await worker();
  await using other = await worker();
  const answer = await run(
    `
x = client.submit(ts("ones"), 10, key=("x-tuple", 0), workers=[a])
y = client.submit(ts("sum"), x, key=("y-tuple", 0, 1), workers=[b])
return [y.result(), rpc(b, op="keys")]`,
    own,
    other,
  ) as [number, unknown[]];
  assertEquals(answer[0], 10);
  assertEquals(answer[1].length, 2);
});

Deno.test("W30 resources limit what runs at a time", async () => {
  await using own = await worker({ slots: 4, resources: { one: 1 } });
  const seconds = await run(
    `
begin = time.time()
client.gather([client.submit(ts("nap"), 100, i, resources={"one": 1}, pure=False) for i in range(4)])
return time.time() - begin`,
    own,
  );
  assert(Number(seconds) >= 0.4, `${seconds} s`);
});

Deno.test("retirement moves the data to others first", async () => {
  await using own = await worker();
  await using other = await worker();
  const answer = await run(
    `
future = client.submit(ts("ones"), 1000, key="retire-x", workers=[a], allow_other_workers=True); wait(future)
client.retire_workers([a])
return [int(future.result().sum()), list(client.who_has([future]).values()) == [(b,)]]`,
    own,
    other,
  );
  assertEquals(answer, [1000, true]);
  await own.closed;
});

Deno.test("a name that is taken is refused with the scheduler's words", async () => {
  await using _own = await worker({ name: "taken" });
  const error = await assertRejects(() => worker({ name: "taken" }), DaskError);
  assertStringIncludes(error.message, "name taken, taken");
});

Deno.test("a worker ends by its signal, and a start is given up by it", async () => {
  const stop = new AbortController();
  await using own = await worker({ signal: stop.signal });
  stop.abort();
  await own.closed;
  await assertRejects(() => worker({ signal: stop.signal }));
});

Deno.test("a scheduler that is not there is told after the time given", async () => {
  const error = await assertRejects(
    () => worker({ address: "127.0.0.1:1", connectTimeoutMs: 300 }),
    DaskError,
  );
  assertStringIncludes(error.message, "Cannot reach the scheduler at tcp://127.0.0.1:1 within 300 ms");
});

Deno.test("options that are not available are refused clearly", async () => {
  const error = await assertRejects(() => worker({ reconnect: true }), DaskError);
  assertStringIncludes(error.message, "is not available yet");
  await assertRejects(() => worker({ slots: 0 }), RangeError);
});

Deno.test("W28 nothing is left when a worker has ended", async () => {
  const prefix = `dask-ts-${Deno.pid}-`;
  const own = await worker();
  await own.close();
  await own.close();
  for (const folder of ["/dev/shm", Deno.makeTempDirSync().replace(/\/[^/]*$/, "")]) {
    for (const entry of Deno.readDirSync(folder)) {
      assert(!entry.name.startsWith(prefix), `${folder}/${entry.name}`);
    }
  }
  assertEquals(await run(`return client.scheduler_info(n_workers=-1)["workers"].get(a)`, own), null);
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(await errorsInLog(scheduler, [/lose scattered data/]), []);
});
