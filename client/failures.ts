/**
 * Failures as people see them: what the scheduler reports of a task becomes one of the error classes, with a text that
 * names the task, what happened and where.
 *
 * @module
 */
import {
  CancelledError,
  DaskError,
  DependencyError,
  TaskError,
  WorkerLostError,
} from "../protocol/errors.ts";
import { isSerialized } from "../protocol/envelope.ts";
import { type Key, keyText } from "../protocol/key.ts";
import { NEWEST_RELEASE, OLDEST_RELEASE } from "../protocol/release.ts";
import { readException } from "../protocol/remote_error.ts";
import { addressBehind } from "../protocol/whereabouts.ts";
import type { Diagnosis } from "./messages.ts";

/** A failure as it came from the scheduler. */
export interface Failure {
  readonly exception: unknown;
  readonly traceback: unknown;
  /** The scheduler understood none of the ways in which this client writes graphs. */
  readonly formRefused: boolean;
}

/** What Python's scheduler raises when too many workers left while they were to run a task. */
const KILLED_WORKER = /(^|\.)KilledWorker$/;

/** Reads a failure and finds out where it came from. Never rejects. */
export async function failureError(
  key: Key,
  failure: Failure,
  diagnose: (lost: boolean) => Promise<Diagnosis>,
  schedulerVersion: string,
): Promise<DaskError> {
  let data: ReturnType<typeof readException>;
  try {
    data = readException(failure.exception, failure.traceback);
  } catch (cause) {
    return new TaskError(`Task "${keyText(key)}" failed, with an error that cannot be read`, { key, cause });
  }
  const told = `${data.name}: ${data.message}`;
  if (failure.formRefused) {
    return new DaskError(
      `The scheduler (dask ${schedulerVersion}) does not understand the graphs of this client, which is made for ` +
        `dask ${OLDEST_RELEASE} to ${NEWEST_RELEASE}; use one of these releases. It says: ${told}`,
    );
  }
  const killed = KILLED_WORKER.test(data.pythonClass ?? data.name);
  const lost = killed || data.kind === "lost";
  const { origin, left } = await diagnose(killed);
  const cause = remoteError(data);
  const worker = originOf(failure.exception) ?? left.at(-1) ?? "";
  const details = { key, worker, remoteStack: data.stack, cause };
  const where = worker === "" ? "" : ` on ${worker}`;
  let error: TaskError;
  if (lost) {
    const name = keyText(origin);
    const attempts = killed
      ? left.map((worker) => ({ worker, exit: "the worker left the cluster" }))
      : [{ worker, exit: data.exit ?? data.message }];
    const text = killed
      ? `Task "${name}" was given up: ${
        left.length === 0 ? "all workers" : left.length
      } that were to run it left the ` +
        `cluster${left.length === 0 ? "" : ` (${left.join(", ")})`}; their logs say why`
      : `Task "${name}" was given up: the process that ran it${where} ended: ${data.exit ?? data.message}`;
    error = new WorkerLostError(text, { ...details, key: origin, attempts });
  } else {
    error = new TaskError(`Task "${keyText(origin)}" failed${where}: ${told}`, { ...details, key: origin });
  }
  if (origin === key) return error;
  return new DependencyError(
    `Task "${keyText(key)}" was not run, because it depends on "${keyText(origin)}". ${error.message}`,
    { ...details, origin, cause: lost ? error : cause },
  );
}

/** The worker that an exception came from, when it was one of ours. */
function originOf(exception: unknown): string | null {
  if (!isSerialized(exception)) return null;
  const [pickle] = exception.payload.frames;
  return pickle instanceof Uint8Array ? addressBehind(pickle) : null;
}

/** The error of another process as a plain one here, with its name, text and stack. */
export function remoteError(
  data: { readonly name: string; readonly message: string; readonly stack: string },
): Error {
  const error = new Error(data.message);
  error.name = data.name;
  Object.defineProperty(error, "stack", {
    value: data.stack === "" ? `${data.name}: ${data.message}` : data.stack,
    configurable: true,
    writable: true,
  });
  return error;
}

/** The error of a future that ended without a result. */
export function endedError(
  key: Key,
  status: "cancelled" | "lost",
  reason: string | null,
): CancelledError | TaskError {
  const name = keyText(key);
  if (status === "lost") {
    return new WorkerLostError(
      `The value of "${name}" is lost: ${reason ?? "nobody has it"}; submit or scatter it again`,
      {
        key,
        attempts: [],
      },
    );
  }
  const text = reason === null ? "" : `: ${reason}`;
  if (reason?.startsWith("lost dependencies")) {
    return new CancelledError(
      `Task "${name}" was cancelled by the scheduler: a result that it depends on is no longer on the cluster; keep ` +
        `the futures of its arguments until it is submitted, or submit them again`,
    );
  }
  return new CancelledError(`Task "${name}" was cancelled${text}`);
}
