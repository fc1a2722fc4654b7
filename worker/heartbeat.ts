/**
 * What a worker tells about itself at registration and with every heartbeat, and the loop that tells it. Heartbeats go
 * by rpc on a connection of their own, never on the stream; the scheduler says how often.
 *
 * @module
 */
import type { PeerCalls } from "../actors/peer/messages.ts";
import type { StoreCalls } from "../actors/store/messages.ts";
import type { Logger } from "../base/log.ts";
import { keyFromWire } from "../protocol/key.ts";
import type { Key } from "./machine/events.ts";
import type { WorkerCounts } from "./messages.ts";
import type { Monitor, Sample } from "./monitor.ts";

/** The scheduler's own patience with a silent worker; ours with a silent scheduler. */
const PATIENCE_MS = 300_000;
/** Bandwidth assumed before the first transfer, bytes a second; the scheduler assumes the same. */
export const BANDWIDTH_BYTES = 100e6;
/** How much a transfer counts in the average bandwidth. */
const BANDWIDTH_WEIGHT = 0.05;

/** What {@linkcode writeMetrics} is made from. */
export interface Figures {
  readonly at: number;
  readonly counts: Pick<WorkerCounts, "states" | "executing" | "ranSeconds">;
  readonly store: StoreCalls["usage"]["answer"];
  readonly peer: PeerCalls["usage"]["answer"];
  readonly sample: Sample;
  /** Of all processes of the worker, and its RAM-backed files, bytes. */
  readonly memoryBytes: number;
  readonly loopIntervalSeconds: number;
  /** Of transfers from peers on average, bytes a second. */
  readonly bandwidth: number;
}

/** Nothing happened yet: the figures at registration. */
export function firstFigures(at: number, monitor: Monitor): Figures {
  const sample = monitor.sample();
  return {
    at,
    counts: { states: {}, executing: new Map(), ranSeconds: {} },
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
    sample,
    memoryBytes: sample.memory,
    loopIntervalSeconds: monitor.loopIntervalSeconds,
    bandwidth: BANDWIDTH_BYTES,
  };
}

/** The average bandwidth after these transfers: per peer the sum of the bandwidths of so many. */
export function averageBandwidth(before: number, peers: Figures["peer"]["bandwidth"]): number {
  let average = before;
  for (const [sum, count] of Object.values(peers)) {
    const weight = 1 - (1 - BANDWIDTH_WEIGHT) ** count;
    average += (sum / count - average) * weight;
  }
  return average;
}

/** The `metrics` map as the scheduler and its dashboard read it. */
export function writeMetrics(figures: Figures): Record<string, unknown> {
  const { counts, peer, store, sample } = figures;
  const ran: Record<Key, number> = Object.create(null);
  for (const [prefix, seconds] of Object.entries(counts.ranSeconds)) {
    // "executor" is dask's word for work that no thread of the worker did.
    ran[keyFromWire(["execute", prefix, "executor", "seconds"])] = seconds;
  }
  return {
    task_counts: counts.states,
    bandwidth: { total: figures.bandwidth, workers: peer.bandwidth, types: {} },
    digests_total_since_heartbeat: ran,
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
    cpu: sample.cpu,
    memory: figures.memoryBytes,
    time: figures.at / 1000,
    host_net_io: {
      read_bps: sample["host_net_io.read_bps"],
      write_bps: sample["host_net_io.write_bps"],
    },
    host_disk_io: {
      read_bps: sample["host_disk_io.read_bps"],
      write_bps: sample["host_disk_io.write_bps"],
    },
    num_fds: sample.num_fds,
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
