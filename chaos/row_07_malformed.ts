/**
 * Row 7: malformed bytes cannot kill or bloat a worker, whether they come to its port or on the scheduler's stream.
 *
 * @module
 */
import { encodeMessage, pickled, serialized } from "../protocol/envelope.ts";
import { encodeFrames } from "../protocol/frame.ts";
import { HELLO } from "../protocol/handshake.ts";
import { parseAddress } from "../protocol/address.ts";
import { encodeValue } from "../protocol/value.ts";
import { type Randomness, randomness } from "../tests/protocol/randomness.ts";
import { FakeScheduler } from "../tests/support/fake_scheduler.ts";
import { isZombie, processTree } from "../tests/support/proc.ts";
import { taskPickle } from "../tests/worker/execute/specs.ts";
import {
  ask,
  megabytes,
  p99,
  pinging,
  type Report,
  type Row,
  settles,
  startSubject,
  type Subject,
  within,
} from "./frame.ts";
import { mutateBytes, mutateFields, pick } from "./mutate.ts";

/** An answer, or the end of the connection, must have come by then, ms. */
const HANG_MS = 30_000;
/** A worker that does not go on must have ended by then, ms. */
const END_MS_MAX = 40_000;
/** Looked for after so many stream messages, and when a worker ended. */
const ZOMBIES_EVERY = 100;
/** Connections used at a time. */
const LANES = 4;
/** What was stored is freed after so many requests. */
const FREE_EVERY = 500;

/** See the module. */
export const row: Row = {
  number: 7,
  title: "Malformed bytes cannot kill or bloat a peer",
  async run(report, { seed, requests }) {
    const chance = randomness(seed);
    await port(report, chance, requests);
    await stream(report, chance, Math.ceil(requests / 10));
  },
};

