import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../protocol/errors.ts";
import { HELLO, readHello } from "../../protocol/handshake.ts";

Deno.test("a hello is read", () => {
  assertEquals(readHello(HELLO), { compression: null, pickleProtocol: 5 });
  assertEquals(readHello({ compression: "zlib", python: [3, 12, 1], "pickle-protocol": 4, more: 1 }), {
    compression: "zlib",
    pickleProtocol: 4,
  });
});

Deno.test("what is no hello is refused", () => {
  for (const wrong of [null, "OK", [], [HELLO], {}, { "pickle-protocol": "5" }, { "pickle-protocol": 2 }]) {
    assertThrows(() => readHello(wrong), ProtocolError);
  }
});
