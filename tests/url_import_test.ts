/**
 * The library works when it is imported by URL: served by a plain HTTP server, from a script that knows no `deno.json`.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { errorsInLog, PROJECT, startScheduler, workerProcess } from "./support/scheduler.ts";

/** Serves the project's modules; remembers what was asked for. */
function serveProject(): AsyncDisposable & { readonly origin: string; readonly asked: Set<string> } {
  const asked = new Set<string>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    asked.add(pathname);
    try {
      const text = await Deno.readTextFile(`${PROJECT}${pathname.slice(1)}`);
      const type = pathname.endsWith(".ts") ? "application/typescript" : "application/json";
      return new Response(text, { headers: { "content-type": type } });
    } catch {
      return new Response("not found", { status: 404 });
    }
  });
  return {
    origin: `http://127.0.0.1:${server.addr.port}`,
    asked,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** Runs a program in a folder of its own, with an empty cache but for the packages of this machine's. */
async function runElsewhere(
  program: string,
  args: readonly string[],
): Promise<{ code: number; stdout: string; stderr: string }> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-elsewhere-" });
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  try {
    const info = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"], stderr: "null" })
      .output();
    const { npmCache } = JSON.parse(decode(info.stdout)) as { npmCache: string };
    // A port may have served another state of the project before: nothing of that may be found again.
    await Deno.mkdir(`${folder}/cache`);
    await Deno.symlink(npmCache, `${folder}/cache/npm`);
    await Deno.mkdir(`${folder}/script`);
    await Deno.writeTextFile(`${folder}/script/main.ts`, program);
    const output = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${folder}/script/main.ts`, ...args],
      cwd: `${folder}/script`,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1", DENO_DIR: `${folder}/cache` },
    }).output();
    return { code: output.code, stdout: decode(output.stdout), stderr: decode(output.stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a script that imports mod.ts by URL submits an op", async () => {
  await using scheduler = await startScheduler();
  await using project = serveProject();
  await using _ = await workerProcess(scheduler.address, ["--nthreads=1", "--no-nanny"]);
  const { code, stdout, stderr } = await runElsewhere(
    `
import { connect, op } from "${project.origin}/mod.ts";
await using client = await connect(Deno.args[0]!);
using future = client.submit(op((a: number, b: number) => a * b, 6, 7));
console.log(await future.result());
`,
    [scheduler.address],
  );
  assertEquals({ code, stdout }, { code: 0, stdout: "42\n" }, stderr);
  assertEquals(await errorsInLog(scheduler), []);
});

Deno.test("a script that imports mod.ts by URL is a worker, too, and its executors come from there", async () => {
  await using scheduler = await startScheduler();
  await using project = serveProject();
  const { code, stdout, stderr } = await runElsewhere(
    `
import { connect, current, op, startWorker, tasks } from "${project.origin}/mod.ts";
await using worker = await startWorker({ address: Deno.args[0]!, slots: 1 });
await using client = await connect(Deno.args[0]!);
using pid = client.submit(op(() => Deno.pid));
using large = client.submit(op((xs: Float64Array) => xs.length, client.submit(op(() => new Float64Array(100_000)))));
using nested = client.submit(op(async () => {
  const client = await current().client();
  return await client.submit((x: number) => 2 * x, [21]).result();
}));
const url = new URL("./counter.ts", import.meta.url);
await Deno.writeTextFile(url, "export class Counter { n = 41; add(by: number) { return this.n += by; } }");
const t = tasks<{ Counter: new () => { n: number; add(by: number): number } }>(url);
await using counter = await client.actor(t.Counter, []);
console.log(JSON.stringify([
  await pid.result() !== Deno.pid, await large.result(), await nested.result(), await counter.add(1),
]));
`,
    [scheduler.address],
  );
  assertEquals({ code, stdout }, { code: 0, stdout: "[true,100000,42,42]\n" }, stderr);
  assert(project.asked.has("/mod.ts"));
  assert(project.asked.has("/worker/execute/main.ts"), [...project.asked].join(" "));
  assertEquals(await errorsInLog(scheduler), []);
});

Deno.test("a module that imports mod.ts by URL asks for the current task, and starts tasks, on any worker", async () => {
  await using scheduler = await startScheduler();
  await using project = serveProject();
  await using _ = await workerProcess(scheduler.address, ["--nthreads=1", "--no-nanny"]);
  const module = `
import { current, op } from "${project.origin}/mod.ts";
export async function twice(x: number): Promise<[string, number]> {
  const client = await current().client();
  return [current().key, await client.submit(op((x: number) => 2 * x, x)).result()];
}
`;
  const { code, stdout, stderr } = await runElsewhere(
    `
import { connect, tasks } from "${project.origin}/mod.ts";
const url = new URL("./tasks.ts", import.meta.url);
await Deno.writeTextFile(url, ${JSON.stringify(module)});
await using client = await connect(Deno.args[0]!);
using future = client.submit(tasks<{ twice(x: number): Promise<[string, number]> }>(url).twice(21));
const [key, value] = await future.result();
console.log(key === future.key, value);
`,
    [scheduler.address],
  );
  assertEquals({ code, stdout }, { code: 0, stdout: "true 42\n" }, stderr);
  assertEquals(await errorsInLog(scheduler), []);
});
