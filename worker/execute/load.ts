/**
 * From the name of a function to the function. What was loaded stays loaded: code is found by its hash, so two
 * versions of a function live side by side.
 *
 * @module
 */
import type { AllowedModules, AllowList } from "./allow.ts";
import { current, Reschedule } from "./current.ts";
import { DaskError } from "../../protocol/errors.ts";
import {
  LOADED_BUNDLES,
  type LoadedBundle,
  MODULE_PREFIX,
  type OneFunctionRef,
} from "../../protocol/call.ts";
import { readIntegrity } from "./integrity.ts";
import { withOwnModules } from "./own_modules.ts";

/** A function of a user. */
export type UserFunction = (...args: unknown[]) => unknown;

type Namespace = Readonly<Record<string, unknown>>;

/** Only for workers that restrict modules. (Were its name written into the `import`, Deno would read it at the start.) */
const ALLOW = new URL("./allow.ts", import.meta.url).href;

/** Compiled functions kept, by source. Modules cannot be unloaded and are kept for ever. */
const SOURCES_MAX = 2_000;

/** Finds and keeps functions. */
export class Loader {
  /** Relative paths begin here, an absolute folder. */
  readonly #base: string;
  readonly #sources = new Map<string, UserFunction>();
  /** Exports of modules, by what was loaded and export name. */
  readonly #exports = new Map<string, UserFunction>();
  readonly #bundles = new Map<string, Promise<Namespace>>();
  readonly #modules = new Map<string, Promise<Namespace>>();
  readonly #files = new Map<string, LoadedFile>();
  /** What stands in stacks, and what it stands for. */
  readonly #aliases = new Map<string, string>();
  /** Null: all may be loaded. What is loaded was allowed, so only loading asks. */
  readonly #allowed: Promise<AllowedModules> | null;

  /** `allow` says what may be loaded; null: anything. */
  constructor(base: string, allow: AllowList | null) {
    this.#base = base;
    this.#allowed = allow === null
      ? null
      : (import(ALLOW) as Promise<typeof import("./allow.ts")>).then((of) => new of.AllowedModules(allow));
  }

