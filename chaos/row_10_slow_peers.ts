/**
 * Row 10: slow, half-open, busy and dead peers do not stall others.
 *
 * @module
 */
import { serve, type Server } from "../comm/server.ts";
import { tcp } from "../comm/tcp.ts";
import { parseAddress } from "../protocol/address.ts";
import { decodeMessage, encodeMessage, pickled, serialized } from "../protocol/envelope.ts";
import { encodeFrames, FrameDecoder } from "../protocol/frame.ts";
import { HELLO } from "../protocol/handshake.ts";
import { encodeValue } from "../protocol/value.ts";
import { FakeScheduler, type Message } from "../tests/support/fake_scheduler.ts";
import { taskPickle } from "../tests/worker/execute/specs.ts";
import {
  ask,
  p99,
  pause,
  pinging,
  type Report,
  type Row,
  startSubject,
  type Subject,
  within,
} from "./frame.ts";

/** Others must be served faster than this in 99 of 100 cases, ms. */
const SERVED_MS_MAX = 100;
/** The second holder is asked by then when the first refuses connections, ms. */
const SECOND_MS_MAX = 3_000;
/** By then a result must have come whatever the first holder does, ms. */
const RESULT_MS_MAX = 60_000;
const LORISES = 200;
const STALLED_READERS = 3;
const STALLED_BYTES = 50 * 2 ** 20;
/** The length of the observation while connections hang, ms. */
const HANGING_MS = 3_000;
const BUSY_ANSWERS = 5;

const add = new URL("../tests/worker/tasks.ts#add", import.meta.url).href;
const value = serialized(encodeValue(41));

/** See the module. */
export const row: Row = {
  number: 10,
  title: "Slow or half-open peers do not stall others",
  async run(report, { short = false }) {
    const hangingMs = short ? 300 : HANGING_MS;
    await using scheduler = await FakeScheduler.start();
    await using worker = await startSubject(scheduler.address, ["--nthreads=1"]);
    await ask(worker.address, { op: "ping" });

    await served(report, worker, "a peer that writes byte by byte", async () => {
      const answer = await dribble(worker.address, { op: "update_data", data: { dribbled: value } });
      report.figure("its answer", JSON.stringify(answer["status"]), '"OK"', answer["status"] === "OK");
    });
    await served(report, worker, `${LORISES} connections that never finish their hello`, async () => {
      const hello = bytesOf(HELLO);
      const conns = await Promise.all(
        Array.from({ length: LORISES }, async (_, i) => {
          const conn = await open(worker.address);
          await conn.write(hello.subarray(0, i % hello.byteLength));
          return conn;
        }),
      );
      await pause(hangingMs);
      for (const conn of conns) conn.close();
    });
    await served(report, worker, `${STALLED_READERS} readers of 50 MB that do not read`, async () => {
      const large = serialized(encodeValue(new Uint8Array(STALLED_BYTES)));
      await ask(worker.address, { op: "update_data", data: { large } });
      const conns = await Promise.all(
        Array.from({ length: STALLED_READERS }, async () => {
          const conn = await open(worker.address);
          await conn.write(bytesOf(HELLO));
          await conn.write(bytesOf({ op: "get_data", keys: ["large"], who: null }));
          return conn;
        }),
      );
      await pause(hangingMs);
      for (const conn of conns) conn.close();
    });

    await using good = await holder(() => "data");
    let asked = 0;
    await using busy = await holder(() => ++asked > BUSY_ANSWERS ? "data" : "busy");
    const over = Promise.withResolvers<void>();
    await using blackhole = await holder(() => "silence", over.promise);
    using _ = { [Symbol.dispose]: () => over.resolve() };
    using deaf = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const cases: [name: string, holders: readonly string[], limitMs: number][] = [
      ["a holder that is busy five times", [busy.address], RESULT_MS_MAX],
      ["a holder that refuses connections, and another", ["tcp://127.0.0.1:1", good.address], SECOND_MS_MAX],
      [
        "a holder that accepts and says nothing, and another",
        [`tcp://127.0.0.1:${deaf.addr.port}`, good.address],
        RESULT_MS_MAX,
      ],
    ];
    // It takes 40 s to lose patience with somebody who was there a moment ago.
    if (!short) {
      cases.push([
        "a holder that says hello and nothing more, and another",
        [blackhole.address, good.address],
        RESULT_MS_MAX,
      ]);
    }
    for (const [name, holders, limit] of cases) {
      await served(report, worker, name, async () => {
        // Which holder is asked first is chance: a few keys meet both.
        const results = await Promise.all(
          Array.from({ length: 4 }, (_, i) => compute(scheduler, `${name} ${i}`, holders)),
        );
        const slowest = Math.max(...results.map(({ ms }) => ms));
        const right = results.every(({ outcome }) => outcome === "task-finished");
        report.figure(
          `${name}: results`,
          results.map(({ outcome }) => outcome).join(", "),
          "task-finished",
          right,
        );
        report.time(`${name}: the slowest result`, slowest, limit);
      });
    }
    report.figure("deaths", worker.alive() ? 0 : 1, "0", worker.alive());
  },
};

