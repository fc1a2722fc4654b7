/**
 * Modules of the runtime that only TLS needs. Loaded when the first TLS listener opens: they cost an idle worker megabytes.
 *
 * @module
 */
export { Duplex } from "node:stream";
export { createServer, type TLSSocket } from "node:tls";
