import { assertEquals } from "@std/assert";
import { nextWait, retireAfterMs } from "../../worker/lifetime.ts";

Deno.test("a worker retires within lifetime ± stagger, never before its start", () => {
  assertEquals(retireAfterMs(1000, 0, 0.3), 1000);
  assertEquals([0, 0.5, 1].map((chance) => retireAfterMs(1000, 200, chance)), [800, 1000, 1200]);
  assertEquals(retireAfterMs(100, 500, 0), 0);
});

Deno.test("a long wait is several timers, none longer than a timer can be", () => {
  let leftMs = 90 * 86_400e3;
  let sum = 0;
  let timers = 0;
  do {
    const wait = nextWait(leftMs);
    leftMs = wait.leftMs;
    sum += wait.waitMs;
    timers++;
    assertEquals(wait.waitMs <= 2 ** 31 - 1, true);
  } while (leftMs > 0);
  assertEquals([sum, timers], [90 * 86_400e3, 4]);
});
