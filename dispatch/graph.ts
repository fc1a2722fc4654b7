/**
 * The graph behind nodes: what must run for some outputs, found by walking dependencies back. A graph is a view; it
 * owns no nodes and never changes.
 *
 * @module
 */
import { dotOf, svgOf } from "./draw.ts";
import { type AnyOp, asOp, type GraphNode, nodeOf, pictureOf, walkBack } from "./node.ts";

/**
 * The nodes that `outputs` need, dependencies first. The walk stops at `inputs`, which are part of the graph while
 * their dependencies are not.
 *
 * @throws {RangeError} When the nodes depend on each other in a circle; the message prints it.
 * @example
 * ```ts
 * import { DispatchGraph, op } from "@dask/dask";
 * const one = op(() => 1);
 * const two = op((x: number) => x + 1, one);
 * const graph = new DispatchGraph([two]);
 * console.log(graph.size, [...graph.parents(two)][0] === one); // 2 true
 * ```
 */
export class DispatchGraph {
  #nodes: readonly GraphNode[];
  /** The nodes that each node needs, as far as they are in the graph. */
  #parents: ReadonlyMap<GraphNode, readonly GraphNode[]>;
  #children: ReadonlyMap<GraphNode, readonly GraphNode[]>;

  /** The graph of `outputs` and all that they need; `inputs` and what only they need are left out. */
  constructor(outputs: readonly AnyOp[], inputs: readonly AnyOp[] = []) {
    const ends = outputs.map((op, i) => nodeOf(op, `output ${i} of the graph`));
    const stops = new Set(inputs.map((op, i) => nodeOf(op, `input ${i} of the graph`)));
    this.#nodes = walkBack(ends, stops);
    this.#parents = new Map(this.#nodes.map((node) => [node, stops.has(node) ? [] : node.dependencies]));
    this.#children = childrenOf(this.#nodes, this.#parents);
  }

  /** How many nodes. */
  get size(): number {
    return this.#nodes.length;
  }

  /** All nodes, dependencies first; always in the same order. */
  get nodes(): Iterable<AnyOp> {
    return ops(this.#nodes);
  }

  /** The nodes that need no other node of the graph. */
  get roots(): readonly AnyOp[] {
    return ops(this.#nodes.filter((node) => this.#parents.get(node)!.length === 0));
  }

  /** The nodes that no other node of the graph needs. */
  get leaves(): readonly AnyOp[] {
    return ops(this.#nodes.filter((node) => this.#children.get(node)!.length === 0));
  }

  /** Whether the node is in the graph. */
  has(node: AnyOp): boolean {
    return this.#parents.has(nodeOf(node));
  }

  /** The nodes that `node` needs. */
  parents(node: AnyOp): Iterable<AnyOp> {
    return ops(this.#parents.get(this.#member(node))!);
  }

  /** The nodes that need `node`. */
  children(node: AnyOp): Iterable<AnyOp> {
    return ops(this.#children.get(this.#member(node))!);
  }

  /**
   * What is needed for `endpoints`, without what is needed only by way of `roots`; the roots themselves stay. With no
   * endpoints: everything but what is needed only for `roots`, be it a root itself. Edges among the kept nodes are kept.
   *
   * @throws {TypeError} When a node is not in the graph.
   */
  subgraph(endpoints: readonly AnyOp[], roots: readonly AnyOp[] = []): DispatchGraph {
    const ends = endpoints.map((op) => this.#member(op));
    const stops = new Set(roots.map((op) => this.#member(op)));
    return this.#induced(ends.length > 0 ? this.#neededFor(ends, stops) : this.#notOnlyFor(stops));
  }

  /** Whether both have the same nodes with the same edges. */
  equals(other: DispatchGraph): boolean {
    if (other.size !== this.size) return false;
    for (const [node, parents] of this.#parents) {
      const others = other.#parents.get(node);
      if (others === undefined || others.length !== parents.length) return false;
      if (!parents.every((parent) => others.includes(parent))) return false;
    }
    return true;
  }

  /**
   * A picture of the graph: an SVG, or the text that Graphviz draws (`dot -Tsvg`).
   *
   * @param options `whole`: whether the SVG shows every node. Default: up to 200 nodes, at most 40 of them side by side,
   * and 1,000 edges; larger graphs are summed up, one box for the nodes of a label, with their number. DOT is always whole.
   * @example
   * ```ts ignore
   * await Deno.writeTextFile("graph.svg", new DispatchGraph([sum]).visualize());
   * ```
   */
  visualize(format: "svg" | "dot" = "svg", options: { readonly whole?: boolean } = {}): string {
    const picture = pictureOf(this.#nodes, (node) => this.#parents.get(node)!);
    switch (format) {
      case "svg":
        return svgOf(picture, options.whole);
      case "dot":
        return dotOf(picture);
      default:
        throw new TypeError(`Cannot draw a graph as ${JSON.stringify(format)}: expected "svg" or "dot"`);
    }
  }

  /** Its size and its nodes. */
  toString(): string {
    return `DispatchGraph(${this.size} nodes: ${
      this.#nodes.slice(0, 8).map((node) => node.label).join(", ")
    }${this.size > 8 ? ", …" : ""})`;
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }

  /** What Jupyter shows: the picture. */
  [Symbol.for("Jupyter.display")](): Record<string, string> {
    return { "text/plain": this.toString(), "image/svg+xml": this.visualize() };
  }

  #member(op: AnyOp): GraphNode {
    const node = nodeOf(op);
    if (!this.#parents.has(node)) throw new TypeError(`Cannot find "${node.label}" in this graph`);
    return node;
  }

  #neededFor(ends: readonly GraphNode[], stops: ReadonlySet<GraphNode>): ReadonlySet<GraphNode> {
    const kept = new Set(stops);
    const open = ends.filter((node) => !kept.has(node));
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      if (kept.has(node)) continue;
      kept.add(node);
      for (const parent of this.#parents.get(node)!) open.push(parent);
    }
    return kept;
  }

  #notOnlyFor(stops: ReadonlySet<GraphNode>): ReadonlySet<GraphNode> {
    const dropped = new Set<GraphNode>();
    const open = [...stops].flatMap((node) => this.#parents.get(node)!);
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      if (dropped.has(node)) continue;
      if (!this.#children.get(node)!.every((child) => stops.has(child) || dropped.has(child))) continue;
      dropped.add(node);
      for (const parent of this.#parents.get(node)!) open.push(parent);
    }
    return new Set(this.#nodes.filter((node) => !dropped.has(node)));
  }

  #induced(kept: ReadonlySet<GraphNode>): DispatchGraph {
    const part = new DispatchGraph([]);
    part.#nodes = this.#nodes.filter((node) => kept.has(node));
    part.#parents = new Map(
      part.#nodes.map((node) => [node, this.#parents.get(node)!.filter((parent) => kept.has(parent))]),
    );
    part.#children = childrenOf(part.#nodes, part.#parents);
    return part;
  }
}

function childrenOf(
  nodes: readonly GraphNode[],
  parents: ReadonlyMap<GraphNode, readonly GraphNode[]>,
): ReadonlyMap<GraphNode, readonly GraphNode[]> {
  const children = new Map<GraphNode, GraphNode[]>(nodes.map((node) => [node, []]));
  for (const [node, before] of parents) for (const parent of before) children.get(parent)!.push(node);
  return children;
}

function ops(nodes: readonly GraphNode[]): readonly AnyOp[] {
  return nodes.map((node) => asOp<unknown>(node));
}
