/**
 * Third-party code of the protocol, pinned. The ESM subpath is named because the root of the package is CommonJS.
 *
 * @module
 */
// @ts-types="./msgpack/library.d.ts"
export { Decoder, Encoder } from "npm:@msgpack/msgpack@3.1.3/dist.esm/index.mjs";
