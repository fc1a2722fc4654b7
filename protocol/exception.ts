/**
 * Writing errors for readers in any language. The law: what is written is a builtin exception of Python that every
 * process can unpickle and print, and text is cut at {@linkcode TEXT_CHARS_MAX} characters, as Python cuts its own.
 *
 * An exception of ours is `TypeError("x is not a function")`, or the builtin that comes next with the JavaScript name in
 * front of the message. Its `__notes__` carry the stack, which Python 3.11 prints; its attribute `javascript` carries
 * the whole {@linkcode ErrorData} for readers in TypeScript, which is what `remote_error.ts` reads.
 *
 * @module
 */
import { concatBytes } from "./bytes.ts";
import type { ErrorData } from "./errors.ts";
import { encodeMsgpack } from "./msgpack/mod.ts";
import type { Payload } from "./payload.ts";

/** Messages, stacks and notes are cut here. */
export const TEXT_CHARS_MAX = 10_000;

/** How many causes of an error, and how many errors of an aggregate, are told. */
export const CAUSES_MAX = 8;

/** What a `task-erred` message says about an error. */
export interface WrittenException {
  /** `Serialize(pickle of the exception)`. */
  readonly exception: Payload;
  /** Always null: a traceback of Python's kind cannot be made here, and any other would break Python's client. */
  readonly traceback: null;
  readonly exceptionText: string;
  readonly tracebackText: string;
}

/** Writes an error for readers in any language. */
export function writeException(error: ErrorData): WrittenException {
  const { name, kind, exit } = error;
  const message = cut(error.message);
  const stack = cut(error.stack);
  const pythonClass = builtinFor(error);
  const said = name === pythonClass ? message : message === "" ? name : cut(`${name}: ${message}`);
  const javascript = {
    name: cut(name),
    message,
    stack,
    kind,
    ...(exit === undefined ? {} : { exit: cut(exit) }),
  };
  const notes = stack === ""
    ? []
    : [text("__notes__"), op(EMPTY_LIST), text(`JavaScript stack:\n${stack}`), op(APPEND)];
  const pickle = concatBytes([
    op(PROTO, 4),
    ...global("builtins", pythonClass),
    text(said),
    op(TUPLE1, REDUCE, EMPTY_DICT, MARK),
    ...notes,
    text("javascript"),
    op(EMPTY_DICT, MARK),
    ...Object.entries(javascript).flat().map(text),
    op(SETITEMS, SETITEMS, BUILD, STOP),
  ]);
  return {
    exception: { header: BYTES_HEADER, frames: [pickle] },
    traceback: null,
    exceptionText: name === "" ? message : cut(`${name}: ${message}`),
    tracebackText: stack,
  };
}

// A pickle of texts alone, written by hand: whoever reports errors then needs nothing of the codec of values, which a
// worker at rest does without.
const [PROTO, MARK, STOP, REDUCE, TUPLE1, STACK_GLOBAL] = [0x80, 0x28, 0x2e, 0x52, 0x85, 0x93];
const [EMPTY_DICT, SETITEMS, BUILD, EMPTY_LIST, APPEND, BINUNICODE] = [0x7d, 0x75, 0x62, 0x5d, 0x61, 0x58];

function op(...codes: readonly number[]): Uint8Array {
  return Uint8Array.from(codes);
}

/** A `str`, of well-formed text. */
function text(text: string): Uint8Array {
  const utf8 = new TextEncoder().encode(text);
  const length = utf8.length;
  return concatBytes([op(BINUNICODE, length, length >>> 8, length >>> 16, length >>> 24), utf8]);
}

/** A name of a module. */
function global(module: string, name: string): Uint8Array[] {
  return [text(module), text(name), op(STACK_GLOBAL)];
}

/** The header of bytes as a value, as `encodeValue` writes it. */
const BYTES_HEADER = encodeMsgpack({
  serializer: "dask",
  type: "builtins.bytes",
  "type-serialized": concatBytes([op(PROTO, 4), ...global("builtins", "bytes"), op(STOP)]),
  "sub-header": {},
  "num-sub-frames": 1,
});

