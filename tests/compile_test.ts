/**
 * The worker as one executable holds all that it can load. Whether the executable runs needs Deno's runtime for
 * executables, which is downloaded; here is checked what goes into it.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { check, filesByUrl, filesOfWorker, missingIn, readListing } from "../scripts/compile.ts";

Deno.test("every file that the worker can load is embedded", async () => {
  const { embedded, missing } = await check();
  assertEquals(missing, []);
  assert(embedded > 50, `${embedded}`);
});

Deno.test("executors, pages, nanny, configuration and logs are among what it can load", async () => {
  const { files, includes } = await filesOfWorker();
  assert(includes.includes("worker/execute/main.ts"));
  for (
    const file of [
      ..."worker/execute/main.ts worker/http.ts worker/nanny.ts worker/supervisor.ts worker/deps.ts".split(
        " ",
      ),
      ..."config/deps.ts vendor/std-cli/parse_args.ts deno.json".split(" "),
    ]
  ) {
    assert(files.includes(file), file);
  }
});

Deno.test("filesByUrl finds what is named by URL, and no folders or comments", () => {
  const text = `
// new URL("./comment.ts", import.meta.url)
const a = new URL("./main.ts", import.meta.url);
const b = new Worker(new URL('../x/y.ts', import.meta.url).href);
const c = new URL("./", import.meta.url), d = new URL(".", import.meta.url), e = new URL(name, import.meta.url);
const f = new URL("https://example.org/z.ts", import.meta.url);`;
  assertEquals(filesByUrl("worker/execute/p.ts", text), ["worker/execute/main.ts", "worker/x/y.ts"]);
});

Deno.test("readListing reads the tree, and missingIn what is not in it", () => {
  const listing = `Compile worker/main.ts to w

Embedded Files

w
├─┬ actors (148.83KB)
│ ├─┬ kernel (33.4KB)
│ │ ├── actor.ts (20.44KB)
│ │ └── mod.ts (1.11KB)
│ └── store/* (64.72KB)
├── vendor/std-cli/parse_args.ts (556B)
└─┬ worker (829.84KB)
  ├─┬ execute (273.52KB)
  │ └── main.ts (31.04KB)
  └── wire.ts (24.3KB)

Files: 5.33MB
`;
  assertEquals(readListing(listing), [
    "actors/kernel/actor.ts",
    "actors/kernel/mod.ts",
    "actors/store/*",
    "vendor/std-cli/parse_args.ts",
    "worker/execute/main.ts",
    "worker/wire.ts",
  ]);
  assertEquals(
    missingIn(listing, [
      "actors/store/deep/a.ts",
      "worker/wire.ts",
      "worker/main.ts",
      "actors/kernel/pipe.ts",
    ]),
    ["worker/main.ts", "actors/kernel/pipe.ts"],
  );
});
