/** Functions that use a package from npm: its name and version travel with the module, workers load it. */
import { parse } from "npm:acorn@8.19.0";

/** How many statements a program has, by a parser from npm. */
export function statements(source: string): number {
  return parse(source, { ecmaVersion: "latest", sourceType: "module" }).body.length;
}
