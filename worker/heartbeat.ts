/**
 * What a worker tells about itself at registration and with every heartbeat, and the loop that tells it. Heartbeats go
 * by rpc on a connection of their own, never on the stream; the scheduler says how often.
 *
 * @module
 */
import type { PeerCalls } from "../actors/peer/messages.ts";
import type { StoreCalls } from "../actors/store/messages.ts";
import type { Logger } from "../base/log.ts";
import type { Key } from "./machine/events.ts";
import type { WorkerCounts } from "./messages.ts";

/** Tick of the event-loop probe, ms; also how often memory and CPU are sampled at most. */
const TICK_MS = 500;
/** The scheduler's own patience with a silent worker; ours with a silent scheduler. */
const PATIENCE_MS = 300_000;
/** Bandwidth assumed before the first transfer, bytes a second; the scheduler assumes the same. */
const BANDWIDTH_BYTES = 100e6;

/** Figures of this process. `stop` ends its timer. */
export interface Meter {
  /** CPU of this process since the last call, percent of one core. */
  cpu(): number;
  /** Resident bytes of this process. */
  rss(): number;
  /** Longest delay between two ticks in the recent past, seconds. */
  readonly loopIntervalSeconds: number;
  stop(): void;
}

/** Starts a meter. */
export function startMeter(): Meter {
  let cpuAt = performance.now();
  let cpuUs = cpuMicroseconds();
  let tickAt = performance.now();
  let interval = 0;
  const timer = setInterval(() => {
    const at = performance.now();
    // A lone hiccup fades within a few ticks instead of vanishing or staying for ever.
    interval = Math.max(at - tickAt - TICK_MS, 0) / 2 + interval / 2;
    tickAt = at;
  }, TICK_MS);
  Deno.unrefTimer(timer);
  return {
    cpu: () => {
      const at = performance.now();
      const us = cpuMicroseconds();
      const percent = (us - cpuUs) / Math.max(at - cpuAt, 1) / 10;
      cpuAt = at;
      cpuUs = us;
      return percent;
    },
    rss: () => Deno.memoryUsage().rss,
    get loopIntervalSeconds() {
      return (interval + 1) / 1000;
    },
    stop: () => clearInterval(timer),
  };
}

function cpuMicroseconds(): number {
  // The runtime has it, its type declarations do not; `process.cpuUsage` would load Node's machinery (5 MB).
  const { cpuUsage } = Deno as unknown as {
    cpuUsage?: () => { readonly system: number; readonly user: number };
  };
  if (cpuUsage === undefined) return 0;
  const { system, user } = cpuUsage();
  return system + user;
}

/** What {@linkcode writeMetrics} is made from. */
export interface Figures {
  readonly at: number;
  readonly counts: WorkerCounts;
  readonly store: StoreCalls["usage"]["answer"];
  readonly peer: PeerCalls["usage"]["answer"];
  readonly cpu: number;
  /** Of all processes of the worker, and its RAM-backed files, bytes. */
  readonly memoryBytes: number;
  readonly loopIntervalSeconds: number;
}

/** Nothing happened yet: the figures at registration. */
export function firstFigures(at: number, meter: Meter): Figures {
  return {
    at,
    counts: { states: {}, executing: new Map() },
    store: { keys: 0, bytes: 0, fileBytes: 0, diskBytes: 0 },
    peer: {
      incomingCount: 0,
      outgoingCount: 0,
      incomingCountTotal: 0,
      outgoingCountTotal: 0,
      incomingBytes: 0,
      outgoingBytes: 0,
      bandwidth: {},
    },
    cpu: 0,
    memoryBytes: meter.rss(),
    loopIntervalSeconds: meter.loopIntervalSeconds,
  };
}

