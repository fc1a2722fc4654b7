import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { ClientEvent, SubmittedTask } from "../../../client/machine/events.ts";
import type { Instruction, Notice, ToScheduler } from "../../../client/machine/instructions.ts";
import { ClientMachine, NO_WORKERS_MS, RELEASES_MS } from "../../../client/machine/machine.ts";
import { cutGraph, groupByAnnotations } from "../../../client/machine/graph_groups.ts";

const ID = "Client-1";

function task(key: string, dependencies: string[] = [], signature = ""): SubmittedTask {
  const annotations = signature === "" ? null : { workers: [signature] };
  return {
    key,
    function: "deno:op/f",
    payload: new Uint8Array(),
    dependencies,
    order: 0,
    annotations,
    signature,
  };
}

function submit(tasks: SubmittedTask[], wants: Record<string, number>): ClientEvent {
  return {
    type: "submitted",
    tasks,
    wants: Object.entries(wants).map(([key, want]) => ({ key, want })),
  };
}

/** A machine with a stream, two TypeScript workers, and a graph form that is known already. */
function connected(): ClientMachine {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1", "tcp://b:1"], python: [] }, {
    type: "connected",
  }]);
  machine.handle([submit([task("first")], { first: 1_000 })]);
  machine.handle([{ type: "graph-handled", stimulusId: `reconstruct-${ID}-1`, status: "OK" }]);
  machine.handle([{ type: "released", key: "first", want: 1_000 }, { type: "timer", name: "releases" }]);
  return machine;
}

function sent(instructions: readonly Instruction[]): readonly ToScheduler[] {
  return instructions.flatMap((one) => one.type === "send" ? one.messages : []);
}
function notices(instructions: readonly Instruction[]): readonly Notice[] {
  return instructions.flatMap((one) => one.type === "notify" ? one.notices : []);
}
function ops(instructions: readonly Instruction[]): string[] {
  return sent(instructions).map((message) => {
    if (message.op === "update-graph") {
      return `graph ${message.tasks.map(({ key }) => key)} for ${message.keys}`;
    }
    if (message.op === "client-releases-keys") return `release ${message.keys}`;
    if (message.op === "client-desires-keys") return `desire ${message.keys} as ${message.client ?? "me"}`;
    if (message.op === "report-key") return `report ${message.key}`;
    return message.op;
  });
}
/** The time for gathering releases is over. */
const RELEASES: ClientEvent = { type: "timer", name: "releases" };
const memory = (key: string, holder: string | null = null): ClientEvent => ({
  type: "key-in-memory",
  key,
  holder,
});
const erred = (key: string): ClientEvent => ({ type: "task-erred", key, exception: "boom", traceback: null });

Deno.test("ClientMachine keeps what is submitted before the connection stands, and sends it in order", () => {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  assertEquals(
    machine.handle([submit([task("a")], { a: 1 }), { type: "released", key: "a", want: 1 }, {
      type: "desired",
      key: "x",
      want: 2,
    }]).filter(({ type }) => type !== "set-timer"),
    [],
  );
  assertEquals(machine.handle([submit([task("b", ["x"])], { b: 3 })]), []);
  assertEquals(ops(machine.handle([{ type: "connected" }, RELEASES])), [
    "subscribe-topic",
    "graph a for a",
    "desire x as me",
    "report x",
    "graph b for b",
    "release a",
  ]);
});

Deno.test("ClientMachine merges the submissions of one turn into one graph, with priorities in their order", () => {
  const machine = connected();
  const messages = sent(
    machine.handle([submit([task("a")], { a: 1 }), submit([task("b"), task("c", ["b"])], { c: 2 })]),
  );
  assertEquals(messages.length, 1);
  const [graph] = messages;
  assert(graph?.op === "update-graph");
  assertEquals(graph.keys, ["a", "c"]);
  assertEquals(graph.tasks.map(({ key }) => key), ["a", "b", "c"]);
  assertEquals(graph.annotations, null);
});

Deno.test("ClientMachine keeps a graph on keys of others apart, that its fate is not shared", () => {
  const machine = connected();
  assertEquals(
    ops(
      machine.handle([
        submit([task("a")], { a: 1 }),
        submit([task("b", ["foreign"])], { b: 2 }),
        submit([task("c")], { c: 3 }),
      ]),
    ),
    ["graph a for a", "graph b for b", "graph c for c"],
  );
});

Deno.test("ClientMachine releases a key behind the graph that uses it, and only its own want", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 })]);
  assertEquals(
    ops(
      machine.handle([
        submit([task("y", ["x"])], { y: 2 }),
        { type: "released", key: "x", want: 1 },
        RELEASES,
      ]),
    ),
    ["graph y for y", "release x"],
  );
  assertEquals(ops(machine.handle([{ type: "released", key: "y", want: 99 }, RELEASES])), []);
  assertEquals(ops(machine.handle([{ type: "released", key: "y", want: 2 }, RELEASES])), ["release y"]);
  assertEquals(machine.counts().kept, 0);
});

Deno.test("ClientMachine tells late news of an earlier life of a key apart", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 })]);
  machine.handle([{ type: "released", key: "x", want: 1 }]);
  assertEquals(notices(machine.handle([memory("x")])), []);
  machine.handle([submit([task("x")], { x: 2 })]);
  assertEquals(notices(machine.handle([memory("x")])), [
    { type: "status", key: "x", want: 2, status: "finished", reason: null },
  ]);
  assertEquals(notices(machine.handle([memory("x")])), []);
});

