/**
 * Whether a function can travel as its source text: it must not use anything of the place where it was written. The
 * names that it takes from outside must be globals of every JavaScript program, or what a task is given.
 *
 * The check reads the text that `toString()` gives, which is JavaScript: types are gone. It is a scope walk over the
 * syntax tree, no execution. `eval` of text is not looked into.
 *
 * @module
 */
import { type AnyNode, parse } from "./deps.ts";

/** What the check found. */
export type Verdict =
  /** `source` is an expression that evaluates to the function, wherever it stands. */
  | { readonly ok: true; readonly source: string }
  /** `reason` completes "Cannot send NAME: …". */
  | { readonly ok: false; readonly reason: string; readonly names: readonly string[] };

/** What a task finds in scope besides the globals. */
const GIVEN = ["current", "Reschedule"];

const WAY_OUT = "pass it as an argument, or move the function to a module and use tasks()";

/** Judges the text of a function. */
export function checkClosure(text: string): Verdict {
  if (/\{\s*\[native code\]\s*\}\s*$/.test(text)) {
    return refuse(
      "it is built in or made by bind(), so it has no source text; wrap it, as in (...args) => Math.max(...args)",
    );
  }
  const parsed = parseFunction(text);
  if (parsed === null) return refuse("its source text is not a function that can be read");
  const { root, source } = parsed;
  if (root.type === "ClassExpression") {
    return refuse(
      "it is a class; move it to a module and use tasks() with client.actor, or wrap a call of it",
    );
  }
  const walk = new ScopeWalk();
  walk.function(root, null);
  if (walk.trouble !== null) return refuse(walk.trouble);
  const names = [...walk.free].filter((name) => !globals().has(name) && !GIVEN.includes(name));
  if (names.length > 0) {
    const list = names.map((name) => `"${name}"`).join(", ");
    const it = names.length === 1 ? WAY_OUT : WAY_OUT.replace("it", "them");
    return refuse(`it uses ${list} of the place where it was written; ${it}`, names);
  }
  return { ok: true, source };
}

function refuse(reason: string, names: readonly string[] = []): Verdict {
  return { ok: false, reason, names };
}

/** A node with `start` and `end`, all that the walk needs to know. */
type Tree = AnyNode;

/** The function in a text, as it stands or as a method: `add(a) {}`, `async *rows() {}`, `get size() {}`. */
function parseFunction(text: string): { root: Tree; source: string } | null {
  const direct = parseExpression(`(${text}\n)`);
  if (direct !== null) {
    const fits = /^(FunctionExpression|ArrowFunctionExpression|ClassExpression)$/.test(direct.type);
    return fits ? { root: direct, source: text } : null;
  }
  const object = parseExpression(`({${text}\n})`);
  if (object?.type !== "ObjectExpression" || object.properties.length !== 1) return null;
  const property = object.properties[0]!;
  if (property.type !== "Property" || property.value.type !== "FunctionExpression") return null;
  // Its own name is no name inside a method, so it is left away.
  const { value } = property;
  const head = `${value.async ? "async " : ""}function${value.generator ? "*" : ""} `;
  const source = head + text.slice(value.start - 2, value.end - 2);
  const again = parseExpression(`(${source}\n)`);
  // A method may say `super`, a function may not: then there is no such function.
  return again === null ? { root: value, source: text } : { root: again, source };
}

function parseExpression(text: string): Tree | null {
  try {
    const program = parse(text, { ecmaVersion: "latest", sourceType: "module" });
    const [statement] = program.body;
    if (program.body.length !== 1 || statement?.type !== "ExpressionStatement") return null;
    return statement.expression;
  } catch {
    return null;
  }
}

/** One scope. `vars`: where `var` and functions go up to. */
interface Scope {
  readonly names: Set<string>;
  readonly parent: Scope | null;
  readonly isFunction: boolean;
}

/** Where `this`, `arguments` and `super` come from. */
type Receiver = "outside" | "plain" | "method";