  /** The function of a call. `bytes` gives the bytes of a bundle. At once when it was loaded before. */
  load(
    ref: Exclude<OneFunctionRef, { kind: "builtin" }>,
    bytes: (dependency: number) => unknown,
  ): UserFunction | Promise<UserFunction> {
    if (ref.kind === "source") {
      return this.#allowed === null
        ? this.#source(ref.hash, ref.source)
        : this.#allowed.then((allowed) => this.#checkedSource(allowed, ref.source));
    }
    const id = ref.kind === "bundle" ? ref.hash : `${ref.url} ${ref.integrity ?? ""}`;
    const known = this.#exports.get(`${id} ${ref.export}`);
    if (known !== undefined) return known;
    const load = () =>
      ref.kind === "bundle"
        ? this.#bundle(ref.hash, ref.url, bytes(ref.dependency))
        : this.#url(ref.url, ref.integrity === null ? null : hexOfIntegrity(ref.integrity, ref.url));
    const check = (allowed: AllowedModules) =>
      ref.kind === "bundle" ? allowed.checkBundle(ref.hash, ref.url) : allowed.checkUrl(ref.url);
    const namespace = this.#allowed === null ? load() : this.#allowed.then(check).then(load);
    return namespace.then((exports) => this.#pick(exports, ref.export, ref.url, `${id} ${ref.export}`));
  }

  /** The function behind a name as a Python client writes it: `deno:<module URL>#<export>[?sha256=<hex>]`. */
  loadNamed(name: string): Promise<UserFunction> {
    const { url, exported, sha256 } = readName(name, this.#base);
    const load = () => url.protocol === "file:" ? this.#file(url, sha256) : this.#url(url.href, sha256);
    const namespace = this.#allowed === null
      ? load()
      : this.#allowed.then((allowed) => allowed.checkUrl(url.href)).then(load);
    return namespace.then((exports) => this.#pick(exports, exported, url.href, null));
  }

  /** A stack with the names that people know. */
  readable(stack: string): string {
    let text = stack;
    for (const [alias, name] of this.#aliases) {
      if (text.includes(alias)) text = text.replaceAll(alias, name);
    }
    return text.split("\n").filter((line) =>
      !line.includes(OWN_FOLDER) && !/^\s+at (async )?(ext|node):/.test(line)
    )
      .join("\n");
  }

  #source(hash: string, source: string): UserFunction {
    return this.#sources.get(hash) ?? this.#compile(hash, source);
  }

  /** The hash that a source came with is its sender's word: here it is the true one. */
  async #checkedSource(allowed: AllowedModules, source: string): Promise<UserFunction> {
    const hash = await sha256(new TextEncoder().encode(source));
    allowed.checkFunction(hash, head(source));
    return this.#source(hash, source);
  }

  #compile(hash: string, source: string): UserFunction {
    let value: unknown;
    try {
      value = new Function(
        "current",
        "Reschedule",
        `"use strict";return (${source}\n)\n//# sourceURL=function-${hash.slice(0, 8)}.js`,
      )(current, Reschedule);
    } catch (cause) {
      throw new DaskError(`Cannot compile the function ${head(source)}: ${messageOf(cause)}`, { cause });
    }
    if (typeof value !== "function") {
      throw new DaskError(`Cannot run ${head(source)}: expected the text of a function, got ${typeof value}`);
    }
    if (this.#sources.size >= SOURCES_MAX) this.#sources.delete(this.#sources.keys().next().value!);
    this.#sources.set(hash, value as UserFunction);
    return value as UserFunction;
  }

  #bundle(hash: string, url: string, bytes: unknown): Promise<Namespace> {
    return memo(this.#bundles, hash, async () => {
      if (!(bytes instanceof Uint8Array)) {
        throw new DaskError(`Cannot load the bundle of ${url}: expected its bytes, got ${typeof bytes}`);
      }
      const actual = await sha256(bytes);
      if (actual !== hash) {
        throw new DaskError(`Cannot load the bundle of ${url}: expected SHA-256 ${hash}, got ${actual}`);
      }
      const text = withOwnModules(new TextDecoder().decode(bytes));
      // Before it runs: it may ask for its own tasks at once.
      return await this.#importBytes(
        text,
        "text/javascript",
        url,
        hash,
        (own) => loaded.set(own, { url, bytes }),
      );
    });
  }

  async #importBytes(
    code: Uint8Array | string,
    type: string,
    url: string,
    hash: string,
    named?: (own: string) => void,
  ): Promise<Namespace> {
    const blob = URL.createObjectURL(new Blob([code as Uint8Array<ArrayBuffer> | string], { type }));
    named?.(blob);
    this.#aliases.set(blob, `${url}@${hash.slice(0, 8)}`);
    try {
      return await import(blob);
    } catch (cause) {
      throw loadError(url, this.readable(messageOf(cause)), cause);
    } finally {
      URL.revokeObjectURL(blob);
    }
  }

  #url(url: string, pinned: string | null): Promise<Namespace> {
    return memo(this.#modules, `${url} ${pinned ?? ""}`, async () => {
      if (url.startsWith("file:")) return await this.#file(new URL(url), pinned);
      if (pinned === null) return await this.#import(url, url);
      if (!/^https?:/.test(url)) {
        throw new DaskError(`Cannot check ${url} against a hash: expected an http(s) or file URL`);
      }
      // By `import`, not by `fetch`: the same permission as the module itself, and Deno's cache of it.
      const text = await import(url, { with: { type: "text" } }).then(
        (module: { default: string }) => module.default,
        (cause) => {
          throw loadError(url, messageOf(cause), cause);
        },
      );
      const bytes = new TextEncoder().encode(text);
      const actual = await sha256(bytes);
      if (actual !== pinned) throw pinRefused(url, pinned, actual);
      // The checked bytes themselves: what else the server may send cannot slip in. So the module must be one file.
      return await this.#importBytes(bytes, mediaType(url), url, pinned);
    });
  }

  /** A file is looked at before every call, and loaded anew when its bytes have changed. */
  async #file(url: URL, pinned: string | null): Promise<Namespace> {
    const path = decodeURIComponent(url.pathname);
    const known = this.#files.get(url.href);
    let stamp: string;
    try {
      const info = await Deno.stat(path);
      stamp = `${info.mtime?.getTime()} ${info.size} ${info.ino}`;
    } catch (cause) {
      if (cause instanceof Deno.errors.NotFound) {
        throw new DaskError(`Cannot load ${url.href}: there is no file ${path} on the host of this worker`, {
          cause,
        });
      }
      throw loadError(url.href, messageOf(cause), cause);
    }
    if (known?.stamp === stamp && (pinned === null || pinned === known.hash)) return known.exports;
    const hash = await sha256(await Deno.readFile(path));
    if (pinned !== null && hash !== pinned) throw pinRefused(url.href, pinned, hash);
    if (known?.hash === hash) {
      this.#files.set(url.href, { ...known, stamp });
      return known.exports;
    }
    const versioned = `${url.href}${url.search === "" ? "?" : "&"}v=${hash.slice(0, 16)}`;
    const exports = await this.#import(versioned, url.href);
    if (pinned !== null) {
      const after = await sha256(await Deno.readFile(path));
      if (after !== pinned) throw pinRefused(url.href, pinned, after);
    }
    this.#files.set(url.href, { stamp, hash, exports });
    return exports;
  }

  async #import(specifier: string, url: string): Promise<Namespace> {
    try {
      return await import(specifier);
    } catch (cause) {
      throw loadError(url, this.readable(messageOf(cause)), cause);
    }
  }

  #pick(exports: Namespace, name: string, url: string, id: string | null): UserFunction {
    const value = Object.hasOwn(exports, name) ? exports[name] : undefined;
    if (typeof value !== "function") {
      const names = Object.keys(exports).filter((key) => typeof exports[key] === "function").sort();
      const has = names.length === 0
        ? "it exports no functions"
        : `it exports the functions ${names.join(", ")}`;
      throw new DaskError(
        Object.hasOwn(exports, name)
          ? `Cannot call "${name}" of ${url}: expected a function, got ${
            value === null ? "null" : typeof value
          }; ${has}`
          : `Cannot find "${name}" in ${url}: ${has}`,
      );
    }
    if (id !== null) this.#exports.set(id, value as UserFunction);
    return value as UserFunction;
  }
}

