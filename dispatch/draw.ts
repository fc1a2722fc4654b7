/**
 * Pictures of graphs: SVG of its own making, and the text that Graphviz reads.
 *
 * The SVG is drawn in layers: a node stands below all that it needs, long edges run between the boxes of the layers that
 * they pass, and each layer is ordered and placed by the means of its neighbours, so that few edges cross. A graph too
 * large to be read is summed up, a box for the nodes of one label.
 *
 * @module
 */
import { escapeMarkup, printable } from "../base/markup.ts";

/** What is drawn. */
export interface Picture {
  readonly boxes: readonly Box[];
  /** For each box the numbers of those that it needs, which all are lower than its own. */
  readonly parents: readonly (readonly number[])[];
}

/** One box. */
export interface Box {
  readonly label: string;
  /** What kind of node it stands for; decides the colour. */
  readonly kind: "call" | "data" | "at" | "collect" | "cleanup";
}

/** Larger graphs are summed up. */
const BOXES_MAX = 200;
/** As are those with more boxes side by side, */
const ROW_MAX = 40;
/** or with more edges. */
const EDGES_MAX = 1_000;
/** When edges pass more layers than this, all of them together, they run straight, behind the boxes. */
const PASSED_MAX = 2_000;
/** Longer labels are cut; the whole one is in the box's title. */
const LABEL_MAX = 28;
/** Sizes in pixels. */
const SIZE = { boxHeight: 24, padding: 9, gap: 16, layer: 58, margin: 10 };
/** How often layers are ordered and placed, each time down and up. */
const SWEEPS = 12;
const FILLS: Readonly<Record<Box["kind"], string>> = {
  call: "#e3ecfa",
  data: "#fbf0d4",
  at: "#f0f0f0",
  collect: "#e2f3e4",
  cleanup: "#f7e4e4",
};

/** The text of Graphviz's language for a picture, always whole. */
export function dotOf({ boxes, parents }: Picture): string {
  const lines = boxes.map(({ label, kind }, i) =>
    `  ${i} [label=${dotText(label)}, fillcolor="${FILLS[kind]}"];`
  );
  parents.forEach((list, i) => lines.push(...list.map((parent) => `  ${parent} -> ${i};`)));
  return `digraph {\n  node [shape=box, style="rounded,filled"];\n${lines.join("\n")}${
    lines.length === 0 ? "" : "\n"
  }}\n`;
}

