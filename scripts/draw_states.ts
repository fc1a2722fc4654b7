/**
 * Draws the task states of a worker: writes `docs/worker_states.svg` and `docs/worker_states.md` from the table of
 * transitions. `deno task states` does it; a test compares the files with what this makes.
 *
 * Boxes are placed and arrows routed by hand, below: a transition without a route, a route without a transition and an
 * arrow through a box are errors, so the drawing cannot lie.
 *
 * @module
 */
import { STATE_NAMES, type StateName } from "../worker/machine/task.ts";
import { TRANSITIONS } from "../worker/machine/transitions.ts";
import { INVARIANTS } from "../worker/machine/validate.ts";

/** One sentence about each state. */
const MEANINGS: { readonly [Name in StateName]: string } = {
  released: "Nothing is here and nothing is asked; remembered only because another task refers to it.",
  waiting: "To be computed here; at least one dependency is not in memory.",
  fetch: "Wanted from a peer, in the queue of every peer that has it.",
  missing: "Wanted, and nobody is known to have it; the scheduler is asked once a second.",
  flight: "On its way from a peer.",
  ready: "To be computed, with all dependencies at hand: in a queue, or placed in an executor but not begun.",
  constrained: "As ready, for a task that wants resources.",
  executing: "An executor runs it and it holds a slot.",
  "long-running": "An executor runs it and it gave up its slot.",
  memory: "Its value is in the store.",
  error: "Its run failed; remembered until the scheduler frees the key.",
  cancelled: "Nobody wants it, but its transfer, placed call or run was told to stop and has not ended yet.",
  resumed:
    "As cancelled, and wanted again: what is to be done next begins when the old call or transfer ends.",
  rescheduled: "Its run asked to go elsewhere; left at once, so nobody sees it.",
  forgotten: "No longer known.",
};

/** What each action of the table says or does, in words and as a colour of its arrow. */
const ACTIONS: Readonly<Record<string, readonly [words: string, tells: Tells]>> = {
  quietly: ["", "nobody"],
  forget: ["", "nobody"],
  tellFinished: ["`task-finished`", "scheduler"],
  tellArrived: ["`add-keys`, unless the value was given to us", "scheduler"],
  tellAsAwaited: [
    "`task-finished` if it was to be computed, `add-keys` if it was to be fetched",
    "scheduler",
  ],
  tellErred: ["`task-erred`", "scheduler"],
  tellLongRunning: ["`long-running`", "scheduler"],
  tellReschedule: ["`reschedule`", "scheduler"],
  dropValue: ["`release-worker-data`, and the store frees the value", "scheduler"],
  takeBack: ["the executor is asked to give back the call; whoever wanted to steal it hears so", "executor"],
  stop: ["the executor is told to abort the run", "executor"],
};
type Tells = "nobody" | "scheduler" | "executor";
const COLOURS: { readonly [Who in Tells]: string } = {
  nobody: "#5f6b7a",
  scheduler: "#1668c7",
  executor: "#c2600c",
};

interface Transition {
  readonly from: StateName;
  readonly to: StateName;
  readonly words: string;
  readonly tells: Tells;
}

const transitions: readonly Transition[] = STATE_NAMES.flatMap((from) =>
  Object.entries(TRANSITIONS[from]).map(([to, action]) => {
    const said = ACTIONS[action.name];
    if (said === undefined) throw new Error(`Cannot say what "${action.name}" does: add it to ACTIONS`);
    return { from, to: to as StateName, words: said[0], tells: said[1] };
  })
);

// --- The drawing ---

/** x, y, width and height. */
type Box = readonly [x: number, y: number, width: number, height: number];
type Point = readonly [x: number, y: number];
/** A place at the edge of a box: how far along its left, right, top or bottom side, from the top or from the left. */
type Anchor = readonly [side: "l" | "r" | "t" | "b", along: number];

interface Panel {
  readonly title: string;
  readonly height: number;
  /** By state; `ready*` is a second box for `ready`. */
  readonly boxes: Readonly<Record<string, Box>>;
  readonly routes: readonly (readonly [from: string, at: Anchor, ...via: Point[], to: string, at: Anchor])[];
}

const WIDTH = 1120;
const TALL = { left: [20, 50, 120, 290], right: [980, 50, 120, 290] } as const;

