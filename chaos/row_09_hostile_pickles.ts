/**
 * Row 9: hostile pickles never execute, wherever a worker is given one: as a task, as a function to run, as a value that
 * a client puts on it, as a value that a peer serves.
 *
 * @module
 */
import { serve, type Server } from "../comm/server.ts";
import { tcp } from "../comm/tcp.ts";
import { isSerialized, pickled, serialized } from "../protocol/envelope.ts";
import { decodeValue, picklePayload } from "../protocol/value.ts";
import { FakeScheduler, type Message } from "../tests/support/fake_scheduler.ts";
import { hostilePickles, pickleBytes } from "../tests/protocol/pickle/hostile.ts";
import { taskPickle } from "../tests/worker/execute/specs.ts";
import { ask, megabytes, type Row, startSubject, type Subject, within } from "./frame.ts";

/** Each must be answered by then, ms. */
const ANSWER_MS_MAX = 5_000;
const GROWTH_MB_MAX = 200;
/** The name under which a list of so many numbers is given, to begin with: as many values as the largest payload has. */
const HARMLESS = "harmless";
const HARMLESS_NUMBERS = 500_000;
const HARMLESS_ROUNDS = 5;
/** So often they are given again at the end, at most, until the memory has come back. */
const HARMLESS_ROUNDS_MAX = 50;
/** What the payloads would do, if they could. */
const OWNED = "/tmp/owned";

const describe = new URL("./hostile_tasks.ts#describe", import.meta.url).href;

/** See the module. */
export const row: Row = {
  number: 9,
  title: "Hostile pickle never executes",
  async run(report) {
    await using scheduler = await FakeScheduler.start();
    await using worker = await startSubject(scheduler.address, ["--nthreads=1"]);
    const pickles = new Map(hostilePickles.map(([name, opcodes]) => [name, pickleBytes(opcodes)]));
    pickles.set(HARMLESS, pickleBytes(`](${"K\x01".repeat(HARMLESS_NUMBERS)}e`));
    await using peer = await hostilePeer(pickles);
    await Deno.remove(OWNED).catch(() => {});
    const harmless = async () => {
      for (const put of Object.values(PLACES)) {
        await put({ scheduler, worker, peer: peer.address, name: HARMLESS, pickle: pickles.get(HARMLESS)! });
      }
    };
    // First use makes the executor start, and gives its heap the size that work of this kind needs.
    const fresh = worker.residentTree();
    for (let round = 0; round < HARMLESS_ROUNDS; round++) await harmless();
    const before = worker.residentTree();
    report.note(`harmless ones of that size made them grow by ${megabytes(before - fresh).toFixed(1)} MB`);
    for (const [place, put] of Object.entries(PLACES)) {
      let [answered, slowest, named] = [0, 0, 0];
      const silent: string[] = [];
      const unnamed: string[] = [];
      for (const [name, _, text] of hostilePickles) {
        const at = performance.now();
        const answer = await within(
          put({ scheduler, worker, peer: peer.address, name, pickle: pickles.get(name)! }),
          ANSWER_MS_MAX,
        );
        slowest = Math.max(slowest, performance.now() - at);
        if (answer === "late") silent.push(name);
        else answered++;
        if (answer !== "late" && text.test(answer)) named++;
        else unnamed.push(`${name}: ${answer.slice(0, 100)}`);
        if (answer === "POLLUTED") {
          report.figure(`${place}, ${name}`, "the prototype is changed", "it is not", false);
        }
      }
      const count = hostilePickles.length;
      report.figure(
        `${place}: payloads answered, the slowest after ${slowest.toFixed(0)} ms`,
        answered,
        `${count} < ${ANSWER_MS_MAX} ms`,
        answered === count,
      );
      if (silent.length > 0) report.note(`no answer to: ${silent.join(", ")}`);
      if (NAMING.includes(place)) {
        report.figure(`${place}: answers that name what was refused`, named, String(count), named === count);
        for (const line of unnamed) report.note(line);
      }
    }
    report.figure("deaths", worker.alive() ? 0 : 1, "0", worker.alive());
    const log = await worker.process.log();
    const ended = [...log.matchAll(/An executor ended/g)].length;
    report.figure("deaths of executors", ended, "0", ended === 0);
    const executed = await Deno.stat(OWNED).then(() => 1, () => 0);
    report.figure("executed", executed, "0", executed === 0);
    // What is garbage goes with further work; what is kept stays.
    let grown = megabytes(worker.residentTree() - before);
    for (let round = 0; round < HARMLESS_ROUNDS_MAX && grown >= GROWTH_MB_MAX; round++) {
      await harmless();
      grown = megabytes(worker.residentTree() - before);
    }
    report.figure(
      "RSS growth of worker and executor, MB",
      grown,
      `< ${GROWTH_MB_MAX}`,
      grown < GROWTH_MB_MAX,
    );
  },
};

