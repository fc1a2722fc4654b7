/**
 * The entry of a thread that runs calls. Started by `threads.ts`.
 *
 * @module
 */
/// <reference lib="deno.worker" />
import { CallRunner } from "./call_runner.ts";
import { report } from "./report.ts";
import type { FromThread, ToThread } from "./threads.ts";

const tell = (record: FromThread): void => {
  const frames = record[0] === "ended" && record[2].type === "succeeded" ? record[2].frames : [];
  self.postMessage(record, [...new Set(frames.map((frame) => frame.buffer))]);
};

// The end of a thread is told to nobody: a task that ends it must not leave its worker waiting.
const { exit } = Deno;
Deno.exit = (code = Deno.exitCode): never => {
  tell(["exit", code]);
  return exit(code);
};
self.close = () => Deno.exit(0);

self.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  report("Unhandled rejection in task code", event.reason);
});
self.addEventListener("error", (event) => {
  event.preventDefault();
  report("Uncaught error in task code", event.error);
});

let runner: CallRunner;
self.onmessage = ({ data }: MessageEvent<ToThread>) => {
  switch (data[0]) {
    case "begin":
      runner = new CallRunner(tell, data[1]);
      return void runner.preload().then(() => tell(["ready"]), (error) => tell(["unable", String(error)]));
    case "call":
      return void runner.run(data[1]);
    case "abort":
      return runner.abort(data[1], data[2]);
    case "forget":
      return runner.forget(data[1]);
    case "items":
      return runner.items(data[1], data[2], data[3]);
  }
};
