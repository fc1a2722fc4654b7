import { assertEquals } from "@std/assert";
import { verdict } from "../../worker/supervisor.ts";

Deno.test("verdict starts a crashed worker again, later each time, and gives up", () => {
  const killed = { code: 137, signal: "SIGKILL" };
  assertEquals(verdict(killed, 0, true), { type: "restart", afterMs: 200 });
  assertEquals(verdict(killed, 1, true), { type: "restart", afterMs: 200 });
  assertEquals(verdict(killed, 3, true), { type: "restart", afterMs: 800 });
  assertEquals(verdict(killed, 5, true), { type: "end", code: 137 });
  assertEquals(verdict({ code: 70, signal: null }, 1, true), { type: "restart", afterMs: 200 });
});

Deno.test("verdict starts a worker that made room for another at once, however often, if it may", () => {
  const made = { code: 75, signal: null };
  assertEquals(verdict(made, 0, true), { type: "restart", afterMs: 0 });
  assertEquals(verdict(made, 9, true), { type: "restart", afterMs: 0 });
  assertEquals(verdict(made, 1, false), { type: "end", code: 75 });
});

Deno.test("verdict ends with a worker that ended as told, was refused, or may not be restarted", () => {
  assertEquals(verdict({ code: 0, signal: null }, 1, true), { type: "end", code: 0 });
  assertEquals(verdict({ code: 1, signal: null }, 1, true), { type: "end", code: 1 });
  assertEquals(verdict({ code: 2, signal: null }, 1, true), { type: "end", code: 2 });
  assertEquals(verdict({ code: 137, signal: "SIGKILL" }, 1, false), { type: "end", code: 137 });
});
