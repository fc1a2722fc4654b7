/**
 * The items of a task as a stream, while the task runs. The law: each item is given once, in order, by its number:
 * what a first try of the task has given, a second one does not give again; and what nobody has seen pass is taken
 * from the result.
 *
 * @module
 */
import { decodeValue } from "../protocol/value.ts";
import type { Future, KeyState } from "./future.ts";
import { inMemory } from "./future.ts";

/** What there is to read. */
export interface Source {
  /** Given up when the stream ends: a stream keeps what it reads. */
  readonly future: Future<unknown>;
  readonly state: KeyState;
  /** Whether the task can be asked while it runs. */
  readonly live: boolean;
  readonly signal: AbortSignal | undefined;
}

/** A stream of the items of a list, or of the one value that is none. Nothing is done for it before somebody reads. */
export function streamOf({ future, state, live, signal }: Source): ReadableStream<unknown> {
  const { owner, key } = state;
  const end = new AbortController();
  let items: readonly unknown[] = [];
  let at = 0;
  /** How many items came, and the worker that gave the last. */
  let count = 0;
  let worker: string | null = null;
  /** A try of the task has told that no items come after these. */
  let complete = false;
  /** `items` are all that remain. */
  let isRest = false;

  const more = async (): Promise<void> => {
    if (live && !state.isDone && owner.ended === null) {
      owner.waits();
      const changed = whenDone(state, end.signal);
      try {
        if (complete) return await changed.promise;
        const batch = await owner.items(key, count, worker, changed.signal);
        const list = decodeValue(inMemory(batch.payload));
        worker = batch.worker;
        complete = batch.last;
        items = Array.isArray(list) ? list : [];
        count += items.length;
        at = 0;
      } catch (error) {
        if (!changed.signal.aborted) throw error;
      } finally {
        changed.stop();
      }
      return;
    }
    isRest = true;
    if (complete && state.status === "finished") return;
    const value = await future.result({ signal: end.signal });
    items = Array.isArray(value) ? value.slice(count) : count === 0 ? [value] : [];
    at = 0;
  };

  let finish = (): void => {};
  return new ReadableStream({
    start(controller) {
      const onAbort = (): void => {
        finish();
        controller.error(signal?.reason);
      };
      finish = () => {
        signal?.removeEventListener("abort", onAbort);
        end.abort();
        future.release();
      };
      if (signal?.aborted === true) onAbort();
      else signal?.addEventListener("abort", onAbort);
    },
    async pull(controller) {
      try {
        while (at >= items.length && !isRest && !end.signal.aborted) await more();
        if (end.signal.aborted) return;
        if (at < items.length) return controller.enqueue(items[at++]);
        finish();
        controller.close();
      } catch (error) {
        if (end.signal.aborted) return;
        finish();
        controller.error(error);
      }
    },
    cancel: () => finish(),
  }, { highWaterMark: 0 });
}

/** Aborts, and resolves, when the task comes to an end, its client does, or nobody reads any more. */
function whenDone(
  state: KeyState,
  end: AbortSignal,
): { readonly promise: Promise<void>; readonly signal: AbortSignal; stop(): void } {
  const done = new AbortController();
  const { promise, resolve } = Promise.withResolvers<void>();
  const abort = (): void => {
    done.abort();
    resolve();
  };
  const unlisten = state.listen(() => {
    if (state.isDone || state.owner.ended !== null) abort();
  });
  end.addEventListener("abort", abort);
  if (end.aborted) abort();
  return {
    promise,
    signal: done.signal,
    stop: () => {
      unlisten();
      end.removeEventListener("abort", abort);
    },
  };
}
