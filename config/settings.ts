/**
 * Dask's own configuration, as far as this project uses it: from documents (environment, YAML and JSON files) to typed
 * settings. Pure; `read.ts` finds the documents. Rule: what a document holds under a key that we use is understood or
 * refused by the names of document and key, other keys are none of our business.
 *
 * @module
 */
import { parseBytes, parseDuration } from "../base/units.ts";
import { DaskError } from "../protocol/errors.ts";

/** One document. Of several the later one wins, key by key. */
export interface Source {
  /** Names it for people: a path, or `the environment`. */
  readonly from: string;
  readonly document: unknown;
}

/** A share of the memory limit at which something happens; `false`: it never does. */
export type MemoryThreshold = number | false;

/** Certificate and key, as paths. */
export interface TlsIdentity {
  readonly cert: string | null;
  readonly key: string | null;
}

/** What is configured. `null` means that nobody said anything. Times are milliseconds, sizes bytes. */
export interface DaskConfig {
  /** `scheduler-address` */
  readonly schedulerAddress: string | null;
  /** `temporary-directory` */
  readonly temporaryDirectory: string | null;
  /** `distributed.worker.memory.*` */
  readonly memory: {
    readonly target: MemoryThreshold | null;
    readonly spill: MemoryThreshold | null;
    readonly pause: MemoryThreshold | null;
    readonly terminate: MemoryThreshold | null;
    readonly maxSpillBytes: number | false | null;
    readonly monitorIntervalMs: number | null;
  };
  /** `distributed.worker.lifetime.*` */
  readonly lifetime: {
    readonly durationMs: number | null;
    readonly staggerMs: number | null;
    readonly restart: boolean | null;
  };
  /** `distributed.worker.resources` */
  readonly resources: Readonly<Record<string, number>> | null;
  /** `distributed.worker.preload` */
  readonly preload: readonly string[];
  /** `distributed.comm.timeouts.*` */
  readonly timeouts: { readonly connectMs: number | null; readonly tcpMs: number | null };
  /** `distributed.comm.default-scheme` */
  readonly defaultScheme: string | null;
  /** `distributed.comm.require-encryption` */
  readonly requireEncryption: boolean | null;
  /** `distributed.comm.tls.*` */
  readonly tls: {
    readonly caFile: string | null;
    readonly ciphers: string | null;
    readonly minVersion: string | null;
    readonly maxVersion: string | null;
    readonly scheduler: TlsIdentity;
    readonly worker: TlsIdentity;
    readonly client: TlsIdentity;
  };
  /** `distributed.dashboard.prometheus.namespace` */
  readonly prometheusNamespace: string | null;
}

/** All keys that are read, for whoever may ask for environment variables only by name. */
export const CONFIG_KEYS: readonly string[] = [
  "scheduler-address",
  "temporary-directory",
  ...["target", "spill", "pause", "terminate", "max-spill", "monitor-interval"].map((name) =>
    `distributed.worker.memory.${name}`
  ),
  ...["duration", "stagger", "restart"].map((name) => `distributed.worker.lifetime.${name}`),
  "distributed.worker.resources",
  "distributed.worker.preload",
  "distributed.comm.timeouts.connect",
  "distributed.comm.timeouts.tcp",
  "distributed.comm.default-scheme",
  "distributed.comm.require-encryption",
  ...["ca-file", "ciphers", "min-version", "max-version"].map((name) => `distributed.comm.tls.${name}`),
  ...["scheduler", "worker", "client"].flatMap((role) => [
    `distributed.comm.tls.${role}.cert`,
    `distributed.comm.tls.${role}.key`,
  ]),
  "distributed.dashboard.prometheus.namespace",
];

/**
 * Reads documents, the most important last.
 *
 * @throws {DaskError} that names document and key of a value that makes no sense.
 */
export function readConfig(sources: readonly Source[]): DaskConfig {
  const read = <T>(key: string, reader: (value: unknown) => T): T | null => readKey(sources, key, reader);
  const memory = (name: string) => read(`distributed.worker.memory.${name}`, threshold);
  const identity = (role: string): TlsIdentity => ({
    cert: read(`distributed.comm.tls.${role}.cert`, text),
    key: read(`distributed.comm.tls.${role}.key`, text),
  });
  return {
    schedulerAddress: read("scheduler-address", text),
    temporaryDirectory: read("temporary-directory", text),
    memory: {
      target: memory("target"),
      spill: memory("spill"),
      pause: memory("pause"),
      terminate: memory("terminate"),
      maxSpillBytes: read("distributed.worker.memory.max-spill", sizeOrFalse),
      monitorIntervalMs: read("distributed.worker.memory.monitor-interval", duration),
    },
    lifetime: {
      durationMs: read("distributed.worker.lifetime.duration", duration),
      staggerMs: read("distributed.worker.lifetime.stagger", duration),
      restart: read("distributed.worker.lifetime.restart", boolean),
    },
    resources: readResources(sources),
    preload: read("distributed.worker.preload", texts) ?? [],
    timeouts: {
      connectMs: read("distributed.comm.timeouts.connect", duration),
      tcpMs: read("distributed.comm.timeouts.tcp", duration),
    },
    defaultScheme: read("distributed.comm.default-scheme", text),
    requireEncryption: read("distributed.comm.require-encryption", boolean),
    tls: {
      caFile: read("distributed.comm.tls.ca-file", text),
      ciphers: read("distributed.comm.tls.ciphers", text),
      minVersion: read("distributed.comm.tls.min-version", version),
      maxVersion: read("distributed.comm.tls.max-version", version),
      scheduler: identity("scheduler"),
      worker: identity("worker"),
      client: identity("client"),
    },
    prometheusNamespace: read("distributed.dashboard.prometheus.namespace", text),
  };
}