/** Requests to the listening port. */
async function port(report: Report, chance: Randomness, count: number): Promise<void> {
  await using scheduler = await FakeScheduler.start();
  await using worker = await startSubject(scheduler.address, ["--nthreads=1"]);
  // First use makes code and buffers come into memory that stay.
  for (let i = 0; i < 200; i++) await attack(worker.address, chance);
  await free(worker.address);
  const [before, filesBefore] = [worker.resident(), worker.openFiles()];
  const pings = pinging(worker.address);
  let [left, hangs, halfway] = [count, 0, 0];
  const lane = async () => {
    while (left > 0 && worker.alive()) {
      left--;
      if (await within(attack(worker.address, chance), HANG_MS) === "late") hangs++;
      if (left % FREE_EVERY === 0) await free(worker.address);
      if (left === Math.floor(count / 2)) halfway = megabytes(worker.resident() - before);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  report.figure("requests", count - left, String(count), left <= 0);
  report.figure("crashes", worker.alive() ? 0 : 1, "0", worker.alive());
  report.figure("hangs", hangs, "0", hangs === 0);
  if (!worker.alive()) return report.note((await worker.process.log()).slice(-2_000));
  report.note(`a ping meanwhile took ${p99(await pings.stop()).toFixed(1)} ms in the 99th of 100 cases`);
  await free(worker.address);
  const grown = await settles(() => megabytes(worker.resident() - before), 50);
  report.note(`RSS had grown by ${halfway.toFixed(1)} MB when half of them had come`);
  report.figure("RSS growth, MB", grown, "< 100", grown < 100);
  const files = await settles(() => worker.openFiles() - filesBefore, 0);
  report.figure("growth of open files", files, "< 20", files < 20);
}

/** One request on a connection of its own, made wrong in its fields, its frames or its bytes; until it is closed. */
async function attack(address: string, chance: Randomness): Promise<void> {
  const { host, port } = parseAddress(address);
  const conn = await Deno.connect({ hostname: host, port });
  try {
    const way = chance.below(4);
    const request = pick(REQUESTS, chance);
    let bytes = wire(
      encodeMessage(way < 2 ? mutateFields(request, chance) : request),
      way === 2 ? chance : null,
    );
    const hello = wire(encodeMessage(HELLO), null);
    // The handshake can be wrong, too.
    if (way === 3) bytes = mutateBytes(chance.below(4) === 0 ? joined([hello, bytes]) : bytes, chance);
    await writeAll(conn, way === 3 && chance.below(4) === 0 ? bytes : joined([hello, bytes]));
    await conn.closeWrite();
    const buffer = new Uint8Array(1 << 16);
    while (await conn.read(buffer) !== null);
  } catch {
    // It hung up in the middle, as it may.
  } finally {
    conn.close();
  }
}

/** Messages of the scheduler, until the worker goes on or has ended; a new one takes the place of one that ended. */
async function stream(report: Report, chance: Randomness, count: number): Promise<void> {
  await using scheduler = await FakeScheduler.start();
  let worker: Subject = await startSubject(scheduler.address, ["--nthreads=1"]);
  let [works, ended, stuck, zombies, slowest] = [0, 0, 0, 0, 0];
  const codes = new Map<string, number>();
  try {
    let before = worker.resident();
    let grown = 0;
    for (let i = 0; i < count; i++) {
      await babble(scheduler, chance);
      const at = performance.now();
      const fate = await within(
        Promise.race([goesOn(scheduler, i), worker.process.ended]),
        END_MS_MAX,
      );
      slowest = Math.max(slowest, performance.now() - at);
      if (fate !== "works" || i % ZOMBIES_EVERY === 0) {
        zombies += processTree(worker.pid).filter(isZombie).length;
      }
      grown = Math.max(grown, megabytes(worker.resident() - before));
      if (fate === "works") works++;
      else {
        if (fate === "late") stuck++;
        else ended++;
        const how = fate === "late" ? "stuck" : fate.signal ?? `code ${fate.code}`;
        codes.set(how, (codes.get(how) ?? 0) + 1);
        if (fate !== "late" && fate.code !== 0) report.note((await worker.process.log()).slice(-1_000));
        await worker[Symbol.asyncDispose]();
        scheduler.heard.length = 0;
        worker = await startSubject(scheduler.address, ["--nthreads=1"]);
        before = worker.resident();
      }
    }
    report.figure(
      "stream messages that ended in something else than work or the end",
      stuck,
      "0",
      stuck === 0,
    );
    report.note(
      `${works} worked, ${ended} ended the worker (${
        [...codes].map(([how, n]) => `${how}: ${n}`).join(", ")
      })`,
    );
    report.time("slowest of these", slowest, END_MS_MAX);
    report.figure("zombies", zombies, "0", zombies === 0);
    report.note(`RSS growth of a worker at most ${grown.toFixed(1)} MB`);
  } finally {
    await worker[Symbol.asyncDispose]();
  }
}

/** Says something wrong on the stream; one time in 100 the framing is broken, after which there is no way on. */
async function babble(scheduler: FakeScheduler, chance: Randomness): Promise<void> {
  const message = pick(STREAM, chance);
  const way = chance.below(100);
  if (way === 0) {
    await scheduler.babbleBytes(mutateBytes(wire(encodeMessage([message]), null), chance)).catch(() => {});
    return scheduler.hangUp();
  }
  if (way < 50) return scheduler.say(mutateFields(message, chance));
  if (way < 60) return scheduler.say(message, mutateFields(pick(STREAM, chance), chance), message);
  const frames = (encodeMessage([message]) as Uint8Array[]).slice();
  const at = chance.below(frames.length);
  frames[at] = mutateBytes(frames[at]!, chance);
  await scheduler.babble(frames).catch(() => {});
}

/** A steal-request is answered in turn: after it, all that was said before has been handled. */
async function goesOn(scheduler: FakeScheduler, id: number): Promise<"works"> {
  scheduler.heard.length = 0;
  scheduler.say({ op: "steal-request", key: "nothing", stimulus_id: `after-${id}` });
  await scheduler.hears((message) => message["stimulus_id"] === `after-${id}`);
  return "works";
}

/** Keys that arrived by `update_data` in whatever disguise. */
async function free(address: string): Promise<void> {
  const keys = await ask(address, { op: "keys" });
  await ask(address, { op: "free_keys", keys, stimulus_id: "fuzz" });
}

/** A message as bytes; `chance` makes one of its frames wrong, so that the framing is right and the content is not. */
function wire(frames: ReturnType<typeof encodeMessage>, chance: Randomness | null): Uint8Array {
  const whole = frames as Uint8Array[];
  if (chance !== null) {
    const at = chance.below(whole.length);
    whole[at] = mutateBytes(whole[at]!, chance);
  }
  return joined(encodeFrames([whole]) as Uint8Array[]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength;) at += await conn.write(bytes.subarray(at));
}

const value = serialized(encodeValue({ list: [1, "two", new Uint8Array(8)] }));
const nobody = "tcp://127.0.0.1:1";
const add = new URL("../tests/worker/tasks.ts#add", import.meta.url).href;

/** Requests of peers, schedulers and clients. None of them ends a worker when it is right. */
const REQUESTS: readonly Record<string, unknown>[] = [
  { op: "ping", reply: true },
  { op: "get_data", keys: ["a", "b"], who: nobody, serializers: ["dask", "pickle"] },
  { op: "update_data", data: { a: value, b: value }, reply: true, stimulus_id: "s" },
  { op: "gather", who_has: { c: [nobody] } },
  { op: "free_keys", keys: ["a"], stimulus_id: "s" },
  { op: "keys" },
  { op: "identity" },
  { op: "versions" },
  { op: "get_logs", n: 3, start: 0, timestamps: true },
  { op: "call_stack", keys: ["a"] },
  { op: "profile", start: 0, stop: null, key: null },
  { op: "get_story", keys_or_stimuli: ["a", "s"] },
  { op: "get_monitor_info", recent: true, start: 0 },
  { op: "dump_state", exclude: [] },
  { op: "plugin-add", plugin: new Uint8Array(20), name: "p" },
  { op: "plugin-remove", name: "p" },
  { op: "run", function: pickled(Uint8Array.of(0x80, 4, 0x4e, 0x2e)), args: [], kwargs: {}, wait: true },
  { op: "run_coroutine", function: new Uint8Array(9), args: value, kwargs: {} },
  { op: "upload_file", filename: "x.py", data: value },
  { op: "actor_execute", actor: "a", function: "f", args: [], kwargs: {} },
  { op: "benchmark_memory", duration: 0 },
  { op: "no-such-op", x: 1 },
];

const [a, b] = ["a", "b"];
const task = (key: string, dependencies: readonly string[]): Record<string, unknown> => ({
  op: "compute-task",
  key,
  run_id: 1,
  priority: [0, 1, 2],
  who_has: Object.fromEntries(dependencies.map((name) => [name, [nobody]])),
  nbytes: Object.fromEntries(dependencies.map((name) => [name, 100])),
  run_spec: pickled(
    taskPickle(key, { methodcaller: `deno:${add}` }, [1, ...dependencies.map((ref) => ({ ref }))]),
  ),
  resource_restrictions: null,
  actor: false,
  annotations: {},
  span_id: null,
  stimulus_id: "s",
});
/** What a scheduler says to a worker, except that it is to end. */
const STREAM: readonly Record<string, unknown>[] = [
  task(a, []),
  task(b, [a]),
  { op: "free-keys", keys: [a, b], stimulus_id: "s" },
  { op: "remove-replicas", keys: [a], stimulus_id: "s" },
  { op: "acquire-replicas", who_has: { [a]: [nobody] }, nbytes: { [a]: 10 }, stimulus_id: "s" },
  { op: "refresh-who-has", who_has: { [a]: [nobody] }, stimulus_id: "s" },
  { op: "steal-request", key: b, stimulus_id: "s" },
  { op: "cancel-compute", key: b, stimulus_id: "s" },
  { op: "worker-status-change", status: "running", stimulus_id: "s" },
  { op: "remove-worker", worker: nobody, stimulus_id: "s" },
];
