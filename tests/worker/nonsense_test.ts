/**
 * Every rpc op with fields that make no sense or mean harm: each request is answered, with dask's form of an error where
 * it is one, and the worker works on.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { connectChannel } from "../../comm/channel.ts";
import { tcp } from "../../comm/tcp.ts";
import { pickled, serialized } from "../../protocol/envelope.ts";
import { encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { startWorker } from "../../worker/mod.ts";
import { RPC_OPS } from "../../worker/rpc.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { pythonClient } from "./python_client.ts";

const scheduler = await sharedScheduler();
const python = await pythonClient(scheduler.address, new URL("./tasks.ts", import.meta.url));

/** All fields that some op reads, or might. */
const FIELDS = [
  "address",
  "args",
  "attribute",
  "data",
  "exclude",
  "executor_wait",
  "filename",
  "function",
  "key",
  "keys",
  "keys_or_stimuli",
  "kwargs",
  "n",
  "name",
  "nanny",
  "plugin",
  "reason",
  "recent",
  "start",
  "stimulus_id",
  "timeout",
  "wait",
  "who",
  "who_has",
];
/** They take no fields, and their time. */
const WITHOUT_FIELDS = ["benchmark_disk", "benchmark_memory"];
/** Ops that end the worker when their fields make sense. */
const FATAL = ["terminate", "kill", "restart"];

const OWNED = Deno.makeTempDirSync() + "/owned";
globalThis.addEventListener(
  "unload",
  () => Deno.removeSync(OWNED.replace(/\/owned$/, ""), { recursive: true }),
);

const ascii = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));
/** Pickles that run something where they are read by Python, and some that are none. */
const PICKLES: Readonly<Record<string, Uint8Array>> = {
  "os.system": ascii(`cos\nsystem\n(S'touch ${OWNED}'\ntR.`),
  "eval": ascii(`c__builtin__\neval\n(S'open("${OWNED}","w")'\ntR.`),
  "constructor of an object": ascii("ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR."),
  "billion laughs": ascii(
    "(l" + "(lp0\n" + Array.from({ length: 40 }, (_, i) => `(lp${i + 1}\ng${i}\nag${i}\na`).join("") + ".",
  ),
  "deep": ascii("]".repeat(100_000) + "a".repeat(99_999) + "."),
  "promises a lot": Uint8Array.of(0x80, 4, 0x8e, 255, 255, 255, 255, 255, 255, 255, 127, 0x2e),
  "nothing": new Uint8Array(0),
  "zeros": new Uint8Array(100_000),
};

const deep = Array.from({ length: 200 }).reduce<unknown>((inner) => [inner], "x");
const asPickle = (pickle: Uint8Array) =>
  serialized({ header: encodeMsgpack({ serializer: "pickle", "num-sub-frames": 1 }), frames: [pickle] });
/** Values for all fields at once. */
const VALUES: Readonly<Record<string, unknown>> = {
  "null": null,
  "true": true,
  "a number": 5,
  "a negative number": -1,
  "a huge number": 2n ** 63n,
  "an infinite number": Infinity,
  "an empty text": "",
  "a long text": "x".repeat(1 << 20),
  "bytes": new Uint8Array(200_000),
  "a list": [1, "x", null],
  "nested lists": deep,
  "a map": { x: 1 },
  "a map of addresses": { x: ["tcp://127.0.0.1:1"], y: ["nonsense://"], z: ["tcp://[::1"] },
  "a map of lists": { x: [null], ["__proto__"]: ["y"] },
  "a set": new Set([1, 2]),
  "a serialized value": asPickle(PICKLES["os.system"]!),
  "a map of serialized values": Object.fromEntries(
    Object.entries(PICKLES).map(([name, pickle]) => [name, asPickle(pickle)]),
  ),
  "a large serialized value": asPickle(new Uint8Array(200_000)),
  "a pickle": pickled(PICKLES["eval"]!),
};

/** The reply to one request on a connection of its own; an error for a connection that ended without one. */
async function reply(address: string, request: unknown): Promise<unknown> {
  const channel = await connectChannel(tcp, address);
  const timer = setTimeout(() => channel.abort(), 20_000);
  try {
    channel.send(request);
    const received = await channel.receive();
    return received === null ? new Error("closed") : received.message;
  } catch (error) {
    return error;
  } finally {
    clearTimeout(timer);
    channel.abort();
  }
}

/** What an error must look like for Python's callers. */
function assertError(answer: unknown, what: string): void {
  const fields = answer as Record<string, unknown>;
  assertEquals(typeof fields["exception_text"], "string", what);
  assert("exception" in fields && "traceback" in fields && "traceback_text" in fields, what);
}