Deno.test("ClientMachine gathers releases, and tells them before one of their keys is wanted again", () => {
  const machine = connected();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 })]);
  const first = machine.handle([{ type: "released", key: "x", want: 1 }]);
  assertEquals(first, [{ type: "set-timer", name: "releases", delayMs: RELEASES_MS }]);
  assertEquals(machine.handle([{ type: "released", key: "y", want: 2 }]), []);
  assertEquals(ops(machine.handle([submit([task("z")], { z: 3 })])), ["graph z for z"]);
  assertEquals(ops(machine.handle([submit([task("y")], { y: 4 })])), ["release x,y", "graph y for y"]);
  assertEquals(ops(machine.handle([RELEASES])), []);
});

Deno.test("ClientMachine fetches wanted values once they are in memory, all of a turn in one go", () => {
  const machine = connected();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 })]);
  machine.handle([{ type: "value-wanted", key: "x", want: 1 }, { type: "value-wanted", key: "y", want: 2 }]);
  const fetches = machine.handle([memory("x", "tcp://a:1"), memory("y")]).filter(({ type }) =>
    type === "fetch"
  );
  assertEquals(fetches, [{
    type: "fetch",
    wanted: [{ key: "x", holder: "tcp://a:1" }, { key: "y", holder: null }],
    delayMs: 0,
  }]);
  assertEquals(notices(machine.handle([{ type: "fetched", key: "x" }])), [{
    type: "value",
    key: "x",
    want: 1,
  }]);
});

Deno.test("ClientMachine asks again, later and later, for a value that nobody had", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 }), { type: "value-wanted", key: "x", want: 1 }]);
  const delays: number[] = [];
  for (let i = 0; i < 8; i++) {
    for (const one of machine.handle([memory("x", "tcp://a:1")])) {
      if (one.type === "fetch") delays.push(one.delayMs);
    }
    assertEquals(ops(machine.handle([{ type: "fetch-missed", key: "x" }])), ["report x"]);
  }
  assertEquals(delays, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
});

Deno.test("ClientMachine does not bring a value that nobody waits for any more", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 }), { type: "value-wanted", key: "x", want: 1 }]);
  machine.handle([{ type: "value-unwanted", key: "x", want: 1 }]);
  assertEquals(machine.handle([memory("x")]).filter(({ type }) => type === "fetch"), []);
});

Deno.test("ClientMachine cancels a task with all held ones that depend on it, through those nobody holds", () => {
  const machine = connected();
  machine.handle([
    submit([task("x"), task("mid", ["x"]), task("z", ["mid"]), task("other")], { x: 1, z: 2, other: 3 }),
  ]);
  const after = machine.handle([{ type: "cancelled", key: "x", want: 1, reason: "enough" }]);
  assertEquals(ops(after), ["release x,z"]);
  assertEquals(
    notices(after).map((one) => one.type === "status" ? [one.key, one.status, one.reason] : null),
    [
      ["x", "cancelled", "enough"],
      ["z", "cancelled", 'it depends on "x", which was cancelled'],
    ],
  );
  assertEquals(machine.counts(), { kept: 1, held: 1, pending: 1, queued: 0 });
});

Deno.test("ClientMachine brings lost results back to pending, and gives up data that cannot be computed", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 }), { type: "scattered", key: "d", want: 2 }, memory("x")]);
  const lost = machine.handle([{ type: "lost-data", key: "x" }, { type: "lost-data", key: "d" }]);
  assertEquals(ops(lost), ["report x", "report d"]);
  assertEquals(notices(lost).map((one) => one.type === "status" ? `${one.key} ${one.status}` : ""), [
    "x pending",
    "d pending",
  ]);
  const gone = notices(machine.handle([{ type: "cancelled-keys", keys: ["d"], reason: null }]));
  assertEquals(gone.map((one) => one.type === "status" ? one.status : ""), ["lost"]);
  assertEquals(notices(machine.handle([memory("x")])).length, 1);
});

Deno.test("ClientMachine takes a task that is retried for pending, and a stale failure for nothing", () => {
  const machine = connected();
  machine.handle([submit([task("x")], { x: 1 }), erred("x")]);
  const retried = machine.handle([{ type: "retried", key: "x", want: 1 }]);
  assert(retried.some(({ type }) => type === "retry"));
  assertEquals(notices(machine.handle([erred("x")])), []);
  machine.handle([{ type: "task-retried", key: "x" }]);
  assertEquals(notices(machine.handle([erred("x")])).map(({ type }) => type), ["failed"]);
});

