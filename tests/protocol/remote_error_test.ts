import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { pickled, serialized } from "../../protocol/envelope.ts";
import type { ErrorData } from "../../protocol/errors.ts";
import { encodePickle } from "../../protocol/pickle/encode.ts";
import { errorData, TEXT_CHARS_MAX, writeException } from "../../protocol/exception.ts";
import { readException } from "../../protocol/remote_error.ts";
import { encodeValue, picklePayload } from "../../protocol/value.ts";
import { runPython } from "../support/scheduler.ts";
import { bytes, vectors } from "../vectors/vectors.ts";

interface Expectation {
  readonly name: string;
  readonly message: string;
  readonly pythonClass?: string;
  readonly stack?: readonly string[];
  readonly more?: Readonly<Record<string, unknown>>;
}

/** By the names of `errors` in `tests/vectors/generate.py`. */
const EXPECTED: Readonly<Record<string, Expectation>> = {
  simple: {
    name: "ValueError",
    message: "bad value",
    stack: ['File "generate.py", line ', ", in simple\nValueError: bad value"],
  },
  "simple-plain": { name: "ValueError", message: "bad value" },
  no_arguments: { name: "RuntimeError", message: "" },
  key_error: { name: "KeyError", message: "'missing'" },
  os_error: {
    name: "FileNotFoundError",
    message: "[Errno 2] No such file or directory: '/no/such/file'",
  },
  chained: {
    name: "RuntimeError",
    message: "outer",
    stack: [
      ", in key_error\nKeyError: 'missing'\n\nThe above exception was the direct cause",
      ", in chained\nRuntimeError: outer",
    ],
  },
  in_handler: { name: "TypeError", message: "while handling" },
  noted: {
    name: "ValueError",
    message: "with notes",
    stack: ["ValueError: with notes\nfirst note\nsecond note"],
    more: { notes: ["first note", "second note"] },
  },
  two_arguments: { name: "ValueError", message: "('a', 2)" },
  custom: { name: "vectors.CustomError", message: "7", pythonClass: "vectors.CustomError" },
  deep: { name: "RecursionError", message: "deep", stack: ["more levels", ", in deep"] },
  group: {
    name: "ExceptionGroup",
    message: "several (2 sub-exceptions)",
    stack: ["One of its errors: ValueError: one", "One of its errors: TypeError: two"],
  },
  long: { name: "ValueError", message: "x".repeat(9_999) },
  lone_surrogate: { name: "ValueError", message: "\ufffd" },
  killed: {
    name: "distributed.scheduler.KilledWorker",
    message:
      "Task 'x-1' was tried 4 times on workers that died while they ran it; the last one was tcp://127.0.0.1:1",
    pythonClass: "distributed.scheduler.KilledWorker",
    more: { kind: "lost" },
  },
};

for (const release of ["1.7.0", "3.2.2"]) {
  Deno.test(`remote error: exceptions of Python, tblib ${release}`, () => {
    const seen = new Set<string>();
    for (const vector of vectors(`errors-tblib-${release}.json`)) {
      const { name } = vector;
      seen.add(name);
      const expected = EXPECTED[name.startsWith("killed") ? "killed" : name];
      assert(expected !== undefined, `no expectation for ${name}`);
      const traceback = vector.traceback == null ? null : serialized(encodeValue(bytes(vector.traceback)));
      const data = readException(serialized(encodeValue(bytes(vector.exception))), traceback);
      // tblib 1.7 cannot make an exception with an initializer of its own again: the worker sends its repr instead.
      if (name === "custom" && release === "1.7.0") {
        assertStringIncludes(data.message, "CustomError");
        continue;
      }
      assertEquals(data.name, expected.name);
      if (name === "long") assertEquals(data.message.slice(0, 9_000), expected.message.slice(0, 9_000));
      else assertEquals(data.message, expected.message);
      assertEquals(data.pythonClass, expected.pythonClass ?? `builtins.${expected.name}`);
      if (traceback !== null) {
        for (const part of expected.stack ?? []) assertStringIncludes(data.stack, part);
      }
      for (const [field, value] of Object.entries({ kind: "failed", ...expected.more })) {
        assertEquals((data as unknown as Record<string, unknown>)[field], value, `${name}.${field}`);
      }
      assert(data.stack.length <= TEXT_CHARS_MAX && data.message.length <= TEXT_CHARS_MAX);
    }
    assertEquals(seen.size, Object.keys(EXPECTED).length + 1);
  });
}

