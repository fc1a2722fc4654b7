/**
 * What went wrong in dask's own worker once, by the numbers of its issues: given, when, then.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import {
  acquire,
  arrived,
  busy,
  cancelCompute,
  compute,
  failed,
  free,
  refresh,
  removeReplicas,
  removeWorker,
  rescheduled,
  SPEC,
  started,
  status,
  steal,
  succeeded,
  TestWorker,
  timer,
  unreachable,
  type Untimed,
  withdrawn,
  X_IN_STATE,
} from "../../support/machine.ts";

Deno.test("#6159: a fetch is cancelled and its key is to be computed, stolen meanwhile or not: it is computed", () => {
  for (const meanwhile of [[], [steal("x")]]) {
    const worker = new TestWorker().given(compute("y", { needs: { x: ["alice"] } }), free("y"));
    worker.given(compute("x", { run: 2 }), ...meanwhile);
    assertEquals(worker.state("x"), "resumed(flight->waiting)");
    assertEquals(worker.when(unreachable("alice", "x")), ["forget-peer alice", "execute x#2"]);
    worker.given(started("x", 2));
    assertEquals(worker.when(succeeded("x", 2)), ["task-finished x#2"]);
  }
});

Deno.test("an actor is not stolen, as the scheduler forgets then whose it is: it says that it runs, and stays", () => {
  const spec = { ...SPEC, stateful: true as const };
  const waiting = new TestWorker().given(compute("x", { spec, needs: { d: ["alice"] } }));
  assertEquals(waiting.when(steal("x")), ["steal-response x executing steal-1"]);
  assertEquals(waiting.state("x"), "waiting");
  const placed = new TestWorker().given(compute("x", { spec }));
  assertEquals(placed.when(steal("x")), ["steal-response x executing steal-1"]);
  placed.given(started("x"));
  assertEquals(placed.when(succeeded("x")), ["task-finished x#1"]);
});

Deno.test("#6159: whoever waits for a key of which a fetch was cancelled gets it from its computation", () => {
  const worker = new TestWorker().given(acquire({ x: ["alice"] }), free("x"), compute("x", { run: 2 }));
  worker.given(compute("z", { run: 3, needs: { x: [] } }), arrived("alice", ["x"], []), started("x", 2));
  assertEquals(worker.when(succeeded("x", 2)), ["task-finished x#2", "execute z#3 with x"]);
});

for (
  const [issue, how, end] of [["#6689", "fails", failed], [
    "#6673",
    "asks to go elsewhere",
    rescheduled,
  ]] as const
) {
  Deno.test(`${issue}: a run is freed, its key is wanted from a peer, and the old run ${how}: the key is fetched`, () => {
    const worker = new TestWorker().given(compute("x"), started("x"), free("x"));
    worker.given(compute("y", { run: 2, needs: { x: ["alice"] } }));
    assertEquals(worker.state("x"), "resumed(executing->fetch)");
    assertEquals(worker.when(end("x")), ["fetch alice x"], "and nothing is said of the old run");
    assertEquals(worker.when(arrived("alice", ["x"])), ["add-keys x", "execute y#2 with x"]);
  });
}

Deno.test("#5426, #5157, #5786, #4929: no key stays in flight after a transfer that failed, however it failed", () => {
  const ends: readonly (readonly [Untimed, after: string])[] = [
    [unreachable("alice", "b", "a"), "missing"],
    [arrived("alice", ["b", "a"], []), "missing"],
    [busy("alice", "b", "a"), "fetch"],
  ];
  for (const [end, after] of ends) {
    const worker = new TestWorker().given(acquire({ busy: ["alice"] }));
    worker.given(compute("x", { needs: { a: ["alice"], b: ["alice"] } }), arrived("alice", ["busy"]));
    assertEquals([worker.state("a"), worker.state("b")], ["flight", "flight"]);
    worker.given(end);
    assertEquals([worker.state("a"), worker.state("b")], [after, after]);
    const asked = worker.when(refresh({ a: ["bob"], b: ["carol"] }));
    assertEquals(asked.sort(), ["fetch bob a", "fetch carol b"]);
    assertEquals(worker.when(arrived("carol", ["b"])), ["add-keys b"]);
    assertEquals(worker.when(arrived("bob", ["a"])), ["add-keys a", "execute x#1 with a,b"]);
  }
});

Deno.test("#4929: of what was asked in one transfer only a part comes, and a part is freed meanwhile", () => {
  const worker = new TestWorker().given(acquire({ busy: ["alice"] }));
  worker.given(acquire({ a: ["alice"], b: ["alice"], c: ["alice", "bob"] }), acquire({ hold: ["bob"] }));
  worker.given(arrived("bob", ["c"]), arrived("alice", ["busy"]));
  assertEquals(["a", "b", "hold"].map((key) => worker.state(key)), ["flight", "flight", "flight"]);
  worker.given(free("a"));
  assertEquals(worker.when(arrived("alice", ["b", "a"], ["a"])), ["set-timer find-missing +1000", "free a"]);
  assertEquals([worker.state("a"), worker.state("b")], ["unknown", "missing"]);
});

Deno.test("#5951: a peer that cannot read its values loses nobody's: each key comes from its other holder", () => {
  const worker = new TestWorker().given(acquire({ busy: ["alice"] }), acquire({ hold: ["bob"] }));
  worker.given(
    compute("x", { needs: { a: ["alice", "bob"], b: ["alice", "bob"] } }),
    arrived("alice", ["busy"]),
  );
  assertEquals(worker.when(unreachable("alice", "b", "a")), ["forget-peer alice"]);
  assertEquals(worker.when(arrived("bob", ["hold"])), ["add-keys hold", "fetch bob a,b"]);
});

Deno.test("#5497, #4784, #5503: an error is forgotten with its key, and the next computation runs", () => {
  const worker = new TestWorker().given(compute("x"), started("x"));
  assertEquals(worker.when(failed("x")), ["task-erred x#1"]);
  worker.given(free("x"));
  assertEquals(worker.machine.counts(), {});
  assertEquals(worker.when(compute("x", { run: 2 })), ["execute x#2"]);
  const again = new TestWorker().given(compute("x"), started("x"), failed("x"));
  assertEquals(again.when(compute("x", { run: 2 })), ["execute x#2"], "even if it was not freed");
  const wanted = new TestWorker().given(compute("x"), started("x"), failed("x"));
  assertEquals(wanted.when(compute("y", { run: 2, needs: { x: ["alice"] } })), ["fetch alice x"]);
});

Deno.test("#5482, #5525: a compute-task is taken whatever state its key and its dependency are in", () => {
  for (const [state, begin] of Object.entries(X_IN_STATE)) {
    for (const key of ["x", "n"]) {
      const worker = begin();
      const whoHas = new Map([[key === "x" ? "other" : "x", ["bob"]]]);
      const task = compute(key, { run: 9 });
      assert(task.type === "compute-task");
      worker.given({ ...task, whoHas, nbytes: new Map() }); // not even the sizes are known
      assert(worker.state(key) !== "unknown", state);
    }
  }
});

Deno.test("#6790, #7574: a peer that was removed is waited for no longer: its transfer is given up", () => {
  const worker = new TestWorker().given(acquire({ hold: ["bob"] }));
  worker.given(compute("x", { needs: { d: ["alice", "bob"] } }));
  assertEquals(worker.state("d"), "flight");
  assertEquals(worker.when(removeWorker("alice")), ["forget-peer alice"]);
  worker.given(arrived("bob", ["hold"]));
  assertEquals(worker.when(unreachable("alice", "d")), ["fetch bob d"], "at once, from the other holder");
});

Deno.test("#6790: a peer that comes back under its address is not blamed for its predecessor's transfer", () => {
  for (
    const [end, instructions] of [
      [unreachable("alice", "d"), ["fetch alice e,d"]],
      [arrived("alice", ["d"], []), ["fetch alice e,d"]],
      [arrived("alice", ["d"]), ["add-keys d", "fetch alice e"]],
    ] as const
  ) {
    const worker = new TestWorker().given(acquire({ d: ["alice"] }));
    assertEquals(worker.when(removeWorker("alice")), ["forget-peer alice"]);
    assertEquals(worker.when(acquire({ d: ["alice"], e: ["alice"] })), [], "one transfer at a time");
    assertEquals(worker.when(end), [...instructions]);
    const [last = ""] = worker.when(unreachable("alice", ...instructions.at(-1)!.split(" ")[2]!.split(",")));
    assertEquals(last, "forget-peer alice", "its own failure counts");
  }
});

Deno.test("#6244: who is said to have a key that it waits for says that it does not", () => {
  const worker = new TestWorker().given(compute("x", { needs: { d: ["retiring"] } }));
  worker.given(unreachable("retiring", "d"));
  assertEquals(worker.state("d"), "missing");
  assertEquals(worker.when(refresh({ d: ["me"] })), ["release-worker-data d"]);
  assertEquals(worker.when(refresh({ d: ["me", "bob"] })), ["release-worker-data d", "fetch bob d"]);
  worker.given(arrived("bob", ["d"]));
  assertEquals(worker.when(refresh({ d: ["me", "bob"] })), [], "now it has it");
});

Deno.test("#6244, #8522: a worker that retires ends what runs, keeps what it holds, and begins nothing", () => {
  const worker = new TestWorker().given(compute("a"), started("a"), compute("b"), acquire({ z: ["alice"] }));
  assertEquals(worker.when(status("closing_gracefully")), ["withdraw b#1"]);
  assertEquals(worker.when(steal("b")), [], "b is on its way back already");
  assertEquals(worker.when(withdrawn("b")), ["steal-response b ready steal-1"]);
  assertEquals(worker.when(arrived("alice", ["z"])), ["add-keys z"], "what was asked for is taken");
  assertEquals(worker.when(succeeded("a")), ["task-finished a#1"]);
  assertEquals(worker.when(acquire({ y: ["alice"] })), []);
  assertEquals(worker.when(compute("c")), []);
  assertEquals(worker.when(removeReplicas("z", "a")).slice(0, 2), [
    "release-worker-data z",
    "release-worker-data a",
  ]);
  assertEquals(
    worker.when(status("running")),
    ["fetch alice y", "execute c#1"],
    "nobody could take its data",
  );
});

Deno.test("#3892, #5379: each of several steal requests is answered once, with its own stimulus", () => {
  const worker = new TestWorker().given(compute("x"), compute("q", { needs: { d: [] } }));
  worker.given(steal("x", "s1"), steal("x", "s2"));
  assertEquals(worker.when(steal("q", "s3")), ["steal-response q waiting s3"]);
  assertEquals(worker.when(steal("q", "s4")), ["steal-response q null s4"], "it is given away");
  assertEquals(worker.when(withdrawn("x")), ["steal-response x ready s1", "steal-response x ready s2"]);
  assertEquals(worker.machine.counts(), {});
});

Deno.test("#5128: a task that is freed while it is stolen is refused to the thief and reports nothing", () => {
  for (const end of [[withdrawn("x")], [started("x"), succeeded("x")], [started("x"), failed("x")]]) {
    const worker = new TestWorker().given(compute("x"), steal("x"));
    const said = [free("x"), ...end].flatMap((event) => worker.when(event));
    assertEquals(said.filter((text) => text.startsWith("steal-response")), [
      "steal-response x cancelled steal-1",
    ]);
    assertEquals(said.filter((text) => text.startsWith("task-")), []);
    assertEquals(worker.machine.counts(), {});
  }
});

Deno.test("#5379: a stolen task that is asked for again before it was given up stays, and answers its new run id", () => {
  const worker = new TestWorker().given(compute("x", { run: 1 }), steal("x"));
  assertEquals(worker.when(compute("x", { run: 2 })), ["steal-response x executing steal-1"]);
  assertEquals(worker.when(withdrawn("x", 1)), ["execute x#2"]);
  worker.given(started("x", 2));
  assertEquals(worker.when(succeeded("x", 2)), ["task-finished x#2"]);
});

Deno.test("#7463, #2164: a result belongs to the run that was asked for", () => {
  const freed = new TestWorker().given(
    compute("x", { run: 1 }),
    started("x"),
    free("x"),
    compute("x", { run: 2 }),
  );
  assertEquals(freed.when(succeeded("x", 1)), ["free x", "execute x#2"], "the old result is thrown away");
  freed.given(started("x", 2));
  assertEquals(freed.when(succeeded("x", 2)), ["task-finished x#2"]);
  assertEquals(
    freed.when(compute("x", { run: 3 })),
    ["task-finished x#3"],
    "a held key answers the new run id",
  );
  const again = new TestWorker().given(compute("x", { run: 1 }), started("x"), compute("x", { run: 2 }));
  assertEquals(
    again.when(succeeded("x", 1)),
    ["task-finished x#1"],
    "not a run id that it did not run under",
  );
});

Deno.test("#6248: a copy is asked for of a key that is to be computed here, in every state of that", () => {
  for (
    const state of ["waiting", "ready", "ready(placed)", "constrained", "constrained(placed)", "executing"]
  ) {
    const worker = X_IN_STATE[state]!();
    assertEquals(worker.when(acquire({ x: ["bob"] })), [], state);
    assertEquals(worker.state("x"), state);
    worker.given(removeWorker("bob"), free("x"));
    assertEquals(/unknown|cancelled/.test(worker.state("x")), true, "the request does not outlive the task");
  }
  const resumed = X_IN_STATE["resumed(executing->waiting)"]!().given(acquire({ x: ["bob"] }));
  assertEquals(resumed.when(failed("x")), ["execute x#2"], "it is computed, not fetched");
});

Deno.test("#6248: a copy is asked for and then the key is to be computed here: the computation answers", () => {
  const missing = new TestWorker().given(acquire({ x: [] }));
  assertEquals(missing.when(compute("x", { run: 2 })), ["execute x#2"]);
  missing.given(steal("x"), withdrawn("x", 2));
  assertEquals(missing.state("x"), "unknown", "the request for a copy does not outlive it");
  const cancelled = new TestWorker().given(compute("x"), started("x"), free("x"), acquire({ x: ["bob"] }));
  cancelled.given(compute("x", { run: 2 }));
  assertEquals(cancelled.state("x"), "resumed(executing->waiting)");
  assertEquals(cancelled.when(succeeded("x", 1)), ["free x", "execute x#2"]);
});

Deno.test("#7348: a task that waits in the queue, is cancelled and is asked for again runs once", () => {
  for (const takeBack of [free("x"), cancelCompute("x")]) {
    const worker = new TestWorker().given(
      compute("a"),
      started("a"),
      compute("b"),
      compute("x", { run: 1 }),
      takeBack,
    );
    assertEquals(worker.state("x"), "unknown");
    worker.given(compute("x", { run: 2 }));
    assertEquals(worker.when(succeeded("a")), ["task-finished a#1", "execute x#2"]);
    worker.given(started("b"));
    assertEquals(worker.when(succeeded("b")), ["task-finished b#1"]);
  }
});

Deno.test("#6878: a call that is cancelled while it is prepared either gives way or is aborted when it begins", () => {
  const intime = new TestWorker().given(compute("x", { needs: { d: ["alice"] } }), arrived("alice", ["d"]));
  assertEquals(intime.when(free("x", "d")), ["withdraw x#1", "release-worker-data d", "free d"]);
  assertEquals(intime.when(withdrawn("x")), []);
  assertEquals(intime.machine.counts(), {});
  const late = new TestWorker().given(compute("x"), free("x"));
  assertEquals(late.when(started("x")), ["abort x#1"]);
  assertEquals(late.when(failed("x")), []);
  const unreadable = new TestWorker().given(compute("x"), free("x"));
  assertEquals(unreadable.when(failed("x")), [], "its inputs were gone: nobody is told");
  assertEquals(unreadable.machine.counts(), {});
});

Deno.test("#8703: peers that are busy for ever are asked again and again, and no key is forgotten meanwhile", () => {
  const worker = new TestWorker().given(compute("x", { needs: { d: ["alice"] } }));
  for (let i = 0; i < 3; i++) {
    assertEquals(worker.when(busy("alice", "d")), [
      "set-timer peer-hold alice +150",
      "request-refresh-who-has d",
    ]);
    assertEquals(worker.when(refresh({ d: ["alice"] })), []);
    assertEquals(worker.when(timer("peer-hold alice")), ["fetch alice d"]);
  }
  assertEquals(worker.when(arrived("alice", ["d"])), ["add-keys d", "execute x#1 with d"]);
});