Deno.test("ClientMachine names with a retry the held tasks that depend on it, unless they are finished", () => {
  const machine = connected();
  const graph = [
    task("a"),
    task("b"),
    task("other"),
    task("m", ["a"]),
    task("d", ["m", "b"]),
    task("e", ["a"]),
  ];
  machine.handle([
    submit(graph, { a: 1, d: 2, other: 3, e: 4 }),
    ...["a", "d", "other"].map(erred),
  ]);
  const retried = machine.handle([{ type: "retried", key: "a", want: 1 }]);
  assertEquals(retried.filter(({ type }) => type === "retry"), [
    { type: "retry", keys: ["a", "d", "e"], marked: ["a"] },
  ]);
  // It is the task that failed which is named first, also when another asks for it that nobody else holds.
  const back = ["a", "d"].map((key) => ({ type: "task-retried", key } as const));
  machine.handle([...back, memory("e"), erred("d")]);
  const again = machine.handle([{ type: "retried", key: "d", want: 2, target: "b" }]);
  assertEquals(again.filter(({ type }) => type === "retry"), [
    { type: "retry", keys: ["b", "d"], marked: ["d"] },
  ]);
});

Deno.test("ClientMachine takes news of a failure that is being repeated already for old", () => {
  const machine = connected();
  // A dependent hears of the failure, and where it came from, before the task itself does.
  machine.handle([submit([task("a"), task("d", ["a"])], { a: 1, d: 2 }), erred("d")]);
  const retried = machine.handle([{ type: "retried", key: "d", want: 2, target: "a" }]);
  assertEquals(retried.filter(({ type }) => type === "retry"), [
    { type: "retry", keys: ["a", "d"], marked: ["d", "a"] },
  ]);
  assertEquals(notices(machine.handle([erred("a")])), []);
  machine.handle([{ type: "task-retried", key: "a" }, { type: "task-retried", key: "d" }]);
  assertEquals(notices(machine.handle([erred("a")])).map(({ type }) => type), ["failed"]);
});

Deno.test("ClientMachine refused a retry: asks how things stand", () => {
  const machine = connected();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 }), erred("x")]);
  machine.handle([{ type: "retried", key: "x", want: 1 }]);
  assertEquals(ops(machine.handle([{ type: "retry-refused", keys: ["x", "y", "gone"] }])), ["report x"]);
  assertEquals(notices(machine.handle([erred("x")])).map(({ type }) => type), ["failed"]);
});

Deno.test("ClientMachine voids everything when the scheduler was restarted, without asking it for anything", () => {
  const machine = connected();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 })]);
  const after = machine.handle([{ type: "restart" }]);
  assertEquals(ops(after), []);
  assertEquals(notices(after).length, 2);
  assertEquals(machine.counts().kept, 0);
});

Deno.test("ClientMachine gives a detached task to nobody, unless it is finished", () => {
  const machine = connected();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 }), memory("y")]);
  assertEquals(
    ops(machine.handle([{ type: "detached", key: "x", want: 1 }, { type: "detached", key: "y", want: 2 }])),
    ["desire x as fire-and-forget"],
  );
});

// --- The form of graphs ---

