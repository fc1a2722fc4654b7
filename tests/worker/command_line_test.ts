import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import {
  type CommandLine,
  HELP,
  type ParseArgs,
  readCommandLine,
  shareCores,
  wordsOf,
  type WorkerFlags,
} from "../../worker/command_line.ts";
import { runPython } from "../support/scheduler.ts";

/** On a machine with 8 cores. */
const read = (...words: string[]): CommandLine => readCommandLine(words, parseArgs as ParseArgs, 8);
const flagsOf = (...words: string[]): WorkerFlags => {
  const command = read(...words);
  if (command.type !== "run") throw new Error(JSON.stringify(command));
  return command.flags;
};
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
      ports: { first: 3000, last: 3010, step: 1 },
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
    ports: { first: 4000, last: 4000, step: 1 },
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
  assertEquals(
    misuse("--port", "70000"),
    'Cannot read --worker-port "70000": expected a port, or FIRST:LAST',
  );
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
      nthreads: 4,
      ports: { first: 3001, last: 3001, step: 1 },
      resources: { GPU: 1 },
      deathTimeoutMs: 120_000,
    },
  });
});

Deno.test("certificates and the protocol are read, handed on, and not taken by half", () => {
  const files = ["--tls-ca-file=/ca", "--tls-cert=/cert", "--tls-key=/key"];
  const command = read("tls://h:1", "--protocol", "tls://", ...files);
  assertEquals(command.type === "run" && wordsOf(command.flags, 0), [
    "tls://h:1",
    "--protocol=tls",
    ...files,
  ]);
  const half = "Cannot use TLS by half: --tls-ca-file and --tls-cert belong together";
  assertEquals(misuse("--tls-cert=/c"), half);
  assertEquals(misuse("--tls-ca-file=/c"), half);
  assertEquals(misuse("--tls-key=/c"), "Cannot use --tls-key without --tls-ca-file and --tls-cert");
  assertEquals(misuse("--protocol=udp"), 'Cannot read --protocol "udp": expected tcp, tls');
});

Deno.test("--nworkers shares out the cores as dask does", () => {
  const shared = (...words: string[]) => {
    const { nworkers, nthreads } = flagsOf(...words);
    return [nworkers, nthreads];
  };
  assertEquals(shared(), [1, undefined]);
  assertEquals(shared("--nworkers", "3"), [3, 2]);
  assertEquals(shared("--nworkers=3", "--nthreads=5"), [3, 5]);
  assertEquals(shared("--nworkers", "20"), [20, 1]);
  assertEquals(shared("--nworkers", "-1"), [8, 1]);
  assertEquals(shared("--nworkers=-5"), [4, 2]);
  assertEquals(shared("--nworkers", "-8"), [1, undefined]);
  assertEquals(shared("--nworkers", "auto", "--nthreads=7"), [4, 2]);
  for (const wrong of ["0", "-9", "1.5", "some"]) {
    assertStringIncludes(misuse(`--nworkers=${wrong}`), `Cannot read --nworkers "${wrong}"`);
  }
});

Deno.test("shareCores is dask's formula", async () => {
  const cores = Array.from({ length: 130 }, (_, index) => index + 1);
  const { stdout, stderr } = await runPython(
    `
import json, sys
from distributed.deploy.utils import nprocesses_nthreads
print(json.dumps([nprocesses_nthreads(n) for n in json.loads(sys.argv[1])]))`,
    [JSON.stringify(cores)],
  );
  assertEquals(
    cores.map(shareCores).map(({ nworkers, nthreads }) => [nworkers, nthreads]),
    JSON.parse(stdout || stderr),
  );
});

