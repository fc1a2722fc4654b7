/**
 * Compressed frames of serialized values, and frames that were split: decoding only, we never compress. The law: what
 * comes out is bounded by what the header could honestly claim, and a codec that is not here is named.
 *
 * @module
 */
import { concatBytes } from "./bytes.ts";
import { ProtocolError, SerializationError } from "./errors.ts";

/** Largest result of one frame, bytes: Python splits at this size before it compresses. */
export const DECOMPRESSED_BYTES_MAX = 1 << 26;

type Inflate = (bytes: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;
interface Zlib {
  readonly inflateSync: Inflate;
  readonly zstdDecompressSync: Inflate;
}

/**
 * The logical frames of a value: each data frame decompressed by `compression`, shards joined by
 * `split-num-sub-frames`. The frames themselves when the header names neither.
 *
 * @throws {SerializationError} when a frame is compressed by something that is not supported.
 * @throws {ProtocolError} when header and frames do not fit, or do not decompress.
 */
export function mergeFrames(
  header: Readonly<Record<string, unknown>>,
  frames: readonly Uint8Array[],
): readonly Uint8Array[] {
  return joinShards(header, decompressFrames(header, frames));
}

function decompressFrames(
  header: Readonly<Record<string, unknown>>,
  frames: readonly Uint8Array[],
): readonly Uint8Array[] {
  const names = header.compression;
  if (names === undefined || names === null) return frames;
  if (!Array.isArray(names)) throw unreadable('expected "compression" to be an array');
  if (names.every((name) => name === null || name === undefined)) return frames;
  if (names.length !== frames.length) {
    throw unreadable(`"compression" has ${names.length} entries for ${frames.length} frames`);
  }
  return frames.map((frame, i) => decompress(names[i], frame));
}

function decompress(name: unknown, frame: Uint8Array): Uint8Array {
  if (name === null || name === undefined) return frame;
  if (name !== "zlib" && name !== "zstd") {
    throw new SerializationError(
      `Cannot read a value that is compressed with ${
        JSON.stringify(name)
      }: expected "zlib", "zstd" or none; ` +
        `set "distributed.comm.compression" to one of them on the Python side`,
    );
  }
  const codec = zlib();
  try {
    const options = { maxOutputLength: DECOMPRESSED_BYTES_MAX };
    const bytes = name === "zlib"
      ? codec.inflateSync(frame, options)
      : codec.zstdDecompressSync(frame, options);
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength); // a plain array, no Buffer
  } catch (cause) {
    throw unreadable(
      `a frame of ${frame.byteLength} bytes is no ${name}: ${(cause as Error).message}`,
      cause,
    );
  }
}

function joinShards(
  header: Readonly<Record<string, unknown>>,
  frames: readonly Uint8Array[],
): readonly Uint8Array[] {
  const counts = header["split-num-sub-frames"];
  const offsets = header["split-offsets"];
  if (!Array.isArray(counts) || !Array.isArray(offsets)) return frames;
  if (counts.every((count) => count === 1) && counts.length === frames.length) return frames;
  if (counts.length !== offsets.length || counts.length > frames.length) {
    throw unreadable("the shards do not fit the frames");
  }
  let used = 0; // each frame belongs to one logical frame, so that a lying header cannot multiply them
  return counts.map((count, i) => {
    const offset = offsets[i];
    if (
      !isIndex(count) || !isIndex(offset) || offset + count > frames.length || (used += count) > frames.length
    ) {
      throw unreadable("the shards do not fit the frames");
    }
    return concatBytes(frames.slice(offset, offset + count));
  });
}

function isIndex(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}

let loaded: Zlib | null = null;

/** `node:zlib`, at the first compressed frame and not before: it costs 6 MB. */
function zlib(): Zlib {
  if (loaded !== null) return loaded;
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  const module = process?.getBuiltinModule?.("node:zlib");
  if (module === undefined) {
    throw new SerializationError("Cannot read a compressed value: this runtime has no zlib");
  }
  loaded = module as Zlib;
  return loaded;
}

function unreadable(reason: string, cause?: unknown): ProtocolError {
  return new ProtocolError(`Cannot read a value: ${reason}`, "remote", { cause });
}
