/**
 * Row 8: lengths that lie allocate nothing, and the connection that they came by is dropped.
 *
 * @module
 */
import { deflateSync } from "node:zlib";
import { parseAddress } from "../protocol/address.ts";
import { encodeMessage } from "../protocol/envelope.ts";
import { encodeFrames } from "../protocol/frame.ts";
import { HELLO } from "../protocol/handshake.ts";
import { encodeMsgpack } from "../protocol/msgpack/mod.ts";
import { FakeScheduler } from "../tests/support/fake_scheduler.ts";
import { ask, megabytes, type Row, settles, startSubject, watching, within } from "./frame.ts";

/** Times that each lie is told. */
const ROUNDS = 20;
/** A connection that lied must be closed by then, ms. */
const DROP_MS_MAX = 10_000;
/** How long a sentence that cannot end is kept open to see what it allocates, ms. */
const OPEN_MS = 100;
/** What a lie may cost, MB. */
const GROWTH_MB_MAX = 50;

/** See the module. */
export const row: Row = {
  number: 8,
  title: "Lying length fields allocate nothing",
  async run(report, { short = false }) {
    const rounds = short ? 1 : ROUNDS;
    await using scheduler = await FakeScheduler.start();
    await using worker = await startSubject(scheduler.address, ["--nthreads=1"]);
    // First use makes code and buffers come into memory that stay.
    for (const { bytes } of lies()) await tell(worker.address, bytes);
    await ask(worker.address, { op: "ping" });
    const before = worker.residentTree();
    let [told, dropped, highest] = [0, 0, 0];
    for (const { name, bytes } of lies()) {
      const peak = watching(() => megabytes(worker.residentTree() - before));
      let late = 0;
      for (let round = 0; round < rounds; round++) {
        if (await within(tell(worker.address, bytes), DROP_MS_MAX) === "late") late++;
      }
      told += rounds;
      dropped += rounds - late;
      const growth = peak.stop();
      highest = Math.max(highest, growth);
      if (late > 0) report.figure(`${name}: not dropped`, late, "0", false);
      if (growth >= GROWTH_MB_MAX) {
        report.figure(`${name}: RSS growth, MB`, growth, `< ${GROWTH_MB_MAX}`, false);
      }
    }
    report.figure("lies that ended in a dropped connection", dropped, String(told), dropped === told);
    report.figure(
      "highest RSS growth on the way, MB",
      highest,
      `< ${GROWTH_MB_MAX}`,
      highest < GROWTH_MB_MAX,
    );
    const grown = await settles(() => megabytes(worker.residentTree() - before), 20);
    report.figure(`RSS growth after all, MB`, grown, `< ${GROWTH_MB_MAX}`, grown < GROWTH_MB_MAX);
    report.figure("crashes", worker.alive() ? 0 : 1, "0", worker.alive());
    await ask(worker.address, { op: "ping" });
  },
};

/** Says hello and the bytes, waits a little for what that may allocate, says no more, and waits for the end. */
async function tell(address: string, bytes: Uint8Array): Promise<void> {
  const { host, port } = parseAddress(address);
  const conn = await Deno.connect({ hostname: host, port });
  try {
    const hello = encodeFrames([encodeMessage(HELLO)]) as Uint8Array[];
    for (const part of [...hello, bytes]) {
      for (let at = 0; at < part.byteLength;) at += await conn.write(part.subarray(at));
    }
    const ended = (async () => {
      const buffer = new Uint8Array(1 << 16);
      while (await conn.read(buffer) !== null);
    })();
    if (await within(ended, OPEN_MS) === "late") await conn.closeWrite();
    await ended;
  } catch {
    // It hung up in the middle, as it should.
  } finally {
    conn.close();
  }
}

interface Lie {
  readonly name: string;
  readonly bytes: Uint8Array;
}

