/**
 * The rules of the house, as tests: imports run one way, pure folders stay pure, no file lies about unused.
 *
 * @module
 */
import { assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);

/** Folder (longest prefix wins) and what its files may import besides their own folder. */
const LAYERS: readonly (readonly [folder: string, may: readonly string[]])[] = [
  ["base/", []],
  ["protocol/", ["base/"]],
  ["dispatch/", ["base/", "protocol/"]],
  ["worker/machine/", ["base/", "protocol/"]],
  ["client/machine/", ["base/", "protocol/"]],
  ["comm/", ["base/", "protocol/"]],
  ["config/", ["base/", "protocol/"]],
  ["actors/kernel/", ["base/"]],
  ["actors/store/", ["base/", "protocol/", "comm/comm.ts", "actors/kernel/"]],
  ["actors/peer/", ["base/", "protocol/", "comm/", "actors/kernel/", "actors/store/messages.ts"]],
  // Where task code runs, which may be a client and may import all of this package.
  ["worker/execute/", [
    "base/",
    "protocol/",
    "comm/",
    "config/",
    "actors/",
    "vendor/",
    "worker/machine/",
    "client/",
    "mod.ts",
  ]],
  ["worker/", ["base/", "protocol/", "comm/", "config/", "actors/", "vendor/"]],
  ["client/", ["base/", "protocol/", "dispatch/", "comm/", "config/", "actors/"]],
  ["cluster/", ["base/", "protocol/", "dispatch/", "client/", "worker/"]],
  ["vendor/", []],
];
/** Programs; and the in-memory transport, which is for tests and for whoever embeds. */
const ENTRYPOINTS = [
  "mod.ts",
  "worker/main.ts",
  "worker/execute/main.ts",
  "examples/cluster/main.ts",
  "comm/memory.ts",
];
/** Folders whose files are programs or test material, reached by name and not by import. */
const NOT_SOURCE = /^(tests|examples|bench|chaos|scripts|vendor)\//;
/** No input, output, clock or chance in here; time and chance are arguments. */
const PURE =
  /^(base|protocol)\/|\/machine(\/|\.ts$)|^config\/settings\.ts$|^worker\/(command_line|lifetime|metrics)\.ts$/;
const BANNED_IN_PURE =
  /\bDeno\.|\bsetTimeout\b|\bsetInterval\b|\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b|\bMath\.random\b|\basync\b|\bawait\b|\bcrypto\./;

interface Source {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

const sources = readSources();

Deno.test("imports run one way", () => {
  const broken: string[] = [];
  for (const { path, imports } of sources.values()) {
    const layer = LAYERS.find(([folder]) => path.startsWith(folder));
    if (layer === undefined) continue;
    const [folder, may] = layer;
    for (const imported of imports) {
      // A machine is part of its slice: the slice may use it, it may not use the slice.
      if (imported.startsWith(folder) || may.some((allowed) => imported.startsWith(allowed))) continue;
      broken.push(
        `${path} imports ${imported}, but ${folder} may import only: ${may.join(" ") || "nothing"}`,
      );
    }
  }
  assertEquals(broken, []);
});

Deno.test("pure folders do no input or output and know no clock", () => {
  const broken: string[] = [];
  for (const { path, text } of sources.values()) {
    if (!PURE.test(path) || NOT_SOURCE.test(path)) continue;
    withoutCommentsAndStrings(text).split("\n").forEach((line, i) => {
      const hit = BANNED_IN_PURE.exec(line);
      if (hit !== null) broken.push(`${path}:${i + 1} has "${hit[0]}"`);
    });
  }
  assertEquals(broken, []);
});

Deno.test("every source file is reached from an entrypoint", () => {
  const reached = new Set<string>();
  const queue = ENTRYPOINTS.slice();
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (reached.has(path)) continue;
    reached.add(path);
    queue.push(...(sources.get(path)?.imports ?? []));
  }
  const lost = [...sources.keys()].filter((path) => !NOT_SOURCE.test(path) && !reached.has(path));
  assertEquals(lost, []);
});

Deno.test("library code names third-party modules only in deps.ts files, with exact versions", () => {
  const broken: string[] = [];
  for (const { path, text } of sources.values()) {
    if (NOT_SOURCE.test(path)) continue;
    for (
      const [, specifier = ""] of withoutComments(text).matchAll(
        /(?:from|import)\s*\(?\s*"((?:npm:|jsr:|node:|https?:|@)[^"]+)"/g,
      )
    ) {
      const fine = path.endsWith("/deps.ts") &&
        /^(node:|npm:(@[^/]+\/)?[^@/]+@\d+\.\d+\.\d+(\/|$))/.test(specifier);
      if (!fine) broken.push(`${path} imports ${specifier}`);
    }
  }
  assertEquals(broken, []);
});

function readSources(): Map<string, Source> {
  const found = new Map<string, Source>();
  const walk = (folder: string): void => {
    for (const entry of Deno.readDirSync(new URL(folder === "" ? "." : folder, ROOT))) {
      if (entry.name.startsWith(".") || entry.name === "node_modules" || entry.name === "fixtures") continue;
      const path = folder + entry.name;
      if (entry.isDirectory) walk(`${path}/`);
      else if (path.endsWith(".ts") && !path.endsWith(".d.ts")) {
        const text = Deno.readTextFileSync(new URL(path, ROOT));
        found.set(path, { path, text, imports: relativeImports(path, withoutComments(text)) });
      }
    }
  };
  walk("");
  return found;
}

function relativeImports(path: string, text: string): string[] {
  const base = new URL(path, "file:///");
  // Static and dynamic imports, and `new URL("./x.ts", import.meta.url)`, by which workers and children are named.
  const pattern = /(?:from|import|new URL)\s*\(?\s*"(\.{1,2}\/[^"]+\.ts)"/g;
  return [...text.matchAll(pattern)].map(([, specifier = ""]) => new URL(specifier, base).pathname.slice(1));
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
}

function withoutCommentsAndStrings(text: string): string {
  const blank = (match: string) => match.replace(/[^\n]/g, " ");
  return text.replace(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`/g,
    blank,
  );
}

Deno.test("the lock file knows no module of a passing server", async () => {
  assertEquals(
    Object.keys(JSON.parse(await Deno.readTextFile(new URL("../deno.lock", import.meta.url))).remote ?? {}),
    [],
  );
});
