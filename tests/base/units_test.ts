import { assertEquals, assertThrows } from "@std/assert";
import { formatBytes, parseBytes, parseDuration } from "../../base/units.ts";

Deno.test("parseBytes reads what dask reads", () => {
  const cases: [string, number][] = [
    ["100", 100],
    ["100 MB", 100e6],
    ["100M", 100e6],
    ["5kB", 5000],
    ["5.4 kB", 5400],
    ["1kiB", 1024],
    ["1e6", 1e6],
    ["1e6 kB", 1e9],
    ["1.5e+2", 150],
    ["MB", 1e6],
    ["2GiB", 2 ** 31],
    ["500mb", 500e6],
    ["0", 0],
  ];
  for (const [text, bytes] of cases) assertEquals(parseBytes(text), bytes, text);
});

Deno.test("parseBytes refuses other texts and says what it expected", () => {
  for (const text of ["5 foos", "", "1.2.3", "-4", "GiB2", "1 2 x"]) {
    const error = assertThrows(() => parseBytes(text), RangeError);
    assertEquals(error.message.startsWith("Cannot read "), true, error.message);
  }
});

Deno.test("parseDuration reads what dask reads, in milliseconds", () => {
  const cases: [string, number][] = [
    ["3s", 3000],
    ["3.5 seconds", 3500],
    ["300ms", 300],
    ["30", 30_000],
    ["2m", 120_000],
    ["1 minute", 60_000],
    ["2 Hours", 7_200_000],
    ["1d", 86_400_000],
    ["1w", 604_800_000],
    ["5us", 0.005],
  ];
  for (const [text, ms] of cases) assertEquals(parseDuration(text), ms, text);
});

Deno.test("parseDuration refuses unknown units by name", () => {
  const error = assertThrows(() => parseDuration("5 parsecs"), RangeError);
  assertEquals(
    error.message,
    'Cannot read time "5 parsecs": expected a number with ns, us, ms, s, m, h, d or w',
  );
});

Deno.test("formatBytes writes for people", () => {
  assertEquals(formatBytes(12), "12 B");
  assertEquals(formatBytes(1536), "1.50 kiB");
  assertEquals(formatBytes(2 ** 31), "2.00 GiB");
});
