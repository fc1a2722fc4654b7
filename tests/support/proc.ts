/**
 * What Linux tells of processes: who descends from whom, who is alive, and what it holds.
 *
 * @module
 */

/** Processes below `pid`, itself first. */
export function processTree(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const id of processIds()) {
    const stat = statOf(id);
    if (stat !== null) parents.set(id, Number(stat.split(" ")[1]));
  }
  const found = [pid];
  for (const parent of found) {
    for (const [child, of] of parents) if (of === parent) found.push(child);
  }
  return found;
}

/** Whether it runs: a zombie does not. */
export function isAlive(pid: number): boolean {
  return !(statOf(pid) ?? "Z").startsWith("Z");
}

/** Whether it has ended and nobody asked how. */
export function isZombie(pid: number): boolean {
  return (statOf(pid) ?? "").startsWith("Z");
}

/** Memory that it has in RAM, bytes; 0 when it has ended. */
export function residentBytes(pid: number): number {
  try {
    const kilobytes = /^VmRSS:\s*(\d+)/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1];
    return Number(kilobytes ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** Files and sockets that it has open; 0 when it has ended. */
export function openFiles(pid: number): number {
  try {
    return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
  } catch {
    return 0;
  }
}

/** Running processes whose environment has `NAME=value`, this one excepted. */
export function processesWith(variable: string): number[] {
  return processIds().filter((pid) => {
    if (pid === Deno.pid || !isAlive(pid)) return false;
    try {
      return Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0").includes(variable);
    } catch {
      return false; // it ended meanwhile, or is somebody else's
    }
  });
}

function processIds(): number[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter(Number.isInteger);
}

/** The line of `/proc/PID/stat` behind the name: state, parent, and so on. */
function statOf(pid: number): string | null {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return stat.slice(stat.lastIndexOf(")") + 2);
  } catch {
    return null;
  }
}
