/**
 * Errors between languages. The law: reading never fails (an error about an error would hide the first one), writing
 * gives Python a builtin exception that every process can unpickle and print, and text is cut at
 * {@linkcode TEXT_CHARS_MAX} characters, as Python cuts its own.
 *
 * An exception of ours is `TypeError("x is not a function")`, or the builtin that comes next with the JavaScript name in
 * front of the message. Its `__notes__` carry the stack, which Python 3.11 prints; its attribute `javascript` carries
 * the whole {@linkcode ErrorData} for readers in TypeScript.
 *
 * @module
 */
import { mergeFrames } from "./compression.ts";
import { isPickled, isSerialized, type Serialized } from "./envelope.ts";
import type { ErrorData } from "./errors.ts";
import { decodeMsgpack } from "./msgpack/mod.ts";
import { isFileFrame, type Payload } from "./payload.ts";
import { decodePickle } from "./pickle/decode.ts";
import { BUILD, EMPTY_DICT, MARK, REDUCE, SETITEMS, STOP, TUPLE1, withWriter } from "./pickle/encode.ts";
import { dictFields, globalName, plain } from "./pickle/globals.ts";
import { isNode, kindOf, type PyNode, type PyObject, pyText, type PyValue } from "./pickle/value.ts";
import { decodeValue, encodeValue } from "./value.ts";

/** Messages, stacks and notes are cut here. */
export const TEXT_CHARS_MAX = 10_000;

/** How many causes of an error, and how many errors of an aggregate, are told. */
const CAUSES_MAX = 8;

/** How many levels of a Python traceback are told: the outermost and the innermost half. */
const LEVELS_MAX = 100;

/** An error of any language. */
export interface RemoteErrorData extends ErrorData {
  /** `module.Class` of a Python exception; missing when the error was thrown by TypeScript. */
  readonly pythonClass?: string;
  /** What was added to a Python exception with `add_note`. */
  readonly notes?: readonly string[];
  /** What a Python exception was raised from, or while handling which. */
  readonly cause?: RemoteErrorData;
}

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
  const text = name === pythonClass ? message : message === "" ? name : cut(`${name}: ${message}`);
  const javascript = {
    name: cut(name),
    message,
    stack,
    kind,
    ...(exit === undefined ? {} : { exit: cut(exit) }),
  };
  const pickle = withWriter((writer) => {
    writer.global("builtins", pythonClass);
    writer.text(text);
    writer.op(TUPLE1);
    writer.op(REDUCE);
    writer.op(EMPTY_DICT);
    writer.op(MARK);
    if (stack !== "") {
      writer.text("__notes__");
      writer.value([`JavaScript stack:\n${stack}`], "notes");
    }
    writer.text("javascript");
    writer.value(javascript, "error");
    writer.op(SETITEMS);
    writer.op(BUILD);
    writer.op(STOP);
    return writer.bytes();
  });
  return {
    exception: encodeValue(pickle),
    traceback: null,
    exceptionText: name === "" ? message : cut(`${name}: ${message}`),
    tracebackText: stack,
  };
}

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

function cut(text: string): string {
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

/**
 * Reads an exception and its traceback in any form in which they come: serialized, pickled, bare bytes, text. Never
 * throws. What cannot be read is told as what it is.
 */
export function readException(exception: unknown, traceback: unknown): RemoteErrorData {
  let levels = "";
  try {
    levels = formatTraceback(unwrap(traceback));
  } catch {
    // A traceback that cannot be read is worth less than the exception.
  }
  try {
    if (typeof exception === "string") return textual(exception, levels);
    const value = unwrap(exception);
    if (typeof value === "string") return textual(value, levels);
    if (!isNode(value, "object") && !isNode(value, "global")) {
      return unreadable(`expected an exception, got ${kindOf(value)}`, levels);
    }
    return readNode(value, levels, 0, new Set());
  } catch (error) {
    return unreadable(error instanceof Error ? error.message : "it is malformed", levels);
  }
}

function textual(text: string, stack: string): RemoteErrorData {
  const match = /^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt)): ([^]*)$/.exec(text);
  const [, name = "Error", message = text] = match ?? [];
  return { name, message: cut(message), stack: cut(stack), kind: "failed" };
}

function unreadable(reason: string, stack: string): RemoteErrorData {
  return {
    name: "Error",
    message: cut(`An error that cannot be read: ${reason}`),
    stack: cut(stack),
    kind: "failed",
  };
}

/** Takes off the layers: a serialized value that holds bytes that hold a pickle. */
function unwrap(wire: unknown): PyValue {
  let value = wire;
  for (let layers = 0; layers < 4; layers++) {
    if (isSerialized(value)) value = readSerialized(value);
    else if (isPickled(value)) value = decodePickle(value.pickle, value.buffers);
    else if (value instanceof Uint8Array) value = decodePickle(value);
    else break;
  }
  return value === undefined ? null : value as PyValue;
}