/** The `metrics` map as the scheduler and its dashboard read it. */
export function writeMetrics(figures: Figures): Record<string, unknown> {
  const { peer, store } = figures;
  // Per peer: the sum of the bandwidths of so many transfers.
  const bandwidths = Object.values(peer.bandwidth);
  const count = bandwidths.reduce((sum, [, n]) => sum + n, 0);
  const total = count === 0 ? BANDWIDTH_BYTES : bandwidths.reduce((sum, [bytes]) => sum + bytes, 0) / count;
  return {
    task_counts: figures.counts.states,
    bandwidth: { total, workers: peer.bandwidth, types: {} },
    digests_total_since_heartbeat: {},
    managed_bytes: store.bytes,
    // Bytes are spilled as they are: they take on disk what they took in memory.
    spilled_bytes: { memory: store.diskBytes, disk: store.diskBytes },
    transfer: {
      incoming_bytes: peer.incomingBytes,
      incoming_count: peer.incomingCount,
      incoming_count_total: peer.incomingCountTotal,
      outgoing_bytes: peer.outgoingBytes,
      outgoing_count: peer.outgoingCount,
      outgoing_count_total: peer.outgoingCountTotal,
    },
    event_loop_interval: figures.loopIntervalSeconds,
    cpu: figures.cpu,
    memory: figures.memoryBytes,
    time: figures.at / 1000,
    host_net_io: { read_bps: 0, write_bps: 0 },
    host_disk_io: { read_bps: 0, write_bps: 0 },
    num_fds: 0,
  };
}

/** `executing` of a heartbeat: seconds since each call began. */
export function writeExecuting(executing: ReadonlyMap<Key, number>, at: number): Record<Key, number> {
  const seconds: Record<Key, number> = Object.create(null);
  for (const [key, since] of executing) seconds[key] = Math.max(0, at - since) / 1000;
  return seconds;
}

/** What a {@linkcode startHeartbeats} loop needs. */
export interface HeartbeatParts {
  /** Interval until the scheduler asks for another, ms. */
  readonly intervalMs: number;
  /** Sends one heartbeat (wire form without `op`); resolves to the reply. */
  readonly beat: (signal: AbortSignal) => Promise<unknown>;
  /** The scheduler's clock minus ours, ms, after each reply. */
  readonly onClock: (differenceMs: number) => void;
  /** The scheduler does not know this worker, or has been silent for too long. */
  readonly onLost: (reason: string) => void;
  readonly logger: Logger;
}

/** Beats until `stop`. */
export function startHeartbeats(parts: HeartbeatParts): { stop(): void } {
  const stopping = new AbortController();
  let intervalMs = parts.intervalMs;
  let heardAt = Date.now();
  let timer: ReturnType<typeof setTimeout> | undefined;

  const beat = async () => {
    const startedAt = Date.now();
    try {
      const reply = await parts.beat(stopping.signal);
      if (stopping.signal.aborted) return;
      heardAt = Date.now();
      const read = readHeartbeatReply(reply);
      if (read === null) return parts.onLost("the scheduler does not know this worker any more");
      if (read.time !== null) parts.onClock(read.time - (startedAt + heardAt) / 2);
      if (read.intervalMs !== null) intervalMs = read.intervalMs;
    } catch (error) {
      if (stopping.signal.aborted) return;
      parts.logger.log(
        "warning",
        `Cannot send a heartbeat: ${error instanceof Error ? error.message : String(error)}`,
      );
      if (Date.now() - heardAt > PATIENCE_MS) {
        return parts.onLost("the scheduler has not answered heartbeats for 5 minutes");
      }
    }
    // The next one is due one interval after this one began, so that slow replies do not slow the beat.
    timer = setTimeout(beat, Math.max(intervalMs - (Date.now() - startedAt), intervalMs / 10));
  };
  timer = setTimeout(beat, intervalMs);
  return {
    stop: () => {
      stopping.abort();
      clearTimeout(timer);
    },
  };
}

/** `null`: the worker is unknown there. Times in ms. */
export function readHeartbeatReply(
  reply: unknown,
): { time: number | null; intervalMs: number | null } | null {
  if (typeof reply !== "object" || reply === null) return { time: null, intervalMs: null };
  const fields = reply as Readonly<Record<string, unknown>>;
  if (fields["status"] === "missing") return null;
  const time = fields["time"];
  const interval = fields["heartbeat-interval"];
  return {
    time: typeof time === "number" ? time * 1000 : null,
    intervalMs: typeof interval === "number" && interval > 0 ? Math.min(interval * 1000, 60_000) : null,
  };
}
