/**
 * What the compiler must accept and refuse in graphs. It fails at `deno check`; the one test here only makes the file
 * count.
 *
 * @module
 */
import {
  AsyncExecutor,
  cleanup,
  collect,
  data,
  type Executor,
  FUTURE,
  type FutureLike,
  type Op,
  op,
  python,
  task,
  tasks,
  type Waiting,
} from "../../dispatch/mod.ts";

type Eq<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;
const ok = <T extends true>(_?: T): void => {};

/** What a client's future must look like to be an argument. */
interface TestFuture<T> extends Disposable, FutureLike<T> {
  readonly status: "pending" | "finished";
  result(options?: Waiting): Promise<T>;
}
function future<T>(value: T): TestFuture<T> {
  return {
    key: "k",
    status: "finished",
    [FUTURE]: true,
    result: () => Promise.resolve(value),
    [Symbol.dispose]: () => {},
  };
}

/** The types of a module of tasks, as `typeof import("./tasks.ts")` gives them. */
interface Module {
  add(a: number, b: number): number;
  divmod(a: number, b: number): [number, number];
  load(path: string): Promise<Float64Array>;
  lines(url: string): AsyncGenerator<string>;
  count(to: number): Generator<number>;
  total(parts: number[]): number;
  Counter: new (start: number) => { n: number; inc(by: number): number };
  VERSION: string;
}

Deno.test("types: nodes, tasks and executors", async () => {
  const t = tasks<Module>("file:///nowhere/tasks.ts");
  const x = t.add(1, 2);
  ok<Eq<typeof x, Op<number>>>();
  const y = t.add(x, 10);

  const [q, r] = t.divmod(7, 2);
  ok<Eq<typeof q, Op<number>>>();
  ok<Eq<typeof r, Op<number>>>();
  const first = t.divmod(7, 2)[0];
  ok<Eq<typeof first, Op<number>>>();
  const at = t.divmod(7, 2).at(1);
  ok<Eq<typeof at, Op<number>>>();
  const loaded = t.load("a");
  ok<Eq<typeof loaded, Op<Float64Array>>>();
  const listed = t.lines("u");
  ok<Eq<typeof listed, Op<string[]>>>();
  const counted = t.count(3);
  ok<Eq<typeof counted, Op<number[]>>>();
  const all = collect([x, loaded, data("a")]);
  ok<Eq<typeof all, Op<[number, Float64Array, string]>>>();
  const w = op((a: number, b: number) => a + b, x, 2);
  ok<Eq<typeof w, Op<number>>>();
  const mean = python<(xs: Float64Array) => number>("numpy:mean");
  const m = mean(t.load("a.npy"));
  ok<Eq<typeof m, Op<number>>>();
  ok<Eq<typeof t.VERSION, never>>();
  ok<Eq<typeof t.Counter.actor, true>>();
  const freed = cleanup(x, [y]);
  ok<Eq<typeof freed, Op<void>>>();

  t.total([x, y, 3, future(4)]);
  t.total([1, 2]);
  t.total(op((): number[] => [1]));
  t.add(future(1), q);
  t.add.with({ retries: 2 })(x, y);
  task((k: number) => k + 1)(q);

  const never = (): void => {
    // @ts-expect-error a wrong argument type is refused
    t.add("1", 2);
    // @ts-expect-error a node of a wrong type too
    t.add(t.load("a"), 2);
    // @ts-expect-error a future of a wrong type too
    t.add(future("a"), 2);
    // @ts-expect-error too few arguments
    t.add(1);
    // @ts-expect-error items of lists are checked
    t.total([x, "3"]);
    // @ts-expect-error an Op needs a function (N4)
    op(3);
    // @ts-expect-error an Op needs a function (N4)
    op(true);
    // @ts-expect-error an Op needs a function (N4)
    op([1, 2]);
    // @ts-expect-error there is no such task
    t.subtract(1, 2);
    // @ts-expect-error there is no such part
    t.divmod(7, 2).at("x");
    // @ts-expect-error a class is made by client.actor, not called
    t.Counter(1);
    // @ts-expect-error collect takes nodes (K4)
    collect([1, 2]);
    // @ts-expect-error options are checked
    t.add.with({ retrys: 2 });
    // @ts-expect-error arguments of functions given to op are checked
    op((a: number) => a, "1");
    // @ts-expect-error keys are read
    x.key = "other";
  };
  void never;

  const executor: Executor = new AsyncExecutor();
  const values = executor.run([op(() => 1), op(() => "a")]);
  ok<Eq<typeof values, Promise<[number, string]>>>();
  const [one] = await executor.run([data(1)], { inputs: new Map([[x, 5]]) });
  ok<Eq<typeof one, number>>();
  const [settled] = await executor.runSettled([data(1)]);
  ok<Eq<typeof settled, PromiseSettledResult<number>>>();
  await values;
});
