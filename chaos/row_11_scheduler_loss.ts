/**
 * Row 11: a lost scheduler ends workers and clients cleanly and soon.
 *
 * @module
 */
import { startPythonScheduler } from "../cluster/python_scheduler.ts";
import { connect } from "../mod.ts";
import { isAlive, processTree } from "../tests/support/proc.ts";
import { pause, type Row, startSubject, within } from "./frame.ts";

const CLIENT_MS_MAX = 5_000;
const IDLE_MS_MAX = 5_000;
const BUSY_MS_MAX = 35_000;
/** Longer than any of these. */
const LATE_MS = 60_000;

/** See the module. */
export const row: Row = {
  number: 11,
  title: "Scheduler loss ends cleanly",
  async run(report) {
    await using scheduler = await startPythonScheduler();
    await using idle = await startSubject(scheduler.address, ["--nthreads=1", "--name=idle"]);
    await using busy = await startSubject(scheduler.address, ["--nthreads=1", "--name=busy"]);
    const client = await connect(scheduler.address);
    // A client of its own program: what a script does that waits for its result.
    const program = new Deno.Command(Deno.execPath(), {
      args: [
        "eval",
        `import { connect } from "${new URL("../mod.ts", import.meta.url).href}";
         await using client = await connect("${scheduler.address}");
         await client.submit(() => { for (;;); }, [], { workers: ["busy"], pure: false }).result();`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const spin = client.submit(
      () => {
        for (;;);
      },
      [],
      { workers: ["busy"] },
    );
    const [result, waiting] = [spin.result(), client.waitForWorkers(3)];
    const calls = { "result()": result, "waitForWorkers()": waiting };
    for (const call of Object.values(calls)) call.catch(() => {});
    // Both spinning functions have reached the worker: one runs, one waits behind it.
    while ([...(await client.processing()).values()].flat().length < 2) await pause(20);
    const busyTree = processTree(busy.pid);

    scheduler.kill("SIGKILL");
    const at = performance.now();
    const ended = async (what: Promise<unknown>) => {
      const end = await within(what.then((value) => ({ value }), (error) => ({ error })), LATE_MS);
      return { ms: performance.now() - at, end };
    };
    await Promise.all([
      ...Object.entries(calls).map(async ([name, call]) => {
        const { ms, end } = await ended(call);
        const rejected = end !== "late" && "error" in end;
        report.figure(
          `${name} of the client rejects after, ms`,
          rejected ? ms : "never",
          `<= ${CLIENT_MS_MAX}`,
          rejected && ms <= CLIENT_MS_MAX,
        );
        if (rejected) report.note(String(end.error));
      }),
      (async () => {
        const { ms } = await ended(program.status);
        const { code } = await program.status;
        report.figure(
          `a program that waits for a result ends with code ${code} after, ms`,
          ms,
          `not 0, <= ${CLIENT_MS_MAX}`,
          code !== 0 && ms <= CLIENT_MS_MAX,
        );
      })(),
      ...([[idle, "idle", IDLE_MS_MAX], [busy, "busy", BUSY_MS_MAX]] as const).map(
        async ([{ process }, name, limit]) => {
          const { ms } = await ended(process.ended);
          const { code } = await process.ended;
          report.figure(
            `the ${name} worker ends with code ${code} after, ms`,
            ms,
            `0, <= ${limit}`,
            code === 0 && ms <= limit,
          );
        },
      ),
    ]);
    await client.close();
    const left = busyTree.filter(isAlive).length;
    report.figure("processes left of the busy worker", left, "0", left === 0);
  },
};
