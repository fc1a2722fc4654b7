/** The part of `@std/yaml` 1.x that this project uses. */

/** Parses one YAML document; throws a SyntaxError. */
export function parse(text: string): unknown;
