import { assertEquals } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import { type CommandLine, type ParseArgs, readCommandLine, wordsOf } from "../../worker/command_line.ts";

const read = (...words: string[]): CommandLine => readCommandLine(words, parseArgs as ParseArgs);
const misuse = (...words: string[]): string => {
  const command = read(...words);
  return command.type === "misuse" ? command.message : command.type;
};

Deno.test("readCommandLine takes no words at all: this host, nanny on", () => {
  assertEquals(read(), { type: "run", flags: { nworkers: 1, nanny: true } });
});

Deno.test("readCommandLine reads the flags of dask worker", () => {
  const command = read(
    ..."tcp://h:8786 --nthreads 2 --nworkers 3 --no-nanny --name w-1 --host 10.0.0.1 --port 3000:3010".split(
      " ",
    ),
    ..."--contact-address tcp://x:1 --memory-limit 2GiB --local-directory /tmp/x --death-timeout 30s".split(
      " ",
    ),
    ...["--resources", "GPU=2 MEM=10e9", "--log-level", "DEBUG", "--log-format=json", "--no-dashboard"],
    ...["--task-permissions", "read=/data,net"],
    ...["--isolation", "thread"],
    ...["--abort-grace", "1s"],
  );
  assertEquals(command, {
    type: "run",
    flags: {
      address: "tcp://h:8786",
      nthreads: 2,
      nworkers: 3,
      nanny: false,
      name: "w-1",
      host: "10.0.0.1",
      ports: [3000, 3010],
      contactAddress: "tcp://x:1",
      memoryLimit: "2GiB",
      resources: { GPU: 2, MEM: 1e10 },
      localDirectory: "/tmp/x",
      deathTimeoutMs: 30_000,
      taskPermissions: "read=/data,net",
      isolation: "thread",
      abortGraceMs: 1_000,
      logLevel: "debug",
      logFormat: "json",
    },
  });
});

Deno.test("readCommandLine takes --worker-port for --port, numbers as names, and a bare port of the address", () => {
  const command = read("127.0.0.1:8786", "--worker-port=4000", "--name", "5");
  assertEquals(command.type === "run" && command.flags, {
    address: "127.0.0.1:8786",
    nworkers: 1,
    nanny: true,
    name: "5",
    ports: [4000, 4000],
  });
});

Deno.test("readCommandLine refuses unknown flags by name, with the nearest known one", () => {
  assertEquals(misuse("--nthread", "2"), "Unknown flag --nthread: did you mean --nthreads");
  assertEquals(misuse("--memory-limt=2GB"), "Unknown flag --memory-limt: did you mean --memory-limit");
  assertEquals(misuse("--no-nany"), "Unknown flag --no-nany: did you mean --no-nanny");
  assertEquals(misuse("--completely-different"), "Unknown flag --completely-different: see --help");
  assertEquals(misuse("-x"), "Unknown flag -x: see --help");
});

Deno.test("readCommandLine refuses values that make no sense", () => {
  assertEquals(
    misuse("--nthreads", "0"),
    'Cannot read --nthreads "0": expected a whole number of at least 1',
  );
  assertEquals(misuse("--nthreads"), "Cannot read --nthreads: a value is missing");
  assertEquals(misuse("--resources", "GPU"), 'Cannot read resource "GPU": expected NAME=NUMBER');
  assertEquals(
    misuse("--log-level", "loud"),
    'Cannot read --log-level "loud": expected debug, info, warning, error',
  );
  assertEquals(misuse("--port", "70000"), 'Cannot read --port "70000": expected a port, or FIRST:LAST');
  assertEquals(misuse("--nworkers=3", "--port=1:2"), "Cannot start 3 workers on 2 ports");
  assertEquals(
    misuse("a:1", "b:2"),
    'Cannot read "b:2": expected one scheduler address, "a:1" is there already',
  );
  assertEquals(misuse("--death-timeout", "soon").startsWith('Cannot read time "soon"'), true);
  assertEquals(misuse("--memory-limit", "lots").startsWith('Cannot read size "lots"'), true);
});

Deno.test("readCommandLine knows --help, -h and --version", () => {
  assertEquals(read("--help").type, "help");
  assertEquals(read("-h").type, "help");
  assertEquals(read("--version").type, "version");
});

Deno.test("wordsOf gives a worker the same flags, its own number and its own port", () => {
  const command = read(
    "tcp://h:1",
    "--nworkers=2",
    "--name=w",
    "--port=3000:3001",
    "--resources=GPU=1",
    "--death-timeout=2m",
  );
  if (command.type !== "run") throw new Error(command.type);
  const again = read(...wordsOf(command.flags, 1), "--no-nanny");
  assertEquals(again, {
    type: "run",
    flags: {
      address: "tcp://h:1",
      nworkers: 1,
      nanny: false,
      name: "w-1",
      ports: [3001, 3001],
      resources: { GPU: 1 },
      deathTimeoutMs: 120_000,
    },
  });
});
