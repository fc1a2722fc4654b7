import { assertEquals } from "@std/assert";
import { ManualClock, systemClock, Timers } from "../../../actors/kernel/mod.ts";

Deno.test("timers fire once, by time and then by order of setting", () => {
  const clock = new ManualClock(1000);
  const fired: [string, number][] = [];
  const timers = new Timers<string>(clock, (name, at) => fired.push([name, at]));
  timers.set("late", 1030);
  timers.set("early", 1010);
  timers.set("also early", 1010);
  timers.set("past", 5);
  clock.advance(10);
  assertEquals(fired, [["past", 1000], ["early", 1010], ["also early", 1010]]);
  clock.advance(100);
  assertEquals(fired.slice(3), [["late", 1030]]);
  assertEquals([timers.size, clock.timers, clock.now()], [0, 0, 1110]);
});

Deno.test("to set a timer again moves it; clear and clearAll call off", () => {
  const clock = new ManualClock();
  const fired: string[] = [];
  const timers = new Timers<string>(clock, (name) => fired.push(name));
  timers.set("a", 10);
  timers.set("a", 20);
  timers.set("b", 10);
  timers.set("c", 10);
  timers.clear("b");
  assertEquals(timers.size, 2);
  clock.advance(15);
  assertEquals(fired, ["c"]);
  timers.clearAll();
  clock.advance(100);
  assertEquals([fired, clock.timers, timers.size], [["c"], 0, 0]);
});

Deno.test("a timer may set itself again while it fires", () => {
  const clock = new ManualClock();
  const fired: number[] = [];
  const timers: Timers<"tick"> = new Timers(clock, (name, at) => {
    fired.push(at);
    timers.set(name, at + 10);
  });
  timers.set("tick", 10);
  clock.advance(35);
  assertEquals(fired, [10, 20, 30]);
  timers.clearAll();
});

Deno.test("the system clock fires, and leaves nothing behind when called off", async () => {
  const due = systemClock.now() + 2;
  await new Promise<void>((resolve) => systemClock.setTimer(due, resolve));
  const clear = systemClock.setTimer(systemClock.now() + 2 ** 40, () => {
    throw new Error("Fired a timer that was called off");
  });
  clear();
  clear();
});
