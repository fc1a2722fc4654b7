/**
 * Where a worker keeps its files: one private folder per worker, RAM-backed where the machine has room, gone when the
 * worker ends; those of workers that were killed go when the next one starts.
 *
 * @module
 */
import { FOLDER_PREFIX } from "../actors/store/mod.ts";
import type { Logger } from "../base/log.ts";
import { holdDirectory, removeStaleDirectories } from "./execute/directory_lock.ts";

/** The folders of one worker. */
export interface Directories extends AsyncDisposable {
  /** For large frames; null: they stay in memory. */
  readonly frames: string | null;
  /** For sockets to the executors. */
  readonly sockets: string;
  /** Bytes that `frames` may take. */
  readonly roomBytes: number;
}

/** What is left of a RAM-backed disk for others. */
const SHARE = 0.8;

/**
 * Makes the folders. `base` null: `/dev/shm`, else the temporary folder.
 *
 * @throws {Deno.errors.NotCapable} when no folder may be written at all.
 */
export async function makeDirectories(base: string | null, logger: Logger): Promise<Directories> {
  const folder = { prefix: `${FOLDER_PREFIX}${Deno.pid}-` };
  const made: string[] = [];
  const holds: { release(): void }[] = [];
  const make = async (dir: string | null): Promise<string> => {
    const path = await Deno.makeTempDir(dir === null ? folder : { ...folder, dir });
    made.push(path);
    // From now on, not only when executors come: the scheduler may be long in coming.
    holds.push(holdDirectory(path));
    const base = path.slice(0, path.lastIndexOf("/"));
    const stale = removeStaleDirectories(base);
    if (stale.length > 0) {
      logger.log("info", `Removed ${stale.length} folders in ${base} of workers that were killed`);
    }
    return path;
  };
  let frames: string;
  let roomBytes = Infinity;
  if (base !== null) {
    await Deno.mkdir(base, { recursive: true });
    frames = await make(base);
  } else {
    const room = await sharedMemoryBytes();
    try {
      frames = await make("/dev/shm");
      roomBytes = room;
    } catch (error) {
      logger.log("debug", `Large values lie in the temporary folder: ${(error as Error).message}`);
      frames = await make(null);
    }
  }
  // A socket's path may not be longer than 107 bytes, and what lies under /dev only processes that may do everything open.
  const sockets = await make(null);
  return {
    frames,
    sockets,
    roomBytes,
    [Symbol.asyncDispose]: async () => {
      for (const hold of holds) hold.release();
      for (const path of made) await Deno.remove(path, { recursive: true }).catch(() => {});
    },
  };
}

/** Bytes that may lie in `/dev/shm`; containers often give it 64 MB. Unknown: no limit but the disk's own. */
async function sharedMemoryBytes(): Promise<number> {
  let mounts: string;
  try {
    mounts = await Deno.readTextFile("/proc/mounts");
  } catch {
    return Infinity;
  }
  const line = mounts.split("\n").find((mount) => mount.split(" ")[1] === "/dev/shm");
  const [, amount, unit = ""] = /\bsize=(\d+)([kmg]?)/i.exec(line ?? "") ?? [];
  if (amount === undefined) return Infinity;
  const factor = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[unit.toLowerCase()] ?? 1;
  return Math.floor(Number(amount) * factor * SHARE);
}
