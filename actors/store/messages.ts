/**
 * What may be asked of the data store, the owner of all payload bytes of a worker.
 *
 * @module
 */
import type { FileFrame, Payload } from "../../protocol/payload.ts";
import type { StoreUsage } from "./machine.ts";

/** A payload in the store. `id` is unique for the life of the store: the same key committed again gets another. */
export interface Stored {
  readonly key: string;
  readonly id: number;
  readonly payload: Payload;
  /** Exact bytes, header and frames. */
  readonly nbytes: number;
  /** Whether its large frames were moved to files on disk. */
  readonly spilled: boolean;
}

/** Messages of the store. */
export type StoreCalls = {
  /** Room for one large frame: a fresh file name in the store's folder, or `null` when it is to stay in memory. */
  readonly allocate: {
    readonly ask: { readonly byteLength: number };
    readonly answer: { readonly file: string } | null;
  };
  /** Gives back an allocation that was never committed; its file is removed. */
  readonly discard: { readonly ask: { readonly file: string }; readonly answer: void };
  /** The store takes over the payload (and the files of its file frames) under a key; an earlier one is freed. */
  readonly commit: {
    readonly ask: { readonly key: string; readonly payload: Payload };
    readonly answer: { readonly id: number; readonly nbytes: number };
  };
  /** Those of `keys` that it holds, under a lease: nothing of them is freed until `release`. */
  readonly view: {
    readonly ask: { readonly keys: readonly string[] };
    readonly answer: { readonly lease: number; readonly found: readonly Stored[] };
  };
  /** Ends a lease. */
  readonly release: { readonly ask: { readonly lease: number }; readonly answer: void };
  /** Forgets keys; bytes go when the last lease on them ends. Answers the ids that were freed. */
  readonly free: {
    readonly ask: { readonly keys: readonly string[] };
    readonly answer: { readonly ids: readonly number[] };
  };
  /** Spills payloads, beyond the target, until at most so many bytes are in memory; null: that is not wanted any more. */
  readonly spill: { readonly ask: { readonly memoryBytes: number | null }; readonly answer: void };
  /** Figures. */
  readonly usage: { readonly ask: Record<never, never>; readonly answer: StoreUsage };
};

/** What the store tells itself besides. */
export type StoreEvents = {
  /** What was to be spilled is written; null: it could not be, for this reason. */
  readonly spilled: {
    readonly ask: { readonly written: readonly FileFrame[] | null; readonly reason: string };
    readonly answer: void;
  };
  /** Time to try again. */
  readonly retry: { readonly ask: Record<never, never>; readonly answer: void };
};

/**
 * The files of all payloads in a message as it was received, wherever they are in it. Whoever refuses a message, or
 * drops a part of it, discards them; otherwise a stranger could fill the folder with frames that nobody takes over.
 */
export function filesIn(message: unknown): string[] {
  const files: string[] = [];
  const waiting: unknown[] = [message];
  while (waiting.length > 0) {
    const value = waiting.pop();
    if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) continue;
    if ("header" in value && "frames" in value && Array.isArray(value.frames)) {
      for (const frame of value.frames as readonly unknown[]) {
        if (typeof frame !== "object" || frame === null) continue;
        if ("file" in frame && typeof frame.file === "string") files.push(frame.file);
      }
      continue;
    }
    const parts = value instanceof Map || value instanceof Set ? value.values() : Object.values(value);
    for (const part of parts) waiting.push(part);
  }
  return files;
}
