/**
 * `@std/assert` where the registry of JSR is out of reach: the same code, as npm's `deno-std` carries it, with types.
 *
 * @module
 */
// @ts-types="./types.d.ts"
export * from "npm:deno-std@1.4.0/assert/mod.js";
