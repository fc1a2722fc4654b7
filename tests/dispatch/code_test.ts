import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { sha256Hex } from "../../base/sha256.ts";
import { finishBundle, readPackages } from "../../dispatch/bundle.ts";
import { type BundleTask, codeOf, tasksFrom } from "../../dispatch/code.ts";
import { type CodeHost, denoHost } from "../../dispatch/host.ts";
import { lower } from "../../dispatch/lower.ts";
import { AsyncExecutor, op, task, tasks } from "../../dispatch/mod.ts";
import { DaskError } from "../../protocol/errors.ts";

const nothing = { held: () => false };

/** A small project: several files, an import map with comments, a package, data, a module only imported on demand. */
const PROJECT: Readonly<Record<string, string>> = {
  "deno.jsonc": `{
    // how this project names things
    "imports": {
      "msgpack": "npm:@msgpack/msgpack@3.1.3/dist.esm/index.mjs",
      "lib/": "./lib/", /* local */
    },
  }`,
  "tasks.ts": `
import { encode } from "msgpack";
import { basename } from "node:path";
import { twice, type Named } from "lib/math.ts";
import table from "./data/table.json" with { type: "json" };

export const add = (a: number, b: number): number => a + b;
export function size(value: unknown): number { return encode(value).length; }
export function base(path: string): string { return basename(path); }
export function total(named: Named = { factor: 1 }): number { return twice(table.n) * named.factor; }
export async function onDemand(): Promise<number> { return (await import("./lib/rare.ts")).rare(); }
export async function packageOnDemand(): Promise<number> { return (await import("msgpack")).encode(1).length; }
export function boom(): never {
  throw new Error("boom");
}
export class Counter { n = 0; inc(): number { return ++this.n; } }
export const VERSION = "1";
`,
  "lib/math.ts": `
export interface Named { factor: number }
export const twice = (x: number): number => 2 * x;
`,
  "lib/rare.ts": `export function rare(): number { return 5; }\n`,
  "data/table.json": `{ "n": 21 }\n`,
};

interface ProjectModule {
  add(a: number, b: number): number;
  size(value: unknown): number;
  base(path: string): string;
  total(): number;
  onDemand(): Promise<number>;
  packageOnDemand(): Promise<number>;
  boom(): never;
  missing(): number;
}

async function project(files: Readonly<Record<string, string>> = PROJECT): Promise<
  AsyncDisposable & { readonly folder: string; readonly url: URL; write(path: string, text: string): void }
> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-project-" });
  const write = (path: string, text: string): void => {
    const file = `${folder}/${path}`;
    Deno.mkdirSync(file.slice(0, file.lastIndexOf("/")), { recursive: true });
    Deno.writeTextFileSync(file, text);
  };
  for (const [path, text] of Object.entries(files)) write(path, text);
  return {
    folder,
    url: new URL(`file://${folder}/tasks.ts`),
    write,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

function bundleOf(url: URL): BundleTask {
  const travelled = codeOf(tasks<ProjectModule>(url).add).code.travel();
  assert(travelled.kind === "bundle");
  return travelled.bundle;
}

Deno.test("bundles: a local module runs far from its project, with what it imports", async () => {
  await using here = await project();
  const bundle = bundleOf(here.url);
  const elsewhere = await Deno.makeTempDir({ prefix: "dask-ts-elsewhere-" });
  try {
    await Deno.writeFile(`${elsewhere}/bundle.mjs`, bundle.bytes);
    await here[Symbol.asyncDispose]().then(() => Deno.mkdir(here.folder));
    const program = `
      const m = await import("./bundle.mjs");
      let where = "";
      try { m.boom(); } catch (error) { where = error.stack.match(/tasks\\.ts:\\d+/)[0]; }
      console.log(JSON.stringify([
        m.add(1, 2), m.size([1, 2]), m.base("a/b.c"), m.total(), await m.onDemand(), await m.packageOnDemand(),
        new m.Counter().inc(), where,
      ]));`;
    await Deno.writeTextFile(`${elsewhere}/main.mjs`, program);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--no-config", `${elsewhere}/main.mjs`],
      cwd: elsewhere,
    }).output();
    assertEquals(
      new TextDecoder().decode(stdout).trim(),
      JSON.stringify([3, 3, "b.c", 42, 5, 1, 1, "tasks.ts:14"]),
      new TextDecoder().decode(stderr),
    );
  } finally {
    await Deno.remove(elsewhere, { recursive: true });
  }
});

