import { assertEquals, assertThrows } from "@std/assert";
import { type Failed, nextMoment, RetryPolicy } from "../../client/retries.ts";
import { TaskError } from "../../protocol/errors.ts";

const error = new TaskError("Task failed", { key: "k" });

/** Somebody who hears of a failure now, and whether it was told to run the task again. */
function hearer(): Failed & { readonly told: Promise<void>; readonly isTold: () => boolean } {
  const told = Promise.withResolvers<void>();
  let isTold = false;
  return {
    heardAt: nextMoment(),
    runAgain: () => {
      isTold = true;
      told.resolve();
    },
    told: told.promise,
    isTold: () => isTold,
  };
}

Deno.test("one failure is one question, one pause and one retry, whoever hears of it", async () => {
  let asked = 0;
  const policy = new RetryPolicy(() => ++asked > 0, 2, { first: 0 });
  const [first, second, late] = [hearer(), hearer(), hearer()];
  assertEquals([policy.join(error, first), policy.join(error, second)], [true, true]);
  await first.told;
  // It was heard of before the retry was sent, and only now was found out where it came from.
  assertEquals(policy.join(error, late), true);
  assertEquals([asked, second.isTold(), late.isTold()], [1, false, false]);
  const next = hearer();
  assertEquals(policy.join(error, next), true);
  await next.told;
  assertEquals(asked, 2);
  assertEquals(policy.join(error, hearer()), false);
  assertEquals(asked, 2);
});

Deno.test("who leaves a pause leaves the retry to the others; with the last one the pause ends", async () => {
  const policy = new RetryPolicy(() => true, 5, { first: 0 });
  const [first, second] = [hearer(), hearer()];
  policy.join(error, first);
  policy.join(error, second);
  policy.leave(first);
  await second.told;
  assertEquals(first.isTold(), false);
  const long = new RetryPolicy(() => true, 5, { first: 1_000_000, max: 1_000_000 });
  const only = hearer();
  long.join(error, only);
  long.leave(only); // or the sanitizer finds its timer
  long.leave(only);
});

Deno.test("a refusal, or what retryOn threw, holds for all who hear of the failure, until the task runs again", () => {
  let asked = 0;
  const policy = new RetryPolicy(() => ++asked < 0);
  assertEquals([policy.join(error, hearer()), policy.join(error, hearer())], [false, false]);
  assertEquals(asked, 1);
  policy.revive();
  assertEquals(policy.join(error, hearer()), false);
  assertEquals(asked, 2);
  const throwing = new RetryPolicy(() => {
    throw new Error(`asked ${++asked}`);
  });
  assertThrows(() => throwing.join(error, hearer()), Error, "asked 3");
  assertThrows(() => throwing.join(error, hearer()), Error, "asked 3");
});
