/**
 * What may be asked of the peer-fetch channel, and what it tells its owner.
 *
 * @module
 */

/** How one request to one peer ended. Never a refusal: failures are answers. */
export type FetchAnswer =
  /** `nbytes` holds the keys that came (they are in the store already); `missing` those that the peer did not have. */
  | {
    readonly type: "arrived";
    readonly nbytes: Readonly<Record<string, number>>;
    readonly missing: readonly string[];
  }
  /** The peer has no free place; ask again after 150 ms, or another holder at once. */
  | { readonly type: "busy" }
  /** No connection, or it broke: the peer is to be treated as gone. */
  | { readonly type: "unreachable"; readonly message: string };

/** Messages of the peer-fetch channel. */
export type PeerCalls = {
  /** `get_data` of several keys from one peer, put into the store as they come. */
  readonly fetch: {
    readonly ask: { readonly peer: string; readonly keys: readonly string[] };
    readonly answer: FetchAnswer;
  };
  /** That peer is gone: close idle connections to it. */
  readonly forget: { readonly ask: { readonly peer: string }; readonly answer: void };
  /** How many outgoing `get_data` answers may be under way at once (paused workers serve 1). */
  readonly limit: { readonly ask: { readonly outgoingMax: number }; readonly answer: void };
  /** Figures for heartbeats. */
  readonly usage: {
    readonly ask: Record<never, never>;
    readonly answer: {
      readonly incomingCount: number;
      readonly outgoingCount: number;
      readonly incomingCountTotal: number;
      readonly outgoingCountTotal: number;
      readonly incomingBytes: number;
      readonly outgoingBytes: number;
      /** Bytes per second of the last transfers, per peer: [bandwidth, count]; count ≥ 1. */
      readonly bandwidth: Readonly<Record<string, readonly [number, number]>>;
    };
  };
};
