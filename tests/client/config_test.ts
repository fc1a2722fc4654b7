/**
 * A client finds its scheduler in dask's own configuration.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { PROJECT, sharedScheduler } from "../support/scheduler.ts";

const scheduler = await sharedScheduler();

/** Connects with `options` where `yaml` is configured; the address of the client, or what it says. */
async function connecting(yaml: string, options = "", env: Record<string, string> = {}): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-client-config-" });
  try {
    await Deno.writeTextFile(`${folder}/dask.yaml`, yaml);
    await Deno.writeTextFile(
      `${folder}/main.ts`,
      `import { connect } from "${PROJECT}mod.ts";
await using client = await connect(${options});
console.log(client.scheduler);`,
    );
    const output = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `--config=${PROJECT}deno.json`, `${folder}/main.ts`],
      env: { DASK_CONFIG: folder, NO_COLOR: "1", ...env },
      stdin: "null",
    }).output();
    return new TextDecoder().decode(output.code === 0 ? output.stdout : output.stderr).trim();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("connect() takes scheduler-address of a file, below the variable and the option", async () => {
  const here = `scheduler-address: ${scheduler.address}\n`;
  const nowhere = "scheduler-address: tcp://127.0.0.1:1\n";
  assertEquals(await connecting(here), scheduler.address);
  assertEquals(
    await connecting(nowhere, "", { DASK_SCHEDULER_ADDRESS: scheduler.address }),
    scheduler.address,
  );
  assertEquals(await connecting(nowhere, `"${scheduler.address}"`), scheduler.address);
  assertEquals(
    await connecting(nowhere, `{ schedulerFile: "${scheduler.folder}/scheduler.json" }`),
    scheduler.address,
  );
});

Deno.test("connect() takes its time from distributed.comm.timeouts.connect", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  try {
    const { port } = listener.addr as Deno.NetAddr;
    // It accepts and never answers.
    const text = await connecting(
      `scheduler-address: tcp://127.0.0.1:${port}\ndistributed: {comm: {timeouts: {connect: 300ms}}}\n`,
    );
    assertStringIncludes(text, "no answer within 300 ms");
  } finally {
    listener.close();
  }
});

Deno.test("connect() refuses a configuration that makes no sense", async () => {
  const text = await connecting("distributed: {comm: {timeouts: {connect: soon}}}\n");
  assert(text.includes(`Cannot read "distributed.comm.timeouts.connect" in `), text);
});