/** Collects the names that a function takes from outside. */
class ScopeWalk {
  readonly free = new Set<string>();
  trouble: string | null = null;
  #receiver: Receiver = "outside";

  function(node: Tree, scope: Scope | null, receiver: Receiver = "plain"): void {
    if (node.type !== "ArrowFunctionExpression" && !isFunction(node)) return;
    const before = this.#receiver;
    const top = scope === null;
    // The travelling function itself has no receiver worth the name: `this` in it means a method torn off its object.
    if (node.type !== "ArrowFunctionExpression") this.#receiver = top ? "outside" : receiver;
    const own = newScope(scope, true);
    if (node.type === "FunctionExpression" && node.id != null) own.names.add(node.id.name);
    if (node.type !== "ArrowFunctionExpression") own.names.add("arguments");
    for (const param of node.params) declare(param, own);
    for (const param of node.params) this.#pattern(param, own);
    if (node.body.type === "BlockStatement") {
      const body = newScope(own, true);
      hoist(node.body.body, body, body);
      for (const statement of node.body.body) this.#walk(statement, body);
    } else {
      this.#walk(node.body, own);
    }
    this.#receiver = before;
  }

  #use(name: string, scope: Scope): void {
    for (let at: Scope | null = scope; at !== null; at = at.parent) if (at.names.has(name)) return;
    if (name === "arguments") {
      this.trouble ??= `it uses "arguments" of the function around it; take (...args) instead`;
      return;
    }
    this.free.add(name);
  }

  /** Defaults and computed keys inside a binding pattern; the names are declared already. */
  #pattern(node: Tree | null | undefined, scope: Scope): void {
    switch (node?.type) {
      case undefined:
      case "Identifier":
        return;
      case "AssignmentPattern":
        this.#pattern(node.left, scope);
        this.#walk(node.right, scope);
        return;
      case "RestElement":
        return this.#pattern(node.argument, scope);
      case "ArrayPattern":
        for (const element of node.elements) this.#pattern(element, scope);
        return;
      case "ObjectPattern":
        for (const property of node.properties) {
          if (property.type === "RestElement") this.#pattern(property.argument, scope);
          else {
            if (property.computed) this.#walk(property.key, scope);
            this.#pattern(property.value, scope);
          }
        }
        return;
      default:
        this.#walk(node!, scope);
    }
  }

  #walk(node: Tree, scope: Scope): void {
    switch (node.type) {
      case "Identifier":
        return this.#use(node.name, scope);
      case "ThisExpression":
        if (this.#receiver === "outside") {
          this.trouble ??= `it uses "this" of the place where it was written; ${WAY_OUT}`;
        }
        return;
      case "Super":
        if (this.#receiver !== "method") {
          this.trouble ??= `it uses "super"; move its class to a module and use tasks()`;
        }
        return;
      case "MetaProperty":
        if (node.meta.name === "import") {
          this.trouble ??=
            `it uses import.meta of the module where it was written; pass what it needs as an argument, or move the ` +
            `function to a module and use tasks()`;
        }
        return;
      case "ImportExpression":
        return this.#dynamicImport(node.source, node.options, scope);
      case "FunctionDeclaration":
      case "FunctionExpression":
      case "ArrowFunctionExpression":
        return this.function(node, scope);
      case "ClassDeclaration":
      case "ClassExpression":
        return this.#class(node, scope);
      case "BlockStatement":
      case "StaticBlock": {
        const inner = newScope(scope, node.type === "StaticBlock");
        hoist(node.body, inner, functionScope(inner));
        for (const statement of node.body) this.#walk(statement, inner);
        return;
      }
      case "ForStatement":
      case "ForInStatement":
      case "ForOfStatement":
      case "SwitchStatement": {
        const inner = newScope(scope, false);
        if (node.type === "SwitchStatement") {
          for (const branch of node.cases) hoist(branch.consequent, inner, functionScope(inner));
        } else {
          const head = node.type === "ForStatement" ? node.init : node.left;
          if (head?.type === "VariableDeclaration" && head.kind !== "var") {
            for (const { id } of head.declarations) declare(id, inner);
          }
        }
        return this.#children(node, inner);
      }
      case "CatchClause": {
        const inner = newScope(scope, false);
        if (node.param != null) {
          declare(node.param, inner);
          this.#pattern(node.param, inner);
        }
        return this.#walk(node.body, inner);
      }
      case "VariableDeclarator":
        this.#pattern(node.id, scope);
        if (node.init != null) this.#walk(node.init, scope);
        return;
      case "MemberExpression":
        this.#walk(node.object, scope);
        if (node.computed) this.#walk(node.property, scope);
        return;
      case "Property":
        if (node.computed) this.#walk(node.key, scope);
        if (isFunction(node.value) && (node.method || node.kind !== "init")) {
          return this.function(node.value, scope, "method");
        }
        return this.#walk(node.value, scope);
      case "LabeledStatement":
        return this.#walk(node.body, scope);
      case "BreakStatement":
      case "ContinueStatement":
        return;
      default:
        return this.#children(node, scope);
    }
  }

  #class(node: Tree, scope: Scope): void {
    if (node.type !== "ClassDeclaration" && node.type !== "ClassExpression") return;
    const inner = newScope(scope, false);
    if (node.id != null) inner.names.add(node.id.name);
    if (node.superClass != null) this.#walk(node.superClass, inner);
    for (const member of node.body.body) {
      if (member.type === "StaticBlock") {
        this.#as("method", () => this.#walk(member, inner));
        continue;
      }
      if (member.computed) this.#walk(member.key, inner);
      if (member.type === "MethodDefinition") this.function(member.value, inner, "method");
      else if (member.value != null) {
        const { value } = member;
        this.#as("method", () => this.#walk(value, inner));
      }
    }
  }

  #as(receiver: Receiver, walk: () => void): void {
    const before = this.#receiver;
    this.#receiver = receiver;
    walk();
    this.#receiver = before;
  }

  #dynamicImport(source: Tree, options: Tree | null | undefined, scope: Scope): void {
    if (source.type === "Literal" && typeof source.value === "string") {
      if (!/^(npm|node|jsr|https?|data):/.test(source.value)) {
        this.trouble ??=
          `it imports "${source.value}", which means something else on another machine; import by ` +
          `"npm:…", "jsr:…", "node:…" or "https://…", or move the function to a module and use tasks()`;
      }
    } else {
      this.#walk(source, scope);
    }
    if (options != null) this.#walk(options, scope);
  }

  #children(node: Tree, scope: Scope): void {
    for (const value of Object.values(node)) {
      if (isTree(value)) this.#walk(value, scope);
      else if (Array.isArray(value)) { for (const item of value) if (isTree(item)) this.#walk(item, scope); }
    }
  }
}

