import { assertEquals, assertThrows } from "@std/assert";
import { decodeMessage, encodeMessage, pickled, serialized } from "../../protocol/envelope.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { keyFromWire } from "../../protocol/key.ts";
import {
  readArray,
  readBoolean,
  readBytes,
  readCount,
  readInteger,
  readKey,
  readKeyMap,
  readKeys,
  readNullable,
  readNumber,
  readPickled,
  readRecord,
  readSerialized,
  readString,
} from "../../protocol/read.ts";

Deno.test("readers give what is right", () => {
  const message = readRecord(
    decodeMessage(encodeMessage({
      text: "a",
      number: 1.5,
      integer: 7,
      yes: true,
      bytes: Uint8Array.of(1),
      key: ["x", 1],
      keys: ["a", ["b", 2]],
      who_has: new Map([[keyFromWire(["x", 1]), ["tcp://h:1"]], ["y", []]]),
      set: new Set(["a"]),
    })),
    "message",
  );
  assertEquals(readString(message.text, "text"), "a");
  assertEquals(readNumber(message.number, "number"), 1.5);
  assertEquals(readInteger(message.integer, "integer"), 7);
  assertEquals(readCount(message.integer, "integer"), 7);
  assertEquals(readBoolean(message.yes, "yes"), true);
  assertEquals(readBytes(message.bytes, "bytes"), Uint8Array.of(1));
  assertEquals(readKey(message.key, "key"), keyFromWire(["x", 1]));
  assertEquals(readKeys(message.keys, "keys"), ["a", keyFromWire(["b", 2])]);
  assertEquals(readKeys(message.set, "set"), ["a"]);
  assertEquals(
    readKeyMap(message.who_has, "who_has", (value, path) => readArray(value, path, readString)),
    new Map([[keyFromWire(["x", 1]), ["tcp://h:1"]], ["y", []]]),
  );
  assertEquals(readNullable(null, "x", readString), null);
  assertEquals(readNullable(message.missing, "x", readString), null);
  assertEquals(readNullable("a", "x", readString), "a");
});

Deno.test("readers name the path, what was expected and what came", () => {
  const says = (act: () => unknown, text: string) => assertThrows(act, ProtocolError, text);
  says(
    () => readString(5, "compute-task.op"),
    'Cannot read "compute-task.op": expected a string, got a number',
  );
  says(() => readNumber(NaN, "x"), "expected a number");
  says(() => readInteger(2n ** 60n, "x"), "got the integer 1152921504606846976");
  says(() => readCount(-1, "x"), "not negative");
  says(() => readBoolean(null, "x"), "got null");
  says(() => readBytes("a", "x"), "expected bytes, got a string");
  says(() => readArray({}, "x", readString), "expected an array, got a map");
  says(() => readArray([1, "a", 2], "compute-task.priority", readNumber), '"compute-task.priority[1]"');
  says(() => readKeys(["a", null], "keys"), 'Cannot read "keys[1]": expected a key, got null');
  says(() => readKey([[null]], "key"), 'Cannot read "key"');
  says(() => readKeyMap({ a: 1, b: "x" }, "nbytes", readCount), '"nbytes["b"]"');
  says(() => readRecord([], "x"), "expected a map, got an array");
  says(() => readRecord(pickled(new Uint8Array(0)), "x"), "got a pickle");
  says(() => readSerialized({}, "x"), "expected a serialized value");
  says(() => readPickled(serialized({ header: new Uint8Array(0), frames: [] }), "x"), "expected a pickle");
  says(() => readString(undefined, "x"), "got nothing");
});