function lies(): Lie[] {
  const whole = 2n ** 64n - 1n;
  const found: Lie[] = [];
  for (const length of [0n, 2n ** 31n, 2n ** 40n, 2n ** 53n, 2n ** 63n, whole]) {
    found.push({ name: `a prefix of ${length} bytes`, bytes: words(length, 1n, 4n, length) });
  }
  for (const count of [2n ** 24n, 2n ** 32n, 2n ** 53n, 2n ** 60n, whole]) {
    found.push({ name: `${count} frames`, bytes: words(8n, count, 1n, 1n, 1n) });
  }
  for (const length of [2n ** 26n, 2n ** 31n, 2n ** 40n, 2n ** 41n, 2n ** 60n, whole]) {
    found.push({ name: `a first frame of ${length} bytes`, bytes: words(8n, 1n, length, 0n) });
    found.push({ name: `a second frame of ${length} bytes`, bytes: words(8n, 2n, 1n, length, 0xc0n) });
  }
  const lying = (name: string, ...bytes: number[]) =>
    found.push({ name, bytes: frame(Uint8Array.from(bytes)) });
  lying("array32 of 2^32 - 1", 0xdd, 0xff, 0xff, 0xff, 0xff);
  lying("map32 of 2^32 - 1", 0xdf, 0xff, 0xff, 0xff, 0xff);
  lying("bin32 of 2^32 - 1", 0xc6, 0xff, 0xff, 0xff, 0xff);
  lying("str32 of 2^32 - 1", 0xdb, 0xff, 0xff, 0xff, 0xff);
  lying("ext32 of 2^32 - 1", 0xc9, 0xff, 0xff, 0xff, 0xff, 1);
  lying("array32 in array32", 0xdd, 0x7f, 0xff, 0xff, 0xff, 0xdd, 0x7f, 0xff, 0xff, 0xff, 0xc0);
  found.push({ name: "100,000 arrays in each other", bytes: frame(new Uint8Array(100_000).fill(0x91)) });
  found.push({ name: "100,000 maps in each other", bytes: frame(new Uint8Array(100_000).fill(0x81)) });
  const bomb = new Uint8Array(deflateSync(new Uint8Array(1 << 30)));
  for (const [name, data] of [["of 1 GB", bomb], ["of noise", new Uint8Array(1000).fill(7)]] as const) {
    found.push({ name: `zlib ${name} as a pickle`, bytes: pickledFrames(data, { compression: ["zlib"] }) });
    found.push({ name: `zlib ${name} as a value`, bytes: serializedFrames(data, { compression: ["zlib"] }) });
  }
  found.push({
    name: "shards that claim each other",
    bytes: serializedFrames(new Uint8Array(10), {
      "split-num-sub-frames": Array.from({ length: 1000 }, () => 1),
      "split-offsets": Array.from({ length: 1000 }, () => 0),
    }),
  });
  return found;
}

/** A pickle with one out-of-band buffer, in a request that reads it. */
function pickledFrames(buffer: Uint8Array, header: Record<string, unknown>): Uint8Array {
  return message(
    { op: "run", function: { __Pickled__: 1 } },
    { "pickled-obj": Uint8Array.of(0x80, 5, 0x97, 0x2e), "num-sub-frames": 1, ...header },
    buffer,
  );
}

/** A value in a request that stores it; what is never decoded costs its own bytes only. */
function serializedFrames(data: Uint8Array, header: Record<string, unknown>): Uint8Array {
  return message(
    { op: "update_data", data: { lie: { __Serialized__: 1 } } },
    { serializer: "pickle", writeable: [], "num-sub-frames": 1, ...header },
    data,
  );
}

function message(fields: unknown, header: unknown, data: Uint8Array): Uint8Array {
  const frames = [encodeMsgpack(fields), encodeMsgpack(header), data];
  const parts = encodeFrames([frames]) as Uint8Array[];
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** One whole frame, so that only its content lies. */
function frame(content: Uint8Array): Uint8Array {
  const parts = encodeFrames([[content]]) as Uint8Array[];
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Lengths as the framing writes them. */
function words(...values: readonly bigint[]): Uint8Array {
  const bytes = new Uint8Array(8 * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => view.setBigUint64(8 * i, value, true));
  return bytes;
}
