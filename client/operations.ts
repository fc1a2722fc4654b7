/**
 * What is asked of the cluster as a whole, aside from tasks: functions that run on each worker, restarts, versions.
 *
 * The law: what cannot be done is refused before anything is sent, by the name of the worker that stands in the way.
 *
 * @module
 */
import { type AnyOp, lower, type LoweredTask, type TaskOptions, type Waiting } from "../dispatch/mod.ts";
import { CALL_PREFIX, encodeCall } from "../protocol/call.ts";
import { DaskError, TaskError } from "../protocol/errors.ts";
import { writeFunctionPickle } from "../protocol/graph_pickle.ts";
import { encodePickle } from "../protocol/pickle/encode.ts";
import { readKeyMap, readRecord, readSerialized } from "../protocol/read.ts";
import { readException } from "../protocol/remote_error.ts";
import { decodeValue } from "../protocol/value.ts";
import type { Ask } from "./diagnostics.ts";
import { remoteError } from "./failures.ts";
import { describe, inMemory } from "./future.ts";
import { readPackages, readWorkers } from "./identity.ts";
import type { WorkerInfo } from "./messages.ts";
import { tell } from "./options.ts";

/** Options of {@linkcode Client.runOnWorkers}. */
export interface RunOnWorkersOptions extends Waiting {
  /** Addresses of the workers. Default: all TypeScript workers. */
  readonly workers?: readonly string[];
}

/** Options of {@linkcode Client.restart} and {@linkcode Client.restartWorkers}. */
export interface RestartOptions {
  /** Time for the workers to end, and to come back where that is waited for, ms. Default 120,000, as in dask. */
  readonly timeout?: number;
  /** Whether to wait until as many workers are there as before. Default true. */
  readonly waitForWorkers?: boolean;
}

/** Time for a restart unless told otherwise: four times dask's own for connecting. */
const RESTART_MS = 120_000;

/**
 * Those of `there` with the given addresses, each once.
 *
 * @param verb What cannot be done with the others, for the error: `"retire"`.
 * @throws {DaskError} when there is no such worker.
 */
export function knownWorkers(
  there: readonly WorkerInfo[],
  addresses: readonly string[],
  verb: string,
): readonly WorkerInfo[] {
  const byAddress = new Map(there.map((worker) => [worker.address, worker]));
  const wanted = [...new Set(addresses)];
  const unknown = wanted.filter((address) => !byAddress.has(address));
  if (unknown.length === 0) return wanted.map((address) => byAddress.get(address)!);
  throw new DaskError(
    `Cannot ${verb} ${unknown.join(", ")}: no such worker; there are ${
      there.length === 0 ? "none" : [...byAddress.keys()].join(", ")
    }`,
  );
}

// --- Functions on workers ---

/** A call of a TypeScript function with all that a worker needs for it. */
export interface CallAside {
  readonly key: string;
  readonly label: string;
  /** Pickles of the function and of its arguments. */
  readonly function: Uint8Array;
  readonly args: Uint8Array;
}

/**
 * The call behind a node. Its code goes along: a worker finds it where the results of its dependencies would be.
 *
 * @param defaults Options of the client.
 * @throws {TypeError} when it depends on other tasks, or has options that only a task can have.
 */
export function callAside(node: AnyOp, defaults: TaskOptions | null): CallAside {
  const { tasks, outputs } = lower([node], {
    held: () => false,
    ...(defaults === null ? {} : { defaults }),
  });
  const [key] = outputs as [string];
  const task = tasks.find((task) => task.key === key)!;
  const { label, call, dependencies, options } = task;
  const code = new Map(tasks.filter(isCode).map(({ key, call }) => [key, call.args[0]]));
  const other = dependencies.find((dependency) => !code.has(dependency));
  if (other !== undefined) {
    throw new TypeError(
      `Cannot run "${label}" on workers: its argument "${other}" is a task; pass plain values, such as await ` +
        `future.result()`,
    );
  }
  const { restrictions } = tell(options);
  if (restrictions !== "") {
    throw new TypeError(
      `Cannot run "${label}" on workers with the options ${restrictions}: only tasks have them; submit it instead`,
    );
  }
  const carried = [encodeCall(call), ...dependencies.map((dependency) => code.get(dependency))];
  return {
    key,
    label,
    function: writeFunctionPickle(CALL_PREFIX + label),
    args: encodePickle(carried).pickle,
  };
}

