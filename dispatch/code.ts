/**
 * The code behind tasks, and how it travels: a self-contained function as its source text, a local module as one
 * bundle with everything local that it imports, any other module by its URL. Code has a token, which is part of the
 * keys of all its calls: other content, other keys.
 *
 * @module
 */
import { sha256Hex } from "../base/sha256.ts";
import { DaskError } from "../protocol/errors.ts";
import { type FunctionRef, LOADED_BUNDLES, type LoadedBundle } from "../protocol/call.ts";
import { CODE_KEY_PREFIX } from "../protocol/key.ts";
import { externalSpecifiers, finishBundle, readExports, readPackages } from "./bundle.ts";
import { checkClosure, type Verdict } from "./closure.ts";
import { type CodeHost, denoHost } from "./host.ts";
import {
  asOp,
  callNode,
  describe,
  type LiftAll,
  type Op,
  type Result,
  type Task,
  type TaskOptions,
  type Tasks,
} from "./node.ts";

/** Any function, as far as it can be called with plain values. */
export type AnyFunction = (...args: unknown[]) => unknown;

/** The code of one function. */
export interface Code {
  /** Name of the function, for labels. */
  readonly label: string;
  /** Says what the code does: equal tokens, equal code. Reading it may bundle a module. */
  readonly token: string;
  /** The same inside this process, without any work. */
  readonly localToken: string;
  /** How it travels. Throws a `DaskError` or `TypeError` that names it when it cannot. */
  travel(): TravelledCode;
  /** The function itself, in this process. */
  load(): AnyFunction | Promise<AnyFunction>;
}

/** Code ready to be sent. */
export type TravelledCode =
  | { readonly kind: "plain"; readonly function: FunctionRef }
  /** The bytes are a task of the graph; calls have its key among their dependencies. */
  | {
    readonly kind: "bundle";
    readonly bundle: BundleTask;
    readonly function: (dependency: number) => FunctionRef;
  }
  /** A function of a Python module, by name. */
  | { readonly kind: "python"; readonly module: string; readonly name: string };

/** A bundle as a task of the graph. */
export interface BundleTask {
  /** `code-` and the first 32 hex digits of the hash. */
  readonly key: string;
  /** SHA-256 of the bytes in hex. */
  readonly hash: string;
  readonly bytes: Uint8Array;
}

// --- A function by its source ---

interface ReadSource {
  readonly hash: string;
  readonly verdict: Verdict;
}

// Functions are often made anew around the same text, in loops; the text is read once.
const sources = new Map<string, ReadSource>();
/** Texts remembered; beyond that all are forgotten and read again. */
const SOURCES_MAX = 1_000;
const functions = new WeakMap<AnyFunction, SourceCode>();

class SourceCode implements Code {
  readonly label: string;
  readonly #function: AnyFunction;
  #read: ReadSource | undefined;
  #token: string | undefined;

  constructor(fn: AnyFunction) {
    this.label = fn.name === "" ? "anonymous" : fn.name.replace(/^(bound|get|set) /, "");
    this.#function = fn;
  }

  get token(): string {
    return this.#token ??= `source ${this.#source().hash}`;
  }

  get localToken(): string {
    return this.token;
  }

  travel(): TravelledCode {
    const { hash, verdict } = this.#source();
    if (!verdict.ok) throw new TypeError(`Cannot send the function "${this.label}": ${verdict.reason}`);
    return { kind: "plain", function: { kind: "source", hash, source: verdict.source } };
  }

  load(): AnyFunction {
    return this.#function;
  }