function isTree(value: unknown): value is Tree {
  return typeof value === "object" && value !== null && "type" in value && typeof value.type === "string";
}

function isFunction(node: Tree): node is Extract<Tree, { params: unknown; body: unknown }> {
  return node.type === "FunctionExpression" || node.type === "FunctionDeclaration" ||
    node.type === "ArrowFunctionExpression";
}

function newScope(parent: Scope | null, isFunction: boolean): Scope {
  return { names: new Set(), parent, isFunction };
}

function functionScope(scope: Scope): Scope {
  let at = scope;
  while (!at.isFunction && at.parent !== null) at = at.parent;
  return at;
}

/** Declares what statements bind: `let`, `const`, classes in `block`; `var` from anywhere below in `outer`. */
function hoist(statements: readonly Tree[], block: Scope, outer: Scope): void {
  for (const statement of statements) {
    switch (statement.type) {
      case "VariableDeclaration":
        if (statement.kind !== "var") { for (const { id } of statement.declarations) declare(id, block); }
        break;
      case "FunctionDeclaration":
      case "ClassDeclaration":
        if (statement.id != null) block.names.add(statement.id.name);
        break;
    }
    hoistVars(statement, outer);
  }
}

function hoistVars(node: Tree, outer: Scope): void {
  if (node.type === "VariableDeclaration" && node.kind === "var") {
    for (const { id } of node.declarations) declare(id, outer);
  }
  // `var` stops at functions and classes, and expressions hold none.
  if (isFunction(node) || !/Statement$|^(SwitchCase|CatchClause|VariableDeclaration)$/.test(node.type)) {
    return;
  }
  for (const value of Object.values(node)) {
    if (isTree(value)) hoistVars(value, outer);
    else if (Array.isArray(value)) { for (const item of value) if (isTree(item)) hoistVars(item, outer); }
  }
}

