/**
 * Modules of the runtime that only TLS needs. Loaded at its first use: they cost an idle worker megabytes.
 *
 * @module
 */
export { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
export { Duplex } from "node:stream";
export { createServer, type TLSSocket } from "node:tls";
