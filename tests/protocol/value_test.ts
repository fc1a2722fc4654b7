import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { ProtocolError, SerializationError } from "../../protocol/errors.ts";
import { decodeMsgpack, encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import type { Payload } from "../../protocol/payload.ts";
import {
  decodeValue,
  encodeValue,
  NDArray,
  PythonObject,
  type ReadablePayload,
  SHARD_BYTES,
  sharded,
  typeOfValue,
} from "../../protocol/value.ts";
import { runPython } from "../support/scheduler.ts";
import { byteLists, bytes, vectors } from "../vectors/vectors.ts";
import { EXPECTED, isForeign, matchesForeign } from "./pickle/expected.ts";

function readable(payload: Payload): ReadablePayload {
  const frames = payload.frames.map((frame) => {
    assertInstanceOf(frame, Uint8Array);
    return frame;
  });
  return { header: payload.header, frames };
}

const roundTrip = (value: unknown) => decodeValue(readable(encodeValue(value)));

Deno.test("value: every vector of distributed", () => {
  const own: Readonly<Record<string, unknown>> = {
    "bytes-empty": new Uint8Array(0),
    memoryview: Uint8Array.of(97, 98, 99),
    "list-of-arrays": [Float64Array.of(0, 1), BigInt64Array.of(0n, 1n, 2n)],
    "dict-of-arrays": { a: Float64Array.of(0, 1), b: Uint8Array.of(120) },
    "list-of-lists": [[1, 2], [3]],
    matrix: new NDArray(BigInt64Array.of(1n, 2n, 3n, 4n), [2, 2]),
  };
  let compared = 0;
  for (const vector of vectors("values.json")) {
    const { name } = vector;
    const payload = { header: bytes(vector.header), frames: byteLists(vector.frames) };
    if (["shared", "np-long-double", "masked-array"].includes(name)) continue;
    assert(name in own || name in EXPECTED, `no expectation for ${name}`);
    const expected = own[name] ?? EXPECTED[name];
    const actual = decodeValue(payload);
    if (isForeign(expected)) assert(matchesForeign(actual, expected), `${name}: ${actual}`);
    else assertEquals(actual, expected, name);
    compared++;
  }
  assert(compared > 110, `only ${compared} vectors`);
});

Deno.test("value: a type of the dask family that is not ours names itself", () => {
  const vector = vectors("values.json").find((one) => one.name === "masked-array");
  const value = decodeValue({ header: bytes(vector?.header), frames: byteLists(vector?.frames) });
  assert(value instanceof PythonObject);
  assertEquals(value.name, "MaskedArray");
});

Deno.test("value: what we write we read", () => {
  const values: unknown[] = [
    null,
    true,
    -0,
    NaN,
    2 ** 53 - 1,
    -(2 ** 40),
    2n ** 100n,
    -(2n ** 2000n),
    "",
    "x".repeat(255),
    "é".repeat(127),
    "é".repeat(128),
    "\ud800",
    "\ud83d\ude00\udc00",
    [],
    {},
    [1, [2, [3]]],
    { a: { b: [1.5, "x", null] }, "b c": 2 },
    new Map<unknown, unknown>([[1, "a"], [2, { x: 1 }]]),
    new Set([1, "a", 2.5]),
    new Date("2026-01-02T03:04:05.678Z"),
    Uint8Array.of(1, 2),
    new Uint8Array(5000).fill(7),
    Float64Array.of(1, NaN, -0),
    Float32Array.of(1.5),
    Float16Array.of(1.5),
    Int8Array.of(-1),
    Int16Array.of(-1),
    Uint16Array.of(1),
    Int32Array.of(-1),
    Uint32Array.of(1),
    BigInt64Array.of(-1n),
    BigUint64Array.of(1n),
    new Float64Array(0),
    new NDArray(Float64Array.of(1, 2, 3, 4, 5, 6), [2, 3]),
    new NDArray(Float64Array.of(1, 2, 3, 4, 5, 6), [3, 2], { order: "F" }),
    new NDArray(Uint8Array.of(1, 0), [2], { dtype: "|b1" }),
    new NDArray(Float64Array.of(1), []),
    { array: Int32Array.of(1, 2), bytes: Uint8Array.of(3), nd: new NDArray(Float32Array.of(1), [1, 1]) },
    { large: new Float64Array(1000).fill(2), bytes: new Uint8Array(3000).fill(1), small: Float64Array.of(1) },
  ];
  for (const value of values) assertEquals(roundTrip(value), value);
  assertEquals(roundTrip(undefined), null);
  assertEquals(roundTrip({ a: undefined, b: 1 }), { b: 1 });
  assertEquals(roundTrip(5n), 5);
});

Deno.test("value: bytes and arrays are passed on uncopied, alone and inside others", () => {
  const array = new Float64Array(1000);
  const alone = readable(encodeValue(array));
  assertStrictEquals(alone.frames[0]?.buffer, array.buffer);
  const inside = readable(encodeValue({ rows: [array], raw: new Uint8Array(array.buffer, 8, 2000) }));
  assertEquals(inside.frames.length, 3);
  assertStrictEquals(inside.frames[1]?.buffer, array.buffer);
  assertStrictEquals(inside.frames[2]?.buffer, array.buffer);
  const back = decodeValue(inside) as { rows: Float64Array[] };
  assertStrictEquals(back.rows[0]?.buffer, array.buffer);
});

Deno.test("value: a frame that is too large is split, and joined again", () => {
  const large = Uint8Array.from({ length: 2005 }, (_, i) => i);
  const { header, frames } = readable(encodeValue(large));
  const payload = readable(sharded(decodeMsgpack(header) as Record<string, unknown>, frames, 1000));
  assertEquals(payload.frames.map((frame) => frame.byteLength), [1000, 1000, 5]);
  assertEquals(decodeValue(payload), large);
  assertEquals(SHARD_BYTES < 2 ** 31, true);
});

Deno.test("value: shared parts are written once and stay shared", () => {
  const part = { rows: Array.from({ length: 100 }, (_, i) => i) };
  const once = encodeValue([part]);
  const twice = encodeValue([part, part]);
  assert(readable(twice).frames[0]!.byteLength < readable(once).frames[0]!.byteLength + 10);
  const [a, b] = roundTrip([part, part]) as unknown[];
  assertStrictEquals(a, b);
});

Deno.test("value: a thousand doublings are written and read in no time", () => {
  let laughs: unknown = "ha";
  for (let i = 0; i < 900; i++) laughs = [laughs, laughs];
  const start = performance.now();
  roundTrip(laughs);
  assert(performance.now() - start < 1000);
});

class Point {
  x = 1;
}

Deno.test("value: what has no form is refused with its path and a way out", () => {
  const cyclic: { list: unknown[] } = { list: [1] };
  cyclic.list.push(cyclic);
  let deep: unknown = 1;
  for (let i = 0; i < 5000; i++) deep = [deep];
  const endless = (): object => new Proxy({ a: 1 }, { get: () => endless() });
  const hostile = new Proxy({}, {
    getPrototypeOf: () => {
      throw new Error("trap");
    },
  });
  const cases: [value: unknown, path: string, message: string][] = [
    [() => 1, "value", "a function; send what it returns"],
    [{ a: [1, { when: Symbol("x") }] }, "value.a[1].when", "a symbol"],
    [[new Point()], "value[0]", "an instance of Point; send a plain object"],
    [{ "a b": Promise.resolve(1) }, 'value["a b"]', "a Promise; await it first"],
    [new Map([["k", new WeakMap()]]), 'value.get("k")', "an instance of WeakMap"],
    [new Map([[{ a: 1 }, 1]]), "value.get(object)", "a container as the key of a Map"],
    [new Set([[1]]), "value[0]", "a container in a Set"],
    [cyclic, "value.list[1]", "a value that holds itself"],
    [deep, "value" + "[0]".repeat(12) + "…" + "[0]".repeat(12), "more than 1000 levels of nesting"],
    [endless(), "value" + ".a".repeat(12) + "…" + ".a".repeat(12), "more than 1000 levels of nesting"],
    [{ x: hostile }, "value.x", "reading it threw: trap"],
    [
      {
        get bad() {
          throw new Error("boo");
        },
      },
      "value.bad",
      "reading it threw: boo",
    ],
    [[new Date(NaN)], "value[0]", "an invalid Date"],
    [[new Date(Date.UTC(12000, 0))], "value[0]", "a Date in the year 12000"],
    [new ArrayBuffer(1), "value", "an ArrayBuffer; wrap it in a Uint8Array"],
    [[new DataView(new ArrayBuffer(1))], "value[0]", "a DataView"],
    [{ e: new Error("x") }, "value.e", "an Error"],
    [{ e: new URL("http://x/") }, "value.e", "an instance of URL"],
  ];
  for (const [value, path, message] of cases) {
    const error = assertThrows(() => encodeValue(value), SerializationError, message);
    assertEquals(error.path, path);
    assert(error.message.startsWith(`Cannot write ${path}: `), error.message);
  }
});

Deno.test("value: objects without a prototype and of other realms are plain", () => {
  assertEquals(roundTrip(Object.assign(Object.create(null), { a: 1 })), { a: 1 });
});

Deno.test("value: headers that lie are refused", () => {
  const value = (header: unknown, ...frames: Uint8Array[]) => () =>
    decodeValue({ header: encodeMsgpack(header), frames });
  const type = Uint8Array.from("\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93.", (c) => c.charCodeAt(0));
  const array = (subHeader: unknown, frame = new Uint8Array(8)) =>
    value({ serializer: "dask", "type-serialized": type, "sub-header": subHeader }, frame);
  assertThrows(value([]), ProtocolError, "expected a map");
  assertThrows(value({ serializer: "pickle" }), ProtocolError, "expected a frame");
  assertThrows(value({ serializer: "cuda" }, new Uint8Array(1)), SerializationError, '"cuda"');
  assertThrows(
    value({ serializer: "error" }, new TextEncoder().encode("no way")),
    SerializationError,
    "no way",
  );
  assertThrows(array({ dtype: [0, "<f8"], shape: [2], strides: [8] }), SerializationError, "needs 16 bytes");
  assertThrows(array({ dtype: [0, "<f8"], shape: [2 ** 40], strides: [0] }), SerializationError, "broadcast");
  assertThrows(array({ dtype: [0, "<f8"], shape: [3], strides: [-8] }), SerializationError, "stride");
  assertThrows(array({ dtype: [0, "<f8"], shape: [2, 2], strides: [8] }), SerializationError, "strides");
  assertThrows(array({ dtype: [0, "<x8"], shape: [1], strides: [8] }), SerializationError, "dtype");
  assertThrows(
    array({ dtype: [0, "|V0"], shape: [1e15, 1e15], strides: [0, 0] }),
    SerializationError,
    "shape",
  );
  assertThrows(
    value({ "is-collection": true, "type-serialized": "list", "sub-headers": [{}], "frame-lengths": [2] }),
    ProtocolError,
    "do not fit",
  );
});

Deno.test("value: types are named as Python names them", () => {
  const names = [null, true, 1, 1.5, "x", 2n ** 70n, [1], { a: 1 }, new Map(), new Set(), Uint8Array.of(1)]
    .map(
      (value) => typeOfValue(value).typename,
    );
  assertEquals(names, [
    "NoneType",
    "bool",
    "int",
    "float",
    "str",
    "int",
    "list",
    "dict",
    "dict",
    "set",
    "bytes",
  ]);
  assertEquals(typeOfValue(new Date()).typename, "datetime");
  assertEquals(typeOfValue(Float64Array.of(1)).typename, "ndarray");
  assertStrictEquals(typeOfValue(1).pythonType, typeOfValue(2).pythonType);
});

Deno.test("value: Python reads what we write", async () => {
  const values: unknown[] = [
    null,
    [true, false],
    [0, -1, 255, 65536, 2 ** 31, -(2 ** 31) - 1, 2 ** 53 - 1, -(2 ** 53 - 1)],
    [1.5, -0, Infinity, -Infinity],
    [2n ** 63n, -(2n ** 63n), 2n ** 70n, -(2n ** 2100n)],
    ["", "Grüße", "a😀b", "\ud800", "x".repeat(300)],
    { a: 1, list: [[], {}], ["__proto__"]: 1 },
    new Map<unknown, unknown>([[1, "a"], ["b", 2.5]]),
    new Set(["a", 1]),
    new Date("2026-01-02T03:04:05.678Z"),
    new Date("0099-01-01T00:00:00Z"),
    Uint8Array.of(0, 255),
    Float64Array.of(1, 2),
    BigUint64Array.of(2n ** 64n - 1n),
    Float16Array.of(1.5),
    new NDArray(Int32Array.of(1, 2, 3, 4, 5, 6), [2, 3]),
    new NDArray(Int32Array.of(1, 4, 2, 5, 3, 6), [2, 3], { order: "F" }),
    new NDArray(BigInt64Array.of(0n), [1], { dtype: "<M8[s]" }),
    {
      small: Float32Array.of(1.5),
      raw: Uint8Array.of(1),
      nd: new NDArray(Uint8Array.of(1, 0), [2], { dtype: "|b1" }),
    },
    { large: new Float64Array(200).fill(3), raw: new Uint8Array(2000).fill(65), n: 1 },
    new NDArray(Float32Array.of(1, 2, 3, 4), [2, 2], { order: "F" }),
    [new NDArray(Float32Array.of(1, 3, 2, 4), [2, 2], { order: "F" }), new Float64Array(0)],
  ];
  const { code, stdout, stderr } = await runPython(
    `
import base64, json, pickle, sys, msgpack, datetime, math
import numpy as np
from distributed.protocol.serialize import merge_and_deserialize
def decode(item):
    header = msgpack.loads(base64.b64decode(item["header"]), use_list=False, strict_map_key=False)
    frames = [bytearray(base64.b64decode(f)) if i else base64.b64decode(f) for i, f in enumerate(item["frames"])]
    assert len(frames) == header["num-sub-frames"]
    value = merge_and_deserialize(header, frames)
    assert pickle.loads(base64.b64decode(item["type"])) is type(value), (value, item["typename"])
    assert item["typename"] == type(value).__name__
    return value
v = [decode(item) for item in json.loads(sys.argv[1])]
def same(a, b):
    assert type(a) is type(b) and a == b, (a, b)
same(v[0], None)
same(v[1], [True, False])
same(v[2], [0, -1, 255, 65536, 2**31, -2**31-1, 2**53-1, -(2**53-1)])
same(v[3], [1.5, 0.0, math.inf, -math.inf]); assert math.copysign(1, v[3][1]) == -1 and type(v[3][1]) is float
same(v[4], [2**63, -2**63, 2**70, -2**2100])
same(v[5], ["", "Gr\\u00fc\\u00dfe", "a\\U0001f600b", "\\ud800", "x"*300])
same(v[6], {"a": 1, "list": [[], {}], "__proto__": 1})
same(v[7], {1: "a", "b": 2.5})
same(v[8], {"a", 1})
same(v[9], datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc))
assert v[9].tzinfo is datetime.timezone.utc
same(v[10].year, 99)
same(v[11], b"\\x00\\xff")
def array(a, b, **flags):
    b = np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), (a, b)
    assert a.flags.writeable
    a[...] = a
    for name, value in flags.items(): assert getattr(a.flags, name) == value, name
array(v[12], np.array([1.0, 2.0]))
array(v[13], np.array([2**64-1], "u8"))
array(v[14], np.array([1.5], "f2"))
array(v[15], np.array([[1,2,3],[4,5,6]], "i4"), c_contiguous=True)
array(v[16], np.array([[1,2,3],[4,5,6]], "i4"), f_contiguous=True)
array(v[17], np.array([0], "M8[s]"))
array(v[18]["small"], np.array([1.5], "f4")); same(v[18]["raw"], b"\\x01"); array(v[18]["nd"], np.array([True, False]))
array(v[19]["large"], np.full(200, 3.0)); same(v[19]["raw"], b"A"*2000); same(v[19]["n"], 1)
array(v[20], np.array([[1,3],[2,4]], "f4"))
array(v[21][0], np.array([[1,2],[3,4]], "f4"), f_contiguous=True); array(v[21][1], np.array([], "f8"))
print("ok", len(v))
`,
    [JSON.stringify(values.map((value) => {
      const payload = readable(encodeValue(value));
      const type = typeOfValue(value);
      return {
        header: payload.header.toBase64(),
        frames: payload.frames.map((frame) =>
          new Uint8Array(frame.buffer, frame.byteOffset, frame.length).toBase64()
        ),
        typename: type.typename,
        type: type.pythonType.toBase64(),
      };
    }))],
  );
  assertEquals([code, stdout.trim()], [0, `ok ${values.length}`], stderr);
});
