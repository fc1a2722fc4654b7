/**
 * What the compiler must accept and refuse of `mod.ts`. It fails at `deno check`; the one test here only makes the
 * file count.
 *
 * @module
 */
import {
  asCompleted,
  AsyncExecutor,
  CancelledError,
  type Client,
  CommClosedError,
  connect,
  type ConnectOptions,
  current,
  DaskError,
  data,
  DependencyError,
  DispatchGraph,
  type Executor,
  type Future,
  type FutureStatus,
  type MapOptions,
  NDArray,
  type Op,
  op,
  ProtocolError,
  type Remote,
  Reschedule,
  type SchedulerInfo,
  SerializationError,
  startWorker,
  type Task,
  task,
  TaskError,
  type TaskOptions,
  tasks,
  wait,
  type WorkerHandle,
  type WorkerInfo,
  WorkerLostError,
  type WorkerOptions,
} from "../../mod.ts";

type Eq<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;
const ok = <T extends true>(_?: T): void => {};

interface Module {
  add(a: number, b: number): number;
  divmod(a: number, b: number): [number, number];
  load(path: string): Promise<Float64Array>;
  lines(url: string): AsyncGenerator<string>;
  total(parts: number[]): number;
  Counter: new (start: number, label?: string) => Counter;
}

declare class Counter {
  n: number;
  label?: string;
  readonly rows: readonly string[];
  add(by: number): number;
  later(by: number, options?: { unit: string }): Promise<string>;
  each(): Generator<number>;
  arrow: (by: number) => boolean;
  #hidden: number;
  protected own(): void;
}

