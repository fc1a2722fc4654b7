/**
 * What a pickle says, as tagged plain data, before anything is made of it. The law: every kind of Python value stays
 * distinguishable (a tuple is not a list, bytes are not text), nothing is constructed, nothing is looked up. A node may
 * be reached on several ways, and even through itself, exactly as in the pickle.
 *
 * @module
 */

/** Any value in a pickle. Integers are numbers within ±(2^53-1), bigints beyond; `bytes` and buffers are `Uint8Array`s. */
export type PyValue = null | boolean | number | bigint | string | Uint8Array | PyNode;

/** A value that is made of others, or a name. */
export type PyNode = PyList | PyTuple | PyDict | PySet | PyGlobal | PyObject;

/** `done` belongs to the converter: what this node became, or a mark that it is being converted. */
interface Convertible {
  done: unknown;
}

export interface PyList extends Convertible {
  readonly $: "list";
  readonly items: PyValue[];
}

export interface PyTuple extends Convertible {
  readonly $: "tuple";
  readonly items: readonly PyValue[];
}

/** `entries` holds keys and values by turns, in the order of the pickle, doubles included. */
export interface PyDict extends Convertible {
  readonly $: "dict";
  readonly entries: PyValue[];
}

export interface PySet extends Convertible {
  readonly $: "set";
  readonly frozen: boolean;
  readonly items: PyValue[];
}

/** The name of a class or function. `name` may be dotted. */
export interface PyGlobal extends Convertible {
  readonly $: "global";
  readonly module: string;
  readonly name: string;
}

/** "Call `callable` with these arguments": never done, only told. */
export interface PyObject extends Convertible {
  readonly $: "object";
  readonly callable: PyValue;
  readonly args: readonly PyValue[];
  readonly kwargs: PyDict | null;
  /** What the object is to be built with afterwards; `undefined` when nothing. */
  state: PyValue | undefined;
  /** Items appended, and entries set, afterwards. */
  readonly items: PyValue[];
  readonly entries: PyValue[];
}

export function pyList(): PyList {
  return { $: "list", items: [], done: undefined };
}

export function pyTuple(items: readonly PyValue[]): PyTuple {
  return { $: "tuple", items, done: undefined };
}

export function pyDict(): PyDict {
  return { $: "dict", entries: [], done: undefined };
}

export function pySet(frozen: boolean, items: PyValue[]): PySet {
  return { $: "set", frozen, items, done: undefined };
}

export function pyGlobal(module: string, name: string): PyGlobal {
  return { $: "global", module, name, done: undefined };
}

export function pyObject(callable: PyValue, args: readonly PyValue[], kwargs: PyDict | null): PyObject {
  return { $: "object", callable, args, kwargs, state: undefined, items: [], entries: [], done: undefined };
}

/** Whether a value is a node of that kind. */
export function isNode<K extends PyNode["$"]>(
  value: PyValue | undefined,
  kind: K,
): value is PyNode & { $: K } {
  return typeof value === "object" && value !== null && !(value instanceof Uint8Array) && value.$ === kind;
}

/** `module.name` of a global, `""` for anything else. */
export function qualifiedName(value: PyValue | undefined): string {
  return isNode(value, "global") ? `${value.module}.${value.name}` : "";
}

/** What a value is, in Python's words, for error texts. */
export function kindOf(value: PyValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "None";
  switch (typeof value) {
    case "boolean":
      return "a bool";
    case "number":
      return Number.isInteger(value) ? "an int" : "a float";
    case "bigint":
      return "an int";
    case "string":
      return "a str";
  }
  if (value instanceof Uint8Array) return "bytes";
  if (value.$ === "global") return `the name "${value.module}.${value.name}"`;
  if (value.$ === "object") return `an object of ${qualifiedName(value.callable) || "an unnamed class"}`;
  return `a ${value.$}`;
}

/** A text as Python's `repr` prints it. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"');
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

/** How many characters {@linkcode pyText} gives at most. */
const TEXT_CHARS_MAX = 400;
const TEXT_DEPTH_MAX = 6;

/** Roughly what Python's `repr` would print, in one short line; bounded for any value, also for one that holds itself. */
export function pyText(value: PyValue): string {
  let text = "";
  const put = (piece: string): boolean => {
    if (text.length < TEXT_CHARS_MAX) text += piece;
    return text.length < TEXT_CHARS_MAX;
  };
  const list = (items: readonly PyValue[], depth: number, pairs = false): void => {
    for (let i = 0; i < items.length; i++) {
      if (i > 0 && !put(pairs && i % 2 === 1 ? ": " : ", ")) return;
      one(items[i] ?? null, depth + 1);
      if (text.length >= TEXT_CHARS_MAX) return;
    }
  };
  const one = (item: PyValue, depth: number): void => {
    if (item === null) return void put("None");
    switch (typeof item) {
      case "boolean":
        return void put(item ? "True" : "False");
      case "number":
        return void put(String(item));
      case "bigint":
        // Decimal digits of a huge integer cost quadratic time; hexadecimal ones do not, but are of no use to people.
        return void put(BigInt.asIntN(256, item) === item ? String(item) : "<huge int>");
      case "string":
        return void put(quoted(item.slice(0, TEXT_CHARS_MAX)));
    }
    if (item instanceof Uint8Array) return void put(`<${item.byteLength} bytes>`);
    if (item.$ === "global") return void put(`${item.module}.${item.name}`);
    if (depth > TEXT_DEPTH_MAX) return void put("…");
    switch (item.$) {
      case "list":
        put("[");
        list(item.items, depth);
        return void put("]");
      case "tuple":
        put("(");
        list(item.items, depth);
        return void put(item.items.length === 1 ? ",)" : ")");
      case "dict":
        put("{");
        list(item.entries, depth, true);
        return void put("}");
      case "set":
        put("{");
        list(item.items, depth);
        return void put("}");
      case "object":
        one(item.callable, depth + 1);
        put("(");
        list(item.args, depth);
        return void put(")");
    }
  };
  one(value, 0);
  return text.length >= TEXT_CHARS_MAX ? `${text.slice(0, TEXT_CHARS_MAX)}…` : text;
}
