/**
 * Finds dask's configuration on this machine: environment variables, and files in the folders that dask looks into.
 * What may not be looked at is as if it were not there.
 *
 * @module
 */
import { type Logger, silent } from "../base/log.ts";
import { DaskError } from "../protocol/errors.ts";
import {
  CONFIG_VARIABLES,
  configPlaces,
  type DaskConfig,
  environmentSources,
  readConfig,
  type Source,
} from "./settings.ts";

/**
 * Reads the configuration. Later wins: `/etc/dask` (or `DASK_ROOT_CONFIG`), `~/.config/dask`, `DASK_CONFIG`, the
 * environment; in a folder the files `*.yaml`, `*.yml` and `*.json` by name.
 *
 * @throws {DaskError} that names the file, and the key where a value makes no sense.
 */
export async function loadConfig(logger: Logger = silent): Promise<DaskConfig> {
  const skipped: string[] = [];
  const environment = environmentSources(readVariables(skipped));
  const sources: Source[] = [];
  for (const place of configPlaces((name) => readVariable(name, skipped))) {
    for (const file of filesAt(place, skipped)) {
      const document = await readDocument(file, skipped);
      if (document !== null) sources.push({ from: file, document });
    }
  }
  if (skipped.length > 0) {
    logger.log("debug", "Some of dask's configuration is not looked at: no permission", { skipped });
  }
  return readConfig([...sources, ...environment]);
}

/** Dask's variables: all where all may be seen, else those that we know by name. */
function readVariables(skipped: string[]): Record<string, string> {
  const status = Deno.permissions.querySync({ name: "env" });
  if (status.state === "granted" && !status.partial) return Deno.env.toObject();
  const variables: Record<string, string> = {};
  for (const name of CONFIG_VARIABLES) {
    const value = readVariable(name, skipped);
    if (value !== undefined) variables[name] = value;
  }
  return variables;
}

function readVariable(variable: string, skipped: string[]): string | undefined {
  // Asked first: reading without permission may put the question to whoever sits at the terminal.
  if (Deno.permissions.querySync({ name: "env", variable }).state === "granted") {
    return Deno.env.get(variable);
  }
  skipped.push(variable);
  return undefined;
}

function mayRead(path: string, skipped: string[]): boolean {
  if (Deno.permissions.querySync({ name: "read", path }).state === "granted") return true;
  skipped.push(path);
  return false;
}

/** The configuration files at a place, which is a folder or a file. */
function filesAt(place: string, skipped: string[]): string[] {
  if (!mayRead(place, skipped)) return [];
  try {
    if (!Deno.statSync(place).isDirectory) return [place];
    return [...Deno.readDirSync(place)]
      .filter(({ name }) => /\.(ya?ml|json)$/i.test(name))
      .map(({ name }) => `${place}/${name}`)
      .sort();
  } catch {
    return []; // not there, or closed to us; dask looks away, too
  }
}

async function readDocument(file: string, skipped: string[]): Promise<unknown> {
  if (!mayRead(file, skipped)) return null;
  let text: string;
  try {
    text = await Deno.readTextFile(file);
  } catch {
    return null;
  }
  let document: unknown;
  try {
    if (/\.json$/i.test(file)) document = JSON.parse(text);
    else document = (await import("./deps.ts")).parseYaml(text);
  } catch (cause) {
    throw new DaskError(`Cannot read the configuration file ${file}: ${(cause as Error).message}`, { cause });
  }
  if (document === null || document === undefined) return null; // only comments
  if (typeof document === "object" && !Array.isArray(document)) return document;
  throw new DaskError(
    `Cannot read the configuration file ${file}: expected a map of keys, as "distributed:"`,
  );
}
