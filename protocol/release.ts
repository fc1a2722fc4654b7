/**
 * Which releases of dask speak the protocol of this project: one range, for client, worker and the scheduler that the
 * tests start.
 *
 * @module
 */
import type { Logger } from "../base/log.ts";
import { DaskError } from "./errors.ts";

/** The oldest release that speaks as we do. */
export const OLDEST_RELEASE = "2025.4.0";
/** The newest release that the tests ran against. */
export const NEWEST_RELEASE = "2026.8.0";

/** Order of two releases such as `2026.7.1`: negative, zero or positive. What is not a number counts as 0. */
export function compareReleases(a: string, b: string): number {
  const [x, y] = [numbersOf(a), numbersOf(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (x[i] ?? 0) - (y[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Whether a release is one between the oldest and the newest that was tested. */
export function isTestedRelease(release: string): boolean {
  return compareReleases(release, OLDEST_RELEASE) >= 0 && compareReleases(release, NEWEST_RELEASE) <= 0;
}

/**
 * Whether we can work with the scheduler at `address`: an older release throws; a newer month, or a release that cannot
 * be read, is worth a warning.
 *
 * @throws {DaskError} naming the release and the remedy.
 */
export function checkRelease(release: string, address: string, logger: Logger): void {
  if (!/^\d+\.\d+/.test(release)) {
    return logger.log(
      "warning",
      `The scheduler at ${address} has the unknown release "${release}": it may not understand us`,
    );
  }
  if (compareReleases(release, OLDEST_RELEASE) < 0) {
    throw new DaskError(
      `Cannot work with the scheduler at ${address}: it runs dask ${release}, expected ${OLDEST_RELEASE} or later; ` +
        `upgrade it by "pip install --upgrade distributed"`,
    );
  }
  const month = (text: string) => text.split(".", 2).join(".");
  if (compareReleases(month(release), month(NEWEST_RELEASE)) > 0) {
    logger.log(
      "warning",
      `The scheduler at ${address} runs dask ${release}, newer than ${NEWEST_RELEASE}, the last release that was tested`,
    );
  }
}

function numbersOf(release: string): number[] {
  return release.split(".").map((part) => Number.parseInt(part, 10) || 0);
}
