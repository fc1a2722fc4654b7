import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { concatBytes } from "../../protocol/bytes.ts";
import { encodeMessage, serialized } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { encodeFrames, FrameDecoder, SINK_BYTES_MIN } from "../../protocol/frame.ts";
import { HELLO } from "../../protocol/handshake.ts";
import { encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import type { Frame } from "../../protocol/payload.ts";
import { randomness } from "./randomness.ts";

/** A handshake as Python writes it: length word, one frame, its length, msgpack. */
const GOLDEN_HELLO = Uint8Array.fromHex(
  "3a00000000000000" + "0100000000000000" + "2a00000000000000" +
    "83ab636f6d7072657373696f6ec0a6707974686f6e93030b00af7069636b6c652d70726f746f636f6c05",
);

function wireOf(...messages: Frame[][]): Uint8Array {
  return concatBytes(encodeFrames(messages) as Uint8Array[]);
}

function filled(byteLength: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = i * seed % 251;
  return bytes;
}

/** The three cuts: whole, byte by byte, and with the head of a next message behind. */
function decodesHoweverCut(
  make: () => FrameDecoder,
  wire: Uint8Array,
  check: (got: Frame[][]) => void,
): void {
  const whole = make();
  check(whole.push(wire));
  assert(whole.atBoundary);
  const drip = make();
  const messages: Frame[][] = [];
  for (const byte of wire) messages.push(...drip.push(Uint8Array.of(byte)));
  check(messages);
  assert(drip.atBoundary);
  const greedy = make();
  check(greedy.push(concatBytes([wire, Uint8Array.of(1, 0, 0)])));
  assertEquals(greedy.pending, 3);
  assert(!greedy.atBoundary);
}

Deno.test("B1 a message is frame count, frame lengths and frames; the handshake is 66 bytes", () => {
  assertEquals(GOLDEN_HELLO.byteLength, 66);
  assertEquals(wireOf(encodeMessage(HELLO)), GOLDEN_HELLO);
  decodesHoweverCut(() => new FrameDecoder(), GOLDEN_HELLO, (got) => {
    assertEquals(got, [[GOLDEN_HELLO.subarray(24)]]);
  });
});

Deno.test("frames of all sizes come through however the stream is cut", () => {
  const messages = [
    [filled(1)],
    [filled(3), filled(0), filled(0), filled(40)],
    [filled(10), filled(5000, 3), filled(7)],
    [filled(100), ...Array.from({ length: 50 }, (_, i) => filled(i * 37, 5))],
    [filled(70_000, 7), filled(0), filled(66_000, 11), filled(4096)],
    [filled(0)],
  ];
  decodesHoweverCut(() => new FrameDecoder(), wireOf(...messages), (got) => assertEquals(got, messages));
});

Deno.test("messages are the same cut at every pair of places", () => {
  const messages = [[filled(4), filled(9, 3)], [filled(2)], [filled(5), filled(0), filled(30, 7)]];
  const wire = wireOf(...messages);
  for (let a = 0; a <= wire.byteLength; a++) {
    const decoder = new FrameDecoder();
    const b = Math.min(wire.byteLength, a + 11);
    const got = [wire.subarray(0, a), wire.subarray(a, b), wire.subarray(b)].flatMap((part) =>
      decoder.push(part)
    );
    assertEquals(got, messages);
  }
});

Deno.test("frames are not written again after they were handed out", () => {
  const decoder = new FrameDecoder();
  const [first] = decoder.push(wireOf([filled(4), filled(600, 3)]));
  const copy = structuredClone(first);
  for (let i = 0; i < 300; i++) decoder.push(wireOf([new Uint8Array(500).fill(255)]));
  assertEquals(first, copy);
});

Deno.test("a small frame keeps no large buffer alive", () => {
  const decoder = new FrameDecoder();
  const frames = decoder.push(wireOf([filled(4), ...Array.from({ length: 2000 }, () => filled(200))]))[0]!;
  for (const frame of frames) assert((frame as Uint8Array).buffer.byteLength <= 1 << 14);
});

Deno.test("the first word is ignored", () => {
  const wire = GOLDEN_HELLO.slice();
  wire.fill(255, 0, 8);
  assertEquals(new FrameDecoder().push(wire), [[GOLDEN_HELLO.subarray(24)]]);
});

Deno.test("frames from the first large one on are left out of the first word", () => {
  const firstWord = (frames: Uint8Array[]) => new DataView(wireOf(frames).buffer).getBigUint64(0, true);
  assertEquals(firstWord([filled(10), filled(20)]), BigInt(8 + 16 + 30));
  assertEquals(firstWord([filled(5000)]), BigInt(8 + 8 + 5000));
  assertEquals(firstWord([filled(10), filled(20), filled(2048), filled(30)]), BigInt(8 + 32 + 30));
  assertEquals(firstWord([filled(10), filled(2047), filled(30)]), BigInt(8 + 24 + 10 + 2047 + 30));
});

Deno.test("small frames are written together, large ones as they are", () => {
  const large = filled(1 << 16);
  const parts = encodeFrames([[filled(5), filled(6)], [filled(7), large, filled(8)], [filled(9)]]);
  assertEquals(parts.length, 3);
  assertStrictEquals(parts[1], large);
  const file = { file: "/somewhere", byteLength: 10 };
  const [head, frame, tail] = encodeFrames([[filled(5), file, filled(6)]]);
  assertStrictEquals(frame, file);
  assertEquals((head as Uint8Array).byteLength, 16 + 24 + 5);
  assertEquals((tail as Uint8Array).byteLength, 6);
});

Deno.test("many small frames do not make one huge part", () => {
  const frames = Array.from({ length: 100 }, () => filled(50_000));
  for (const part of encodeFrames([frames])) assert(part.byteLength <= 1 << 20);
  const decoder = new FrameDecoder();
  assertEquals(decoder.push(wireOf(frames)), [frames]);
});

Deno.test("counts and lengths that lie are refused and allocate nothing", () => {
  const words = (...values: bigint[]) => new Uint8Array(new BigUint64Array(values).buffer);
  const before = Deno.memoryUsage().rss;
  const max = 2n ** 64n - 1n;
  for (
    const lie of [words(8n, max), words(8n, 2n ** 60n), words(max, max), words(8n, 0n), words(16n, 1n, max)]
  ) {
    assertThrows(() => new FrameDecoder().push(lie), ProtocolError, "dask's protocol");
  }
  const small = new FrameDecoder({ frameBytesMax: 100, framesMax: 2 });
  assertThrows(() => small.push(words(8n, 3n)), ProtocolError, "3 frames");
  const short = new FrameDecoder({ frameBytesMax: 100, framesMax: 2 });
  assertThrows(() => short.push(words(8n, 1n, 101n)), ProtocolError, "101 bytes");
  // Lengths that are legal and never come.
  const waiting: FrameDecoder[] = [];
  for (const count of [2n ** 24n, 1n]) {
    for (let i = 0; i < 100; i++) {
      const decoder = new FrameDecoder();
      decoder.push(words(8n, count, 2n ** 40n));
      waiting.push(decoder);
    }
  }
  assert(Deno.memoryUsage().rss - before < 50e6, `memory grew by ${Deno.memoryUsage().rss - before} bytes`);
  for (const decoder of waiting) decoder.abort();
});

Deno.test("a request of another protocol is refused", () => {
  const http = new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  assertThrows(() => new FrameDecoder().push(http), ProtocolError, "may not speak dask's protocol");
});

Deno.test("a frame larger than what is allocated at once grows as it comes", () => {
  const byteLength = (1 << 26) + 1000;
  const decoder = new FrameDecoder();
  const head = encodeFrames([[filled(1), { file: "", byteLength }]])[0] as Uint8Array;
  assertEquals(decoder.push(head), []);
  let left = byteLength;
  let messages: Frame[][] = [];
  while (left > 0) {
    const space = decoder.space();
    const n = Math.min(space.byteLength, left);
    space[n - 1] = 7;
    messages = decoder.commit(n);
    left -= n;
  }
  const frame = messages[0]![1] as Uint8Array;
  assertEquals(frame.byteLength, byteLength);
  assertEquals(frame.at(-1), 7);
});

/** Keeps what it is given in memory, as a file would. */
class TestSink {
  readonly chunks: Uint8Array[] = [];
  state = "open";
  readonly file: string;
  constructor(file: string) {
    this.file = file;
  }
  write(chunk: Uint8Array): void {
    assert(chunk.byteLength > 0);
    this.chunks.push(chunk.slice());
  }
  finish(): Frame {
    this.state = "finished";
    return { file: this.file, byteLength: this.chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0) };
  }
  abort(): void {
    this.state = "aborted";
  }
}

