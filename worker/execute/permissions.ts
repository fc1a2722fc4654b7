/**
 * What tasks may do. Executors get what their worker may do, less `ffi` and `run`, or what they were given by name, if
 * the worker has it. Deno tells whether a named thing is granted but not the list of what is granted, so of a
 * partly granted kind only what someone names is passed on.
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";

/** Kinds of permission that a task can have. */
export type TaskPermissionKind = "read" | "write" | "net" | "env" | "sys" | "import";

/**
 * What tasks may do: all that the worker may, nothing, or per kind everything (`true`), what the worker may
 * (`"inherit"`), nothing (`false`, the default) or what is listed. `ffi` and `run` are refused.
 */
export type TaskPermissions =
  | "inherit"
  | "none"
  | {
    readonly [kind in TaskPermissionKind | "ffi" | "run"]?:
      | boolean
      | "inherit"
      | readonly (string | URL)[]
      | undefined;
  };

const KINDS: readonly TaskPermissionKind[] = ["read", "write", "net", "env", "sys", "import"];

/** Hosts that Deno imports from when nothing else is said. */
const IMPORT_HOSTS = [
  "deno.land:443",
  "jsr.io:443",
  "esm.sh:443",
  "raw.esm.sh:443",
  "cdn.jsdelivr.net:443",
  "raw.githubusercontent.com:443",
  "gist.githubusercontent.com:443",
];

/**
 * Reads the text form: `inherit`, `none`, or kinds separated by commas, each alone (all of it) or with values, as
 * `net=example.org:443,read=/data,/models,env`.
 *
 * @throws {DaskError} when a kind is not known.
 */
export function parseTaskPermissions(text: string): TaskPermissions {
  const trimmed = text.trim();
  if (trimmed === "inherit" || trimmed === "none") return trimmed;
  const result: Record<string, true | string[]> = {};
  let last: string | null = null;
  for (const part of trimmed.split(",")) {
    const [, kind, value] = /^([a-z]+)(?:=(.*))?$/s.exec(part.trim()) ?? [];
    if (kind !== undefined && (isKind(kind) || kind === "ffi" || kind === "run")) {
      if (value === undefined) result[kind] = true;
      else if (result[kind] !== true) result[kind] = [...result[kind] ?? [], value];
      last = kind;
    } else if (last !== null && Array.isArray(result[last]) && kind === undefined && part.trim() !== "") {
      (result[last] as string[]).push(part.trim());
    } else {
      throw new DaskError(
        `Cannot read task permissions ${JSON.stringify(text)}: expected "inherit", "none", or kinds of ` +
          `${KINDS.join(", ")} as "net=example.org:443,read=/data", got ${JSON.stringify(part)}`,
      );
    }
  }
  return result as TaskPermissions;
}

/**
 * What both `own` and `all` allow: a task that asks for itself gets no more than all tasks of its worker. Lists are
 * compared by folder, host and port, and wildcards of variables; `base` is where relative paths begin.
 */
export function within(own: TaskPermissions, all: TaskPermissions, base: string): TaskPermissions {
  if (all === "inherit") return own;
  if (own === "inherit") return all;
  if (own === "none" || all === "none") return "none";
  const result: Record<string, boolean | "inherit" | readonly string[]> = {};
  for (const kind of KINDS) {
    const [mine, theirs] = [own[kind] ?? false, all[kind] ?? false];
    const listed = (values: readonly (string | URL)[]) => values.map((value) => absolute(kind, value, base));
    if (mine === false || theirs === false) continue;
    if (typeof theirs !== "object") result[kind] = typeof mine === "object" ? listed(mine) : mine;
    else if (typeof mine !== "object") result[kind] = listed(theirs);
    else {
      const [a, b] = [listed(mine), listed(theirs)];
      result[kind] = [
        ...a.filter((value) => b.some((other) => covers(kind, other, value))),
        ...b.filter((value) => !a.includes(value) && a.some((other) => covers(kind, other, value))),
      ];
    }
  }
  return result;
}