  #source(): ReadSource {
    if (this.#read !== undefined) return this.#read;
    const text = Function.prototype.toString.call(this.#function);
    let read = sources.get(text);
    if (read === undefined) {
      const verdict = checkClosure(text);
      // What cannot travel needs a token all the same: its graph may run in this process.
      read = { hash: sha256Hex(verdict.ok ? verdict.source : text), verdict };
      if (sources.size >= SOURCES_MAX) sources.clear();
      sources.set(text, read);
    }
    return this.#read = read;
  }
}

function sourceCode(fn: unknown, by: string): SourceCode {
  if (typeof fn !== "function") {
    throw new TypeError(`Cannot make a task of ${describe(fn)}: ${by} expects a function`);
  }
  if (CODE in fn) {
    throw new TypeError(`Cannot make a task of "${fn.name}": it is a task already; call it to build a node`);
  }
  const known = functions.get(fn as AnyFunction);
  if (known !== undefined) return known;
  const code = new SourceCode(fn as AnyFunction);
  functions.set(fn as AnyFunction, code);
  return code;
}

// --- An export of a module ---

/** How a module is found, as `tasks` takes it. */
export interface TasksOptions {
  /**
   * `sha256-<base64>` or `sha256=<hex>` of what will run: of the file behind an `http(s):` URL, checked where it runs;
   * of the bundle of a local module, checked here.
   */
  readonly integrity?: string;
  /**
   * A bundle made before, instead of running `deno bundle` here: a path, a URL, or its bytes. An `http(s):` URL is read
   * by the workers, and wants an `integrity`.
   */
  readonly bundle?: string | URL | Uint8Array;
}

type TravelledModule =
  | { readonly kind: "bundle"; readonly bundle: BundleTask; readonly exports: readonly string[] | null }
  | { readonly kind: "url"; readonly url: string; readonly integrity: string | null };

/** One module, read when a key or a submission first needs it. What it is then, it stays: for changes call `tasks` again. */
class Module {
  readonly url: URL;
  /** Where it is in this process. */
  readonly #local: URL;
  readonly #host: CodeHost;
  readonly #integrity: string | null;
  readonly #prebuilt: URL | Uint8Array | null;
  #travelled: TravelledModule | undefined;
  #loaded: Promise<Record<string, unknown>> | undefined;

  constructor(url: URL, options: TasksOptions, host: CodeHost) {
    const running = url.protocol === "blob:" ? loadedBundle(url.href) : undefined;
    this.url = running === undefined ? url : new URL(running.url);
    this.#local = url;
    this.#host = host;
    this.#integrity = options.integrity ?? null;
    if (this.#integrity !== null) parseIntegrity(this.#integrity);
    const { bundle = running?.bytes } = options;
    this.#prebuilt = bundle === undefined ? null : typeof bundle === "string" ? host.locate(bundle) : bundle;
  }

  travel(): TravelledModule {
    return this.#travelled ??= this.#prepare();
  }

  load(): Promise<Record<string, unknown>> {
    return this.#loaded ??= this.#host.load(this.#local);
  }

  #prepare(): TravelledModule {
    const from = this.#prebuilt;
    if (from instanceof Uint8Array) return this.#bundled(from, null);
    const url = from ?? this.url;
    if (/^https?:$/.test(url.protocol) || /^(npm|jsr):$/.test(url.protocol)) {
      if (this.#integrity === null && /^https?:$/.test(url.protocol)) this.#warnUnchecked(url.href);
      return { kind: "url", url: url.href, integrity: this.#integrity };
    }
    if (from !== null) return this.#bundled(this.#host.read(from), null);
    const packages = readPackages(this.#host.project(url));
    const text = this.#host.bundle(url, externalSpecifiers(packages));
    const finished = finishBundle(text, packages, url.href);
    return this.#bundled(new TextEncoder().encode(finished.text), finished.exports);
  }

  #bundled(bytes: Uint8Array, exports: readonly string[] | null): TravelledModule {
    const hash = sha256Hex(bytes);
    if (this.#integrity !== null && parseIntegrity(this.#integrity) !== hash) {
      throw new DaskError(
        `Cannot send "${this.url.href}": its bundle has the SHA-256 ${hash}, expected ${this.#integrity}`,
      );
    }
    const bundle = bundles.get(hash) ?? { key: `${CODE_KEY_PREFIX}${hash.slice(0, 32)}`, hash, bytes };
    bundles.set(hash, bundle);
    return {
      kind: "bundle",
      bundle,
      exports: exports ?? readExports(new TextDecoder().decode(bytes), this.url.href),
    };
  }

  #warnUnchecked(url: string): void {
    if (warned.has(url)) return;
    warned.add(url);
    this.#host.warn(
      `The content of ${url} is not checked: workers run what they find there. ` +
        `Give tasks() an { integrity: "sha256-…" } to pin it`,
    );
  }
}

const bundles = new Map<string, BundleTask>();
const warned = new Set<string>();

class ExportCode implements Code {
  readonly label: string;
  readonly #module: Module;
  readonly #name: string;
  #token: string | undefined;
  #travelled: TravelledCode | undefined;

  constructor(module: Module, name: string) {
    this.#module = module;
    this.#name = name;
    this.label = name;
  }