/** Declares the names of a binding pattern. */
function declare(node: Tree | null | undefined, scope: Scope): void {
  switch (node?.type) {
    case "Identifier":
      scope.names.add(node.name);
      return;
    case "AssignmentPattern":
      return declare(node.left, scope);
    case "RestElement":
      return declare(node.argument, scope);
    case "ArrayPattern":
      for (const element of node.elements) declare(element, scope);
      return;
    case "ObjectPattern":
      for (const property of node.properties) {
        declare(property.type === "RestElement" ? property.argument : property.value, scope);
      }
      return;
  }
}

let globalNames: ReadonlySet<string> | undefined;

/**
 * Names that mean the same wherever a task may run: ECMAScript, the Web as Deno has it, and Deno's own. Left out are
 * globals of no use to a task whose names programs use for their own: `name`, `location`, `close`, `prompt` and such.
 */
function globals(): ReadonlySet<string> {
  return globalNames ??= new Set(
    `undefined NaN Infinity globalThis eval isFinite isNaN parseFloat parseInt decodeURI decodeURIComponent encodeURI
    encodeURIComponent escape unescape Object Function Boolean Symbol Error AggregateError EvalError RangeError
    ReferenceError SyntaxError TypeError URIError SuppressedError Number BigInt Math Date String RegExp Array Int8Array
    Uint8Array Uint8ClampedArray Int16Array Uint16Array Int32Array Uint32Array BigInt64Array BigUint64Array
    Float16Array Float32Array Float64Array Map Set WeakMap WeakSet WeakRef FinalizationRegistry ArrayBuffer
    SharedArrayBuffer DataView Atomics JSON Promise Reflect Proxy Intl Iterator Temporal DisposableStack
    AsyncDisposableStack WebAssembly
    console self navigator performance crypto fetch atob btoa structuredClone queueMicrotask
    reportError setTimeout clearTimeout setInterval clearInterval
    AbortController AbortSignal Blob BroadcastChannel ByteLengthQueuingStrategy Cache CacheStorage CloseEvent
    CompressionStream CountQueuingStrategy Crypto CryptoKey CustomEvent DecompressionStream DOMException ErrorEvent
    Event EventSource EventTarget File FileReader FormData GPU GPUAdapter GPUBuffer GPUBufferUsage GPUDevice
    GPUMapMode GPUShaderStage GPUTextureUsage Headers ImageBitmap ImageData createImageBitmap MessageChannel
    MessageEvent MessagePort Navigator OffscreenCanvas Path2D Performance PerformanceEntry PerformanceMark
    PerformanceMeasure PerformanceObserver ProgressEvent PromiseRejectionEvent ReadableByteStreamController
    ReadableStream ReadableStreamBYOBReader ReadableStreamDefaultController ReadableStreamDefaultReader Request
    Response Storage SubtleCrypto TextDecoder TextDecoderStream TextEncoder TextEncoderStream TransformStream
    TransformStreamDefaultController URL URLPattern URLSearchParams WebSocket WebSocketStream Worker WritableStream
    WritableStreamDefaultController WritableStreamDefaultWriter
    Deno process Buffer global setImmediate clearImmediate`.split(/\s+/),
  );
}
