/**
 * Progress as people see it.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Progress, ProgressView, showProgress } from "../../client/progress.ts";
import { task } from "../../dispatch/mod.ts";
import { errorsInLog, sharedScheduler } from "../support/scheduler.ts";
import { cluster } from "./cluster.ts";

const scheduler = await sharedScheduler();

/** What is written to it, taken a few bytes at a time. */
class FakeStream {
  text = "";
  readonly #terminal: boolean;

  constructor(terminal: boolean) {
    this.#terminal = terminal;
  }

  isTerminal(): boolean {
    return this.#terminal;
  }

  writeSync(bytes: Uint8Array): number {
    const taken = bytes.subarray(0, 7);
    this.text += new TextDecoder().decode(taken);
    return taken.byteLength;
  }

  /** What was drawn, one over the other. */
  get frames(): string[] {
    return this.text.replace(/\n$/, "").split("\r").slice(1).map((frame) => frame.replace("\x1b[K", ""));
  }
}

async function* counts(total: number, erred: (done: number) => number = () => 0): AsyncGenerator<Progress> {
  for (let done = 0; done <= total; done++) yield await Promise.resolve({ done, erred: erred(done), total });
}

Deno.test("a terminal gets one bar, drawn over, and the end of its line", async () => {
  const stream = new FakeStream(true);
  assertEquals(await showProgress(counts(4), { stream, columns: 23 }), { done: 4, erred: 0, total: 4 });
  assertEquals(
    stream.frames,
    [
      "[..........] 0/4 tasks",
      "[##........] 1/4 tasks",
      "[#####.....] 2/4 tasks",
      "[#######...] 3/4 tasks",
      "[##########] 4/4 tasks",
    ].map((frame) => frame.replace(/^(.*) (\d)/, "$1 $2")),
  );
  assert(stream.text.endsWith("tasks\x1b[K\n"));
});

Deno.test("a bar is never as wide as its terminal, and left out where there is no room", async () => {
  for (const columns of [5, 10, 20, 30, 80, 500]) {
    const stream = new FakeStream(true);
    await showProgress(counts(1_000, (done) => done > 500 ? done - 500 : 0), {
      stream,
      columns,
      unit: "ops",
    });
    for (const frame of stream.frames) assert(frame.length < columns && frame.length < 90, frame);
    if (columns > 20) {
      assert(stream.frames.at(-1)!.endsWith("1000/1000 ops, 500 erred"), stream.frames.at(-1));
    }
    // Not each of a thousand counts: the bar has fifty steps, and the rest is by time.
    assert(stream.frames.length >= 2);
  }
});

Deno.test("elsewhere each tenth has a line, and so has what was last", async () => {
  const stream = new FakeStream(false);
  await showProgress(counts(100), { stream });
  assertEquals(
    stream.text,
    Array.from({ length: 11 }, (_, i) => `${10 * i}/100 tasks\n`).join(""),
  );
  const cut = new FakeStream(false);
  const view = new ProgressView({ stream: cut });
  view.show({ done: 0, total: 100 });
  view.show({ done: 7, total: 100 });
  view.end();
  view.end();
  assertEquals(cut.text, "0/100 tasks\n7/100 tasks\n");
});

Deno.test("nothing to do is shown as done, nothing told as nothing", async () => {
  const stream = new FakeStream(true);
  await showProgress(counts(0), { stream, columns: 23 });
  assertEquals(stream.frames, ["[##########] 0/0 tasks"]);
  const silent = new FakeStream(true);
  const none: Progress[] = [];
  assertEquals(await showProgress(ReadableStream.from(none), { stream: silent }), null);
  assertEquals(silent.text, "");
});

Deno.test("errors come through after the line was ended; a stream that is gone harms nobody", async () => {
  const stream = new FakeStream(true);
  async function* breaks(): AsyncGenerator<Progress> {
    yield { done: 1, total: 2 };
    await Promise.reject(new Error("closed"));
  }
  await assertRejects(() => showProgress(breaks(), { stream, columns: 23 }), Error, "closed");
  assert(stream.text.endsWith("\n"));
  const gone = {
    isTerminal: () => false,
    writeSync: () => {
      throw new Deno.errors.BrokenPipe();
    },
  };
  assertEquals((await showProgress(counts(3), { stream: gone }))?.done, 3);
  await assertRejects(() => showProgress([] as never), TypeError, "expected client.progress(futures)");
  await assertRejects(() => showProgress(undefined as never), TypeError, "expected client.progress(futures)");
});

Deno.test("a cluster's tasks are shown to their end, or until the signal", async () => {
  await using c = await cluster(scheduler.address, 1);
  const notThree = task((i: number) => {
    if (i === 3) throw new RangeError("no");
    return i;
  });
  const futures = c.client.map((i: number) => notThree(i), Array.from({ length: 20 }, (_, i) => i));
  const stream = new FakeStream(false);
  assertEquals(await showProgress(c.client.progress(futures), { stream }), { done: 20, erred: 1, total: 20 });
  assert(stream.text.endsWith("20/20 tasks, 1 erred\n"), stream.text);

  const stop = new AbortController();
  const endless = c.client.submit(async () => await new Promise<never>(() => {}), []);
  const bar = new FakeStream(true);
  const shown = showProgress(c.client.progress([endless]), { stream: bar, columns: 23, signal: stop.signal });
  stop.abort(new Error("enough"));
  await assertRejects(() => shown, Error, "enough");
  assert(bar.text === "" || bar.text.endsWith("\n"));
  assertEquals(endless.status, "pending");
  await assertRejects(
    () => showProgress(c.client.progress([endless]), { signal: stop.signal }),
    Error,
    "enough",
  );
  await endless.cancel();
  assertEquals(await errorsInLog(scheduler), []);
});
