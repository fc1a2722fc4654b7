/**
 * The only file of this folder that touches the machine: it reads modules and their configuration, runs `deno bundle`,
 * draws random numbers, and warns. Everything else gets it as an argument ({@linkcode CodeHost}).
 *
 * @module
 */
import { DaskError } from "../protocol/errors.ts";

/** One configuration file above a module. */
export interface ProjectFile {
  readonly path: string;
  readonly kind: "deno" | "package";
  readonly text: string;
}

/** What code.ts asks of the machine. All of it is synchronous: a key is known when it is asked for. */
export interface CodeHost {
  /** The URL of a path or URL that a user wrote; paths are relative to the working directory. */
  locate(text: string): URL;
  /** The bytes of a `file:` or `data:` URL. Throws a `DaskError` when it is not there. */
  read(url: URL): Uint8Array;
  /** The configuration files that hold for a `file:` module, nearest first. */
  project(url: URL): readonly ProjectFile[];
  /** The JavaScript of a `file:` module with all its local imports; `external` specifiers are left as they are. */
  bundle(url: URL, external: readonly string[]): string;
  /** The exports of a module in this process. */
  load(url: URL): Promise<Record<string, unknown>>;
  /** Says something to the user of the program that is not an error. */
  warn(message: string): void;
}

/** 32 hex digits that nobody else has. */
export function freshToken(): string {
  return crypto.randomUUID().replaceAll("-", "");
}

/** A number from 0 to 1. */
export function chance(): number {
  return Math.random();
}

/** The machine that we are on. */
export const denoHost: CodeHost = {
  locate(text) {
    if (/^[a-z][a-z0-9+.-]+:/i.test(text)) return new URL(text);
    return new URL(text, text.startsWith("/") ? "file:///" : `file://${Deno.cwd()}/`);
  },

  read(url) {
    if (url.protocol === "data:") return readDataUrl(url);
    try {
      return Deno.readFileSync(url);
    } catch (cause) {
      throw new DaskError(`Cannot read "${url.href}": ${reason(cause)}`, { cause });
    }
  },

  project(url) {
    const files: ProjectFile[] = [];
    let nearest = true;
    for (let folder = new URL(".", url);; folder = new URL("..", folder)) {
      for (const name of ["deno.json", "deno.jsonc", "package.json"]) {
        const file = new URL(name, folder);
        const text = readIfThere(file);
        if (text === null) continue;
        const kind = name === "package.json" ? "package" : "deno";
        // Above the nearest project only a workspace's root holds too.
        if (nearest || /"workspaces?"\s*:/.test(text)) files.push({ path: file.pathname, kind, text });
      }
      if (files.length > 0) nearest = false;
      if (folder.pathname === new URL("..", folder).pathname) return files;
    }
  },

  bundle(url, external) {
    const way =
      `grant it, or bundle once by hand ("deno bundle --packages external -o tasks.js ${url.pathname}") and ` +
      `pass it: tasks(url, { bundle: "./tasks.js" })`;
    if (Deno.build.standalone) {
      throw new DaskError(
        `Cannot bundle "${url.href}": a compiled program has no "deno bundle"; ${
          way.slice("grant it, or ".length)
        }`,
      );
    }
    readIfThere(url) ?? refuseMissing(url);
    let output: Deno.CommandOutput;
    try {
      output = new Deno.Command(Deno.execPath(), {
        // Names inside the bundle are relative to the working directory: the module's own, so that they are the same everywhere.
        cwd: new URL(".", url),
        args: [
          "bundle",
          "--no-lock",
          "--no-check",
          "--format=esm",
          "--platform=deno",
          "--sourcemap=inline",
          ...external.map((specifier) => `--external=${specifier}`),
          decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf("/") + 1)),
        ],
        env: { NO_COLOR: "1" },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).outputSync();
    } catch (cause) {
      if (cause instanceof Deno.errors.NotCapable || cause instanceof Deno.errors.PermissionDenied) {
        throw new DaskError(
          `Cannot bundle "${url.href}": running "deno bundle" needs --allow-run=${Deno.execPath()}; ${way}`,
          { cause },
        );
      }
      throw new DaskError(`Cannot bundle "${url.href}": ${reason(cause)}`, { cause });
    }
    const text = new TextDecoder().decode(output.stdout);
    if (!output.success || text === "") {
      const said = new TextDecoder().decode(output.stderr).split("\n").filter((line) =>
        line.trim() !== "" && !/experimental|^\s*(Download|Initialize)\b|Stack backtrace|<unknown>/.test(line)
      ).slice(0, 8).join("\n");
      throw new DaskError(
        `Cannot bundle "${url.href}": "deno bundle" failed:\n${said}\n` +
          `It needs the npm registry once, for esbuild; without it ${way.slice("grant it, or ".length)}`,
      );
    }
    return text;
  },

  load(url) {
    return import(url.href);
  },

  warn(message) {
    // deno-lint-ignore no-console -- said once to who runs the program; library code has no logger at this point.
    console.warn(message);
  },
};

function readIfThere(url: URL): string | null {
  try {
    return Deno.readTextFileSync(url);
  } catch (error) {
    // A folder that may not be read has no configuration for us; the bundler says so if it matters.
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) return null;
    throw error;
  }
}

function refuseMissing(url: URL): never {
  throw new DaskError(`Cannot read "${url.href}": no such module, or no --allow-read for it`);
}

function readDataUrl(url: URL): Uint8Array {
  const comma = url.href.indexOf(",");
  const body = decodeURIComponent(url.href.slice(comma + 1));
  if (!url.href.slice(0, comma).endsWith(";base64")) return new TextEncoder().encode(body);
  return Uint8Array.from(atob(body), (char) => char.charCodeAt(0));
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
