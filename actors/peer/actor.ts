/**
 * The channel between workers, both directions: fetches values from peers straight into the store, and answers peers
 * from it. Bytes pass by here and are never decoded.
 *
 * Rule 1: a fetch is always answered, and a failure is an answer: what to do about it is decided where it is known who
 * else holds the value. Rule 2: an outgoing answer has a place and a lease on what it sends, from the request until the
 * other side acknowledged or its connection ended. Rule 3: who is busy says so at once and sends nothing.
 *
 * There is no limit of bytes for an answer: to leave out a value means that it is not here. The side that asks decides
 * how much it can take.
 *
 * @module
 */
import { type Logger, silent } from "../../base/log.ts";
import { parseAddress } from "../../protocol/address.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { type FileFrame, type Frame, isFileFrame, type Payload } from "../../protocol/payload.ts";
import {
  type Actor,
  type Asker,
  type Clock,
  pipe,
  type Ref,
  spawn,
  systemClock,
  Timers,
} from "../kernel/mod.ts";
import { filesIn, type StoreCalls, type Stored } from "../store/messages.ts";
import type { FetchAnswer, PeerCalls } from "./messages.ts";
import {
  acknowledgement,
  type GetDataReply,
  readGetData,
  readGetDataReply,
  writeGetData,
  writeGetDataReply,
} from "./wire.ts";

/** Answers to `get_data` that may be under way at once, unless told otherwise. */
export const OUTGOING_MAX = 50;
/** As many times more of them may be under way while they include peers on our own machine. */
const SAME_HOST_FACTOR = 2;
/**
 * Time to connect to a peer, ms, for the pool's `timeoutMs`. Short: there may be other holders, and if there are none
 * the scheduler finds a way.
 */
export const PEER_CONNECT_MS_MAX = 5_000;
/** A transfer that takes longer than this makes us ask whether the peer is still there, ms; and again after as long. */
export const PROBE_AFTER_MS = 10_000;
/** A peer that does not answer that question for so long is gone, ms. As long as dask's own TCP time-out. */
export const PROBE_ANSWER_MS_MAX = 30_000;
/** Transfers of less say nothing about the bandwidth, bytes. */
const BANDWIDTH_BYTES_MIN = 1_000_000;

/** What the actor needs of `comm/pool.ts`. */
export interface PeerPool {
  call(
    address: string,
    message: { readonly op: string },
    options?: {
      readonly signal?: AbortSignal;
      readonly timeoutMs?: number;
      readonly acknowledge?: (reply: unknown) => unknown | undefined;
    },
  ): Promise<unknown>;
  forget(address: string): void;
}

/** Gives a frame in another store's file a name in one's own folder; null when that cannot be. */
export type FrameLinker = (frame: FileFrame) => FileFrame | null;

/** Options of {@linkcode startPeer}. */
export interface PeerOptions {
  /** Own address, as the scheduler and the peers know it. */
  readonly address: string;
  /** Where values come from and go to. */
  readonly store: Ref<StoreCalls>;
  /**
   * Connections to peers: one of its own, with `timeoutMs: PEER_CONNECT_MS_MAX` and with `storeAllocator` of the store's
   * folder for `allocate`. Its owner closes it, after the actor.
   */
  readonly pool: PeerPool;
  /**
   * Takes over files of peers on the same machine, in place of receiving their bytes; `storeLinker` of the store's
   * folder. Without it, and where it gives null, bytes come over the connection.
   */
  readonly link?: FrameLinker;
  /** Default {@linkcode OUTGOING_MAX}; changed by the message `limit`. */
  readonly outgoingMax?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** The actor has crashed; fetches that were under way are refused. */
  readonly onCrash?: (error: Error) => void;
}

/** The answer to one `get_data`. */
export interface GetDataAnswer {
  /** What to send. */
  readonly reply: unknown;
  /** Whether the other side will acknowledge it with a bare "OK". */
  readonly acknowledge: boolean;
  /** To be called when that came, or when the connection ended before. Idempotent. */
  done(): void;
}

/** The peer actor, as its owner holds it. */
export interface Peer extends Actor<PeerCalls> {
  /**
   * Answers a peer's `get_data`. `fields` and `serializers` are those of the request as they came, `connection` is the
   * address of the other end. Rejects with `ProtocolError` when the fields are wrong, with `ActorStoppedError` after the end.
   */
  answerGetData(
    fields: Readonly<Record<string, unknown>>,
    connection: string,
    serializers?: unknown,
  ): Promise<GetDataAnswer>;
}

