/**
 * The peer channel: values between workers, both directions.
 *
 * @module
 */
export {
  type GetDataAnswer,
  OUTGOING_MAX,
  type Peer,
  PEER_CONNECT_MS_MAX,
  type PeerOptions,
  type PeerPool,
  startPeer,
} from "./actor.ts";
export type { FetchAnswer, PeerCalls } from "./messages.ts";
