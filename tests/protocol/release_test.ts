import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { DaskError } from "../../protocol/errors.ts";
import {
  checkRelease,
  compareReleases,
  isTestedRelease,
  NEWEST_RELEASE,
  OLDEST_RELEASE,
} from "../../protocol/release.ts";

Deno.test("releases are ordered by number, not by text", () => {
  assert(compareReleases("2025.10.0", "2025.9.1") > 0);
  assert(compareReleases("2025.4.0", "2025.12.0") < 0);
  assertEquals(compareReleases("2026.8.0", "2026.8.0"), 0);
  assert(isTestedRelease(OLDEST_RELEASE) && isTestedRelease(NEWEST_RELEASE));
  assert(!isTestedRelease("2025.3.1") && !isTestedRelease("2030.1.0"));
});

Deno.test("an older release is refused, a newer month or an unknown one is warned about", () => {
  const warnings: string[] = [];
  const logger = { log: (_level: string, message: string) => void warnings.push(message) };
  const error = assertThrows(() => checkRelease("2025.3.0", "tcp://s:8786", logger), DaskError);
  assertStringIncludes(error.message, "tcp://s:8786");
  assertStringIncludes(error.message, "pip install");
  checkRelease(NEWEST_RELEASE, "tcp://s:8786", logger);
  checkRelease(NEWEST_RELEASE.replace(/\d+$/, "7"), "tcp://s:8786", logger); // a patch of the month is no news
  assertEquals(warnings, []);
  checkRelease("2031.1.0", "tcp://s:8786", logger);
  checkRelease("", "tcp://s:8786", logger);
  assertEquals(warnings.length, 2);
  assertStringIncludes(warnings[0]!, "2031.1.0");
});
