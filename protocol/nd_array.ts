/**
 * numpy's arrays as typed arrays. The law: a one-dimensional array of numbers *is* a typed array; whatever has more to
 * say (dimensions, booleans, dates, text) is an {@linkcode NDArray}: the same memory with its shape and dtype beside
 * it. Memory is shared with the bytes that were received whenever alignment and byte order allow it.
 *
 * @module
 */
import { SerializationError } from "./errors.ts";

/** The typed arrays that have a numpy dtype. */
export type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float16Array
  | Float32Array
  | Float64Array;

/** The most dimensions that numpy has. */
const DIMENSIONS_MAX = 64;

/** Repeated (zero stride) and strided elements are written out; never more than this many bytes beyond what was received. */
const EXPANDED_BYTES_MAX = 1 << 27;

/**
 * An array with a shape and a numpy dtype. As a task's argument or result it is a `numpy.ndarray` for Python.
 *
 * `data` holds the elements one after another in memory order: row by row for `order` `"C"`, column by column for
 * `"F"`. What JavaScript has no typed array for (text, records, long doubles) stays a `Uint8Array`; booleans are bytes
 * 0 and 1, dates are `BigInt64Array`s of dtype `<M8[unit]`, complex numbers are pairs of floats.
 *
 * @example Two rows of three
 * ```ts
 * import { NDArray } from "@dask/dask";
 *
 * const table = new NDArray(Float64Array.of(1, 2, 3, 4, 5, 6), [2, 3]);
 * console.assert(table.dtype === "<f8" && table.size === 6);
 * ```
 */
export class NDArray {
  /** The elements in memory order. */
  readonly data: TypedArray;
  /** Length of each dimension; empty for a single element. */
  readonly shape: readonly number[];
  /** numpy's dtype string, as `<f8`, `|b1`, `<M8[ns]`, `<U5`. */
  readonly dtype: string;
  /** `"C"`: the last index runs fastest; `"F"`: the first one. */
  readonly order: "C" | "F";

  /**
   * Lays `shape` over `data`, which is not copied.
   *
   * @throws {RangeError} when `data` does not have exactly the bytes that `shape` and `dtype` need.
   */
  constructor(
    data: TypedArray,
    shape: readonly number[],
    options: { readonly dtype?: string; readonly order?: "C" | "F" } = {},
  ) {
    const dtype = options.dtype ?? dtypeOf(data);
    const type = parseDtype(dtype);
    if (type === null) {
      throw new RangeError(`Cannot make an NDArray: expected a numpy dtype as "<f8", got "${dtype}"`);
    }
    if (
      shape.length > DIMENSIONS_MAX ||
      !shape.every((length) => Number.isSafeInteger(length) && length >= 0)
    ) {
      throw new RangeError(
        `Cannot make an NDArray: expected a shape of non-negative integers, got [${shape.join(", ")}]`,
      );
    }
    const expected = sizeOf(shape) * type.itemSize;
    if (data.byteLength !== expected) {
      throw new RangeError(
        `Cannot make an NDArray of shape [${
          shape.join(", ")
        }] and dtype "${dtype}": expected ${expected} bytes, ` +
          `got ${data.byteLength}`,
      );
    }
    this.data = data;
    this.shape = [...shape];
    this.dtype = dtype;
    this.order = options.order ?? "C";
  }

  /** How many elements it has. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** The strides in bytes, as numpy counts them. */
  get strides(): number[] {
    return stridesOf(this.shape, parseDtype(this.dtype)!.itemSize, this.order);
  }
}

/** Product of the lengths. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const length of shape) size *= length;
  return size;
}

/** Strides in bytes of a contiguous array. */
export function stridesOf(shape: readonly number[], itemSize: number, order: "C" | "F"): number[] {
  const strides = new Array<number>(shape.length);
  let stride = itemSize;
  for (let n = 0; n < shape.length; n++) {
    const i = order === "C" ? shape.length - 1 - n : n;
    strides[i] = stride;
    stride *= Math.max(1, shape[i]!);
  }
  return strides;
}

/** A numpy dtype string, taken apart. */
export interface Dtype {
  readonly byteOrder: "<" | ">" | "|";
  readonly kind: string;
  readonly itemSize: number;
  /** The typed array for it in native byte order; `null` when bytes must do. */
  readonly view: ViewKind | null;
  /** Bytes of what the byte order applies to; complex numbers are two floats, text is units of 4 bytes. */
  readonly unitSize: number;
}

