import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { runPython } from "../support/scheduler.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import {
  keyFromWire,
  keyPrefix,
  keyText,
  keyToWire,
  mapKeyFromWire,
  type WireKey,
} from "../../protocol/key.ts";

const KEYS: readonly WireKey[] = [
  "x",
  "",
  "add-1f2e",
  "ключ 🔑",
  "__proto__",
  "constructor",
  "\u0001",
  "\u0001[1]",
  "5",
  5,
  -5,
  0.5,
  NaN,
  Infinity,
  -Infinity,
  2n ** 63n,
  -(2n ** 63n),
  ["x", 0],
  ["x", 0, 1],
  ["x"],
  [],
  [["x", 1], ["y", [2, "z"]]],
  ["a'b", "c\\d", "\u0001"],
  ["x", NaN, 2n ** 60n],
  ["__proto__"],
];

Deno.test("a key survives the way to its canonical form and back", () => {
  for (const wire of KEYS) {
    const key = keyFromWire(wire);
    assertEquals(typeof key, "string");
    assertEquals(keyToWire(key), wire);
    assertNotEquals(key, "__proto__");
  }
});

Deno.test("different keys have different canonical forms", () => {
  const forms = KEYS.map(keyFromWire);
  assertEquals(new Set(forms).size, forms.length);
  assert(keyFromWire("5") !== keyFromWire(5));
});

Deno.test("an ordinary string is its own canonical form", () => {
  assertEquals(keyFromWire("add-1"), "add-1");
  assertEquals(keyFromWire("constructor"), "constructor");
});

Deno.test("keys print as Python prints them", () => {
  assertEquals(keyText("add-1"), "add-1");
  assertEquals(keyText(keyFromWire(["x", 0, ["y"]])), "('x', 0, ('y',))");
  assertEquals(keyText(keyFromWire(["a'b"])), "('a\\'b',)");
  assertEquals(keyText(keyFromWire(7)), "7");
});

Deno.test("what is no key is refused", () => {
  for (const wrong of [null, undefined, true, {}, new Uint8Array(1), ["x", null], [[{}]]]) {
    assertThrows(() => keyFromWire(wrong), ProtocolError, "Cannot read a key");
  }
  let deep: unknown = "x";
  for (let i = 0; i < 10_000; i++) deep = [deep];
  assertThrows(() => keyFromWire(deep), ProtocolError, "deeper");
  assertThrows(() => keyToWire("\u0001{"), ProtocolError, "canonical");
});

Deno.test("keys of maps in general may be null, booleans and bytes, too", () => {
  for (const wire of [null, true, false, Uint8Array.of(1, 255)]) {
    assertEquals(keyToWire(mapKeyFromWire(wire)) as unknown, wire);
  }
});

Deno.test("key: the prefix is the one that dask's key_split finds", async () => {
  const keys: WireKey[] = [
    "x",
    "x-1",
    "x-1-2-3",
    ["x-2", 1],
    [["y", 1], 2],
    "('x-2', 1)",
    "('x', 1)",
    "hello-world-1",
    "ae05086432ca935f6eba409a8ecd4896",
    "<module.submodule.myclass object at 0xdaf372",
    "x-abcdefab",
    "x-fortytwo",
    "x-Abcdefgh",
    "_(x)",
    "",
    "---",
    "'-abc",
    "größe-weiß-1",
    "deno:op/add-1f2e",
    "deno:file:///a/b.ts#area-5",
    5,
  ];
  const { code, stdout, stderr } = await runPython(
    `import json, sys
from dask.utils import key_split
def tuples(key): return tuple(map(tuples, key)) if isinstance(key, list) else key
print(json.dumps([key_split(tuples(key)) for key in json.loads(sys.argv[1])]))`,
    [JSON.stringify(keys)],
  );
  assertEquals(code, 0, stderr);
  assertEquals(keys.map((key) => keyPrefix(keyFromWire(key))), JSON.parse(stdout));
});