Deno.test("bundles: packages stay outside, named as their project maps them; no path of this machine is inside", async () => {
  await using here = await project();
  const text = new TextDecoder().decode(bundleOf(here.url).bytes);
  assertStringIncludes(text, `from "npm:@msgpack/msgpack@3.1.3/dist.esm/index.mjs"`);
  assertStringIncludes(text, `import("npm:@msgpack/msgpack@3.1.3/dist.esm/index.mjs")`);
  assertStringIncludes(text, `from "node:path"`);
  assertFalse(text.includes(here.folder));
  const map = JSON.parse(atob(text.slice(text.lastIndexOf("base64,") + 7).trim()));
  assertEquals(map.sourcesContent, undefined);
  assert(map.sources.every((source: string) => !source.startsWith("/") && !source.startsWith("..")));
});

Deno.test("bundles: the same sources elsewhere have the same hash; other content another one", async () => {
  await using here = await project();
  await using there = await project();
  const first = bundleOf(here.url);
  assertEquals(bundleOf(there.url).hash, first.hash);
  assertEquals(first.hash, sha256Hex(first.bytes));
  assertMatch(first.key, new RegExp(`^code-${first.hash.slice(0, 32)}$`));
  const t = tasks<ProjectModule>(here.url);
  const before = t.total().key;
  assertEquals(tasks<ProjectModule>(there.url).total().key, before);

  here.write("lib/math.ts", PROJECT["lib/math.ts"]!.replace("2 * x", "3 * x"));
  assertEquals(t.total().key, before, "what a tasks object has read, it keeps");
  const changed = tasks<ProjectModule>(here.url);
  assertNotEquals(changed.total().key, before);
  assertNotEquals(bundleOf(here.url).hash, first.hash);
  here.write("lib/math.ts", PROJECT["lib/math.ts"]!);
  assertEquals(bundleOf(here.url).hash, first.hash);
});

Deno.test("bundles: travel as one task that the calls depend on", async () => {
  await using here = await project();
  const t = tasks<ProjectModule>(here.url);
  const graph = lower([t.add(t.add(1, 2), 3)], nothing);
  const bundle = bundleOf(here.url);
  assertEquals(graph.tasks.map(({ label }) => label), ["code", "add", "add"]);
  assertEquals(graph.tasks[0]!.key, bundle.key);
  assertEquals(graph.tasks[0]!.call, {
    function: { kind: "builtin", name: "bundle" },
    args: [bundle.bytes],
  });
  assertEquals(graph.tasks[2]!.dependencies, [bundle.key, graph.tasks[1]!.key]);
  assertEquals(graph.tasks[2]!.call, {
    function: { kind: "bundle", hash: bundle.hash, dependency: 0, export: "add", url: here.url.href },
    args: [{ $dependency: 1 }, 3],
  });
  const again = lower([t.add(5, 6)], { held: (key) => key === bundle.key });
  assertEquals(again.tasks.map(({ label }) => label), ["add"]);
  assertEquals(again.tasks[0]!.dependencies, [bundle.key]);
});

Deno.test("bundles: a missing export is refused at submit, with what there is", async () => {
  await using here = await project();
  const t = tasks<ProjectModule>(here.url);
  const error = assertThrows(() => lower([t.missing()], nothing), DaskError, `the export "missing"`);
  assertStringIncludes(error.message, "it exports Counter, VERSION, add, base, boom, onDemand");
});

Deno.test("bundles: a missing or broken module is refused by name", async () => {
  await using here = await project({ ...PROJECT, "broken.ts": "export const x = ;" });
  const missing = new URL("nowhere.ts", here.url);
  assertThrows(
    () => tasks<ProjectModule>(missing).add(1, 2).key,
    DaskError,
    `"${missing.href}": no such module`,
  );
  const error = assertThrows(
    () => tasks<ProjectModule>(new URL("broken.ts", here.url)).add(1, 2).key,
    DaskError,
    "Cannot bundle",
  );
  assertStringIncludes(error.message, "broken.ts");
});