Deno.test("every op answers nonsense in every field, and the worker works on", async () => {
  await using own = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  let errors = 0;
  for (const op of [...RPC_OPS, "get_data"].filter((op) => !WITHOUT_FIELDS.includes(op))) {
    for (const [name, value] of Object.entries(VALUES)) {
      // What makes sense to those would end the worker, as it should.
      if (FATAL.includes(op) && value === null) continue;
      const what = `${op} with ${name}`;
      const fields = Object.fromEntries(FIELDS.map((field) => [field, value]));
      const answer = await reply(own.address, { op, ...fields });
      if (answer instanceof Error) throw new Error(what, { cause: answer });
      const status = (answer as { status?: unknown } | null)?.status;
      if (status !== "uncaught-error" && status !== "error") continue;
      assertError(answer, what);
      errors++;
    }
  }
  assert(errors > 200, `${errors} errors`);
  assertEquals(own.status, "running");
  assertEquals(await pythonSum(own.address), 3);

  // What `update_data` took is there, unread; nothing else was left behind.
  const state = await reply(own.address, { op: "dump_state" }) as {
    readonly tasks: Readonly<Record<string, unknown>>;
    readonly local_directory: string;
  };
  for (const name of Object.keys(PICKLES)) assert(name in state.tasks, name);
  const keys = await reply(own.address, { op: "keys" });
  assertEquals(await reply(own.address, { op: "free_keys", keys, stimulus_id: "clean" }), null);
  const deadline = Date.now() + 20_000;
  while (framesIn(state.local_directory) > 0) {
    assert(Date.now() < deadline, `${framesIn(state.local_directory)} files are left`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
});

Deno.test("hostile pickles are never run, wherever they stand in a call", async () => {
  await using own = await startWorker({ address: scheduler.address, slots: 1, validate: true });
  for (const [name, pickle] of Object.entries(PICKLES)) {
    for (const field of ["function", "args", "kwargs"]) {
      const request = { op: "run", function: PICKLES["os.system"]!, [field]: pickle };
      const answer = await reply(own.address, request) as { readonly status: string };
      assertEquals(answer.status, "error", `${name} as ${field}`);
      assertError(answer, name);
    }
  }
  assertThrows(() => Deno.statSync(OWNED), Deno.errors.NotFound);
  assertEquals(await pythonSum(own.address), 3);
});

Deno.test("ops that are not known are answered with null, names of the language's own included", async () => {
  await using own = await startWorker({ address: scheduler.address, slots: 1 });
  for (
    const op of ["no-such-op", "", "constructor", "__proto__", "toString", "hasOwnProperty", "\u0001[1]"]
  ) {
    assertEquals(await reply(own.address, { op, data: 1 }), null, op);
  }
});

Deno.test("a request that is no message ends its connection alone", async () => {
  await using own = await startWorker({ address: scheduler.address, slots: 1 });
  const broken = serialized({ header: new Uint8Array(0), frames: [] });
  assert(await reply(own.address, { op: "echo", data: broken }) instanceof Error);
  for (const request of [5, "x", null, [], { data: 1 }, { op: 5 }]) {
    const answer = await reply(own.address, request) as { readonly status?: string };
    assertEquals(answer.status, "uncaught-error", JSON.stringify(request));
  }
  assertEquals(await pythonSum(own.address), 3);
});

Deno.test("a worker ends when it is asked to, with dask's options", async () => {
  const fields = { timeout: 5, executor_wait: false, nanny: false, reason: "the test is over" };
  const own = await startWorker({ address: scheduler.address, slots: 1 });
  assertEquals(await reply(own.address, { op: "terminate", ...fields }), "OK");
  assertEquals(await own.ended, { reason: "the test is over", crashed: false, restart: false });
  const nanny = (listening: string) => Promise.resolve(listening);
  const again = await startWorker({ address: scheduler.address, slots: 1, nanny });
  assertEquals(await reply(again.address, { op: "terminate", ...fields, reason: "anew" }), "OK");
  assertEquals(await again.ended, { reason: "anew", crashed: false, restart: true });
});

Deno.test("the scheduler had nothing to complain of", async () => {
  assertEquals(await errorsInLog(scheduler), []);
});

function pythonSum(address: string): Promise<unknown> {
  return python.run(
    `return client.submit(ts("add"), 1, 2, workers=["${address}"], pure=False).result(timeout=15)`,
  );
}

/** Files of the store in its folder. */
function framesIn(directory: string): number {
  return [...Deno.readDirSync(directory)].filter(({ name }) => /^\d+-[0-9a-f]{32}$/.test(name)).length;
}
