import { assert, assertEquals, assertFalse, assertStringIncludes, assertThrows } from "@std/assert";
import { lower } from "../../dispatch/lower.ts";
import { type AnyOp, AsyncExecutor, DispatchGraph, op } from "../../dispatch/mod.ts";

/** Ten nodes; the edges are those of the ancestor's published test graph. Index 0 is not used. */
function published(): AnyOp[] {
  const edges = [[2, 1], [2, 3], [3, 4], [3, 5], [4, 6], [5, 6], [6, 7], [6, 8], [9, 8], [9, 10]] as const;
  const nodes: AnyOp[] = [];
  for (const i of [2, 3, 4, 5, 6, 1, 7, 9, 8, 10]) {
    const parents = edges.filter(([, child]) => child === i).map(([parent]) => nodes[parent]!);
    nodes[i] = op((..._: unknown[]) => 0, ...parents);
    nodes[i]!.label = `n${i}`;
  }
  return nodes;
}

function whole(nodes: readonly AnyOp[]): DispatchGraph {
  return new DispatchGraph([1, 7, 8, 10].map((i) => nodes[i]!));
}

function labels(nodes: Iterable<AnyOp>): string[] {
  return [...nodes].map((node) => node.label).sort();
}

/** Edges as text, sorted. */
function edges(graph: DispatchGraph): string[] {
  return [...graph.nodes].flatMap((node) =>
    [...graph.children(node)].map((child) => `${node.label}>${child.label}`)
  ).sort();
}

Deno.test("G1: a graph walks dependencies back and stops at inputs", () => {
  const n = published();
  assertEquals(labels(new DispatchGraph([n[7]!]).nodes), ["n2", "n3", "n4", "n5", "n6", "n7"]);
  assertEquals(labels(new DispatchGraph([n[7]!], [n[6]!]).nodes), ["n6", "n7"]);
  assertEquals([...new DispatchGraph([n[7]!], [n[6]!]).parents(n[6]!)], []);
});

Deno.test("G2: a graph from a single node, and the empty graph", () => {
  const node = op(() => 1);
  assertEquals(new DispatchGraph([node]).size, 1);
  const empty = new DispatchGraph([]);
  assertEquals([empty.size, empty.roots.length, empty.leaves.length], [0, 0, 0]);
});

Deno.test("G3: a node given twice counts once", () => {
  const node = op(() => 1);
  assertEquals(new DispatchGraph([node, node]).size, 1);
});

Deno.test("G4: the order of nodes is the same every time, dependencies first", () => {
  const n = published();
  const once = [...whole(n).nodes];
  assert(once.every((node, i) => [...whole(n).nodes][i] === node));
  for (const node of once) {
    for (const before of node.dependencies) assert(once.indexOf(before) < once.indexOf(node));
  }
});

Deno.test("G5: size, nodes, parents and children", () => {
  const n = published();
  const graph = whole(n);
  assertEquals(graph.size, 10);
  assertEquals(labels(graph.parents(n[6]!)), ["n4", "n5"]);
  assertEquals(labels(graph.children(n[6]!)), ["n7", "n8"]);
  assertThrows(() => graph.parents(op(() => 0)), TypeError, "in this graph");
  assert(graph.has(n[1]!));
});

Deno.test("G6: leaves are those nobody depends on, roots those that depend on nobody", () => {
  const graph = whole(published());
  assertEquals(labels(graph.leaves), ["n1", "n10", "n7", "n8"]);
  assertEquals(labels(graph.roots), ["n2", "n9"]);
});

Deno.test("G7: graphs are equal when nodes and edges are, in whatever order", () => {
  const n = published();
  const graph = whole(n);
  assert(graph.equals(new DispatchGraph([10, 8, 7, 1].map((i) => n[i]!))));
  assertFalse(graph.equals(new DispatchGraph([n[7]!])));
  assertFalse(graph.equals(whole(published())));
  const ends = [1, 7, 8, 10].map((i) => n[i]!);
  assertFalse(graph.equals(new DispatchGraph([...ends, n[2]!, n[3]!], [n[3]!])));
});

Deno.test("G8: subgraph keeps endpoints and what they need (first published graph)", () => {
  const n = published();
  const graph = whole(n);
  for (const ends of [[9, 10], [10]]) {
    const part = graph.subgraph(ends.map((i) => n[i]!));
    assertEquals(labels(part.nodes), ["n10", "n9"]);
    assertEquals(edges(part), ["n9>n10"]);
  }
  const seven = graph.subgraph([n[1]!, n[7]!]);
  assertEquals(labels(seven.nodes), ["n1", "n2", "n3", "n4", "n5", "n6", "n7"]);
  assertEquals(edges(seven), ["n2>n1", "n2>n3", "n3>n4", "n3>n5", "n4>n6", "n5>n6", "n6>n7"]);
  assertFalse(seven.equals(graph.subgraph([n[7]!])));
  const cut = graph.subgraph([n[7]!], [n[4]!]);
  assertEquals(labels(cut.nodes), ["n2", "n3", "n4", "n5", "n6", "n7"]);
  assertEquals(labels(graph.subgraph([n[7]!], [n[4]!, n[5]!]).nodes), ["n4", "n5", "n6", "n7"]);
});

Deno.test("G9: without endpoints a subgraph drops what only its roots need (second published graph)", () => {
  const n = published();
  const graph = whole(n);
  for (const roots of [[6], [6, 5]]) {
    const part = graph.subgraph([], roots.map((i) => n[i]!));
    assertEquals(edges(part), ["n2>n1", "n6>n7", "n6>n8", "n9>n10", "n9>n8"]);
    assertEquals(part.size, 7);
  }
  const ends = graph.subgraph([], [1, 7, 8, 10].map((i) => n[i]!));
  assertEquals(labels(ends.nodes), ["n1", "n10", "n7", "n8"]);
});

Deno.test("G10 G11: subgraphs are cut by nodes and keep the edges among them", () => {
  const n = published();
  const part = whole(n).subgraph([n[8]!], [n[6]!, n[9]!]);
  assertEquals(edges(part), ["n6>n8", "n9>n8"]);
  assertThrows(() => whole(n).subgraph([op(() => 0)]), TypeError);
});

Deno.test("G12 E9: a cycle does not overflow, and is refused with the cycle printed", async () => {
  const a = op((x: number) => x, 1);
  a.label = "a";
  const b = op((x: number) => x, a);
  b.label = "b";
  // Nodes are immutable, so only force makes a cycle.
  Object.assign(a, { dependencies: [b] });
  for (const start of [a, b]) {
    assertThrows(() => new DispatchGraph([start]), RangeError, "Cannot run a graph with a cycle: ");
    assertThrows(() => lower([start], { held: () => false }), RangeError, "a -> b");
    const error = await new AsyncExecutor().run([start]).then(() => null, (error) => error);
    assert(error instanceof RangeError);
  }
});

Deno.test("G13: a graph prints its size and nodes, and draws itself", () => {
  const n = published();
  const graph = whole(n);
  assertStringIncludes(Deno.inspect(graph), "DispatchGraph(10 nodes: n2");
  const dot = graph.visualize("dot");
  assertEquals(dot.split("\n").filter((line) => line.includes("->")).length, 10);
  assertStringIncludes(dot, '\n  0 [label="n2", ');
  const svg = graph.visualize();
  assertEquals(svg.match(/<rect /g)!.length, 10);
  assertEquals(svg.match(/marker-end/g)!.length, 10);
  assertStringIncludes(new DispatchGraph([]).visualize(), "<svg");
});