/** Measures how others are served meanwhile. */
async function served(
  report: Report,
  worker: Subject,
  name: string,
  body: () => Promise<void>,
): Promise<void> {
  const pings = pinging(worker.address);
  await body();
  report.time(`${name}: others are served, p99`, p99(await pings.stop()), SERVED_MS_MAX);
}

/** Has a task run whose one dependency is at `holders`. */
async function compute(
  scheduler: FakeScheduler,
  key: string,
  holders: readonly string[],
): Promise<{ readonly ms: number; readonly outcome: unknown }> {
  const dependency = `input of ${key}`;
  const at = performance.now();
  scheduler.say({
    op: "compute-task",
    key,
    run_id: 1,
    priority: [0, 1, 2],
    who_has: { [dependency]: holders },
    nbytes: { [dependency]: 100 },
    run_spec: pickled(taskPickle(key, { methodcaller: `deno:${add}` }, [{ ref: dependency }, 1])),
    resource_restrictions: null,
    actor: false,
    annotations: {},
    span_id: null,
    stimulus_id: "slow",
  });
  const end = await within(
    scheduler.hears((message) =>
      message["key"] === key && (message["op"] === "task-erred" || message["op"] === "task-finished")
    ),
    RESULT_MS_MAX,
  );
  return { ms: performance.now() - at, outcome: end === "late" ? end : end["op"] };
}

/** A peer that holds every key, and may not want to say so; one that is silent stays so until `over`. */
function holder(mood: () => "data" | "busy" | "silence", over = Promise.resolve()): Promise<Server> {
  return serve(tcp, "tcp://127.0.0.1:0", ({ op, fields }) => {
    const state = mood();
    if (state === "silence") return over.then(() => null);
    if (op !== "get_data") return Promise.resolve({ reply: new TextEncoder().encode("pong") });
    switch (state) {
      case "busy":
        return Promise.resolve({ reply: { status: "busy" } });
      case "data": {
        const data = (fields["keys"] as string[]).map((key) => [key, value]);
        return Promise.resolve({
          reply: { status: "OK", data: Object.fromEntries(data) },
          acknowledge: true,
        });
      }
    }
  }, { closeMsMax: 0 });
}

/** A request whose bytes come one by one; its answer. */
async function dribble(address: string, request: Message): Promise<Message> {
  const conn = await open(address);
  try {
    for (const message of [HELLO, request]) {
      for (const byte of bytesOf(message)) {
        await conn.write(Uint8Array.of(byte));
        await pause(1);
      }
    }
    const decoder = new FrameDecoder();
    const messages: unknown[] = [];
    const buffer = new Uint8Array(1 << 14);
    while (messages.length < 2) {
      const n = await conn.read(buffer);
      if (n === null) return { status: "the connection was closed" };
      messages.push(...decoder.push(buffer.subarray(0, n)).map((frames) => decodeMessage(frames)));
    }
    return messages[1] as Message;
  } finally {
    conn.close();
  }
}

function open(address: string): Promise<Deno.TcpConn> {
  const { host, port } = parseAddress(address);
  return Deno.connect({ hostname: host, port });
}

function bytesOf(message: unknown): Uint8Array {
  const parts = encodeFrames([encodeMessage(message)]) as Uint8Array[];
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}
