/**
 * One Python process with a dask client, that runs pieces of Python for the tests of a file: starting one for each test
 * would take longer than the tests.
 *
 * @module
 */
import { pythonEnv } from "../../cluster/python_scheduler.ts";
import { python } from "../support/scheduler.ts";

const DRIVER = `
import json, sys, textwrap, traceback, time, asyncio
import dask, distributed
import numpy
from dask.utils import methodcaller
from distributed import Client, wait, as_completed
client = Client(sys.argv[1], set_as_default=True)
def ts(name):
    return methodcaller(f"deno:{sys.argv[2]}#{name}")
def until(condition, seconds=15):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.02)
def rpc(address, /, **message):
    return client.run_on_scheduler(_rpc, address=address, message=message)
async def _rpc(dask_scheduler, address, message):
    from distributed.core import send_recv
    comm = await distributed.comm.connect(address)
    try:
        return await send_recv(comm, reply=True, **message)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    finally:
        comm.abort()
scope = dict(globals())
print("\\x1eready", flush=True)
for line in sys.stdin:
    try:
        exec("def _body():\\n" + textwrap.indent(json.loads(line), "    "), scope)
        out = {"value": scope["_body"]()}
    except BaseException as e:
        out = {"error": f"{type(e).__name__}: {e}", "traceback": traceback.format_exc()}
    print("\\x1e" + json.dumps(out, default=repr), flush=True)
`;

/** A Python client that lives as long as the tests of a file. */
export interface PythonClient {
  /** Runs the body of a Python function and gives what it returns, through JSON; throws with Python's traceback. */
  run(body: string): Promise<unknown>;
}

/** Starts one; `tasks` is the URL of the module whose functions `ts("name")` names. */
export async function pythonClient(address: string, tasks: URL): Promise<PythonClient> {
  const { python: interpreter } = await python();
  const child = new Deno.Command(interpreter, {
    args: ["-c", DRIVER, address, tasks.href],
    env: pythonEnv("/nowhere"),
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  globalThis.addEventListener("unload", () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It ended already.
    }
  });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const writer = child.stdin.getWriter();
  let text = "";
  const nextAnswer = async (): Promise<string> => {
    for (;;) {
      const from = text.indexOf("\x1e");
      const to = from < 0 ? -1 : text.indexOf("\n", from);
      if (to >= 0) {
        const line = text.slice(from + 1, to);
        text = text.slice(to + 1);
        return line;
      }
      const { value, done } = await reader.read();
      if (done) throw new Error("The Python client ended");
      text += value;
    }
  };
  await nextAnswer();
  return {
    async run(body) {
      await writer.write(new TextEncoder().encode(`${JSON.stringify(body)}\n`));
      const answer = JSON.parse(await nextAnswer()) as {
        value?: unknown;
        error?: string;
        traceback?: string;
      };
      if (answer.error !== undefined) throw new Error(`${answer.error}\n${answer.traceback}`);
      return answer.value;
    },
  };
}
