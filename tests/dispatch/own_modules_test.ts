/**
 * Modules that import this package: their bundles leave it out and name it, however they came by it.
 */
import { assert, assertEquals, assertFalse, assertStringIncludes, assertThrows } from "@std/assert";
import { codeOf, tasks } from "../../dispatch/code.ts";
import { CURRENT_MODULE, LOADED_BUNDLES, PACKAGE_MODULE } from "../../protocol/call.ts";

const FACE = new URL("../../mod.ts", import.meta.url);

/** The text of the bundle of a module, in a project that maps `@dask/dask`. */
async function bundled(source: string): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-own-" });
  try {
    await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify({ imports: { "@dask/dask": FACE.href } }));
    await Deno.writeTextFile(
      `${folder}/helper.ts`,
      'import { current } from "@dask/dask";\nexport const key = () => current().key;\n',
    );
    await Deno.writeTextFile(`${folder}/tasks.ts`, source);
    return new TextDecoder().decode(bundleOf(new URL(`file://${folder}/tasks.ts`)).bytes);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function bundleOf(url: URL) {
  const travelled = codeOf(tasks<{ f(): void }>(url).f).code.travel();
  assert(travelled.kind === "bundle");
  return travelled.bundle;
}

/** What a bundle imports. */
function imports(text: string): string[] {
  return [...text.matchAll(/(?:from|import\() ?"([^"]+)"/g)].map(([, name = ""]) => name).sort();
}

Deno.test("current and Reschedule alone are what every executor has", async () => {
  const text = await bundled(`
    import { current, Reschedule } from "${FACE.pathname}";
    import { type Client, current as me } from "@dask/dask";
    import { key } from "./helper.ts";
    export const client: Client | null = null;
    export function f(): string { if (key() === "") throw new Reschedule(); return current().key + me().key; }`);
  assertEquals(new Set(imports(text)), new Set([CURRENT_MODULE]));
  assert(text.length < 3_000, `${text.length} characters`);
  assertFalse(text.includes(FACE.pathname));
});

Deno.test("anything more is the whole package, by whatever form of import", async () => {
  for (
    const source of [
      `import { current, op } from "@dask/dask"; export const f = () => [current, op];`,
      `import * as dask from "@dask/dask"; export const f = () => dask.op;`,
      `export { op as f } from "@dask/dask";`,
      `export const f = async () => (await import("@dask/dask")).op;`,
    ]
  ) {
    const text = await bundled(source);
    assertEquals(imports(text), [PACKAGE_MODULE], source);
    assertFalse(text.includes(FACE.pathname), source);
  }
  assertStringIncludes(
    await bundled(`import { key } from "./helper.ts"; export const f = key;`),
    CURRENT_MODULE,
  );
});

Deno.test("inside a task tasks(import.meta.url) are those of the bundle that runs", () => {
  const place = globalThis as { [LOADED_BUNDLES]?: unknown };
  const before = place[LOADED_BUNDLES];
  const bytes = new TextEncoder().encode("export const f = () => 1;\n");
  const own = "blob:null/0000";
  try {
    place[LOADED_BUNDLES] = new Map([[own, { url: "file:///src/tasks.ts", bytes }]]);
    const travelled = codeOf(tasks<{ f(): void }>(own).f).code.travel();
    assert(travelled.kind === "bundle");
    assertEquals(travelled.bundle.bytes, bytes);
    assertEquals((travelled.function(0) as { url: string }).url, "file:///src/tasks.ts");
    assertThrows(
      () => codeOf(tasks<{ f(): void }>("blob:null/other").f).code.travel(),
      Error,
      "blob:null/other",
    );
  } finally {
    place[LOADED_BUNDLES] = before;
  }
});
