/**
 * The opcodes of pickle as documented data: code, name, argument, the protocol that brought it, what it does. Readers
 * of code look here; so do error texts and the disassembler of the tests. The text is parsed at its first use only.
 *
 * @module
 */

/** What follows an opcode in the stream. `text`: up to a newline; `text2`: two of them; `bytesN`: a length of N bytes, then that many. */
export type ArgumentKind =
  | "none"
  | "u1"
  | "u2"
  | "i4"
  | "u4"
  | "u8"
  | "f8"
  | "bytes1"
  | "bytes4"
  | "bytes8"
  | "text"
  | "text2";

/** One opcode. */
export interface Opcode {
  readonly code: number;
  readonly name: string;
  readonly argument: ArgumentKind;
  /** The first protocol that has it. */
  readonly since: number;
  /** Whether our decoder takes it; all others are refused by name. */
  readonly read: boolean;
  readonly about: string;
}

const TABLE = `
28 MARK             none   0 + marks a place on the stack
29 EMPTY_TUPLE      none   1 + pushes ()
2e STOP             none   0 + ends the pickle: the top of the stack is the value
30 POP              none   0 + drops the top of the stack
31 POP_MARK         none   1 + drops everything down to the last mark, and the mark
32 DUP              none   0 + pushes the top of the stack once more
42 BINBYTES         bytes4 3 + pushes bytes
43 SHORT_BINBYTES   bytes1 3 + pushes bytes
46 FLOAT            text   0 - pushes a float from its decimal text
47 BINFLOAT         f8     1 + pushes a float, big-endian
49 INT              text   0 - pushes an int, or a bool, from its decimal text
4a BININT           i4     1 + pushes a signed int
4b BININT1          u1     1 + pushes an int
4c LONG             text   0 - pushes an int from its decimal text
4d BININT2          u2     1 + pushes an int
4e NONE             none   0 + pushes None
50 PERSID           text   0 - asks the application for an object by its text id
51 BINPERSID        none   1 - asks the application for an object by the id on the stack
52 REDUCE           none   0 + pops arguments and a callable, pushes what the call would give
53 STRING           text   0 - pushes a quoted string of Python 2
54 BINSTRING        bytes4 1 - pushes a string of Python 2
55 SHORT_BINSTRING  bytes1 1 - pushes a string of Python 2
56 UNICODE          text   0 - pushes a str in raw-unicode-escape
58 BINUNICODE       bytes4 1 + pushes a str in UTF-8 (with lone surrogates)
5d EMPTY_LIST       none   1 + pushes []
61 APPEND           none   0 + appends the top to the list below it
62 BUILD            none   0 + pops a state for the object below it
63 GLOBAL           text2  0 + pushes the name of a class or function: module, name
64 DICT             none   0 - pushes a dict of all pairs since the last mark
65 APPENDS          none   1 + appends everything since the last mark to the list below it
67 GET              text   0 - pushes a memo entry by its decimal index
68 BINGET           u1     1 + pushes a memo entry
69 INST             text2  0 - calls a class by name with everything since the last mark
6a LONG_BINGET      u4     1 + pushes a memo entry
6c LIST             none   0 - pushes a list of everything since the last mark
6f OBJ              none   1 - calls a class from the stack with everything after it
70 PUT              text   0 - stores the top in the memo by a decimal index
71 BINPUT           u1     1 + stores the top in the memo
72 LONG_BINPUT      u4     1 + stores the top in the memo
73 SETITEM          none   0 + sets one pair in the dict below it
74 TUPLE            none   0 + pushes a tuple of everything since the last mark
75 SETITEMS         none   1 + sets all pairs since the last mark in the dict below it
7d EMPTY_DICT       none   1 + pushes {}
80 PROTO            u1     2 + says the protocol; comes first
81 NEWOBJ           none   2 + pops arguments and a class, pushes a new object of it
82 EXT1             u1     2 - names a class by its number in a registry that both sides would have to share
83 EXT2             u2     2 - names a class by its number in a registry that both sides would have to share
84 EXT4             i4     2 - names a class by its number in a registry that both sides would have to share
85 TUPLE1           none   2 + pushes a tuple of the top item
86 TUPLE2           none   2 + pushes a tuple of the top two items
87 TUPLE3           none   2 + pushes a tuple of the top three items
88 NEWTRUE          none   2 + pushes True
89 NEWFALSE         none   2 + pushes False
8a LONG1            bytes1 2 + pushes an int in two's complement, little-endian
8b LONG4            bytes4 2 + pushes an int in two's complement, little-endian
8c SHORT_BINUNICODE bytes1 4 + pushes a str in UTF-8 (with lone surrogates)
8d BINUNICODE8      bytes8 4 + pushes a str in UTF-8 (with lone surrogates)
8e BINBYTES8        bytes8 4 + pushes bytes
8f EMPTY_SET        none   4 + pushes set()
90 ADDITEMS         none   4 + adds everything since the last mark to the set below it
91 FROZENSET        none   4 + pushes a frozenset of everything since the last mark
92 NEWOBJ_EX        none   4 + as NEWOBJ, with keyword arguments
93 STACK_GLOBAL     none   4 + pops a name and a module, pushes the name of a class or function
94 MEMOIZE          none   4 + stores the top in the memo at the next index
95 FRAME            u8     4 + says how many bytes the next frame has; means nothing
96 BYTEARRAY8       bytes8 5 + pushes a bytearray
97 NEXT_BUFFER      none   5 + pushes the next out-of-band buffer
98 READONLY_BUFFER  none   5 + makes the buffer on top read-only
`;

let opcodes: ReadonlyMap<number, Opcode> | undefined;

/** All opcodes by code. */
export function opcodeTable(): ReadonlyMap<number, Opcode> {
  return opcodes ??= new Map(
    TABLE.trim().split("\n").map((line) => {
      const [code = "", name = "", argument = "", since = "", read = "", ...about] = line.split(/\s+/);
      return [parseInt(code, 16), {
        code: parseInt(code, 16),
        name,
        argument: argument as ArgumentKind,
        since: Number(since),
        read: read === "+",
        about: about.join(" "),
      }];
    }),
  );
}

/** `REDUCE (0x52)`, or `0xff` for what is no opcode. */
export function opcodeText(code: number): string {
  const hex = `0x${code.toString(16).padStart(2, "0")}`;
  const opcode = opcodeTable().get(code);
  return opcode === undefined ? hex : `${opcode.name} (${hex})`;
}
