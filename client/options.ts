/**
 * Options of tasks, checked before anything is sent, and what of them the scheduler and the workers are told.
 *
 * @module
 */
import type { TaskOptions } from "../dispatch/mod.ts";
import { checkOptions, NO_OPTIONS } from "../dispatch/options.ts";
import type { Annotations } from "./machine/events.ts";

/** Options as one `update-graph` carries them. */
export interface Told {
  readonly annotations: Annotations | null;
  /** Equal texts mean equal annotations; `""` means none. */
  readonly signature: string;
  /** The part of it that decides where and how a task may run; `""` means anywhere. */
  readonly restrictions: string;
}

const NOTHING: Told = { annotations: null, signature: "", restrictions: "" };

export { checkOptions, NO_OPTIONS };

/** Options objects are shared by many nodes. */
const told = new WeakMap<TaskOptions, Told>();

/** What the cluster is told of the options of one task. */
export function tell(options: TaskOptions): Told {
  let known = told.get(options);
  if (known === undefined) {
    known = read(options);
    told.set(options, known);
  }
  return known;
}

function read(options: TaskOptions): Told {
  checkOptions(options, "a task");
  const { workers, allowOtherWorkers, resources, retryOn, retries, priority, timeout, permissions } = options;
  const restrictions = {
    ...(workers === undefined ? {} : { workers: [...workers] }),
    ...(allowOtherWorkers === undefined || workers === undefined ? {} : { allowOtherWorkers }),
    ...(resources === undefined || Object.keys(resources).length === 0
      ? {}
      : { resources: sorted(resources) }),
    ...(timeout === undefined || timeout === Infinity ? {} : { timeout }),
    // URLs become texts.
    ...(permissions === undefined ? {} : { permissions: JSON.parse(JSON.stringify(permissions)) as unknown }),
  };
  const annotations: Annotations = {
    ...restrictions,
    // With `retryOn` this client decides.
    ...(retries === undefined || retries === 0 || retryOn !== undefined ? {} : { retries }),
    ...(priority === undefined || priority === 0 ? {} : { priority }),
  };
  const signature = JSON.stringify(annotations);
  if (signature === "{}") return NOTHING;
  const restricted = JSON.stringify(restrictions);
  return { annotations, signature, restrictions: restricted === "{}" ? "" : restricted };
}

function sorted(resources: Readonly<Record<string, number>>): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(resources).sort(([a], [b]) => a < b ? -1 : 1));
}