Deno.test("remote error: causes and contexts are read as errors of their own", () => {
  const vector = vectors("errors-tblib-3.2.2.json").find((one) => one.name === "in_handler");
  const data = readException(bytes(vector?.exception), bytes(vector?.traceback));
  assertEquals([data.cause?.name, data.cause?.message], ["KeyError", "'missing'"]);
  assertStringIncludes(data.stack, "During handling of the above exception, another exception occurred:");
});

Deno.test("remote error: every layer in which an exception may come", () => {
  const vector = vectors("errors-tblib-3.2.2.json").find((one) => one.name === "simple-plain");
  const pickle = bytes(vector?.exception);
  const forms: unknown[] = [
    pickle,
    pickled(pickle),
    serialized(encodeValue(pickle)),
    serialized(picklePayload(pickle)),
    serialized(picklePayload(encodePickle(pickle).pickle)),
    "ValueError: bad value",
    serialized(encodeValue("ValueError: bad value")),
  ];
  for (const form of forms) {
    const { name, message, kind } = readException(form, null);
    assertEquals([name, message, kind], ["ValueError", "bad value", "failed"]);
  }
});

Deno.test("remote error: what is no exception is told, never thrown", () => {
  const forms: unknown[] = [
    null,
    undefined,
    7,
    {},
    [],
    new Uint8Array(0),
    Uint8Array.of(1, 2, 3),
    new Map(),
    serialized(encodeValue(5)),
    serialized({ header: Uint8Array.of(0xc1), frames: [] }),
    serialized({ header: Uint8Array.of(0x80), frames: [{ file: "/nowhere", byteLength: 3 }] }),
    pickled(Uint8Array.of(0x80, 4, 0x2e)),
    Symbol("x"),
    () => 1,
  ];
  for (const form of forms) {
    const data = readException(form, form);
    assertStringIncludes(data.message, "An error that cannot be read");
    assertEquals(data.kind, "failed");
  }
  assertEquals(readException("just text", null).message, "just text");
});

Deno.test("remote error: what TypeScript wrote TypeScript reads back whole", () => {
  const errors: ErrorData[] = [
    {
      name: "TypeError",
      message: "x is not a function",
      stack: "TypeError: x is not a function\n    at f",
      kind: "failed",
    },
    { name: "MyError", message: "", stack: "", kind: "failed" },
    { name: "WorkerLostError", message: "it died", stack: "", kind: "lost", exit: "signal SIGKILL" },
  ];
  for (const error of errors) {
    const { exception } = writeException(error);
    assertEquals(readException(serialized(exception), null), error);
  }
  const huge = writeException({
    name: "E",
    message: "😀".repeat(50_000),
    stack: "s".repeat(50_000),
    kind: "failed",
  });
  const back = readException(serialized(huge.exception), null);
  assertEquals([back.message.length, back.stack.length], [TEXT_CHARS_MAX, TEXT_CHARS_MAX]);
  assert(back.message.isWellFormed());
  assert(huge.exceptionText.length <= TEXT_CHARS_MAX && huge.tracebackText.length <= TEXT_CHARS_MAX);
});

Deno.test("remote error: anything can be thrown", () => {
  const trap = () => {
    throw new Error("trap");
  };
  const proxy = new Proxy({}, {
    get: trap,
    has: trap,
    getPrototypeOf: trap,
    ownKeys: trap,
    getOwnPropertyDescriptor: trap,
  });
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  const told = (thrown: unknown) => {
    const { name, message } = errorData(thrown);
    return `${name}: ${message}`;
  };
  assertEquals(told("boom"), 'Error: Thrown: "boom"');
  assertEquals(told(null), "Error: Thrown: null");
  assertEquals(told(undefined), "Error: Thrown: undefined");
  assertEquals(told(7n), "Error: Thrown: 7n");
  assertEquals(told(Symbol("x")), "Error: Thrown: Symbol(x)");
  assertEquals(told(() => 1), "Error: Thrown: a function");
  assertEquals(told({ code: 7 }), 'Error: Thrown: {"code":7}');
  assertEquals(told(cyclic), "Error: Thrown: an instance of Object");
  assertEquals(told(proxy), "Error: Thrown: an instance of Object");
  assertEquals(told(new TypeError("x is not a function")), "TypeError: x is not a function");
  assertEquals(told(new (class Custom extends Error {})("m")), "Error: m");
  assertEquals(told({ name: "Odd", message: "m" }), "Odd: m");
  assertEquals(told(new DOMException("late", "TimeoutError")), "TimeoutError: late");
  assertEquals(errorData(new Error("x".repeat(100_000))).message.length, TEXT_CHARS_MAX);
  assertEquals(errorData(new Error("x"), "lost").kind, "lost");
  assertEquals(
    errorData(Object.assign(new Error("x"), { name: trap, message: trap, stack: trap })).name,
    "Error",
  );
});