/** What the actor tells itself, beside what others ask. */
type Calls = PeerCalls & {
  readonly replied: {
    readonly ask: { readonly id: number; readonly reply: GetDataReply };
    readonly answer: void;
  };
  readonly failed: { readonly ask: { readonly id: number; readonly message: string }; readonly answer: void };
  readonly stored: {
    readonly ask: { readonly id: number; readonly nbytes: Readonly<Record<string, number>> };
    readonly answer: void;
  };
  readonly timer: { readonly ask: { readonly name: TimerName }; readonly answer: void };
  readonly present: { readonly ask: { readonly id: number }; readonly answer: void };
  readonly serve: {
    readonly ask: {
      readonly keys: readonly string[];
      readonly who: string | null;
      readonly sameHost: boolean;
    };
    readonly answer: { readonly id: number; readonly found: readonly Stored[] } | null;
  };
  readonly viewed: {
    readonly ask: { readonly id: number; readonly lease: number; readonly found: readonly Stored[] };
    readonly answer: void;
  };
  readonly "view-failed": { readonly ask: { readonly id: number }; readonly answer: void };
  readonly served: { readonly ask: { readonly id: number }; readonly answer: void };
};

type TimerName = `probe ${number}` | `give-up ${number}`;

/** A fetch under way. */
interface Incoming {
  readonly peer: string;
  readonly keys: readonly string[];
  readonly asker: Asker<FetchAnswer>;
  readonly abort: AbortController;
  readonly since: number;
  /** Whether the reply has come, and is being put into the store. */
  replied: boolean;
}

/** An answer under way. */
interface Outgoing {
  readonly who: string | null;
  readonly asker: Asker<{ readonly id: number; readonly found: readonly Stored[] } | null>;
  /** Null until the store has answered. */
  lease: number | null;
  bytes: number;
}

