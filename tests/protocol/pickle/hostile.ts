/**
 * Pickles made to do harm, with what must be in the text of the value or error that comes of each.
 *
 * @module
 */

const word = (text: string) => `\x8c${String.fromCharCode(text.length)}${text}`;
const global = (module: string, name: string) => `${word(module)}${word(name)}\x93`;
const call = (module: string, name: string, ...args: string[]) =>
  `${global(module, name)}(${args.join("")}tR`;
const u4 = (n: number) => String.fromCharCode(n & 255, n >> 8 & 255, n >> 16 & 255, n >>> 24);
const u8 = (low: number, high: number) => u4(low) + u4(high);
const ARGUMENT = word("touch /tmp/owned");
const system = call("os", "system", ARGUMENT);

/** `named`: what must be in the text of the value or of the error. */
export type HostilePickle = readonly [name: string, opcodes: string, named: RegExp];

/** All of them; {@linkcode pickleBytes} makes a whole pickle of the opcodes. */
export const hostilePickles: readonly HostilePickle[] = [
  // Names that run things, in every way to say a name.
  ["os.system", system, /os\.system\('touch/],
  ["posix.system by GLOBAL", `cposix\nsystem\n(${ARGUMENT}tR`, /posix\.system/],
  ["nt.system", call("nt", "system", ARGUMENT), /nt\.system/],
  ["builtins.eval", call("builtins", "eval", ARGUMENT), /builtins\.eval/],
  ["builtins.exec", call("builtins", "exec", ARGUMENT), /builtins\.exec/],
  ["__builtin__.eval", call("__builtin__", "eval", ARGUMENT), /__builtin__\.eval/],
  [
    "builtins.getattr of os",
    call("builtins", "getattr", global("os", ""), word("system")),
    /builtins\.getattr/,
  ],
  [
    "getattr, then a call",
    `${
      call("builtins", "getattr", call("builtins", "__import__", word("os")), word("system"))
    }${ARGUMENT}\x85R`,
    /__import__/,
  ],
  ["builtins.__import__", call("builtins", "__import__", word("os")), /builtins\.__import__/],
  ["builtins.open", call("builtins", "open", word("/etc/passwd")), /builtins\.open/],
  ["builtins.compile", call("builtins", "compile", ARGUMENT, word("x"), word("exec")), /builtins\.compile/],
  ["builtins.map", call("builtins", "map", global("os", "system"), `](${ARGUMENT}e`), /builtins\.map/],
  ["subprocess.Popen", call("subprocess", "Popen", ARGUMENT), /subprocess\.Popen/],
  ["subprocess.check_output", call("subprocess", "check_output", ARGUMENT), /check_output/],
  ["pty.spawn", call("pty", "spawn", word("/bin/sh")), /pty\.spawn/],
  [
    "socket.create_connection",
    call("socket", "create_connection", `${word("127.0.0.1")}K\x01\x86`),
    /socket/,
  ],
  ["ctypes.CDLL", call("ctypes", "CDLL", word("libc.so.6")), /ctypes\.CDLL/],
  ["importlib.import_module", call("importlib", "import_module", word("os")), /import_module/],
  ["runpy.run_path", call("runpy", "run_path", word("/tmp/x.py")), /runpy/],
  ["pip.main", call("pip", "main", word("install")), /pip\.main/],
  ["cProfile.run", call("cProfile", "run", ARGUMENT), /cProfile\.run/],
  ["timeit.timeit", call("timeit", "timeit", ARGUMENT), /timeit/],
  ["pickle.loads inside", call("pickle", "loads", `C\x03\x80\x04.`), /pickle\.loads/],
  ["_pickle.loads inside", call("_pickle", "loads", `C\x03\x80\x04.`), /_pickle\.loads/],
  ["types.CodeType", call("types", "CodeType", "K\x00"), /CodeType/],
  ["types.FunctionType", call("types", "FunctionType", call("marshal", "loads", "C\x01c")), /FunctionType/],
  [
    "functools.partial of os.system",
    `${call("functools", "partial", global("os", "system"))}${ARGUMENT}\x85R`,
    /functools\.partial|os\.system/,
  ],
  ["operator.attrgetter", `${call("operator", "attrgetter", word("__class__"))}K\x01\x85R`, /attrgetter/],
  ["a dotted name", `${global("builtins", "object.__subclasses__")})R`, /__subclasses__/],
  ["a name that JavaScript knows", call("globalThis", "eval", word("Deno.exit(1)")), /globalThis\.eval/],
  ["Deno.exit", call("Deno", "exit", "K\x01"), /Deno\.exit/],
  ["a name that every object has", call("constructor", "constructor", ARGUMENT), /constructor\.constructor/],
  ["__proto__ as a module", call("__proto__", "__proto__", "K\x01"), /__proto__/],
  ["a name on our list with a body", call("numpy", "ndarray", system, system, system), /numpy\.ndarray/],
  ["our list, wrong case", call("Datetime", "datetime", "K\x01"), /Datetime/],
  ["datetime that calls", call("datetime", "datetime", system), /datetime\.datetime/],
  [
    "collections.OrderedDict of a call",
    `${call("collections", "OrderedDict")}${word("k")}${system}s`,
    /os\.system|OrderedDict|^\{/,
  ],
  [
    "codecs.encode with a module as codec",
    call("_codecs", "encode", word("x"), word("os")),
    /_codecs\.encode/,
  ],
  ["cloudpickle's make_function", call("cloudpickle.cloudpickle", "_make_function", "N", "N"), /cloudpickle/],
  [
    "copyreg._reconstructor",
    call("copyreg", "_reconstructor", global("os", "_wrap_close"), global("builtins", "object"), "N"),
    /copyreg/,
  ],
  ["NEWOBJ", `${global("subprocess", "Popen")}${ARGUMENT}\x85\x81`, /subprocess\.Popen/],
  [
    "NEWOBJ_EX",
    `${global("subprocess", "Popen")}${ARGUMENT}\x85}${word("shell")}\x88s\x92`,
    /subprocess\.Popen/,
  ],
  [
    "BUILD with __setstate__",
    `${global("evil", "X")})\x81}${word("__setstate__")}${global("os", "system")}sb`,
    /evil\.X/,
  ],
  [
    "BUILD on a class",
    `${global("os", "environ")}}${word("PATH")}${word("x")}sb`,
    /expected an object to build/,
  ],
  ["INST", `(${ARGUMENT}ios\nsystem\n`, /INST/],
  ["OBJ", `(${global("os", "system")}${ARGUMENT}o`, /OBJ/],
  ["EXT1", "\x82\x01", /EXT1/],
  ["EXT2", "\x83\x01\x00", /EXT2/],
  ["EXT4", "\x84\x01\x00\x00\x00", /EXT4/],
  ["PERSID", "Pos.system\n", /PERSID/],
  ["BINPERSID", `${word("x")}Q`, /BINPERSID/],
  ["text opcodes of protocol 0", "I1\n", /INT/],
  ["STRING", "S'os'\n", /STRING/],
  ["a call of text", `${word("os.system")}${ARGUMENT}\x85R`, /expected something to call, got a str/],
  ["arguments that are no tuple", `${global("os", "system")}${ARGUMENT}R`, /expected a tuple of arguments/],

  // Tricks with the memo and the stack.
  ["memo by PUT far away", "K\x01r\xff\xff\xff\xff", /memo index/],
  ["GET of nothing", "h\x05", /memo entry 5/],
  ["LONG_BINGET of nothing", "j\xff\xff\xff\x7f", /memo entry/],
  ["memo swapped under a name", `${word("os")}q\x00${word("system")}q\x00h\x00h\x000\x93`, /expected|system/],
  ["a call of itself", `${global("os", "system")}](h\x00`, /memo entry|mark/],
  [
    "an argument that holds its own object",
    `${global("numpy", "ndarray")}](${global("x", "y")}\x85Rq\x00ah\x00\x85R`,
    /expected/,
  ],
  ["POP below the mark", "(0000", /expected a mark/],
  ["TUPLE without a mark", "K\x01t", /expected a mark/],
  ["SETITEMS on a number", "K\x01(K\x01K\x02u", /expected a dict/],
  ["SETITEMS of a half pair", "}(K\x01u", /by turns/],
  ["APPENDS on nothing", "(K\x01e", /expected a list/],
  ["ADDITEMS on a frozenset", "(\x91(K\x01\x90", /expected a set/],
  ["STOP on an empty stack", "", /expected a value/],
  ["STOP inside a mark", "(K\x01", /expected no mark/],
  ["a second PROTO 77", "\x804K\x01", /protocol 52/],
  ["NEXT_BUFFER without buffers", "\x97", /out-of-band/],
  ["STACK_GLOBAL of numbers", "K\x01K\x02\x93", /as text/],

  // Lies about sizes.
  ["BINBYTES of 4 GB", `B${u4(0xffffffff)}`, /more bytes/],
  ["BINBYTES8 of 2^63", `\x8e${u8(0, 0x80000000)}`, /more bytes/],
  ["BINUNICODE8 of 2^64", `\x8d${u8(0xffffffff, 0xffffffff)}`, /more bytes/],
  ["BYTEARRAY8 of 2^60", `\x96${u8(0, 1 << 28)}`, /more bytes/],
  ["LONG4 of 2 GB", `\x8b${u4(0x7fffffff)}`, /integer|more bytes/],
  ["LONG4 of 1 MB", `\x8b${u4(1 << 20)}${"\x7f".repeat(1 << 20)}`, /integer of at most/],
  ["FRAME of 2^64", `\x95${u8(0xffffffff, 0xffffffff)}K\x01`, /^1$/],
  [
    "an array of 2^50 elements",
    call("numpy", "ndarray", `\x8a\x07${"\x00".repeat(6)}\x04\x85`, word("<f8"), "C\x08xxxxxxxx"),
    /needs|numpy/,
  ],
  [
    "an array of 65 dimensions",
    call("numpy", "ndarray", `(${"K\x01".repeat(65)}t`, word("<f8"), "C\x08xxxxxxxx"),
    /dimensions/,
  ],
  [
    "a range of 10^15",
    call("builtins", "range", "K\x00", `\x8a\x07\x00\x80\xc6\xa4\x7e\x8d\x03`, "K\x01"),
    /builtins\.range/,
  ],
  ["bytes of a count", call("builtins", "bytes", `J${u4(0x7fffffff)}`), /builtins\.bytes/],

  // Bombs.
  ["100,000 levels of lists", "]".repeat(100_000) + "a".repeat(99_999), /levels of nesting/],
  ["100,000 levels of tuples", "K\x01" + "\x85".repeat(100_000), /levels of nesting/],
  [
    "100,000 levels of calls",
    `${global("a", "b")}\x94` + "h\x00".repeat(100_000) + ")" + "R\x85".repeat(100_000),
    /levels of nesting|a\.b/,
  ],
  [
    "100,000 levels of bytes of bytes",
    `${global("builtins", "bytes")}\x94` + "h\x00".repeat(100_000) + "C\x01x\x85R" + "\x85R".repeat(100_000),
    /levels of nesting|builtins\.bytes/,
  ],
  ["a million laughs by DUP", "](K\x01e" + "2\x86".repeat(500), /^\[|,/],
  ["too many laughs by DUP", "](K\x01e" + "2\x86".repeat(100_000), /levels of nesting/],
  [
    "laughs by the memo",
    "]\x94" +
    Array.from({ length: 200 }, (_, i) => `](h${String.fromCharCode(i)}h${String.fromCharCode(i)}e\x94`).join(
      "",
    ),
    /^\[|,/,
  ],
  ["a list that holds itself", "]\x94h\x00a", /itself|^$|,|\[/],
  ["an object that is its own state", `${global("a", "b")})\x81\x94h\x00b`, /a\.b/],
  ["half a million DUPs", "K\x01" + "2".repeat(500_000), /levels of nesting/],
  ["half a million marks", "(".repeat(500_000), /levels of nesting/],

  // Names of properties.
  ["__proto__ as a key", `}(${word("__proto__")}}(${word("polluted")}\x88uu`, /polluted|__proto__/],
  [
    "constructor.prototype as keys",
    `}(${word("constructor")}}(${word("prototype")}}(${word("polluted")}\x88uuu`,
    /constructor/,
  ],
  [
    "__proto__ as a keyword",
    `${global("a", "b")})}${word("__proto__")}}${word("polluted")}\x88ss\x92`,
    /a\.b/,
  ],
  [
    "__proto__ in a state",
    `${global("a", "b")})\x81}${word("__proto__")}}${word("polluted")}\x88ssb`,
    /a\.b/,
  ],
  ["then, as if it were a promise", `}${word("then")}${global("os", "system")}s`, /then/],
  ["a `toJSON` and a `toString`", `}(${word("toJSON")}K\x01${word("toString")}K\x02u`, /toJSON/],
];

/** A pickle of protocol 4. */
export function pickleBytes(opcodes: string): Uint8Array {
  const body = `\x80\x04${opcodes}.`;
  const out = new Uint8Array(body.length);
  for (let i = 0; i < body.length; i++) out[i] = body.charCodeAt(i);
  return out;
}

/** A value as text, whatever it is and however it refers to itself. */
export function textOf(value: unknown): string {
  const seen = new Set<unknown>();
  const text = (one: unknown, depth: number): string => {
    if (typeof one !== "object" || one === null) return String(one);
    if (seen.has(one) || depth > 5) return "itself";
    seen.add(one);
    if (one instanceof Uint8Array) return `${one.length} bytes`;
    if (Array.isArray(one)) return `[${one.slice(0, 5).map((item) => text(item, depth + 1)).join(", ")}]`;
    if (Object.getPrototypeOf(one) !== Object.prototype) return String(one);
    return `{${Object.entries(one).map(([key, item]) => `${key}: ${text(item, depth + 1)}`).join(", ")}}`;
  };
  return text(value, 0);
}
