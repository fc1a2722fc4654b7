/**
 * The page and the drawing of the task states are what the table of transitions makes.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { describeStates, drawStates } from "../../../scripts/draw_states.ts";

for (
  const [file, make] of [["worker_states.svg", drawStates], ["worker_states.md", describeStates]] as const
) {
  Deno.test(`docs/${file} is what \`deno task states\` makes`, () => {
    assertEquals(Deno.readTextFileSync(new URL(`../../../docs/${file}`, import.meta.url)), make());
  });
}
