/**
 * The queue of what is ready or wanted, against sorting.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { before, Heap } from "../../../worker/machine/heap.ts";
import { chance } from "../../support/machine_model.ts";

interface Entry {
  readonly priority: readonly number[];
  readonly order: number;
  live: boolean;
}

Deno.test("before compares as dask does: by element, the shorter prefix first, the newest first among equals", () => {
  const entry = (order: number, ...priority: number[]): Entry => ({ priority, order, live: true });
  assert(before(entry(1, 0, 5), entry(2, 1, 0)));
  assert(before(entry(1, 1), entry(2, 1, -1)));
  assert(before(entry(2, 1, 1), entry(1, 1, 1)));
  assert(!before(entry(1, 1), entry(1, 1)));
});

Deno.test("Heap gives the living in order, whatever died or came meanwhile", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const { below } = chance(seed);
    const heap = new Heap<Entry>((entry) => entry.live);
    let entries: Entry[] = [];
    for (let order = 0; order < 2000; order++) {
      const dice = below(10);
      if (dice < 6) {
        const entry = { priority: [below(5), below(5)].slice(0, 1 + below(2)), order, live: true };
        heap.push(entry);
        entries.push(entry);
      } else if (dice < 8 && entries.length > 0) {
        const [dead] = entries.splice(below(entries.length), 1);
        dead!.live = false;
      } else {
        entries = entries.sort((a, b) => before(a, b) ? -1 : 1);
        const first = entries.shift() ?? null;
        assertEquals(heap.peek(), first, `seed ${seed}`);
        assertEquals(heap.pop(), first, `seed ${seed}`);
      }
    }
    assertEquals(heap.living().length, entries.length, `seed ${seed}`);
  }
});
