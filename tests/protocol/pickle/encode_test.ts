import { assert, assertEquals, assertThrows } from "@std/assert";
import { SerializationError } from "../../../protocol/errors.ts";
import { decodePickle } from "../../../protocol/pickle/decode.ts";
import { encodePickle, OUT_OF_BAND_BYTES_MIN, STOP, withWriter } from "../../../protocol/pickle/encode.ts";
import { plain } from "../../../protocol/pickle/globals.ts";
import { opcodeTable } from "../../../protocol/pickle/opcodes.ts";
import { bytes, vectors } from "../../vectors/vectors.ts";
import { listing } from "./disassemble.ts";
import { EXPECTED } from "./expected.ts";

/** CPython's bytes without the frame and without the memo entry of a lone text, neither of which says anything. */
function bare(pickle: Uint8Array): Uint8Array {
  let body = [...pickle];
  if (body[2] === 0x95) body = [...body.slice(0, 2), ...body.slice(11)];
  if (body.at(-2) === 0x94) body = [...body.slice(0, -2), STOP];
  return Uint8Array.from(body);
}

Deno.test("encode: single values have the bytes that CPython writes", () => {
  const names = Object.keys(EXPECTED).filter((name) =>
    /^(none|true|false|int-|float-|str-|bytes)/.test(name) && name !== "float-3.0"
  );
  assert(names.length > 25);
  for (const name of names) {
    const vector = vectors("pickles.json").find((one) => one.name === `${name}/4`);
    const pickle = bare(encodePickle(EXPECTED[name]).pickle);
    const expected = bare(bytes(vector?.pickle));
    assertEquals(pickle, expected, `${name}:\n${listing(pickle)}\n--\n${listing(expected)}`);
  }
});

Deno.test("encode: integers at every limit come back", () => {
  for (let bits = 1; bits < 80; bits++) {
    for (const delta of [-1n, 0n, 1n]) {
      for (const sign of [1n, -1n]) {
        const value = sign * (2n ** BigInt(bits) + delta);
        const safe = value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER;
        const expected = safe ? Number(value) : value;
        assertEquals(plain(decodePickle(encodePickle(value).pickle)), expected);
        if (safe) assertEquals(plain(decodePickle(encodePickle(Number(value)).pickle)), expected);
      }
    }
  }
  for (const bytes of [254, 255, 256, 257, 1000]) {
    for (
      const value of [
        2n ** BigInt(bytes * 8 - 1),
        -(2n ** BigInt(bytes * 8 - 1)),
        2n ** BigInt(bytes * 8) - 1n,
      ]
    ) {
      assertEquals(plain(decodePickle(encodePickle(value).pickle)), value);
    }
  }
});

Deno.test("encode: text of every length and kind comes back", () => {
  for (const length of [0, 1, 84, 85, 86, 127, 128, 254, 255, 256, 257, 1023, 1024, 70_000]) {
    for (const character of ["a", "é", "€", "\ud800", "😀", "\u0000", "\u0100"]) {
      const text = character.repeat(length);
      assertEquals(plain(decodePickle(encodePickle([text, text]).pickle)), [text, text]);
    }
  }
});

Deno.test("encode: many keys, more than the memo of names has room for", () => {
  const wide = Object.fromEntries(
    Array.from({ length: 12_000 }, (_, i) => [`key${i}`, { key1: i, [`key${i}`]: null }]),
  );
  assertEquals(plain(decodePickle(encodePickle(wide).pickle)), wide);
});

Deno.test("encode: buffers go beside the pickle only where that is allowed, and from 1 KiB", () => {
  const small = new Uint8Array(OUT_OF_BAND_BYTES_MIN - 1);
  const large = new Uint8Array(OUT_OF_BAND_BYTES_MIN);
  const array = new Float64Array(OUT_OF_BAND_BYTES_MIN / 8);
  const beside = encodePickle([small, large, array], { outOfBand: true });
  assertEquals(beside.buffers.length, 2);
  assertEquals(beside.writeable, [false, true]);
  assert(beside.buffers[0] === large);
  assertEquals(beside.pickle[1], 5);
  const inside = encodePickle([small, large, array]);
  assertEquals(inside.buffers, []);
  assertEquals(plain(decodePickle(inside.pickle)), [small, large, array]);
  assertEquals(plain(decodePickle(beside.pickle, beside.buffers)), [small, large, array]);
});

Deno.test("encode: shared memory is copied before it goes beside the pickle", () => {
  const shared = new Uint8Array(new SharedArrayBuffer(OUT_OF_BAND_BYTES_MIN)).fill(7);
  const { buffers } = encodePickle([shared], { outOfBand: true });
  assert(buffers[0]?.buffer instanceof ArrayBuffer);
  assertEquals(buffers[0]?.[5], 7);
});

Deno.test("encode: a failed pickle leaves nothing behind for the next one", () => {
  const part = { a: 1 };
  const first = encodePickle([part, "text", new Date(0)]).pickle;
  assertThrows(() => encodePickle([part, "text", { x: [() => 1] }]), SerializationError);
  assertEquals(encodePickle([part, "text", new Date(0)]).pickle, first);
});

Deno.test("encode: writers within writers do not meet", () => {
  const outer = withWriter((writer) => {
    writer.text("outer");
    withWriter((inner) => inner.text("inner"));
    writer.op(STOP);
    return writer.bytes();
  });
  assertEquals(plain(decodePickle(outer)), "outer");
});

Deno.test("opcodes: the table and the decoder agree on what is read", () => {
  for (const { code, name, read } of opcodeTable().values()) {
    let message = "";
    try {
      decodePickle(Uint8Array.of(0x80, 4, code));
    } catch (error) {
      message = (error as Error).message;
    }
    assertEquals(message.includes("expected an opcode"), !read, name);
    if (!read) assert(message.includes(name), message);
  }
  assertEquals(opcodeTable().size, 68);
});
