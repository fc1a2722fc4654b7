/**
 * Options of tasks, checked before anything is done with them.
 *
 * @module
 */
import type { TaskOptions } from "./node.ts";

/** No options; checked already. */
export const NO_OPTIONS: TaskOptions = Object.freeze({});

const CHECKS: { readonly [Name in keyof Required<TaskOptions>]: (value: unknown) => string | null } = {
  key: (value) => typeof value === "string" && value !== "" ? null : "a text that is not empty",
  pure: (value) => typeof value === "boolean" ? null : "true or false",
  label: (value) => typeof value === "string" && value !== "" ? null : "a text that is not empty",
  priority: (value) => typeof value === "number" && Number.isFinite(value) ? null : "a finite number",
  timeout: (value) => typeof value === "number" && value > 0 ? null : "milliseconds, more than 0",
  retries: (value) => Number.isSafeInteger(value) && (value as number) >= 0 ? null : "an integer from 0",
  retryOn: (value) => typeof value === "function" ? null : "a function",
  retryPause: (value) =>
    isRetryPause(value)
      ? null
      : "{ first, factor, max, jitter, random }: milliseconds from 0, a factor from 1, a share from 0 and a function",
  workers: (value) =>
    isTexts(value) && value.length > 0 ? null : "addresses or names of workers, at least one",
  allowOtherWorkers: (value) => typeof value === "boolean" ? null : "true or false",
  resources: (value) => isResources(value) ? null : "an object of numbers from 0",
  permissions: (value) =>
    value === "none" || value === "inherit" || (typeof value === "object" && value !== null)
      ? null
      : 'permissions as Deno takes them, or "none", or "inherit"',
  signal: (value) => value instanceof AbortSignal ? null : "an AbortSignal",
};

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string" && item !== "");
}

function isRetryPause(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const least: Readonly<Record<string, number>> = { first: 0, factor: 1, max: 0, jitter: 0 };
  return Object.entries(value).every(([name, part]) =>
    part === undefined ||
    (name === "random"
      ? typeof part === "function"
      : Object.hasOwn(least, name) && typeof part === "number" && Number.isFinite(part) &&
        part >= least[name]!)
  );
}

function isResources(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.values(value).every((amount) =>
      typeof amount === "number" && amount >= 0 && Number.isFinite(amount)
    );
}

/**
 * Checks options that a caller gave. `extra` are names that this call knows beside those of tasks.
 *
 * @throws {TypeError} that names the option.
 */
export function checkOptions(options: unknown, call: string, extra: readonly string[] = []): void {
  if (options === NO_OPTIONS) return;
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new TypeError(`Cannot read the options of ${call}: expected an object, got ${describe(options)}`);
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || extra.includes(name)) continue;
    const check = Object.hasOwn(CHECKS, name) ? CHECKS[name as keyof typeof CHECKS] : undefined;
    if (check === undefined) {
      throw new TypeError(
        `Cannot use the option "${name}" of ${call}: expected one of ${
          [...Object.keys(CHECKS), ...extra].join(", ")
        }`,
      );
    }
    const expected = check(value);
    if (expected !== null) {
      throw new TypeError(
        `Cannot use the option "${name}" of ${call}: expected ${expected}, got ${describe(value)}`,
      );
    }
  }
}

/** What something is, for errors. */
export function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === "object") {
    const name = value.constructor?.name;
    return name === undefined || name === "Object" ? "an object" : `an object of class ${name}`;
  }
  return typeof value === "string" ? `the text ${JSON.stringify(value)}` : `a ${typeof value}`;
}