/** A text in quotes of Graphviz, where a backslash would begin a code of its own. */
function dotText(text: string): string {
  const line = printable(text.replace(/[\r\n]+/g, " "));
  return `"${line.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

/** An SVG of a picture: of all boxes, or summed up when these are too many. `whole` decides that. */
export function svgOf(picture: Picture, whole?: boolean): string {
  const depths = layersOf(picture.parents);
  const edges = picture.parents.reduce((sum, list) => sum + list.length, 0);
  const readable = picture.boxes.length <= BOXES_MAX && edges <= EDGES_MAX && widest(depths) <= ROW_MAX;
  const drawn = whole ?? readable ? picture : summary(picture, depths);
  return render(drawn);
}

// --- Layers ---

/** The layer of each box: one below the lowest that it needs; what needs nothing stands just above its uses. */
function layersOf(parents: readonly (readonly number[])[]): number[] {
  const layers: number[] = [];
  const firstUse: number[] = new Array(parents.length).fill(Infinity);
  parents.forEach((list, i) => {
    layers[i] = list.reduce((most, parent) => Math.max(most, layers[parent]! + 1), 0);
    for (const parent of list) firstUse[parent] = Math.min(firstUse[parent]!, layers[i]!);
  });
  return layers.map((layer, i) =>
    parents[i]!.length === 0 && firstUse[i] !== Infinity ? firstUse[i]! - 1 : layer
  );
}

function widest(layers: readonly number[]): number {
  const counts: number[] = [];
  for (const layer of layers) counts[layer] = (counts[layer] ?? 0) + 1;
  return counts.reduce((most, count) => Math.max(most, count), 0);
}

// --- Summing up ---

/** A box for all nodes of one label in one layer; when these are still too many, for all nodes of one label. */
function summary(picture: Picture, depths: readonly number[]): Picture {
  const byLayer = grouped(picture, (i) => `${depths[i]} ${picture.boxes[i]!.label}`, depths);
  if (byLayer.boxes.length <= BOXES_MAX) return byLayer;
  const counts = new Map<string, number>();
  for (const { label } of picture.boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  const most = [...counts].sort(([, a], [, b]) => b - a).slice(0, ROW_MAX).map(([label]) => label);
  const named = new Set(counts.size <= ROW_MAX ? counts.keys() : most);
  return grouped(picture, (i) => named.has(picture.boxes[i]!.label) ? picture.boxes[i]!.label : null);
}

/**
 * One box for each group, which is `null` for the rest. Groups are numbered by `ranks`, else as they appear first; edges
 * that run against that, or within a group, become the sign of a loop.
 */
function grouped(
  { boxes, parents }: Picture,
  groupOf: (i: number) => string | null,
  ranks?: readonly number[],
): Picture {
  const members = new Map<string | null, number[]>();
  boxes.forEach((_, i) => {
    const group = groupOf(i);
    const list = members.get(group);
    if (list === undefined) members.set(group, [i]);
    else list.push(i);
  });
  const groups = [...members.values()];
  if (ranks !== undefined) groups.sort(([a], [b]) => ranks[a!]! - ranks[b!]!);
  const number: number[] = [];
  groups.forEach((list, n) => list.forEach((i) => number[i] = n));
  const drawn: Box[] = [];
  const edges = groups.map((list, n) => {
    const before = new Set(list.flatMap((i) => parents[i]!.map((parent) => number[parent]!)));
    const forward = [...before].filter((parent) => parent < n);
    const { label, kind } = boxes[list[0]!]!;
    const name = groupOf(list[0]!) === null ? "others" : label;
    const count = list.length === 1 ? "" : ` ×${list.length}`;
    drawn.push({ label: `${cut(name)}${count}${forward.length < before.size ? " ↻" : ""}`, kind });
    return forward;
  });
  return { boxes: drawn, parents: edges };
}

function cut(label: string): string {
  const letters = [...label];
  return letters.length > LABEL_MAX ? `${letters.slice(0, LABEL_MAX - 1).join("")}…` : label;
}

// --- Drawing ---

/** A box, or the place where a long edge passes a layer. */
interface Vertex {
  readonly width: number;
  readonly up: Vertex[];
  readonly down: Vertex[];
  /** Centre, pixels. */
  x: number;
  /** Place in its layer. */
  at: number;
}

/** An edge: the vertices that it passes, from above, and the layers of its ends. */
interface Edge {
  readonly vertices: readonly Vertex[];
  readonly from: number;
  readonly to: number;
}

function render(picture: Picture): string {
  const depth = layersOf(picture.parents);
  const layers: Vertex[][] = [];
  const add = (layer: number, width: number): Vertex => {
    const row = layers[layer] ??= [];
    const vertex: Vertex = { width, up: [], down: [], x: 0, at: row.length };
    row.push(vertex);
    return vertex;
  };
  const boxes = picture.boxes.map(({ label }, i) => add(depth[i]!, widthOf(cut(label)) + 2 * SIZE.padding));
  let passed = 0;
  picture.parents.forEach((list, child) =>
    list.forEach((parent) => passed += depth[child]! - depth[parent]! - 1)
  );
  const edges: Edge[] = [];
  picture.parents.forEach((list, child) => {
    for (const parent of list) {
      const vertices = [boxes[parent]!];
      const [from, to] = [depth[parent]!, depth[child]!];
      if (passed <= PASSED_MAX) {
        for (let layer = from + 1; layer < to; layer++) vertices.push(add(layer, 0));
      }
      vertices.push(boxes[child]!);
      edges.push({ vertices, from, to });
      if (vertices.length <= to - from) continue; // straight: its ends are no neighbours
      for (let i = 1; i < vertices.length; i++) {
        vertices[i - 1]!.down.push(vertices[i]!);
        vertices[i]!.up.push(vertices[i - 1]!);
      }
    }
  });
  arrange(layers);
  place(layers);

  const left = min(layers, (vertex) => vertex.x - vertex.width / 2) - SIZE.margin;
  const width = Math.max(40, -min(layers, (vertex) => -vertex.x - vertex.width / 2) + SIZE.margin - left);
  const height = Math.max(0, layers.length - 1) * SIZE.layer + SIZE.boxHeight + 2 * SIZE.margin;
  const top = (layer: number): number => SIZE.margin + layer * SIZE.layer;
  const lines: string[] = [];
  for (const edge of edges) lines.push(path(edge, top, left));
  picture.boxes.forEach(({ label, kind }, i) => {
    const { x, width } = boxes[i]!;
    const y = top(depth[i]!);
    lines.push(
      `<g><title>${escapeMarkup(label)}</title>` +
        `<rect x="${px(x - width / 2 - left)}" y="${y}" width="${
          px(width)
        }" height="${SIZE.boxHeight}" rx="5" ` +
        `fill="${FILLS[kind]}" stroke="#56657f"/>` +
        `<text x="${px(x - left)}" y="${y + 16}" text-anchor="middle">${escapeMarkup(cut(label))}</text></g>`,
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${px(width)} ${height}" width="${
    px(width)
  }" ` +
    `height="${height}" font-family="Helvetica, Arial, sans-serif" font-size="12" style="background:white">\n` +
    `<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">` +
    `<path d="M0 0L8 4L0 8z" fill="#8a94a6"/></marker></defs>\n${lines.join("\n")}\n</svg>\n`;
}

