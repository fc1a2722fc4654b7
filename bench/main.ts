/**
 * `deno task bench`: client and workers of both languages on one and the same Python scheduler, in turn, several
 * rounds; prints medians, spread and the ratio. Absolute figures of a shared machine mean little; the ratios are taken
 * round by round, so that slow minutes hit both alike.
 */
import { pythonEnvironment } from "../cluster/python_environment.ts";
import {
  type LoggedProcess,
  pythonEnv,
  startLogged,
  startPythonScheduler,
} from "../cluster/python_scheduler.ts";
import { parseArgs } from "@std/cli/parse-args";

interface Figures {
  readonly opsPerSecond: number;
  readonly clientCpuSeconds: number;
  readonly roundTripMs: number;
  readonly transferMBPerSecond: number;
  /** The same with the workers at different addresses, so that nothing but the network is between them. */
  readonly tcpMBPerSecond: number;
  readonly idleWorkerMB: number;
}
/** Of many ops that are only submitted: there is no worker. */
interface Submission {
  readonly submitCpuSeconds: number;
  /** Until the scheduler knows them all, as seen from outside. */
  readonly submitSeconds: number;
}
type Language = "python" | "typescript";

const flags = parseArgs(Deno.args, {
  string: ["rounds", "ops", "round-trips", "megabytes", "submitted"],
  default: { rounds: "3", ops: "10000", "round-trips": "300", megabytes: "512", submitted: "100000" },
  unknown: (arg) => {
    say(`Unknown argument ${arg}: --rounds --ops --round-trips --megabytes --submitted are known`);
    Deno.exit(2);
  },
});
const rounds = Number(flags["rounds"]);
const here = new URL(".", import.meta.url).pathname;
const environment = await pythonEnvironment({ onProgress: say });
const temporary = await Deno.makeTempDir({ prefix: "dask-ts-bench-" });
const measured: Record<Language, (Figures & Submission)[]> = { python: [], typescript: [] };
{
  await using scheduler = await startPythonScheduler({
    env: { DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION: "inf" },
  });
  for (let round = 1; round <= rounds; round++) {
    // In turn, so that each round's ratio is of neighbours in time.
    for (const language of ["python", "typescript"] as const) {
      const figures = { ...await measure(language, scheduler.address), ...await submit(language) };
      measured[language].push(figures);
      say(`round ${round}/${rounds} ${language}: ${JSON.stringify(figures)}`);
    }
  }
}
await Deno.remove(temporary, { recursive: true });
report();

async function measure(language: Language, address: string): Promise<Figures> {
  await using a = await worker(language, address, "a");
  await using b = await worker(language, address, "b");
  const idleWorkerMB = await idleMemory([a, b]);
  const { ops, megabytes } = flags;
  const main = await client(language, [
    address,
    String(ops),
    String(flags["round-trips"]),
    String(megabytes),
  ]);
  await using _c = await worker(language, address, "c", ["--host", "127.0.0.2"]);
  const { transferMBPerSecond } = await client(language, [address, "0", "0", String(megabytes)]);
  return { ...main, idleWorkerMB, tcpMBPerSecond: transferMBPerSecond };
}

function client(language: Language, args: readonly string[]): Promise<Figures> {
  return runScript(language, language === "python" ? "python_client.py" : "client.ts", args) as Promise<
    Figures
  >;
}

/** On a scheduler of its own, so that what is there already does not count. */
async function submit(language: Language): Promise<Submission> {
  await using scheduler = await startPythonScheduler();
  const known = `${temporary}/known`;
  const count = String(flags["submitted"]);
  await using observer = await startLogged(environment.python, [
    `${here}observer.py`,
    scheduler.address,
    count,
    known,
  ], { env: pythonEnv(temporary) });
  while (!(await observer.log()).includes("watching")) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const script = language === "python" ? "submit.py" : "submit.ts";
  const figures = await runScript(language, script, [scheduler.address, count, known]) as Submission;
  await observer.ended;
  await Deno.remove(known);
  return figures;
}

