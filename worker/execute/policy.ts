/**
 * What a task says about its own run, under the annotation `deno`: `{ permissions, timeout }` (and
 * `depth`, which clients inside of tasks note for themselves). Plain data, since any
 * client may have written it: `dask.annotate(deno={"permissions": "none", "timeout": 500})` in Python.
 *
 * @module
 */
import { DaskError, type ErrorData } from "../../protocol/errors.ts";
import type { TaskPermissions } from "./permissions.ts";

/** How one task is to be run. */
export interface TaskPolicy {
  /** Null: as all tasks of this worker. */
  readonly permissions: TaskPermissions | null;
  /** Running time after which it is stopped, ms; null: never. */
  readonly timeoutMs: number | null;
}

/** Why a running call is being stopped. */
export interface Stop {
  /** Name of the error that its signal carries, and that it ends with. */
  readonly name: "AbortError" | "TimeoutError";
  readonly reason: string;
}

/** How long an aborted call that has acknowledged the abort may go on, ms. */
export const GRACE_MS = 250;
/**
 * How long an executor has to acknowledge an abort, ms. Its event loop does that; one that cannot is kept busy by user
 * code, which will not see the signal either, and gets no grace.
 */
export const ACKNOWLEDGE_MS = 50;

/** Longest time that a timer takes, ms: 24 days. */
const TIMER_MS_MAX = 2 ** 31 - 1;

const NO_POLICY: TaskPolicy = { permissions: null, timeoutMs: null };

/**
 * Reads the annotations of a task. Whether its permissions can be had is not looked at.
 *
 * @throws {DaskError} that names the field that makes no sense.
 */
export function readPolicy(annotations: Readonly<Record<string, unknown>>): TaskPolicy {
  const own = annotations["deno"];
  if (own === undefined || own === null) return NO_POLICY;
  if (!isRecord(own)) throw unreadable("deno", "an object of `permissions` and `timeout`", own);
  for (const name of Object.keys(own)) {
    if (name !== "permissions" && name !== "timeout" && name !== "depth") {
      throw new DaskError(`Cannot use the annotation deno.${name}: expected "permissions" or "timeout"`);
    }
  }
  return { permissions: readPermissions(own["permissions"]), timeoutMs: readTimeout(own["timeout"]) };
}

/** The error of a call that was stopped. */
export function stoppedError(key: string, { name, reason }: Stop): ErrorData {
  return { name, message: `Stopped task "${key}": ${reason}`, stack: "", kind: "failed" };
}

/** Why a call that ran too long is stopped. */
export function timedOut(timeoutMs: number): Stop {
  return { name: "TimeoutError", reason: `it ran longer than its timeout of ${timeoutMs} ms` };
}

function readTimeout(value: unknown): number | null {
  if (value === undefined || value === null || value === Infinity) return null;
  if (typeof value !== "number" || !(value > 0)) {
    throw unreadable("deno.timeout", "milliseconds, more than 0", value);
  }
  return value > TIMER_MS_MAX ? null : value;
}

function readPermissions(value: unknown): TaskPermissions | null {
  if (value === undefined || value === null) return null;
  if (value === "inherit" || value === "none") return value;
  if (!isRecord(value)) {
    throw unreadable("deno.permissions", '"none", "inherit", or an object as { net: ["host:443"] }', value);
  }
  const read: Record<string, boolean | "inherit" | (string | URL)[]> = {};
  for (const [kind, wanted] of Object.entries(value)) {
    if (wanted === undefined || wanted === null) continue;
    if (typeof wanted === "boolean" || wanted === "inherit") read[kind] = wanted;
    else if (Array.isArray(wanted) && wanted.every((item) => typeof item === "string")) {
      // URLs travel as text.
      read[kind] = wanted.map((item: string) => /^(file|https?):\/\//.test(item) ? new URL(item) : item);
    } else {
      throw unreadable(`deno.permissions.${kind}`, 'true, false, "inherit" or a list of texts', wanted);
    }
  }
  return read;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Map);
}

function unreadable(name: string, expected: string, value: unknown): DaskError {
  const got = typeof value === "bigint" ? `${value}n` : JSON.stringify(value) ?? String(value);
  return new DaskError(`Cannot read the annotation ${name}: expected ${expected}, got ${got.slice(0, 80)}`);
}
