/**
 * What a worker process, its executors and their machine use, looked up once a heartbeat: processor, memory, open
 * files, bytes over the network and to and from disks. What the permissions or the system do not tell is zero.
 *
 * @module
 */

/** Figures of one moment. Rates are those since the moment before. */
export interface Sample {
  /** Seconds since the epoch. */
  readonly time: number;
  /** Of the worker and its executors, percent of one core. */
  readonly cpu: number;
  /** Resident bytes of the worker, and what its executors have for themselves. */
  readonly memory: number;
  /** Files and sockets that the worker has open. */
  readonly num_fds: number;
  /** Of the whole machine, bytes per second. */
  readonly "host_net_io.read_bps": number;
  readonly "host_net_io.write_bps": number;
  readonly "host_disk_io.read_bps": number;
  readonly "host_disk_io.write_bps": number;
}

/** Samples that are kept for `get_monitor_info`; at two a second two minutes. */
const SAMPLES_MAX = 240;
/** Tick of the event-loop probe, ms. */
const TICK_MS = 500;
/** Ticks of processor time a second, in `/proc` of every Linux that Deno runs on. */
const CLOCK_TICKS = 100;
const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;

/** Bytes so far. */
interface Traffic {
  readonly netRead: number;
  readonly netWritten: number;
  readonly diskRead: number;
  readonly diskWritten: number;
}

const NO_TRAFFIC: Traffic = { netRead: 0, netWritten: 0, diskRead: 0, diskWritten: 0 };

/** Takes samples and keeps the last ones. `stop` ends its timer. */
export class Monitor {
  /** Samples taken so far. */
  count = 0;
  readonly #executors: () => readonly number[];
  readonly #samples: Sample[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  /** Processor time of each living executor at the last sample, seconds. */
  #executorSeconds = new Map<number, number>();
  #ownSeconds = ownSeconds();
  #traffic: Traffic | null = null;
  #at = performance.now();
  #tickAt = performance.now();
  #tickDelayMs = 0;
  #ticks = 0;
  #longestMs = 0;
  /** False when `/proc` cannot be read: it is not tried again. */
  #proc = true;

