/**
 * Reading errors of any language. The law: reading never fails, because an error about an error would hide the first
 * one. How errors are written stands in `exception.ts`.
 *
 * @module
 */
import { mergeFrames } from "./compression.ts";
import { isPickled, isSerialized, type Serialized } from "./envelope.ts";
import type { ErrorData } from "./errors.ts";
import { CAUSES_MAX, cut } from "./exception.ts";
import { decodeMsgpack } from "./msgpack/mod.ts";
import { isFileFrame } from "./payload.ts";
import { decodePickle } from "./pickle/decode.ts";
import { dictFields, globalName, plain } from "./pickle/globals.ts";
import { isNode, kindOf, type PyNode, type PyObject, pyText, type PyValue } from "./pickle/value.ts";
import { decodeValue } from "./value.ts";

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
