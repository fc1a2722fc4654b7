import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { SerializationError } from "../../protocol/errors.ts";
import { dtypeOf, NDArray, parseDtype, readArray, stridesOf } from "../../protocol/nd_array.ts";

const bytes = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

Deno.test("NDArray: shape and dtype must fit the data", () => {
  const table = new NDArray(Float64Array.of(1, 2, 3, 4, 5, 6), [2, 3]);
  assertEquals([table.size, table.dtype, table.order, table.strides], [6, "<f8", "C", [24, 8]]);
  assertEquals(new NDArray(new Float64Array(6), [2, 3], { order: "F" }).strides, [8, 16]);
  assertThrows(() => new NDArray(Float64Array.of(1), [2]), RangeError, "expected 16 bytes, got 8");
  assertThrows(() => new NDArray(Float64Array.of(1), [-1]), RangeError, "non-negative");
  assertThrows(() => new NDArray(Float64Array.of(1), [1], { dtype: "double" }), RangeError, '"double"');
  const shape = [1];
  const array = new NDArray(Float64Array.of(1), shape);
  shape[0] = 9;
  assertEquals(array.shape, [1]);
});

Deno.test("dtypes: every typed array has one, and it leads back", () => {
  for (
    const data of [
      new Int8Array(2),
      new Uint8Array(2),
      new Int16Array(2),
      new Uint16Array(2),
      new Int32Array(2),
      new Uint32Array(2),
      new BigInt64Array(2),
      new BigUint64Array(2),
      new Float16Array(2),
      new Float32Array(2),
      new Float64Array(2),
    ]
  ) {
    const dtype = dtypeOf(data);
    const read = readArray(bytes(data), { dtype, shape: [2], strides: null, order: "C" });
    assertStrictEquals(read.constructor, data.constructor);
    assertStrictEquals((read as typeof data).buffer, data.buffer);
  }
  assertEquals(dtypeOf(new Uint8ClampedArray(1)), "|u1");
});

Deno.test("dtypes: what numpy never says is refused", () => {
  for (
    const dtype of ["", "f", "x8", "<i3", "O8", "|O", "<f8 ", "i8;i8", "<U99999999999", "b2x", "__proto__"]
  ) {
    const parsed = parseDtype(dtype);
    assert(parsed === null || parsed.view === null, dtype);
  }
  assertEquals(parseDtype("<M8[25s]")?.view, "i8");
  assertEquals(parseDtype("?")?.itemSize, 1);
  assertEquals(parseDtype("U3")?.itemSize, 12);
});

Deno.test("arrays: strides of every kind give the elements in order", () => {
  const data = bytes(Float64Array.from({ length: 24 }, (_, i) => i));
  const read = (shape: number[], strides: number[]) => {
    const array = readArray(data, { dtype: "<f8", shape, strides, order: "C" });
    return array instanceof NDArray
      ? [[...array.data as Float64Array], array.order]
      : [...array as Float64Array];
  };
  assertEquals(read([3], [16]), [0, 2, 4]);
  assertEquals(read([2, 2], [8, 16]), [[0, 1, 2, 3], "F"]);
  assertEquals(read([2, 2], [96, 16]), [[0, 2, 12, 14], "C"]);
  assertEquals(read([2, 3], [0, 8]), [[0, 1, 2, 0, 1, 2], "C"]);
  assertEquals(read([2, 2], [8, 0]), [[0, 0, 1, 1], "C"]);
  assertEquals(read([1, 3, 1], [999, 8, 777]), [[0, 1, 2], "C"]);
  assertEquals(read([0, 5], [8, 8]), [[], "C"]);
});

Deno.test("arrays: random strides against a plain loop", () => {
  let state = 7;
  const random = (below: number) => (state = (state * 48271) % 0x7fffffff) % below;
  const data = Float32Array.from({ length: 512 }, (_, i) => i);
  for (let round = 0; round < 300; round++) {
    const shape = Array.from({ length: 1 + random(3) }, () => 1 + random(4));
    const strides = shape.map(() => random(9) * 4);
    const expected: number[] = [];
    const visit = (axis: number, at: number) => {
      if (axis === shape.length) return void expected.push(data[at / 4]!);
      for (let i = 0; i < shape[axis]!; i++) visit(axis + 1, at + i * strides[axis]!);
    };
    visit(0, 0);
    const array = readArray(bytes(data), { dtype: "<f4", shape, strides, order: "C" });
    if (array instanceof NDArray && array.order === "F") continue;
    const actual = array instanceof NDArray ? array.data : array;
    assertEquals([...actual as Float32Array], expected, `shape ${shape}, strides ${strides}`);
  }
});

Deno.test("arrays: unaligned and big-endian memory is copied, the source stays as it is", () => {
  const memory = new Uint8Array(20);
  new DataView(memory.buffer).setInt32(1, 258);
  const before = memory.slice();
  const array = readArray(memory.subarray(1, 5), { dtype: ">i4", shape: [1], strides: null, order: "C" });
  assertEquals(array, Int32Array.of(258));
  assertEquals(memory, before);
  assertThrows(
    () => readArray(memory, { dtype: "<f8", shape: [3], strides: null, order: "C" }),
    SerializationError,
    "needs 24 bytes",
  );
});

Deno.test("strides: zero-length dimensions do not make zero strides", () => {
  assertEquals(stridesOf([2, 0, 3], 8, "C"), [24, 24, 8]);
});