/** Whether it is no call, but the code of calls. */
export function isCode({ call }: LoweredTask): boolean {
  return call.function.kind === "builtin" && call.function.name === "bundle";
}

/** Runs a call once on each of some workers, on all TypeScript workers for null. Address to outcome. */
export async function runOnWorkers(
  ask: Ask,
  call: CallAside,
  addresses: readonly string[] | null,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, PromiseSettledResult<unknown>>> {
  const there = readWorkers(await ask("identity", {}, signal));
  const wanted = addresses === null
    ? there.filter(({ language }) => language === "typescript")
    : knownWorkers(there, addresses, `run "${call.label}" on`);
  const workers = wanted.filter(({ language }) => language === "typescript").map(({ address }) => address);
  const reply = workers.length === 0 ? {} : await ask("broadcast", {
    msg: { op: "run", function: call.function, args: call.args, kwargs: null, wait: true },
    workers,
    // One that cannot be asked is no reason to lose what the others say.
    on_error: "return_pickle",
  }, signal);
  const outcomes = readKeyMap(reply, "run", (outcome) => outcome);
  return new Map(wanted.map(({ address, language }) => [
    address,
    language === "typescript"
      ? readOutcome(outcomes.get(address), call, address)
      : failed(call, address, "it is a Python worker; TypeScript functions run on TypeScript workers"),
  ]));
}

function readOutcome(outcome: unknown, call: CallAside, worker: string): PromiseSettledResult<unknown> {
  if (outcome === undefined) return failed(call, worker, "the scheduler could not ask it");
  // The scheduler's own failure to ask it, or the worker's refusal.
  if (outcome instanceof Uint8Array) return thrown(call, worker, outcome, null);
  const fields = readRecord(outcome, `run on ${worker}`);
  if (fields["status"] !== "OK") {
    return thrown(call, worker, fields["exception"] ?? fields["exception_text"], fields["traceback"]);
  }
  try {
    const { payload } = readSerialized(fields["result"], `run on ${worker}.result`);
    return { status: "fulfilled", value: decodeValue(inMemory(payload)) };
  } catch (cause) {
    return failed(call, worker, `its result cannot be read: ${(cause as Error).message}`, { cause });
  }
}

function thrown(
  call: CallAside,
  worker: string,
  exception: unknown,
  traceback: unknown,
): PromiseRejectedResult {
  const data = readException(exception, traceback);
  return failed(call, worker, `${data.name}: ${data.message}`, {
    remoteStack: data.stack,
    cause: remoteError(data),
  });
}

function failed(
  { key, label }: CallAside,
  worker: string,
  reason: string,
  details: { readonly remoteStack?: string; readonly cause?: unknown } = {},
): PromiseRejectedResult {
  return {
    status: "rejected",
    reason: new TaskError(`Function "${label}" failed on ${worker}: ${reason}`, { ...details, key, worker }),
  };
}

// --- Restarts ---

/**
 * Restarts some workers; for null all, and the scheduler forgets all tasks.
 *
 * @throws {DaskError} when one has no nanny or is not known, or when they take too long.
 */
export async function restart(
  ask: Ask,
  addresses: readonly string[] | null,
  options: RestartOptions,
): Promise<void> {
  const call = addresses === null ? "restart" : "restartWorkers";
  const { timeout = RESTART_MS, waitForWorkers = true } = options;
  if (typeof timeout !== "number" || !(timeout > 0 && timeout < Infinity)) {
    throw new TypeError(
      `Cannot use the option "timeout" of ${call}: expected milliseconds, got ${describe(timeout)}`,
    );
  }
  if (typeof waitForWorkers !== "boolean") {
    throw new TypeError(
      `Cannot use the option "waitForWorkers" of ${call}: expected true or false, got ${
        describe(waitForWorkers)
      }`,
    );
  }
  const identity = await ask("identity", {});
  const there = readWorkers(identity);
  const workers = addresses === null ? there : knownWorkers(there, addresses, "restart");
  if (waitForWorkers) refuseWithoutNanny(identity, workers);
  if (addresses !== null && workers.length === 0) return;
  try {
    await ask(addresses === null ? "restart" : "restart_workers", {
      ...(addresses === null ? {} : { workers: workers.map(({ address }) => address) }),
      timeout: timeout / 1_000,
      wait_for_workers: waitForWorkers,
      stimulus_id: `client-${call}-${crypto.randomUUID()}`,
    });
  } catch (error) {
    if (!(error instanceof DaskError) || !/TimeoutError|did not shut down|not returned/.test(error.message)) {
      throw error;
    }
    throw new DaskError(
      `The restart took longer than ${timeout} ms; workers() tells who is there. ${error.message}`,
      { cause: error },
    );
  }
}

function refuseWithoutNanny(identity: unknown, workers: readonly WorkerInfo[]): void {
  const known = readKeyMap(readRecord(identity, "identity")["workers"], "identity.workers", readRecord);
  const without = workers.filter(({ address }) => typeof known.get(address)?.["nanny"] !== "string");
  if (without.length === 0) return;
  throw new DaskError(
    `Cannot restart ${
      without.map(({ address }) => address).join(", ")
    }: without a nanny a worker only ends; start ` +
      `workers without --no-nanny, or pass { waitForWorkers: false } when something else starts them again`,
  );
}

// --- Versions ---

/** What one process says of itself. */
export interface ProcessVersions {
  /** Of the machine and what runs there: `"deno"` or `"python"`, `"OS"`, `"machine"` and so on. */
  readonly host: Readonly<Record<string, string>>;
  /** Python's packages by name; null: it is not installed. A TypeScript worker repeats the scheduler's. */
  readonly packages: Readonly<Record<string, string | null>>;
}

/** What {@linkcode Client.versions} gives. */
export interface Versions {
  /** Of this process; it has no packages of Python's. */
  readonly client: ProcessVersions;
  /** Of the scheduler. */
  readonly scheduler: ProcessVersions;
  /** Of all workers that answer, by address. */
  readonly workers: ReadonlyMap<string, ProcessVersions>;
}

/** What Python's processes must agree on with their scheduler; other packages workers only with each other. */
const AGREED = ["cloudpickle", "dask", "distributed", "lz4", "python", "toolz", "tornado"];

/** The versions of all that take part. @throws {DaskError} with `check`, when Python's processes differ. */
export async function versions(ask: Ask, check: boolean): Promise<Versions> {
  const [identity, scheduler, reply] = await Promise.all([
    ask("identity", {}),
    ask("versions", {}),
    ask("broadcast", { msg: { op: "versions" }, on_error: "ignore" }),
  ]);
  const result: Versions = {
    client: {
      host: { ...Deno.version, OS: Deno.build.os, machine: Deno.build.arch },
      packages: {},
    },
    scheduler: readProcess(scheduler, "versions"),
    workers: readKeyMap(reply, "versions", readProcess),
  };
  if (check) {
    const python = readWorkers(identity).filter(({ language }) => language === "python");
    refuseMismatch(result, python.map(({ address }) => address));
  }
  return result;
}

function readProcess(versions: unknown, path: string): ProcessVersions {
  const host = readRecord(readRecord(versions, path)["host"], `${path}.host`);
  return {
    host: Object.fromEntries(Object.entries(host).map(([name, value]) => [name, String(value)])),
    packages: Object.fromEntries(
      Object.entries(readPackages(versions)).map((
        [name, value],
      ) => [name, value === null ? null : String(value)]),
    ),
  };
}

function refuseMismatch({ scheduler, workers }: Versions, python: readonly string[]): void {
  const processes = [...workers].filter(([address]) => python.includes(address));
  const names = new Set(processes.flatMap(([, { packages }]) => Object.keys(packages)));
  const differ = [...names].toSorted().flatMap((name) => {
    const those = AGREED.includes(name) ? [["the scheduler", scheduler] as const, ...processes] : processes;
    const found = Map.groupBy(those, ([, { packages }]) => packages[name] ?? "none");
    return found.size < 2 ? [] : [
      `${name} ${
        [...found].map(([version, where]) => `${version} on ${where.map(([place]) => place).join(", ")}`)
          .join(" and ")
      }`,
    ];
  });
  if (differ.length === 0) return;
  throw new DaskError(
    `The versions on the cluster differ: ${differ.join("; ")}. Install the same ones everywhere`,
  );
}