/** Starts the channel. */
export function startPeer(options: PeerOptions): Peer {
  const { address, store, pool, clock = systemClock, logger = silent, link } = options;
  const ownHost = hostOf(address);
  let outgoingMax = options.outgoingMax ?? OUTGOING_MAX;
  let lastId = 0;
  /** All and only fetches that were asked for and not answered. */
  const incoming = new Map<number, Incoming>();
  /** All and only answers that have a place. */
  const outgoing = new Map<number, Outgoing>();
  const totals = { incoming: 0, outgoing: 0 };
  /** Peers on our machine whose files could not be taken: another user's, another container's, or already gone. */
  const unlinkable = new Set<string>();
  /** Since the last `usage`: sum of bytes per second, and of how many transfers. */
  let bandwidth = new Map<string, readonly [number, number]>();

  const discardFiles = (part: unknown): void => {
    for (const file of filesIn(part)) store.tell("discard", { file });
  };

  const endFetch = (id: number, answer: FetchAnswer): void => {
    const fetch = incoming.get(id);
    if (fetch === undefined) return;
    incoming.delete(id);
    timers.clear(`probe ${id}`);
    timers.clear(`give-up ${id}`);
    fetch.asker.answer(answer);
  };

  /**
   * Ends a fetch from outside; the pool's rejection comes too late then, and changes nothing. One whose reply has come
   * is let end by itself: what it brought is in the store, and whoever asked must hear of it.
   */
  const giveUp = (id: number, message: string): void => {
    const fetch = incoming.get(id);
    if (fetch === undefined || fetch.replied) return;
    fetch.abort.abort();
    endFetch(id, { type: "unreachable", message });
  };

  const endServe = (id: number): void => {
    const answer = outgoing.get(id);
    if (answer === undefined) return;
    outgoing.delete(id);
    if (answer.lease === null) answer.asker.answer(null);
    else store.tell("release", { lease: answer.lease });
  };

  const actor = spawn<Calls>("peer", {
    fetch({ peer, keys }, asker) {
      const id = ++lastId;
      const abort = new AbortController();
      incoming.set(id, { peer, keys, asker, abort, since: clock.now(), replied: false });
      totals.incoming++;
      timers.set(`probe ${id}`, clock.now() + PROBE_AFTER_MS);
      pipe(
        getData(peer, keys, abort.signal),
        (reply) => actor.ref.tell("replied", { id, reply }),
        (error) => actor.ref.tell("failed", { id, message: error.message }),
      );
    },

    replied({ id, reply }) {
      const fetch = incoming.get(id);
      if (fetch === undefined) return discardFiles(reply.status === "OK" ? [...reply.data.values()] : null);
      fetch.replied = true;
      timers.clear(`probe ${id}`);
      timers.clear(`give-up ${id}`);
      if (reply.status === "busy") return endFetch(id, { type: "busy" });
      const { data } = reply;
      const asked = new Set(fetch.keys);
      const commits: Promise<readonly [string, number] | null>[] = [];
      for (const [key, payload] of data) {
        if (!asked.has(key)) {
          discardFiles(payload);
          continue;
        }
        commits.push(commit(key, payload));
      }
      pipe(
        Promise.all(commits),
        (stored) => {
          const nbytes = Object.fromEntries(stored.filter((entry) => entry !== null));
          actor.ref.tell("stored", { id, nbytes });
        },
        (error) => actor.ref.tell("failed", { id, message: error.message }),
      );
    },

    stored({ id, nbytes }) {
      const fetch = incoming.get(id);
      if (fetch === undefined) return;
      measure(fetch, nbytes);
      const missing = fetch.keys.filter((key) => !Object.hasOwn(nbytes, key));
      endFetch(id, { type: "arrived", nbytes, missing });
    },

    failed: ({ id, message }) => endFetch(id, { type: "unreachable", message }),

    forget({ peer }, asker) {
      pool.forget(peer);
      unlinkable.delete(peer);
      for (const [id, fetch] of incoming) if (fetch.peer === peer) giveUp(id, `${peer} is gone`);
      // Nobody will acknowledge these. What is on its way to nowhere has its files open already.
      for (const [id, answer] of outgoing) if (answer.who === peer) endServe(id);
      asker.answer();
    },

    timer({ name }) {
      const id = Number(name.slice(name.indexOf(" ") + 1));
      const fetch = incoming.get(id);
      if (fetch === undefined) return;
      if (name.startsWith("give-up")) {
        return giveUp(id, `${fetch.peer} has not answered for ${PROBE_ANSWER_MS_MAX} ms`);
      }
      timers.set(`give-up ${id}`, clock.now() + PROBE_ANSWER_MS_MAX);
      pipe(
        pool.call(fetch.peer, { op: "ping" }, {
          signal: fetch.abort.signal,
          timeoutMs: PROBE_ANSWER_MS_MAX,
        }),
        () => actor.ref.tell("present", { id }),
        // Whoever does not let us in may still be sending: only silence for the whole time counts.
        () => {},
      );
    },

    present({ id }) {
      if (!incoming.has(id)) return;
      timers.clear(`give-up ${id}`);
      timers.set(`probe ${id}`, clock.now() + PROBE_AFTER_MS);
    },

    limit({ outgoingMax: max }, asker) {
      outgoingMax = max;
      asker.answer();
    },

    serve({ keys, who, sameHost }, asker) {
      // One alone is what a paused worker serves, whoever asks.
      const max = sameHost && outgoingMax > 1 ? outgoingMax * SAME_HOST_FACTOR : outgoingMax;
      if (outgoing.size >= max) return asker.answer(null);
      const id = ++lastId;
      outgoing.set(id, { who, asker, lease: null, bytes: 0 });
      totals.outgoing++;
      pipe(
        store.ask("view", { keys }),
        ({ lease, found }) => actor.ref.tell("viewed", { id, lease, found }),
        () => actor.ref.tell("view-failed", { id }),
      );
    },

    viewed({ id, lease, found }) {
      const answer = outgoing.get(id);
      if (answer === undefined) return store.tell("release", { lease });
      answer.lease = lease;
      for (const { nbytes } of found) answer.bytes += nbytes;
      answer.asker.answer({ id, found });
    },

    // Without a store there is nothing to serve, now or later.
    "view-failed": ({ id }) => endServe(id),

    served: ({ id }) => endServe(id),

    usage(_, asker) {
      let outgoingBytes = 0;
      for (const { bytes } of outgoing.values()) outgoingBytes += bytes;
      asker.answer({
        incomingCount: incoming.size,
        outgoingCount: outgoing.size,
        incomingCountTotal: totals.incoming,
        outgoingCountTotal: totals.outgoing,
        incomingBytes: 0, // how much comes is known when it has come
        outgoingBytes,
        bandwidth: Object.fromEntries(bandwidth),
      });
      bandwidth = new Map();
    },
  }, {
    onStop() {
      timers.clearAll();
      for (const { abort } of incoming.values()) abort.abort();
      for (const id of [...outgoing.keys()]) endServe(id);
    },
    ...(options.onCrash === undefined ? {} : { onCrash: options.onCrash }),
  });

  const timers = new Timers<TimerName>(clock, (name) => actor.ref.tell("timer", { name }));

  /** What a peer replied; nonsense is an error, and leaves no files behind. */
  const understand = (peer: string, reply: unknown): GetDataReply => {
    try {
      return readGetDataReply(reply);
    } catch (error) {
      discardFiles(reply);
      const reason = error instanceof Error ? error.message : String(error);
      throw new ProtocolError(`${peer} replied nonsense: ${reason}`);
    }
  };

  /** The reply with the files that it names in our own folder; null when one cannot be taken. */
  const takeFiles = (reply: GetDataReply, link: FrameLinker): GetDataReply | null => {
    if (reply.status !== "OK" || reply.named.size === 0) return reply;
    const data = new Map(reply.data);
    const taken: FileFrame[] = [];
    for (const key of reply.named) {
      const { header, frames } = reply.data.get(key)!;
      const own: Frame[] = [];
      for (const frame of frames) {
        const linked = isFileFrame(frame) ? link(frame) : frame;
        if (linked === null) {
          for (const { file } of taken) store.tell("discard", { file });
          return null;
        }
        if (isFileFrame(linked)) taken.push(linked);
        own.push(linked);
      }
      data.set(key, { header, frames: own });
    }
    return { status: "OK", data, named: new Set() };
  };

  /** One request: by files where both ends share a machine, else, or when that fails, by bytes. */
  const getData = async (
    peer: string,
    keys: readonly string[],
    signal: AbortSignal,
  ): Promise<GetDataReply> => {
    if (link !== undefined && ownHost !== null && hostOf(peer) === ownHost && !unlinkable.has(peer)) {
      let taken: GetDataReply | null = null;
      const reply = await pool.call(peer, writeGetData(keys, address, true), {
        signal,
        acknowledge(reply) {
          const word = acknowledgement(reply);
          // Before the word is sent: after it the peer may remove its files.
          if (word !== undefined) taken = takeFiles(understand(peer, reply), link);
          return word;
        },
      });
      if (taken !== null) return taken;
      const read = understand(peer, reply);
      if (read.status === "busy") return read;
      for (const [key, payload] of read.data) if (!read.named.has(key)) discardFiles(payload);
      unlinkable.add(peer);
      logger.log("info", "Files of a peer on this machine cannot be taken over, its bytes come instead", {
        peer,
      });
    }
    const reply = await pool.call(peer, writeGetData(keys, address), {
      signal,
      acknowledge: acknowledgement,
    });
    const read = understand(peer, reply);
    if (read.status === "OK" && read.named.size > 0) {
      throw new ProtocolError(`${peer} replied nonsense: it names files where bytes were asked for`);
    }
    return read;
  };

  /** Key and size of a value that is in the store now; null when the store refused it. */
  const commit = async (key: string, payload: Payload): Promise<readonly [string, number] | null> => {
    try {
      const { nbytes } = await store.ask("commit", { key, payload });
      return [key, nbytes];
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      logger.log("warning", "Cannot keep a value that came from a peer", { key, reason });
      return null;
    }
  };

  const measure = (fetch: Incoming, nbytes: Readonly<Record<string, number>>): void => {
    let bytes = 0;
    for (const size of Object.values(nbytes)) bytes += size;
    if (bytes < BANDWIDTH_BYTES_MIN) return;
    const seconds = Math.max(0.001, (clock.now() - fetch.since) / 1000);
    const [sum, count] = bandwidth.get(fetch.peer) ?? [0, 0];
    bandwidth.set(fetch.peer, [sum + bytes / seconds, count + 1]);
  };

  return {
    ref: actor.ref,
    stopped: actor.stopped,
    stop: () => actor.stop(),
    async answerGetData(fields, connection, serializers) {
      const { keys, who, files } = readGetData(fields, serializers);
      const sameHost = ownHost !== null && hostOf(connection) === ownHost;
      const served = await actor.ref.ask("serve", { keys, who, sameHost });
      if (served === null) return { reply: { status: "busy" }, acknowledge: false, done: () => {} };
      return {
        reply: writeGetDataReply(served.found, files && sameHost),
        acknowledge: true,
        done: () => actor.ref.tell("served", { id: served.id }),
      };
    },
  };
}

/** Host of an address; null for addresses that have none. */
function hostOf(address: string): string | null {
  try {
    return parseAddress(address).host;
  } catch {
    return null;
  }
}