/** Never called: only the compiler reads it. */
async function contract(client: Client): Promise<void> {
  const t = tasks<Module>("file:///nowhere/tasks.ts");

  // Nodes and functions are submitted; what comes back carries the type, promises and generators unwrapped.
  const sum = client.submit(t.add(1, 2));
  ok<Eq<typeof sum, Future<number>>>();
  const called = client.submit((a: number, b: string) => `${a}${b}`, [1, "x"], { retries: 2 });
  ok<Eq<typeof called, Future<string>>>();
  const awaited = client.submit(async (a: number) => await Promise.resolve([a]), [1]);
  ok<Eq<typeof awaited, Future<number[]>>>();
  const loaded = client.submit(t.load("a"), { priority: 1, signal: AbortSignal.timeout(5) });
  ok<Eq<typeof loaded, Future<Float64Array>>>();
  const lines = client.submit(t.lines("u"));
  ok<Eq<typeof lines, Future<string[]>>>();

  // Futures and nodes stand for their values in arguments, also as items of lists.
  client.submit(t.add(sum, t.add(sum, 1)));
  client.submit((a: number, b: number) => a + b, [sum, t.add(1, 1)]);
  client.submit(t.total([sum, 1, t.add(1, 1)]));
  const scattered = await client.scatter({ rows: [1, 2] });
  ok<Eq<typeof scattered, Future<{ rows: number[] }>>>();
  client.submit(op((table: { rows: number[] }) => table.rows.length, scattered));
  const known = client.future<Float64Array>("load-1");
  ok<Eq<typeof known, Future<Float64Array>>>();

  // Reading.
  const value = await sum.result();
  ok<Eq<typeof value, number>>();
  const settled = await sum.settled();
  ok<Eq<typeof settled, PromiseSettledResult<number>>>();
  ok<Eq<typeof sum.status, FutureStatus>>();
  ok<Eq<typeof sum.key, string>>();
  const gathered = await client.gather([sum, loaded, called]);
  ok<Eq<typeof gathered, [number, Float64Array, string]>>();
  const list: Future<number>[] = [sum, sum];
  const numbers = await client.gather(list);
  ok<Eq<typeof numbers, number[]>>();

  // Many.
  const mapped = client.map((i: number) => t.add(i, 1), [1, 2, 3], { label: "plus" });
  ok<Eq<typeof mapped, Future<number>[]>>();
  const stream = client.map(
    (i: string) => t.load(i),
    (async function* () {
      yield "a";
    })(),
    { maxPending: 8 },
  );
  ok<Eq<typeof stream, AsyncIterableIterator<Future<Float64Array>>>>();
  const chunked = client.map((i: number) => t.add(i, 1), [1, 2, 3].values(), { chunkSize: 2, retries: 1 });
  ok<Eq<typeof chunked, Future<number>[]>>();
  const chunkedLater = client.map(
    (i: number) => t.add(i, 1),
    (async function* () {
      yield 1;
    })(),
    { chunkSize: 2, maxPending: 8 },
  );
  ok<Eq<typeof chunkedLater, AsyncIterableIterator<Future<number>>>>();
  client.submit(t.add(chunked[0]!, 1));
  const options: MapOptions = { chunkSize: 5, priority: 1 };
  client.map((i: number) => t.add(i, 1), [1], options);

  // A list streams its items, all else itself.
  const streamed = client.submit(t.lines("u")).stream({ signal: AbortSignal.timeout(5) });
  ok<Eq<typeof streamed, ReadableStream<string>>>();
  for await (const line of streamed) ok<Eq<typeof line, string>>();
  const pair = client.submit(t.divmod(7, 2)).stream();
  ok<Eq<typeof pair, ReadableStream<number>>>();
  const whole = loaded.stream();
  ok<Eq<typeof whole, ReadableStream<Float64Array>>>();
  for await (const future of asCompleted(mapped)) ok<Eq<typeof future, Future<number>>>();
  for await (const item of asCompleted(mapped, { withResults: true })) {
    ok<Eq<typeof item, [Future<number>, number]>>();
  }
  for await (const item of asCompleted(mapped, { withResults: "settled" }).batches()) {
    ok<Eq<typeof item, [Future<number>, PromiseSettledResult<number>][]>>();
  }
  for await (const batch of asCompleted(mapped).batches()) ok<Eq<typeof batch, Future<number>[]>>();
  await wait(mapped);

  // The client is an executor, and so is the process itself.
  const executors: Executor[] = [client, new AsyncExecutor()];
  void executors;
  const run = await client.run([t.add(1, 2), t.load("a"), data("x")]);
  ok<Eq<typeof run, [number, Float64Array, string]>>();
  const [first, second] = await client.runSettled([t.add(1, 2), data("x")]);
  ok<Eq<typeof first, PromiseSettledResult<number>>>();
  ok<Eq<typeof second, PromiseSettledResult<string>>>();
  const all = await client.run(new DispatchGraph([t.add(1, 2)]));
  ok<Eq<typeof all, unknown[]>>();

  const plus = task((a: number) => a + 1);
  ok<Eq<ReturnType<typeof plus>, Op<number>>>();
  plus.with({ pure: false })(sum);
  const limited: Client = client.with({ workers: ["tcp://h:1"], resources: { GPU: 1 } });
  void limited;

  const everywhere = await client.runOnWorkers(t.load, ["a"], { workers: ["tcp://h:1"] });
  ok<Eq<typeof everywhere, ReadonlyMap<string, PromiseSettledResult<Float64Array>>>>();
  const pairs = await client.runOnWorkers(t.divmod, [7, 2]);
  ok<Eq<typeof pairs, ReadonlyMap<string, PromiseSettledResult<[number, number]>>>>();
  await client.runOnWorkers(plus, [1]);

  const info = await client.schedulerInfo();
  ok<Eq<typeof info, SchedulerInfo>>();
  const workers = await client.workers();
  ok<Eq<typeof workers, readonly WorkerInfo[]>>();
  const worker = await startWorker({ address: "h:8786", slots: 2, memoryLimit: "2GiB" });
  ok<Eq<typeof worker, WorkerHandle>>();
  ok<Eq<Parameters<typeof startWorker>[0], string | WorkerOptions | undefined>>();
  ok<Eq<Parameters<typeof connect>[0], string | ConnectOptions | undefined>>();
  const signal: AbortSignal = current().signal;
  void signal;
  const inside: Client = await current().client();
  void inside;
  const elsewhere: Error = new Reschedule("not here");
  void elsewhere;

  // Actors: methods give promises of what they give, fields are promises.
  const counter = await client.actor(t.Counter, [10]);
  ok<Eq<typeof counter, Remote<Counter>>>();
  await client.actor(t.Counter, [sum, "x"], { workers: ["tcp://h:1"] });
  ok<Eq<typeof counter.n, Promise<number>>>();
  ok<Eq<typeof counter.rows, Promise<readonly string[]>>>();
  const label: string | undefined = await counter.label;
  void label;
  const added = counter.add(2);
  ok<Eq<typeof added, Promise<number>>>();
  const later = counter.later(2, { unit: "m" });
  ok<Eq<typeof later, Promise<string>>>();
  const each = counter.each();
  ok<Eq<typeof each, Promise<number[]>>>();
  const arrow = counter.arrow(1);
  ok<Eq<typeof arrow, Promise<boolean>>>();
  const found = await client.remote<Counter>("key");
  ok<Eq<typeof found, Remote<Counter>>>();
  const owned: AsyncDisposable = counter;
  void owned;

  // Errors form one tree.
  const errors: DaskError[] = [
    new CancelledError(""),
    new CommClosedError("", ""),
    new ProtocolError(""),
    new SerializationError(""),
    new TaskError("", { key: "k" }),
  ];
  void errors;
  const lost: TaskError = new WorkerLostError("", { key: "k", attempts: [] });
  const dependency: TaskError = new DependencyError("", { key: "k", origin: "o" });
  void [lost, dependency];

  // @ts-expect-error arguments of constructors are checked
  client.actor(t.Counter, ["10"]);
  // @ts-expect-error and counted
  client.actor(t.Counter, []);
  // @ts-expect-error they come as a list
  client.actor(t.Counter, 10);
  // @ts-expect-error a future of a wrong type is refused
  client.actor(t.Counter, [called]);
  // @ts-expect-error an actor is made of a class, not of a function
  client.actor(t.add, [1, 2]);
  // @ts-expect-error nor of the class itself: it lives in a module
  client.actor(Counter, [1]);
  // @ts-expect-error arguments of methods are checked
  counter.add("2");
  // @ts-expect-error and counted
  counter.add();
  // @ts-expect-error methods take values, not futures
  counter.add(sum);
  // @ts-expect-error there is no such method
  counter.substract(2);
  // @ts-expect-error protected methods are not called from outside
  counter.own();
  // @ts-expect-error a field is a promise
  counter.n + 1;
  // @ts-expect-error and is not set
  counter.n = 2;
  // @ts-expect-error a handle is no promise
  counter.then(() => {});
  // @ts-expect-error a wrong argument is refused
  client.submit((a: number) => a, ["1"]);
  // @ts-expect-error so is a future of a wrong type
  client.submit((a: number) => a, [called]);
  // @ts-expect-error and a future of a wrong type in a task's call
  t.add(called, 1);
  // @ts-expect-error and one among the items of a list
  t.total([sum, called]);
  // @ts-expect-error too few arguments
  client.submit((a: number, b: number) => a + b, [1]);
  // @ts-expect-error arguments come as a list
  client.submit((a: number) => a, 1);
  // @ts-expect-error a value is no node
  client.submit(42);
  // @ts-expect-error options are known by name
  client.submit(t.add(1, 2), { retry: 2 });
  // @ts-expect-error and by type
  client.submit(t.add(1, 2), { retries: "2" });
  // @ts-expect-error and so are those of map
  client.map((i: number) => t.add(i, 1), [1], { chunkSize: "5" });
  // @ts-expect-error items of a stream have the type of the list's
  client.submit(t.lines("u")).stream().getReader().read().then(({ value }) => value?.toFixed());
  // @ts-expect-error futures are gathered, not nodes
  client.gather([t.add(1, 2)]);
  // @ts-expect-error nodes are run, not futures
  client.run([sum]);
  // @ts-expect-error a mapped function gives nodes
  client.map((i: number) => i + 1, [1, 2]);
  // @ts-expect-error items have the type that the function takes
  client.map((i: number) => t.add(i, 1), ["a"]);
  // @ts-expect-error a future is a handle, not a promise
  sum.then(() => {});
  // @ts-expect-error a future is read by result()
  const wrong: number = sum;
  void wrong;
  // @ts-expect-error the status is read
  sum.status = "finished";
  // @ts-expect-error slots are a number
  startWorker({ slots: "2" });
  // @ts-expect-error a task runs with its own arguments
  client.runOnWorkers(t.add, [1, "2"]);
  // @ts-expect-error with values, not futures
  client.runOnWorkers(t.add, [1, sum]);
  // @ts-expect-error and it is a task
  client.runOnWorkers((a: number) => a, [1]);
  // @ts-expect-error the address is a text
  connect(8786);
}

Deno.test("types: the public face", () => {
  void contract;
  ok<Eq<TaskOptions["retries"], number | undefined>>();
  const inc: Task<[a: number], number> = task((a: number) => a + 1);
  const node: Op<number> = inc(1);
  void node;
  void NDArray;
});
