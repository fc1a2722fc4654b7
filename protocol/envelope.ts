/**
 * Messages as lists of frames. Frame 0 is msgpack; values that are serialized on their own leave a placeholder there
 * and travel in the frames behind it, header first. The law: a serialized value is passed on by its frames, never
 * decoded on the way; and each frame belongs to at most one value.
 *
 * @module
 */
import { concatBytes } from "./bytes.ts";
import { ProtocolError } from "./errors.ts";
import { arrayHeader, decodeMsgpack, encodeMsgpack } from "./msgpack/mod.ts";
import type { Frame, Payload } from "./payload.ts";

/** A serialized value inside a message (`Serialize`d on the Python side). */
export interface Serialized {
  readonly $: "serialized";
  readonly payload: Payload;
}

/** A pickle inside a message that every receiver of the message, the scheduler included, unpickles at once. */
export interface Pickled {
  readonly $: "pickled";
  readonly pickle: Uint8Array;
  /** Out-of-band buffers of the pickle. */
  readonly buffers: readonly Uint8Array[];
}

/** Marks a payload as a value inside a message. */
export function serialized(payload: Payload): Serialized {
  return { $: "serialized", payload };
}

/** Marks a pickle as one that is unpickled wherever the message is read. */
export function pickled(pickle: Uint8Array, buffers: readonly Uint8Array[] = []): Pickled {
  return { $: "pickled", pickle, buffers };
}

/** Whether a part of a message is a serialized value. */
export function isSerialized(part: unknown): part is Serialized {
  return typeof part === "object" && part !== null && (part as Partial<Serialized>).$ === "serialized";
}

/** Whether a part of a message is a pickle. */
export function isPickled(part: unknown): part is Pickled {
  return typeof part === "object" && part !== null && (part as Partial<Pickled>).$ === "pickled";
}

/**
 * The frames of a message. Frames of payloads are passed on as they are, uncopied.
 *
 * @throws {ProtocolError} with side `"local"` when the message holds something that msgpack cannot carry.
 */
export function encodeMessage(message: unknown): Frame[] {
  const frames: Frame[] = [PENDING];
  frames[0] = encodeInto(frames, message);
  return frames;
}

/** Several messages in one, an array: the form of the streams. Each is encoded when it is added. */
export class Batch {
  readonly #frames: Frame[] = [PENDING];
  readonly #parts: Uint8Array[] = [PENDING];
  /** Bytes so far, without lengths. */
  byteLength = 0;

  /** Messages so far. */
  get size(): number {
    return this.#parts.length - 1;
  }

