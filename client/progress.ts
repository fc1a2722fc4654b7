/**
 * Shows people how far work has come: a bar that is drawn over on a terminal, a line per tenth elsewhere.
 *
 * @module
 */
import { abortable, signalOf } from "./future.ts";

/** How far some work is. */
export interface Progress {
  /** What came to an end, in whatever way. */
  readonly done: number;
  /** How much of that did not succeed. */
  readonly erred?: number;
  /** All of it. */
  readonly total: number;
}

/** Where progress is shown: `Deno.stderr`, or what a program has in its place. */
export interface ProgressStream {
  /** Whether somebody looks at it. */
  isTerminal(): boolean;
  /** Gives how many of the bytes were taken. */
  writeSync(bytes: Uint8Array): number;
}

/** Options of {@linkcode showProgress}. */
export interface ShowProgressOptions {
  /** Ends the showing, not the work. */
  readonly signal?: AbortSignal;
  /** Default `Deno.stderr`. */
  readonly stream?: ProgressStream;
  /** What is counted, for the text. Default `"tasks"`. */
  readonly unit?: string;
  /** Characters in a line of the terminal. Default: as many as it has, else 80. */
  readonly columns?: number;
}

/**
 * Shows progress until it ends, as dask's `progress(futures)` does in a console: on standard error, as a bar on a
 * terminal, else as a line for each tenth. Its line is ended, whatever happens.
 *
 * @returns The last counts; null when there were none.
 * @throws What `progress` throws, as a client that was closed; the reason of `options.signal`. That tasks fail is shown,
 * not thrown. {@linkcode TypeError} for anything but progress.
 * @example
 * ```ts ignore
 * const futures = client.map(area, sizes);
 * await showProgress(client.progress(futures)); // [######################....................] 512/1000 tasks
 * ```
 */
export async function showProgress(
  progress: AsyncIterable<Progress>,
  options: ShowProgressOptions = {},
): Promise<Progress | null> {
  if (typeof progress?.[Symbol.asyncIterator] !== "function") {
    throw new TypeError("Cannot show progress: expected client.progress(futures)");
  }
  const signal = signalOf(options);
  signal?.throwIfAborted();
  const view = new ProgressView(options);
  const counts = progress[Symbol.asyncIterator]();
  let last: Progress | null = null;
  try {
    for (;;) {
      signal?.throwIfAborted();
      const next = counts.next();
      const { done, value } = await (signal === undefined ? next : abortable(next, signal));
      if (done === true) return last;
      view.show(last = value);
    }
  } finally {
    view.end();
    // Not awaited: it may be waiting for tasks that take long, and hears of this after that.
    counts.return?.().catch(() => {});
  }
}

/** Draws at most so often, ms, unless the bar grows: many small tasks would be slowed down. */
const DRAW_MS = 100;
const BAR_CHARS_MAX = 50;
/** A shorter bar says less than no bar. */
const BAR_CHARS_MIN = 5;

/** Shows counts as they grow. `end` leaves the last state standing. */
export class ProgressView {
  readonly #stream: ProgressStream;
  readonly #terminal: boolean;
  readonly #unit: string;
  readonly #columns: number | undefined;
  #last: Progress | null = null;
  /** Of the last state that was written: its text, its part of the whole, and when that was. */
  #text = "";
  #step = -1;
  #at = 0;

  /** A bar when the stream is a terminal, lines otherwise. */
  constructor(options: ShowProgressOptions = {}) {
    this.#stream = options.stream ?? Deno.stderr;
    this.#terminal = this.#stream.isTerminal();
    this.#unit = options.unit ?? "tasks";
    this.#columns = options.columns;
  }

  show(now: Progress): void {
    this.#last = now;
    const step = Math.floor((this.#terminal ? BAR_CHARS_MAX : 10) * share(now));
    if (step === this.#step && !(this.#terminal && performance.now() - this.#at >= DRAW_MS)) return;
    this.#step = step;
    this.#draw(now);
  }

  end(): void {
    if (this.#last === null) return;
    this.#draw(this.#last);
    if (this.#terminal) this.#write("\n");
    this.#last = null;
  }

  #draw(now: Progress): void {
    const { done, erred = 0, total } = now;
    const counts = `${done}/${total} ${this.#unit}${erred === 0 ? "" : `, ${erred} erred`}`;
    const text = this.#terminal ? bar(share(now), counts, this.#columns ?? columnsOf()) : counts;
    if (text === this.#text) return;
    this.#text = text;
    this.#at = performance.now();
    // What is left of a longer line is erased.
    this.#write(this.#terminal ? `\r${text}\x1b[K` : `${text}\n`);
  }

  #write(text: string): void {
    const bytes = new TextEncoder().encode(text);
    try {
      for (let at = 0; at < bytes.byteLength;) at += this.#stream.writeSync(bytes.subarray(at));
    } catch {
      // Nobody looks any more; the work goes on.
    }
  }
}

function share({ done, total }: Progress): number {
  return total === 0 ? 1 : done / total;
}

/** A line that is shorter than the terminal: a longer one would be broken, and not be drawn over. */
function bar(share: number, counts: string, columns: number): string {
  const width = Math.min(BAR_CHARS_MAX, columns - counts.length - "[] ".length - 1);
  if (width < BAR_CHARS_MIN) return counts.slice(0, Math.max(0, columns - 1));
  const filled = Math.floor(width * share);
  return `[${"#".repeat(filled)}${".".repeat(width - filled)}] ${counts}`;
}

function columnsOf(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80; // no terminal of this process's
  }
}