interface Attack {
  readonly scheduler: FakeScheduler;
  readonly worker: Subject;
  readonly peer: string;
  readonly name: string;
  readonly pickle: Uint8Array;
}

/** Gives a pickle to a worker; resolves to what it says of it. */
const PLACES: Readonly<Record<string, (attack: Attack) => Promise<string>>> = {
  "run_spec": ({ scheduler, worker, name, pickle }) => compute(scheduler, worker, `task ${name}`, pickle),
  "run": async ({ worker, pickle }) => {
    const answer = await ask(worker.address, { op: "run", function: pickled(pickle), args: [], kwargs: {} });
    return String((answer as Message)["exception_text"]);
  },
  "update_data": async ({ scheduler, worker, name, pickle }) => {
    const key = `put ${name}`;
    await ask(worker.address, { op: "update_data", data: { [key]: serialized(picklePayload(pickle)) } });
    return await compute(scheduler, worker, `of ${key}`, taskOf(`of ${key}`, key), {
      [key]: [worker.address],
    });
  },
  "peer value": ({ scheduler, worker, peer, name }) =>
    compute(scheduler, worker, `seen ${name}`, taskOf(`seen ${name}`, name), { [name]: [peer] }),
};
/** Where the worker reads the pickle, so that it can say what it is. A function to run it refuses unread. */
const NAMING = ["update_data", "peer value"];

/** Has a task run; its result as text, or the text of its failure. */
async function compute(
  scheduler: FakeScheduler,
  worker: Subject,
  key: string,
  pickle: Uint8Array,
  whoHas: Readonly<Record<string, readonly string[]>> = {},
): Promise<string> {
  scheduler.heard.length = 0;
  scheduler.say({
    op: "compute-task",
    key,
    run_id: 1,
    priority: [0, 1, 2],
    who_has: whoHas,
    nbytes: Object.fromEntries(Object.keys(whoHas).map((name) => [name, 1000])),
    run_spec: pickled(pickle),
    resource_restrictions: null,
    actor: false,
    annotations: {},
    span_id: null,
    stimulus_id: "hostile",
  });
  const end = await scheduler.hears((message) =>
    message["key"] === key && (message["op"] === "task-erred" || message["op"] === "task-finished")
  );
  if (end["op"] === "task-erred") return String(end["exception_text"]);
  const reply = await ask(worker.address, { op: "get_data", keys: [key], who: null }) as Message;
  const value = (reply["data"] as Message)[key];
  if (!isSerialized(value)) return "no value came";
  const { header, frames } = value.payload;
  return String(decodeValue({ header, frames: frames.filter((frame) => frame instanceof Uint8Array) }));
}

/** A worker that serves hostile values under their names. */
function hostilePeer(pickles: ReadonlyMap<string, Uint8Array>): Promise<Server> {
  return serve(tcp, "tcp://127.0.0.1:0", ({ fields }) => {
    const data = (fields["keys"] as string[]).map((
      key,
    ) => [key, serialized(picklePayload(pickles.get(key)!))]);
    return Promise.resolve({ reply: { status: "OK", data: Object.fromEntries(data) }, acknowledge: true });
  });
}

function taskOf(key: string, dependency: string): Uint8Array {
  return taskPickle(key, { methodcaller: `deno:${describe}` }, [{ ref: dependency }]);
}