/** An address that has no scheme gets the one of `distributed.comm.default-scheme`, if there is one. */
export function withDefaultScheme(address: string, { defaultScheme }: DaskConfig): string {
  return defaultScheme === null || address.includes("://") ? address : `${defaultScheme}://${address}`;
}

/** Certificates of a role, for `comm/tls.ts`, if there are any; plain connections stay possible unless forbidden. */
export function tlsOf(
  { tls, requireEncryption }: DaskConfig,
  role: "worker" | "client",
):
  | { readonly ca: string; readonly cert: string; readonly key?: string; readonly requireEncryption: boolean }
  | undefined {
  const { cert, key } = tls[role];
  if (tls.caFile === null || cert === null) return undefined;
  return {
    ca: tls.caFile,
    cert,
    ...(key === null ? {} : { key }),
    requireEncryption: requireEncryption ?? false,
  };
}

/** The environment variable of a key: `DASK_DISTRIBUTED__WORKER__MEMORY__TARGET`. */
export function variableOf(key: string): string {
  return `DASK_${key.replaceAll(".", "__").replaceAll("-", "_").toUpperCase()}`;
}

/**
 * The documents that environment variables make: what a parent process of dask's passed on
 * (`DASK_INTERNAL_INHERIT_CONFIG`), then `DASK_…` variables, whose values are Python literals or plain text.
 *
 * @throws {DaskError} when what was passed on cannot be read.
 */
export function environmentSources(variables: Readonly<Record<string, string>>): Source[] {
  const sources: Source[] = [];
  const inherited = variables[INHERITED];
  if (inherited !== undefined) {
    sources.push({ from: `the variable ${INHERITED}`, document: inherit(inherited) });
  }
  const document: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(variables)) {
    if (!name.startsWith("DASK_") || name === INHERITED) continue;
    const path = name.slice("DASK_".length).toLowerCase().split("__");
    let at = document;
    for (const part of path.slice(0, -1)) {
      const next = at[part];
      at = isMap(next) ? next : at[part] = {};
    }
    at[path.at(-1)!] = readLiteral(value);
  }
  sources.push({ from: "the environment", document });
  return sources;
}

/** Where dask passes its whole configuration on to processes that it starts. */
export const INHERITED = "DASK_INTERNAL_INHERIT_CONFIG";

/** All variables that are read. */
export const CONFIG_VARIABLES: readonly string[] = [
  "HOME",
  "DASK_ROOT_CONFIG",
  "DASK_CONFIG",
  INHERITED,
  ...CONFIG_KEYS.map(variableOf),
];

function inherit(encoded: string): unknown {
  try {
    const bytes = Uint8Array.fromBase64(encoded, { alphabet: "base64url" });
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new DaskError(`Cannot read the variable ${INHERITED}: expected JSON in base64`, { cause });
  }
}

/** Folders and files that dask looks for configuration in, the most important last. */
export function configPlaces(
  variable: (name: "DASK_ROOT_CONFIG" | "DASK_CONFIG" | "HOME") => string | undefined,
): string[] {
  const home = variable("HOME");
  const own = variable("DASK_CONFIG");
  const places = [
    variable("DASK_ROOT_CONFIG") ?? "/etc/dask",
    ...(home === undefined ? [] : [`${home}/.config/dask`]),
    ...(own === undefined ? [] : [own]),
  ];
  return places.filter((place, index) => places.lastIndexOf(place) === index);
}

function readKey<T>(sources: readonly Source[], key: string, reader: (value: unknown) => T): T | null {
  for (const { from, document } of sources.toReversed()) {
    const found = lookUp(document, key);
    if (found === undefined) continue;
    if (found === null) return null; // as good as not set, and hides what stands further down
    try {
      return reader(found);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw new DaskError(`Cannot read "${key}" in ${from}: ${cause.message}`, { cause });
    }
  }
  return null;
}

