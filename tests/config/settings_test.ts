import { assertEquals, assertThrows } from "@std/assert";
import {
  CONFIG_KEYS,
  configPlaces,
  environmentSources,
  readConfig,
  readLiteral,
  variableOf,
} from "../../config/settings.ts";
import { DaskError } from "../../protocol/errors.ts";
import { runPython } from "../support/scheduler.ts";

const file = (document: unknown, from = "/etc/dask/a.yaml") => ({ from, document });

Deno.test("nothing configured: everything is null", () => {
  const config = readConfig([]);
  assertEquals(config.schedulerAddress, null);
  assertEquals(config.memory.target, null);
  assertEquals(config.preload, []);
  assertEquals(config.tls.worker, { cert: null, key: null });
});

Deno.test("later documents win, key by key, whether names have dashes or underscores", () => {
  const config = readConfig([
    file({
      "scheduler-address": "tcp://etc:1",
      "temporary-directory": "/scratch",
      distributed: { worker: { memory: { target: 0.5, spill: 0.6 }, resources: { GPU: 1, MEM: 5 } } },
    }),
    file({ scheduler_address: "tcp://home:1", distributed: { worker: { memory: { spill: false } } } }),
    ...environmentSources({
      DASK_SCHEDULER_ADDRESS: "tcp://env:1",
      DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION: "5 minutes",
      DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER: "3",
      DASK_DISTRIBUTED__WORKER__LIFETIME__RESTART: "True",
      DASK_DISTRIBUTED__WORKER__RESOURCES: "{'GPU': 2}",
      DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT: "10s",
      DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION: "1.2",
      UNRELATED: "x",
    }),
  ]);
  assertEquals(config.schedulerAddress, "tcp://env:1");
  assertEquals(config.temporaryDirectory, "/scratch");
  assertEquals([config.memory.target, config.memory.spill], [0.5, false]);
  assertEquals(config.lifetime, { durationMs: 300_000, staggerMs: 3_000, restart: true });
  assertEquals(config.resources, { GPU: 2, MEM: 5 });
  assertEquals(config.timeouts, { connectMs: 10_000, tcpMs: null });
  assertEquals(config.tls.minVersion, "1.2");
});

Deno.test("null hides what stands further down; a map of keys replaces it", () => {
  const low = file({ distributed: { worker: { lifetime: { duration: "1h", stagger: "1m" } } } });
  const config = readConfig([low, file({ distributed: { worker: { lifetime: { duration: null } } } })]);
  assertEquals([config.lifetime.durationMs, config.lifetime.staggerMs], [null, 60_000]);
});

Deno.test("a value that makes no sense is refused by document and key", () => {
  for (
    const [document, message] of [
      [{ "scheduler-address": 8786 }, `"scheduler-address" in /etc/dask/a.yaml: expected a text, got 8786`],
      [
        { distributed: { worker: { memory: { target: "lots" } } } },
        `"distributed.worker.memory.target" in /etc/dask/a.yaml: expected a share such as 0.6, or false, got "lots"`,
      ],
      [
        { distributed: { worker: { lifetime: { duration: "soon" } } } },
        `"distributed.worker.lifetime.duration" in /etc/dask/a.yaml: Cannot read time "soon": expected a number with ns, us, ms, s, m, h, d or w`,
      ],
      [
        { distributed: { worker: { resources: { GPU: "two" } } } },
        `"distributed.worker.resources" in /etc/dask/a.yaml: expected a number of at least 0, got "two"`,
      ],
      [
        { distributed: { comm: { "require-encryption": 7 } } },
        `"distributed.comm.require-encryption" in /etc/dask/a.yaml: expected true or false, got 7`,
      ],
    ] as const
  ) {
    assertThrows(() => readConfig([file(document)]), DaskError, `Cannot read ${message}`);
  }
  assertThrows(
    () => readConfig(environmentSources({ DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE: "-1" })),
    DaskError,
    '"distributed.worker.memory.pause" in the environment',
  );
  assertThrows(() => environmentSources({ DASK_INTERNAL_INHERIT_CONFIG: "!" }), DaskError, "base64");
});

Deno.test("places: root, home, own, each once", () => {
  const places = (variables: Record<string, string>) => configPlaces((name) => variables[name]);
  assertEquals(places({}), ["/etc/dask"]);
  assertEquals(places({ HOME: "/home/u" }), ["/etc/dask", "/home/u/.config/dask"]);
  assertEquals(places({ DASK_ROOT_CONFIG: "/r", DASK_CONFIG: "/r", HOME: "/h" }), ["/h/.config/dask", "/r"]);
});

Deno.test("every key has a variable that is read", () => {
  assertEquals(
    variableOf("distributed.worker.memory.max-spill"),
    "DASK_DISTRIBUTED__WORKER__MEMORY__MAX_SPILL",
  );
  for (const key of CONFIG_KEYS) {
    // No key takes a list of a map: each must be found, and refused by its name.
    assertThrows(
      () => readConfig(environmentSources({ [variableOf(key)]: "[{'a': 'b'}]" })),
      DaskError,
      `Cannot read "${key}" in the environment`,
    );
  }
});

Deno.test("variables are read as Python reads them", async () => {
  const texts = [
    ..."1 -2 0.5 1e3 .5 +7 1_000 True False None true FALSE none null 'a' [1,2] (1,'b') {'a':1} [] {}".split(
      " ",
    ),
    ...['"it\'s"', "{'a': [1, {'b': None}],}", "[1, x]", "2GiB", "30s", "tcp://h:1", "2024-01-01", "1.2.3"],
    ...["[1", "a b", " 5 ", "'\\''"],
  ];
  const { stdout, stderr } = await runPython(
    `
import json, sys
from dask.config import interpret_value
print(json.dumps([interpret_value(text) for text in json.loads(sys.argv[1])]))`,
    [JSON.stringify(texts)],
  );
  const expected = JSON.parse(stdout || stderr) as unknown[];
  for (const [index, text] of texts.entries()) assertEquals(readLiteral(text), expected[index], text);
});