  get token(): string {
    if (this.#token !== undefined) return this.#token;
    const module = this.#module.travel();
    const content = module.kind === "bundle" ? module.bundle.hash : `${module.url} ${module.integrity ?? ""}`;
    return this.#token = `${module.kind} ${content} ${this.#name}`;
  }

  get localToken(): string {
    return `local ${this.#module.url.href} ${this.#name}`;
  }

  travel(): TravelledCode {
    return this.#travelled ??= this.#travel();
  }

  async load(): Promise<AnyFunction> {
    const exports = await this.#module.load();
    const found = exports[this.#name];
    if (typeof found === "function") return found as AnyFunction;
    if (found === undefined) throw this.#missing(Object.keys(exports));
    throw new DaskError(
      `Cannot call "${this.#name}" of "${this.#module.url.href}": expected a function, got ${
        describe(found)
      }`,
    );
  }

  #travel(): TravelledCode {
    const module = this.#module.travel();
    const name = this.#name;
    if (module.kind === "url") {
      return {
        kind: "plain",
        function: { kind: "url", url: module.url, export: name, integrity: module.integrity },
      };
    }
    const { bundle, exports } = module;
    if (exports !== null && !exports.includes(name)) throw this.#missing(exports);
    const url = this.#module.url.href;
    return {
      kind: "bundle",
      bundle,
      function: (dependency) => ({ kind: "bundle", hash: bundle.hash, dependency, export: name, url }),
    };
  }

  #missing(exports: readonly string[]): DaskError {
    const list = exports.length === 0 ? "nothing" : exports.join(", ");
    return new DaskError(
      `Cannot find the export "${this.#name}" in "${this.#module.url.href}": it exports ${list}`,
    );
  }
}

/** The bundle behind an `import.meta.url`, inside a task of a worker. */
function loadedBundle(url: string): LoadedBundle | undefined {
  return (globalThis as { [LOADED_BUNDLES]?: ReadonlyMap<string, LoadedBundle> })[LOADED_BUNDLES]?.get(url);
}

function parseIntegrity(integrity: string): string {
  const hex = /^sha256=([0-9a-fA-F]{64})$/.exec(integrity)?.[1];
  if (hex !== undefined) return hex.toLowerCase();
  const base64 = /^sha256-([A-Za-z0-9+/]{43}=)$/.exec(integrity)?.[1];
  if (base64 === undefined) {
    throw new TypeError(
      `Cannot read the integrity "${integrity}": expected "sha256-<base64>" or "sha256=<64 hex digits>"`,
    );
  }
  return Array.from(atob(base64), (char) => char.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}

// --- A function of Python's ---

class PythonCode implements Code {
  readonly label: string;
  readonly token: string;
  readonly #module: string;
  readonly #name: string;

  constructor(module: string, name: string) {
    this.#module = module;
    this.#name = name;
    this.label = name;
    this.token = `python ${module}:${name}`;
  }

  get localToken(): string {
    return this.token;
  }

  travel(): TravelledCode {
    return { kind: "python", module: this.#module, name: this.#name };
  }

  load(): never {
    throw new DaskError(
      `Cannot run "${this.#module}:${this.#name}" in this process: it is Python's; submit it to a client`,
    );
  }
}

// --- What users call ---

const CODE = Symbol("dask.code");

/** The code behind a task that `task`, `tasks` or `python` made, and the options that it carries. */
export function codeOf(task: unknown): { readonly code: Code; readonly options: TaskOptions } {
  const found = typeof task === "function" ? Reflect.get(task, CODE) : undefined;
  if (found === undefined) {
    throw new TypeError(`Cannot use ${describe(task)} as a task: expected one made by task() or tasks()`);
  }
  return found as { code: Code; options: TaskOptions };
}

function taskOf<A extends unknown[], R>(code: Code, options: TaskOptions): Task<A, R> {
  const build = (...args: LiftAll<A>): Op<R> => asOp<R>(callNode(code, args, options));
  const task = Object.assign(build, {
    with: (more: TaskOptions): Task<A, R> => taskOf<A, R>(code, { ...options, ...more }),
    actor: true,
    [CODE]: { code, options },
  });
  return Object.defineProperty(task, "name", { value: options.label ?? code.label });
}

/**
 * Makes a task of a self-contained function: one that uses nothing but its arguments, the globals of every program,
 * and `current`. It travels as its source text; whether it can is checked when it is submitted.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, task } from "@dask/dask";
 * const double = task((x: number) => 2 * x);
 * const [six] = await new AsyncExecutor().run([double(double(1.5))]);
 * console.log(six); // 6
 * ```
 */
export function task<A extends unknown[], R>(selfContained: (...args: A) => R): Task<A, Result<R>> {
  return taskOf<A, Result<R>>(sourceCode(selfContained, "task()"), {});
}

/**
 * Writes down one call of a self-contained function: `op(f, a, b)` is `task(f)(a, b)`.
 *
 * @example
 * ```ts
 * import { AsyncExecutor, op } from "@dask/dask";
 * const three = op((a: number, b: number) => a + b, 1, 2);
 * const [six] = await new AsyncExecutor().run([op((a: number) => a * 2, three)]);
 * console.log(six); // 6
 * ```
 */
export function op<A extends unknown[], R>(
  selfContained: (...args: A) => R,
  ...args: LiftAll<A>
): Op<Result<R>> {
  return asOp<Result<R>>(callNode(sourceCode(selfContained, "op()"), args, {}));
}

/**
 * The exports of a module as typed tasks, without importing it: `tasks<typeof import("./tasks.ts")>(url)`.
 *
 * A `file:` module travels as one bundle with its local imports, made once per call of `tasks` when a key or a
 * submission first needs it; it names `npm:` and `jsr:` packages by the import map of its own project. Other modules are
 * named by their URL. Inside a task `tasks(import.meta.url)` are those of its own module. A bundle or URL that is not
 * there, or has no such export, is refused at the submission.
 *
 * @throws {TypeError} When `module` is not an absolute URL.
 * @example
 * ```ts ignore
 * const t = tasks<typeof import("./tasks.ts")>(new URL("./tasks.ts", import.meta.url));
 * const [q, r] = t.divmod(7, 2);
 * const sum = t.add(q, r);
 * ```
 */
export function tasks<M extends object>(module: URL | string, options: TasksOptions = {}): Tasks<M> {
  return tasksFrom<M>(module, options, denoHost);
}

/** {@linkcode tasks} on another host, for tests. */
export function tasksFrom<M extends object>(
  module: URL | string,
  options: TasksOptions,
  host: CodeHost,
): Tasks<M> {
  const url = moduleUrl(module);
  const of = new Module(url, options, host);
  const made = new Map<string, unknown>();
  // Consoles look at what is behind a proxy, so that is where the text for them stands.
  return new Proxy({ [Symbol.for("Deno.customInspect")]: () => `Tasks ${url.href}` }, {
    get(_, name) {
      // `await tasks(…)` asks for `then`: it must not look like a promise. Symbols are no exports.
      if (typeof name === "symbol" || name === "then") return undefined;
      let task = made.get(name);
      if (task === undefined) made.set(name, task = taskOf(new ExportCode(of, name), {}));
      return task;
    },
    set(_, name) {
      throw new TypeError(
        `Cannot set "${String(name)}" of the tasks of ${url.href}: they are what it exports`,
      );
    },
    // The exports are known only to the type.
  }) as unknown as Tasks<M>;
}

/**
 * A function of a Python module as a task, `python("numpy:mean")`. It runs on Python workers.
 *
 * @throws {TypeError} When `name` is not `module:function`.
 * @example
 * ```ts ignore
 * const mean = python<(values: Float64Array) => number>("numpy:mean");
 * const [value] = await client.run([mean(Float64Array.of(1, 2, 6))]);
 * console.log(value); // 3
 * ```
 */
// deno-lint-ignore no-explicit-any
export function python<F extends (...args: any[]) => unknown>(
  name: string,
): Task<Parameters<F>, Awaited<ReturnType<F>>> {
  const [, module, attribute] = /^([\w.]+):([\w.]+)$/.exec(name) ?? [];
  if (module === undefined || attribute === undefined) {
    throw new TypeError(`Cannot read the Python name "${name}": expected "module:function", as "numpy:mean"`);
  }
  return taskOf<Parameters<F>, Awaited<ReturnType<F>>>(new PythonCode(module, attribute), {});
}

function moduleUrl(module: URL | string): URL {
  if (module instanceof URL) return module;
  if (typeof module !== "string") {
    throw new TypeError(`Cannot take tasks from ${describe(module)}: expected a URL`);
  }
  if (!URL.canParse(module)) {
    throw new TypeError(
      `Cannot take tasks from "${module}": expected an absolute URL; for a module beside yours write ` +
        `new URL("${module}", import.meta.url)`,
    );
  }
  return new URL(module);
}
