/**
 * Pictures of graphs: whole and summed up, in layers, with whatever labels.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { escapeMarkup } from "../../base/markup.ts";
import { dotOf, type Picture, svgOf } from "../../dispatch/draw.ts";
import { DispatchGraph, op } from "../../dispatch/mod.ts";

/** A picture of labels and what each needs. */
function picture(...nodes: (readonly [label: string, ...parents: number[]])[]): Picture {
  return {
    boxes: nodes.map(([label]) => ({ label, kind: "call" })),
    parents: nodes.map(([, ...parents]) => parents),
  };
}

/** Texts of the boxes with their centres, in order. */
function boxes(
  svg: string,
): { readonly text: string; readonly x: number; readonly y: number; readonly width: number }[] {
  return [...svg.matchAll(/<rect x="(\S+)" y="(\S+)" width="(\S+)".*?<text [^>]*>(.*?)<\/text>/g)].map(
    ([, x, y, width, text]) => ({
      text: text!,
      x: Number(x) + Number(width) / 2,
      y: Number(y),
      width: Number(width),
    }),
  );
}

Deno.test("a node stands below all that it needs, a source just above its first use", () => {
  const svg = svgOf(picture(["a"], ["b", 0], ["late"], ["c", 1, 2, 0]));
  const y = Object.fromEntries(boxes(svg).map(({ text, y }) => [text, y]));
  assert(y["a"]! < y["b"]! && y["b"]! < y["c"]!);
  assertEquals(y["late"], y["b"]);
  assertEquals(svg.match(/marker-end/g)!.length, 4);
});

Deno.test("boxes of a layer do not overlap, and edges that need not cross do not", () => {
  // Two ladders, written down crosswise.
  const svg = svgOf(
    picture(["a"], ["b"], ["a2", 1], ["b2", 0], ["a3", 3], ["b3", 2], ["long label of a box", 0]),
  );
  const all = boxes(svg);
  const x = Object.fromEntries(all.map(({ text, x }) => [text, x]));
  assertEquals(Math.sign(x["a"]! - x["b"]!), Math.sign(x["b2"]! - x["a2"]!));
  assertEquals(Math.sign(x["b2"]! - x["a2"]!), Math.sign(x["a3"]! - x["b3"]!));
  for (const one of all) {
    for (const other of all) {
      if (one === other || one.y !== other.y) continue;
      assert(Math.abs(one.x - other.x) >= (one.width + other.width) / 2, `${one.text} and ${other.text}`);
    }
  }
});

Deno.test("an edge over several layers runs between their boxes", () => {
  const svg = svgOf(picture(["top"], ["one", 0], ["two", 1], ["three", 2], ["end", 3, 0]));
  const long = svg.match(/d="(M[^"]*)" fill="none"/g)!.find((path) => path.includes("L"))!;
  const [, x, y] = /L(\S+) (\S+?)C/.exec(long)!;
  const passed = boxes(svg).find((box) => box.y + 24 === Number(y))!;
  assert(Math.abs(passed.x - Number(x)) > passed.width / 2, svg);
});

Deno.test("a large graph is summed up by label and layer, and drawn whole when asked to", () => {
  const nodes: [string, ...number[]][] = Array.from({ length: 150 }, () => ["load"]);
  for (let i = 0; i < 150; i++) nodes.push(["clean", i]);
  nodes.push(["sum", ...Array.from({ length: 150 }, (_, i) => 150 + i)]);
  const large = picture(...nodes);
  assertEquals(boxes(svgOf(large)).map(({ text }) => text), ["load ×150", "clean ×150", "sum"]);
  assertEquals(svgOf(large).match(/marker-end/g)!.length, 2);
  assertEquals(boxes(svgOf(large, true)).length, 301);
  // Few nodes, but more side by side than can be read.
  assertEquals(boxes(svgOf(picture(...nodes.slice(0, 41)))).map(({ text }) => text), ["load ×41"]);
  assertEquals(boxes(svgOf(picture(...nodes.slice(0, 40)))).length, 40);
  assertEquals(boxes(svgOf(picture(["a"], ["a"], ["b", 0, 1]), false)).map(({ text }) => text), [
    "a ×2",
    "b",
  ]);
});

Deno.test("a long chain is one box, and more labels than fit become others", () => {
  const chain = picture(
    ...Array.from({ length: 100_000 }, (_, i) => i === 0 ? ["inc"] as const : ["inc", i - 1] as const),
  );
  assertEquals(boxes(svgOf(chain)).map(({ text }) => text), ["inc ×100000 ↻"]);
  const many = svgOf(picture(...Array.from({ length: 300 }, (_, i) => [`task ${i}`] as const)));
  assertEquals(boxes(many).length, 41);
  assertStringIncludes(many, "others ×260");
});

Deno.test("where all depend on all, edges run straight and the picture stays small", () => {
  const dense = picture(
    ...Array.from({ length: 200 }, (_, i) => [`n${i}`, ...Array.from({ length: i }, (_, j) => j)] as const),
  );
  const whole = svgOf(dense, true);
  assertEquals(whole.match(/marker-end/g)!.length, 200 * 199 / 2);
  assert(!/L\S+ \S+C/.test(whole));
  assert(whole.length < 5_000_000);
  assertEquals(boxes(whole).length, 200);
});

Deno.test("labels are escaped and cut, whatever they hold", () => {
  const hostile = `</text><script>alert("1")</script>&'\0\ud800`;
  const svg = svgOf(picture([hostile], ["\u{1F600}".repeat(40)]));
  assert(!svg.includes("<script>"), svg);
  assertStringIncludes(
    svg,
    "<title>&lt;/text&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;\ufffd\ufffd</title>",
  );
  assertEquals(boxes(svg)[1]!.text, "\u{1F600}".repeat(27) + "…");
  assert(svg.isWellFormed());
  assertEquals(escapeMarkup("\u{1F600}\udc00a\ud83d"), "\u{1F600}\ufffda\ufffd");
  const dot = dotOf(picture(['say "hi" \\n\n', 0]));
  assertStringIncludes(dot, String.raw`0 [label="say \"hi\" \\n ",`);
  assertStringIncludes(dotOf(picture(["a"], ["b", 0])), "  0 -> 1;\n");
});

Deno.test("nothing gives an empty picture, and another format is refused", () => {
  const graph = new DispatchGraph([]);
  assertStringIncludes(graph.visualize(), "</svg>");
  assertEquals(graph.visualize("dot").match(/->|label/), null);
  // As JavaScript calls it.
  assertThrows(() => graph.visualize("png" as "svg"), TypeError, 'expected "svg" or "dot"');
});

Deno.test("nodes and graphs are shown in notebooks by their picture", () => {
  const display = Symbol.for("Jupyter.display");
  const one = op(() => 1);
  const two = op((x: number) => x + 1, one);
  two.label = "<two>";
  for (const shown of [two, new DispatchGraph([two])]) {
    const bundle = (shown as unknown as Record<symbol, () => Record<string, string>>)[display]!();
    assertEquals(Object.keys(bundle), ["text/plain", "image/svg+xml"]);
    assertEquals(bundle["text/plain"], String(shown));
    assertStringIncludes(bundle["image/svg+xml"]!, "&lt;two&gt;");
    assertEquals(boxes(bundle["image/svg+xml"]!).length, 2);
  }
});
