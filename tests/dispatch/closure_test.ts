// deno-lint-ignore-file
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { checkClosure } from "../../dispatch/closure.ts";

const captured = Math.random();
const box = { value: captured };
function sibling(): number {
  return 1;
}
class Base {
  hello(): string {
    return "hello";
  }
}
declare const current: () => { progress(done: number, total?: number): void };

const methods = {
  add(a: number, b: number): number {
    return a + b;
  },
  async *rows(n: number) {
    for (let i = 0; i < n; i++) yield await Promise.resolve(i);
  },
  delete(x: number): number {
    return x - 1;
  },
  ["com" + "puted"](x: number): number {
    return x;
  },
  get size(): number {
    return 3;
  },
  own(): number {
    return (this as { size: number }).size;
  },
  up(): unknown {
    return super.toString;
  },
};

/** What may travel. `run` is called on the function made from the text that travels. */
const fine: readonly [name: string, fn: Function, run?: readonly [args: unknown[], result: unknown]][] = [
  ["an arrow", (a: number, b: number) => a + b, [[1, 2], 3]],
  ["an arrow with a body", (a: number) => {
    return a * 2;
  }, [[2], 4]],
  ["an async arrow", async (a: number) => await Promise.resolve(a)],
  ["a function", function (a: number) {
    return a;
  }, [[1], 1]],
  ["a named function that calls itself", function fact(n: number): number {
    return n < 2 ? 1 : n * fact(n - 1);
  }, [[4], 24]],
  ["an async function", async function (a: number) {
    return await Promise.resolve(a);
  }],
  ["a generator", function* (n: number) {
    for (let i = 0; i < n; i++) yield i;
  }],
  ["an async generator", async function* (n: number) {
    for await (const x of [n]) yield x;
  }],
  ["a method", methods.add, [[1, 2], 3]],
  ["an async generator method", methods.rows],
  ["a method with a reserved name", methods.delete, [[3], 2]],
  ["a method with a computed name", methods["computed"] as Function, [[3], 3]],
  ["a getter", Object.getOwnPropertyDescriptor(methods, "size")!.get!, [[], 3]],
  [
    "defaults that use earlier parameters",
    (a: number, b = a + 1, { c = b, ...rest } = {} as any, [d] = [c]) => a + b + d + Object.keys(rest).length,
    [[1], 5],
  ],
  ["destructured parameters and aliases", ({ a: x, b: [y = 2] }: any, ...[z]: any[]) => x + y + z, [[
    { a: 1, b: [] },
    3,
  ], 6]],
  ["var before its declaration", () => {
    if (Math.PI > 3) {
      var found = 1;
    }
    for (var i = 0; i < 1; i++);
    return found! + i;
  }, [[], 2]],
  ["a nested function used before it is declared", () => {
    return inner(1);
    function inner(x: number): number {
      return x + 1;
    }
  }, [[], 2]],
  ["a class with fields, statics and this", () => {
    class Point {
      static origin = new Point(0);
      #x: number;
      y = 1;
      constructor(x: number) {
        this.#x = x;
      }
      get x(): number {
        return this.#x;
      }
      static {
        this.origin.y = 5;
      }
    }
    class Sub extends Point {
      override get x(): number {
        return super.x + 1;
      }
    }
    return new Sub(1).x + Point.origin.y;
  }, [[], 7]],
  ["catch bindings", () => {
    try {
      throw new Error("x");
    } catch ({ message }: any) {
      return message;
    }
  }, [[], "x"]],
  ["labels", () => {
    let n = 0;
    outer: for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) {
        if (j === 1) continue outer;
        if (i === 2) break outer;
        n++;
      }
    }
    return n;
  }, [[], 2]],
  ["property keys and shorthand of own names", (captured: number) => {
    const box = { captured, sibling: 1, [`k${captured}`]: 2 };
    return box.captured + box.sibling + (box as any).k1;
  }, [[1], 4]],
  ["globals of every program", () => {
    const url = new URL("https://x.y/z");
    return [url.host, structuredClone(1), Number.NaN, undefined, typeof Deno, JSON.stringify({})].length;
  }, [[], 6]],
  ["console, process and Deno", () => {
    console.assert(true);
    return typeof Deno.version.deno === typeof process.version;
  }, [[], true]],
  ["current", () => {
    current().progress(1, 2);
    return 1;
  }],
  ["arguments of its own", function () {
    return arguments.length;
  }, [[1, 2, 3], 3]],
  ["this inside a nested function", () => {
    function Old(this: any): void {
      this.x = 1;
    }
    return new (Old as any)().x;
  }, [[], 1]],
  ["new.target inside a nested function", () => {
    function Made(this: any): void {
      this.made = new.target !== undefined;
    }
    return new (Made as any)().made;
  }, [[], true]],
  ["dynamic imports of packages", async () => (await import("node:path")).basename("a/b")],
  ["a switch with own bindings", (x: number) => {
    switch (x) {
      case 1: {
        const y = 2;
        return y;
      }
      default:
        return 0;
    }
  }, [[1], 2]],
  ["a shadowed outer name", () => {
    const captured = 2;
    {
      let sibling = captured;
      sibling++;
      return sibling;
    }
  }, [[], 3]],
  ["a regular expression and a template", (x: string) => `${x.replace(/captured/g, "")}!`, [
    ["captured"],
    "!",
  ]],
  ["optional chains and private-looking keys", (x: any) => x?.box?.["captured"] ?? x?.sibling, [[{
    sibling: 1,
  }], 1]],
];