Deno.test("bundles: without the permission to run, the error names it and the way out", async () => {
  await using here = await project();
  here.write(
    "main.ts",
    `import { tasks } from ${JSON.stringify(import.meta.resolve("../../dispatch/mod.ts"))};
     try { tasks(new URL("./tasks.ts", import.meta.url)).add(1, 2).key; } catch (error) { console.log(error.message); }`,
  );
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-lock", "--no-check", "--allow-read", `${here.folder}/main.ts`],
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(stdout);
  assertStringIncludes(text, "needs --allow-run=", new TextDecoder().decode(stderr));
  assertStringIncludes(text, `tasks(url, { bundle: "./tasks.js" })`);
});

Deno.test("bundles: one made before is used as it is, from a path, a URL or its bytes", async () => {
  await using here = await project();
  const made = bundleOf(here.url);
  here.write("dist/tasks.js", new TextDecoder().decode(made.bytes));
  const path = `${here.folder}/dist/tasks.js`;
  const host: CodeHost = {
    ...denoHost,
    bundle: () => {
      throw new Error("nothing is bundled");
    },
  };
  for (const bundle of [path, new URL(`file://${path}`), made.bytes]) {
    const t = tasksFrom<ProjectModule>(here.url, { bundle }, host);
    const graph = lower([t.add(1, 2)], nothing);
    assertEquals(graph.tasks[0]!.key, made.key);
    assertThrows(() => lower([t.missing()], nothing), DaskError, `the export "missing"`);
  }
  const t = tasks<ProjectModule>(here.url, { bundle: `${here.folder}/none.js` });
  assertThrows(() => t.add(1, 2).key, DaskError, "Cannot read");
});

Deno.test("bundles: an integrity is checked against the bundle", async () => {
  await using here = await project();
  const { hash } = bundleOf(here.url);
  assertMatch(tasks<ProjectModule>(here.url, { integrity: `sha256=${hash}` }).add(1, 2).key, /^add-/);
  const wrong = tasks<ProjectModule>(here.url, { integrity: `sha256=${"0".repeat(64)}` });
  assertThrows(() => wrong.add(1, 2).key, DaskError, hash);
});

Deno.test("urls: are named, with a warning once when their content is not checked", () => {
  const warnings: string[] = [];
  const host: CodeHost = { ...denoHost, warn: (message) => warnings.push(message) };
  const url = "https://x.example/tasks.ts";
  const integrity = `sha256-${btoa(String.fromCharCode(...new Uint8Array(32)))}`;
  const open = tasksFrom<ProjectModule>(url, {}, host);
  const pinned = tasksFrom<ProjectModule>(url, { integrity }, host);
  const graph = lower([open.add(1, 2), pinned.add(1, 2)], nothing);
  assertEquals(graph.tasks.map(({ call }) => call.function), [
    { kind: "url", url, export: "add", integrity: null },
    { kind: "url", url, export: "add", integrity },
  ]);
  assertNotEquals(graph.outputs[0], graph.outputs[1]);
  lower([tasksFrom<ProjectModule>(url, {}, host).add(3, 4)], nothing);
  assertEquals(warnings.length, 1);
  assertStringIncludes(warnings[0]!, url);
  const npm = tasksFrom<ProjectModule>("npm:thing@1.2.3", {}, host);
  assertEquals(lower([npm.add(1, 2)], nothing).tasks[0]!.call.function, {
    kind: "url",
    url: "npm:thing@1.2.3",
    export: "add",
    integrity: null,
  });
  assertEquals(warnings.length, 1);
});

