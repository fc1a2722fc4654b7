import { assertEquals } from "@std/assert";
import { Attempts, ATTEMPTS_KEYS_MAX } from "../../worker/attempts.ts";

Deno.test("attempts count runs that came to nothing, until one succeeds", () => {
  const attempts = new Attempts();
  const tries: number[] = [];
  for (const succeeded of [false, false, true, false]) {
    tries.push(attempts.of("x"));
    attempts.ended("x", succeeded);
    attempts.ended("y", true);
  }
  assertEquals([...tries, attempts.of("x"), attempts.of("y")], [1, 2, 3, 1, 2, 1]);
});

Deno.test("of many keys the oldest are forgotten, not those that failed again", () => {
  const attempts = new Attempts();
  for (let i = 0; i < ATTEMPTS_KEYS_MAX; i++) attempts.ended(`k${i}`, false);
  attempts.ended("k0", false);
  attempts.ended("one more", false);
  assertEquals(["k0", "k1", "k2"].map((key) => attempts.of(key)), [3, 1, 2]);
});
