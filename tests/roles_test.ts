/**
 * Each role works with the permission set of its name in `deno.json` and no more, and what a worker does not have its
 * tasks do not have.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { connect } from "../client/mod.ts";
import { op } from "../dispatch/mod.ts";
import { TaskError } from "../protocol/errors.ts";
import {
  errorsInLog,
  type LoggedProcess,
  PROJECT,
  sharedScheduler,
  startLogged,
  workerProcess,
} from "./support/scheduler.ts";

const scheduler = await sharedScheduler();
const CONFIG = `--config=${PROJECT}deno.json`;

/** A worker with the permission set `worker`; `flags` are its own. */
function roleWorker(...flags: string[]): Promise<LoggedProcess> {
  return startLogged(Deno.execPath(), [
    "run",
    CONFIG,
    "-P=worker",
    "--no-prompt",
    `${PROJECT}worker/main.ts`,
    scheduler.address,
    "--nthreads=1",
    ...flags,
  ]);
}

/** Runs a program of a client with the permission set `client`. It finds the library's URL in `$MOD`. */
async function roleClient(program: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-role-" });
  try {
    await Deno.writeTextFile(
      `${folder}/tasks.ts`,
      "export const area = (width: number, height: number): number => width * height;\n",
    );
    await Deno.writeTextFile(`${folder}/main.ts`, program.replaceAll("$MOD", `file://${PROJECT}mod.ts`));
    const output = await new Deno.Command(Deno.execPath(), {
      args: ["run", CONFIG, "-P=client", "--no-prompt", `${folder}/main.ts`, scheduler.address],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code: output.code, stdout: decode(output.stdout), stderr: decode(output.stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What an operation that needs a permission comes to on the workers: its value, or the text of its error. */
async function attempt(fn: () => unknown): Promise<unknown> {
  await using client = await connect(scheduler.address);
  await client.waitForWorkers(1, { signal: AbortSignal.timeout(30_000) });
  using future = client.submit(op(fn), { pure: false });
  const settled = await future.settled();
  if (settled.status === "fulfilled") return settled.value;
  assert(settled.reason instanceof TaskError);
  return settled.reason.message;
}

for (const nanny of ["--no-nanny", "--nanny"]) {
  Deno.test(`a worker under -P=worker ${nanny} serves a client under -P=client`, async () => {
    await using worker = await roleWorker(nanny);
    const { code, stdout, stderr } = await roleClient(`
import { connect, op, tasks } from "$MOD";
const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
await using client = await connect(Deno.args[0]!);
await client.waitForWorkers(1);
using inline = client.submit(op((xs: Float64Array) => xs.length, client.submit(op(() => new Float64Array(100_000)))));
using bundled = client.submit(t.area(6, 7));
console.log(JSON.stringify(await client.gather([inline, bundled])));
`);
    assertEquals({ code, stdout }, { code: 0, stdout: "[100000,42]\n" }, stderr);

    // Its tasks may do what it may, and nothing else.
    assert(typeof await attempt(() => Deno.readTextFileSync("/etc/hosts")) === "string");
    for (
      const [name, fn] of [
        ["env", () => Deno.env.get("HOME")],
        ["sys", () => Deno.hostname()],
        ["run", () => new Deno.Command("true").outputSync().code],
        ["ffi", () => Deno.dlopen("libc.so.6", {})],
      ] as const
    ) {
      const text = await attempt(fn as () => unknown);
      assert(typeof text === "string" && text.includes(`NotCapable: Requires ${name} access`), `${text}`);
    }
    worker.kill("SIGTERM");
    assertEquals((await worker.ended).code, 0, await worker.log());
    assert(!(await worker.log()).includes("Missing permissions"));
  });
}

Deno.test("with --task-permissions none a task reads no file, and is told which permission it lacks", async () => {
  await using worker = await workerProcess(scheduler.address, [
    "--nthreads=1",
    "--no-nanny",
    "--task-permissions=none",
  ]);
  const text = String(await attempt(() => Deno.readTextFileSync("/etc/hostname")));
  assertStringIncludes(text, `NotCapable: Requires read access to "/etc/hostname"`);
  assertEquals(await attempt(() => 6 * 7), 42);
  assertStringIncludes(await worker.log(), "task permissions: none");
});

Deno.test("tasks are not given what their worker does not have", async () => {
  await using worker = await roleWorker("--no-nanny", "--task-permissions=env=PATH");
  assertEquals((await worker.ended).code, 1);
  assertStringIncludes(
    await worker.log(),
    `Cannot give tasks the permission "env=PATH": the worker itself does not have it`,
  );
});

Deno.test("the scheduler found nothing to complain about", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});
