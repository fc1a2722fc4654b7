import { assertEquals } from "@std/assert";
import { decodePickle } from "../../protocol/pickle/decode.ts";
import { addressBehind, withAddress } from "../../protocol/whereabouts.ts";

const THREE = Uint8Array.of(0x80, 4, 0x4b, 3, 0x2e);

Deno.test("an address behind a pickle is found, and readers of the pickle do not see it", () => {
  for (const address of ["tcp://127.0.0.1:34567", "tls://[::1]:1", "tcp://node-1.example:8786"]) {
    const bytes = withAddress(THREE, address);
    assertEquals(addressBehind(bytes), address);
    assertEquals(decodePickle(bytes), 3);
  }
});

Deno.test("a pickle without an address has none, whatever it ends with", () => {
  const texts = ["", "tcp://", "tcp://host", "tcp://ho st:1", "http://host:1", `tcp://${"x".repeat(200)}:1`];
  for (const text of texts) assertEquals(addressBehind(withAddress(THREE, text)), null, text);
  assertEquals(addressBehind(new TextEncoder().encode("tcp://host:1")), null);
});