Deno.test("large data frames go to the sink, headers and pickles never do", () => {
  const big = filled(SINK_BYTES_MIN + 5, 3);
  const bigHeader = encodeMsgpack({ "num-sub-frames": 1, filler: "x".repeat(SINK_BYTES_MIN) });
  const message = encodeMessage({
    a: serialized({ header: encodeMsgpack({ "num-sub-frames": 3 }), frames: [big, filled(10), big] }),
    b: serialized({ header: bigHeader, frames: [filled(100)] }),
    c: { $: "pickled", pickle: filled(SINK_BYTES_MIN * 2), buffers: [big] },
    d: serialized({ header: encodeMsgpack({ "num-sub-frames": 1 }), frames: [big] }),
    text: "y".repeat(SINK_BYTES_MIN),
  });
  const wire = wireOf(message);
  let sinks: TestSink[] = [];
  const make = () => {
    sinks = [];
    return new FrameDecoder({
      allocate: (byteLength) => {
        assertEquals(byteLength, big.byteLength);
        const sink = new TestSink(`f${sinks.length}`);
        sinks.push(sink);
        return sink;
      },
    });
  };
  decodesHoweverCut(make, wire, (got) => {
    assertEquals(got.length, 1);
    const frames = got[0]!;
    assertEquals(sinks.map(({ state }) => state), ["finished", "finished", "finished"]);
    for (const sink of sinks) assertEquals(concatBytes(sink.chunks), big);
    const files = frames.flatMap((frame, i) => frame instanceof Uint8Array ? [] : [i]);
    assertEquals(files, [2, 4, 10]);
    for (const [i, frame] of frames.entries()) {
      if (frame instanceof Uint8Array) assertEquals(frame, message[i]);
    }
  });
});

