/**
 * What the scheduler says about itself and its workers.
 *
 * @module
 */
import { keyText } from "../protocol/key.ts";
import { readArray, readKeyMap, readNumber, readRecord, readString } from "../protocol/read.ts";
import type { WorkerInfo } from "./messages.ts";

/** The scheduler, and who works for it. */
export interface SchedulerInfo {
  /** Where it listens, `"tcp://host:8786"`. */
  readonly address: string;
  /** Version of `distributed`. */
  readonly version: string;
  /** When it began. */
  readonly started: Date;
  /** Those registered now. */
  readonly workers: readonly WorkerInfo[];
}

/** The workers in a reply to `identity`. Ours say so; all others are Python's. */
export function readWorkers(identity: unknown): readonly WorkerInfo[] {
  const fields = readRecord(identity, "identity");
  const workers = readKeyMap(fields["workers"], "identity.workers", readRecord);
  return [...workers].map(([address, worker]) => ({
    address,
    name: typeof worker["name"] === "string" ? worker["name"] : keyText(String(worker["name"])),
    slots: readNumber(worker["nthreads"], "identity.workers.nthreads"),
    language: worker["language"] === "typescript" ? "typescript" : "python",
  }));
}

/** A reply to `identity` as a whole. */
export function readSchedulerInfo(identity: unknown, version: string): SchedulerInfo {
  const fields = readRecord(identity, "identity");
  return {
    address: readString(fields["address"], "identity.address"),
    version,
    started: new Date(readNumber(fields["started"], "identity.started") * 1_000),
    workers: readWorkers(identity),
  };
}

/** The port of the dashboard in a reply to `identity`, or null when there is none. */
export function readDashboardPort(identity: unknown): number | null {
  const services = readRecord(readRecord(identity, "identity")["services"], "identity.services");
  const port = services["dashboard"];
  return typeof port === "number" ? port : null;
}

/** The version of `distributed` in a reply to `versions`. */
export function readVersion(versions: unknown): string {
  return readString(readPackages(versions)["distributed"], "versions.packages.distributed");
}

/** The packages in a reply to `versions`, null for those that are not there. */
export function readPackages(versions: unknown): Readonly<Record<string, unknown>> {
  const packages = readRecord(versions, "versions")["packages"];
  return Array.isArray(packages)
    ? Object.fromEntries(readArray(packages, "versions.packages", (pair) => pair as [string, unknown]))
    : readRecord(packages, "versions.packages");
}
