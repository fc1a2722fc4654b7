import { assertEquals, assertInstanceOf, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { BugError } from "../../../base/assert.ts";
import {
  type Actor,
  ActorStoppedError,
  cloneMessages,
  pipe,
  type Ref,
  spawn,
  TURN_MESSAGES_MAX,
} from "../../../actors/kernel/mod.ts";

type CounterCalls = {
  readonly add: { readonly ask: number; readonly answer: number };
  readonly read: { readonly ask: null; readonly answer: readonly number[] };
  readonly refuse: { readonly ask: string; readonly answer: never };
  readonly never: { readonly ask: null; readonly answer: null };
  readonly crash: { readonly ask: string; readonly answer: null };
};

class Odd extends Error {
  override readonly name = "Odd";
}

function counter(
  options: { onCrash?: (error: Error) => void; onStop?: () => void } = {},
): Actor<CounterCalls> {
  const seen: number[] = [];
  return spawn<CounterCalls>("counter", {
    add(n, asker) {
      seen.push(n);
      asker.answer(n + 1);
    },
    read: (_, asker) => asker.answer(seen),
    refuse: (text, asker) => asker.refuse(new Odd(text)),
    never: () => {},
    crash(text) {
      throw new Odd(text);
    },
  }, options);
}

/** Runs a test with messages as references and once more with cloned ones. */
function bothWays(name: string, test: () => Promise<void>): void {
  for (const cloned of [false, true]) {
    Deno.test(`${name} (${cloned ? "cloned" : "by reference"})`, async () => {
      cloneMessages(cloned);
      try {
        await test();
      } finally {
        cloneMessages(false);
      }
    });
  }
}

bothWays("an actor handles messages in the order in which they were sent", async () => {
  const actor = counter();
  for (let n = 0; n < 1000; n++) actor.ref.tell("add", n);
  assertEquals(await actor.ref.ask("add", 1000), 1001);
  assertEquals(await actor.ref.ask("read", null), Array.from({ length: 1001 }, (_, n) => n));
  await actor.stop();
});

bothWays("nothing is handled before the sender's own turn ends", async () => {
  let handled = 0;
  const actor = spawn<{ hit: { ask: null; answer: null } }>("target", { hit: () => handled++ });
  actor.ref.tell("hit", null);
  assertEquals(handled, 0);
  await Promise.resolve();
  assertEquals(handled, 1);
  await actor.stop();
});

bothWays("asks are answered each with its own answer, whatever the order of the answers", async () => {
  const held: (() => void)[] = [];
  const actor = spawn<{ hold: { ask: number; answer: number }; release: { ask: null; answer: null } }>(
    "holder",
    {
      hold: (n, asker) => void held.push(() => asker.answer(n * 10)),
      release(_, asker) {
        for (const answer of held.reverse()) answer();
        asker.answer(null);
      },
    },
  );
  const asks = [1, 2, 3].map((n) => actor.ref.ask("hold", n));
  await actor.ref.ask("release", null);
  assertEquals(await Promise.all(asks), [10, 20, 30]);
  await actor.stop();
});

bothWays("a refusal rejects with the very error, and the actor goes on", async () => {
  const actor = counter();
  const error = await assertRejects(() => actor.ref.ask("refuse", "no"), Odd, "no");
  assertInstanceOf(error, Odd);
  actor.ref.tell("refuse", "nobody hears this");
  assertEquals(await actor.ref.ask("add", 1), 2);
  await actor.stop();
});

bothWays("stop refuses those who wait and those who ask later; a tell is forgotten", async () => {
  let stops = 0;
  const actor = counter({ onStop: () => stops++ });
  const handled = actor.ref.ask("never", null);
  const waiting = actor.ref.ask("add", 1);
  const refusals = Promise.all([
    assertRejects(() => handled, ActorStoppedError),
    assertRejects(() => waiting),
  ]);
  await actor.stop();
  await refusals;
  await assertRejects(() => actor.ref.ask("add", 1), ActorStoppedError, 'Actor "counter" has stopped');
  actor.ref.tell("crash", "nobody handles this");
  await actor.stop();
  await actor.stopped;
  assertEquals(stops, 1);
});

bothWays("an answer after the stop is forgotten", async () => {
  let late = (): void => {};
  const actor = spawn<{ hold: { ask: null; answer: string } }>("late", {
    hold: (_, asker) => {
      late = () => asker.answer("too late");
    },
  });
  const ask = actor.ref.ask("hold", null);
  const refusal = assertRejects(() => ask, ActorStoppedError);
  await Promise.resolve();
  await actor.stop();
  late();
  await refusal;
});

bothWays("a handler that stops its own actor is handled to its end, and is the last one", async () => {
  const done: string[] = [];
  type SelfCalls = { stop: { ask: null; answer: string }; other: { ask: null; answer: null } };
  const actor: Actor<SelfCalls> = spawn<SelfCalls>("self", {
    stop(_, asker) {
      actor.stop();
      done.push("stop");
      asker.answer("stopped myself");
    },
    other: () => done.push("other"),
  });
  const answer = actor.ref.ask("stop", null);
  actor.ref.tell("other", null);
  assertEquals(await answer, "stopped myself");
  await actor.stopped;
  assertEquals(done, ["stop"]);
});

bothWays("a handler that throws stops the actor, refuses all who wait, and tells the owner", async () => {
  const crashes: Error[] = [];
  const actor = counter({ onCrash: (error) => crashes.push(error) });
  const before = actor.ref.ask("never", null);
  const crashed = actor.ref.ask("crash", "broken");
  const after = actor.ref.ask("add", 1);
  for (const ask of [before, crashed, after]) {
    const error = await assertRejects(
      () => ask,
      ActorStoppedError,
      'Actor "counter" has crashed: Odd: broken',
    );
    assertInstanceOf(error.cause, Odd);
    assertEquals(error.actor, "counter");
  }
  await actor.stopped;
  assertEquals(crashes.map((error) => error.message), ["broken"]);
});

Deno.test("without onCrash a crash is an uncaught error", async () => {
  const uncaught = new Promise<unknown>((resolve) => {
    globalThis.addEventListener("error", (event) => {
      event.preventDefault();
      resolve(event.error);
    }, { once: true });
  });
  counter().ref.tell("crash", "loud");
  assertInstanceOf(await uncaught, Odd);
});

Deno.test("to answer twice is a bug of the actor", async () => {
  const crashes: Error[] = [];
  const actor = spawn<{ twice: { ask: null; answer: number } }>("twice", {
    twice(_, asker) {
      asker.answer(1);
      asker.answer(2);
    },
  }, { onCrash: (error) => crashes.push(error) });
  assertEquals(await actor.ref.ask("twice", null), 1);
  await actor.stopped;
  assertInstanceOf(crashes[0], BugError);
});

Deno.test("a full mailbox is a bug of the sender, and names the mailbox", async () => {
  let handled = 0;
  const actor = spawn<{ hit: { ask: null; answer: null } }>("small", { hit: () => handled++ }, {
    mailboxMessagesMax: 3,
  });
  for (let n = 0; n < 3; n++) actor.ref.tell("hit", null);
  assertThrows(() => actor.ref.tell("hit", null), BugError, '"small" is full (mailboxMessagesMax 3)');
  assertThrows(() => void actor.ref.ask("hit", null), BugError, '"small" is full');
  await Promise.resolve();
  assertEquals(handled, 3);
  actor.ref.tell("hit", null);
  await Promise.resolve();
  assertEquals(handled, 4);
  await actor.stop();
});

Deno.test("cloned messages: a function throws at the sender, an instance arrives without its methods", async () => {
  type AnyCalls = { see: { ask: unknown; answer: unknown } };
  const seen: unknown[] = [];
  const crashes: Error[] = [];
  const actor = spawn<AnyCalls>("viewer", {
    see(ask, asker) {
      seen.push(ask);
      asker.answer(ask === "function" ? () => {} : ask);
    },
  }, { onCrash: (error) => crashes.push(error) });
  const sent = { nested: [1] };
  assertStrictEquals(await actor.ref.ask("see", sent), sent);
  cloneMessages(true);
  try {
    const answer = await actor.ref.ask("see", sent);
    assertEquals(answer, sent);
    assertEquals([seen[0] === sent, seen[1] === sent, answer === seen[1]], [true, false, false]);
    assertThrows(() => actor.ref.tell("see", () => {}), DOMException);
    class Box {
      value = 1;
      open(): number {
        return this.value;
      }
    }
    await actor.ref.ask("see", new Box());
    assertEquals([seen[2] instanceof Box, seen[2]], [false, { value: 1 }]);
    await assertRejects(() => actor.ref.ask("see", "function"), ActorStoppedError);
    assertInstanceOf(crashes[0], DOMException);
  } finally {
    cloneMessages(false);
  }
});

Deno.test("two actors that never stop talking leave timers their turn", async () => {
  type Ball = { ball: { ask: number; answer: null } };
  const hitsMax = 10_000_000;
  const other: { ref?: Ref<Ball> } = {};
  let hits = 0;
  const ping = spawn<Ball>("ping", {
    ball(n) {
      // Without turns for others nothing but this ends the game.
      if (++hits < hitsMax) other.ref?.tell("ball", n + 1);
    },
  });
  const pong = spawn<Ball>("pong", { ball: (n) => ping.ref.tell("ball", n + 1) });
  other.ref = pong.ref;
  ping.ref.tell("ball", 0);
  let timers = 0;
  while (timers < 5 || hits < 5 * TURN_MESSAGES_MAX) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    timers++;
  }
  await Promise.all([ping.stop(), pong.stop()]);
  assertEquals(hits < hitsMax, true, `${hits} hits before ${timers} timers`);
});

