/** Who is told what of the items of a running generator, without processes. */
import { assertEquals, assertLess } from "@std/assert";
import { type ItemBatch, Items } from "../../../worker/execute/items.ts";
import { decodeValue } from "../../../protocol/value.ts";

/** A log, with what was answered so far as `[ask, items, last]`. */
function log(): { readonly items: Items; readonly answers: [number, unknown, boolean][]; bytes: number[] } {
  const answers: [number, unknown, boolean][] = [];
  const bytes: number[] = [];
  const items = new Items((ask: number, batch: ItemBatch) => {
    answers.push([ask, decodeValue(batch), batch.last]);
    bytes.push(batch.frames.reduce((sum, frame) => sum + frame.byteLength, 0));
  });
  return { items, answers, bytes };
}

Deno.test("items: nothing is encoded before somebody asks", () => {
  const { items, answers } = log();
  // Encoding this would throw.
  items.push({
    get trap(): never {
      throw new Error("encoded");
    },
  });
  items.end();
  assertEquals([answers, items.list.length], [[], 1]);
});

Deno.test("items: an answer comes with the first item that is new, and once", () => {
  const { items, answers } = log();
  items.ask(1, 0);
  items.ask(2, 1);
  assertEquals(answers, []);
  items.push("a");
  assertEquals(answers, [[1, ["a"], false]]);
  items.push("b");
  items.push("c");
  assertEquals(answers.slice(1), [[2, ["b"], false]]);
  items.ask(3, 1);
  assertEquals(answers.slice(2), [[3, ["b", "c"], false]]);
});

Deno.test("items: the end is told to those who wait, and with the last items to those who come later", () => {
  const { items, answers } = log();
  items.ask(1, 1);
  items.ask(2, 7);
  items.push("a");
  items.end();
  items.ask(3, 0);
  items.ask(4, 1);
  assertEquals(answers, [[1, [], true], [2, [], true], [3, ["a"], true], [4, [], true]]);
});

Deno.test("items: batches grow while items are small, and do not when they are large", () => {
  const small = log();
  for (let i = 0; i < 100; i++) small.items.push(i);
  for (let from = 0, ask = 1; from < 100; ask++) {
    small.items.ask(ask, from);
    from += (small.answers.at(-1)![1] as unknown[]).length;
  }
  assertEquals(small.answers.map(([, list]) => (list as unknown[]).length), [1, 4, 16, 64, 15]);
  assertEquals(small.answers.flatMap(([, list]) => list), small.items.list);

  const large = log();
  for (let i = 0; i < 8; i++) large.items.push(new Uint8Array(700_000).fill(i));
  for (let from = 0; from < 8; from++) large.items.ask(from, from);
  assertEquals(large.answers.map(([, list]) => (list as unknown[]).length), Array(8).fill(1));
  assertLess(Math.max(...large.bytes), 2 << 20);
});

Deno.test("items: one that cannot be encoded leaves who asked waiting for the end of the task", () => {
  const { items, answers } = log();
  items.push(Symbol("x"));
  items.ask(1, 0);
  items.end();
  assertEquals(answers, []);
});

Deno.test("items: what was answered is a copy", () => {
  const bytes = Uint8Array.of(1, 2, 3);
  const batches: ItemBatch[] = [];
  const items = new Items((_, batch) => batches.push(batch));
  items.push(bytes);
  items.ask(1, 0);
  bytes.fill(9);
  assertEquals(batches.map(decodeValue), [[Uint8Array.of(1, 2, 3)]]);
});
