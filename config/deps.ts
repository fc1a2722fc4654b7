/**
 * The YAML reader; loaded only when there is a YAML file.
 *
 * @module
 */
// @ts-types="./yaml.d.ts"
export { parse as parseYaml } from "npm:deno-std@1.4.0/yaml/parse.js";
