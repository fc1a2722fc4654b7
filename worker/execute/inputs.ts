/**
 * The inputs that an executor keeps between calls. Which ones it keeps is decided by the worker, so that both sides
 * agree without asking; this side only does what it is told. Bytes are read and decoded when a call first needs them.
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";
import type { Frame } from "../../protocol/payload.ts";
import { decodeValue } from "../../protocol/value.ts";
import type { SharedFiles } from "./files.ts";
import type { LinkFrame, LinkInput } from "./link.ts";

/** A value that came as an input, decoded or not yet. */
export class InputValue {
  readonly #key: string;
  readonly #header: Uint8Array;
  #frames: readonly LinkFrame[];
  readonly #raw: readonly Frame[];
  #decoded = false;
  #value: unknown = undefined;

  constructor(key: string, header: Uint8Array, frames: readonly LinkFrame[], raw: readonly Frame[]) {
    this.#key = key;
    this.#header = header;
    this.#frames = frames;
    this.#raw = raw.length === 0 ? raw : raw.slice();
  }

  /** The value. Kept values are shared between calls: a task that writes to its input writes for all that follow. */
  value(files: SharedFiles): unknown {
    if (this.#decoded && !isDetached(this.#value)) return this.#value;
    const frames = this.#frames.map((frame) => {
      if (frame instanceof Uint8Array) return frame;
      if (typeof frame === "number") return this.#raw[frame] as Uint8Array;
      return files.read(frame[0], frame[1]);
    });
    try {
      this.#value = decodeValue({ header: this.#header, frames });
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new DaskError(`Cannot read the input "${this.#key}": ${reason}`, { cause });
    }
    this.#decoded = true;
    return this.#value;
  }
}

/** The kept inputs of one executor, by store id. */
export class KeptInputs {
  readonly #kept = new Map<number, InputValue>();

  /** Takes the inputs of a call as they came with it. */
  take(
    inputs: readonly LinkInput[],
    raw: readonly Frame[],
  ): { readonly key: string; readonly input: InputValue }[] {
    return inputs.map((entry) => {
      const [key, id] = entry;
      if (entry.length === 2) {
        const kept = this.#kept.get(id);
        if (kept === undefined) {
          throw new DaskError(`Cannot find the input "${key}", which was to be kept from an earlier call`);
        }
        return { key, input: kept };
      }
      const input = new InputValue(key, entry[3], entry[4], raw);
      if (entry[2]) this.#kept.set(id, input);
      return { key, input };
    });
  }

  forget(ids: readonly number[]): void {
    for (const id of ids) this.#kept.delete(id);
  }
}

/** Whether a task has transferred the memory of a kept array away. */
function isDetached(value: unknown): boolean {
  return ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer && value.buffer.detached;
}
