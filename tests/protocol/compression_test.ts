import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { deflateSync, zstdCompressSync } from "node:zlib";
import { DECOMPRESSED_BYTES_MAX, mergeFrames } from "../../protocol/compression.ts";
import { ProtocolError, SerializationError } from "../../protocol/errors.ts";

const text = new TextEncoder().encode("words and words and words ".repeat(100));
const a = Uint8Array.of(1, 2);
const b = Uint8Array.of(3);
const c = Uint8Array.of(4, 5);

Deno.test("frames that are neither compressed nor split are the frames themselves", () => {
  const frames = [a, b];
  assertStrictEquals(mergeFrames({}, frames), frames);
  assertStrictEquals(mergeFrames({ compression: [null, null] }, frames), frames);
  const both = { compression: [null, null], "split-num-sub-frames": [1, 1], "split-offsets": [0, 1] };
  assertStrictEquals(mergeFrames(both, frames), frames);
});

Deno.test("zlib and zstd frames are decompressed", () => {
  const frames = [new Uint8Array(deflateSync(text)), a, new Uint8Array(zstdCompressSync(text))];
  assertEquals(mergeFrames({ compression: ["zlib", null, "zstd"] }, frames), [text, a, text]);
});

Deno.test("a frame that Python compressed with zlib is decompressed", () => {
  const python = Uint8Array.fromHex(
    "789c4b4c4a4e494d4bcfc8cccacec9cdcb2f282c2a2e292d2bafa8ac4ac42903004250163f",
  );
  const got = mergeFrames({ compression: ["zlib"] }, [python]);
  assertEquals(new TextDecoder().decode(got[0]), "abcdefghijklmnopqrstuvwxyz".repeat(2));
});

Deno.test("shards are joined", () => {
  const header = { "split-num-sub-frames": [2, 1], "split-offsets": [0, 2] };
  assertEquals(mergeFrames(header, [a, b, c]), [Uint8Array.of(1, 2, 3), c]);
  const zlib = new Uint8Array(deflateSync(text));
  const joined = mergeFrames({ compression: ["zlib", null, "zlib"], ...header }, [zlib, b, zlib]);
  assertEquals(joined.map(({ byteLength }) => byteLength), [text.byteLength + 1, text.byteLength]);
});

Deno.test("codecs that are not here are named, with the way out", () => {
  for (const name of ["lz4", "snappy", "blosc", 5]) {
    const error = assertThrows(
      () => mergeFrames({ compression: [name] }, [a]),
      SerializationError,
      String(name),
    );
    assert(error.message.includes("distributed.comm.compression"));
  }
});

Deno.test("headers that lie are refused", () => {
  const wrong = [
    { compression: "zlib" },
    { compression: ["zlib"] },
    { compression: [null, "zlib"] },
    { compression: ["zstd", null] },
    { "split-num-sub-frames": [3], "split-offsets": [0] },
    { "split-num-sub-frames": [1, 1, 1], "split-offsets": [0, 0, 0] },
    { "split-num-sub-frames": [2, 2], "split-offsets": [0, 0] },
    { "split-num-sub-frames": [2], "split-offsets": [-1] },
    { "split-num-sub-frames": [2], "split-offsets": [] },
    { "split-num-sub-frames": ["2"], "split-offsets": [0] },
  ];
  for (const header of wrong) assertThrows(() => mergeFrames(header, [a, b]), ProtocolError);
});

Deno.test("a bomb is not blown up beyond the limit", () => {
  const bomb = new Uint8Array(deflateSync(new Uint8Array(DECOMPRESSED_BYTES_MAX + 1)));
  assertThrows(() => mergeFrames({ compression: ["zlib"] }, [bomb]), ProtocolError);
});