/** Names are merged over all documents. */
function readResources(sources: readonly Source[]): Record<string, number> | null {
  const key = "distributed.worker.resources";
  const found = sources.map((source) => readKey([source], key, amounts)).filter((names) => names !== null);
  return found.length === 0 ? null : Object.assign({}, ...found);
}

/** Dashes and underscores in names are the same. */
function lookUp(document: unknown, key: string): unknown {
  let at = document;
  for (const part of key.split(".")) {
    if (!isMap(at)) return undefined;
    const name = [part, part.replaceAll("-", "_")].find((name) => Object.hasOwn(at as object, name));
    if (name === undefined) return undefined;
    at = at[name];
  }
  return at;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// --- Values ---

function text(value: unknown): string {
  if (typeof value === "string" && value !== "") return value;
  throw expected("a text", value);
}

function texts(value: unknown): string[] {
  return (Array.isArray(value) ? value : [value]).map(text);
}

function boolean(value: unknown): boolean {
  const word = yaml11(value);
  if (typeof word === "boolean") return word;
  throw expected("true or false", value);
}

/** Python's YAML reader takes more words for true and false than ours. */
function yaml11(value: unknown): unknown {
  if (typeof value !== "string") return value;
  if (/^(yes|on|true)$/i.test(value)) return true;
  return /^(no|off|false)$/i.test(value) ? false : value;
}

function threshold(value: unknown): MemoryThreshold {
  if (yaml11(value) === false) return false;
  if (typeof value === "number" && value >= 0) return value === 0 ? false : value;
  throw expected("a share such as 0.6, or false", value);
}

function sizeOrFalse(value: unknown): number | false {
  if (yaml11(value) === false) return false;
  if (typeof value === "number" && value >= 0) return Math.floor(value);
  if (typeof value === "string") return parseBytes(value);
  throw expected('a size such as "10 GB", or false', value);
}

function duration(value: unknown): number {
  if (typeof value === "number" && value >= 0) return value * 1000;
  if (typeof value === "string") return parseDuration(value);
  throw expected('a time such as "30s"', value);
}

function version(value: unknown): string {
  return typeof value === "number" ? value.toFixed(1) : text(value);
}

function amounts(value: unknown): Record<string, number> {
  if (!isMap(value)) throw expected("names with numbers", value);
  for (const amount of Object.values(value)) {
    if (typeof amount !== "number" || !(amount >= 0)) throw expected("a number of at least 0", amount);
  }
  return value as Record<string, number>;
}

function expected(what: string, value: unknown): RangeError {
  return new RangeError(`expected ${what}, got ${JSON.stringify(value) ?? String(value)}`);
}

// --- Python's literals ---

const WORDS: Readonly<Record<string, unknown>> = { none: null, null: null, false: false, true: true };

/** The value of a variable: a Python literal (numbers, quoted texts, lists, maps), a word for nothing, true or false,
 * or the text itself. */
export function readLiteral(value: string): unknown {
  const literal = new LiteralReader(value).readAll();
  if (literal !== undefined) return literal;
  const word = value.toLowerCase();
  return Object.hasOwn(WORDS, word) ? WORDS[word] : value;
}

/** Reads one literal; `undefined` for what is none. */
class LiteralReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  readAll(): unknown {
    const value = this.#value();
    return this.#take(/\s*/y) !== null && this.#at === this.#text.length ? value : undefined;
  }

  #value(): unknown {
    this.#take(/\s*/y);
    const number = this.#take(/[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])/y);
    if (number !== null) return Number(number.replaceAll("_", ""));
    const word = this.#take(/(?:None|True|False)\b/y);
    if (word !== null) return WORDS[word.toLowerCase()];
    const quoted = this.#take(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/y);
    if (quoted !== null) return quoted.slice(1, -1).replace(/\\(['"\\])/g, "$1");
    if (this.#take(/\[/y) !== null) return this.#items(/\]/y, () => this.#value());
    if (this.#take(/\(/y) !== null) return this.#items(/\)/y, () => this.#value());
    if (this.#take(/\{/y) === null) return undefined;
    const entries = this.#items(/\}/y, () => {
      const name = this.#value();
      if (typeof name !== "string" || this.#take(/\s*:/y) === null) return undefined;
      const value = this.#value();
      return value === undefined ? undefined : [name, value] as const;
    });
    return entries === undefined ? undefined : Object.fromEntries(entries);
  }

  /** Items, separated by commas, up to `end`. */
  #items<T>(end: RegExp, item: () => T | undefined): T[] | undefined {
    const items: T[] = [];
    for (;;) {
      this.#take(/\s*/y);
      if (this.#take(end) !== null) return items;
      const value = item();
      if (value === undefined) return undefined;
      items.push(value);
      this.#take(/\s*/y);
      if (this.#take(/,/y) === null) return this.#take(end) === null ? undefined : items;
    }
  }

  #take(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) return null;
    this.#at = pattern.lastIndex;
    return match[0];
  }
}