  /** `executors` gives the process ids of the executors that live now. */
  constructor(executors: () => readonly number[] = () => []) {
    this.#executors = executors;
    this.#timer = setInterval(() => {
      const at = performance.now();
      this.#ticks++;
      this.#longestMs = Math.max(this.#longestMs, at - this.#tickAt);
      // A lone hiccup fades within a few ticks instead of vanishing or staying for ever.
      this.#tickDelayMs = Math.max(at - this.#tickAt - TICK_MS, 0) / 2 + this.#tickDelayMs / 2;
      this.#tickAt = at;
    }, TICK_MS);
    Deno.unrefTimer(this.#timer);
  }

  /** How late the event loop is, in the recent past, seconds. */
  get loopIntervalSeconds(): number {
    return (this.#tickDelayMs + 1) / 1000;
  }

  /** Ticks so far, and the longest time between two of them since the last call, seconds. */
  ticks(): { readonly count: number; readonly longestSeconds: number } {
    const longestSeconds = Math.max(this.#longestMs, performance.now() - this.#tickAt) / 1000;
    this.#longestMs = 0;
    return { count: this.#ticks, longestSeconds };
  }

  /** When the last sample was taken, seconds since the epoch. */
  get lastTime(): number | null {
    return this.#samples.at(-1)?.time ?? null;
  }

  /** Takes a sample. */
  sample(): Sample {
    const at = performance.now();
    const seconds = Math.max(at - this.#at, 1) / 1000;
    this.#at = at;
    const executors = this.#sampleExecutors();
    const own = ownSeconds();
    const cpu = (own - this.#ownSeconds + executors.seconds) / seconds * 100;
    this.#ownSeconds = own;
    const traffic = this.#read(readTraffic) ?? NO_TRAFFIC;
    const before = this.#traffic ?? traffic;
    this.#traffic = traffic;
    const rate = (name: keyof Traffic) => Math.max(0, traffic[name] - before[name]) / seconds;
    const sample: Sample = {
      time: Date.now() / 1000,
      cpu,
      memory: Deno.memoryUsage().rss + executors.bytes,
      num_fds: this.#read(countFiles) ?? 0,
      "host_net_io.read_bps": rate("netRead"),
      "host_net_io.write_bps": rate("netWritten"),
      "host_disk_io.read_bps": rate("diskRead"),
      "host_disk_io.write_bps": rate("diskWritten"),
    };
    this.count++;
    if (this.#samples.push(sample) > SAMPLES_MAX) this.#samples.shift();
    return sample;
  }

  /** The last sample, as a map from name to figure. */
  recent(): Record<string, number> {
    return { ...this.#samples.at(-1) };
  }

  /** The samples from number `start` on, as a map from name to list. */
  since(start: number): Record<string, number[]> {
    const first = this.count - this.#samples.length;
    const series: Record<string, number[]> = {};
    for (const sample of this.#samples.slice(Math.max(0, start - first))) {
      for (const [name, figure] of Object.entries(sample)) (series[name] ??= []).push(figure);
    }
    return series;
  }

  /** Ends the timer. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** What the executors used since the last sample, and what they have now. */
  #sampleExecutors(): { readonly seconds: number; readonly bytes: number } {
    const now = new Map<number, number>();
    let used = 0;
    let bytes = 0;
    for (const pid of this.#executors()) {
      const usage = this.#read(() => readProcess(pid));
      if (usage === null) continue;
      now.set(pid, usage.seconds);
      used += usage.seconds - (this.#executorSeconds.get(pid) ?? 0);
      bytes += usage.bytes;
    }
    this.#executorSeconds = now;
    return { seconds: used, bytes };
  }

  #read<T>(read: () => T): T | null {
    if (!this.#proc) return null;
    try {
      return read();
    } catch (error) {
      // A process may have ended; what may not be read today may not be read tomorrow.
      if (error instanceof Deno.errors.NotCapable || Deno.build.os !== "linux") this.#proc = false;
      return null;
    }
  }
}

/** Processor time of this process so far, seconds. */
function ownSeconds(): number {
  // The runtime has it, its type declarations do not; `process.cpuUsage` would load Node's machinery (5 MB).
  const { cpuUsage } = Deno as unknown as {
    cpuUsage?: () => { readonly system: number; readonly user: number };
  };
  if (cpuUsage === undefined) return 0;
  const { system, user } = cpuUsage();
  return (system + user) / 1e6;
}

/** Processor time of another process, and the memory that it shares with nobody. */
function readProcess(pid: number): { readonly seconds: number; readonly bytes: number } {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // Its name stands in brackets and may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [, resident, shared] = Deno.readTextFileSync(`/proc/${pid}/statm`).split(" ");
  return {
    seconds: (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS,
    bytes: (Number(resident) - Number(shared)) * PAGE_BYTES,
  };
}

function countFiles(): number {
  let count = 0;
  for (const _ of Deno.readDirSync("/proc/self/fd")) count++;
  return count;
}

function readTraffic(): Traffic {
  return {
    ...parseNetwork(Deno.readTextFileSync("/proc/net/dev")),
    ...parseDisks(Deno.readTextFileSync("/proc/diskstats")),
  };
}

/** Bytes over all interfaces, of the text of `/proc/net/dev`. */
export function parseNetwork(text: string): Pick<Traffic, "netRead" | "netWritten"> {
  let netRead = 0;
  let netWritten = 0;
  for (const line of text.split("\n")) {
    const [, figures] = line.split(":");
    if (figures === undefined) continue;
    const fields = figures.trim().split(/\s+/);
    netRead += Number(fields[0]);
    netWritten += Number(fields[8]);
  }
  return { netRead, netWritten };
}

/** Bytes from and to whole disks, of the text of `/proc/diskstats`; partitions and layers would count twice. */
export function parseDisks(text: string): Pick<Traffic, "diskRead" | "diskWritten"> {
  let diskRead = 0;
  let diskWritten = 0;
  for (const line of text.split("\n")) {
    const fields = line.trim().split(/\s+/);
    const name = fields[2] ?? "";
    if (!/^((s|v|xv|h)d[a-z]+|nvme\d+n\d+|mmcblk\d+)$/.test(name)) continue;
    diskRead += Number(fields[5]) * SECTOR_BYTES;
    diskWritten += Number(fields[9]) * SECTOR_BYTES;
  }
  return { diskRead, diskWritten };
}
