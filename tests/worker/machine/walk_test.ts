// deno-lint-ignore-file no-console -- figures and seeds are for people
/**
 * Random histories of the machine, with every invariant checked after every event: each seed makes one with a scheduler
 * that follows dask's rules and one with a scheduler that follows none. A failure names its seed, and
 * `SEED=17 deno test -A tests/worker/machine/walk_test.ts` has it again; `SEEDS=20000` tries more.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { TRANSITIONS } from "../../../worker/machine/transitions.ts";
import { chance, Model } from "../../support/machine_model.ts";
import { EVENTS, IMPOSSIBLE, STATES, Storm } from "../../support/machine_storm.ts";

const only = Deno.env.get("SEED");
const SEEDS = only === undefined ? Number(Deno.env.get("SEEDS") ?? 1000) : 1;
/** How many events a history has at least; those that follow no rules are longer, for the rare pairs. */
const HISTORIES = [[Model, 600], [Storm, 1600]] as const;

Deno.test(`WorkerMachine stays sound in ${SEEDS} random histories of each kind, and comes to rest`, () => {
  const base = only === undefined ? Math.floor(Date.now() / 1000) % 1_000_000 : Number(only);
  console.log(`seeds ${base} to ${base + SEEDS - 1}`);
  const met = new Map<string, number>();
  const taken = new Set<string>();
  for (const [History, eventsMin] of HISTORIES) {
    let events = 0;
    for (let seed = base; seed < base + SEEDS; seed++) {
      const history = new History(chance(seed));
      try {
        while (history.shell.events < eventsMin) history.step();
        history.settle();
        history.clear();
      } catch (error) {
        throw new Error(`${History.name} with seed ${seed} failed: SEED=${seed} has it again`, {
          cause: error,
        });
      }
      for (const [pair, count] of history.shell.met) met.set(pair, (met.get(pair) ?? 0) + count);
      for (const transition of history.shell.transitions()) taken.add(transition);
      events += history.shell.events;
    }
    console.log(`${History.name}: ${events} events`);
  }
  if (SEEDS < 1000) return; // too few for the rare ones
  checkPairs(met);
  checkTransitions(taken);
});

/** The table of transitions has no row that nothing takes. */
function checkTransitions(taken: ReadonlySet<string>): void {
  const table = Object.entries(TRANSITIONS).flatMap(([from, row]) =>
    Object.keys(row).map((to) => `${from} -> ${to}`)
  );
  assertEquals(table.filter((transition) => !taken.has(transition)), []);
  console.log(`all ${table.length} transitions were taken`);
}

/** Every pair of state and event that can happen did, and no other. */
function checkPairs(met: ReadonlyMap<string, number>): void {
  const wrong: string[] = [];
  let possible = 0, times = Infinity;
  for (const event of EVENTS) {
    const counts: string[] = [];
    for (const state of STATES) {
      const count = met.get(`${state} <- ${event}`) ?? 0;
      const why = IMPOSSIBLE[event].find(([where]) => where(state))?.[1];
      if (why === undefined) {
        possible++;
        times = Math.min(times, count);
        counts.push(`${state} ${count}`);
        if (count === 0) wrong.push(`${event} never met a key ${state}`);
      } else if (count > 0) wrong.push(`${event} met a key ${state}, although ${why}`);
    }
    console.log(`${event}: ${counts.join(", ")}`);
  }
  const known = STATES.flatMap((state) => EVENTS.map((event) => `${state} <- ${event}`));
  for (const pair of met.keys()) if (!known.includes(pair)) wrong.push(`${pair} is not in the table`);
  assertEquals(wrong, []);
  console.log(`all ${possible} possible pairs of (state, event) were reached, the rarest ${times} times`);
}
