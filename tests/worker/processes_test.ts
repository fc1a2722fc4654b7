/**
 * The worker's command line as a process, and how it dies: signals, kills, lost schedulers.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  errorsInLog,
  type LoggedProcess,
  PROJECT,
  pythonWorker,
  sharedScheduler,
  startScheduler,
  workerProcess,
} from "../support/scheduler.ts";
import { isAlive, processTree } from "../support/proc.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

/** Until the process has printed that it is registered; its address. */
async function registered(process: LoggedProcess): Promise<string> {
  let ended = false;
  process.ended.then(() => ended = true);
  for (;;) {
    const match = /Worker at (tcp:\/\/\S+) \(.*\), registered to/.exec(await process.log());
    if (match?.[1] !== undefined) return match[1];
    if (ended) throw new Error(`The worker ended: ${await process.log()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function start(...args: string[]): Promise<LoggedProcess> {
  return workerProcess(scheduler.address, ["--no-nanny", "--nthreads", "1", ...args]);
}

async function command(...args: string[]): Promise<{ code: number; text: string }> {
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `${PROJECT}worker/main.ts`, ...args],
    stdin: "null",
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code: output.code, text: decode(output.stdout) + decode(output.stderr) };
}

Deno.test("the command line registers, prints one line, and SIGTERM ends it with code 0", async () => {
  await using own = await start("--name", "cli-1");
  const address = await registered(own);
  assertMatch(
    await own.log(),
    /Worker at tcp:\/\/127\.0\.0\.1:\d+ \(cli-1\), registered to tcp:\/\/127\.0\.0\.1:\d+/,
  );
  assertEquals(
    await python.run(`return client.submit(ts("add"), 1, 2, workers=["${address}"], pure=False).result()`),
    3,
  );
  const processes = processTree(own.pid);
  assert(processes.length >= 2, "worker and executor");
  const at = Date.now();
  own.kill("SIGTERM");
  const status = await own.ended;
  assertEquals({ code: status.code, signal: status.signal }, { code: 0, signal: null });
  assert(Date.now() - at < 3_000, `${Date.now() - at} ms`);
  assertEquals(processes.filter(isAlive), []);
});

Deno.test("with the nanny a killed worker is started again, and SIGTERM ends both", async () => {
  await using own = await workerProcess(scheduler.address, ["--nthreads", "1", "--name", "nannied"]);
  const first = await registered(own);
  const child = processTree(own.pid)[1];
  assert(child !== undefined);
  assertStringIncludes(Deno.readTextFileSync(`/proc/${child}/environ`), "MALLOC_ARENA_MAX=2");
  Deno.kill(child, "SIGKILL");
  const second = await python.run(`
until(lambda: any(w["name"] == "nannied" and w["status"] == "running" and a != "${first}" for a, w in client.scheduler_info(n_workers=-1)["workers"].items()))
return client.submit(ts("add"), 1, 2, workers=["nannied"], pure=False).result()`);
  assertEquals(second, 3);
  const processes = processTree(own.pid);
  own.kill("SIGTERM");
  assertEquals((await own.ended).code, 0);
  assertEquals(processes.filter(isAlive), []);
});

Deno.test("a worker whose nanny was killed ends by itself", async () => {
  await using own = await workerProcess(scheduler.address, ["--nthreads", "1"]);
  await registered(own);
  const processes = processTree(own.pid);
  own.kill("SIGKILL");
  await own.ended;
  const until = Date.now() + 5_000;
  while (processes.some(isAlive) && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assertEquals(processes.filter(isAlive), []);
});

Deno.test("--nworkers starts several, numbered", async () => {
  await using own = await workerProcess(scheduler.address, [
    "--nthreads",
    "1",
    "--nworkers",
    "2",
    "--name",
    "many",
  ]);
  const names = await python.run(`
names = lambda: sorted(w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values() if w["name"].startswith("many"))
until(lambda: len(names()) == 2)
return names()`);
  assertEquals(names, ["many-0", "many-1"]);
  own.kill("SIGTERM");
  assertEquals((await own.ended).code, 0);
});

Deno.test("a taken name ends with the scheduler's words and code 1, nanny or not", async () => {
  await using own = await start("--name", "twice");
  await registered(own);
  for (const nanny of ["--no-nanny", "--nanny"]) {
    const { code, text } = await command(scheduler.address, nanny, "--nthreads=1", "--name=twice");
    assertEquals(code, 1, text);
    assertStringIncludes(text, "name taken, twice");
  }
});

Deno.test("words that make no sense, --help and --version", async () => {
  const unknown = await command("--nthread", "2");
  assertEquals(unknown, { code: 2, text: "Unknown flag --nthread: did you mean --nthreads\n" });
  assertStringIncludes((await command("--help")).text, "--memory-limit");
  assertMatch((await command("--version")).text, /^\d+\.\d+\.\d+\n$/);
});

Deno.test("missing permissions are told all at once, with the command to use", async () => {
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", `${PROJECT}worker/main.ts`, scheduler.address],
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(output.stderr);
  assertEquals(output.code, 2, text);
  for (const flag of ["--allow-net", "--allow-run", "--allow-read", "--allow-write"]) {
    assertStringIncludes(text, flag);
  }
});

Deno.test("--death-timeout gives up with code 1", async () => {
  const { code, text } = await command("127.0.0.1:1", "--no-nanny", "--nthreads=1", "--death-timeout=300ms");
  assertEquals(code, 1, text);
  assertStringIncludes(text, "within 300 ms");
});

Deno.test("a worker that loses its scheduler ends within seconds, with code 0", async () => {
  await using lost = await startScheduler();
  await using own = await workerProcess(lost.address, ["--nthreads", "1"]);
  await registered(own);
  const at = Date.now();
  lost.kill("SIGKILL");
  assertEquals((await own.ended).code, 0);
  assert(Date.now() - at < 5_000, `${Date.now() - at} ms`);
});

Deno.test("W18 W19 a worker killed in the middle of its work: another fetches elsewhere and does it", async () => {
  await using own = await start();
  await using other = await start();
  const [a, b] = [await registered(own), await registered(other)];
  await python.run(`
global chaos
first = [client.submit(ts("nap"), 20, i, workers=["${a}"], allow_other_workers=True, pure=False) for i in range(20)]
wait(first)
chaos = [client.submit(ts("add"), f, 1, workers=["${a}", "${b}"], pure=False) for f in first]
chaos += client.map(ts("nap"), [50] * 40, range(40), workers=["${a}", "${b}"], pure=False)`);
  own.kill("SIGKILL");
  assertEquals(
    await python.run(`
values = client.gather(chaos)
del globals()["chaos"]
return sum(values)`),
    20 * 19 / 2 + 20 + 40 * 39 / 2,
  );
});

Deno.test("spinning slots: heartbeats go on, ping answers, and SIGKILL leaves no process", async () => {
  await using own = await workerProcess(scheduler.address, ["--no-nanny", "--nthreads", "2"]);
  const address = await registered(own);
  const figures = await python.run(`
global spinning
spinning = [client.submit(ts("forever"), workers=["${address}"], pure=False) for _ in range(2)]
until(lambda: len(rpc("${address}", op="call_stack", keys=None)) == 2)
seen, pings, end = set(), [], time.time() + 3
while time.time() < end:
    info = client.scheduler_info(n_workers=-1)["workers"]["${address}"]
    seen.add(info["last_seen"])
    begin = time.time(); rpc("${address}", op="ping"); pings.append(time.time() - begin)
    time.sleep(0.1)
return [len(seen), sorted(pings)[len(pings) // 2], info["metrics"]["event_loop_interval"]]`) as number[];
  const [beats = 0, ping = 9, interval = 9] = figures;
  assert(beats >= 5, `${beats} heartbeats in 3 s`);
  assert(ping < 0.1, `a ping took ${ping} s`);
  assert(interval < 0.1, `event loop interval ${interval} s`);
  const processes = processTree(own.pid);
  assert(processes.length >= 3);
  own.kill("SIGKILL");
  await own.ended;
  const until = Date.now() + 1_000;
  while (processes.some(isAlive) && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assertEquals(processes.filter(isAlive), []);
  await python.run(`client.cancel(spinning); del globals()["spinning"]`);
});

Deno.test("what a worker that was killed leaves on disk goes when the next one starts", async () => {
  const base = await Deno.makeTempDir();
  // Both folders of a worker come to lie in here.
  Deno.env.set("TMPDIR", base);
  const folders = () =>
    [...Deno.readDirSync(base)].map((entry) => entry.name).filter((name) => /^dask-ts-\d+-/.test(name))
      .sort();
  try {
    await using first = await start("--local-directory", base);
    const address = await registered(first);
    await python.run(`
global large
large = client.submit(ts("ones"), 200000, workers=["${address}"], pure=False)
wait(large)
del globals()["large"]`);
    const executors = processTree(first.pid).slice(1);
    for (const pid of executors) Deno.kill(pid, "SIGKILL");
    first.kill("SIGKILL");
    await first.ended;
    const left = folders();
    assertEquals(left.length, 2);
    await using second = await start("--local-directory", base);
    await registered(second);
    assertEquals(folders().length, 2);
    assertEquals(folders().filter((name) => left.includes(name)), []);
    second.kill("SIGTERM");
    await second.ended;
    assertEquals(folders(), []);
  } finally {
    Deno.env.delete("TMPDIR");
    await Deno.remove(base, { recursive: true });
  }
});

Deno.test("values go from TypeScript to Python workers and back", async () => {
  await using own = await start("--name", "typescript");
  await using theirs = await pythonWorker(scheduler.address, ["--nthreads", "1", "--name", "python"]);
  await registered(own);
  const answer = await python.run(`
until(lambda: {"typescript", "python"} <= {w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values()})
x = client.submit(ts("ones"), 200000, workers=["typescript"], pure=False)
y = client.submit(lambda v: v * 2, x, workers=["python"], pure=False)
z = client.submit(ts("sum"), y, workers=["typescript"], pure=False)
n = client.submit(ts("total"), client.submit(lambda: [1, 2, 3], workers=["python"], pure=False), workers=["typescript"], pure=False)
wrong = client.submit(ts("add"), 1, 2, workers=["python"], pure=False)
return [z.result(), n.result(), "deno:" in str(wrong.exception())]`);
  assertEquals(answer, [400000, 6, true]);
  theirs.kill("SIGTERM");
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(
    await errorsInLog(scheduler, [
      /broadcast to .* failed/,
      /caused the cluster to lose/,
      /Traceback/,
    ]),
    [],
  );
});
