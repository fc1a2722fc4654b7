/**
 * Which code the executors of a worker may load, when its operator says so. The law: what decides can be trusted. The
 * URL of a module can, because it is loaded from there; the names that bundles and functions travel with cannot, since
 * who sends them writes them, so these are known by their hash alone.
 *
 * @module
 */
import { ModuleNotAllowedError } from "../../protocol/errors.ts";
import { readIntegrity, writeIntegrity } from "./integrity.ts";

/** What may be loaded. Plain data: it travels to the executors. */
export interface AllowedCode {
  /** All bundles. */
  readonly bundles: boolean;
  /** All functions that come by their text. */
  readonly functions: boolean;
  /** SHA-256 of bundles and functions, in hex. */
  readonly hashes: readonly string[];
  /** Normal URLs. */
  readonly urls: readonly string[];
  readonly patterns: readonly { readonly source: string; readonly flags: string }[];
}

/** The same, of one worker. */
export interface AllowList extends AllowedCode {
  /** Names it in messages. */
  readonly worker: string;
}

/** Of modules that can be named. Those of `data:` and `blob:` are content, which anybody can write. */
const SCHEMES = ["https:", "http:", "file:", "npm:", "jsr:", "node:"];
const EXPECTED = 'expected a URL as "https://example.org/lib/", "file:///opt/tasks/" or "npm:zod", ' +
  '"sha256-<base64>", "bundles" or "functions"';

/**
 * Reads the option `allowModules`.
 *
 * @throws {TypeError} when an entry makes no sense, as it would let nothing in.
 */
export function readAllowModules(entries: readonly (string | RegExp)[]): AllowedCode {
  if (!Array.isArray(entries)) {
    throw new TypeError(`Cannot read "allowModules": expected a list, got ${typeof entries}`);
  }
  const hashes: string[] = [];
  const urls: string[] = [];
  const patterns: { source: string; flags: string }[] = [];
  for (const entry of entries as readonly unknown[]) {
    if (entry instanceof RegExp) {
      patterns.push({ source: entry.source, flags: entry.flags });
      continue;
    }
    if (typeof entry !== "string") {
      throw new TypeError(`Cannot read "allowModules": expected texts and RegExps, got ${typeof entry}`);
    }
    if (entry === "bundles" || entry === "functions") continue;
    const hash = readIntegrity(entry);
    if (hash !== null) hashes.push(hash);
    else urls.push(readUrl(entry));
  }
  return {
    bundles: entries.includes("bundles"),
    functions: entries.includes("functions"),
    hashes,
    urls,
    patterns,
  };
}

function readUrl(entry: string): string {
  const url = URL.parse(entry);
  if (url === null || !SCHEMES.includes(url.protocol)) {
    throw new TypeError(`Cannot allow the modules ${JSON.stringify(entry)}: ${EXPECTED}`);
  }
  if (url.hash !== "") {
    throw new TypeError(
      `Cannot allow the modules "${entry}": exports cannot be told apart, leave out "${url.hash}"`,
    );
  }
  if (isDisguised(url)) {
    throw new TypeError(`Cannot allow the modules "${entry}": write its path without "..", %2e, %2f and %5c`);
  }
  return url.href;
}

/** Whether whoever serves the path may see another one in it. */
function isDisguised({ pathname }: URL): boolean {
  return /%2e|%2f|%5c|\\|(^|\/)\.{1,2}(\/|$)/i.test(pathname);
}

/** Refuses code that is not on the list. */
export class AllowedModules {
  readonly #list: AllowList;
  readonly #hashes: ReadonlySet<string>;
  readonly #patterns: readonly RegExp[];

  constructor(list: AllowList) {
    this.#list = list;
    this.#hashes = new Set(list.hashes);
    this.#patterns = list.patterns.map(({ source, flags }) => new RegExp(source, flags));
  }

  /**
   * A module that is loaded from its URL.
   *
   * @throws {ModuleNotAllowedError}
   */
  checkUrl(specifier: string): void {
    const url = URL.parse(specifier);
    if (url !== null && SCHEMES.includes(url.protocol) && !isDisguised(url)) {
      url.hash = "";
      const { href } = url;
      if (this.#list.urls.some((allowed) => begins(href, allowed))) return;
      // Not by `test`, which goes on from where it stopped when the pattern has the flag g.
      if (this.#patterns.some((pattern) => href.search(pattern) >= 0)) return;
    }
    throw this.#refusal(specifier, "an entry for it");
  }

  /**
   * A bundle; its bytes must still be checked against `hash`. `url` is what its sender calls it.
   *
   * @throws {ModuleNotAllowedError}
   */
  checkBundle(hash: string, url: string): void {
    if (this.#list.bundles || this.#hashes.has(hash)) return;
    throw this.#refusal(
      `the bundle of ${url}`,
      `"${/^[0-9a-f]{64}$/.test(hash) ? writeIntegrity(hash) : hash}" or "bundles"`,
    );
  }

  /**
   * A function by its text, with the true hash of that.
   *
   * @throws {ModuleNotAllowedError}
   */
  checkFunction(hash: string, named: string): void {
    if (this.#list.functions || this.#hashes.has(hash)) return;
    throw this.#refusal(`the function ${named}`, `"${writeIntegrity(hash)}" or "functions"`);
  }

  #refusal(what: string, wanted: string): ModuleNotAllowedError {
    return new ModuleNotAllowedError(
      `Cannot load ${what}: allowModules of the worker ${this.#list.worker} does not allow it; run it on other ` +
        `workers, or start this one with ${wanted} in allowModules (--allow-modules)`,
    );
  }
}

/** Whether a URL is `allowed`, or goes on from it where a part of its path ends. */
function begins(href: string, allowed: string): boolean {
  if (href === allowed) return true;
  if (!href.startsWith(allowed) || allowed.includes("?")) return false;
  if (/[:/]$/.test(allowed)) return true;
  const next = href[allowed.length]!;
  // Packages have their version there.
  return next === "/" || next === "?" || (next === "@" && /^(npm|jsr):/.test(href));
}