type ViewKind = "i1" | "u1" | "i2" | "u2" | "i4" | "u4" | "i8" | "u8" | "f2" | "f4" | "f8";

/** Takes a dtype string apart; `null` for what is none, or an unsupported one (objects, records). */
export function parseDtype(dtype: string): Dtype | null {
  const match = /^([<>|=]?)([biufcmMSUaVO?])(\d*)(\[\d*\w+\])?$/.exec(dtype);
  if (match === null) return null;
  const [, order = "", letter = "", digits = ""] = match;
  const kind = letter === "?" ? "b" : letter === "a" ? "S" : letter;
  if (kind === "O") return null;
  const count = letter === "?" ? 1 : digits === "" ? 0 : Number(digits);
  if (!Number.isSafeInteger(count) || count > 0x7fff_ffff) return null;
  const itemSize = kind === "U" ? count * 4 : count;
  if ("biufcmM".includes(kind) && ![1, 2, 4, 8, 12, 16, 32].includes(itemSize)) return null;
  const unitSize = kind === "U" ? 4 : kind === "c" ? itemSize / 2 : "SV".includes(kind) ? 1 : itemSize;
  const byteOrder = order === ">" && unitSize > 1 ? ">" : unitSize === 1 ? "|" : "<";
  return { byteOrder, kind, itemSize, view: viewKind(kind, itemSize), unitSize };
}

function viewKind(kind: string, itemSize: number): ViewKind | null {
  switch (`${kind}${itemSize}`) {
    case "b1":
      return "u1";
    case "m8":
    case "M8":
      return "i8";
    case "c8":
      return "f4";
    case "c16":
      return "f8";
    case "i1":
    case "u1":
    case "i2":
    case "u2":
    case "i4":
    case "u4":
    case "i8":
    case "u8":
    case "f4":
    case "f8":
      return `${kind}${itemSize}` as ViewKind;
    case "f2":
      return typeof Float16Array === "undefined" ? null : "f2";
    default:
      return null;
  }
}

/** The dtype string of a typed array. */
export function dtypeOf(data: TypedArray): string {
  switch (data[Symbol.toStringTag]) {
    case "Int8Array":
      return "|i1";
    case "Uint8Array":
    case "Uint8ClampedArray":
      return "|u1";
    case "Int16Array":
      return "<i2";
    case "Uint16Array":
      return "<u2";
    case "Int32Array":
      return "<i4";
    case "Uint32Array":
      return "<u4";
    case "BigInt64Array":
      return "<i8";
    case "BigUint64Array":
      return "<u8";
    case "Float16Array":
      return "<f2";
    case "Float32Array":
      return "<f4";
    case "Float64Array":
      return "<f8";
  }
}

