/**
 * The task that a realm runs, as its code sees it: what `current()` gives.
 *
 * @module
 */
import type { Current } from "./current.ts";
import type { InsideClient } from "./inside.ts";
import { type ItemBatch, Items } from "./items.ts";
import { encodeEvent, Progress, PROGRESS_TOPIC } from "./news.ts";
import type { Stop } from "./policy.ts";

/** What a running task has to say. */
export type TaskNews =
  /** An abort came and the call was told: its event loop is alive. */
  | readonly ["acknowledged", seq: number]
  | readonly ["seceded", seq: number, computeDuration: number]
  /** Msgpack for a topic of the scheduler. */
  | readonly ["event", seq: number, topic: string, message: Uint8Array]
  /** Items for somebody who asked. */
  | readonly ["items", seq: number, ask: number, batch: ItemBatch];

/** A call, as far as it is of interest here. */
export interface TaskOfCall {
  readonly seq: number;
  readonly key: string;
  readonly annotations: Readonly<Record<string, unknown>>;
  readonly attempt: number;
}

/** Its functions are made when they are taken out of it, with what they need inside. */
export class RunningTask implements Current {
  readonly key: string;
  readonly attempt: number;
  readonly seq: number;
  readonly start = Date.now();
  /** Whether its pool knows that it began. */
  toldStarted = false;
  readonly #annotations: TaskOfCall["annotations"];
  readonly #say: (task: RunningTask, news: TaskNews) => void;
  readonly #inside: InsideClient;
  #progress: Progress | null = null;
  #items: Items | null = null;
  #abort: AbortController | null = null;
  #seceded = false;

  constructor(call: TaskOfCall, say: (task: RunningTask, news: TaskNews) => void, inside: InsideClient) {
    this.seq = call.seq;
    this.key = call.key;
    this.attempt = call.attempt;
    this.#annotations = call.annotations;
    this.#say = say;
    this.#inside = inside;
  }

  get signal(): AbortSignal {
    return (this.#abort ??= new AbortController()).signal;
  }

  abort({ name, reason }: Stop): void {
    // Said first: what listens to the signal may keep this thread busy.
    this.#say(this, ["acknowledged", this.seq]);
    (this.#abort ??= new AbortController()).abort(new DOMException(reason, name));
    this.#inside.release(reason);
  }

  get progress(): Current["progress"] {
    this.#progress ??= new Progress(this.key, (message) => this.#event(PROGRESS_TOPIC, message));
    const progress = this.#progress;
    return (done, total) => progress.report(done, total);
  }

  get log(): Current["log"] {
    return (topic, event) => this.#event(topic, encodeEvent(topic, event));
  }

  get secede(): Current["secede"] {
    return () => {
      if (this.#seceded) return;
      this.#seceded = true;
      this.#say(this, ["seceded", this.seq, Date.now() - this.start]);
    };
  }

  /** What it has yielded, if it is a generator. */
  get items(): Items {
    return this.#items ??= new Items((ask, batch) => this.#say(this, ["items", this.seq, ask, batch]));
  }

  /** As the client of a task notes it on those that it submits. */
  get depth(): number {
    const { deno } = this.#annotations;
    const depth = typeof deno === "object" && deno !== null && "depth" in deno ? deno.depth : 0;
    return Number.isSafeInteger(depth) && Number(depth) > 0 ? Number(depth) : 0;
  }

  get client(): Current["client"] {
    return () => this.#inside.client();
  }

  /** The function has ended: says what was held back, and gives up what it holds of others. Null: there is nothing to wait for. */
  leave(): Promise<void> | null {
    this.#progress?.flush();
    return this.#inside.release("the task that submitted it has ended");
  }

  #event(topic: string, message: Uint8Array): void {
    this.#say(this, ["event", this.seq, topic, message]);
  }
}
