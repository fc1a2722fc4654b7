/**
 * Where a worker keeps its files: private folders, one that is RAM-backed where the machine has room, and one on disk
 * for what memory does not hold. They are gone when the worker ends; those of workers that were killed go when the next
 * one starts.
 *
 * @module
 */
import { FOLDER_PREFIX } from "../actors/store/mod.ts";
import type { Logger } from "../base/log.ts";
import { holdDirectory, removeStaleDirectories } from "./execute/directory_lock.ts";

/** The folders of one worker. */
export interface Directories extends AsyncDisposable {
  /** For large frames. */
  readonly frames: string;
  /** Whether what lies in `frames` is memory. */
  readonly ramBacked: boolean;
  /** On disk, for what is spilled; null: there is no disk, or none is wanted. */
  readonly spill: string | null;
  /** For sockets to the executors. */
  readonly sockets: string;
  /** Bytes that `frames` may take. */
  readonly roomBytes: number;
}

/** What is left of a RAM-backed disk for others. */
const SHARE = 0.8;

/** What {@linkcode makeDirectories} is told. */
export interface DirectoryOptions {
  /** Where files go that are to be on disk. Null: the temporary folder, or `/var/tmp` when that one is memory. */
  readonly base: string | null;
  /** Whether a folder for spilled values is wanted. */
  readonly spill: boolean;
  readonly logger: Logger;
}

/**
 * Makes the folders: large frames go to `base` if that is memory, else to `/dev/shm`, or to `base` where that cannot be.
 *
 * @throws {Deno.errors.NotCapable} when no folder may be written at all.
 */
export async function makeDirectories({ base, spill, logger }: DirectoryOptions): Promise<Directories> {
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
  const dispose = async () => {
    for (const hold of holds) hold.release();
    for (const path of made) await Deno.remove(path, { recursive: true }).catch(() => {});
  };
  try {
    if (base !== null) await Deno.mkdir(base, { recursive: true });
    const mounts = await readMounts();
    let frames: string;
    let [roomBytes, ramBacked] = [Infinity, true];
    try {
      const memory = base !== null && isMemory(base, mounts) ? base : "/dev/shm";
      frames = await make(memory);
      roomBytes = roomOf(memory, mounts);
    } catch (error) {
      frames = await make(base);
      ramBacked = isMemory(frames, mounts);
      logger.log("debug", `Large values lie in ${frames}: ${(error as Error).message}`);
    }
    // A socket's path may not be longer than 107 bytes, and what lies under /dev only processes that may do everything open.
    const sockets = await make(null);
    const spillBase = !spill ? undefined : base ?? (isMemory(sockets, mounts) ? "/var/tmp" : null);
    let spilled: string | null = null;
    try {
      if (spillBase !== undefined) spilled = await make(spillBase);
    } catch (error) {
      if (base !== null) throw error;
    }
    if (spill && spilled === null) {
      logger.log(
        "warning",
        "Nothing can be spilled: no folder on disk was found, name one by --local-directory",
      );
    } else if (spilled !== null && isMemory(spilled, mounts)) {
      logger.log(
        "warning",
        `What is spilled to ${spilled} stays in memory: name a folder on disk by --local-directory`,
      );
    }
    return { frames, ramBacked, spill: spilled, sockets, roomBytes, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** A mounted file system: where, of what type, with which options. */
type Mount = readonly [at: string, type: string, options: string];

/** What is mounted, last first; nothing where that cannot be read. */
async function readMounts(): Promise<readonly Mount[]> {
  try {
    const lines = (await Deno.readTextFile("/proc/mounts")).split("\n");
    return lines.map((line): Mount => {
      const [, at = "", type = "", options = ""] = line.split(" ");
      return [at, type, options];
    }).reverse();
  } catch {
    return [];
  }
}

/** Whether files under a path are memory, as far as that can be known. */
function isMemory(path: string, mounts: readonly Mount[]): boolean {
  let [best, memory] = ["", false];
  for (const [at, type] of mounts) {
    const holds = at === "/" || path === at || path.startsWith(`${at}/`);
    if (!holds || at.length <= best.length) continue;
    best = at;
    memory = type === "tmpfs" || type === "ramfs";
  }
  return memory;
}

/** Bytes that may lie in a tmpfs; containers often give `/dev/shm` 64 MB. Unknown: no limit but its own. */
function roomOf(path: string, mounts: readonly Mount[]): number {
  const options = mounts.find(([at]) => at === path)?.[2] ?? "";
  const [, amount, unit = ""] = /\bsize=(\d+)([kmg]?)/i.exec(options) ?? [];
  if (amount === undefined) return Infinity;
  const factor = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[unit.toLowerCase()] ?? 1;
  return Math.floor(Number(amount) * factor * SHARE);
}
