/**
 * Pure work on bundles: which imports a project maps to packages, and how a bundle is made to run anywhere. Packages
 * are not put into bundles: a bundle names them as `npm:` and `jsr:` specifiers with the versions of its own project.
 *
 * @module
 */
import { type AnyNode, parse, type Program } from "./deps.ts";
import type { ProjectFile } from "./host.ts";
import { CURRENT_MODULE, PACKAGE_MODULE } from "../protocol/call.ts";
import { DaskError } from "../protocol/errors.ts";

/** The public face of this package as the bundler names it, wherever a module has it from. Only a name: never imported here. */
const FACE = nameOfModule(new URL("..", import.meta.url).href + "mod.ts");
/** What of it is in every executor already. */
const LIGHT: readonly unknown[] = ["current", "Reschedule"];

/** Bare specifiers of a project and the packages that they stand for. Keys that end in `/` are prefixes. */
export type PackageMap = ReadonlyMap<string, string>;

/** Reads the import maps and `package.json` files that hold for a module, nearest first. Local targets are left out. */
export function readPackages(files: readonly ProjectFile[]): PackageMap {
  const packages = new Map<string, string>();
  const add = (name: string, target: unknown): void => {
    if (typeof target !== "string" || !/^(npm|jsr|node):/.test(target) || packages.has(name)) return;
    packages.set(name, target);
  };
  for (const { path, kind, text } of files) {
    const config = parseJsonc(text, path);
    if (kind === "deno") {
      for (const [name, target] of entries(config["imports"])) add(name, target);
    } else {
      for (const field of ["dependencies", "optionalDependencies", "peerDependencies"]) {
        for (const [name, range] of entries(config[field])) {
          if (typeof range !== "string") continue;
          if (/^(npm|jsr):/.test(range)) add(name, range);
          else if (/^[\^~<>=\d*x]/.test(range)) {
            add(name, range === "*" ? `npm:${name}` : `npm:${name}@${range}`);
          }
        }
      }
    }
  }
  return packages;
}

/** What the bundler must leave as it is. */
export function externalSpecifiers(packages: PackageMap): string[] {
  const external = ["npm:*", "jsr:*", "node:*", FACE];
  for (const name of packages.keys()) {
    external.push(...name.endsWith("/") ? [`${name}*`] : [name, `${name}/*`]);
  }
  return external;
}

/** A bundle that can be sent. */
export interface FinishedBundle {
  readonly text: string;
  readonly exports: readonly string[];
}

/**
 * Puts packages in the place of bare specifiers and the executor's own modules in the place of this package, drops the
 * sources from the source map, and reads the exports.
 */
export function finishBundle(text: string, packages: PackageMap, url: string): FinishedBundle {
  const program = parseModule(text, url);
  const edits: { start: number; end: number; text: string }[] = [];
  const specifier = (node: AnyNode | null | undefined, light = false): void => {
    if (node?.type !== "Literal" || typeof node.value !== "string") return;
    const target = node.value === FACE
      ? light ? CURRENT_MODULE : PACKAGE_MODULE
      : resolvePackage(node.value, packages);
    if (target !== null) edits.push({ start: node.start, end: node.end, text: JSON.stringify(target) });
  };
  visit(program, (node) => {
    switch (node.type) {
      case "ImportDeclaration":
        return specifier(
          node.source,
          node.specifiers.every((item) =>
            item.type === "ImportSpecifier" && LIGHT.includes(nameOf(item.imported))
          ),
        );
      case "ExportNamedDeclaration":
      case "ExportAllDeclaration":
      case "ImportExpression":
        return specifier(node.source);
    }
  });
  let finished = text;
  for (const edit of edits.sort((a, b) => b.start - a.start)) {
    finished = finished.slice(0, edit.start) + edit.text + finished.slice(edit.end);
  }
  return { text: withoutSources(finished), exports: exportsOf(program) };
}

