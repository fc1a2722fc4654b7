import { assertEquals, assertStringIncludes } from "@std/assert";
import type { DaskConfig } from "../../config/settings.ts";
import { PROJECT, runPython } from "../support/scheduler.ts";

/** What a process with these variables, files and permissions reads; the last line of what it says when it fails. */
async function load(
  { files = {}, env = {}, flags = ["-A"], withPython = false }: {
    files?: Record<string, string>;
    env?: Record<string, string>;
    flags?: string[];
    /** Whether to ask dask itself as well. */
    withPython?: boolean;
  },
): Promise<{ config: DaskConfig; python: Record<string, unknown>; logged: unknown[]; failed: string }> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-config-" });
  try {
    for (const [path, text] of Object.entries(files)) {
      await Deno.mkdir(`${folder}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
      await Deno.writeTextFile(`${folder}/${path}`, text);
    }
    await Deno.writeTextFile(
      `${folder}/main.ts`,
      `import { loadConfig } from "${PROJECT}config/read.ts";
const logged: unknown[] = [];
const config = await loadConfig({ log: (...line) => logged.push(line) });
console.log(JSON.stringify({ config, logged }));`,
    );
    const variables = {
      HOME: `${folder}/home`,
      DASK_ROOT_CONFIG: `${folder}/root`,
      DASK_CONFIG: `${folder}/own`,
      ...env,
    };
    const output = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", `--config=${PROJECT}deno.json`, ...flags, `${folder}/main.ts`],
      env: {
        ...variables,
        NO_COLOR: "1",
        DENO_DIR: Deno.env.get("DENO_DIR") ?? `${Deno.env.get("HOME")}/.cache/deno`,
      },
      stdin: "null",
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const failed = decode(output.stderr);
    const answer = output.code === 0 ? JSON.parse(decode(output.stdout)) : { config: null, logged: [] };
    return { ...answer, failed, python: withPython ? await pythons(variables) : {} };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Some keys as dask itself reads them. */
async function pythons(env: Record<string, string>): Promise<Record<string, unknown>> {
  const { stdout } = await runPython(
    `
import json, os, sys
os.environ.update(json.loads(sys.argv[1]))
import dask, distributed
print(json.dumps({key: dask.config.get(key, None) for key in [
    "scheduler-address", "temporary-directory", "distributed.worker.memory.target",
    "distributed.worker.memory.spill", "distributed.worker.lifetime.duration"]}))`,
    [JSON.stringify(env)],
  );
  return stdout === "" ? {} : JSON.parse(stdout);
}

Deno.test("files and variables come together as in Python", async () => {
  const { config, python, failed } = await load({
    files: {
      "root/a.yaml": "scheduler-address: tcp://root:1\ntemporary-directory: /root-scratch\n" +
        "distributed:\n  worker:\n    memory: {target: 0.4, spill: 0.5}\n    lifetime:\n      duration: 1 hour\n",
      "root/b.yml": "# only comments\n",
      "root/notes.txt": "this: [is no configuration",
      "home/.config/dask/z.yaml": "distributed: {worker: {memory: {target: 0.3}}}\n",
      "home/.config/dask/c.json": `{"distributed": {"worker": {"memory": {"target": 0.2}}}}`,
      "own/x.yaml": "scheduler_address: tcp://own:1\ndistributed:\n  worker:\n    memory:\n      spill: no\n",
    },
    env: { DASK_TEMPORARY_DIRECTORY: "/env-scratch" },
    withPython: true,
  });
  assertEquals(python, {
    "scheduler-address": "tcp://own:1",
    "temporary-directory": "/env-scratch",
    "distributed.worker.memory.target": 0.3,
    "distributed.worker.memory.spill": false,
    "distributed.worker.lifetime.duration": "1 hour",
  });
  assertEquals({
    "scheduler-address": config.schedulerAddress,
    "temporary-directory": config.temporaryDirectory,
    "distributed.worker.memory.target": config.memory.target,
    "distributed.worker.memory.spill": config.memory.spill,
  }, {
    "scheduler-address": "tcp://own:1",
    "temporary-directory": "/env-scratch",
    "distributed.worker.memory.target": 0.3,
    "distributed.worker.memory.spill": false,
  }, failed);
  assertEquals(config.lifetime.durationMs, 3_600_000);
});

Deno.test("DASK_CONFIG may be a file; what a parent of dask's passes on counts below variables", async () => {
  const inherited = btoa(
    JSON.stringify({ "scheduler-address": "tcp://parent:1", "temporary-directory": "/parent" }),
  );
  const { config, python } = await load({
    files: { own: "scheduler-address: tcp://file:1" },
    env: { DASK_INTERNAL_INHERIT_CONFIG: inherited, DASK_TEMPORARY_DIRECTORY: "/env" },
    withPython: true,
  });
  assertEquals([config.schedulerAddress, config.temporaryDirectory], ["tcp://parent:1", "/env"]);
  assertEquals([python["scheduler-address"], python["temporary-directory"]], ["tcp://parent:1", "/env"]);
});

Deno.test("a file that cannot be read as YAML is refused by its path", async () => {
  assertStringIncludes(
    (await load({ files: { "own/x.yaml": "a: [1\nb: }" } })).failed,
    "/own/x.yaml: Cannot read flow collection",
  );
  assertStringIncludes(
    (await load({ files: { "own/x.yaml": "- a\n" } })).failed,
    "/own/x.yaml: expected a map of keys",
  );
  assertStringIncludes(
    (await load({ files: { "own/x.yaml": "distributed: {worker: {memory: {pause: high}}}" } })).failed,
    `Cannot read "distributed.worker.memory.pause" in `,
  );
});

Deno.test("without permission configuration is not looked at, with one line for who debugs", async () => {
  const files = { "own/x.yaml": "scheduler-address: tcp://own:1" };
  const none = await load({ files, flags: [] });
  assertEquals(none.config.schedulerAddress, null, none.failed);
  assertEquals(none.logged.length, 1);
  assertEquals((none.logged[0] as unknown[])[0], "debug");

  // Variables by name, as the permission sets of deno.json have them.
  const named = await load({
    files,
    env: { DASK_SCHEDULER_ADDRESS: "tcp://env:1" },
    flags: ["--allow-env=DASK_*"],
  });
  assertEquals(named.config.schedulerAddress, "tcp://env:1", named.failed);
});
