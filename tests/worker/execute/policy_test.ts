import { assertEquals, assertThrows } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import { type TaskPermissions, within } from "../../../worker/execute/permissions.ts";
import { readPolicy } from "../../../worker/execute/policy.ts";

Deno.test("a task says its permissions and its timeout", () => {
  const none = { permissions: null, timeoutMs: null };
  assertEquals(readPolicy({}), none);
  assertEquals(readPolicy({ deno: null, other: 1 }), none);
  assertEquals(readPolicy({ deno: { timeout: 500, permissions: "none" } }), {
    permissions: "none",
    timeoutMs: 500,
  });
  assertEquals(readPolicy({ deno: { timeout: Infinity } }), none);
  // More than a timer takes is as good as never.
  assertEquals(readPolicy({ deno: { timeout: 1e12 } }), none);
  assertEquals(
    readPolicy({
      deno: { permissions: { net: ["https://a:1/x"], read: ["file:///d%20e", "f"], env: true, sys: null } },
    }),
    {
      permissions: { net: [new URL("https://a:1/x")], read: [new URL("file:///d%20e"), "f"], env: true },
      timeoutMs: null,
    },
  );
});

Deno.test("what a task says and makes no sense is refused by name", () => {
  const cases: [unknown, string][] = [
    [[], "annotation deno:"],
    ["none", "annotation deno:"],
    [{ time: 1 }, "annotation deno.time:"],
    [{ timeout: 0 }, "annotation deno.timeout:"],
    [{ timeout: "5s" }, "annotation deno.timeout:"],
    [{ timeout: NaN }, "annotation deno.timeout:"],
    [{ timeout: 5n }, "annotation deno.timeout:"],
    [{ permissions: "some" }, "annotation deno.permissions:"],
    [{ permissions: { net: 1 } }, "annotation deno.permissions.net:"],
    [{ permissions: { net: [1] } }, "annotation deno.permissions.net:"],
  ];
  for (const [deno, text] of cases) assertThrows(() => readPolicy({ deno }), DaskError, text);
});

Deno.test("a task gets what it asks for within what all tasks have", () => {
  const cases: [own: TaskPermissions, all: TaskPermissions, both: TaskPermissions][] = [
    ["none", "inherit", "none"],
    [{ net: true }, "inherit", { net: true }],
    ["inherit", { net: ["a:1"] }, { net: ["a:1"] }],
    [{ net: true }, "none", "none"],
    [{ net: true, read: true }, { net: ["a:1"], env: true }, { net: ["a:1"] }],
    [{ net: ["a:1", "b:2", "c"] }, { net: ["a", "c:3", "bb:2"] }, { net: ["a:1", "c:3"] }],
    [{ read: ["/data/x", "/etc", "/data2"] }, { read: ["/data", "/etc/y/"] }, {
      read: ["/data/x", "/etc/y/"],
    }],
    [{ read: ["/data/../etc"] }, { read: ["/data"] }, { read: [] }],
    [{ read: ["x"] }, { read: ["/base"] }, { read: ["/base/x"] }],
    [{ env: ["DASK_X", "HOME"] }, { env: ["DASK_*"] }, { env: ["DASK_X"] }],
    [{ env: false }, { env: true }, {}],
    [{ sys: ["hostname", "uid"] }, { sys: ["uid"] }, { sys: ["uid"] }],
    [{ sys: ["uid"] }, { sys: "inherit" }, { sys: ["uid"] }],
  ];
  for (const [own, all, both] of cases) {
    assertEquals(within(own, all, "/base"), both, JSON.stringify([own, all]));
  }
});
