import { assert, assertEquals, assertLess, assertLessOrEqual } from "@std/assert";
import { order } from "../../dispatch/order.ts";
import { runPython } from "../support/scheduler.ts";

/** For each task the indexes of what it needs. */
type Graph = number[][];

class Builder {
  readonly graph: Graph = [];

  task(...dependencies: readonly number[]): number {
    return this.graph.push([...new Set(dependencies)]) - 1;
  }

  tasks(count: number, dependencies: (i: number) => readonly number[] = () => []): number[] {
    return Array.from({ length: count }, (_, i) => this.task(...dependencies(i)));
  }

  reduce(level: readonly number[], width: number): number {
    let left = level;
    while (left.length > 1) {
      left = this.tasks(Math.ceil(left.length / width), (i) => left.slice(i * width, (i + 1) * width));
    }
    return left[0]!;
  }
}

function build(make: (b: Builder) => void): Graph {
  const builder = new Builder();
  make(builder);
  return builder.graph;
}

function stencil(width: number, steps: number): Graph {
  return build((b) => {
    let row = b.tasks(width);
    for (let step = 0; step < steps; step++) {
      const before = row;
      row = b.tasks(width, (i) => before.slice(Math.max(0, i - 1), i + 2));
    }
    b.task(...row);
  });
}

function shuffle(n: number, reduced: boolean): Graph {
  return build((b) => {
    const splits = b.tasks(n).map((load) => b.tasks(n, () => [load]));
    const joins = b.tasks(n, (i) => splits.map((parts) => parts[i]!));
    if (reduced) b.reduce(joins, 4);
  });
}

/** The ancestor's example: 100 load, 1 reference, 100 process, 98 roll, 200 compare of two, 1 list, 1 reduction. */
function cluster(): Graph {
  let seed = 42;
  const random = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below;
  return build((b) => {
    const loaded = b.tasks(100);
    const reference = b.task();
    const processed = b.tasks(100, (i) => [loaded[i]!, reference]);
    const rolled = b.tasks(98, (i) => processed.slice(i, i + 3));
    const compared = b.tasks(200, () => [rolled[random(98)]!, rolled[random(98)]!]);
    b.task(b.task(...compared));
  });
}

const graphs: Readonly<Record<string, Graph>> = {
  "binary tree": build((b) => b.reduce(b.tasks(256), 2)),
  "tree of four": build((b) => b.reduce(b.tasks(256), 4)),
  "stencil, wide": stencil(50, 10),
  "stencil, long": stencil(10, 30),
  "shuffle": shuffle(16, false),
  "shuffle and reduction": shuffle(16, true),
  "fan-in": build((b) => b.task(...b.tasks(100, () => [b.task()]))),
  "fan-in behind one bundle": build((b) => {
    const code = b.task();
    b.task(code, ...b.tasks(100, () => [code]));
  }),
  "two reductions of one source": build((b) => {
    const loaded = b.tasks(30);
    b.task(...b.tasks(30, (i) => [loaded[i]!]));
    b.task(...b.tasks(30, (i) => [loaded[i]!]));
  }),
  "matrix product": build((b) => {
    const [left, right] = [b.tasks(64), b.tasks(64)];
    b.task(...b.tasks(64, (at) => {
      const [row, column] = [at >> 3, at & 7];
      return b.tasks(8, (k) => [left[row * 8 + k]!, right[k * 8 + column]!]);
    }));
  }),
  "the ancestor's cluster example": cluster(),
};

/** The most values that live at once when one machine runs the tasks in this order. */
function peak(graph: Graph, priorities: ArrayLike<number>): number {
  const sequence = graph.map((_, i) => i).sort((a, b) => priorities[a]! - priorities[b]!);
  const users = new Int32Array(graph.length);
  for (const dependency of graph.flat()) users[dependency]!++;
  const ran = new Set<number>();
  let live = 0;
  let most = 0;
  for (const task of sequence) {
    for (const dependency of graph[task]!) assert(ran.has(dependency), "a task came before its dependency");
    ran.add(task);
    most = Math.max(most, ++live);
    for (const dependency of graph[task]!) if (--users[dependency]! === 0) live--;
  }
  return most;
}

Deno.test("order: every number once, dependencies first", () => {
  for (const graph of Object.values(graphs)) {
    const priorities = order(graph);
    assertEquals([...priorities].sort((a, b) => a - b), graph.map((_, i) => i));
    peak(graph, priorities);
  }
  assertEquals(order([]).length, 0);
});

Deno.test("order: the values that live at once are at most 1.2 times as many as by dask.order", async () => {
  const program = `
import json, sys
from dask.order import order
from dask._task_spec import Task, TaskRef
found = []
for graph in json.load(open(sys.argv[1])):
    places = order({i: Task(i, max, *map(TaskRef, needs)) for i, needs in enumerate(graph)})
    found.append([places[i] for i in range(len(graph))])
print(json.dumps(found))
`;
  const file = await Deno.makeTempFile({ prefix: "dask-ts-order-" });
  try {
    await Deno.writeTextFile(file, JSON.stringify(Object.values(graphs)));
    const { code, stdout, stderr } = await runPython(program, [file]);
    assertEquals(code, 0, stderr);
    const theirs: number[][] = JSON.parse(stdout);
    for (const [i, [name, graph]] of Object.entries(graphs).entries()) {
      const [own, dask] = [peak(graph, order(graph)), peak(graph, theirs[i]!)];
      assertLessOrEqual(own, 1.2 * dask, `${name}: ${own} values at once, dask.order ${dask}`);
    }
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("order: 100,000 tasks take well under a second", () => {
  const large: Graph[] = [
    build((b) => b.reduce(b.tasks(50_000), 2)),
    stencil(1000, 99),
    build((b) => b.task(...b.tasks(100_000))),
    build((b) => {
      const code = b.task();
      b.tasks(100_000, () => [code]);
    }),
    build((b) => {
      let last = b.task();
      for (let i = 0; i < 100_000; i++) last = b.task(last);
    }),
  ];
  for (const graph of large) {
    const start = performance.now();
    order(graph);
    // 0.05 to 0.2 s on a quiet machine; what must not happen is a quadratic step.
    assertLess(performance.now() - start, 2000);
  }
});