Deno.test("one actor with much to do leaves timers their turn and keeps the order", async () => {
  const seen: number[] = [];
  let seenAtTimer = -1;
  const actor = spawn<{ see: { ask: number; answer: null } }>("busy", {
    see(n, asker) {
      seen.push(n);
      asker.answer(null);
    },
  });
  const timer = new Promise<void>((resolve) =>
    setTimeout(() => {
      seenAtTimer = seen.length;
      resolve();
    }, 0)
  );
  const count = 100_000;
  for (let n = 0; n < count; n++) actor.ref.tell("see", n);
  await actor.ref.ask("see", count);
  await timer;
  assertEquals(seenAtTimer < count, true, `the timer fired after ${seenAtTimer} of ${count} messages`);
  assertEquals(seen.every((n, index) => n === index) && seen.length === count + 1, true);
  await actor.stop();
});

Deno.test("pipe brings the end of a promise back as a message", async () => {
  type WorkCalls = {
    start: { ask: Promise<number>; answer: string };
    ended: { ask: string; answer: null };
  };
  let waiting: { answer(value: string): void } | undefined;
  const actor: Actor<WorkCalls> = spawn<WorkCalls>("piper", {
    start(work, asker) {
      waiting = asker;
      pipe(
        work,
        (n) => actor.ref.tell("ended", `got ${n}`),
        (error) => actor.ref.tell("ended", error.message),
      );
    },
    ended: (text) => waiting?.answer(text),
  });
  assertEquals(await actor.ref.ask("start", Promise.resolve(7)), "got 7");
  assertEquals(await actor.ref.ask("start", Promise.reject(new Error("broken"))), "broken");
  assertEquals(await actor.ref.ask("start", Promise.reject("text")), "Thrown: text");
  await actor.stop();
});