Deno.test("ClientMachine sends its first graph without waiting, and asks the event log whether it was understood", () => {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  machine.handle([{ type: "connected" }, { type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  assertEquals(ops(machine.handle([submit([task("x")], { x: 1 })])), ["subscribe-topic", "graph x for x"]);
  assertEquals(ops(machine.handle([submit([task("y")], { y: 2 })])), ["graph y for y"]);
  const known = machine.handle([{ type: "graph-handled", stimulusId: `reconstruct-${ID}-1`, status: "OK" }]);
  assertEquals(ops(known), ["unsubscribe-topic"]);
});

Deno.test("ClientMachine sends everything again in the other form when the first was not understood", () => {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  machine.handle([{ type: "connected" }, { type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  machine.handle([submit([task("x")], { x: 1 })]);
  machine.handle([submit([task("y", ["x"])], { y: 2 }), { type: "released", key: "x", want: 1 }, RELEASES]);
  const again = machine.handle([
    { type: "graph-handled", stimulusId: `reconstruct-${ID}-1`, status: "error" },
    erred("x"),
    { type: "graph-handled", stimulusId: `reconstruct-${ID}-2`, status: "error" },
    erred("y"),
  ]);
  assertEquals(ops(again), ["subscribe-topic", "graph x for x", "graph y for y", "release x"]);
  assert(sent(again).every((message) => message.op !== "update-graph" || message.form === "newobj"));
  assertEquals(notices(again), []);
  const known = machine.handle([
    { type: "graph-handled", stimulusId: `newobj-${ID}-3`, status: "OK" },
    erred("y"),
  ]);
  assertEquals(ops(known), ["unsubscribe-topic"]);
  assertEquals(notices(known).map((one) => one.type === "failed" && !one.formRefused), [true]);
});

Deno.test("ClientMachine says when the scheduler understands neither form", () => {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  machine.handle([{ type: "connected" }, { type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  machine.handle([submit([task("x")], { x: 1 })]);
  machine.handle([{ type: "graph-handled", stimulusId: `reconstruct-${ID}-1`, status: "error" }, erred("x")]);
  const end = machine.handle([
    { type: "graph-handled", stimulusId: `newobj-${ID}-2`, status: "error" },
    erred("x"),
  ]);
  assertEquals(notices(end).map((one) => one.type === "failed" && one.formRefused), [true]);
});

Deno.test("ClientMachine takes a result for proof that its graph was understood", () => {
  const machine = new ClientMachine({ clientId: ID, validate: true });
  machine.handle([{ type: "connected" }, { type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  machine.handle([submit([task("x")], { x: 1 })]);
  assertEquals(ops(machine.handle([memory("x")])), ["unsubscribe-topic"]);
});

// --- Where tasks go ---

Deno.test("ClientMachine restricts tasks to TypeScript workers only while others are there", () => {
  const machine = connected();
  const annotations = (events: ClientEvent[]) =>
    sent(machine.handle(events)).map((message) =>
      message.op === "update-graph" ? message.annotations : undefined
    );
  assertEquals(annotations([submit([task("a")], { a: 1 })]), [null]);
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: ["tcp://p:1"] }]);
  assertEquals(annotations([submit([task("b")], { b: 2 })]), [{ workers: ["tcp://a:1"] }]);
  assertEquals(annotations([submit([task("c", [], "mine")], { c: 3 })]), [{ workers: ["mine"] }]);
});

Deno.test("ClientMachine holds tasks back while only Python works, in order with all that follows", () => {
  const machine = connected();
  machine.handle([{ type: "workers-changed", typescript: [], python: ["tcp://p:1", "tcp://p:2"] }]);
  const held = machine.handle([
    submit([task("a")], { a: 1 }),
    { type: "released", key: "a", want: 1 },
    RELEASES,
  ]);
  assertEquals(ops(held), []);
  assertEquals(
    ops(
      machine.handle([{
        type: "workers-changed",
        typescript: ["tcp://a:1"],
        python: ["tcp://p:1", "tcp://p:2"],
      }]),
    ),
    ["graph a for a", "release a"],
  );
});

Deno.test("ClientMachine always restricts actors, apart from tasks, and keeps them for the first worker", () => {
  const machine = connected();
  const actor = (key: string): SubmittedTask => ({
    ...task(key, [], "actor "),
    annotations: null,
    actor: true,
  });
  const routes = (events: ClientEvent[]) =>
    sent(machine.handle(events)).flatMap((message) =>
      message.op === "update-graph" ? [[message.tasks.map(({ key }) => key).join(), message.annotations]] : []
    );
  const workers = ["tcp://a:1", "tcp://b:1"];
  assertEquals(
    routes([submit([task("t")], { t: 1 }), submit([actor("x")], { x: 2 }), submit([actor("y")], { y: 3 })]),
    [["t", null], ["x,y", { workers }]],
  );
  machine.handle([{ type: "workers-changed", typescript: [], python: [] }]);
  const own: SubmittedTask = { ...actor("own"), annotations: { workers: ["mine"] }, signature: "actor mine" };
  assertEquals(routes([submit([actor("z")], { z: 4 }), submit([own], { own: 5 })]), [[
    "own",
    { workers: ["mine"] },
  ]]);
  assertEquals(routes([{ type: "workers-changed", typescript: workers, python: [] }]), [["z", { workers }]]);
});

Deno.test("ClientMachine sends tasks of each language to its own workers, and keeps none waiting for the other", () => {
  const machine = connected();
  const py = (key: string, dependencies: string[] = []) => ({
    ...task(key, dependencies, "python "),
    annotations: null,
    python: { module: "m", name: "f", args: [] },
  });
  const routes = (events: ClientEvent[]) =>
    sent(machine.handle(events)).flatMap((message) =>
      message.op === "update-graph" ? [[message.tasks[0]!.key, message.annotations?.workers ?? null]] : []
    );
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  // Nobody can run it, nor what depends on it; what it needs stays wanted meanwhile; everything else goes.
  assertEquals(routes([submit([task("in")], { in: 1 })]), [["in", null]]);
  assertEquals(routes([submit([py("p", ["in"])], { p: 2 })]), []);
  assertEquals(routes([submit([task("after", ["p"])], { after: 3 })]), []);
  assertEquals(ops(machine.handle([{ type: "released", key: "in", want: 1 }, RELEASES])), []);
  assertEquals(routes([submit([task("other")], { other: 4 })]), [["other", null]]);
  assertEquals(routes([submit([task("more")], { more: 6 })]), [["more", null]]);
  const come = machine.handle([{
    type: "workers-changed",
    typescript: ["tcp://a:1"],
    python: ["tcp://p:1"],
  }]);
  assertEquals(ops(come), ["graph p for p", "graph after for after", "release in"]);
  assertEquals(
    sent(come).flatMap((message) => message.op === "update-graph" ? [message.annotations] : []),
    [{ workers: ["tcp://p:1"] }, { workers: ["tcp://a:1"] }],
  );
  machine.handle([{ type: "workers-changed", typescript: [], python: ["tcp://p:1"] }]);
  assertEquals(routes([submit([py("q")], { q: 5 })]), [["q", null]]);
});

Deno.test("ClientMachine lets nothing wait for Python that does not depend on it, also within one submission", () => {
  const machine = connected();
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  const python = {
    ...task("p", [], "python "),
    annotations: null,
    python: { module: "m", name: "f", args: [] },
  };
  assertEquals(
    ops(machine.handle([
      submit([python, task("code"), task("same", ["p", "code"])], { p: 1, code: 2, same: 3 }),
      submit([task("five", ["code"])], { five: 4 }),
    ])),
    ["graph code for code", "graph five for five"],
  );
});

Deno.test("ClientMachine names the language whose workers are waited for", () => {
  const machine = connected();
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: [] }]);
  const waits = {
    ...task("p", [], "python "),
    annotations: null,
    python: { module: "m", name: "f", args: [] },
  };
  machine.handle([submit([waits], { p: 1 })]);
  const [log] = machine.handle([{ type: "timer", name: "no-workers" }]).filter(({ type }) => type === "log");
  assertStringIncludes((log as { message: string }).message, "no Python worker (1 of TypeScript)");
});

Deno.test("ClientMachine says after a while that no worker is there, once", () => {
  const machine = connected();
  machine.handle([{ type: "workers-changed", typescript: [], python: [] }]);
  const timers = machine.handle([submit([task("a")], { a: 1 })]).filter(({ type }) => type === "set-timer");
  assertEquals(timers, [{ type: "set-timer", name: "no-workers", delayMs: NO_WORKERS_MS }]);
  const logged = machine.handle([{ type: "timer", name: "no-workers" }]).filter(({ type }) => type === "log");
  assertEquals(logged.length, 1);
  assertEquals(
    machine.handle([submit([task("b")], { b: 2 })]).filter(({ type }) => type === "set-timer"),
    [],
  );
});

// --- After a loss ---

/** A machine that submits again after a loss, with a stream and workers. */
function lasting(): ClientMachine {
  const machine = new ClientMachine({ clientId: ID, validate: true, reconnect: true });
  machine.handle([HERE, { type: "connected" }]);
  machine.handle([submit([task("first")], { first: 1_000 })]);
  machine.handle([{ type: "graph-handled", stimulusId: `reconstruct-${ID}-1`, status: "OK" }]);
  machine.handle([{ type: "released", key: "first", want: 1_000 }, RELEASES]);
  return machine;
}
const HERE: ClientEvent = { type: "workers-changed", typescript: ["tcp://a:1", "tcp://b:1"], python: [] };
const LOST: ClientEvent = { type: "disconnected" };
const BACK = (...gone: string[]): ClientEvent => ({ type: "reconnected", clientId: "Client-1-2", gone });
/** Status news as `key status`. */
const statuses = (instructions: readonly Instruction[]) =>
  notices(instructions).map((one) => `${one.key} ${one.type === "status" ? one.status : one.type}`);
/** Ops without what finds out the form of graphs. */
const deeds = (instructions: readonly Instruction[]) =>
  ops(instructions).filter((op) => !op.includes("subscribe"));

Deno.test("ClientMachine submits again after a loss what is wanted, with all behind it, and nothing else", () => {
  const machine = lasting();
  machine.handle([submit([task("a"), task("b", ["a"]), task("c", ["b"])], { b: 1, c: 2 })]);
  machine.handle([submit([task("gone")], { gone: 3 }), submit([task("cancelled")], { cancelled: 4 })]);
  machine.handle([submit([task("failed"), task("after", ["b"])], { failed: 5, after: 6 })]);
  machine.handle([{ type: "released", key: "gone", want: 3 }, RELEASES]);
  machine.handle([{ type: "cancelled", key: "cancelled", want: 4, reason: null }, erred("failed")]);
  machine.handle([memory("b", "tcp://a:1"), { type: "value-wanted", key: "b", want: 1 }]);
  assertEquals(machine.handle([LOST]), []);
  assertEquals(machine.unsure(), []);
  const back = machine.handle([BACK()]);
  assertEquals(deeds(back), ["graph a,b,c,after for b,c,after"]);
  assertEquals(statuses(back), ["b pending"]);
  const [graph] = sent(back).filter((message) => message.op === "update-graph");
  assert(graph?.op === "update-graph" && graph.stimulusId.includes("Client-1-2"));
  // The wish for the value is still there.
  const fetches = machine.handle([{ type: "fetch-missed", key: "b" }, memory("b")]).filter(({ type }) =>
    type === "fetch"
  );
  assertEquals(fetches.length, 1);
});

Deno.test("ClientMachine keeps the order of submissions, and their options, when it submits again", () => {
  const machine = lasting();
  const late = { ...task("late"), order: 0 };
  machine.handle([submit([{ ...task("y"), order: 1 }, { ...task("x"), order: 0 }], { x: 1, y: 2 })]);
  machine.handle([submit([late, task("w", ["late"], "mine")], { w: 3 })]);
  machine.handle([LOST]);
  const graphs = sent(machine.handle([BACK()])).flatMap((message) =>
    message.op === "update-graph" ? [message] : []
  );
  assertEquals(graphs.map(({ annotations }) => annotations), [null, { workers: ["mine"] }]);
  const [{ tasks, priorities }] = graphs as [(typeof graphs)[number]];
  const byKey = new Map(tasks.map(({ key }, i) => [key, priorities[i]!]));
  assert(byKey.get("x")! < byKey.get("y")! && byKey.get("y")! < byKey.get("late")!);
});

Deno.test("ClientMachine takes nothing over a loss but what follows from its tasks", () => {
  const machine = lasting();
  machine.handle([submit([task("x"), task("y")], { x: 1, y: 2 })]);
  machine.handle([LOST]);
  assertEquals(
    machine.handle([
      { type: "released", key: "x", want: 1 },
      submit([task("z", ["y"])], { z: 3 }),
      { type: "cancelled", key: "y", want: 2, reason: null },
      submit([task("late")], { late: 4 }),
      { type: "timer", name: "releases" },
    ]).filter(({ type }) => type !== "notify"),
    [],
  );
  assertEquals(deeds(machine.handle([BACK()])), ["graph late for late"]);
});

Deno.test("ClientMachine gives up values that were put on the cluster, and what depends on them, unless they are there", () => {
  const machine = lasting();
  machine.handle([{ type: "scattered", key: "d", want: 1 }, { type: "scattered", key: "e", want: 2 }]);
  machine.handle([{ type: "desired", key: "theirs", want: 3 }]);
  machine.handle([
    submit([task("x", ["d"]), task("y", ["x"])], { y: 4 }),
    submit([task("z", ["e"])], { z: 5 }),
    submit([task("own")], { own: 6 }),
  ]);
  machine.handle([memory("y"), memory("theirs")]);
  machine.handle([LOST]);
  assertEquals([...machine.unsure()].sort(), ["d", "e", "theirs", "x", "y", "z"]);
  const back = machine.handle([BACK("d", "x", "y", "z")]);
  assertEquals(deeds(back), [
    "desire e as me",
    "report e",
    "desire theirs as me",
    "report theirs",
    "graph own for own",
    "graph z for z",
  ]);
  assertEquals(statuses(back), ["e pending", "theirs pending", "d lost", "y lost"]);
  const [, reason] = notices(back).flatMap((one) => one.type === "status" && one.reason ? [one.reason] : []);
  assertStringIncludes(reason!, '"x"');
  assertEquals(statuses(machine.handle([{ type: "cancelled-keys", keys: ["e"], reason: null }])), ["e lost"]);
});

Deno.test("ClientMachine asks for a result that the scheduler still has and that cannot be computed again", () => {
  const machine = lasting();
  machine.handle([{ type: "scattered", key: "d", want: 1 }]);
  machine.handle([submit([task("x", ["d"])], { x: 2 }), memory("x")]);
  machine.handle([{ type: "released", key: "d", want: 1 }, RELEASES, LOST]);
  assertEquals(deeds(machine.handle([BACK("d")])), ["desire x as me", "report x"]);
});

Deno.test("ClientMachine leaves failures as they are, and runs them again when they are retried or needed", () => {
  const machine = lasting();
  machine.handle([submit([task("a"), task("b", ["a"]), task("c")], { a: 1, b: 2, c: 3 })]);
  machine.handle([erred("a"), erred("b"), erred("c"), LOST]);
  const back = machine.handle([BACK()]);
  assertEquals([deeds(back), statuses(back)], [[], []]);
  const needed = machine.handle([submit([task("d", ["c"])], { d: 4 })]);
  assertEquals([deeds(needed), statuses(needed)], [["graph c,d for c,d"], ["c pending"]]);
  // Who waits for a failed dependency waits for the retry of that.
  const retried = machine.handle([{ type: "retried", key: "a", want: 1 }]);
  assertEquals([deeds(retried), statuses(retried)], [["graph a,b for a,b"], ["a pending", "b pending"]]);
  machine.handle([erred("a")]);
  assert(machine.handle([{ type: "retried", key: "a", want: 1 }]).some(({ type }) => type === "retry"));
});

Deno.test("ClientMachine runs again what was retried while there was no connection", () => {
  const machine = lasting();
  machine.handle([submit([task("a"), task("b", ["a"])], { b: 1 }), erred("b"), LOST]);
  assertEquals(statuses(machine.handle([{ type: "retried", key: "b", want: 1, target: "a" }])), [
    "b pending",
  ]);
  assertEquals(deeds(machine.handle([BACK()])), ["graph a,b for b"]);
});

Deno.test("ClientMachine sees to it that a detached task runs, also when nothing else wants it", () => {
  const machine = lasting();
  machine.handle([submit([task("x")], { x: 1 })]);
  machine.handle([{ type: "detached", key: "x", want: 1 }, { type: "released", key: "x", want: 1 }]);
  machine.handle([LOST]);
  assertEquals(deeds(machine.handle([BACK()])), ["graph x for x", "desire x as fire-and-forget"]);
  // Another future of it has a life of its own.
  const again = machine.handle([submit([task("x")], { x: 2 }), memory("x")]);
  assertEquals(notices(again).map(({ want }) => want), [2]);
  machine.handle([{ type: "released", key: "x", want: 2 }]);
  machine.handle([submit([task("y")], { y: 3 }), { type: "detached", key: "y", want: 3 }]);
  machine.handle([{ type: "released", key: "y", want: 3 }, memory("y")]);
  assertEquals(ops(machine.handle([RELEASES])), ["release x,y"]);
  assertEquals(machine.counts().kept, 0);
});

Deno.test("ClientMachine finds out anew after a loss which form of graphs is understood", () => {
  const machine = lasting();
  machine.handle([submit([task("x")], { x: 1 }), LOST]);
  assertEquals(ops(machine.handle([BACK()])), ["subscribe-topic", "graph x for x"]);
  const handled = (id: string, status: "OK" | "error"): ClientEvent => ({
    type: "graph-handled",
    stimulusId: id,
    status,
  });
  const other = machine.handle([handled("reconstruct-Client-1-2-2", "error"), erred("x")]);
  assertEquals([ops(other), statuses(other)], [["subscribe-topic", "graph x for x"], []]);
});

Deno.test("ClientMachine waits after a loss for workers of each language of a mixed cluster", () => {
  const machine = lasting();
  const python = {
    ...task("p", [], "python "),
    annotations: null,
    python: { module: "m", name: "f", args: [] },
  };
  machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: ["tcp://p:1"] }]);
  machine.handle([submit([task("x"), python], { x: 1, p: 2 }), LOST]);
  assertEquals(deeds(machine.handle([BACK()])), []);
  assertEquals(
    deeds(machine.handle([{ type: "workers-changed", typescript: [], python: ["tcp://p:1"] }])),
    ["graph p for p"],
  );
  assertEquals(
    deeds(machine.handle([{ type: "workers-changed", typescript: ["tcp://a:1"], python: ["tcp://p:1"] }])),
    ["graph x for x"],
  );
});

Deno.test("ClientMachine learns how to submit a task that another had made", () => {
  const machine = lasting();
  machine.handle([{ type: "desired", key: "x", want: 1 }]);
  machine.handle([submit([task("y", ["x"])], { y: 2 }), { type: "released", key: "x", want: 1 }]);
  machine.handle([submit([task("a"), task("x", ["a"])], { x: 3 }), LOST]);
  assertEquals(machine.unsure(), []);
  assertEquals(deeds(machine.handle([BACK()])), ["graph a,x,y for x,y"]);
});

Deno.test("ClientMachine keeps calls only when they may be sent again, and only while they may be needed", () => {
  for (const reconnect of [false, true]) {
    const machine = new ClientMachine({ clientId: ID, validate: true, reconnect });
    machine.handle([HERE, { type: "connected" }]);
    const payload = new Uint8Array(1_000);
    const event = submit([{ ...task("a"), payload }, { ...task("b", ["a"]), payload }], { b: 1 });
    machine.handle([event, memory("b")]);
    machine.handle([LOST]);
    const graphs = sent(machine.handle([BACK()])).flatMap((one) =>
      one.op === "update-graph" ? one.tasks : []
    );
    assertEquals(graphs.map((one) => one.payload === payload), reconnect ? [true, true] : []);
    machine.handle([{ type: "released", key: "b", want: 1 }, RELEASES]);
    assertEquals(machine.counts().kept, 0);
  }
});

// --- Groups of annotations ---

Deno.test("groupByAnnotations puts dependencies' groups first and names what later groups need", () => {
  const groups = groupByAnnotations([
    task("a"),
    task("b", ["a"], "w1"),
    task("c", ["b"]),
    task("d", ["a"]),
    task("e", ["c", "b"], "w1"),
  ]);
  assertEquals(
    groups.map(({ signature, tasks, bridges }) => [signature, tasks.map(({ key }) => key), bridges]),
    [
      ["", ["a", "d"], ["a"]],
      ["w1", ["b"], ["b"]],
      ["", ["c"], ["c"]],
      ["w1", ["e"], []],
    ],
  );
});

Deno.test("cutGraph gives parts that are complete without the later ones, or leaves a graph whole", () => {
  const cut = (tasks: SubmittedTask[], keys: string[], most: number) =>
    cutGraph({ tasks, keys, priorities: tasks.map((_, i) => i) }, most).map((part) =>
      [part.tasks.map(({ key }) => key), part.keys, part.priorities] as const
    );
  const few = [
    task("code"),
    task("a", ["code"]),
    task("b", ["code"]),
    task("c", ["a"]),
    task("d", ["elsewhere"]),
  ];
  const all = few.map(({ key }) => key);
  assertEquals(cut(few, all, 5), [[all, all, [0, 1, 2, 3, 4]]]);
  assertEquals(cut(few, all, 2), [
    [["code", "a"], ["code", "a"], [0, 1]],
    [["b", "c"], ["b", "c"], [2, 3]],
    [["d"], ["d"], [4]],
  ]);
  // What nobody wants would be forgotten before the part comes that needs it.
  const last = ["code", "b", "c", "d"];
  assertEquals(cut(few, last, 2), [[all, last, [0, 1, 2, 3, 4]]]);
  assertEquals(cut(few, last, 4).map(([keys]) => keys), [["code", "a", "b", "c"], ["d"]]);
});

Deno.test("ClientMachine sends a large graph of independent tasks in parts, in order", () => {
  const machine = connected();
  const keys = Array.from({ length: 2_500 }, (_, i) => `k${i}`);
  const [sent] = machine.handle([
    submit(keys.map((key) => task(key)), Object.fromEntries(keys.map((key) => [key, 1]))),
  ]);
  assert(sent?.type === "send");
  const graphs = sent.messages.filter((message) => message.op === "update-graph");
  assertEquals(graphs.map(({ tasks }) => tasks.length), [1_000, 1_000, 500]);
  assertEquals(graphs.flatMap((graph) => graph.keys), keys);
  assertEquals(new Set(graphs.map(({ stimulusId }) => stimulusId)).size, 3);
});

Deno.test("ClientMachine wants what later groups need until they are sent", () => {
  const machine = connected();
  assertEquals(ops(machine.handle([submit([task("a"), task("b", ["a"], "w1")], { b: 1 })])), [
    "graph a for a",
    "graph b for b",
    "release a",
  ]);
});

// --- Random histories ---

for (const reconnect of [false, true]) {
  Deno.test(`ClientMachine keeps its invariants through random histories${reconnect ? " with losses" : ""}`, () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    try {
      histories(seed, reconnect);
    } catch (error) {
      throw new Error(`With seed ${seed}`, { cause: error });
    }
  });
}

function histories(seed: number, reconnect: boolean): void {
  let state = seed;
  const random = (n: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return (state >> 8) % n;
  };
  for (let history = 0; history < 60; history++) {
    const machine = new ClientMachine({ clientId: ID, validate: true, reconnect });
    let broken = false;
    /** What the scheduler that is there was told of: keys it knows, and those that this client wants. */
    const known = new Set<string>();
    const told = new Set<string>();
    const pending = new Set<string>();
    const keys = ["a", "b", "c", "d", "e"];
    const wants = new Map<string, number>();
    let last = 0;
    const hear = (instructions: readonly Instruction[]): void => {
      for (const one of notices(instructions)) {
        if (wants.get(one.key) !== one.want || one.type === "value") continue;
        if (one.type === "status" && one.status === "pending") pending.add(one.key);
        else pending.delete(one.key);
        if (one.type === "status" && (one.status === "cancelled" || one.status === "lost")) {
          wants.delete(one.key);
        }
      }
      for (const message of sent(instructions)) {
        assert(!broken, "Nothing is sent without a connection");
        if (message.op === "update-graph") {
          for (const one of message.tasks) known.add(one.key);
          for (const one of message.keys) told.add(one);
        }
        if (message.op === "client-desires-keys" && message.client === undefined) {
          for (const one of message.keys) told.add(one);
        }
        if (message.op === "client-releases-keys") { for (const one of message.keys) told.delete(one); }
      }
    };
    for (let step = 0; step < 120; step++) {
      const at = random(keys.length);
      const key = keys[at]!;
      const want = wants.get(key) ?? -1;
      const events: ClientEvent[] = [];
      switch (random(reconnect ? 20 : 16)) {
        case 16:
          if (want > 0) break;
          wants.set(key, ++last);
          pending.add(key);
          events.push({ type: random(2) === 0 ? "desired" : "scattered", key, want: last });
          break;
        case 17:
          if (want > 0) events.push({ type: "detached", key, want });
          break;
        case 18:
        case 19: {
          if (!broken) {
            hear(machine.handle([{ type: "disconnected" }]));
            broken = true;
            break;
          }
          const gone = machine.unsure().filter(() => random(2) === 0);
          broken = false;
          known.clear();
          told.clear();
          for (const one of machine.unsure()) if (!gone.includes(one)) known.add(one);
          const back = machine.handle([HERE, { type: "reconnected", clientId: `${ID}-${step}`, gone }]);
          hear(back);
          for (const one of pending) assert(told.has(one), `"${one}" is asked for again`);
          for (const message of sent(back)) {
            for (const { dependencies } of message.op === "update-graph" ? message.tasks : []) {
              for (const one of dependencies) assert(known.has(one), `"${one}" is known or on its way`);
            }
          }
          break;
        }
        case 0:
        case 1:
        case 2:
        case 3: {
          if (want > 0) break;
          const needed = keys.slice(0, at).filter(() => random(2) === 0);
          const missing = needed.filter((dependency) => !wants.has(dependency));
          wants.set(key, ++last);
          pending.add(key);
          events.push(
            submit([...missing.map((one) => task(one)), task(key, needed, random(3) === 0 ? "w" : "")], {
              [key]: last,
            }),
          );
          break;
        }
        case 4:
          if (want > 0) events.push({ type: "released", key, want });
          wants.delete(key);
          pending.delete(key);
          break;
        case 5:
          if (want > 0) events.push({ type: "cancelled", key, want, reason: null });
          break;
        case 6:
          if (want > 0) events.push({ type: "value-wanted", key, want });
          break;
        case 7:
          if (want > 0) events.push({ type: "retried", key, want });
          break;
        case 8:
          events.push(memory(key, random(2) === 0 ? "tcp://a:1" : null));
          break;
        case 9:
          events.push(erred(key));
          break;
        case 10:
          events.push({ type: "lost-data", key });
          break;
        case 11:
          events.push({
            type: "cancelled-keys",
            keys: [key],
            reason: random(2) === 0 ? "lost dependencies" : null,
          });
          break;
        case 12:
          events.push({ type: random(2) === 0 ? "fetched" : "fetch-missed", key });
          break;
        case 13:
          events.push({
            type: "workers-changed",
            typescript: random(3) === 0 ? [] : ["tcp://a:1"],
            python: random(2) === 0 ? [] : ["tcp://p:1"],
          });
          break;
        case 14:
          if (random(8) === 0) events.push({ type: "restart" });
          else if (!broken) events.push({ type: "connected" });
          break;
        case 15:
          events.push(random(8) === 0 ? { type: "reset", reason: "reset" } : { type: "task-retried", key });
          break;
      }
      hear(machine.handle(events));
    }
    // In the end everything is given up, and nothing is kept.
    if (broken) machine.handle([{ type: "reconnected", clientId: ID, gone: [] }]);
    machine.handle([{ type: "reset", reason: "the end" }, { type: "connected" }, {
      type: "workers-changed",
      typescript: ["tcp://a:1"],
      python: [],
    }]);
    machine.handle([...wants].map(([key, want]) => ({ type: "released", key, want })));
    machine.handle([RELEASES]);
    assertEquals(machine.counts(), { kept: 0, held: 0, pending: 0, queued: 0 });
  }
}