/** The pickle inside as a node; any other value as it is, provided it is bytes or text. */
function readSerialized({ payload }: Serialized): PyValue {
  const frames: Uint8Array[] = [];
  for (const frame of payload.frames) {
    if (isFileFrame(frame)) throw new Error(`it lies in a file of ${frame.byteLength} bytes`);
    frames.push(frame);
  }
  const header = decodeMsgpack(payload.header) as Readonly<Record<string, unknown>>;
  if (header.serializer === "pickle") {
    const [pickle, ...buffers] = mergeFrames(header, frames);
    if (pickle !== undefined) return decodePickle(pickle, buffers);
  }
  const value = decodeValue({ header: payload.header, frames });
  return value instanceof Uint8Array || typeof value === "string" ? value : null;
}

/** An exception, in one of the forms of tblib or as Python itself pickles it. */
function readNode(node: PyNode, outerLevels: string, depth: number, seen: Set<PyNode>): RemoteErrorData {
  seen.add(node);
  const parts = exceptionParts(node);
  const state = parts.state;
  const own = ourData(state.get("javascript"));
  if (own !== undefined) return own;
  const levels = formatTraceback(parts.traceback) || outerLevels;
  const pythonClass = isNode(parts.type, "global") ? globalName(parts.type) : "";
  const [name, message] = describe(pythonClass, parts);
  const notes = textList(parts.notes ?? state.get("__notes__"));
  const causeNode = parts.cause ?? parts.context;
  const cause = isNode(causeNode, "object") && depth < CAUSES_MAX && !seen.has(causeNode)
    ? readNode(causeNode, "", depth + 1, seen)
    : undefined;
  const heading = levels === "" ? "" : `Traceback (most recent call last):\n${levels}\n`;
  const members = subExceptions(name, parts.args).slice(0, CAUSES_MAX).flatMap((one) =>
    isNode(one, "object") && depth < CAUSES_MAX && !seen.has(one)
      ? [`One of its errors: ${readNode(one, "", depth + 1, seen).stack}`]
      : []
  );
  const told = [`${heading}${name}${message === "" ? "" : `: ${message}`}`, ...notes, ...members].join("\n");
  const link = parts.cause !== undefined
    ? "The above exception was the direct cause of the following exception:"
    : "During handling of the above exception, another exception occurred:";
  return {
    name,
    message: cut(message),
    stack: cut(cause === undefined ? told : `${cause.stack}\n\n${link}\n\n${told}`),
    kind: pythonClass === "distributed.scheduler.KilledWorker" ? "lost" : "failed",
    ...(pythonClass === "" ? {} : { pythonClass }),
    ...(notes.length === 0 ? {} : { notes }),
    ...(cause === undefined ? {} : { cause }),
  };
}

interface ExceptionParts {
  readonly type: PyValue | undefined;
  readonly args: readonly PyValue[];
  readonly state: ReadonlyMap<string, PyValue>;
  readonly cause: PyValue | undefined;
  readonly context: PyValue | undefined;
  readonly traceback: PyValue | undefined;
  readonly notes: PyValue | undefined;
}

const NO_FIELDS: ReadonlyMap<string, PyValue> = new Map();

function exceptionParts(node: PyNode): ExceptionParts {
  const none = { cause: undefined, context: undefined, traceback: undefined, notes: undefined };
  if (!isNode(node, "object")) return { type: node, args: [], state: NO_FIELDS, ...none };
  const state = isNode(node.state, "dict") ? dictFields(node.state) : NO_FIELDS;
  const [type, second, cause, traceback, context, suppress, notes, last] = node.args;
  const chain = {
    cause: cause ?? undefined,
    context: suppress === true ? undefined : context ?? undefined,
    traceback,
    notes: notes ?? undefined,
  };
  switch (globalName(node.callable)) {
    case "tblib.pickling_support.unpickle_exception":
      // The class, or a function that makes the exception, and what it is called with.
      return { type, args: isNode(second, "tuple") ? second.items : [], state, ...chain };
    case "tblib.pickling_support.unpickle_exception_with_attrs": {
      const attributes = isNode(second, "dict") ? dictFields(second) : NO_FIELDS;
      const args = attributes.get("args") ?? last;
      const dict = attributes.get("__dict__");
      return {
        type,
        args: isNode(args, "tuple") ? args.items : [],
        state: new Map([...attributes, ...(isNode(dict, "dict") ? dictFields(dict) : []), ...state]),
        ...chain,
      };
    }
  }
  return {
    type: node.callable,
    args: node.args,
    state,
    cause: state.get("__cause__") ?? undefined,
    context: undefined,
    traceback: undefined,
    notes: undefined,
  };
}

