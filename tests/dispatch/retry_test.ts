import { assert, assertEquals } from "@std/assert";
import { retryPauseMs } from "../../dispatch/retry.ts";

Deno.test("pauses double from 50 ms to 10 s, and chance adds up to a tenth", () => {
  const least = Array.from({ length: 10 }, (_, i) => retryPauseMs(i + 1, { random: () => 0 }));
  assertEquals(least, [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
  assertEquals(Math.round(retryPauseMs(1, { random: () => 1 })), 55);
  for (let i = 0; i < 100; i++) {
    const pause = retryPauseMs(1);
    assert(pause >= 50 && pause <= 55, `${pause}`);
  }
});

Deno.test("pauses as they are told", () => {
  const pause = { first: 2, factor: 3, max: 20, jitter: 0 };
  assertEquals([1, 2, 3, 4, 1_000].map((failures) => retryPauseMs(failures, pause)), [2, 6, 18, 20, 20]);
  assertEquals(retryPauseMs(2_000, { first: 0, jitter: 0 }), 0);
});
