/**
 * The part of `@msgpack/msgpack` 3.1.3 that `mod.ts` builds on. Its own types mark the hooks `private`; the version is
 * pinned exactly, so they cannot move under us, and `tests/protocol/msgpack_test.ts` proves each of them.
 */

export class Encoder {
  constructor(options?: { maxDepth?: number; initialBufferSize?: number; ignoreUndefined?: boolean });
  /** How much of `bytes` is written. */
  protected pos: number;
  protected view: DataView;
  protected bytes: Uint8Array;
  /** Writes any value at `pos`, asking the methods below. */
  protected doEncode(object: unknown, depth: number): void;
  protected encodeObject(object: object | bigint | symbol, depth: number): void;
  protected encodeArray(object: readonly unknown[], depth: number): void;
  protected encodeBinary(object: ArrayBufferView): void;
  protected encodeString(object: string): void;
  protected writeU8(value: number): void;
  protected writeU16(value: number): void;
  protected writeU32(value: number): void;
  protected writeBigUint64(value: bigint): void;
  protected writeBigInt64(value: bigint): void;
}

export class Decoder {
  constructor(options?: { mapKeyConverter?: (key: unknown) => string | number });
  /** Decodes one value; throws when bytes are missing or left over. Objects, not Maps; bin are views on `buffer`. */
  decode(buffer: Uint8Array): unknown;
  protected pos: number;
  protected view: DataView;
  protected bytes: Uint8Array;
  protected stack: { readonly length: number; top(): { map?: Record<string, unknown> } };
  /** Forgets what a failed call left behind. */
  protected reinitializeState(): void;
  protected readHeadByte(): number;
  protected pushArrayState(size: number): void;
  protected pushMapState(size: number): void;
  protected stateIsMapKey(): boolean;
  protected decodeUtf8String(byteLength: number, headerOffset: number): unknown;
  protected decodeExtension(size: number, headOffset: number): unknown;
  protected readU64(): number | bigint;
  protected readI64(): number | bigint;
}
