/**
 * Calls in threads of this process (Deno workers): quicker to start and lighter than processes, for code that is
 * trusted to end. A thread cannot be ended by force: one that does not obey its abort is forgotten and its slot gets a
 * fresh thread, but its core is lost until the worker restarts. Running out of memory ends the whole worker. Threads
 * have all permissions of the worker, and what one of them revokes is revoked for all.
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";
import type { CallData, FromRunner, RunnerOptions } from "./call_runner.ts";
import type { ExecutorPool } from "./executor.ts";
import { type InProcessOptions, type MakeSeat, runnerOptions, startInProcessPool } from "./in_process.ts";
import type { Stop } from "./policy.ts";

/** What a thread is told. */
export type ToThread =
  | readonly ["begin", options: RunnerOptions]
  | readonly ["call", call: CallData]
  | readonly ["abort", seq: number, stop: Stop]
  | readonly ["forget", ids: readonly number[]]
  | readonly ["items", seq: number, ask: number, from: number];

/** What a thread says. */
export type FromThread =
  | FromRunner
  | readonly ["ready"]
  /** A preload failed. */
  | readonly ["unable", why: string]
  | readonly ["exit", code: number];

/**
 * Starts a pool of threads, one a slot.
 *
 * @throws {DaskError} when tasks are to get other permissions than this process has: for threads Deno has that only
 * behind an unstable flag.
 */
export function startThreadPool(options: InProcessOptions): ExecutorPool {
  const { slots } = options;
  return startInProcessPool(options, {
    name: "thread",
    description: `${slots} executor thread${slots === 1 ? "" : "s"}, task permissions: the worker's; ` +
      "a call that never returns keeps its core until the worker restarts",
    replaceable: true,
    makeSeat: makeThread(runnerOptions(options)),
  });
}

function makeThread(options: RunnerOptions): MakeSeat {
  return (tell, lost) => {
    const thread = new Worker(new URL("./thread_main.ts", import.meta.url), { type: "module" });
    const ready = Promise.withResolvers<void>();
    ready.promise.catch(() => {});
    const send = (message: ToThread) => thread.postMessage(message);
    const gone = (how: string) => {
      ready.reject(new DaskError(`Cannot start an executor: its thread ${how}`));
      lost(how);
    };
    thread.onmessage = ({ data }: MessageEvent<FromThread>) => {
      if (data[0] === "ready") ready.resolve();
      else if (data[0] === "unable") gone(`cannot load a preload: ${data[1]}`);
      else if (data[0] === "exit") gone(`called Deno.exit(${data[1]})`);
      else tell(data);
    };
    // Otherwise the error would end the worker.
    thread.onerror = (event) => {
      event.preventDefault();
      gone(`failed: ${event.message}`);
    };
    send(["begin", options]);
    return {
      ready: ready.promise,
      run: (call) => send(["call", call]),
      abort: (seq, stop) => send(["abort", seq, stop]),
      forget: (ids) => send(["forget", ids]),
      items: (seq, ask, from) => send(["items", seq, ask, from]),
      close: () => {
        ready.reject(new DaskError("Cannot wait for executors: their pool was closed"));
        thread.terminate();
      },
    };
  };
}