const PANELS: readonly Panel[] = [
  {
    title: "A task that is computed here",
    height: 465,
    boxes: {
      released: TALL.left,
      memory: TALL.right,
      waiting: [250, 165, 110, 40],
      ready: [450, 75, 120, 40],
      constrained: [450, 255, 120, 40],
      executing: [650, 165, 110, 40],
      "long-running": [815, 165, 120, 40],
      rescheduled: [630, 390, 120, 40],
      error: [820, 390, 110, 40],
      forgotten: [20, 390, 120, 40],
    },
    routes: [
      ["released", ["r", 125], "waiting", ["l", 10]],
      ["waiting", ["l", 30], "released", ["r", 145]],
      ["released", ["r", 35], "ready", ["l", 10]],
      ["ready", ["l", 30], "released", ["r", 55]],
      ["released", ["r", 215], "constrained", ["l", 10]],
      ["constrained", ["l", 30], "released", ["r", 235]],
      ["released", ["t", 60], [80, 32], [1040, 32], "memory", ["t", 60]],
      ["released", ["b", 60], "forgotten", ["t", 60]],
      ["waiting", ["t", 82], "ready", ["l", 36]],
      ["ready", ["b", 18], "waiting", ["r", 8]],
      ["waiting", ["b", 82], "constrained", ["l", 4]],
      ["constrained", ["t", 18], "waiting", ["r", 32]],
      ["waiting", ["t", 33], [283, 140], "memory", ["l", 90]],
      ["ready", ["r", 12], "memory", ["l", 37]],
      ["constrained", ["r", 28], "memory", ["l", 233]],
      ["ready", ["b", 102], "executing", ["l", 10]],
      ["constrained", ["t", 102], "executing", ["l", 30]],
      ["executing", ["t", 66], [716, 118], "memory", ["l", 68]],
      ["executing", ["r", 20], "long-running", ["l", 20]],
      ["long-running", ["r", 20], "memory", ["l", 135]],
      ["executing", ["b", 88], "error", ["t", 28]],
      ["executing", ["b", 33], "rescheduled", ["t", 48]],
      ["long-running", ["b", 87], "error", ["t", 82]],
      ["long-running", ["b", 28], "rescheduled", ["t", 102]],
      ["memory", ["l", 270], "released", ["r", 270]],
      ["rescheduled", ["l", 20], [190, 410], [190, 332], "released", ["r", 282]],
      ["error", ["b", 55], [875, 448], [8, 448], [8, 320], "released", ["l", 270]],
      ["error", ["r", 20], [1040, 410], "memory", ["b", 60]],
    ],
  },
  {
    title: "A key that is fetched from a peer",
    height: 375,
    boxes: {
      released: TALL.left,
      memory: TALL.right,
      fetch: [340, 135, 120, 40],
      flight: [660, 135, 120, 40],
      missing: [340, 265, 120, 40],
    },
    routes: [
      ["released", ["r", 95], "fetch", ["l", 10]],
      ["fetch", ["l", 30], "released", ["r", 115]],
      ["released", ["r", 225], "missing", ["l", 10]],
      ["missing", ["l", 30], "released", ["r", 245]],
      ["fetch", ["r", 10], "flight", ["l", 10]],
      ["flight", ["l", 30], "fetch", ["r", 30]],
      ["fetch", ["b", 42], "missing", ["t", 42]],
      ["missing", ["t", 78], "fetch", ["b", 78]],
      ["flight", ["b", 60], [720, 275], "missing", ["r", 10]],
      ["fetch", ["t", 60], [400, 100], "memory", ["l", 50]],
      ["flight", ["r", 20], "memory", ["l", 105]],
      ["missing", ["r", 30], "memory", ["l", 245]],
    ],
  },
  {
    title: "What was told to stop, and may be wanted again before it has",
    height: 500,
    boxes: {
      flight: [60, 80, 120, 40],
      ready: [60, 150, 120, 40],
      constrained: [60, 220, 120, 40],
      executing: [60, 290, 120, 40],
      "long-running": [60, 360, 120, 40],
      cancelled: [400, 70, 120, 340],
      resumed: [690, 70, 120, 340],
      "fetch": [980, 80, 120, 40],
      "missing": [980, 145, 120, 40],
      "waiting": [980, 210, 120, 40],
      "ready*": [980, 275, 120, 40],
      "constrained*": [980, 340, 120, 40],
      memory: [980, 420, 120, 40],
      released: [60, 430, 120, 40],
    },
    routes: [
      ["flight", ["r", 12], "cancelled", ["l", 22]],
      ["cancelled", ["l", 38], "flight", ["r", 28]],
      ["flight", ["t", 60], [120, 50], [720, 50], "resumed", ["t", 30]],
      ["ready", ["r", 20], "cancelled", ["l", 100]],
      ["constrained", ["r", 20], "cancelled", ["l", 170]],
      ["executing", ["r", 20], "cancelled", ["l", 240]],
      ["long-running", ["r", 20], "cancelled", ["l", 310]],
      ["cancelled", ["b", 36], [436, 450], "released", ["r", 20]],
      ["cancelled", ["b", 84], [484, 450], "memory", ["l", 30]],
      ["cancelled", ["r", 136], "resumed", ["l", 136]],
      ["resumed", ["l", 204], "cancelled", ["r", 204]],
      ["resumed", ["t", 60], [750, 42], [792, 42], "resumed", ["t", 102]],
      ["resumed", ["r", 30], "fetch", ["l", 20]],
      ["resumed", ["r", 95], "missing", ["l", 20]],
      ["resumed", ["r", 160], "waiting", ["l", 20]],
      ["resumed", ["r", 225], "ready*", ["l", 20]],
      ["resumed", ["r", 290], "constrained*", ["l", 20]],
      ["resumed", ["b", 60], [750, 430], "memory", ["l", 10]],
    ],
  },
];

