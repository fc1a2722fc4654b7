/**
 * The documents tell the truth: the tutorial is run as it stands, programs in other documents are checked by the
 * compiler, quoted messages occur in the sources, links lead somewhere, and worked files can be read.
 *
 * A program names its file in its first line. In the tutorial `<!-- start -->` stands before a command that runs on,
 * `<!-- run -->` before one whose output is that of the block after it, where `…` is anything.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import { parseYaml } from "../config/deps.ts";
import * as dask from "../mod.ts";
import { type ParseArgs, readCommandLine } from "../worker/command_line.ts";
import { until } from "./client/cluster.ts";
import { type LoggedProcess, PROJECT, python, startLogged } from "./support/scheduler.ts";

const DOCS = `${PROJECT}docs/`;

interface Block {
  readonly language: string;
  readonly mark: "start" | "run" | null;
  readonly text: string;
  readonly line: number;
}

function blocksOf(markdown: string): Block[] {
  return [...markdown.matchAll(/(?:<!-- (start|run) -->\n\n)?^```(\w+)[^\n]*\n(.*?)^```$/gms)].map((
    match,
  ) => ({
    language: match[2]!,
    mark: (match[1] ?? null) as Block["mark"],
    text: match[3]!,
    line: markdown.slice(0, match.index).split("\n").length,
  }));
}

function fileOf({ text }: Block): string | null {
  return /^\/\/ (\w+\.ts)\n/.exec(text)?.[1] ?? null;
}

/** A folder inside of the project, so that the paths of the documents fit. */
async function projectFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await Deno.makeTempDir({ dir: PROJECT, prefix: ".docs-" });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** A port that was free a moment ago. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test("the tutorial runs from its first command to its last", async () => {
  await using folder = await projectFolder();
  const port = String(freePort());
  const environment = await python();
  const env = {
    PATH: `${environment.python.replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`,
    DASK_CONFIG: `${folder.path}/none`,
    DASK_ROOT_CONFIG: `${folder.path}/none`,
    DASK_TEMPORARY_DIRECTORY: folder.path,
    NO_COLOR: "1",
  };
  await using processes = new AsyncDisposableStack();
  const started: LoggedProcess[] = [];
  const blocks = blocksOf(await Deno.readTextFile(`${DOCS}tutorial.md`));
  let ran = 0;
  for (const [i, block] of blocks.entries()) {
    const file = fileOf(block);
    const text = block.text.replaceAll("8786", port);
    if (file !== null) await Deno.writeTextFile(`${folder.path}/${file}`, text);
    if (block.mark === "start") {
      const isScheduler = text.trim() === "dask scheduler";
      const command = isScheduler ? `${text.trim()} --port ${port} --no-dashboard` : text.trim();
      const process = processes.use(
        await startLogged("/bin/sh", ["-c", `cd "${folder.path}"; exec ${command}`], { env }),
      );
      started.push(process);
      // People look, and go on when it is there.
      if (isScheduler) await until(async () => (await process.log()).includes("Scheduler at:"));
    }
    if (block.mark !== "run") continue;
    const wanted = blocks[i + 1];
    assertEquals(wanted?.language, "text", `the output after line ${block.line} is missing`);
    const { code, stdout, stderr } = await new Deno.Command("/bin/sh", {
      args: ["-c", text],
      cwd: folder.path,
      env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const logs = code === 0 ? [] : await Promise.all(started.map((process) => process.log()));
    assertEquals(code, 0, [`line ${block.line}`, decode(stderr), ...logs].join("\n---\n"));
    const pattern = wanted!.text.split("…").map((part) => RegExp.escape(part)).join(".*");
    assertMatch(decode(stdout), new RegExp(`^${pattern}$`), `line ${block.line}`);
    ran++;
  }
  assertEquals(ran, 7);
  // What was written down is there, too.
  assertMatch(await Deno.readTextFile(`${folder.path}/graph.svg`), /<svg/);
});

Deno.test("programs in documents pass the compiler", async () => {
  await using folder = await projectFolder();
  const files: string[] = [];
  for (const { name } of Deno.readDirSync(DOCS)) {
    // Programs of that one are compiled, and run, by `deno test --doc`.
    if (!name.endsWith(".md") || name === "coming-from-dispatcher.md") continue;
    const own = `${folder.path}/${name.replace(".md", "")}`;
    for (const block of blocksOf(await Deno.readTextFile(DOCS + name))) {
      if (block.language !== "ts") continue;
      const file = fileOf(block);
      assert(file !== null, `docs/${name}:${block.line}: a program must name its file in its first line`);
      await Deno.mkdir(own, { recursive: true });
      await Deno.writeTextFile(`${own}/${file}`, block.text.replaceAll('"../mod.ts"', '"../../mod.ts"'));
      files.push(`${own}/${file}`);
    }
  }
  assert(files.length >= 9);
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["check", "--quiet", ...files],
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
});

Deno.test("what the table for users of dask names is there", async () => {
  const text = await Deno.readTextFile(`${DOCS}coming-from-dask.md`);
  const right = text.split("\n").filter((line) => line.startsWith("| ")).map((line) =>
    line.split(" | ").at(-1)!
  )
    .join("\n");
  const missing = (pattern: RegExp, there: (name: string) => boolean): string[] =>
    [...new Set([...right.matchAll(pattern)].map(([, name]) => name!))].filter((name) => !there(name));
  assertEquals(missing(/\bclient\.(\w+)/g, (name) => name in dask.Client.prototype), []);
  assertEquals(missing(/\bfuture\.(\w+)/g, (name) => name in dask.Future.prototype), []);
  assertEquals(
    missing(/(?:await |of |^\| |, |`)([a-zA-Z]+)\(/g, (name) => name in dask || MEMBERS.has(name)),
    [],
  );
  assertEquals(missing(/`(\w+Error)`/g, (name) => name in dask || name in globalThis), []);
});

/** Names in the table that look like calls and are no exports. */
const MEMBERS = new Set(["visualize", "import"]);

// --- Worked files ---

/** Reads words as the worker does; throws unless they make sense. */
function readWorkerWords(words: readonly string[]): void {
  const read = readCommandLine(words, parseArgs as ParseArgs, 8);
  assert(read.type === "run", `${words.join(" ")}: ${read.type === "misuse" ? read.message : read.type}`);
}

interface Container {
  readonly image: string;
  readonly args: readonly string[];
}

Deno.test("manifests for Kubernetes are whole, and the worker understands its words", async () => {
  const kinds: string[] = [];
  const containers: Container[] = [];
  const find = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    if ("containers" in value) containers.push(...value.containers as Container[]);
    Object.values(value).forEach(find);
  };
  for (const { name } of Deno.readDirSync(`${PROJECT}deploy/kubernetes`)) {
    const document = parseYaml(await Deno.readTextFile(`${PROJECT}deploy/kubernetes/${name}`)) as {
      apiVersion: string;
      kind: string;
    };
    assertEquals(document.apiVersion, "kubernetes.dask.org/v1");
    kinds.push(document.kind);
    find(document);
  }
  assertEquals(kinds.sort(), ["DaskAutoscaler", "DaskCluster", "DaskWorkerGroup"]);
  const ours = containers.filter(({ image }) => image.includes("dask-worker-ts"));
  assertEquals(ours.length, 1);
  for (const { args } of ours) readWorkerWords(args);
});

Deno.test("the unit, its variables and the image give the worker words that it understands", async () => {
  const variables = Object.fromEntries(
    (await Deno.readTextFile(`${PROJECT}deploy/systemd/worker-ts.env`)).split("\n")
      .map((line) => /^(\w+)=(.*)$/.exec(line)).filter((match) => match !== null)
      .map(([, name, value]) => [name!, value!]),
  );
  readWorkerWords(variables["WORKER_OPTIONS"]!.split(" "));
  const unit = await Deno.readTextFile(`${PROJECT}deploy/systemd/dask-worker-ts.service`);
  assertMatch(
    unit,
    /^ExecStart=\/usr\/local\/bin\/deno run .* -P=worker .*\/worker\/main\.ts \$WORKER_OPTIONS$/m,
  );
  const image = await Deno.readTextFile(`${PROJECT}deploy/Dockerfile`);
  readWorkerWords(JSON.parse(/^CMD (\[.*\])$/m.exec(image)![1]!));
  // The image holds all that the worker and a client in a task can load.
  const copied = [...image.matchAll(/^COPY (.*) \S+$/gm)].flatMap(([, names]) => names!.split(" "));
  const folders = new Set<string>();
  for (const entrypoint of ["mod.ts", "worker/main.ts", "worker/execute/main.ts"]) {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", entrypoint],
      cwd: PROJECT,
    }).output();
    const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as { modules: { local?: string }[] };
    for (const { local } of modules) {
      if (local?.startsWith(PROJECT)) folders.add(local.slice(PROJECT.length).split("/")[0]!);
    }
  }
  assertEquals([...folders].filter((folder) => !copied.includes(folder)), []);
});

Deno.test("the Slurm job runs its program on its workers, and leaves nothing behind", async () => {
  await using folder = await projectFolder();
  const { python: interpreter } = await python();
  // A stand-in for srun: one node, no options.
  await Deno.writeTextFile(
    `${folder.path}/srun`,
    '#!/bin/sh\nwhile case $1 in --*) true ;; *) false ;; esac; do shift; done\nexec "$@"\n',
    { mode: 0o755 },
  );
  await Deno.writeTextFile(
    `${folder.path}/main.ts`,
    `import { connect } from "../mod.ts";
await using client = await connect({ schedulerFile: Deno.env.get("DASK_TS_SCHEDULER_FILE")! });
console.log(Deno.args[0], await client.submit((x: number) => x + 1, [41]).result());
`,
  );
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: [`${PROJECT}deploy/slurm/cluster.sh`, `${folder.path}/main.ts`, "answer:"],
    cwd: folder.path,
    env: {
      PATH: `${folder.path}:${Deno.env.get("PATH")}`,
      DASK_CONFIG: `${folder.path}/none`,
      DASK_TS_PROJECT: PROJECT,
      DASK_TS_PYTHON: interpreter,
      SLURM_SUBMIT_DIR: folder.path,
      SLURM_JOB_ID: "7",
      SLURM_CPUS_PER_TASK: "1",
      SLURM_MEM_PER_NODE: "1000",
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  assertEquals(new TextDecoder().decode(stdout), "answer: 42\n");
  assertEquals([...Deno.readDirSync(folder.path)].map(({ name }) => name).sort(), ["main.ts", "srun"]);
});

// --- Messages, links ---

/** The texts of a source: pieces joined by `+` become one, what is put into a text becomes `…` and is read after it. */
function textsOf(source: string): string {
  let outer = "";
  let inner = "";
  let depth = 0;
  for (let i = 0; i < source.length; i++) {
    if (depth === 0 && source.startsWith("${", i)) {
      outer += "…";
      depth = 1;
      i++;
    } else if (depth === 0) outer += source[i];
    else {
      depth += source[i] === "{" ? 1 : source[i] === "}" ? -1 : 0;
      inner += depth > 0 ? source[i] : "\n";
    }
  }
  const texts = outer.replace(/["'`]\s*\+\s*["'`]/g, "").replaceAll("\\`", "`").replaceAll('\\"', '"');
  return inner === "" ? texts : `${texts}\n${textsOf(inner)}`;
}

Deno.test("every message in troubleshooting can be said by the sources", async () => {
  let texts = "";
  const walk = async (folder: string): Promise<void> => {
    for (const { name, isDirectory } of Deno.readDirSync(PROJECT + folder)) {
      if (isDirectory) await walk(`${folder}${name}/`);
      else if (name.endsWith(".ts")) texts += textsOf(await Deno.readTextFile(PROJECT + folder + name));
    }
  };
  for (
    const folder of [
      "actors",
      "base",
      "client",
      "cluster",
      "comm",
      "config",
      "dispatch",
      "protocol",
      "worker",
    ]
  ) {
    await walk(`${folder}/`);
  }
  const messages = [...(await Deno.readTextFile(`${DOCS}troubleshooting.md`)).matchAll(/^### `(.*)`$/gm)];
  assert(messages.length > 50);
  const unknown = messages.flatMap(([, message]) =>
    message!.split("…").map((part) => part.trim()).filter((part) => !texts.includes(part))
  );
  assertEquals(unknown, []);
});

Deno.test("links between documents lead somewhere", async () => {
  const broken: string[] = [];
  for (const { name } of Deno.readDirSync(DOCS)) {
    if (!name.endsWith(".md")) continue;
    for (const [, target] of (await Deno.readTextFile(DOCS + name)).matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)) {
      await Deno.stat(DOCS + target).catch(() => broken.push(`docs/${name}: ${target}`));
    }
  }
  assertEquals(broken, []);
});
