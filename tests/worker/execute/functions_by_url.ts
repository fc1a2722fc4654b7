/**
 * Functions that are named by the URL of their module, as a check of its own: run as a program it takes the isolation.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import type { IsolationName } from "../../../worker/execute/executor.ts";
import { callOf, namedCall, sha256, TestPool } from "./specs.ts";

/** Runs them, with and without integrity. */
export async function functionsByUrl(isolation: IsolationName): Promise<void> {
  const source = "export const twice = (x: number): number => 2 * x;\n";
  await using server = Deno.serve(
    { port: 0, onListen() {} },
    () => new Response(source, { headers: { "content-type": "application/typescript" } }),
  );
  const url = `http://127.0.0.1:${server.addr.port}/mod.ts`;
  const hash = await sha256(source);
  await using test = new TestPool({ isolation });
  const call = (key: string, integrity: string | null) =>
    callOf(key, { function: { kind: "url", url, export: "twice", integrity }, args: [4] });
  assertEquals(await test.value(call("a", null)), 8);
  assertEquals(await test.value(call("b", `sha256=${hash}`)), 8);
  assertEquals(await test.value(call("c", `sha256-${Uint8Array.fromHex(hash).toBase64()}`)), 8);
  assertStringIncludes(
    (await test.failure(call("d", `sha256=${"0".repeat(64)}`))).exceptionText,
    `got ${hash}`,
  );
  assertStringIncludes((await test.failure(call("e", "md5-x"))).exceptionText, "Cannot read the integrity");
  assertEquals(await test.value(namedCall("f", `deno:${url}#twice?sha256=${hash}`, [5])), 10);
}

if (import.meta.main) await functionsByUrl(Deno.args[0] as IsolationName);
