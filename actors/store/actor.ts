/**
 * The data store: owns all payload bytes of a process, as they travel. Nothing is decoded here.
 *
 * Decisions are made in `machine.ts`; this file checks what it is given, and performs. What an actor outside the store
 * reads it reads under a lease: the bytes and files of a payload stay until the last lease ends, even when its key was
 * freed or given another payload meanwhile.
 *
 * @module
 */
import { type Logger, silent } from "../../base/log.ts";
import { SerializationError } from "../../protocol/errors.ts";
import { type FileFrame, type Frame, isFileFrame, type Payload } from "../../protocol/payload.ts";
import { type Actor, spawn } from "../kernel/mod.ts";
import { FILE_BYTES_MIN, StoreDisk } from "./disk.ts";
import { StoreMachine } from "./machine.ts";
import { filesIn, type StoreCalls } from "./messages.ts";

/** Bytes of a received buffer that a frame may keep alive beside itself; one that would keep more is copied. */
const SLACK_BYTES_MAX = 4_096;

/** Options of {@linkcode startStore}. */
export interface StoreOptions {
  /** Private folder for large frames, best RAM-backed; it exists. Null: everything stays in memory. */
  readonly directory: string | null;
  /** Frames smaller than this stay in memory. Default 65,536. */
  readonly fileBytesMin?: number;
  /** Bytes that the files may take in all; beyond, `allocate` answers null. Default: until the disk is full. */
  readonly fileRoomBytes?: number;
  readonly logger?: Logger;
  /** The store has crashed: without it nothing can go on. */
  readonly onCrash?: (error: Error) => void;
}

/** Starts a store. When `stop` has resolved, none of its files is left. */
export function startStore(options: StoreOptions): Actor<StoreCalls> {
  const { directory, fileBytesMin = FILE_BYTES_MIN, fileRoomBytes = Infinity, logger = silent } = options;
  const machine = new StoreMachine({ fileBytesMin, roomBytes: directory === null ? 0 : fileRoomBytes });
  const disk = new StoreDisk(directory, logger);

  const discard = (file: string): void => {
    if (disk.owns(file)) disk.remove(machine.discard(file));
  };

  /**
   * Why a payload cannot be taken over, or null. Payloads come from strangers and from user code: what is no payload
   * would spoil the figures, and a file that is not ours would be read by others and removed in the end.
   */
  const refusalOf = (payload: Payload): string | null => {
    if (!(payload?.header instanceof Uint8Array) || !Array.isArray(payload.frames)) {
      return "it is not a payload";
    }
    for (const frame of payload.frames as readonly unknown[]) {
      if (frame instanceof Uint8Array) continue;
      if (!isFile(frame)) return "one of its frames is neither bytes nor a file";
      const refusal = disk.refusal(frame) ?? machine.refusal(frame);
      if (refusal !== null) return refusal;
    }
    return null;
  };

  const actor = spawn<StoreCalls>("store", {
    allocate({ byteLength }, asker) {
      if (!machine.fits(byteLength)) return asker.answer(null);
      const file = disk.newFile();
      machine.allocate(file, byteLength);
      asker.answer({ file });
    },
    discard({ file }, asker) {
      discard(file);
      asker.answer();
    },
    commit({ key, payload }, asker) {
      const refusal = refusalOf(payload);
      if (refusal !== null) {
        for (const file of filesIn(payload)) discard(file);
        return asker.refuse(new SerializationError(`Cannot store "${key}": ${refusal}`));
      }
      const { stored, unneeded } = machine.commit(key, compact(payload));
      disk.remove(unneeded);
      asker.answer({ id: stored.id, nbytes: stored.nbytes });
    },
    view: ({ keys }, asker) => asker.answer(machine.view(keys)),
    release({ lease }, asker) {
      disk.remove(machine.release(lease));
      asker.answer();
    },
    free({ keys }, asker) {
      const { ids, unneeded } = machine.free(keys);
      disk.remove(unneeded);
      asker.answer({ ids });
    },
    usage: (_, asker) => asker.answer(machine.usage()),
  }, {
    onStop: () => disk.remove(machine.close()),
    ...(options.onCrash === undefined ? {} : { onCrash: options.onCrash }),
  });

  const stopped = actor.stopped.then(() => disk.settled());
  return {
    ref: actor.ref,
    stopped,
    stop() {
      actor.stop();
      return stopped;
    },
  };
}

function isFile(frame: unknown): frame is FileFrame {
  return typeof frame === "object" && frame !== null && "file" in frame && typeof frame.file === "string" &&
    "byteLength" in frame && typeof frame.byteLength === "number";
}

/** The payload, without frames that keep much larger buffers alive: what is counted is what is kept. */
function compact(payload: Payload): Payload {
  if (!isSlack(payload.header) && !payload.frames.some(isSlack)) return payload;
  return {
    header: isSlack(payload.header) ? payload.header.slice() : payload.header,
    frames: payload.frames.map((frame) => isSlack(frame) ? frame.slice() : frame),
  };
}

function isSlack(frame: Frame): frame is Uint8Array {
  if (isFileFrame(frame)) return false;
  const slack = frame.buffer.byteLength - frame.byteLength;
  return slack > SLACK_BYTES_MAX && slack > frame.byteLength / 8;
}
