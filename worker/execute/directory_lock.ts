/**
 * Folders of workers that were killed are removed when the next worker starts. A live folder is known by a lock on a
 * file in it, which the kernel drops with the process, not by a process id: ids are used again, and mean nothing in
 * another container that shares the folder above.
 *
 * @module
 */

const LOCK_FILE = ".lock";
/** A folder without a lock file is left alone while it is younger than this, ms: its worker may just be starting. */
const STARTING_MS = 60_000;
/** How folders of workers are named, with the worker's process id for people. */
const NAME = /^dask-ts-\d+-/;

/** Marks a folder as in use until it is released or this process ends. Several may hold the same. */
export function holdDirectory(path: string): { release(): void } {
  const name = `${path}/${LOCK_FILE}`;
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(name, { write: true });
    file.lockSync(false);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    // It gets its name when it is locked: a lock file that nobody has locked is that of a dead worker.
    const unnamed = `${name}-${crypto.randomUUID()}`;
    file = Deno.openSync(unnamed, { write: true, createNew: true, mode: 0o600 });
    file.lockSync(false);
    Deno.renameSync(unnamed, name);
  }
  return {
    release() {
      file.close();
      try {
        Deno.removeSync(name);
      } catch { /* went with its folder, or with another holder */ }
    },
  };
}

/**
 * Removes the folders `dask-ts-<pid>-…` in `base` whose workers are gone; gives their paths. What cannot be looked at
 * or removed is left alone.
 */
export function removeStaleDirectories(base: string): string[] {
  const removed: string[] = [];
  let names: string[];
  try {
    names = [...Deno.readDirSync(base)].filter((entry) => entry.isDirectory && NAME.test(entry.name)).map((
      entry,
    ) => entry.name);
  } catch {
    return removed;
  }
  for (const name of names) {
    const path = `${base}/${name}`;
    try {
      if (!isStale(path)) continue;
      Deno.removeSync(path, { recursive: true });
      removed.push(path);
    } catch { /* someone else's, or gone already */ }
  }
  return removed;
}

function isStale(path: string): boolean {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(`${path}/${LOCK_FILE}`, { write: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const { mtime } = Deno.lstatSync(path);
    return mtime !== null && Date.now() - mtime.getTime() > STARTING_MS;
  }
  using held = file;
  return held.tryLockSync(true);
}
