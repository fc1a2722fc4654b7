/**
 * Calls in the worker's own thread: for trusted, short code, and for tests. Nothing is started and nothing copied twice,
 * but nothing is protected either: a call that blocks blocks the worker, one that never returns is only ended with it,
 * `Deno.exit` ends it, and cancelling is the signal alone.
 *
 * @module
 */
import { CallRunner } from "./call_runner.ts";
import type { ExecutorPool } from "./executor.ts";
import { type InProcessOptions, runnerOptions, startInProcessPool } from "./in_process.ts";

/**
 * Starts a pool whose calls run in this thread.
 *
 * @throws {DaskError} when tasks are to get other permissions than this process has.
 */
export function startInlinePool(options: InProcessOptions): ExecutorPool {
  const { slots } = options;
  const forRunners = runnerOptions(options);
  return startInProcessPool(options, {
    name: "inline",
    description: `${slots} calls at a time in the worker's own thread, task permissions: the worker's; ` +
      "a call that blocks blocks the worker",
    replaceable: false,
    makeSeat: (tell) => {
      const runner = new CallRunner(tell, forRunners);
      const timers = new Set<ReturnType<typeof setTimeout>>();
      // In a turn of its own: one that does not wait must not starve the sockets. Timers keep their order.
      const soon = (work: () => void) => {
        const timer = setTimeout(() => {
          timers.delete(timer);
          work();
        }, 0);
        timers.add(timer);
      };
      return {
        ready: runner.preload(),
        run: (call) => soon(() => void runner.run(call)),
        abort: (seq, stop) => soon(() => runner.abort(seq, stop)),
        forget: (ids) => runner.forget(ids),
        items: (seq, ask, from) => soon(() => runner.items(seq, ask, from)),
        close: () => {
          timers.forEach(clearTimeout);
          return runner.close();
        },
      };
    },
  });
}