/** Whether a grant of `whole` is one of `part`, too. */
function covers(kind: TaskPermissionKind, whole: string, part: string): boolean {
  if (whole === part) return true;
  switch (kind) {
    case "read":
    case "write":
      return part.startsWith(whole.endsWith("/") ? whole : `${whole}/`) && !part.split("/").includes("..");
    case "net":
    case "import":
      // A host without a port stands for all its ports.
      return part.startsWith(`${whole}:`) && /^\d+$/.test(part.slice(whole.length + 1));
    case "env":
      return whole.endsWith("*") && part.startsWith(whole.slice(0, -1));
    case "sys":
      return false;
  }
}

/** What a child process is started with. */
export interface Grants {
  /** Command-line flags for what tasks may do. */
  readonly flags: readonly string[];
  /** For the log: `"read, write, net=example.org"`, or `"none"`. */
  readonly summary: string;
}

/** Asks whether this process may do something. Replaced in tests. */
export type Query = (
  descriptor: Deno.PermissionDescriptor,
) => { state: Deno.PermissionState; partial: boolean };

/** Asks Deno. */
export function queryDeno(descriptor: Deno.PermissionDescriptor): ReturnType<Query> {
  return Deno.permissions.querySync(descriptor);
}

/** Whether this process may do all of `kind`, with nothing excepted. */
export function hasWhole(kind: string, query: Query = queryDeno): boolean {
  const status = query({ name: kind } as Deno.PermissionDescriptor);
  return status.state === "granted" && !status.partial;
}

/**
 * The flags that give tasks `permissions`. `base` is where relative paths begin.
 *
 * @throws {DaskError} naming what is asked for and not granted to this process.
 */
export function grantsOf(permissions: TaskPermissions, base: string, query: Query = queryDeno): Grants {
  const flags: string[] = [];
  const summary: string[] = [];
  for (const kind of ["ffi", "run"] as const) {
    const wanted = typeof permissions === "object" ? permissions[kind] : false;
    if (wanted !== undefined && wanted !== false && !(Array.isArray(wanted) && wanted.length === 0)) {
      throw new DaskError(`Cannot give tasks the permission "${kind}": tasks never have it; leave it out`);
    }
  }
  if (typeof permissions === "object") {
    for (const kind of Object.keys(permissions)) {
      if (!isKind(kind) && kind !== "ffi" && kind !== "run") {
        throw new DaskError(
          `Cannot give tasks the permission "${kind}": expected one of ${KINDS.join(", ")}`,
        );
      }
    }
  }
  for (const kind of KINDS) {
    const wanted = typeof permissions === "string" ? permissions : permissions[kind] ?? false;
    if (wanted === false || wanted === "none") continue;
    if (wanted === true && !hasWhole(kind, query)) throw missing(kind, null);
    if (wanted === true || (wanted === "inherit" && hasWhole(kind, query))) {
      flags.push(`--allow-${kind}`);
      summary.push(kind);
    } else if (wanted === "inherit") {
      if (kind !== "import") continue;
      const hosts = IMPORT_HOSTS.filter((host) => isGranted("import", host, query));
      if (hosts.length > 0) flags.push(`--allow-import=${hosts.join(",")}`);
    } else {
      const values = wanted.map((value) => absolute(kind, value, base));
      for (const value of values) {
        if (!isGranted(kind, value, query)) throw missing(kind, value);
      }
      if (values.length === 0) continue;
      flags.push(flag(kind, values));
      summary.push(`${kind}=${values.join(",")}`);
    }
  }
  // Without a flag of its own Deno would import from its default hosts: nothing is to be nothing.
  if (!flags.some((flag) => flag.startsWith("--allow-import"))) flags.push("--deny-import");
  return { flags, summary: summary.join(", ") || "none" };
}