/** The memory of any view as bytes. */
export function bytesOf(view: ArrayBufferView): Uint8Array {
  return view instanceof Uint8Array && view.constructor === Uint8Array
    ? view
    : new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** What an array says about itself on the wire. */
export interface ArrayLayout {
  /** numpy's dtype string. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** In bytes; `null` when the elements lie one after another in `order`. */
  readonly strides: readonly number[] | null;
  readonly order: "C" | "F";
}

/**
 * The array that `bytes` hold: a typed array when it is one-dimensional and made of numbers, otherwise an
 * {@linkcode NDArray}. Shares memory with `bytes` when they are aligned, contiguous and little-endian.
 *
 * @throws {SerializationError} when dtype, shape, strides and bytes do not fit together.
 */
export function readArray(bytes: Uint8Array, layout: ArrayLayout): TypedArray | NDArray {
  const { shape } = layout;
  const type = parseDtype(layout.dtype);
  if (type === null) throw refused(`its dtype "${layout.dtype}" has no plain form`);
  if (shape.length > DIMENSIONS_MAX) throw refused(`it has ${shape.length} dimensions`);
  let size = 1;
  for (const length of shape) {
    if (!Number.isSafeInteger(length) || length < 0) throw refused(`its shape has the length ${length}`);
    size *= length;
  }
  if (!Number.isSafeInteger(size * Math.max(1, type.itemSize))) {
    throw refused(`its shape is [${shape.join(", ")}]`);
  }
  const byteLength = size * type.itemSize;
  let order = layout.order;
  let packed = bytes;
  if (layout.strides === null || size === 0 || isPacked(shape, layout.strides, type.itemSize, "C")) {
    if (layout.strides !== null) order = "C";
    packed = prefix(bytes, byteLength);
  } else if (isPacked(shape, layout.strides, type.itemSize, "F")) {
    order = "F";
    packed = prefix(bytes, byteLength);
  } else {
    order = "C";
    packed = gather(bytes, shape, layout.strides, type.itemSize, byteLength);
  }
  if (type.byteOrder === ">" && type.view !== null) packed = swapped(packed, type.unitSize);
  const data = type.view === null ? packed : viewAs(packed, type.view);
  const native = type.view === null ? layout.dtype : nativeDtype(layout.dtype, type);
  if (shape.length === 1 && "iuf".includes(type.kind) && type.view !== null) return data;
  return new NDArray(data, shape, { dtype: native, order: shape.length < 2 ? "C" : order });
}

function nativeDtype(dtype: string, type: Dtype): string {
  const bare = dtype.replace(/^[<>|=]/, "");
  return (type.byteOrder === ">" ? "<" : type.byteOrder) + (bare === "?" ? "b1" : bare);
}

function prefix(bytes: Uint8Array, byteLength: number): Uint8Array {
  if (bytes.byteLength === byteLength) return bytes;
  if (bytes.byteLength < byteLength) {
    throw refused(`its shape needs ${byteLength} bytes, and there are ${bytes.byteLength}`);
  }
  return bytes.subarray(0, byteLength);
}

function isPacked(
  shape: readonly number[],
  strides: readonly number[],
  itemSize: number,
  order: "C" | "F",
): boolean {
  if (strides.length !== shape.length) {
    throw refused(`it has ${shape.length} dimensions and ${strides.length} strides`);
  }
  let stride = itemSize;
  for (let n = 0; n < shape.length; n++) {
    const i = order === "C" ? shape.length - 1 - n : n;
    if (shape[i] === 1) continue; // a stride that is never taken
    if (strides[i] !== stride) return false;
    stride *= shape[i]!;
  }
  return true;
}

/** Elements one after another in C order, from any strides; repeated ones are written out. */
function gather(
  bytes: Uint8Array,
  shape: readonly number[],
  strides: readonly number[],
  itemSize: number,
  byteLength: number,
): Uint8Array {
  let last = 0;
  for (let i = 0; i < shape.length; i++) {
    const stride = strides[i]!;
    if (!Number.isSafeInteger(stride) || stride < 0) throw refused(`it has the stride ${stride}`);
    last += stride * (shape[i]! - 1);
  }
  if (last + itemSize > bytes.byteLength) {
    throw refused(`its strides reach byte ${last + itemSize} of ${bytes.byteLength}`);
  }
  if (byteLength > bytes.byteLength + EXPANDED_BYTES_MAX) {
    throw refused(
      `written out it has ${byteLength} bytes, more than ${EXPANDED_BYTES_MAX} beyond the ${bytes.byteLength} received; ` +
        `send it as it is before numpy.broadcast_to`,
    );
  }
  const whole = new Uint8Array(byteLength);
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < byteLength; to += itemSize) {
    for (let k = 0; k < itemSize; k++) whole[to + k] = bytes[from + k]!;
    for (let i = shape.length - 1; i >= 0; i--) {
      from += strides[i]!;
      if (++index[i]! < shape[i]!) break;
      from -= strides[i]! * shape[i]!;
      index[i] = 0;
    }
  }
  return whole;
}

function swapped(bytes: Uint8Array, unitSize: number): Uint8Array {
  const copy = bytes.slice();
  for (let i = 0; i + unitSize <= copy.length; i += unitSize) copy.subarray(i, i + unitSize).reverse();
  return copy;
}

function viewAs(bytes: Uint8Array, kind: ViewKind): TypedArray {
  const size = Number(kind.slice(1));
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset } = aligned;
  const length = aligned.byteLength / size;
  switch (kind) {
    case "i1":
      return new Int8Array(buffer, byteOffset, length);
    case "u1":
      return bytesOf(aligned);
    case "i2":
      return new Int16Array(buffer, byteOffset, length);
    case "u2":
      return new Uint16Array(buffer, byteOffset, length);
    case "i4":
      return new Int32Array(buffer, byteOffset, length);
    case "u4":
      return new Uint32Array(buffer, byteOffset, length);
    case "i8":
      return new BigInt64Array(buffer, byteOffset, length);
    case "u8":
      return new BigUint64Array(buffer, byteOffset, length);
    case "f2":
      return new Float16Array(buffer, byteOffset, length);
    case "f4":
      return new Float32Array(buffer, byteOffset, length);
    case "f8":
      return new Float64Array(buffer, byteOffset, length);
  }
}

function refused(problem: string): SerializationError {
  return new SerializationError(`Cannot read a numpy array: ${problem}`);
}