Deno.test("a sink may decline, and is aborted when the stream breaks", () => {
  const big = filled(SINK_BYTES_MIN);
  const message = encodeMessage(
    serialized({ header: encodeMsgpack({ "num-sub-frames": 1 }), frames: [big] }),
  );
  const wire = wireOf(message);
  assertEquals(new FrameDecoder({ allocate: () => null }).push(wire), [message]);
  const sink = new TestSink("f");
  const decoder = new FrameDecoder({ allocate: () => sink });
  decoder.push(wire.subarray(0, wire.byteLength - 1));
  decoder.abort();
  assertEquals(sink.state, "aborted");
});

Deno.test("a decoder between messages keeps no grown buffer", () => {
  const big = filled(1 << 20);
  const message = encodeMessage(
    serialized({ header: encodeMsgpack({ "num-sub-frames": 1 }), frames: [big] }),
  );
  const decoder = new FrameDecoder({ allocate: () => new TestSink("f") });
  decoder.push(wireOf(message));
  assertEquals(decoder.space().byteLength, 1 << 16);
});

Deno.test("mutated streams give messages or ProtocolErrors, and little memory", () => {
  const random = randomness();
  const wire = wireOf(
    encodeMessage({ op: "get_data", keys: ["a", "b"] }),
    encodeMessage([{
      v: serialized({ header: encodeMsgpack({ "num-sub-frames": 1 }), frames: [filled(3000)] }),
    }]),
  );
  const before = Deno.memoryUsage().rss;
  for (let i = 0; i < 20_000; i++) {
    const mutated = wire.slice();
    // Half of the mutations hit the first 100 bytes, where the lengths are.
    for (let j = random.below(3); j >= 0; j--) {
      mutated[random.below(random.below(2) === 0 ? 100 : wire.byteLength)] = random.below(256);
    }
    const decoder = new FrameDecoder();
    try {
      for (let at = 0; at < mutated.byteLength;) {
        const end = at + 1 + random.below(2000);
        decoder.push(mutated.subarray(at, end));
        at = end;
      }
    } catch (error) {
      assertInstanceOf(error, ProtocolError, `seed ${random.seed}, round ${i}: ${error}`);
    }
    decoder.abort();
  }
  const grown = Deno.memoryUsage().rss - before;
  assert(grown < 200e6, `seed ${random.seed}: memory grew by ${grown} bytes`);
});
