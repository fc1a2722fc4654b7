/**
 * Row 13: a worker stays responsive while tasks compute on every slot.
 *
 * @module
 */
import { pickled } from "../protocol/envelope.ts";
import { FakeScheduler, type Message } from "../tests/support/fake_scheduler.ts";
import { taskPickle } from "../tests/worker/execute/specs.ts";
import { p99, pinging, type Row, startSubject } from "./frame.ts";

const SLOTS = 4;
const SPIN_MS = 3_000;
/** What the scheduler asks for, s. */
const HEARTBEAT_S = 0.5;
const HEARTBEAT_SHARE = 0.2;
const PING_MS_MAX = 50;
const LOOP_MS_MAX = 100;

const spin = new URL("../tests/worker/tasks.ts#spin", import.meta.url).href;

/** See the module. */
export const row: Row = {
  number: 13,
  title: "A worker stays responsive while tasks run",
  async run(report) {
    await using scheduler = await FakeScheduler.start();
    scheduler.heartbeat = { ...scheduler.heartbeat, "heartbeat-interval": HEARTBEAT_S };
    await using worker = await startSubject(scheduler.address, [`--nthreads=${SLOTS}`]);
    const pings = pinging(worker.address);
    const from = scheduler.beats.length;
    const keys = Array.from({ length: SLOTS }, (_, i) => `spin-${i}`);
    for (const key of keys) {
      scheduler.say({
        op: "compute-task",
        key,
        run_id: 1,
        priority: [0, 1, 2],
        who_has: {},
        nbytes: {},
        run_spec: pickled(taskPickle(key, { methodcaller: `deno:${spin}` }, [SPIN_MS, 1])),
        resource_restrictions: null,
        actor: false,
        annotations: {},
        span_id: null,
        stimulus_id: "spin",
      });
    }
    for (const key of keys) {
      await scheduler.hears((message) => message["key"] === key && message["op"] === "task-finished");
    }
    const beats = scheduler.beats.slice(from);
    const took = await pings.stop();

    const gaps = beats.slice(1).map(({ at }, i) => (at - beats[i]!.at) / 1000);
    const [shortest, longest] = [Math.min(...gaps), Math.max(...gaps)];
    const [least, most] = [HEARTBEAT_S * (1 - HEARTBEAT_SHARE), HEARTBEAT_S * (1 + HEARTBEAT_SHARE)];
    report.figure(
      `${gaps.length} gaps between heartbeats, s`,
      `${shortest.toFixed(3)} to ${longest.toFixed(3)}`,
      `${least} to ${most}`,
      gaps.length >= 4 && shortest >= least && longest <= most,
    );
    report.time("ping, p99", p99(took), PING_MS_MAX);
    const interval = Math.max(
      ...beats.map(({ message }) => Number((message["metrics"] as Message)["event_loop_interval"])),
    );
    report.time("event_loop_interval", interval * 1000, LOOP_MS_MAX);
  },
};
