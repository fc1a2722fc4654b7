import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";
import { arrayHeader, decodeMsgpack, DEPTH_MAX, encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import { randomness } from "./randomness.ts";

function bytes(hex: string): Uint8Array {
  return Uint8Array.fromHex(hex.replaceAll(" ", ""));
}
function roundTrip(value: unknown): unknown {
  return decodeMsgpack(encodeMsgpack(value));
}

Deno.test("msgpack forms, both ways", () => {
  const forms: readonly [value: unknown, hex: string][] = [
    [null, "c0"],
    [true, "c3"],
    [false, "c2"],
    [0, "00"],
    [127, "7f"],
    [128, "cc80"],
    [256, "cd0100"],
    [65536, "ce00010000"],
    [2 ** 32, "cf0000000100000000"],
    [Number.MAX_SAFE_INTEGER, "cf001fffffffffffff"],
    [2n ** 64n - 1n, "cfffffffffffffffff"],
    [-1, "ff"],
    [-32, "e0"],
    [-33, "d0df"],
    [-(2 ** 31), "d280000000"],
    [-(2 ** 31) - 1, "d3ffffffff7fffffff"],
    [-(2n ** 63n), "d38000000000000000"],
    [1.5, "cb3ff8000000000000"],
    ["", "a0"],
    ["é", "a2c3a9"],
    ["🔑", "a4f09f9491"],
    [Uint8Array.of(1, 2), "c4020102"],
    [[], "90"],
    [[1, [2]], "9201 9102"],
    [{}, "80"],
    [{ a: 1 }, "81a16101"],
  ];
  for (const [value, hex] of forms) {
    assertEquals(encodeMsgpack(value), bytes(hex));
    assertEquals(decodeMsgpack(bytes(hex)), value);
  }
});

Deno.test("B19 text and bytes are told apart by their type", () => {
  const ascii = new TextEncoder().encode("hello");
  assertEquals(roundTrip(["hello", ascii]), ["hello", ascii]);
  assertEquals(roundTrip([new Uint8Array(70_000).fill(65)]), [new Uint8Array(70_000).fill(65)]);
});

Deno.test("integers within 2^53 are numbers, others bigints, whatever form they came in", () => {
  assertStrictEquals(decodeMsgpack(bytes("cf0000000000000005")), 5);
  assertStrictEquals(decodeMsgpack(bytes("d3fffffffffffffffb")), -5);
  assertStrictEquals(decodeMsgpack(bytes("cf0020000000000000")), 2n ** 53n);
  assertStrictEquals(decodeMsgpack(bytes("d3ffdfffffffffffff")), -(2n ** 53n) - 1n);
  assertEquals(encodeMsgpack(5n), bytes("05"));
  assertEquals(decodeMsgpack(bytes("cf00007ff150b306c0")), 140674417755840);
  assertThrows(() => encodeMsgpack(2n ** 64n), ProtocolError, "64 bits");
  assertThrows(() => encodeMsgpack(-(2n ** 63n) - 1n), ProtocolError, "64 bits");
});

Deno.test("a Map is written as a map, its tuple and number keys as what they are", () => {
  const map = new Map<unknown, unknown>([["a", 1], [keyFromWire(["x", 0]), 2], [7, 3], ["__proto__", 4]]);
  const encoded = encodeMsgpack(map);
  assertEquals(encoded, bytes("84 a16101 92a1780002 0703 a95f5f70726f746f5f5f04"));
  const decoded = decodeMsgpack(encoded) as Record<string, unknown>;
  assertEquals(Object.entries(decoded), [
    ["a", 1],
    [keyFromWire(["x", 0]), 2],
    [keyFromWire(7), 3],
    [keyFromWire("__proto__"), 4],
  ]);
  assertEquals(encodeMsgpack(decoded), encoded);
});

function assertBare(map: unknown): void {
  assertStrictEquals(Object.getPrototypeOf(map), null);
  for (const name of ["constructor", "toString", "__proto__", "hasOwnProperty"]) {
    assertStrictEquals((map as Record<string, unknown>)[name], undefined);
  }
}

Deno.test("maps are read without inherited fields, empty ones too, and poison nothing", () => {
  const poison = decodeMsgpack(bytes("81 a95f5f70726f746f5f5f 81a27878 01")) as object; // {"__proto__": {"xx": 1}}
  assertBare(poison);
  assertEquals(({} as { xx?: number }).xx, undefined);
  for (const map of [decodeMsgpack(bytes("80")), (decodeMsgpack(bytes("9180")) as unknown[])[0]]) {
    assertBare(map);
  }
  const keys = decodeMsgpack(encodeMsgpack(new Map([["constructor", 1], ["toString", 2]]))) as object;
  assertEquals(Object.keys(keys), ["constructor", "toString"]);
  // "__proto__" as a value, and inside a key, is text like any other.
  assertEquals(decodeMsgpack(bytes("91a95f5f70726f746f5f5f")), ["__proto__"]);
});

Deno.test("keys of maps that JavaScript has no word for come through", () => {
  // {null: 1, true: 2, 1.5: 3, b"\x01": 4}
  const wire = bytes("84 c001 c302 cb3ff800000000000003 c4010104");
  assertEquals(encodeMsgpack(decodeMsgpack(wire)), wire);
});

Deno.test("a map as the key of a map is refused", () => {
  assertThrows(() => decodeMsgpack(bytes("81 81a16101 02")), ProtocolError, "Cannot read a key");
});

Deno.test("a Set is written in dask's form", () => {
  assertEquals(roundTrip(new Set([1, "a"])), { __Set__: true, "as-list": [1, "a"] });
});

Deno.test("fields that are undefined are left out", () => {
  assertEquals(encodeMsgpack({ a: undefined, b: 1, c: undefined }), bytes("81a16201"));
});

Deno.test("what is no plain data is refused", () => {
  class Thing {}
  for (const wrong of [new Thing(), new Date(), () => 1, Symbol("x"), new Float64Array(1), /x/]) {
    assertEquals(assertThrows(() => encodeMsgpack([wrong]), ProtocolError).side, "local");
  }
});

Deno.test("text that is not well-formed is repaired, never sent broken", () => {
  assertEquals(roundTrip(["a\ud800b", `${"x".repeat(300)}\udc00`]), ["a\ufffdb", `${"x".repeat(300)}\ufffd`]);
  assertEquals(roundTrip("\ufeffx"), "\ufeffx");
  assertEquals(roundTrip("\ufeff" + "é".repeat(300)), "\ufeff" + "é".repeat(300));
});

Deno.test("bytes that are no UTF-8 are refused as text", () => {
  for (const hex of ["a1ff", "a2c328", "a3eda080", "81a1ff01", `d9fa${"61".repeat(249)}ff`]) {
    assertThrows(() => decodeMsgpack(bytes(hex)), ProtocolError);
  }
});

Deno.test("missing, extra and unknown bytes are refused", () => {
  const whole = encodeMsgpack({ a: [1, "text", Uint8Array.of(1, 2, 3), 1.5, 2 ** 40, { b: null }] });
  for (let n = 0; n < whole.byteLength; n++) {
    assertThrows(() => decodeMsgpack(whole.subarray(0, n)), ProtocolError);
  }
  assertThrows(() => decodeMsgpack(bytes("0101")), ProtocolError, "Extra");
  assertThrows(() => decodeMsgpack(bytes("c1")), ProtocolError);
  for (const ext of ["d40100", "c7020100ff", "d6ff00000000"]) {
    assertThrows(() => decodeMsgpack(bytes(ext)), ProtocolError);
  }
});

Deno.test("lengths that lie allocate nothing", () => {
  const before = Deno.memoryUsage();
  const lies = [
    "ddffffffff",
    "dfffffffff",
    "c6ffffffff",
    "dbffffffff",
    "dcffff",
    "deffff",
    "c9ffffffff01",
    "c5ffff",
  ];
  for (const lie of lies) {
    for (let i = 0; i < 100; i++) {
      assertThrows(() => decodeMsgpack(bytes(lie)), ProtocolError);
      assertThrows(() => decodeMsgpack(bytes(`91${lie}`)), ProtocolError);
    }
  }
  // Arrays that each promise as many items as bytes are left, nested: 500 lies that add up.
  const size = 1 << 20;
  const nest = new Uint8Array(size);
  for (let i = 0; i < 500; i++) nest.set([0xdd, 0, 0x0f, 0, 0], 5 * i);
  for (let i = 0; i < 20; i++) assertThrows(() => decodeMsgpack(nest), ProtocolError, "announces");
  const after = Deno.memoryUsage();
  assert(after.rss - before.rss < 50e6, `memory grew by ${after.rss - before.rss} bytes`);
});

Deno.test("nesting beyond the limit is refused, and no stack overflows", () => {
  const nested = (depth: number) => {
    let value: unknown = 1;
    for (let i = 0; i < depth; i++) value = [value];
    return value;
  };
  assertEquals(roundTrip(nested(DEPTH_MAX - 1)), nested(DEPTH_MAX - 1));
  assertThrows(() => encodeMsgpack(nested(DEPTH_MAX + 1)), ProtocolError);
  for (const [head, items] of [[0x91, 100_000], [0x81, 100_000]] as const) {
    assertThrows(() => decodeMsgpack(new Uint8Array(items).fill(head)), ProtocolError);
  }
  const circle: unknown[] = [];
  circle.push(circle);
  assertThrows(() => encodeMsgpack(circle), ProtocolError);
});

Deno.test("large messages neither share nor keep buffers", () => {
  const large = encodeMsgpack(Array.from({ length: 100_000 }, (_, i) => i));
  const copy = large.slice();
  const small = encodeMsgpack({ a: 1 });
  encodeMsgpack(Array.from({ length: 100_000 }, () => 7));
  assertEquals(large, copy);
  assertEquals(small, bytes("81a16101"));
  assertEquals(small.buffer.byteLength, small.byteLength);
});

Deno.test("an encoder that fails works on", () => {
  assertThrows(() => encodeMsgpack([1, () => 1]), ProtocolError);
  assertEquals(encodeMsgpack([1]), bytes("9101"));
  assertThrows(() => decodeMsgpack(bytes("92")), ProtocolError);
  assertEquals(decodeMsgpack(bytes("80")), {});
});

Deno.test("array headers", () => {
  for (const size of [0, 15, 16, 65535, 65536]) {
    const items = new Array(size).fill(1);
    assertEquals(encodeMsgpack(items).subarray(0, arrayHeader(size).byteLength), arrayHeader(size));
  }
});

Deno.test("mutated messages never crash the decoder", () => {
  const random = randomness();
  const valid = encodeMsgpack([{
    op: "compute-task",
    key: "add-1",
    priority: [0, 1, 0],
    who_has: new Map([["x", ["tcp://h:1"]], [keyFromWire(["y", 1]), []]]),
    big: 2n ** 60n,
    float: 1.5,
    bin: new Uint8Array(40),
    text: "é".repeat(30),
  }]);
  for (let i = 0; i < 20_000; i++) {
    const mutated = valid.slice();
    for (let j = random.below(4); j >= 0; j--) mutated[random.below(mutated.length)] = random.below(256);
    try {
      decodeMsgpack(
        mutated.subarray(0, random.below(8) === 0 ? random.below(mutated.length) : mutated.length),
      );
    } catch (error) {
      assertInstanceOf(error, ProtocolError, `seed ${random.seed}, round ${i}: ${error}`);
    }
  }
});