function path({ vertices, from, to }: Edge, top: (layer: number) => number, left: number): string {
  const last = vertices.length - 1;
  const x = (i: number): number => px(vertices[i]!.x - left);
  const words = [`M${x(0)} ${top(from) + SIZE.boxHeight}`];
  for (let i = 1; i <= last; i++) {
    const y = top(i === last ? to : from + i);
    const middle = (top(from + i - 1) + SIZE.boxHeight + y) / 2;
    words.push(`C${x(i - 1)} ${middle} ${x(i)} ${middle} ${x(i)} ${y}`);
    if (i < last) words.push(`L${x(i)} ${y + SIZE.boxHeight}`);
  }
  return `<path d="${words.join("")}" fill="none" stroke="#8a94a6" marker-end="url(#arrow)"/>`;
}

/** Orders each layer by the mean place of its neighbours in the layer before, down and up; the best order stays. */
function arrange(layers: Vertex[][]): void {
  let fewest = crossings(layers);
  let best = layers.map((row) => [...row]);
  for (let sweep = 0; sweep < SWEEPS && fewest > 0; sweep++) {
    for (let i = 1; i < layers.length; i++) sortBy(layers[i]!, "up");
    for (let i = layers.length - 2; i >= 0; i--) sortBy(layers[i]!, "down");
    const count = crossings(layers);
    if (count >= fewest) continue;
    fewest = count;
    best = layers.map((row) => [...row]);
  }
  best.forEach((row, i) => {
    layers[i] = row;
    row.forEach((vertex, at) => vertex.at = at);
  });
}

function sortBy(row: Vertex[], side: "up" | "down"): void {
  const wanted = new Map(row.map((vertex) => {
    const next = vertex[side];
    return [vertex, next.length === 0 ? vertex.at : next.reduce((sum, { at }) => sum + at, 0) / next.length];
  }));
  row.sort((a, b) => wanted.get(a)! - wanted.get(b)! || a.at - b.at);
  row.forEach((vertex, at) => vertex.at = at);
}

/** How many pairs of edges cross: inversions among their lower ends, counted by merging. */
function crossings(layers: readonly Vertex[][]): number {
  let count = 0;
  for (const row of layers) {
    const ends = row.flatMap(({ down }) => down.map(({ at }) => at).sort((a, b) => a - b));
    count += inversions(ends);
  }
  return count;
}

function inversions(list: number[]): number {
  if (list.length < 2) return 0;
  const half = list.length >> 1;
  const [a, b] = [list.slice(0, half), list.slice(half)];
  let count = inversions(a) + inversions(b);
  for (let i = 0, j = 0, k = 0; k < list.length; k++) {
    if (j >= b.length || (i < a.length && a[i]! <= b[j]!)) list[k] = a[i++]!;
    else {
      list[k] = b[j++]!;
      count += a.length - i;
    }
  }
  return count;
}

/** Moves each layer towards its neighbours, keeping order and distances. */
function place(layers: readonly Vertex[][]): void {
  for (const row of layers) {
    let x = 0;
    row.forEach((vertex, i) => vertex.x = i === 0 ? 0 : x += distance(row[i - 1]!, vertex));
    for (const vertex of row) vertex.x -= x / 2;
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of layers) pull(row, ({ up }) => up);
    for (const row of layers.toReversed()) pull(row, ({ down }) => down);
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of layers) pull(row, ({ up, down }) => [...up, ...down]);
  }
}

function distance(a: Vertex, b: Vertex): number {
  return (a.width + b.width) / 2 + SIZE.gap;
}

/**
 * The places nearest to the means of the neighbours (least squares) that keep the order and the distances: neighbours
 * in the row that push each other become a block, which stands at the mean of what its members want.
 */
function pull(row: readonly Vertex[], neighbours: (vertex: Vertex) => readonly Vertex[]): void {
  const blocks: { sum: number; count: number }[] = [];
  const offsets: number[] = [];
  row.forEach((vertex, i) => {
    offsets[i] = i === 0 ? 0 : offsets[i - 1]! + distance(row[i - 1]!, vertex);
    const near = neighbours(vertex);
    const wanted = near.length === 0 ? vertex.x : near.reduce((sum, { x }) => sum + x, 0) / near.length;
    let block = { sum: wanted - offsets[i]!, count: 1 };
    for (
      let before = blocks.at(-1);
      before !== undefined && before.sum / before.count >= block.sum / block.count;
      before = blocks.at(-1)
    ) {
      block = { sum: before.sum + block.sum, count: before.count + block.count };
      blocks.pop();
    }
    blocks.push(block);
  });
  let i = 0;
  for (const { sum, count } of blocks) {
    for (const end = i + count; i < end; i++) row[i]!.x = sum / count + offsets[i]!;
  }
}

function min(layers: readonly Vertex[][], of: (vertex: Vertex) => number): number {
  const least = layers.reduce(
    (least, row) => row.reduce((low, vertex) => Math.min(low, of(vertex)), least),
    Infinity,
  );
  return least === Infinity ? 0 : least;
}

/** About how wide a text is in Helvetica of 12 pixels. */
function widthOf(text: string): number {
  let width = 0;
  for (const letter of text) width += letter > "\u2e80" ? 12.5 : /[A-Z0-9_@%mwMW]/.test(letter) ? 8 : 6.5;
  return width;
}

function px(value: number): number {
  return Math.round(value * 10) / 10;
}