/** The drawing, as SVG. */
export function drawStates(): string {
  const parts: string[] = [];
  const drawn = new Set<string>();
  let top = 0;
  for (const panel of PANELS) {
    parts.push(`<g transform="translate(0 ${top})">`, text(20, 22, panel.title, 'class="title"'));
    for (const route of panel.routes) {
      const transition = transitionOf(route[0], route.at(-2) as string);
      const name = `${transition.from} -> ${transition.to}`;
      if (drawn.has(name)) throw new Error(`Cannot draw "${name}" twice`);
      drawn.add(name);
      parts.push(arrow(pointsOf(panel, route), transition));
    }
    for (const [name, [x, y, width, height]] of Object.entries(panel.boxes)) {
      parts.push(
        `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="8"/>`,
        text(x + width / 2, y + height / 2 + 5, name.replace("*", ""), 'class="state"'),
      );
    }
    parts.push("</g>");
    top += panel.height;
  }
  const missing = transitions.filter(({ from, to }) => !drawn.has(`${from} -> ${to}`));
  if (missing.length > 0) {
    throw new Error(
      `Cannot draw ${missing.map(({ from, to }) => `"${from} -> ${to}"`).join(", ")}: add a route`,
    );
  }
  parts.push(...legend(top + 10));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${
      top + 40
    }" font-family="sans-serif" font-size="14">`,
    "<title>Task states of a worker</title>",
    "<style>",
    "rect { fill: #eef3f9; stroke: #2b3a4d; stroke-width: 1.4 }",
    "path { fill: none; stroke-width: 1.6 }",
    ".state { text-anchor: middle; font-weight: bold; fill: #14202e }",
    ".title { font-size: 17px; font-weight: bold; fill: #14202e }",
    "</style>",
    `<rect x="0" y="0" width="${WIDTH}" height="${top + 40}" style="fill: #ffffff; stroke: none"/>`,
    "<defs>",
    ...Object.entries(COLOURS).map(([who, colour]) =>
      `<marker id="${who}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" style="fill: ${colour}; stroke: none"/></marker>`
    ),
    "</defs>",
    ...parts,
    "</svg>",
    "",
  ].join("\n");
}

function transitionOf(from: string, to: string): Transition {
  const found = transitions.find((one) =>
    one.from === from.replace("*", "") && one.to === to.replace("*", "")
  );
  if (found === undefined) {
    throw new Error(`Cannot draw "${from} -> ${to}": the table has no such transition`);
  }
  return found;
}