/** The builtin exception that says most nearly the same; all of them are made from one string. */
function builtinFor(error: ErrorData): string {
  if (error.kind === "lost") {
    return /out of memory|\boom\b|heap limit|memory limit/i.test(`${error.exit ?? ""} ${error.message}`)
      ? "MemoryError"
      : "RuntimeError";
  }
  switch (error.name) {
    case "TypeError":
    case "TimeoutError":
    case "MemoryError":
      return error.name;
    case "RangeError":
      return "ValueError";
    default:
      return "RuntimeError";
  }
}

/** Text as it is told. */
export function cut(text: string): string {
  if (text.length <= TEXT_CHARS_MAX) return text.toWellFormed();
  return text.slice(0, TEXT_CHARS_MAX - 1).toWellFormed() + "…";
}

/**
 * Any thrown thing as plain data, non-Errors and hostile proxies included. Never throws. The causes of an error, and
 * the errors of an aggregate, follow in its `stack`.
 */
export function errorData(thrown: unknown, kind: ErrorData["kind"] = "failed"): ErrorData {
  try {
    if (typeof thrown !== "object" || thrown === null) return nonError(thrown, kind);
    const name = textOf(thrown, "name");
    const message = textOf(thrown, "message");
    if (name === undefined && message === undefined) return nonError(thrown, kind);
    const causes: string[] = [];
    describeCauses(thrown, causes, new Set([thrown]));
    const stack = textOf(thrown, "stack") ?? "";
    const exit = textOf(thrown, "exit");
    return {
      name: cut(name || classOf(thrown) || "Error"),
      message: cut(message ?? ""),
      stack: cut([stack, ...causes].filter((part) => part !== "").join("\n")),
      kind,
      ...(exit === undefined ? {} : { exit: cut(exit) }),
    };
  } catch {
    return { name: "Error", message: "A thrown object that cannot be inspected", stack: "", kind };
  }
}

function nonError(thrown: unknown, kind: ErrorData["kind"]): ErrorData {
  return { name: "Error", message: cut(`Thrown: ${inspect(thrown)}`), stack: "", kind };
}

/** What was thrown, in one line. */
function inspect(thrown: unknown): string {
  switch (typeof thrown) {
    case "string":
      return JSON.stringify(thrown.slice(0, TEXT_CHARS_MAX));
    case "function":
      return "a function";
    case "object":
      break;
    case "bigint":
      return BigInt.asIntN(256, thrown) === thrown ? `${thrown}n` : "a huge bigint";
    default:
      return String(thrown);
  }
  if (thrown === null) return "null";
  const name = classOf(thrown) ?? "Object";
  try {
    const json: unknown = JSON.stringify(thrown);
    if (typeof json === "string" && json.length <= 1000) return name === "Object" ? json : `${name} ${json}`;
  } catch {
    // Cycles, bigints, traps: the class must do.
  }
  return `an instance of ${name}`;
}

function textOf(object: object, field: string): string | undefined {
  try {
    const value: unknown = (object as Record<string, unknown>)[field];
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}

function classOf(object: object): string | undefined {
  try {
    const { constructor } = object;
    return typeof constructor === "function" && typeof constructor.name === "string"
      ? constructor.name
      : undefined;
  } catch {
    return undefined;
  }
}

function describeCauses(thrown: object, into: string[], seen: Set<unknown>): void {
  const tell = (label: string, one: unknown) => {
    if (into.length >= CAUSES_MAX || seen.has(one)) return;
    seen.add(one);
    if (typeof one !== "object" || one === null) {
      into.push(`${label}: ${inspect(one)}`);
      return;
    }
    const head = `${textOf(one, "name") ?? classOf(one) ?? "Error"}: ${
      textOf(one, "message") ?? inspect(one)
    }`;
    const stack = textOf(one, "stack") ?? "";
    into.push(`${label}: ${stack.startsWith(head) ? stack : stack === "" ? head : `${head}\n${stack}`}`);
    describeCauses(one, into, seen);
  };
  let cause: unknown;
  let errors: unknown;
  try {
    cause = (thrown as { cause?: unknown }).cause;
    errors = (thrown as { errors?: unknown }).errors;
  } catch {
    return;
  }
  if (cause !== undefined && cause !== null) tell("Caused by", cause);
  if (Array.isArray(errors)) {
    for (const one of errors.slice(0, CAUSES_MAX)) tell("One of its errors", one);
  }
}
