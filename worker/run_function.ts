/**
 * `client.run`: calls a TypeScript function by its name, aside from all tasks. Loaded with the first such request. What
 * is to be called is read only where it runs.
 *
 * @module
 */
import { filesIn } from "../actors/store/mod.ts";
import { encodeCall, functionNameIn } from "../protocol/call.ts";
import { serialized } from "../protocol/envelope.ts";
import { DaskError } from "../protocol/errors.ts";
import { writeRunSpec } from "../protocol/graph_pickle.ts";
import type { Payload } from "../protocol/payload.ts";
import { type Fields, readBoolean, readBytes, readNullable } from "../protocol/read.ts";
import type { Outcome } from "./execute/executor.ts";
import { discard, type RpcParts } from "./rpc.ts";

/**
 * Answers `run` and `run_coroutine`. Files of the result are added to `files`, which are given back after the answer.
 *
 * @throws {ProtocolError | DaskError} when the request makes no sense, or nothing can be called now.
 */
export async function runFunction(
  op: string,
  fields: Fields,
  parts: RpcParts,
  files: Set<string>,
): Promise<unknown> {
  const fn = readBytes(fields["function"], `${op}.function`);
  const args = readPickle(fields["args"], `${op}.args`);
  const kwargs = readPickle(fields["kwargs"], `${op}.kwargs`);
  const wait = readNullable(fields["wait"], `${op}.wait`, readBoolean) ?? true;
  const payload = encodeCall({ function: { kind: "builtin", name: "run" }, args: [fn, args, kwargs] });
  const name = functionNameIn(fn);
  const pickle = writeRunSpec({ key: op, function: "deno:op/run", payload, dependencies: [] });
  const called = parts.callAside({ pickle, buffers: [] });
  // What is no function of ours is refused at once, and that is worth waiting for.
  if (wait || name === null) return writeOutcome(await called, files);
  called.then((outcome) => {
    if (outcome.type === "succeeded") discard(filesIn(outcome.payload), parts.store);
    else parts.logger.log("warning", `The function ${name} of ${op} failed: ${failureText(outcome)}`);
  }, (error: Error) => parts.logger.log("warning", `Cannot ${op} ${name}: ${error.message}`));
  return { status: "OK", result: null };
}

/** Python leaves out what is empty. */
function readPickle(value: unknown, path: string): Uint8Array | null {
  if (Array.isArray(value) && value.length === 0) return null;
  return readNullable(value, path, readBytes);
}

/** The answer to whoever asked for a call. Files of the result are added to `files`. */
export function writeOutcome(outcome: Outcome, files: Set<string>): unknown {
  if (outcome.type === "succeeded") {
    const { payload } = outcome;
    for (const file of filesIn(payload)) files.add(file);
    return { status: "OK", result: serialized(payload) };
  }
  if (outcome.type === "rescheduled") {
    throw new DaskError(`Cannot run a function: it ${failureText(outcome)}`);
  }
  const { exception, traceback, exceptionText, tracebackText } = outcome;
  const written = (error: Payload | null) => error === null ? null : serialized(error);
  return {
    status: "error",
    exception: written(exception),
    traceback: written(traceback),
    exception_text: exceptionText,
    traceback_text: tracebackText,
  };
}

function failureText(outcome: Exclude<Outcome, { type: "succeeded" }>): string {
  return outcome.type === "failed" ? outcome.exceptionText : "asked to run elsewhere, which only tasks can";
}