Deno.test("D5: a module runs in this process without being bundled, packages and all", async () => {
  const host: CodeHost = {
    ...denoHost,
    bundle: () => {
      throw new Error("nothing is bundled");
    },
  };
  await using here = await project({
    "tasks.ts": PROJECT["tasks.ts"]!.replaceAll(
      `"msgpack"`,
      `"npm:@msgpack/msgpack@3.1.3/dist.esm/index.mjs"`,
    )
      .replace(`"lib/math.ts"`, `"./lib/math.ts"`),
    "lib/math.ts": PROJECT["lib/math.ts"]!,
    "data/table.json": PROJECT["data/table.json"]!,
    "lib/rare.ts": PROJECT["lib/rare.ts"]!,
  });
  const t = tasksFrom<ProjectModule>(here.url, {}, host);
  assertEquals(await new AsyncExecutor().run([t.add(t.size([1, 2]), t.total())]), [45]);
  await assertRejects(() => new AsyncExecutor().run([t.missing()]), DaskError, `the export "missing"`);
  const error = await assertRejects(() => new AsyncExecutor().run([t.boom()]), DaskError, "boom");
  assertMatch((error as DaskError & { key: string }).key, /^boom-[0-9a-f]{32}$/);
});

Deno.test("source: a self-contained function travels as its text and hash", () => {
  const node = op((a: number, b: number) => a + b, 1, 2);
  const { call } = lower([node], nothing).tasks[0]!;
  assert(call.function.kind === "source");
  assertEquals(call.function.source, "(a, b)=>a + b");
  assertEquals(call.function.hash, sha256Hex(call.function.source));
});

Deno.test("source: a method travels as a function", () => {
  const methods = {
    add(a: number, b: number): number {
      return a + b;
    },
  };
  const { call } = lower([op(methods.add, 1, 2)], nothing).tasks[0]!;
  assert(call.function.kind === "source");
  assertEquals(new Function(`return (${call.function.source})`)()(1, 2), 3);
});

Deno.test("source: many functions around one text are read once", () => {
  const nodes = Array.from({ length: 5_000 }, (_, i) => op((x: number) => x * 2, i));
  const start = performance.now();
  lower(nodes, nothing);
  assert(performance.now() - start < 2000);
});

Deno.test("codeOf: gives the code of a task, and refuses others", () => {
  const double = task((x: number) => 2 * x).with({ retries: 1 });
  assertEquals(codeOf(double).options, { retries: 1 });
  assertEquals(codeOf(double).code.travel().kind, "plain");
  assertInstanceOf(assertThrows(() => codeOf(() => 1)), TypeError);
});

Deno.test("import maps: deno.json, package.json and workspace roots, nearest first", () => {
  const packages = readPackages([
    {
      path: "/w/a/deno.json",
      kind: "deno",
      text: `{"imports": {"z": "npm:zod@3", "l/": "./l/", "std/": "jsr:/@std/x@1/"}}`,
    },
    {
      path: "/w/a/package.json",
      kind: "package",
      text: `{"dependencies": {"y": "^2.1", "w": "workspace:*"}}`,
    },
    {
      path: "/w/deno.json",
      kind: "deno",
      text: `{"workspace": ["a"], "imports": {"z": "npm:zod@1", "v": "npm:v@1"}}`,
    },
  ]);
  assertEquals(Object.fromEntries(packages), {
    "z": "npm:zod@3",
    "std/": "jsr:/@std/x@1/",
    "y": "npm:y@^2.1",
    "v": "npm:v@1",
  });
  const finished = finishBundle(
    `import a from "z";\nimport "z/sub";\nexport * as s from "std/one";\nexport { b } from "y";\nconst z = "z";\n` +
      `export default async () => [a, z, await import("v"), await import(z)];\n`,
    packages,
    "file:///w/a/t.ts",
  );
  assertEquals(
    finished.text,
    `import a from "npm:zod@3";\nimport "npm:zod@3/sub";\nexport * as s from "jsr:/@std/x@1/one";\n` +
      `export { b } from "npm:y@^2.1";\nconst z = "z";\n` +
      `export default async () => [a, z, await import("npm:v@1"), await import(z)];\n`,
  );
  assertEquals(finished.exports, ["b", "default", "s"]);
  assertThrows(
    () => readPackages([{ path: "/w/deno.json", kind: "deno", text: "{" }]),
    DaskError,
    `"/w/deno.json"`,
  );
});
