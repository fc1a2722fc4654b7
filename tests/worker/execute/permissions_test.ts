import { assertEquals, assertThrows } from "@std/assert";
import { DaskError } from "../../../protocol/errors.ts";
import {
  givenUp,
  grantsOf,
  grantsPath,
  parseTaskPermissions,
  type Query,
  withGrant,
} from "../../../worker/execute/permissions.ts";

/** A worker that has what is listed: `read` whole, or `net=host` in part. */
function having(...granted: readonly string[]): Query {
  return (descriptor) => {
    const fields = descriptor as unknown as Record<string, string | undefined>;
    const value = fields.path ?? fields.host ?? fields.variable ?? fields.kind;
    const whole = granted.includes(descriptor.name);
    const part = value !== undefined && granted.includes(`${descriptor.name}=${value}`);
    return { state: whole || part ? "granted" : "prompt", partial: false };
  };
}

Deno.test("task permissions are read from text", () => {
  assertEquals(parseTaskPermissions("inherit"), "inherit");
  assertEquals(parseTaskPermissions(" none "), "none");
  assertEquals(parseTaskPermissions("net=host:80,read=/data"), { net: ["host:80"], read: ["/data"] });
  assertEquals(parseTaskPermissions("net=a:1,b:2,read=/x,/y,env"), {
    net: ["a:1", "b:2"],
    read: ["/x", "/y"],
    env: true,
  });
  assertEquals(parseTaskPermissions("read=/a,read=/b"), { read: ["/a", "/b"] });
  for (const text of ["", "nett=1", "/data", "net,/x", "hrtime"]) {
    assertThrows(() => parseTaskPermissions(text), DaskError, "Cannot read task permissions");
  }
});

Deno.test("tasks inherit what the worker has whole, never ffi or run", () => {
  const all = having("read", "write", "net", "env", "sys", "import", "ffi", "run");
  assertEquals(grantsOf("inherit", "/", all).flags, [
    "--allow-read",
    "--allow-write",
    "--allow-net",
    "--allow-env",
    "--allow-sys",
    "--allow-import",
  ]);
  assertEquals(grantsOf("none", "/", all), { flags: ["--deny-import"], summary: "none" });
  assertEquals(grantsOf("inherit", "/", having("net", "import=jsr.io:443")), {
    flags: ["--allow-net", "--allow-import=jsr.io:443"],
    summary: "net",
  });
});

Deno.test("a partly granted kind is not passed on as a whole", () => {
  const query: Query = () => ({ state: "granted", partial: true });
  assertEquals(grantsOf("inherit", "/", query).flags.filter((flag) => !flag.includes("import")), []);
});

Deno.test("named permissions are given when the worker has them", () => {
  const query = having("net", "read=/data", "read=/home/x/models");
  assertEquals(grantsOf({ net: ["example.org:443"], read: ["/data", "models"] }, "/home/x", query), {
    flags: ["--allow-read=/data,/home/x/models", "--allow-net=example.org:443", "--deny-import"],
    summary: "read=/data,/home/x/models, net=example.org:443",
  });
  assertEquals(grantsOf({ net: true, env: false }, "/", query).summary, "net");
});

Deno.test("more than the worker has is refused by name", () => {
  const query = having("net=a:1", "ffi", "run");
  assertThrows(() => grantsOf({ net: ["b:2"] }, "/", query), DaskError, `"net=b:2"`);
  assertThrows(() => grantsOf({ net: true }, "/", query), DaskError, `"net"`);
  assertThrows(() => grantsOf({ read: ["/etc"] }, "/", query), DaskError, "start it with --allow-read=/etc");
  for (const kind of ["ffi", "run"] as const) {
    assertThrows(() => grantsOf({ [kind]: true }, "/", query), DaskError, `"${kind}"`);
  }
  const unknown = JSON.parse(`{"hrtime":true}`);
  assertThrows(() => grantsOf(unknown, "/", query), DaskError, "hrtime");
});

Deno.test("a compiled worker gives up whole kinds", () => {
  const names = (flags: readonly string[]) => givenUp(flags).map(({ name }) => name);
  assertEquals(names(["--allow-read", "--allow-write", "--allow-net", "--allow-env", "--allow-sys"]), [
    "import",
    "run",
    "ffi",
  ]);
  assertEquals(names(["--deny-import"]), ["read", "write", "net", "env", "sys", "import", "run", "ffi"]);
  assertEquals(names(["--allow-read", "--allow-import=jsr.io:443"]).includes("import"), false);
  assertThrows(() => givenUp(["--allow-net=a:1"]), DaskError, 'Cannot give tasks the permission "net=a:1"');
});

Deno.test("a grant for the start is added beside others", () => {
  assertEquals(withGrant(["--allow-read"], "read", ["/s"]), ["--allow-read"]);
  assertEquals(withGrant(["--allow-read=/a"], "read", ["/s,t"]), ["--allow-read=/a,/s,,t"]);
  assertEquals(withGrant(["--deny-import"], "import", ["h:1"]), ["--allow-import=h:1"]);
});

Deno.test("a path is known to be granted by a folder around it", () => {
  const flags = ["--allow-net", "--allow-read=/a,/b,,c/", "--allow-write"];
  assertEquals(["/a", "/a/x", "/b,c/x", "/ab", "/"].map((path) => grantsPath(flags, "read", path)), [
    true,
    true,
    true,
    false,
    false,
  ]);
  assertEquals(grantsPath(flags, "write", "/x"), true);
  assertEquals(grantsPath([], "write", "/x"), false);
});
