/**
 * Third-party code of the graph front end, pinned. Only clients load it.
 *
 * @module
 */
export { type AnyNode, type Node, parse, type Program } from "npm:acorn@8.19.0";
