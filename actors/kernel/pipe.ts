/**
 * How an actor learns of the end of something slow without waiting for it.
 *
 * @module
 */
import { toError } from "./errors.ts";

/**
 * Calls `then` or `failed`, once, when the promise ends. Inside an actor both only `tell` the actor itself, so that
 * its state is touched in its own turns alone. An error thrown by `then` or `failed` is a bug and stays uncaught.
 *
 * ```ts ignore
 * pipe(peer.ask("fetch", { peer: address, keys }), (answer) => self.tell("fetched", answer), (error) => …);
 * ```
 */
export function pipe<T>(
  promise: Promise<T>,
  then: (value: T) => void,
  failed: (error: Error) => void,
): void {
  promise.then(then, (thrown) => failed(toError(thrown)));
}
