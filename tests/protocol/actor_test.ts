import { assertEquals } from "@std/assert";
import { type ActorHandle, readActor, writeActor } from "../../protocol/actor.ts";
import { keyFromWire } from "../../protocol/key.ts";
import { decodeValue, encodeValue, picklePayload, type ReadablePayload } from "../../protocol/value.ts";
import { runPython } from "../support/scheduler.ts";

const HANDLE: ActorHandle = {
  className: "Zähler",
  key: keyFromWire(["counter", 1]),
  address: "tcp://127.0.0.1:1",
  methods: ["add", "__init__"],
  fields: ["n", "naïve"],
};

function read(pickle: Uint8Array): unknown {
  return decodeValue(picklePayload(pickle) as ReadablePayload);
}

Deno.test("a handle of an actor is read as it was written", () => {
  assertEquals(readActor(read(writeActor(HANDLE))), HANDLE);
  const none = { ...HANDLE, methods: [], fields: [] };
  assertEquals(readActor(read(writeActor(none))), none);
});

Deno.test("what is no handle of ours is none", () => {
  for (const value of [null, 5, "text", {}, [], { methods: [] }]) {
    assertEquals(readActor(decodeValue(encodeValue(value) as ReadablePayload)), null);
  }
});

Deno.test("Python makes its own handle of it, and we know one of Python's for none of ours", async () => {
  const { code, stdout, stderr } = await runPython(`
import pickle, sys
from distributed.actor import Actor
actor = pickle.loads(bytes.fromhex("${writeActor(HANDLE).toHex()}"))
assert isinstance(actor, Actor) and repr(actor).startswith("<Actor: Zähler, key="), repr(actor)
assert actor.key == ("counter", 1) and actor._address == "tcp://127.0.0.1:1"
assert callable(actor._cls.add) and actor._cls.n is None
print(pickle.dumps(Actor(dict, "tcp://a:1", "k")).hex(), pickle.dumps(actor).hex())
`);
  assertEquals([code, stderr], [0, ""]);
  const [foreign, own] = stdout.trim().split(" ").map((hex) => readActor(read(Uint8Array.fromHex(hex))));
  assertEquals(foreign, null);
  // What Python passed on is as good as what we wrote.
  assertEquals(own, HANDLE);
});
