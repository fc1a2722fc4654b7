/**
 * A call of a TypeScript function as it travels inside a dask task: `Task(key, methodcaller("deno:op/<label>"),
 * <payload bytes>, TaskRef(dependency 0), TaskRef(dependency 1), …)`. The payload is opaque to the scheduler; the
 * dependencies stand beside it, so that dask sees them.
 *
 * @module
 */

/** Where the code of a function is found. */
export type FunctionRef =
  /** Export of a bundle. The bundle's bytes are the value of dependency number `dependency`; `hash` is their SHA-256 in hex. */
  | {
    readonly kind: "bundle";
    readonly hash: string;
    readonly dependency: number;
    readonly export: string;
    readonly url: string;
  }
  /** A self-contained function by its source text; `hash` is the SHA-256 of that text in hex. */
  | { readonly kind: "source"; readonly hash: string; readonly source: string }
  /** Export of a module by URL, optionally with an integrity (`sha256-<base64>` or `sha256=<hex>`) checked by the executor. */
  | { readonly kind: "url"; readonly url: string; readonly export: string; readonly integrity: string | null }
  /**
   * Built in. `collect(...items)` gives the list of its arguments; `at(value, key)` the element; `identity(value)` the
   * value (DataNode, alias); `bundle(bytes)` the bytes of a bundle as a `Uint8Array`.
   */
  | { readonly kind: "builtin"; readonly name: "collect" | "at" | "identity" | "bundle" };

/** Stands in the arguments where the value of a dependency goes; one level into arrays is allowed. Tagged plain data. */
export interface DependencyRef {
  readonly $dependency: number;
}

/** One call. `args` holds plain values (see `value.ts`) and {@linkcode DependencyRef}s. */
export interface FunctionCall {
  readonly function: FunctionRef;
  readonly args: readonly unknown[];
}

/** The prefix of `methodcaller` names that carry a {@linkcode FunctionCall}. */
export const CALL_PREFIX = "deno:op/";
/** The prefix of `methodcaller` names that a Python client writes: `deno:<module URL>#<export>[?sha256=…]`. */
export const MODULE_PREFIX = "deno:";
