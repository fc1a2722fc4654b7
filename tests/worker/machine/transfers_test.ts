/**
 * What comes from peers, what is missing, and the ways in which transfers and requests have crossed before.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { BugError } from "../../../base/assert.ts";
import {
  acquire,
  arrived,
  busy,
  compute,
  dataAdded,
  failed,
  free,
  refresh,
  removeReplicas,
  removeWorker,
  rescheduled,
  started,
  steal,
  succeeded,
  TestWorker,
  timer,
  unreachable,
} from "../../support/machine.ts";

Deno.test("WorkerMachine asks a peer for many keys at once, up to a size, the most urgent first", () => {
  const worker = new TestWorker({ transferBytesMax: 100 }).given(acquire({ other: ["alice"] }));
  const at = (key: string, priority: number, nbytes: number) =>
    worker.given(
      compute(`of ${key}`, { priority: [priority], needs: { [key]: ["alice"] }, nbytes: { [key]: nbytes } }),
    );
  at("c", 3, 60).given();
  at("b", 2, 60);
  at("a", 1, 40);
  at("huge", 4, 1000);
  assertEquals(worker.when(arrived("alice", ["other"])), ["add-keys other", "fetch alice a,b"]);
  assertEquals(worker.when(arrived("alice", ["a", "b"]))[1], "fetch alice c");
  assertEquals(worker.when(arrived("alice", ["c"])).at(-1), "fetch alice huge", "always at least one key");
});

Deno.test("WorkerMachine asks no peer twice at a time and not more than ten peers", () => {
  const worker = new TestWorker();
  assertEquals(worker.when(acquire({ a: ["p0"] })), ["fetch p0 a"]);
  assertEquals(worker.when(acquire({ b: ["p0"] })), []);
  for (let i = 1; i < 12; i++) worker.given(acquire({ [`k${i}`]: [`p${i}`] }));
  assertEquals(worker.machine.counts(), { fetch: 3, flight: 10 });
  assertEquals(worker.when(arrived("p5", ["k5"])).length, 2);
  assertEquals(worker.machine.counts(), { fetch: 2, flight: 10, memory: 1 });
});

Deno.test("WorkerMachine fetches what its tasks need before what is only to be copied", () => {
  const worker = new TestWorker().given(acquire({ busy: ["alice"] }), acquire({ copy: ["alice"] }));
  worker.given(compute("x", { priority: [0], needs: { need: ["alice"] } }));
  worker.given(compute("y", { priority: [2], needs: { late: ["alice"] } }));
  assertEquals(worker.when(arrived("alice", ["busy"]))[1], "fetch alice need,copy,late");
});

Deno.test("WorkerMachine lets the most urgent dependent decide", () => {
  const worker = new TestWorker({ transferBytesMax: 10 }).given(acquire({ busy: ["alice"] }));
  worker.given(acquire({ a: ["alice"] }), compute("x", { priority: [0], needs: { b: ["alice"] } }));
  worker.given(compute("y", { priority: [-1], needs: { a: ["alice"] } }));
  assertEquals(worker.when(arrived("alice", ["busy"]))[1], "fetch alice a");
});

Deno.test("WorkerMachine prefers a holder on its own host, and else chooses by its seed", () => {
  const chosen = new Map<string, number>();
  for (let seed = 0; seed < 60; seed++) {
    const worker = new TestWorker({ address: "tcp://here:1", seed });
    const whoHas = { x: ["tcp://there:1", "tcp://here:2", "tcp://far:1", "tcp://here:3"] };
    const [text = ""] = worker.when(acquire(whoHas));
    assertEquals(
      new TestWorker({ address: "tcp://here:1", seed }).when(acquire(whoHas)),
      [text],
      "the same again",
    );
    chosen.set(text, (chosen.get(text) ?? 0) + 1);
  }
  assertEquals([...chosen.keys()].sort(), ["fetch tcp://here:2 x", "fetch tcp://here:3 x"]);
  assert(Math.min(...chosen.values()) > 10, "both get their share");
});

Deno.test("WorkerMachine turns to another holder at once when one is busy", () => {
  const worker = new TestWorker({ address: "tcp://here:1" }).given(
    acquire({ x: ["tcp://here:2", "tcp://there:1"] }),
  );
  assertEquals(worker.when(busy("tcp://here:2", "x")), [
    "set-timer peer-hold tcp://here:2 +150",
    "fetch tcp://there:1 x",
  ]);
  assertEquals(worker.when(busy("tcp://there:1", "x")), [
    "set-timer peer-hold tcp://there:1 +150",
    "request-refresh-who-has x",
  ]);
  assertEquals(worker.when(refresh({ x: ["tcp://here:2", "tcp://there:1"] })), [], "both are held");
  assertEquals(worker.when(timer("peer-hold tcp://there:1")), ["fetch tcp://there:1 x"]);
  assertEquals(worker.when(timer("peer-hold tcp://here:2")), []);
});

Deno.test("WorkerMachine turns to another holder at once when one cannot be reached, for all of its keys", () => {
  const worker = new TestWorker().given(acquire({ a: ["dead"] }));
  worker.given(acquire({ b: ["dead"], c: ["dead", "alive"] }));
  worker.given(arrived("alive", ["c"]));
  assertEquals(worker.state("b"), "fetch");
  assertEquals(worker.when(unreachable("dead", "a")), ["forget-peer dead", "set-timer find-missing +1000"]);
  assertEquals([worker.state("a"), worker.state("b"), worker.state("c")], ["missing", "missing", "memory"]);
  assertEquals(worker.when(refresh({ a: ["alive"] })), ["fetch alive a"]);
});

Deno.test("WorkerMachine asks for all missing keys every second while there are any", () => {
  const worker = new TestWorker();
  assertEquals(worker.when(acquire({ a: [], b: ["alice"], c: [] })), [
    "set-timer find-missing +1000",
    "fetch alice b",
  ]);
  assertEquals(worker.when(timer("find-missing")), [
    "request-refresh-who-has c,a",
    "set-timer find-missing +1000",
  ]);
  assertEquals(worker.when(refresh({ a: [], c: ["bob"] })), ["fetch bob c"]);
  assertEquals(worker.when(timer("find-missing")), [
    "request-refresh-who-has a",
    "set-timer find-missing +1000",
  ]);
  assertEquals(worker.when(free("a")), [], "the scheduler does not know it");
  assertEquals(worker.state("a"), "unknown");
});

Deno.test("WorkerMachine does not count itself among the holders", () => {
  const worker = new TestWorker().given(acquire({ a: ["me"] }));
  assertEquals(worker.state("a"), "missing");
});

Deno.test("racy case 1: cancelled while it runs, and asked for again", () => {
  const worker = new TestWorker().given(compute("x", { run: 1 }), started("x"));
  assertEquals(worker.when(free("x")), ["abort x#1"]);
  assertEquals(worker.when(compute("x", { run: 2 })), []);
  assertEquals(worker.when(succeeded("x", 1)), ["free x", "execute x#2"]);
});

Deno.test("racy case 2: freed in flight", () => {
  const worker = new TestWorker().given(acquire({ x: ["alice"] }), free("x"));
  assertEquals(worker.state("x"), "cancelled(flight)");
  assertEquals(worker.when(arrived("alice", ["x"])), ["free x"]);
  assertEquals(worker.machine.counts(), {});
});

Deno.test("racy case 3: stolen while it waits for its dependencies", () => {
  const worker = new TestWorker().given(
    compute("x", { needs: { a: ["alice"], b: ["bob"], c: ["alice"] } }),
    arrived("alice", ["c", "a"], ["a"]),
  );
  assertEquals([worker.state("a"), worker.state("b"), worker.state("c")], ["memory", "flight", "missing"]);
  assertEquals(worker.when(steal("x")), ["steal-response x waiting steal-1"]);
  assertEquals(
    ["x", "a", "b", "c"].map((key) => worker.state(key)),
    ["unknown", "memory", "cancelled(flight)", "unknown"],
  );
});

Deno.test("racy case 4: a peer dies before or after the scheduler says so", () => {
  for (const first of ["failure", "remove-worker"]) {
    const worker = new TestWorker().given(compute("x", { needs: { d: ["alice"] } }));
    const failure = unreachable("alice", "d");
    const removal = removeWorker("alice");
    worker.given(...first === "failure" ? [failure, removal] : [removal, failure]);
    assertEquals(worker.state("d"), "missing");
    assertEquals(worker.when(refresh({ d: ["bob"] })), ["fetch bob d"]);
    assertEquals(worker.when(arrived("bob", ["d"])), ["add-keys d", "execute x#1 with d"]);
  }
});

Deno.test("a key freed in flight and then to be computed counts as finished when it comes, else it is computed", () => {
  for (
    const [end, instructions] of [
      [arrived("alice", ["x"]), ["task-finished x#2"]],
      [arrived("alice", ["x"], []), ["execute x#2"]],
      [unreachable("alice", "x"), ["forget-peer alice", "execute x#2"]],
      [busy("alice", "x"), ["set-timer peer-hold alice +150", "execute x#2"]],
    ] as const
  ) {
    const worker = new TestWorker().given(acquire({ x: ["alice"] }), free("x"), compute("x", { run: 2 }));
    assertEquals(worker.when(end), [...instructions]);
  }
});

Deno.test("a key that runs, is freed and then wanted from a peer comes from its run or from the peer", () => {
  for (
    const [end, instructions] of [
      [succeeded("x"), ["add-keys x", "execute y#2 with x"]],
      [failed("x"), ["fetch alice x"]],
      [rescheduled("x"), ["fetch alice x"]],
    ] as const
  ) {
    const worker = new TestWorker().given(
      compute("x"),
      started("x"),
      free("x"),
      compute("y", { run: 2, needs: { x: ["alice"] } }),
    );
    assertEquals(worker.state("x"), "resumed(executing->fetch)");
    assertEquals(worker.when(end), [...instructions]);
  }
});

Deno.test("a task that fails while another waits for it is fetched from where the scheduler knows it", () => {
  const worker = new TestWorker().given(
    compute("x"),
    compute("y", { needs: { x: ["alice"] } }),
    started("x"),
  );
  assertEquals(worker.when(failed("x")), ["task-erred x#1", "fetch alice x"]);
});

Deno.test("values that are given count at once, unless something is under way for their key", () => {
  const worker = new TestWorker().given(compute("y", { needs: { x: [] } }));
  assertEquals(worker.when(dataAdded("x")), ["execute y#1 with x"]);
  const flying = new TestWorker().given(compute("y", { needs: { x: ["alice"] } }), dataAdded("x"));
  assertEquals(flying.state("x"), "flight");
  assertEquals(flying.when(unreachable("alice", "x")), ["forget-peer alice", "execute y#1 with x"]);
  const running = new TestWorker().given(compute("x"), started("x"), dataAdded("x"));
  assertEquals(running.when(failed("x")), ["task-finished x#1"], "nobody would believe an error");
});

Deno.test("a given value that is taken back while something is under way is freed at its end, once", () => {
  for (const takeBack of [free("x"), removeReplicas("x")]) {
    const worker = new TestWorker().given(acquire({ x: ["alice"] }), dataAdded("x"));
    assertEquals(worker.when(takeBack), ["release-worker-data x"]);
    const instructions = worker.when(unreachable("alice", "x"));
    assertEquals(instructions.filter((text) => text === "free x"), ["free x"]);
  }
});

Deno.test("one event says add-keys and free once, for all keys", () => {
  const worker = new TestWorker().given(acquire({ a: ["p"], b: ["p"], c: ["p"] }));
  assertEquals(worker.when(arrived("p", ["c", "b", "a"])), ["add-keys c,b,a"]);
  assertEquals(worker.when(free("a", "b")), ["release-worker-data a", "release-worker-data b", "free a,b"]);
});

Deno.test("keys freed together with what needs them leave nothing behind, in either order", () => {
  for (const keys of [["d", "x"], ["x", "d"]]) {
    const worker = new TestWorker().given(
      compute("x", { needs: { d: ["alice"], e: ["bob"] } }),
      arrived("alice", ["d"]),
    );
    worker.given(free(...keys), arrived("bob", ["e"]));
    assertEquals(worker.machine.counts(), {});
  }
});

Deno.test("messages carry the stimulus that caused them, else one of their own", () => {
  const worker = new TestWorker().given({ ...compute("x"), at: 1500 }, { ...started("x"), at: 2000 });
  const ids = (instructions: readonly unknown[]) =>
    JSON.stringify(instructions).match(/"stimulusId":"[^"]*"/g);
  assertEquals(ids(worker.handle({ ...succeeded("x"), at: 2500 })), ['"stimulusId":"task-finished-2.5"']);
  assertEquals(ids(worker.handle(compute("x", { run: 2, stimulusId: "again" }))), ['"stimulusId":"again"']);
  assertEquals(ids(worker.handle(free("x"))), ['"stimulusId":"free-1"']);
});

Deno.test("an impossible event throws an error with the story of the key", () => {
  const worker = new TestWorker().given(compute("x"), started("x"), succeeded("x"));
  const error = assertThrows(() => worker.when(succeeded("x")), BugError, "No executor has run 1");
  assert(error.message.includes("executing -> memory by execute-succeeded"));
  assertEquals(worker.machine.story("x").map(({ from, to }) => `${from} -> ${to}`), [
    "released -> ready",
    "ready -> ready(placed)",
    "ready(placed) -> executing",
    "executing -> memory",
  ]);
});

Deno.test("the story is bounded", () => {
  const worker = new TestWorker({ storyEntriesMax: 10, validate: undefined });
  for (let run = 1; run < 50; run++) {
    worker.given(compute("x", { run }), started("x", run), succeeded("x", run), free("x"));
  }
  const story = worker.machine.story("x");
  assertEquals(story.length, 10);
  assertEquals(story.map(({ at }) => at), story.map(({ at }) => at).sort((a, b) => a - b));
  assertEquals(story.at(-1)?.to, "forgotten");
});
