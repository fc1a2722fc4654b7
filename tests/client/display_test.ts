/**
 * What notebooks show of clients and futures.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { showClient, showFuture } from "../../client/display.ts";
import { startScheduler } from "../support/scheduler.ts";
import { cluster } from "./cluster.ts";

/** As Deno's kernel does. */
async function display(shown: object): Promise<Record<string, string>> {
  return await (shown as Record<symbol, () => Promise<Record<string, string>>>)[
    Symbol.for("Jupyter.display")
  ]!();
}

Deno.test("a notebook shows a client with its workers, a future with its status, and both after the end", async () => {
  await using scheduler = await startScheduler();
  await using c = await cluster(scheduler.address, 1, ["--name", "<b>one</b>"]);
  const { client } = c;
  const bundle = await display(client);
  assertEquals(Object.keys(bundle), ["text/plain", "text/html"]);
  assertEquals(bundle["text/plain"], `Client(${scheduler.address}): 1 (1 TypeScript, 0 Python), 1 slot`);
  assertStringIncludes(bundle["text/html"]!, "<td>&lt;b&gt;one&lt;/b&gt;</td>");
  assertStringIncludes(bundle["text/html"]!, client.id);

  using future = client.submit((x: number) => x, [1], { key: "<i>key</i>" });
  assertStringIncludes((await display(future))["text/html"]!, "pending");
  await future.result();
  const shown = await display(future);
  assertEquals(shown["text/plain"], 'Future(finished, "<i>key</i>")');
  assertStringIncludes(shown["text/html"]!, "finished</span> <code>&lt;i&gt;key&lt;/i&gt;</code>");

  await client.close();
  assertMatch((await display(client))["text/plain"]!, /, closed\)$/);
});

Deno.test("many workers are counted, and what others named is escaped", () => {
  const workers = Array.from({ length: 50 }, (_, i) => ({
    address: `tcp://<${i}>:1`,
    name: `w${i}`,
    slots: 2,
    language: i === 0 ? "python" as const : "typescript" as const,
  }));
  const info = { address: "tcp://h:1", version: "<2026>", started: new Date(0), workers };
  const html =
    showClient({ text: "Client", id: "<id>", address: "<a>", dashboard: 'http://h/"x' }, info)["text/html"];
  assertStringIncludes(html, "50 (49 TypeScript, 1 Python), 100 slots");
  assertStringIncludes(html, "and 30 more");
  assertStringIncludes(html, 'href="http://h/&quot;x"');
  assert(!/<(id|a|2026|\d+)>/.test(html), html);
  assert(!showFuture("t", "k", "<s>")["text/html"].includes("<s>"));
});
