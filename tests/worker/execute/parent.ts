/**
 * A worker process for `parent_test.ts`: starts executors, runs a call with large values, puts each into a loop that never ends, says so, and waits.
 *
 * @module
 */
import { parseTaskPermissions } from "../../../worker/execute/permissions.ts";
import { startProcessPool } from "../../../worker/execute/processes.ts";
import { inputOf, sourceCall } from "./specs.ts";

const [directory = "", permissions = "inherit"] = Deno.args;
const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
const spinning = new Set<string>();
const pool = startProcessPool({
  slots: 2,
  directory,
  socketDirectory: directory,
  permissions: parseTaskPermissions(permissions),
  listener: {
    started(key) {
      if (key === "large") return;
      spinning.add(key);
      if (spinning.size === 2) say("spinning");
    },
    withdrawn() {},
    seceded() {},
    event() {},
    items() {},
    ended(key, _runId, outcome) {
      if (key !== "large" || outcome.type !== "succeeded") {
        throw new Error(`${key}: ${JSON.stringify(outcome)}`);
      }
      say(
        `large: ${
          JSON.stringify(outcome.payload.frames.map((frame) => "file" in frame && frame.byteLength))
        }`,
      );
      for (const key of ["a", "b"]) pool.place(sourceCall(key, "() => { for (;;); }"));
    },
  },
});
say(pool.description);
const input = inputOf("input", new Uint8Array(100_000).fill(1));
pool.place(sourceCall("large", "(x) => x.map((y) => y + 1)", [{ $dependency: 0 }], [input]));
