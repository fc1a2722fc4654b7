/**
 * What can go wrong with an actor that is not the fault of whoever asked.
 *
 * @module
 */

/** The actor ended before it answered. `cause` is the error that it crashed with, if it crashed. */
export class ActorStoppedError extends Error {
  override readonly name = "ActorStoppedError";
  /** The name that the actor was spawned under. */
  readonly actor: string;
  constructor(actor: string, cause?: Error) {
    super(
      cause === undefined
        ? `Actor "${actor}" has stopped`
        : `Actor "${actor}" has crashed: ${cause.name}: ${cause.message}`,
      cause === undefined ? undefined : { cause },
    );
    this.actor = actor;
  }
}

/** Any thrown thing as an `Error`. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(`Thrown: ${String(thrown)}`, { cause: thrown });
}
