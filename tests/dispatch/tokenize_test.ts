import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { keyLabel, Tokenizer } from "../../dispatch/tokenize.ts";
import { NDArray } from "../../protocol/nd_array.ts";
import { runPython } from "../support/scheduler.ts";

function token(value: unknown): string {
  return new Tokenizer("test").value(value, () => "value").digest();
}

/** Values that must all differ. */
const different: readonly unknown[] = [
  null,
  undefined,
  true,
  false,
  0,
  -0,
  1,
  -1,
  0.5,
  NaN,
  Infinity,
  -Infinity,
  2 ** 31,
  2 ** 53,
  1n,
  -1n,
  2n ** 70n,
  "",
  "0",
  "1",
  "a",
  "ab",
  "a\0",
  "\ud83d\ude00",
  [],
  [0],
  [[]],
  [0, 0],
  [[0], 0],
  [0, [0]],
  ["a", "b"],
  ["ab", ""],
  {},
  { a: 1 },
  { a: 2 },
  { b: 1 },
  { a: 1, b: 2 },
  { a: { b: 2 } },
  { a: undefined },
  new Map(),
  new Map([["a", 1]]),
  new Map<unknown, unknown>([[1, "a"]]),
  new Set(),
  new Set(["a", 1]),
  new Set(["a"]),
  new Date(0),
  new Date(1),
  new Uint8Array(0),
  new Uint8Array([1]),
  new Uint8Array([1, 0]),
  new Uint8Array([1, 0, 0, 0, 0]),
  new Int8Array([1]),
  new Uint8ClampedArray([1]),
  new Float32Array([1]),
  new Float64Array([1]),
  new Float64Array([1, 2, 3, 4, 5, 6]),
  new BigInt64Array([1n]),
  new NDArray(new Float64Array([1, 2, 3, 4, 5, 6]), [2, 3]),
  new NDArray(new Float64Array([1, 2, 3, 4, 5, 6]), [3, 2]),
];

Deno.test("tokens: different values have different tokens, of 32 hex digits", () => {
  const seen = new Map<string, number>();
  different.forEach((value, i) => {
    const hash = token(value);
    assertMatch(hash, /^[0-9a-f]{32}$/);
    assert(!seen.has(hash), `values ${seen.get(hash)} and ${i} have the same token`);
    seen.set(hash, i);
  });
});

Deno.test("tokens: equal values have equal tokens, also as copies and views", () => {
  for (const value of different) {
    if (!(value instanceof NDArray)) assertEquals(token(structuredClone(value)), token(value));
  }
  const bytes = new Uint8Array(32).map((_, i) => i);
  const odd = new Uint8Array(33);
  odd.set(bytes, 1);
  assertEquals(token(odd.subarray(1)), token(bytes));
  assertEquals(token(0 / 0), token(NaN));
  assertEquals(token(Object.assign(Object.create(null), { a: 1 })), token({ a: 1 }));
});

Deno.test("tokens: stay as they are from release to release", () => {
  // A change here makes every key new: results of clients of two releases are then not shared.
  assertEquals(token([1, "two", { three: 3.5 }, new Uint8Array([4])]), "86fcfa95393185cd69a7fbd0c1c2470e");
});

Deno.test("tokens: no collisions and even bits among many small inputs", () => {
  const seen = new Set<string>();
  const ones = new Int32Array(128);
  const count = 200_000;
  for (let i = 0; i < count; i++) {
    const hash = new Tokenizer("f").value(i, () => "").value(i >> 3, () => "").digest();
    seen.add(hash);
    for (let digit = 0; digit < 32; digit++) {
      const bits = parseInt(hash[digit]!, 16);
      for (let bit = 0; bit < 4; bit++) ones[4 * digit + bit]! += (bits >> bit) & 1;
    }
  }
  assertEquals(seen.size, count);
  // Half of them, within six standard deviations.
  for (const n of ones) assertLess(Math.abs(n - count / 2), 6 * Math.sqrt(count) / 2);
});

Deno.test("tokens: one changed bit changes about half of the bits", () => {
  const base = new Uint32Array(8);
  let total = 0;
  for (let bit = 0; bit < 256; bit++) {
    const changed = base.slice();
    changed[bit >> 5]! ^= 1 << (bit & 31);
    const [a, b] = [BigInt(`0x${token(base)}`), BigInt(`0x${token(changed)}`)];
    const differing = (a ^ b).toString(2).replaceAll("0", "").length;
    assert(differing > 32 && differing < 96, `bit ${bit} changed ${differing} bits`);
    total += differing;
  }
  assert(Math.abs(total / 256 - 64) < 3, `${total / 256} bits on average`);
});

Deno.test("labels: dask's key_split of a key gives the label", async () => {
  const labels = [
    "add",
    "addOne",
    "$inc",
    "_private",
    "a-b",
    "load-2024",
    "x-deadbeef",
    "x-deadbeef-y",
    "two words",
    "<lambda>",
    "(tuple, like)",
    "a.b.c",
    "größe",
    "",
    "---",
    "__",
    "#private",
    "trailing-",
    "x".repeat(200),
    "a--b",
  ];
  const keys = labels.map((label) => `${keyLabel(label)}-${token(label)}`);
  const { code, stdout, stderr } = await runPython(
    `import json, sys
from dask.utils import key_split
print(json.dumps([key_split(key) for key in sys.argv[1:]]))`,
    keys,
  );
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout), labels.map(keyLabel));
  assertEquals(keyLabel("add"), "add");
  assertEquals(keyLabel("a-b"), "a-b");
  assertEquals(keyLabel(""), "anonymous");
  assertEquals(keyLabel("load-2024"), "load_2024");
});
