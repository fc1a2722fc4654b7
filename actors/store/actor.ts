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
import { formatBytes } from "../../base/units.ts";
import {
  type FileFrame,
  type Frame,
  isFileFrame,
  type Payload,
  payloadBytes,
} from "../../protocol/payload.ts";
import { type Actor, type Clock, spawn, systemClock, Timers, toError } from "../kernel/mod.ts";
import { FILE_BYTES_MIN, type SpillWriter, spillWriter, StoreDisk } from "./disk.ts";
import { StoreMachine } from "./machine.ts";
import { filesIn, type StoreCalls, type StoreEvents } from "./messages.ts";

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
  /** Whether files in `directory` are memory. Default true. */
  readonly ramBacked?: boolean;
  /** Where payloads go that memory does not hold. Default: nowhere. */
  readonly spill?: SpillOptions | null;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** The store has crashed: without it nothing can go on. */
  readonly onCrash?: (error: Error) => void;
}

/** How a store spills. */
export interface SpillOptions {
  /** Private folder on disk; it exists. */
  readonly directory: string;
  /** Bytes in memory from which on it spills, least recently used first. `Infinity`: only when it is told to. */
  readonly targetBytes: number;
  /** Bytes in memory that it never exceeds while the disk takes nothing: what is to be stored then is refused. */
  readonly limitBytes: number;
  /** Writes files. Default: {@linkcode spillWriter} in `directory`. */
  readonly write?: SpillWriter;
}

/** After the disk took no file it is left alone for this long, ms. */
export const SPILL_RETRY_MS = 1_000;
/** A disk that takes nothing is told of this often, ms. */
const SPILL_WARNING_MS = 30_000;

/** Starts a store. When `stop` has resolved, none of its files is left. */
export function startStore(options: StoreOptions): Actor<StoreCalls> {
  const { directory, fileBytesMin = FILE_BYTES_MIN, fileRoomBytes = Infinity, logger = silent } = options;
  const { spill = null, ramBacked = true, clock = systemClock } = options;
  const machine = new StoreMachine({
    fileBytesMin,
    roomBytes: directory === null ? 0 : fileRoomBytes,
    ramBacked,
    targetBytes: spill?.targetBytes ?? Infinity,
  });
  const writeSpilled = spill === null ? null : spill.write ?? spillWriter(spill.directory);
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

  /** The files that are being written, or were last. */
  let spilling: Promise<readonly FileFrame[] | null> = Promise.resolve(null);
  /** Why the disk took nothing the last time; null: it did. */
  let spillFailure: string | null = null;
  let warnedAt = -Infinity;

  const spillMore = (): void => {
    if (writeSpilled === null || spillFailure !== null) return;
    const next = machine.beginSpill();
    if (next === null) return;
    const ended = (written: readonly FileFrame[] | null, reason: string) => {
      actor.ref.tell("spilled", { written, reason });
      return written;
    };
    spilling = writeSpilled(next.frames).then(
      (written) => ended(written, ""),
      (thrown) => ended(null, toError(thrown).message),
    );
  };

  /** Why there is no room for a payload, or null. As long as the disk takes what is spilled there always is. */
  const overflow = (payload: Payload): string | null => {
    if (spill === null || spillFailure === null) return null;
    const bytes = payloadBytes(payload);
    if (machine.memoryBytes + bytes <= spill.limitBytes) return null;
    return `its ${formatBytes(bytes)} do not fit into the memory limit of ${
      formatBytes(spill.limitBytes)
    } beside ${
      formatBytes(machine.memoryBytes)
    } of other values, and nothing can be spilled to ${spill.directory}: ${spillFailure}`;
  };

  const actor = spawn<StoreCalls & StoreEvents>("store", {
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
      const refusal = refusalOf(payload) ?? overflow(payload);
      if (refusal !== null) {
        for (const file of filesIn(payload)) discard(file);
        return asker.refuse(new SerializationError(`Cannot store "${key}": ${refusal}`));
      }
      const { stored, unneeded } = machine.commit(key, compact(payload));
      disk.remove(unneeded);
      asker.answer({ id: stored.id, nbytes: stored.nbytes });
      spillMore();
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
    spill({ memoryBytes }, asker) {
      machine.wantBytes(memoryBytes);
      spillMore();
      asker.answer();
    },
    spilled({ written, reason }) {
      disk.remove(machine.endSpill(written));
      if (written !== null) return spillMore();
      spillFailure = reason;
      retry.set("retry", clock.now() + SPILL_RETRY_MS);
      if (clock.now() - warnedAt < SPILL_WARNING_MS) return;
      warnedAt = clock.now();
      logger.log("warning", "Cannot spill to disk, values stay in memory", {
        directory: spill?.directory,
        reason,
      });
    },
    retry() {
      spillFailure = null;
      spillMore();
    },
    usage: (_, asker) => asker.answer(machine.usage()),
  }, {
    onStop() {
      retry.clearAll();
      disk.remove(machine.close());
    },
    ...(options.onCrash === undefined ? {} : { onCrash: options.onCrash }),
  });

  const retry = new Timers<"retry">(clock, () => actor.ref.tell("retry", {}));

  const stopped = actor.stopped.then(async () => {
    // Nobody hears any more of what was just written.
    disk.remove((await spilling ?? []).map(({ file }) => file));
    await disk.settled();
  });
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
