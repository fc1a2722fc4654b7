/**
 * Many calls of one function as one task: its result is the list of theirs.
 *
 * @module
 */
import { assert } from "../base/assert.ts";
import { DaskError } from "../protocol/errors.ts";
import type { FunctionRef } from "../protocol/call.ts";
import type { Code, TravelledCode } from "./code.ts";
import { type AnyOp, asOp, callNode, nodeOf, type Op, type TaskOptions } from "./node.ts";

/**
 * Code that makes several calls. Its arguments are those of all calls, one call after the other, each behind their number:
 * so nodes and futures among them stand where they stand in any call.
 */
class EachCode implements Code {
  readonly label: string;
  readonly #one: Code;

  constructor(one: Code) {
    this.label = one.label;
    this.#one = one;
  }

  get token(): string {
    return `each ${this.#one.token}`;
  }

  get localToken(): string {
    return `each ${this.#one.localToken}`;
  }

  travel(): TravelledCode {
    const one = this.#one.travel();
    const each = (fn: FunctionRef): FunctionRef => {
      assert(fn.kind !== "each", "A chunk is made of single calls");
      return { kind: "each", function: fn };
    };
    switch (one.kind) {
      case "plain":
        return { kind: "plain", function: each(one.function) };
      case "bundle":
        return { ...one, function: (dependency) => each(one.function(dependency)) };
      case "python":
        throw new TypeError(
          `Cannot make chunks of "${one.module}:${one.name}": expected a task in TypeScript; leave out chunkSize`,
        );
    }
  }

  load(): never {
    throw new DaskError(`Cannot run a chunk of "${this.label}" in this process: chunks are for clusters`);
  }
}

/**
 * Makes one node of several that call the same task with the same options; it gives the list of their results.
 *
 * @throws {TypeError} when they do not, or have keys of their own.
 */
export function chunkOf<R>(nodes: readonly Op<R>[]): Op<R[]> {
  const first = callOf(nodes[0]!);
  const args: unknown[] = [];
  for (const op of nodes) {
    const { code, options, args: own } = callOf(op);
    // A function that is written where it is mapped is another object for each item, and the same code.
    const same = code === first.code || code.token === first.code.token;
    if (!same || !areEqual(options, first.options)) {
      throw new TypeError(
        `Cannot put "${first.code.label}" and "${code.label}" into one chunk: expected calls of one task with the same ` +
          `options; leave out chunkSize`,
      );
    }
    args.push(own.length, ...own);
  }
  first.code.travel(); // refuses what cannot be sent
  return asOp<R[]>(callNode(new EachCode(first.code), args, first.options));
}

interface Call {
  readonly code: Code;
  readonly args: readonly unknown[];
  readonly options: TaskOptions;
}

function callOf(op: AnyOp): Call {
  const { content, options, label } = nodeOf(op);
  if (content.kind !== "call") {
    throw new TypeError(
      `Cannot put "${label}" into a chunk: expected a call of a task, as task(f)(item); leave out chunkSize`,
    );
  }
  if (options.key !== undefined) {
    throw new TypeError(
      `Cannot put "${options.key}" into a chunk: what has a key of its own is a task of its own; leave out chunkSize`,
    );
  }
  return { code: content.code, args: content.args, options };
}

function areEqual(a: TaskOptions, b: TaskOptions): boolean {
  if (a === b) return true;
  const names = Object.keys(a) as (keyof TaskOptions)[];
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}