function pointsOf(panel: Panel, route: Panel["routes"][number]): Point[] {
  const [from, start, ...rest] = route;
  const [to, end] = rest.splice(-2) as [string, Anchor];
  const points = [anchor(panel.boxes[from]!, start), ...rest as Point[], anchor(panel.boxes[to]!, end)];
  for (const [name, box] of Object.entries(panel.boxes)) {
    for (let i = 1; i < points.length; i++) {
      if (crosses(points[i - 1]!, points[i]!, box)) {
        throw new Error(`Cannot draw "${from} -> ${to}" across ${name}`);
      }
    }
  }
  return points;
}

function anchor([x, y, width, height]: Box, [side, along]: Anchor): Point {
  switch (side) {
    case "l":
      return [x, y + along];
    case "r":
      return [x + width, y + along];
    case "t":
      return [x + along, y];
    case "b":
      return [x + along, y + height];
  }
}

/** Whether a line has a point well inside a box. */
function crosses([x1, y1]: Point, [x2, y2]: Point, [x, y, width, height]: Box): boolean {
  for (let step = 0; step <= 400; step++) {
    const px = x1 + (x2 - x1) * step / 400, py = y1 + (y2 - y1) * step / 400;
    if (px > x + 1 && px < x + width - 1 && py > y + 1 && py < y + height - 1) return true;
  }
  return false;
}

function arrow(points: readonly Point[], { from, to, words, tells }: Transition): string {
  const path = points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${short(x)} ${short(y)}`).join("");
  const tip = `${from} to ${to}${words === "" ? "" : `: ${words.replaceAll("`", "")}`}`;
  return `<path d="${path}" stroke="${
    COLOURS[tells]
  }" marker-end="url(#${tells})"><title>${tip}</title></path>`;
}

function legend(y: number): string[] {
  const entries: readonly (readonly [Tells, string])[] = [
    ["nobody", "nothing is said"],
    ["scheduler", "the scheduler is told"],
    ["executor", "an executor is told to stop"],
  ];
  return entries.flatMap(([tells, words], i) => [
    `<path d="M${20 + 260 * i} ${y}L${60 + 260 * i} ${y}" stroke="${
      COLOURS[tells]
    }" marker-end="url(#${tells})"/>`,
    text(70 + 260 * i, y + 5, words),
  ]);
}

function text(x: number, y: number, words: string, attributes = ""): string {
  return `<text x="${short(x)}" y="${short(y)}"${attributes === "" ? "" : ` ${attributes}`}>${words}</text>`;
}

function short(value: number): string {
  return String(Math.round(value * 10) / 10);
}

// --- The page ---

/** The page around the drawing, as Markdown. */
export function describeStates(): string {
  return [
    "# Task states of a worker",
    "",
    ...wrap(
      "Made by `deno task states` from the table in `worker/machine/transitions.ts`: do not edit. A change of state " +
        "that is not in this table is a bug and ends the worker, with the story of the key in the error.",
    ),
    "",
    "![Task states of a worker](worker_states.svg)",
    "",
    ...table(
      ["state", "meaning", "goes to"],
      STATE_NAMES.map((name) => [`\`${name}\``, MEANINGS[name], goesTo(name)]),
    ),
    "",
    "## What every step says",
    "",
    ...table(
      ["from", "to", "what is said or done"],
      transitions.filter(({ words }) => words !== "").map((
        { from, to, words },
      ) => [`\`${from}\``, `\`${to}\``, words]),
    ),
    "",
    "## What is true between two events",
    "",
    ...wrap(
      "Checked after every event in tests (`worker/machine/validate.ts`): " +
        Object.keys(INVARIANTS).map((name) => name.replace(/^\d+ /, "")).join("; ") + ".",
    ),
    "",
  ].join("\n");
}

function goesTo(name: StateName): string {
  const names = transitions.filter(({ from }) => from === name).map(({ to }) => `\`${to}\``);
  return names.length === 0 ? "nothing: it is the end" : names.join(", ");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((word, i) => Math.max(word.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)];
}

/** Lines of up to 110 characters, as the formatter wants them. */
function wrap(words: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > 110) lines.push(line), line = word;
    else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

if (import.meta.main) {
  const docs = new URL("../docs/", import.meta.url);
  Deno.writeTextFileSync(new URL("worker_states.svg", docs), drawStates());
  Deno.writeTextFileSync(new URL("worker_states.md", docs), describeStates());
}