async function runScript(language: Language, script: string, args: readonly string[]): Promise<unknown> {
  const command = language === "python" ? environment.python : Deno.execPath();
  const words = language === "python" ? [] : ["run", "-A", "--quiet"];
  const output = await new Deno.Command(command, {
    args: [...words, script, ...args],
    cwd: here,
    env: pythonEnv(temporary),
    stdout: "piped",
    stderr: "inherit",
  }).output();
  if (!output.success) throw new Error(`The ${language} client failed`);
  return JSON.parse(new TextDecoder().decode(output.stdout).trim().split("\n").at(-1) ?? "");
}

function worker(
  language: Language,
  address: string,
  name: string,
  more: readonly string[] = [],
): Promise<LoggedProcess> {
  const words = ["--nthreads", "1", "--no-nanny", "--name", name, "--memory-limit", "8GiB", ...more];
  return language === "python"
    ? startLogged(environment.python, ["-m", "dask", "worker", address, ...words, "--no-dashboard"], {
      env: { ...pythonEnv(temporary), DASK_TEMPORARY_DIRECTORY: temporary },
    })
    : startLogged(Deno.execPath(), ["run", "-A", "--quiet", `${here}../worker/main.ts`, address, ...words]);
}

/**
 * PSS of the process tree of one of two one-slot workers at rest, executors started, MB. PSS counts a page that several
 * processes share (the interpreter's code, mostly) in equal parts to each.
 */
async function idleMemory(workers: readonly LoggedProcess[]): Promise<number> {
  for (const worker of workers) {
    const deadline = Date.now() + 30_000;
    while (!/[Rr]egistered to/.test(await worker.log())) {
      if (Date.now() > deadline) throw new Error(`A worker did not register: ${await worker.log()}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  let kilobytes = 0;
  for (const pid of await processTree(workers[0]!.pid)) {
    const rollup = await Deno.readTextFile(`/proc/${pid}/smaps_rollup`);
    kilobytes += Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
  }
  return kilobytes / 1024;
}

async function processTree(root: number): Promise<number[]> {
  const children = await Deno.readTextFile(`/proc/${root}/task/${root}/children`).catch(() => "");
  const found = [root];
  for (const child of children.trim().split(" ")) {
    if (child !== "") found.push(...await processTree(Number(child)));
  }
  return found;
}

function report(): void {
  const rows: [string, keyof (Figures & Submission), string][] = [
    [`${flags["ops"]} independent ops, ops/s`, "opsPerSecond", ">= 2.5"],
    ["submit().result(), median ms", "roundTripMs", "<= 0.5"],
    [`${flags["megabytes"]} MB worker to worker, MB/s`, "transferMBPerSecond", ">= 0.8"],
    ["  the same, other address (TCP), MB/s", "tcpMBPerSecond", ""],
    ["idle one-slot worker, PSS MB", "idleWorkerMB", "<= 1"],
    ["client CPU s for the ops", "clientCpuSeconds", ""],
    [`${flags["submitted"]} ops submitted, client CPU s`, "submitCpuSeconds", "<= 0.333"],
    ["  until the scheduler knows them all, s", "submitSeconds", "<= 0.6"],
  ];
  print(
    `Python ${environment.version} and TypeScript (Deno ${Deno.version.deno}), ${rounds} rounds on one scheduler: median (min-max)`,
  );
  for (const [title, field, goal] of rows) {
    const python = measured.python.map((figures) => figures[field]);
    const typescript = measured.typescript.map((figures) => figures[field]);
    const ratios = typescript.map((value, i) => value / python[i]!);
    print(
      `${title.padEnd(36)} Python ${spread(python).padEnd(26)} TypeScript ${
        spread(typescript).padEnd(26)
      } ratio ${spread(ratios)}${goal === "" ? "" : `  goal ${goal}`}`,
    );
  }
}

function spread(values: readonly number[]): string {
  const sorted = [...values].sort((x, y) => x - y);
  const text = (value: number | undefined) => (value ?? Number.NaN).toPrecision(3);
  return `${text(sorted[Math.floor(sorted.length / 2)])} (${text(sorted[0])}-${text(sorted.at(-1))})`;
}

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
}
