import { assert, assertEquals } from "@std/assert";
import { openLedgerFile } from "../../../worker/execute/files.ts";
import { Ledger, LEDGER_CALLS, type LedgerFile } from "../../../worker/execute/ledger.ts";

/** One file in memory, opened by both sides. */
function memoryFiles(): { open(page: number): LedgerFile; bytes: Map<number, number[]>; opened: number } {
  const bytes = new Map<number, number[]>();
  const files = {
    bytes,
    opened: 0,
    open(page: number): LedgerFile {
      files.opened++;
      const content = bytes.get(page) ?? [];
      bytes.set(page, content);
      return {
        append: (record) => void content.push(...record),
        read(offset, into) {
          const part = content.slice(offset, offset + into.byteLength);
          into.set(part);
          return part.length;
        },
        close: () => void files.opened--,
      };
    },
  };
  return files;
}

function pair() {
  const files = memoryFiles();
  return {
    files,
    worker: new Ledger("worker", (page) => files.open(page)),
    executor: new Ledger("executor", (page) => files.open(page)),
  };
}

Deno.test("the first to mark a call in the ledger wins, and both sides know", () => {
  const { worker, executor } = pair();
  worker.prepare(0, 0);
  assertEquals(executor.contest(0, 0), "first");
  assertEquals(worker.contest(0, 0), "late");
  assertEquals(worker.contest(1, 0), "first");
  assertEquals(executor.contest(1, 1), "late");
  assertEquals(executor.contest(2, 2, 1234.5), "first");
  assertEquals(worker.marked(2, 2), 1234.5);
  assertEquals(worker.marked(3, 2), null);
});

Deno.test("withdrawals of later calls are remembered while earlier ones are started", () => {
  const { worker, executor } = pair();
  assertEquals(worker.contest(5, 0), "first");
  assertEquals(worker.contest(7, 0), "first");
  for (const seq of [0, 1, 2, 3, 4]) assertEquals(executor.contest(seq, seq), "first");
  assertEquals(executor.contest(5, 5), "late");
  assertEquals(executor.contest(6, 6), "first");
  assertEquals(executor.contest(7, 7), "late");
  // The worker may ask about an older call after a younger one.
  assertEquals(worker.contest(9, 6), "first");
  assertEquals(worker.contest(6, 6), "late");
});

Deno.test("random contests are decided alike on both sides", () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  // deno-lint-ignore no-console
  console.error(`seed ${seed}`);
  let state = seed;
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const { worker, executor } = pair();
  const withdrawn = new Map<number, string>();
  let next = 0;
  for (let step = 0; step < 20_000; step++) {
    if (random() < 0.5) {
      const seq = next + Math.floor(random() * 3);
      if (!withdrawn.has(seq)) withdrawn.set(seq, worker.contest(seq, next));
      // What the worker won the executor must lose, and the other way round.
    } else {
      const mine = executor.contest(next, next);
      const theirs = withdrawn.get(next) ?? worker.contest(next, next);
      assertEquals([mine, theirs].sort(), ["first", "late"], `call ${next}`);
      withdrawn.delete(next);
      next++;
    }
  }
});

Deno.test("the ledger goes on in a new file, and old ones are closed", () => {
  const { files, worker, executor } = pair();
  for (let seq = 0; seq < LEDGER_CALLS + 5; seq++) {
    worker.prepare(seq, seq);
    assertEquals(executor.contest(seq, seq), "first");
  }
  assertEquals([...files.bytes.keys()], [0, 1]);
  assertEquals(worker.contest(LEDGER_CALLS + 4, LEDGER_CALLS + 4), "late");
  assertEquals(worker.contest(LEDGER_CALLS + 5, LEDGER_CALLS + 5), "first");
  assertEquals(files.opened, 2); // one file, both sides
  worker.close();
  executor.close();
  assertEquals(files.opened, 0);
});

Deno.test("a ledger that makes no sense is found out", () => {
  for (
    const damage of [
      (bytes: number[]) => bytes.unshift(1, 2, 3),
      (bytes: number[]) => bytes.push(0, 0, 0, 0, 0, 0, 0, 0),
      (bytes: number[]) => bytes.push(0xc1),
    ]
  ) {
    const { files, worker, executor } = pair();
    executor.contest(0, 0);
    damage(files.bytes.get(0)!);
    assertEquals(worker.contest(1, 1), "damaged");
    assertEquals(worker.contest(2, 2), "damaged");
    assertEquals(worker.marked(0, 0), "damaged");
  }
  const unable = new Ledger("executor", () => {
    throw new Error("no such file");
  });
  assertEquals(unable.contest(0, 0), "damaged");
});

Deno.test("a claim in a real file costs little", () => {
  const path = Deno.makeTempFileSync();
  const worker = new Ledger("worker", () => openLedgerFile(path, true));
  const executor = new Ledger("executor", () => openLedgerFile(path));
  worker.prepare(0, 0);
  const start = performance.now();
  for (let seq = 0; seq < 5_000; seq++) executor.contest(seq, seq);
  const each = (performance.now() - start) / 5_000 * 1_000;
  assertEquals(worker.contest(4_999, 4_999), "late");
  worker.close();
  executor.close();
  Deno.removeSync(path);
  // 3 us on a quiet machine; the limit leaves room for a busy one.
  assert(each < 50, `${each} us`);
});
