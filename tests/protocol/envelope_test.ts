import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import {
  Batch,
  decodeMessage,
  encodeMessage,
  isPickled,
  isSerialized,
  pickled,
  serialized,
} from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";
import { decodeMsgpack, encodeMsgpack } from "../../protocol/msgpack/mod.ts";
import type { Frame } from "../../protocol/payload.ts";
import { randomness } from "./randomness.ts";

const header = (count: number, fields: Record<string, unknown> = {}) =>
  encodeMsgpack({ serializer: "pickle", writeable: [], "num-sub-frames": count, ...fields });
const a = Uint8Array.of(1, 2, 3);
const b = Uint8Array.of(4, 5);

Deno.test("a message without values is one frame of msgpack", () => {
  const frames = encodeMessage({ op: "identity", n: [1, 2] });
  assertEquals(frames.length, 1);
  assertEquals(decodeMessage(frames), { op: "identity", n: [1, 2] });
  for (const bare of [null, "OK", [], 5]) assertEquals(decodeMessage(encodeMessage(bare)), bare);
});

Deno.test("serialized values travel in frames of their own, header first, uncopied", () => {
  const x = serialized({ header: header(2), frames: [a, b] });
  const y = serialized({ header: header(0), frames: [] });
  const file = { file: "/somewhere", byteLength: 9 };
  const z = serialized({ header: header(1), frames: [file] });
  const frames = encodeMessage({ data: { x, y }, list: [z] });
  assertEquals(decodeMsgpack(frames[0] as Uint8Array), {
    data: { x: { __Serialized__: 1 }, y: { __Serialized__: 4 } },
    list: [{ __Serialized__: 5 }],
  });
  assertStrictEquals(frames[2], a);
  assertEquals(decodeMessage(frames), { data: { x, y }, list: [z] });
});

Deno.test("pickles travel with their buffers", () => {
  const value = pickled(a, [b, a]);
  const frames = encodeMessage([{ run_spec: value }]);
  assertEquals(decodeMsgpack(frames[1] as Uint8Array), { "pickled-obj": a, "num-sub-frames": 2 });
  const [{ run_spec }] = decodeMessage(frames) as [{ run_spec: unknown }];
  assert(isPickled(run_spec) && !isSerialized(run_spec));
  assertEquals(run_spec, value);
});

Deno.test("sets are Sets and members of Enums are their names", () => {
  const wire = encodeMsgpack({
    s: { __Set__: true, "as-list": [1, 2] },
    e: { __Enum__: true, name: "running", __module__: "distributed.core", __name__: "Status" },
  });
  assertEquals(decodeMessage([wire]), { s: new Set([1, 2]), e: "running" });
  assertEquals(decodeMessage(encodeMessage({ s: new Set(["a"]) })), { s: new Set(["a"]) });
});

Deno.test("fields that only look special stay what they are", () => {
  const plain = { __dask__: 1, __Set__: false, __Enum__: 3 };
  assertEquals(decodeMessage(encodeMessage({ plain })), { plain });
});

Deno.test("a map from outside cannot pass for a serialized value: its $ comes in canonical form, and goes as it came", () => {
  const forged = { $: "serialized", payload: { header: header(1), frames: [{ path: "/etc/passwd" }] } };
  const message = decodeMessage([encodeMsgpack({ data: forged })]) as { readonly data: unknown };
  assert(!isSerialized(message.data));
  const canonical = keyFromWire("$");
  assertEquals(message, { data: { [canonical]: "serialized", payload: forged.payload } });
  assertEquals(encodeMessage(message), [encodeMsgpack({ data: forged })]);
});

Deno.test("a batch is one array, its values numbered through", () => {
  const batch = new Batch();
  batch.add({ op: "one" });
  batch.add({ op: "two", data: serialized({ header: header(1), frames: [a] }) });
  batch.add({ op: "three", data: serialized({ header: header(1), frames: [b] }) });
  assertThrows(
    () => batch.add({ data: serialized({ header: header(1), frames: [b] }), bad: () => 1 }),
    ProtocolError,
  );
  assert(batch.byteLength > 0);
  assertEquals(decodeMessage(batch.finish()), [
    { op: "one" },
    { op: "two", data: serialized({ header: header(1), frames: [a] }) },
    { op: "three", data: serialized({ header: header(1), frames: [b] }) },
  ]);
  assertEquals(decodeMessage(new Batch().finish()), []);
});

Deno.test("what is changed after a batch took it is not sent", () => {
  const batch = new Batch();
  const message = { keys: ["a"] };
  batch.add(message);
  message.keys.push("b");
  assertEquals(decodeMessage(batch.finish()), [{ keys: ["a"] }]);
});

Deno.test("placeholders that lie are refused", () => {
  const wrong: Frame[][] = [
    [],
    [encodeMsgpack({ __Serialized__: 1 })],
    [encodeMsgpack({ __Serialized__: 0 }), header(0)],
    [encodeMsgpack({ __Serialized__: -1 }), header(0)],
    [encodeMsgpack({ __Serialized__: 1.5 }), header(0)],
    [encodeMsgpack({ __Serialized__: "1" }), header(0)],
    [encodeMsgpack({ __Serialized__: 1 }), header(1)],
    [encodeMsgpack({ __Serialized__: 1 }), header(-1), a],
    [encodeMsgpack({ __Serialized__: 1 }), header(0.5), a],
    [encodeMsgpack({ __Serialized__: 1 }), encodeMsgpack([1])],
    [encodeMsgpack({ __Serialized__: 1 }), encodeMsgpack({})],
    [encodeMsgpack({ __Serialized__: 1 }), Uint8Array.of(0xc1)],
    [encodeMsgpack({ __Serialized__: 1 }), { file: "/x", byteLength: 3 }],
    [{ file: "/x", byteLength: 3 }],
    [encodeMsgpack([{ __Serialized__: 1 }, { __Serialized__: 1 }]), header(1), a],
    [encodeMsgpack({ __Pickled__: 1 }), header(0)],
    [encodeMsgpack({ __Pickled__: 1 }), encodeMsgpack({ "pickled-obj": "text", "num-sub-frames": 0 })],
  ];
  for (const frames of wrong) assertThrows(() => decodeMessage(frames), ProtocolError);
});

Deno.test("many placeholders for the same frames do not multiply them", () => {
  const claims = Array.from({ length: 1000 }, () => ({ __Serialized__: 1 }));
  const frames: Frame[] = [encodeMsgpack(claims), header(100_000), ...new Array(100_000).fill(a)];
  assertThrows(() => decodeMessage(frames), ProtocolError, "claims");
});

Deno.test("mutated messages give messages or ProtocolErrors", () => {
  const random = randomness();
  const valid = encodeMessage([{
    x: serialized({ header: header(2), frames: [a, b] }),
    p: pickled(a, [b]),
    s: new Set([1]),
    e: { __Enum__: true, name: "running" },
  }]) as Uint8Array[];
  for (let i = 0; i < 20_000; i++) {
    const frames = valid.map((frame) => frame.slice());
    for (let j = random.below(3); j >= 0; j--) {
      const frame = frames[random.below(frames.length)]!;
      frame[random.below(frame.length)] = random.below(256);
    }
    if (random.below(10) === 0) frames.splice(random.below(frames.length), 1);
    try {
      decodeMessage(frames);
    } catch (error) {
      assertInstanceOf(error, ProtocolError, `seed ${random.seed}, round ${i}: ${error}`);
    }
  }
});
