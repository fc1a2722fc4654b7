import { assertEquals } from "@std/assert";
import { sha256Hex } from "../../base/sha256.ts";

Deno.test("sha256: the published examples", () => {
  assertEquals(sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  assertEquals(sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  assertEquals(
    sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
  );
});

Deno.test("sha256: every length around a block agrees with the platform", async () => {
  for (let length = 0; length < 260; length++) {
    const bytes = Uint8Array.from({ length }, (_, i) => i * 31 + length);
    const expected = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
    assertEquals(sha256Hex(bytes), expected);
  }
});

Deno.test("sha256: text is taken as UTF-8, and views at any offset", () => {
  assertEquals(sha256Hex("é😀"), sha256Hex(new TextEncoder().encode("é😀")));
  const memory = Uint8Array.of(9, 0x61, 0x62, 0x63, 9);
  assertEquals(sha256Hex(memory.subarray(1, 4)), sha256Hex("abc"));
});