Deno.test("flags about lifetime, preload, pages and nanny come through to each worker", () => {
  const words = [
    ..."tcp://h:1 --nworkers=2 --lifetime=1h --lifetime-stagger 5m --lifetime-restart --dashboard-address :9000"
      .split(
        " ",
      ),
    "--allow-modules=https://h/lib/,npm:zod, bundles",
    ..."--preload a.ts --preload=https://h/b.ts --pid-file /run/w.pid --nanny-port 7000:7003 --interface lo"
      .split(
        " ",
      ),
  ];
  const flags = flagsOf(...words);
  assertEquals(flags.nannyPorts, { first: 7000, last: 7003, step: 1 });
  assertEquals(flags.pidFile, "/run/w.pid");
  const { nannyPorts: _, pidFile: __, nworkers: ___, ...rest } = flags;
  assertEquals(flagsOf(...wordsOf(flags, 1)), { ...rest, nworkers: 1 });
  assertEquals(rest.lifetimeMs, 3_600_000);
  assertEquals(rest.lifetimeStaggerMs, 300_000);
  assertEquals(rest.lifetimeRestart, true);
  assertEquals(rest.preload, ["a.ts", "https://h/b.ts"]);
  assertEquals(rest.allowModules, ["https://h/lib/", "npm:zod", "bundles"]);
  const off = flagsOf("--no-lifetime-restart");
  assertEquals(flagsOf(...wordsOf(off, 0)).lifetimeRestart, false);
});

Deno.test("--allow-modules has no empty entries", () => {
  assertStringIncludes(misuse("--allow-modules=npm:zod,,bundles"), "an entry is empty");
  assertStringIncludes(misuse("--allow-modules="), "a value is missing");
});

Deno.test("pages are off unless asked for", () => {
  assertEquals(flagsOf().dashboardAddress, undefined);
  assertEquals(flagsOf("--dashboard").dashboardAddress, ":0");
  assertEquals(flagsOf("--dashboard-address=h:1", "--dashboard").dashboardAddress, "h:1");
  assertEquals(flagsOf("--dashboard-address=h:1", "--no-dashboard").dashboardAddress, undefined);
  assertEquals(
    misuse("--dashboard-address", "nowhere"),
    'Cannot read the address "nowhere": expected HOST:PORT or :PORT',
  );
});

Deno.test("--listen-address is host and port in one, and told to others", () => {
  const listening = (text: string) => {
    const { host, ports, contactAddress } = flagsOf("--listen-address", text);
    return [host, ports?.first, contactAddress];
  };
  assertEquals(listening("tcp://10.0.0.1:9000"), ["10.0.0.1", 9000, "tcp://10.0.0.1:9000"]);
  assertEquals(listening("tcp://0.0.0.0:9000"), ["0.0.0.0", 9000, undefined]);
  assertEquals(listening("tcp://:9000"), ["0.0.0.0", 9000, undefined]);
  assertEquals(listening("[::1]:9000"), ["::1", 9000, "tcp://[::1]:9000"]);
  assertEquals(
    flagsOf("--listen-address=h:1", "--contact-address=tcp://nat:2").contactAddress,
    "tcp://nat:2",
  );
  assertStringIncludes(misuse("--listen-address=h:1", "--host=h"), "both say where to listen");
  assertStringIncludes(misuse("--listen-address=h:1", "--worker-port=2"), "both say where to listen");
  assertStringIncludes(misuse("--listen-address=h:1", "--nworkers=2"), "for 2 workers");
  assertStringIncludes(misuse("--listen-address=tcp://a:b:c"), "Cannot read --listen-address");
  assertStringIncludes(misuse("--host=h", "--interface=lo"), "both say where to listen");
});

Deno.test("every flag of dask worker is known and explained, or refused by name with a reason", async () => {
  const { stdout, stderr } = await runPython(`
from distributed.cli.dask_worker import main
for param in main.params:
    for name in param.opts + param.secondary_opts:
        if name.startswith("--"): print(name)`);
  const names = stdout.split("\n").filter((name) => name !== "");
  assert(names.length > 25, stderr);
  for (const name of names) {
    // A switch takes no value, and anything is a value at first.
    const answers = [misuse(name), misuse(`${name}=x`)];
    const refused = answers.find((answer) => answer.startsWith(`Cannot use ${name}: `));
    if (refused !== undefined) continue;
    assert(answers.every((answer) => !answer.startsWith("Unknown flag")), answers[0]);
    assertStringIncludes(HELP, name.replace("--no-", "--"));
  }
});

Deno.test("the flags for the supervisor itself are not suggested", () => {
  assertEquals(misuse("--superviso=1"), "Unknown flag --superviso: see --help");
});