/** What may not, and what the refusal must say. */
const refused: readonly [name: string, fn: Function, ...says: string[]][] = [
  ["a captured variable", () => captured, `"captured"`, "pass it as an argument", "use tasks()"],
  ["a captured object", () => box.value, `"box"`],
  ["two captured names", (x: number) => x + captured + sibling(), `"captured", "sibling"`, "pass them as"],
  ["a captured name in a default", (x = captured) => x, `"captured"`],
  ["a captured name in a computed key", ({ [String(captured)]: x }: any) => x, `"captured"`],
  ["a captured name in shorthand", () => ({ captured }), `"captured"`],
  ["a captured name in a nested function", () => () => () => captured, `"captured"`],
  ["a captured base class", () => {
    class Sub extends Base {}
    return new Sub().hello();
  }, `"Base"`],
  ["a captured name behind a block that shadows it", () => {
    {
      const captured = 1;
      if (captured > 1) return 1;
    }
    return captured;
  }, `"captured"`],
  ["a loop variable used after the loop", new Function("for (let i = 0; i < 1; i++); return i"), `"i"`],
  ["an assignment to a captured name", () => {
    box.value = 1;
  }, `"box"`],
  ["a captured name under typeof", () => typeof captured, `"captured"`],
  ["a captured tag", () => (sibling as any)`x`, `"sibling"`],
  [
    "this of an arrow",
    function (this: any) {
      return () => this.x;
    }.call({ x: 1 }),
    `"this"`,
  ],
  ["this of a method", methods.own, `"this"`],
  ["super of a method", methods.up, `"super"`],
  [
    "arguments of the function around",
    (function () {
      return () => arguments.length;
    })(),
    `"arguments"`,
  ],
  ["import.meta", () => import.meta.url, "import.meta"],
  ["a relative dynamic import", async () => await import("./closure_test.ts"), `imports "./closure_test.ts"`],
  ["a built-in", Math.max, "built in", "wrap it"],
  ["a bound function", sibling.bind(null), "made by bind()"],
  ["a class", Base, "is a class"],
  ["a global of pages", new Function("return location.href"), `"location"`],
];

Deno.test("closures: there are at least 30 cases", () => {
  assert(fine.length + refused.length >= 50);
});

for (const [name, fn, run] of fine) {
  Deno.test(`closures: ${name} may travel`, () => {
    const verdict = checkClosure(fn.toString());
    assert(verdict.ok, verdict.ok ? "" : verdict.reason);
    // Far from here: no name of this file is in scope.
    const remade = new Function(`"use strict"; return (${verdict.source}\n);`)();
    assertEquals(typeof remade, "function");
    if (run !== undefined) assertEquals(remade(...run[0]), run[1]);
  });
}

for (const [name, fn, ...says] of refused) {
  Deno.test(`closures: ${name} may not travel`, () => {
    const verdict = checkClosure(fn.toString());
    assert(!verdict.ok, "it was let through");
    for (const text of says) assertStringIncludes(verdict.reason, text);
  });
}

Deno.test("closures: the names are listed", () => {
  const verdict = checkClosure("(x) => x + a + b(c.d)");
  assert(!verdict.ok);
  assertEquals(verdict.names, ["a", "b", "c"]);
});

Deno.test("closures: what is no function is refused", () => {
  for (const text of ["", "1", "({})", "a => ", "class {}", "async () => { await"]) {
    assert(!checkClosure(text).ok, text);
  }
});
