import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  decodeCall,
  encodeCall,
  type FunctionCall,
  functionNameIn,
  type FunctionRef,
} from "../../protocol/call.ts";
import { ProtocolError, SerializationError } from "../../protocol/errors.ts";
import { writeRunSpec } from "../../protocol/graph_pickle.ts";
import { encodePickle } from "../../protocol/pickle/encode.ts";

const functions: FunctionRef[] = [
  { kind: "bundle", hash: "ab12", dependency: 3, export: "add", url: "file:///mod.ts" },
  { kind: "source", hash: "cd34", source: "(a, b) => `${a}é` + b" },
  { kind: "url", url: "https://example.org/mod.ts", export: "default", integrity: null },
  { kind: "url", url: "https://example.org/mod.ts", export: "default", integrity: "sha256=00" },
  { kind: "builtin", name: "collect" },
  { kind: "builtin", name: "at" },
  { kind: "builtin", name: "identity" },
  { kind: "builtin", name: "bundle" },
  { kind: "builtin", name: "run" },
  { kind: "each", function: { kind: "source", hash: "ef56", source: "(a) => a" } },
];

Deno.test("call: every kind of function comes back, and so do arguments and dependencies", () => {
  const shared = [1, 2];
  const args = [
    1,
    "x",
    null,
    { a: [1], when: new Date(0) },
    { $dependency: 0 },
    { $dependency: 0, part: 7 },
    [{ $dependency: 1 }, 5, { $dependency: 2, part: 0 }, { b: 1 }],
    [],
    [[{ a: 1 }]],
    shared,
    shared,
    Uint8Array.of(1, 2, 3),
    new Float64Array(300).fill(2),
    new Map([[1, 2]]),
  ];
  for (const fn of functions) {
    const call: FunctionCall = { function: fn, args };
    assertEquals(decodeCall(encodeCall(call)), call);
    assertEquals(decodeCall(encodeCall({ function: fn, args: [] })), { function: fn, args: [] });
  }
  const [first, second] = decodeCall(encodeCall({ function: functions[0]!, args: [shared, shared] })).args;
  assert(first === second);
});

Deno.test("call: the same function object is written once and for all, and not changed by it", () => {
  const fn: FunctionRef = { kind: "source", hash: "x", source: "() => 1" };
  const before = structuredClone(fn);
  assertEquals(
    encodeCall({ function: fn, args: [1] }),
    encodeCall({ function: structuredClone(fn), args: [1] }),
  );
  assertEquals(encodeCall({ function: fn, args: [1] }), encodeCall({ function: fn, args: [1] }));
  assertEquals(fn, before);
});

Deno.test("call: data that only resembles a dependency stays data", () => {
  const lookalikes = [
    { $dependency: "0" },
    { $dependency: -1 },
    { $dependency: 0.5 },
    { $dependency: 0, other: 1 },
    { $dependency: 0, part: -1 },
    { $dependency: 0, part: 1, other: 1 },
    { nested: { $dependency: 0 } },
    [[{ $dependency: 0 }]],
  ];
  const call: FunctionCall = { function: functions[4]!, args: lookalikes };
  assertEquals(decodeCall(encodeCall(call)), call);
});

Deno.test("call: what cannot be written is named by its place in the arguments", () => {
  const path = (args: unknown[]) =>
    assertThrows(() => encodeCall({ function: functions[4]!, args }), SerializationError).path;
  assertEquals(path([1, { when: () => 1 }]), "args[1].when");
  assertEquals(path([Symbol("x")]), "args[0]");
  assertEquals(path([[{ $dependency: 0 }, [new WeakMap()]]]), "args[0][1][0]");
  const trap = () => {
    throw new Error("trap");
  };
  assertEquals(path([1, new Proxy({}, { getOwnPropertyDescriptor: trap, getPrototypeOf: trap })]), "args[1]");
});

Deno.test("call: a getter that encodes a call of its own does no harm", () => {
  const inner = { function: functions[0]!, args: [1, 2, "inner"] };
  let encoded: Uint8Array | undefined;
  const outer: FunctionCall = {
    function: functions[1]!,
    args: ["before", {
      get x() {
        encoded = encodeCall(inner);
        return 1;
      },
    }, "after"],
  };
  assertEquals(decodeCall(encodeCall(outer)).args, ["before", { x: 1 }, "after"]);
  assert(encoded !== undefined);
  assertEquals(decodeCall(encoded), inner);
});

Deno.test("call: bytes that are no call are refused", () => {
  const good = encodeCall({ function: functions[0]!, args: [{ $dependency: 1 }] });
  for (let length = 0; length < good.length; length++) {
    assertThrows(() => decodeCall(good.subarray(0, length)), ProtocolError);
  }
  assertThrows(
    () => decodeCall(encodePickle([1, 2]).pickle),
    ProtocolError,
    "expected a function and its arguments",
  );
  const other = encodeCall({ function: { kind: "builtin", name: "explode" as "at" }, args: [] });
  assertThrows(() => decodeCall(other), ProtocolError, "expected a function of a kind that is known here");
  const foreign = Uint8Array.from(
    "\x80\x04(\x8c\x06sourceK\x01K\x02t](K\x01K\x02K\x03\x87e\x86.",
    (c) => c.charCodeAt(0),
  );
  assertThrows(() => decodeCall(foreign), ProtocolError);
});

Deno.test("call: the name of a function is found in a pickle without reading it", () => {
  const named = (name: string) =>
    functionNameIn(writeRunSpec({ key: "k", function: name, payload: Uint8Array.of(1), dependencies: [] }));
  for (
    const name of ["deno:op/add", "deno:file:///a/mod.ts#area", "deno:op/é", `deno:op/${"x".repeat(400)}`]
  ) {
    assertEquals(named(name), name);
  }
  assertEquals(named(`deno:op/${"x".repeat(2000)}`)?.length, 500);
  assertEquals(named("os.system"), null);
  const text = (opcodes: string) => Uint8Array.from(opcodes, (character) => character.charCodeAt(0));
  // As Python's protocol 4 and 5 write short texts; then one that ends too early, and bytes that only look so.
  assertEquals(functionNameIn(text("\x80\x04\x8c\x06deno:x\x94.")), "deno:x");
  assertEquals(functionNameIn(text("\x80\x04\x8c\x60deno:x")), null);
  assertEquals(functionNameIn(text("deno:x")), null);
  assertEquals(functionNameIn(new Uint8Array(0)), null);
});
