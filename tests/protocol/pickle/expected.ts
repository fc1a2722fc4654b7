/**
 * What the values of `tests/vectors/generate.py` are in TypeScript, by name.
 *
 * @module
 */
import { NDArray, PythonObject } from "../../../protocol/value.ts";

/** Asserted by its `toString`. */
export interface Foreign {
  readonly foreign: string | RegExp;
}

/** Whether an expectation is about a {@linkcode PythonObject}. */
export function isForeign(expected: unknown): expected is Foreign {
  return typeof expected === "object" && expected !== null && "foreign" in expected;
}

/** Whether a value is one that names itself, as expected. */
export function matchesForeign(value: unknown, expected: Foreign): boolean {
  if (!(value instanceof PythonObject)) return false;
  const text = value.toString();
  return typeof expected.foreign === "string" ? text === expected.foreign : expected.foreign.test(text);
}

const foreign = (text: string | RegExp): Foreign => ({ foreign: text });
const range = (n: number) => Array.from({ length: n }, (_, i) => i);

function polluted(): object {
  return Object.defineProperty({}, "__proto__", {
    value: { polluted: true },
    writable: true,
    enumerable: true,
    configurable: true,
  });
}

/** Values by name. The cyclic ones and `shared` have tests of their own. */
export const EXPECTED: Readonly<Record<string, unknown>> = {
  none: null,
  true: true,
  false: false,
  "int-0": 0,
  "int-255": 255,
  "int-256": 256,
  "int-65535": 65535,
  "int-65536": 65536,
  "int-minus-1": -1,
  "int-2**31-1": 2 ** 31 - 1,
  "int-2**31": 2 ** 31,
  "int-minus-2**31": -(2 ** 31),
  "int-2**53-1": 2 ** 53 - 1,
  "int-2**53": 2n ** 53n,
  "int-minus-2**53+1": -(2 ** 53) + 1,
  "int-2**63": 2n ** 63n,
  "int-minus-2**63": -(2n ** 63n),
  "int-2**70": 2n ** 70n,
  "int-10**700": 10n ** 700n,
  "float-1.5": 1.5,
  "float-minus-0": -0,
  "float-inf": Infinity,
  "float-nan": NaN,
  "float-3.0": 3,
  "str-empty": "",
  "str-ascii": "abc",
  "str-latin": "Grüße",
  "str-astral": "a😀b",
  "str-lone-surrogates": "\ud800x\udfff",
  "str-bom": "\ufeffx",
  "str-300-characters": "é".repeat(300),
  bytes: Uint8Array.of(0, 255),
  "bytes-300": Uint8Array.from({ length: 300 }, (_, i) => i < 256 ? i : 0x78),
  bytearray: Uint8Array.of(0x61, 0x62),
  list: [1, "a", null],
  "list-empty": [],
  "list-1100": range(1100),
  "tuple-0": [],
  "tuple-1": [1],
  "tuple-2": [1, 2],
  "tuple-3": [1, 2, 3],
  "tuple-4": [1, 2, 3, 4],
  dict: { a: 1, b: [2] },
  "dict-empty": {},
  "dict-int-keys": new Map([[1, "a"], [2, "b"]]),
  "dict-tuple-keys": new Map([[["x", 0], 1]]),
  "dict-mixed-keys": new Map<unknown, unknown>([["a", 1], [2, 3]]),
  "dict-proto": Object.assign(polluted(), { constructor: 1 }),
  "dict-1100": Object.fromEntries(range(1100).map((i) => [`k${i}`, i])),
  set: new Set([7]),
  frozenset: new Set([7]),
  nested: { rows: range(3).map((i) => ({ x: i, name: `n${i}`, ok: i % 2 === 0 })) },
  "datetime-naive": new Date("2026-01-02T03:04:05.678Z"),
  "datetime-utc": new Date("2026-01-02T03:04:05.678Z"),
  "datetime-plus-1-hour": new Date("2026-01-02T02:04:05Z"),
  "datetime-year-99": new Date("0099-01-01T00:00:00Z"),
  date: "2026-01-02",
  time: "01:02:03.000004",
  timedelta: foreign("datetime.timedelta(1, 2, 3)"),
  decimal: "1.50",
  uuid: "01234567-89ab-cdef-0123-456789abcdef",
  "ordered-dict": { a: 1 },
  defaultdict: { a: [1] },
  counter: { a: 2, b: 1 },
  deque: [1, 2],
  complex: foreign(/^(builtins|__builtin__)\.complex\(1, 2\)$/),
  range: foreign(/^(builtins\.range|__builtin__\.xrange)\(1, 10, 2\)$/),
  slice: foreign(/^(builtins|__builtin__)\.slice\(1, None, None\)$/),
  fraction: foreign("fractions.Fraction(1, 3)"),
  ellipsis: foreign(/^(builtins|__builtin__)\.Ellipsis$/),
  "type-int": foreign(/^(builtins\.int|__builtin__\.long)$/),
  "type-none": foreign(/^(builtins|__builtin__)\.type\(None\)$/),
  function: foreign(/^(builtins|__builtin__)\.print$/),
  exception: foreign(/^tblib\..*(builtins|exceptions)\.ValueError, .*'bad'/),

  "np-f8": Float64Array.of(1, 2, 3),
  "np-f4": Float32Array.of(1.5),
  "np-f2": Float16Array.of(1.5, -2),
  "np-i1": Int8Array.of(-1),
  "np-i2": Int16Array.of(-1),
  "np-i4": Int32Array.of(-1),
  "np-i8": BigInt64Array.of(-1n, 2n ** 60n),
  "np-u1": Uint8Array.of(255),
  "np-u2": Uint16Array.of(65535),
  "np-u4": Uint32Array.of(2 ** 32 - 1),
  "np-u8": BigUint64Array.of(2n ** 64n - 1n),
  "np-bool": new NDArray(Uint8Array.of(1, 0), [2], { dtype: "|b1" }),
  "np-2d": new NDArray(Float64Array.from(range(6)), [2, 3]),
  "np-fortran": new NDArray(Float64Array.of(0, 3, 1, 4, 2, 5), [2, 3], { order: "F" }),
  "np-transposed-3d": new NDArray(
    Float64Array.from(
      [0, 1, 2].flatMap((j) => [0, 1].flatMap((i) => range(4).map((k) => i * 12 + j * 4 + k))),
    ),
    [3, 2, 4],
  ),
  "np-strided": Float64Array.of(0, 3, 6, 9),
  "np-reversed": Float64Array.of(3, 2, 1, 0),
  "np-0d": new NDArray(Float64Array.of(5), []),
  "np-empty": new NDArray(new Float64Array(0), [0, 3]),
  "np-big-endian": Int32Array.of(1, 2, 3),
  "np-big-endian-2d": new NDArray(Float64Array.from(range(4)), [2, 2]),
  "np-datetime64-ns": new NDArray(
    BigInt64Array.of(BigInt(Date.UTC(2026, 0, 2)) * 1_000_000n, -(2n ** 63n)),
    [2],
    { dtype: "<M8[ns]" },
  ),
  "np-datetime64-25s": new NDArray(BigInt64Array.of(1n, 2n), [2], { dtype: "<M8[25s]" }),
  "np-timedelta64": new NDArray(BigInt64Array.of(1n), [1], { dtype: "<m8[ms]" }),
  "np-text": new NDArray(Uint8Array.of(97, 0, 0, 0, 98, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0), [2], {
    dtype: "<U2",
  }),
  "np-bytes": new NDArray(Uint8Array.of(97, 98, 99, 0), [2], { dtype: "|S2" }),
  "np-complex": new NDArray(Float64Array.of(1, 2), [1], { dtype: "<c16" }),
  "np-record": new NDArray(
    Uint8Array.of(1, 0, 0, 0, ...new Uint8Array(Float64Array.of(2).buffer)),
    [1],
    { dtype: "|V12" },
  ),
  "np-objects": ["a", null, 3],
  "np-broadcast": new NDArray(Float64Array.of(1, 2, 1, 2, 1, 2), [3, 2]),
  "np-broadcast-0d": Float64Array.of(7, 7, 7, 7),
  "np-broadcast-inner": new NDArray(Float64Array.of(1, 1, 1, 2, 2, 2), [2, 3]),

  "np-scalar-f8": 1.5,
  "np-scalar-f4": 1.5,
  "np-scalar-i8": 5,
  "np-scalar-i8-large": 2n ** 60n,
  "np-scalar-u1": 5,
  "np-scalar-bool": true,
  "np-scalar-str": "né",
  "np-scalar-datetime64": new NDArray(BigInt64Array.of(BigInt(Date.UTC(2026, 0, 2) / 86_400_000)), [], {
    dtype: "<M8[D]",
  }),
  "np-scalar-complex": new NDArray(Float64Array.of(1, 2), [], { dtype: "<c16" }),
  "np-dtype": foreign("numpy.dtype('f8', False, True)"),
};
