/**
 * Errors of this library. Library code throws only these classes (and `TypeError`/`RangeError` for a caller's
 * misuse); messages start with a capital, name the thing, say what was expected, and end without a full stop.
 *
 * @module
 */

/** The root of all errors of this library. */
export class DaskError extends Error {
  /** The name of the class. */
  override name = "DaskError";
}

/** Bytes or messages that break the protocol. `side` says who broke it: `"remote"` sent it, `"local"` was about to. */
export class ProtocolError extends DaskError {
  /** The name of the class. */
  override name = "ProtocolError";
  /** Who broke the rule. */
  readonly side: "local" | "remote";
  /** An error in the protocol; `side` says who made it. */
  constructor(message: string, side: "local" | "remote" = "remote", options?: ErrorOptions) {
    super(message, options);
    this.side = side;
  }
}

/**
 * A value that cannot be written or read; `path` names the place inside it, as `args[1].when`.
 *
 * @example
 * ```ts
 * import { op, SerializationError } from "@dask/dask";
 * try {
 *   op((url: unknown) => String(url), new URL("http://example.org")).key;
 * } catch (error) {
 *   console.log(error instanceof SerializationError, (error as Error).message);
 * }
 * ```
 */
export class SerializationError extends DaskError {
  /** The name of the class. */
  override name = "SerializationError";
  /** The place inside the value. */
  readonly path: string;
  /** An error about the place `path` of a value. */
  constructor(message: string, path = "", options?: ErrorOptions) {
    super(message, options);
    this.path = path;
  }
}

/** A worker does not run this code: its operator allows other modules only. At a client it is the `cause` of a `TaskError`, by name. */
export class ModuleNotAllowedError extends DaskError {
  /** The name of the class. */
  override name = "ModuleNotAllowedError";
}

/** A connection could not be made, or ended before the answer. `address` is the other end. */
export class CommClosedError extends DaskError {
  /** The name of the class. */
  override name = "CommClosedError";
  /** The other end. */
  readonly address: string;
  /** An error of the connection to `address`. */
  constructor(message: string, address: string, options?: ErrorOptions) {
    super(message, options);
    this.address = address;
  }
}

/** One side does not do for the other: a certificate was refused, or it does not speak TLS. Trying again is of no use. */
export class TlsError extends CommClosedError {
  /** The name of the class. */
  override name = "TlsError";
}

/**
 * What was asked for was cancelled, here or elsewhere.
 *
 * @example
 * ```ts ignore
 * await future.cancel();
 * const outcome = await future.settled();
 * console.log(outcome.status === "rejected" && outcome.reason instanceof CancelledError); // true
 * ```
 */
export class CancelledError extends DaskError {
  /** The name of the class. */
  override name = "CancelledError";
}

/**
 * A task failed. `cause` is an `Error` with the remote name and message.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, op, TaskError } from "@dask/dask";
 * const half = (x: number): number => {
 *   if (x % 2 !== 0) throw new RangeError(`${x} is odd`);
 *   return x / 2;
 * };
 * const [outcome] = await new AsyncExecutor().runSettled([op(half, 3)]);
 * if (outcome.status === "rejected" && outcome.reason instanceof TaskError) {
 *   console.log(String(outcome.reason.cause)); // RangeError: 3 is odd
 * }
 * ```
 */
export class TaskError extends DaskError {
  /** The name of the class. */
  override name = "TaskError";
  /** Key of the task that was asked for. */
  readonly key: string;
  /** Address of the worker that ran it, or `""` when the scheduler gave up on it. */
  readonly worker: string;
  /** The stack of the remote process, as text. */
  readonly remoteStack: string;
  /** A failure of the task `details.key`. */
  constructor(
    message: string,
    details: {
      readonly key: string;
      readonly worker?: string;
      readonly remoteStack?: string;
      readonly cause?: unknown;
    },
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.key = details.key;
    this.worker = details.worker ?? "";
    this.remoteStack = details.remoteStack ?? "";
  }
}

/**
 * A task was not run because one that it depends on failed; `origin` is the key of that one.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, DependencyError, op } from "@dask/dask";
 * const fails = op((): number => {
 *   throw new Error("no");
 * });
 * fails.label = "fails";
 * const [outcome] = await new AsyncExecutor().runSettled([op((x: number) => x + 1, fails)]);
 * if (outcome.status === "rejected" && outcome.reason instanceof DependencyError) {
 *   console.log(outcome.reason.origin === fails.key); // true
 * }
 * ```
 */
export class DependencyError extends TaskError {
  /** The name of the class. */
  override name = "DependencyError";
  /** Key of the task that failed first. */
  readonly origin: string;
  /** A failure of `details.key` that began in `details.origin`. */
  constructor(
    message: string,
    details: {
      readonly key: string;
      readonly origin: string;
      readonly worker?: string;
      readonly remoteStack?: string;
      readonly cause?: unknown;
    },
  ) {
    super(message, details);
    this.origin = details.origin;
  }
}

/**
 * A task was given up because the processes that ran it died; `attempts` says which, and how.
 *
 * @example
 * ```ts ignore
 * const outcome = await client.submit(() => Deno.exit(3), []).settled();
 * if (outcome.status === "rejected" && outcome.reason instanceof WorkerLostError) {
 *   for (const { worker, exit } of outcome.reason.attempts) console.log(worker, exit);
 * }
 * ```
 */
export class WorkerLostError extends TaskError {
  /** The name of the class. */
  override name = "WorkerLostError";
  /** Where it was tried, and how the process ended each time. */
  readonly attempts: readonly { readonly worker: string; readonly exit: string }[];
  /** The loss of the task `details.key`. */
  constructor(
    message: string,
    details: {
      readonly key: string;
      readonly attempts: readonly { readonly worker: string; readonly exit: string }[];
      readonly worker?: string;
      readonly remoteStack?: string;
      readonly cause?: unknown;
    },
  ) {
    super(message, details);
    this.attempts = details.attempts;
  }
}

/** An error as plain data, as actors and processes pass it. */
export interface ErrorData {
  /** Class name, `"TypeError"`. */
  readonly name: string;
  readonly message: string;
  /** Stack text of the place where it was thrown, or `""`. */
  readonly stack: string;
  /** Which of the task failures it is. `"lost"`: the process that ran it died. `"failed"`: the function threw. */
  readonly kind: "failed" | "lost";
  /** For `"lost"`: how the process ended and its last lines. */
  readonly exit?: string;
}