  /**
   * Adds a message; later changes to it are not seen.
   *
   * @throws {ProtocolError} as {@linkcode encodeMessage}; the batch is as before then.
   */
  add(message: unknown): void {
    const before = this.#frames.length;
    try {
      const part = encodeInto(this.#frames, message);
      this.#parts.push(part);
      this.byteLength += part.byteLength;
    } catch (error) {
      this.#frames.length = before;
      throw error;
    }
    for (let i = before; i < this.#frames.length; i++) this.byteLength += this.#frames[i]!.byteLength;
  }

  /** The frames of the whole array; the batch is used up. */
  finish(): Frame[] {
    this.#parts[0] = arrayHeader(this.#parts.length - 1);
    this.#frames[0] = concatBytes(this.#parts);
    return this.#frames;
  }
}

function encodeInto(frames: Frame[], message: unknown): Uint8Array {
  return encodeMsgpack(message, (tagged) => {
    const at = frames.length;
    if (isSerialized(tagged)) {
      frames.push(tagged.payload.header);
      for (const frame of tagged.payload.frames) frames.push(frame);
      return { __Serialized__: at };
    }
    if (isPickled(tagged)) {
      frames.push(encodeMsgpack({ "pickled-obj": tagged.pickle, "num-sub-frames": tagged.buffers.length }));
      for (const buffer of tagged.buffers) frames.push(buffer);
      return { __Pickled__: at };
    }
    return tagged;
  });
}

/**
 * The message of some frames: plain data with {@linkcode Serialized}, {@linkcode Pickled} and Sets in it; a member of a
 * Python Enum is its name.
 *
 * @throws {ProtocolError} when the frames make no sense.
 */
export function decodeMessage(frames: readonly Frame[]): unknown {
  let claimed = 0; // frames that belong to a value; more than there are means that some value claims another's
  const claim = (
    at: unknown,
    field: string,
  ): { header: Uint8Array; fields: Record<string, unknown>; rest: Frame[] } => {
    if (typeof at !== "number" || !Number.isInteger(at) || at < 1 || at >= frames.length) {
      throw new ProtocolError(
        `Cannot decode the message: "${field}" names frame ${
          typeof at === "number" ? at : `(${typeof at})`
        } of ${frames.length}`,
      );
    }
    const header = inMemory(frames, at);
    const fields = decodeMsgpack(header);
    const count = isRecord(fields) ? fields["num-sub-frames"] : undefined;
    if (!isRecord(fields) || typeof count !== "number" || !Number.isInteger(count) || count < 0) {
      throw new ProtocolError(`Cannot decode the message: frame ${at} is no header with "num-sub-frames"`);
    }
    claimed += 1 + count;
    if (at + 1 + count > frames.length || claimed > frames.length - 1) {
      throw new ProtocolError(
        `Cannot decode the message: the value at frame ${at} claims ${count} of ${frames.length} frames`,
      );
    }
    return { header, fields, rest: frames.slice(at + 1, at + 1 + count) };
  };
  if (frames.length === 0) throw new ProtocolError("Cannot decode the message: it has no frames");
  return decodeMsgpack(inMemory(frames, 0), (map) => {
    if (map.__Serialized__ !== undefined) {
      const { header, rest } = claim(map.__Serialized__, "__Serialized__");
      return serialized({ header, frames: rest });
    }
    if (map.__Pickled__ !== undefined) {
      const at = map.__Pickled__;
      const { fields, rest } = claim(at, "__Pickled__");
      const pickle = fields["pickled-obj"];
      if (!(pickle instanceof Uint8Array)) {
        throw new ProtocolError(`Cannot decode the message: frame ${String(at)} has no "pickled-obj"`);
      }
      const buffers = rest.map((frame) => {
        if (frame instanceof Uint8Array) return frame;
        throw new ProtocolError("Cannot decode the message: a buffer of a pickle lies in a file");
      });
      return pickled(pickle, buffers);
    }
    if (map.__Set__ === true && Array.isArray(map["as-list"])) return new Set(map["as-list"]);
    if (map.__Enum__ === true && typeof map.name === "string") return map.name;
    return map;
  });
}

/**
 * Which frames of an arriving message are data of serialized values, and so may be put elsewhere than in memory. Headers
 * and pickles are needed at hand. Ask with rising indexes.
 */
export class DataFrames {
  /** Index of the header whose frames are being looked at. */
  #header = 1;
  /** Index behind its last frame. */
  #end = 1;
  #sinkable = false;

  /** Whether frame `index` is data of a serialized value; `frames` are those before it. */
  has(frames: readonly Frame[], index: number): boolean {
    if (index === 0) return false;
    while (index >= this.#end) {
      this.#header = this.#end;
      const header = frames[this.#header];
      if (!(header instanceof Uint8Array)) return false; // the header itself is what arrives
      let fields: unknown;
      try {
        fields = decodeMsgpack(header);
      } catch {
        return false; // whoever decodes the message will say it
      }
      const count = isRecord(fields) ? fields["num-sub-frames"] : undefined;
      if (!isRecord(fields) || typeof count !== "number" || !(count >= 0)) return false;
      this.#end = this.#header + 1 + count;
      this.#sinkable = fields["pickled-obj"] === undefined;
    }
    return index > this.#header && this.#sinkable;
  }
}

const PENDING = new Uint8Array(0);

function inMemory(frames: readonly Frame[], at: number): Uint8Array {
  const frame = frames[at];
  if (frame instanceof Uint8Array) return frame;
  throw new ProtocolError(`Cannot decode the message: frame ${at} lies in a file, expected it in memory`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof Uint8Array);
}