interface LoadedFile {
  readonly stamp: string;
  readonly hash: string;
  readonly exports: Namespace;
}

/** What {@linkcode LOADED_BUNDLES} tells of. */
const loaded = new Map<string, LoadedBundle>();
(globalThis as { [LOADED_BUNDLES]?: typeof loaded })[LOADED_BUNDLES] = loaded;

/** Where our own frames in stacks come from. */
const OWN_FOLDER = new URL(".", import.meta.url).href;

function readName(name: string, base: string): { url: URL; exported: string; sha256: string | null } {
  const text = name.slice(MODULE_PREFIX.length);
  const at = text.indexOf("#");
  const expected = `expected "deno:<module URL>#<export>", as "deno:https://example.org/mod.ts#area"`;
  if (at <= 0 || at === text.length - 1) {
    throw new DaskError(`Cannot read the function name "${name}": ${expected}`);
  }
  const module = text.slice(0, at);
  const [exported = "", query = ""] = text.slice(at + 1).split("?", 2);
  const pin = /^sha256=([0-9a-fA-F]{64})$/.exec(query);
  if (exported === "" || (query !== "" && pin === null)) {
    throw new DaskError(
      `Cannot read the function name "${name}": ${expected}, then maybe "?sha256=<64 hex digits>"`,
    );
  }
  const url = URL.parse(module) ?? URL.parse(module, `file://${encodeURI(base)}/`);
  if (url === null) throw new DaskError(`Cannot read the function name "${name}": ${expected}`);
  return { url, exported, sha256: pin?.[1]?.toLowerCase() ?? null };
}

function hexOfIntegrity(integrity: string, url: string): string {
  const hex = readIntegrity(integrity);
  if (hex !== null) return hex;
  throw new DaskError(
    `Cannot read the integrity of ${url}: expected "sha256-<base64>" or "sha256=<hex>", got ${
      JSON.stringify(integrity)
    }`,
  );
}

function mediaType(url: string): string {
  const path = new URL(url).pathname;
  if (/\.m?ts$/.test(path)) return "application/typescript";
  if (path.endsWith(".tsx")) return "text/tsx";
  if (path.endsWith(".jsx")) return "text/jsx";
  return "text/javascript";
}

async function sha256(bytes: Uint8Array): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toHex();
}

/** The promise of `key`; a failed one is not kept. */
function memo<V>(map: Map<string, Promise<V>>, key: string, make: () => Promise<V>): Promise<V> {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  made.catch(() => map.delete(key));
  return made;
}

function pinRefused(url: string, pinned: string, actual: string): DaskError {
  return new DaskError(
    `Cannot load ${url}: expected SHA-256 ${pinned}, got ${actual}; its bytes are not those that were named`,
  );
}

function loadError(url: string, reason: string, cause: unknown): DaskError {
  return new DaskError(`Cannot load ${url}: ${reason}`, { cause });
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
}

function head(source: string): string {
  return JSON.stringify(source.length > 60 ? `${source.slice(0, 60)}…` : source);
}
