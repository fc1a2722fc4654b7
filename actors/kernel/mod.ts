/**
 * The actor kernel: typed calls, actors with mailboxes, timers. It knows nothing of what its actors are for.
 *
 * @module
 */
export type { Answer, Ask, Asker, Calls, Handlers, Ref } from "./calls.ts";
export {
  type Actor,
  type ActorOptions,
  cloneMessages,
  MAILBOX_MESSAGES_MAX,
  spawn,
  TURN_MESSAGES_MAX,
} from "./actor.ts";
export { ActorStoppedError, toError } from "./errors.ts";
export { pipe } from "./pipe.ts";
export { type Clock, ManualClock, systemClock, Timers } from "./timers.ts";
