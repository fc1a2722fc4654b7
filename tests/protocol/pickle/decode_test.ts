import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../../protocol/errors.ts";
import { NDArray } from "../../../protocol/nd_array.ts";
import { decodePickle } from "../../../protocol/pickle/decode.ts";
import { plain, PythonObject } from "../../../protocol/pickle/globals.ts";
import { isNode, type PyValue } from "../../../protocol/pickle/value.ts";
import { byteLists, bytes, type Vector, vectors } from "../../vectors/vectors.ts";
import { listing } from "./disassemble.ts";
import { EXPECTED, isForeign, matchesForeign } from "./expected.ts";

const all = vectors("pickles.json");

function read(vector: Vector): unknown {
  return plain(decodePickle(bytes(vector.pickle), byteLists(vector.buffers)));
}

function find(name: string): Vector {
  const vector = all.find((one) => one.name === name);
  assert(vector !== undefined, `no vector ${name}`);
  return vector;
}

Deno.test("decode: every vector of CPython and numpy, protocols 2 to 5", () => {
  const own = new Set(["shared", "cyclic-list", "cyclic-dict", "np-long-double"]);
  let compared = 0;
  for (const vector of all) {
    const name = vector.name.slice(0, -2);
    if (own.has(name)) continue;
    assert(name in EXPECTED, `no expectation for ${name}`);
    const expected = EXPECTED[name];
    let actual: unknown;
    try {
      actual = read(vector);
      if (isForeign(expected)) assert(matchesForeign(actual, expected), String(actual));
      else assertEquals(actual, expected);
    } catch (cause) {
      throw new Error(`${vector.name} (${vector.repr}):\n${listing(bytes(vector.pickle))}`, { cause });
    }
    compared++;
  }
  assertEquals(compared, Object.keys(EXPECTED).length * 4);
});

Deno.test("decode: a long double keeps its bytes and its dtype", () => {
  const value = read(find("np-long-double/5"));
  assertInstanceOf(value, NDArray);
  assertEquals(value.dtype, "<f16");
  assertEquals(value.data.byteLength, 16);
});

Deno.test("decode: shared values stay shared, cyclic ones cyclic", () => {
  for (const protocol of [2, 3, 4, 5]) {
    const [a, b] = read(find(`shared/${protocol}`)) as unknown[];
    assertEquals(a, [1]);
    assertStrictEquals(a, b);
    const list = read(find(`cyclic-list/${protocol}`)) as unknown[];
    assertStrictEquals(list[0], list);
    const dict = read(find(`cyclic-dict/${protocol}`)) as Record<string, unknown>;
    assertStrictEquals(dict.self, dict);
  }
});

Deno.test("decode: tuples, lists, text and bytes stay apart in the raw form", () => {
  const kind = (name: string) => {
    const value = decodePickle(bytes(find(`${name}/4`).pickle));
    return value !== null && typeof value === "object" && "$" in value ? value.$ : typeof value;
  };
  assertEquals(["tuple-2", "list", "dict", "set", "frozenset", "type-int", "complex"].map(kind), [
    "tuple",
    "list",
    "dict",
    "set",
    "set",
    "global",
    "object",
  ]);
  const frozen = decodePickle(bytes(find("frozenset/4").pickle));
  assert(isNode(frozen, "set") && frozen.frozen);
  assertInstanceOf(decodePickle(bytes(find("bytes/4").pickle)) as Uint8Array, Uint8Array);
  assertEquals(typeof decodePickle(bytes(find("str-ascii/4").pickle)), "string");
});

Deno.test("decode: `__proto__` is an ordinary key", () => {
  const value = read(find("dict-proto/4")) as Record<string, unknown>;
  assertStrictEquals(Object.getPrototypeOf(value), Object.prototype);
  assertEquals(Object.keys(value), ["__proto__", "constructor"]);
  assertEquals(({} as Record<string, unknown>).polluted, undefined);
});

Deno.test("decode: aligned buffers are shared, unaligned ones copied", () => {
  const vector = find("np-f8/5");
  const [buffer] = byteLists(vector.buffers);
  assert(buffer !== undefined);
  const at = (offset: number) => {
    const memory = new Uint8Array(64);
    memory.set(buffer, offset);
    return memory.subarray(offset, offset + buffer.length);
  };
  const aligned = at(8);
  const shared = plain(decodePickle(bytes(vector.pickle), [aligned])) as Float64Array;
  assertStrictEquals(shared.buffer, aligned.buffer);
  const unaligned = at(3);
  const copied = plain(decodePickle(bytes(vector.pickle), [unaligned])) as Float64Array;
  assert(copied.buffer !== unaligned.buffer);
  assertEquals(copied, shared);
});

Deno.test("decode: bytes that follow STOP are ignored, bytes that are missing are not", () => {
  const whole = bytes(find("nested/4").pickle);
  const longer = new Uint8Array(whole.length + 3);
  longer.set(whole);
  assertEquals(plain(decodePickle(longer)), EXPECTED.nested);
  for (let length = 0; length < whole.length; length++) {
    assertThrows(() => decodePickle(whole.subarray(0, length)), ProtocolError);
  }
});

Deno.test("decode: single damaged bytes give a value or a ProtocolError, never anything else", () => {
  for (
    const name of [
      "nested/4",
      "np-2d/4",
      "np-broadcast/5",
      "uuid/4",
      "datetime-plus-1-hour/4",
      "np-datetime64-ns/2",
    ]
  ) {
    const vector = find(name);
    const whole = bytes(vector.pickle);
    for (let i = 0; i < whole.length; i++) {
      for (const damage of [0x00, 0x28, 0x52, 0x62, 0x81, 0xff, whole[i]! ^ 1, whole[i]! ^ 0x80]) {
        const damaged = whole.slice();
        damaged[i] = damage;
        try {
          plain(decodePickle(damaged, byteLists(vector.buffers)));
        } catch (error) {
          assert(error instanceof Error && /^(Protocol|Serialization)Error$/.test(error.name), String(error));
        }
      }
    }
  }
});

Deno.test("decode: an object that is no counterpart of ours names itself and keeps its parts", () => {
  const value = read(find("timedelta/4"));
  assertInstanceOf(value, PythonObject);
  assertEquals([value.module, value.name, value.args, value.state], [
    "datetime",
    "timedelta",
    [1, 2, 3],
    undefined,
  ]);
  const type = read(find("type-int/4"));
  assertInstanceOf(type, PythonObject);
  assertEquals(type.args, null);
});

Deno.test("decode: a value of 100 levels is read, one of 100,000 refused", () => {
  const nested = (levels: number) => {
    const pickle = new Uint8Array(levels * 2 + 3);
    pickle.set([0x80, 4]);
    pickle.fill(0x5d, 2, 2 + levels);
    pickle.fill(0x61, 2 + levels, 1 + 2 * levels);
    pickle[1 + 2 * levels] = 0x2e;
    return pickle;
  };
  let depth = 0;
  for (
    let value = plain(decodePickle(nested(100))) as unknown[];
    Array.isArray(value);
    value = value[0] as unknown[]
  ) {
    depth++;
  }
  assertEquals(depth, 100);
  assertThrows(() => plain(decodePickle(nested(100_000))), ProtocolError, "levels of nesting");
});

Deno.test("decode: plain values need no converter", () => {
  const values: PyValue[] = [null, true, 1, "x", 2n ** 70n];
  for (const value of values) assertStrictEquals(plain(value), value);
});
