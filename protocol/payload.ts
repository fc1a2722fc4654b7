/**
 * What the data plane moves: one serialized value as it travels, header and frames, never decoded on the way.
 *
 * @module
 */

/**
 * A large frame that lives in a file (RAM-backed where the machine has room), whole: from byte 0 to its end.
 * Whoever created the file owns it; others only read it while they hold a lease on the payload.
 */
export interface FileFrame {
  /** Path of the file. */
  readonly file: string;
  /** Its size. */
  readonly byteLength: number;
}

/** One frame: bytes at hand, or a file that holds them. */
export type Frame = Uint8Array | FileFrame;

/**
 * A serialized value in wire form. `header` is the msgpack map of protocol "Serialized" *with* its `num-sub-frames`,
 * byte for byte as received or as the codec wrote it, so it can be sent on untouched.
 */
export interface Payload {
  readonly header: Uint8Array;
  readonly frames: readonly Frame[];
}

/** Whether a frame lives in a file. */
export function isFileFrame(frame: Frame): frame is FileFrame {
  return !(frame instanceof Uint8Array);
}

/** Exact bytes of a payload on the wire (header and frames, without lengths). */
export function payloadBytes(payload: Payload): number {
  let total = payload.header.byteLength;
  for (const frame of payload.frames) total += frame.byteLength;
  return total;
}
