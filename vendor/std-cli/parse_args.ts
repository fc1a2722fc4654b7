/**
 * `@std/cli/parse-args` where the registry of JSR is out of reach: the same code, as npm's `deno-std` carries it.
 *
 * @module
 */
// @ts-types="./parse_args.d.ts"
export * from "npm:deno-std@1.4.0/cli/parse_args.js";
