// deno-lint-ignore-file no-console -- figures and seeds are for people
/**
 * Random walks of the machine through a small world, with every invariant checked after every event. A failure names
 * its seed: `SEED=17 deno test -A tests/worker/machine/walk_test.ts`.
 *
 * @module
 */
import { chance, Model } from "../../support/machine_model.ts";

const WALKS = 1000;
const STEPS = 600;

Deno.test(`WorkerMachine stays sound in ${WALKS} random walks of ${STEPS} steps, and comes to rest`, () => {
  const first = Deno.env.get("SEED");
  const met = new Map<string, number>();
  let events = 0;
  const base = first === undefined ? Math.floor(Date.now() / 1000) % 1_000_000 : Number(first);
  console.log(`seeds ${base} to ${base + WALKS - 1}`);
  for (let seed = base; seed < base + WALKS; seed++) {
    const model = new Model(chance(seed));
    try {
      for (let step = 0; step < STEPS; step++) model.step();
      model.settle();
      model.clear();
    } catch (error) {
      throw new Error(`Walk with seed ${seed} failed: SEED=${seed} has it again`, { cause: error });
    }
    for (const [pair, count] of model.met) met.set(pair, (met.get(pair) ?? 0) + count);
    events += model.events;
  }
  console.log(`${events} events, ${met.size} pairs of (state, event):`);
  for (const [pair, count] of [...met].sort()) console.log(`  ${pair} ${count}`);
});
