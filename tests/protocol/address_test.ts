import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  announcedAddress,
  formatAddress,
  isLoopbackHost,
  normalizeAddress,
  parseAddress,
} from "../../protocol/address.ts";
import { decodeMsgpack, encodeMsgpack } from "../../protocol/msgpack/mod.ts";

Deno.test("A1 tcp://h:51440 parses to scheme, host and port", () => {
  assertEquals(parseAddress("tcp://h:51440"), { scheme: "tcp", host: "h", port: 51440 });
  assertEquals(parseAddress("tls://a.b-c.example:1"), { scheme: "tls", host: "a.b-c.example", port: 1 });
  assertEquals(parseAddress("tcp://10.0.0.7:8786"), { scheme: "tcp", host: "10.0.0.7", port: 8786 });
});

Deno.test("A2 the scheme may be missing", () => {
  assertEquals(parseAddress("h:51440"), { scheme: "tcp", host: "h", port: 51440 });
  assertEquals(parseAddress("127.0.0.1:1"), { scheme: "tcp", host: "127.0.0.1", port: 1 });
});

Deno.test("A3 the port may be missing, or empty after a colon", () => {
  for (const text of ["tcp://h", "tcp://h:", "h", "h:"]) {
    assertEquals(parseAddress(text), { scheme: "tcp", host: "h", port: 0 });
    assertEquals(parseAddress(text, { defaultPort: 8786 }).port, 8786);
  }
  assertEquals(parseAddress("h:5", { defaultPort: 8786 }).port, 5);
});

Deno.test("A4 a loopback or wildcard address is announced as the host's outward address", () => {
  for (const host of ["127.0.0.1", "0.0.0.0", "localhost", "[::1]", "[::]"]) {
    assertEquals(announcedAddress(`tcp://${host}:51440`, "10.0.0.7"), "tcp://10.0.0.7:51440");
  }
  assertEquals(announcedAddress("tcp://127.0.0.1:1", "fe80::7"), "tcp://[fe80::7]:1");
  assertEquals(announcedAddress("tcp://10.1.1.1:51440", "10.0.0.7"), "tcp://10.1.1.1:51440");
});

Deno.test("A5 what is no address is refused with an error that names it", () => {
  const wrong = [
    ":51440",
    "tcp://::51440",
    "tcp://:51440",
    "",
    "tcp://",
    "h:p",
    "h:99999",
    "http://h:1",
    "h:1/x",
    "h h:1",
    "tcp://[::1",
    "tcp://[zzz]:1",
    "tcp://[]:1",
    "::1",
    "tcp://h:-1",
    "tcp://h:1:2",
    "tcp://user@[::1]:1",
  ];
  for (const text of wrong) {
    const error = assertThrows(() => parseAddress(text), TypeError);
    assert(error.message.includes(`"${text}"`), error.message);
  }
  assertEquals(parseAddress("tcp://[::1]:51440"), { scheme: "tcp", host: "::1", port: 51440 });
  assertEquals(parseAddress("[FE80::0:1]").host, "fe80::1");
  assertEquals(parseAddress("tcp://[fe80::1%eth0]:1").host, "fe80::1%eth0");
});

Deno.test("A6 an address prints as scheme://host:port", () => {
  assertEquals(formatAddress({ scheme: "tcp", host: "h", port: 51440 }), "tcp://h:51440");
  assertEquals(formatAddress({ scheme: "tls", host: "::1", port: 1 }), "tls://[::1]:1");
});

Deno.test("A7 addresses with equal parts are equal strings, and so the same map key", () => {
  const same = ["tcp://h:51440", "h:51440", "H:51440", "tcp://h:051440"].map((text) =>
    normalizeAddress(text)
  );
  assertEquals(new Set(same), new Set(["tcp://h:51440"]));
  assertEquals(normalizeAddress("tcp://[0:0:0::1]:1"), "tcp://[::1]:1");
  assertEquals(normalizeAddress("tcp://[::ffff:127.0.0.1]:1"), "tcp://127.0.0.1:1");
  assertEquals(normalizeAddress(normalizeAddress("h", { defaultPort: 8786 })), "tcp://h:8786");
});

Deno.test("A8 building from host and port gives the same as parsing", () => {
  for (const text of ["tcp://h:51440", "tls://[::1]:3", "tcp://1.2.3.4:0"]) {
    assertEquals(formatAddress(parseAddress(text)), text);
  }
});

Deno.test("A9 an address is packed on the wire as its text", () => {
  const text = normalizeAddress("h:51440");
  assertEquals(decodeMsgpack(encodeMsgpack({ address: text })), { address: "tcp://h:51440" });
});

Deno.test("A10 a bare number is refused, on purpose", () => {
  assertThrows(() => parseAddress("51440"), TypeError, "bare number");
  assertThrows(() => parseAddress("tcp://51440"), TypeError, "bare number");
});

Deno.test("loopback hosts are known", () => {
  for (const host of ["127.0.0.1", "127.1.2.3", "::1", "localhost"]) assert(isLoopbackHost(host));
  for (const host of ["10.0.0.1", "h", "::2", "127.example"]) assert(!isLoopbackHost(host));
});
