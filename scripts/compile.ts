/**
 * Compiles the worker into one executable: `deno task compile`. With `--check` nothing is kept; the list of embedded
 * files is compared with what the worker can load, which works without a network, too (the runtime for executables
 * is downloaded only for the real thing).
 *
 * @module
 */
const ROOT = new URL("../", import.meta.url);
const ENTRYPOINT = "worker/main.ts";
const OUTPUT = "dist/dask-worker";

/** Paths in `text`, a module at `path`, that are named by `new URL("./x", import.meta.url)`: no import shows them. */
export function filesByUrl(path: string, text: string): string[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  return [...code.matchAll(/new URL\(\s*["'`](\.[^"'`]*[^/"'`.])["'`]\s*,\s*import\.meta\.url/g)]
    .map(([, specifier = ""]) => new URL(specifier, new URL(path, "file:///")).pathname.slice(1));
}

/** Every file of the project that the worker can load, and those of them that must be named to `deno compile`. */
export async function filesOfWorker(): Promise<{ readonly files: string[]; readonly includes: string[] }> {
  const files = new Set<string>();
  const includes = new Set<string>();
  const queue = [ENTRYPOINT];
  for (let root = queue.pop(); root !== undefined; root = queue.pop()) {
    for (const path of await graphOf(root)) {
      if (files.has(path)) continue;
      files.add(path);
      if (!path.endsWith(".ts")) continue;
      for (const named of filesByUrl(path, await Deno.readTextFile(new URL(path, ROOT)))) {
        if (includes.has(named)) continue;
        includes.add(named);
        queue.push(named);
      }
    }
  }
  return { files: [...files].sort(), includes: [...includes].sort() };
}

/** The files of a list that a listing of `deno compile` does not show. */
export function missingIn(listing: string, files: readonly string[]): string[] {
  const shown = readListing(listing);
  return files.filter((file) =>
    !shown.some((entry) => entry === file || (entry.endsWith("/*") && file.startsWith(entry.slice(0, -1))))
  );
}

/** Reads the tree of "Embedded Files": paths, and `folder/*` for folders that are there as a whole. */
export function readListing(listing: string): string[] {
  const paths: string[] = [];
  const folders: string[] = [];
  // deno-lint-ignore no-control-regex -- colours of a terminal
  for (const line of listing.replace(/\x1b\[[0-9;]*m/g, "").split("\n")) {
    const [, lead, branch, name] = /^([│ ]*)([├└]─[─┬]) (\S.*?)(?: \([^()]*\))?$/.exec(line) ?? [];
    if (lead === undefined || name === undefined) continue;
    folders.length = lead.length / 2;
    const path = [...folders, name].join("/");
    if (branch!.endsWith("┬")) folders.push(name);
    else paths.push(path);
  }
  return paths;
}

/** Runs `deno compile`. */
export async function compile(
  output: string,
  includes: readonly string[],
  env: Record<string, string> = {},
): Promise<{ readonly code: number; readonly text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "compile",
      "--allow-all",
      ...includes.map((path) => `--include=${path}`),
      `--output=${output}`,
      ENTRYPOINT,
    ],
    cwd: ROOT,
    env,
    stdin: "null",
  }).output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** Compiles to nowhere, with Deno itself in the place of the runtime; the files that would be missing. */
export async function check(): Promise<{ readonly embedded: number; readonly missing: string[] }> {
  const { files, includes } = await filesOfWorker();
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-compile-" });
  try {
    const { code, text } = await compile(`${folder}/dask-worker`, includes, { DENORT_BIN: Deno.execPath() });
    if (code !== 0) throw new Error(`Cannot compile the worker:\n${text}`);
    return { embedded: files.length, missing: missingIn(text, files) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Files of the project that are loaded with one of them, at once or later: modules that only give types are not. */
async function graphOf(path: string): Promise<string[]> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", path],
    cwd: ROOT,
    stdin: "null",
  }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: readonly {
      readonly specifier: string;
      readonly dependencies?: readonly { readonly code?: { readonly specifier?: string } }[];
    }[];
  };
  const graph = new Map(modules.map((module) => [module.specifier, module]));
  const reached = new Set<string>();
  const queue = [new URL(path, ROOT).href];
  for (let specifier = queue.pop(); specifier !== undefined; specifier = queue.pop()) {
    if (!specifier.startsWith(ROOT.href) || reached.has(specifier)) continue;
    reached.add(specifier);
    queue.push(...(graph.get(specifier)?.dependencies ?? []).flatMap(({ code }) => code?.specifier ?? []));
  }
  return [...reached].map((specifier) => decodeURIComponent(specifier.slice(ROOT.href.length)));
}

async function main(words: readonly string[]): Promise<number> {
  const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
  if (words.length > 1 || (words[0] !== undefined && words[0] !== "--check")) {
    say("Usage: deno task compile [--check]");
    return 2;
  }
  if (words[0] === "--check") {
    const { embedded, missing } = await check();
    for (const file of missing) say(`Not embedded: ${file}`);
    if (missing.length === 0) say(`All ${embedded} files that the worker can load are embedded`);
    return missing.length === 0 ? 0 : 1;
  }
  const { files, includes } = await filesOfWorker();
  const { code, text } = await compile(OUTPUT, includes);
  say(text.trim());
  const missing = code === 0 ? missingIn(text, files) : [];
  for (const file of missing) say(`Not embedded: ${file}`);
  return missing.length === 0 ? code : 1;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
