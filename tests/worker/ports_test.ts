import { assertEquals, assertThrows } from "@std/assert";
import {
  countPorts,
  listPorts,
  parseHostPort,
  readPorts,
  sharePorts,
  writePorts,
} from "../../worker/ports.ts";

Deno.test("ports are shared out one by one: no port for two, none left over", () => {
  for (let size = 1; size <= 12; size++) {
    for (let workers = 1; workers <= size; workers++) {
      const range = { first: 3000, last: 3000 + size - 1, step: 1 };
      const shares = Array.from({ length: workers }, (_, index) => sharePorts(range, index, workers));
      const all = shares.flatMap(listPorts);
      assertEquals(all.toSorted(), listPorts(range));
      assertEquals(shares.map((share) => share.first), listPorts(range).slice(0, workers));
      for (const share of shares) {
        assertEquals(countPorts(share), listPorts(share).length);
        assertEquals(listPorts(readPorts("port", writePorts(share))), listPorts(share));
      }
    }
  }
});

Deno.test("port 0 is any, for all", () => {
  assertEquals(listPorts(sharePorts(readPorts("port", "0"), 2, 3)), [0]);
});

Deno.test("readPorts refuses what is no port and no range", () => {
  for (const text of ["", "x", "5:4", "65536", "1:2:0", "-1", "1,2"]) {
    assertThrows(() => readPorts("nanny-port", text), RangeError, `Cannot read --nanny-port "${text}"`);
  }
});

Deno.test("parseHostPort reads hosts, brackets and bare ports", () => {
  assertEquals(parseHostPort(":0"), { host: null, port: 0 });
  assertEquals(parseHostPort("8787"), { host: null, port: 8787 });
  assertEquals(parseHostPort("localhost:8787"), { host: "localhost", port: 8787 });
  assertEquals(parseHostPort("[::1]:1"), { host: "::1", port: 1 });
  for (const text of ["", "host", "::1:1", ":70000", "a b:1", "http://h:1"]) {
    assertThrows(() => parseHostPort(text), RangeError, `"${text}"`);
  }
});
