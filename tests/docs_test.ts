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
import * as dask from "../mod.ts";
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
    if (!name.endsWith(".md")) continue;
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