Deno.test("remote error: causes and members of aggregates follow in the stack", () => {
  const root = new RangeError("root");
  const error = new AggregateError([new TypeError("one"), "two"], "several", {
    cause: new Error("middle", { cause: root }),
  });
  root.cause = error; // a cycle
  const { stack } = errorData(error);
  for (
    const part of [
      "AggregateError: several",
      "Caused by: Error: middle",
      "Caused by: RangeError: root",
      "One of its errors: TypeError: one",
      'One of its errors: "two"',
    ]
  ) {
    assertStringIncludes(stack, part);
  }
  const many = new AggregateError(Array.from({ length: 1000 }, (_, i) => new Error(`member ${i}`)), "many");
  assert(errorData(many).stack.length <= TEXT_CHARS_MAX);
});

Deno.test("remote error: Python raises what TypeScript wrote", async () => {
  const errors: ErrorData[] = [
    {
      name: "TypeError",
      message: "x is not a function",
      stack: "TypeError: x is not a function\n    at f (mod.ts:1:2)",
      kind: "failed",
    },
    { name: "RangeError", message: "too far", stack: "", kind: "failed" },
    { name: "TimeoutError", message: "late", stack: "", kind: "failed" },
    { name: "Error", message: "boom", stack: "s", kind: "failed" },
    { name: "MyError", message: "", stack: "s", kind: "failed" },
    {
      name: "WorkerLostError",
      message: "the executor ran out of memory",
      stack: "",
      kind: "lost",
      exit: "signal SIGABRT",
    },
    { name: "SyntaxError", message: "lone \ud800 surrogate", stack: "", kind: "failed" },
  ];
  const { code, stdout, stderr } = await runPython(
    `
import base64, json, sys, traceback, msgpack
from distributed.protocol.serialize import merge_and_deserialize
from distributed.core import clean_exception
for item in json.loads(sys.argv[1]):
    header = msgpack.loads(base64.b64decode(item["header"]), use_list=False)
    inner = merge_and_deserialize(header, [base64.b64decode(f) for f in item["frames"]])
    assert type(inner) is bytes
    kind, exception, tb = clean_exception(inner, None)
    try:
        raise exception.with_traceback(tb)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        notes = getattr(error, "__notes__", [])
        print(json.dumps([type(error).__name__, str(error), "mod.ts:1:2" in text, len(notes), error.javascript["name"]]))
`,
    [JSON.stringify(errors.map((error) => {
      const { header, frames } = writeException(error).exception;
      return {
        header: header.toBase64(),
        frames: frames.map((frame) => new Uint8Array(frame as Uint8Array).toBase64()),
      };
    }))],
  );
  assertEquals(code, 0, stderr);
  assertEquals(stdout.trim().split("\n").map((line) => JSON.parse(line)), [
    ["TypeError", "x is not a function", true, 1, "TypeError"],
    ["ValueError", "RangeError: too far", false, 0, "RangeError"],
    ["TimeoutError", "late", false, 0, "TimeoutError"],
    ["RuntimeError", "Error: boom", false, 1, "Error"],
    ["RuntimeError", "MyError", false, 1, "MyError"],
    ["MemoryError", "WorkerLostError: the executor ran out of memory", false, 0, "WorkerLostError"],
    ["RuntimeError", "SyntaxError: lone \ufffd surrogate", false, 0, "SyntaxError"],
  ]);
});