/** The names that a module exports; `export *` from elsewhere stays unknown and gives `null`. */
export function readExports(text: string, url: string): readonly string[] | null {
  const program = parseModule(text, url);
  return program.body.some((node) => node.type === "ExportAllDeclaration" && node.exported == null)
    ? null
    : exportsOf(program);
}

function parseModule(text: string, url: string): Program {
  try {
    return parse(text, { ecmaVersion: "latest", sourceType: "module", allowHashBang: true });
  } catch (cause) {
    throw new DaskError(
      `Cannot read the bundle of "${url}": ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
}

function resolvePackage(specifier: string, packages: PackageMap): string | null {
  const exact = packages.get(specifier);
  if (exact !== undefined) return exact;
  let best: string | null = null;
  for (const name of packages.keys()) {
    const prefix = name.endsWith("/") ? name : `${name}/`;
    if (specifier.startsWith(prefix) && (best === null || name.length > best.length)) best = name;
  }
  if (best === null) return null;
  return packages.get(best)! + specifier.slice(best.length);
}

function exportsOf(program: Program): string[] {
  const names: string[] = [];
  for (const node of program.body) {
    if (node.type === "ExportDefaultDeclaration") names.push("default");
    if (node.type === "ExportAllDeclaration" && node.exported != null) names.push(nameOf(node.exported));
    if (node.type !== "ExportNamedDeclaration") continue;
    for (const { exported } of node.specifiers) names.push(nameOf(exported));
    const { declaration } = node;
    if (declaration == null) continue;
    if (declaration.type === "VariableDeclaration") {
      for (const { id } of declaration.declarations) if (id.type === "Identifier") names.push(id.name);
    } else names.push(declaration.id.name);
  }
  return names.sort();
}

/** A module as the bundler names it: a file by its path. */
function nameOfModule(url: string): string {
  return url.startsWith("file:") ? decodeURIComponent(new URL(url).pathname) : url;
}

function nameOf(node: AnyNode): string {
  return node.type === "Identifier" ? node.name : node.type === "Literal" ? String(node.value) : "";
}

function visit(node: AnyNode, see: (node: AnyNode) => void): void {
  see(node);
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child === "object" && child !== null && typeof child.type === "string") visit(child, see);
    }
  }
}

const MAP_START = "//# sourceMappingURL=data:application/json;base64,";

/**
 * The map stays, so that stacks of the worker name lines of the sources; the sources inside it would make the bundle
 * three times as large.
 */
function withoutSources(text: string): string {
  const at = text.lastIndexOf(MAP_START);
  if (at < 0) return text;
  const bytes = Uint8Array.from(atob(text.slice(at + MAP_START.length).trim()), (char) => char.charCodeAt(0));
  const map: Record<string, unknown> = JSON.parse(new TextDecoder().decode(bytes));
  const { version, sources, names, mappings } = map;
  const small = new TextEncoder().encode(JSON.stringify({ version, sources, names, mappings }));
  let binary = "";
  for (const byte of small) binary += String.fromCharCode(byte);
  return `${text.slice(0, at)}${MAP_START}${btoa(binary)}\n`;
}

/** JSON with comments and trailing commas, as `deno.json` may have them. */
function parseJsonc(text: string, path: string): Record<string, unknown> {
  // Strings are kept as they are; comments and commas before a closing bracket go.
  const plain = text
    .replace(
      /("(?:[^"\\]|\\.)*")|\/\/[^\n]*|\/\*[\s\S]*?\*\//g,
      (_, string: string | undefined) => string ?? " ",
    )
    .replace(/("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])/g, (_, string: string | undefined) => string ?? "");
  try {
    const value: unknown = JSON.parse(plain);
    return typeof value === "object" && value !== null ? value as Record<string, unknown> : {};
  } catch (cause) {
    throw new DaskError(`Cannot read "${path}": ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

function entries(value: unknown): [string, unknown][] {
  return typeof value === "object" && value !== null ? Object.entries(value) : [];
}