/** Name and message, about as Python prints them. */
function describe(
  pythonClass: string,
  { type, args, state }: ExceptionParts,
): [name: string, message: string] {
  const name = pythonClass.startsWith("builtins.") ? pythonClass.slice(9) : pythonClass;
  const [first, second, third] = args;
  if (pythonClass === "distributed.scheduler.KilledWorker") {
    const restarts = third ?? 3;
    const worker = isNode(second, "object") || second === undefined ? workerText(second) : pyText(second);
    return [
      name,
      `Task ${pyText(first ?? null)} was tried ${
        Number(restarts) + 1
      } times on workers that died while they ran it` +
      (worker === "" ? "" : `; the last one was ${worker}`),
    ];
  }
  if (name === "") return ["Error", pyText(type ?? null)];
  if (args.length === 0) return [name, ""];
  if (args.length === 1) {
    return [name, typeof first === "string" && name !== "KeyError" ? first : pyText(first!)];
  }
  if (typeof first === "number" && typeof second === "string" && OS_ERRORS.test(name)) {
    const file = third ?? state.get("filename") ?? null;
    return [name, `[Errno ${first}] ${second}${file === null ? "" : `: ${pyText(file)}`}`];
  }
  // Python's worker cuts exceptions that are too long into this form.
  if (first === "Long error message" && typeof second === "string") return [name, second];
  if (typeof first === "string" && subExceptions(name, args).length > 0) {
    return [name, `${first} (${subExceptions(name, args).length} sub-exceptions)`];
  }
  return [name, `(${args.map(pyText).join(", ")})`];
}

/** What an `ExceptionGroup` holds. */
function subExceptions(name: string, args: readonly PyValue[]): readonly PyValue[] {
  const [, list] = args;
  return /^(Base)?ExceptionGroup$/.test(name) && (isNode(list, "list") || isNode(list, "tuple"))
    ? list.items
    : [];
}

/** The kinds of `OSError`: their arguments are a number, a text, and often a file. */
const OS_ERRORS =
  /^(OSError|(BlockingIO|BrokenPipe|ChildProcess|Connection\w*|File\w+|Interrupted|IsADirectory|NotADirectory|Permission|ProcessLookup|Timeout)Error)$/;

/** The address in a pickled `WorkerState`, wherever this release keeps it. */
function workerText(worker: PyValue | undefined): string {
  if (!isNode(worker, "object")) return "";
  const candidates: PyValue[] = [...worker.args];
  const visit = (value: PyValue | undefined, depth: number) => {
    if (depth > 2 || value === undefined) return;
    if (isNode(value, "tuple")) { for (const item of value.items.slice(0, 8)) visit(item, depth + 1); }
    else if (isNode(value, "dict")) candidates.push(dictFields(value).get("address") ?? null);
  };
  visit(worker.state, 0);
  const address = candidates.find((value) => typeof value === "string" && /^\w+:\/\//.test(value));
  return typeof address === "string" ? address : "";
}

function textList(value: PyValue | undefined): string[] {
  if (!isNode(value, "list") && !isNode(value, "tuple")) return [];
  return value.items.slice(0, 20).map((item) => cut(typeof item === "string" ? item : pyText(item)));
}

/** What our own writer put beside the exception. */
function ourData(value: PyValue | undefined): RemoteErrorData | undefined {
  if (!isNode(value, "dict")) return undefined;
  const { name, message, stack, kind, exit } = plain(value) as Record<string, unknown>;
  if (typeof name !== "string" || typeof message !== "string" || typeof stack !== "string") return undefined;
  if (kind !== "failed" && kind !== "lost") return undefined;
  return {
    name: cut(name),
    message: cut(message),
    stack: cut(stack),
    kind,
    ...(typeof exit === "string" ? { exit: cut(exit) } : {}),
  };
}

/** The levels of a traceback as Python prints them, outermost first, without source lines: those do not travel. */
function formatTraceback(traceback: PyValue | undefined): string {
  const lines: string[] = [];
  let node: PyValue | undefined = traceback;
  const seen = new Set<PyObject>();
  while (isNode(node, "object") && !seen.has(node)) {
    seen.add(node);
    const state: ReadonlyMap<string, PyValue> = isNode(node.state, "dict")
      ? dictFields(node.state)
      : NO_FIELDS;
    const [frame, line, next] = globalName(node.callable) === "tblib.pickling_support.unpickle_traceback"
      ? node.args
      : [state.get("tb_frame"), state.get("tb_lineno"), state.get("tb_next")];
    if (frame === undefined) break;
    const frameFields = fieldsOf(frame);
    const codeFields = fieldsOf(frameFields.get("f_code"));
    const file = codeFields.get("co_filename");
    const name = codeFields.get("co_name");
    lines.push(
      `  File "${typeof file === "string" ? file : "?"}", line ${typeof line === "number" ? line : "?"}, in ${
        typeof name === "string" ? name : "?"
      }`,
    );
    node = next;
  }
  if (lines.length > LEVELS_MAX) {
    const left = lines.length - LEVELS_MAX;
    lines.splice(LEVELS_MAX / 2, left, `  … ${left} more levels …`);
  }
  return lines.join("\n");
}

function fieldsOf(value: PyValue | undefined): ReadonlyMap<string, PyValue> {
  return isNode(value, "object") && isNode(value.state, "dict") ? dictFields(value.state) : NO_FIELDS;
}