/**
 * What a process that was started with all permissions gives up to have those of `flags`: a compiled program cannot be
 * started with fewer.
 *
 * @throws {DaskError} for a kind that is granted in part: giving up leaves all of a kind, or nothing.
 */
export function givenUp(flags: readonly string[]): Deno.PermissionDescriptor[] {
  const descriptors: Deno.PermissionDescriptor[] = [];
  for (const kind of [...KINDS, "run", "ffi"] as const) {
    if (flags.includes(`--allow-${kind}`)) continue;
    const part = flags.find((flag) => flag.startsWith(`--allow-${kind}=`));
    // Tasks that inherit import from Deno's own hosts, as far as the program was compiled with them.
    if (part !== undefined && kind === "import") continue;
    if (part !== undefined) {
      throw new DaskError(
        `Cannot give tasks the permission "${
          part.slice("--allow-".length)
        }": a compiled worker gives all of ` +
          `"${kind}" or none; start the worker with deno run instead`,
      );
    }
    descriptors.push({ name: kind } as Deno.PermissionDescriptor);
  }
  return descriptors;
}

/** One flag that grants `values`. */
export function flag(kind: string, values: readonly string[]): string {
  return `--allow-${kind}=${values.map((value) => value.replaceAll(",", ",,")).join(",")}`;
}

/** Adds `values` of a kind to flags, unless all of that kind is granted there. */
export function withGrant(flags: readonly string[], kind: string, values: readonly string[]): string[] {
  const whole = `--allow-${kind}`;
  if (flags.includes(whole)) return [...flags];
  const added = flag(kind, values);
  const at = flags.findIndex((flag) => flag.startsWith(`${whole}=`));
  const rest = flags.filter((flag) => flag !== `--deny-${kind}`);
  if (at < 0) return [...rest, added];
  return rest.map((flag) => flag.startsWith(`${whole}=`) ? `${flag},${added.slice(whole.length + 1)}` : flag);
}

/** Whether `path` is granted by flags, as a whole kind or by a folder around it. */
export function grantsPath(flags: readonly string[], kind: "read" | "write", path: string): boolean {
  return flags.some((flag) => {
    if (flag === `--allow-${kind}`) return true;
    if (!flag.startsWith(`--allow-${kind}=`)) return false;
    // A doubled comma is a comma of the path.
    const values = flag.slice(flag.indexOf("=") + 1).replaceAll(",,", "\0").split(",");
    return values.map((value) => value.replaceAll("\0", ",").replace(/\/+$/, "")).some((value) =>
      path === value || path.startsWith(`${value}/`)
    );
  });
}

function isKind(text: string): text is TaskPermissionKind {
  return (KINDS as readonly string[]).includes(text);
}

function isGranted(kind: TaskPermissionKind, value: string, query: Query): boolean {
  return query(descriptorOf(kind, value)).state === "granted";
}

/** What to ask Deno about one value of a kind. */
export function descriptorOf(kind: string, value: string): Deno.PermissionDescriptor {
  const field = kind === "read" || kind === "write"
    ? "path"
    : kind === "net" || kind === "import"
    ? "host"
    : kind === "env"
    ? "variable"
    : "kind";
  return { name: kind, [field]: value } as unknown as Deno.PermissionDescriptor;
}

function absolute(kind: TaskPermissionKind, value: string | URL, base: string): string {
  const text = value instanceof URL
    ? (value.protocol === "file:" ? decodeURIComponent(value.pathname) : value.host)
    : value;
  if ((kind !== "read" && kind !== "write") || text.startsWith("/")) return text;
  return `${base}/${text}`.replaceAll("/./", "/");
}

function missing(kind: TaskPermissionKind, value: string | null): DaskError {
  const what = value === null ? kind : `${kind}=${value}`;
  const of = value === null ? "" : `=${value}`;
  return new DaskError(
    `Cannot give tasks the permission "${what}": the worker itself does not have it; start it with --allow-${kind}${of}`,
  );
}
