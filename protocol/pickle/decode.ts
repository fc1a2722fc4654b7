/**
 * Reads pickles of protocol 2 to 5 into {@linkcode PyValue}s. The law: a pickle is data. Nothing is imported, called or
 * constructed, whatever it names; one pass over the bytes, and memory for nothing but what the bytes bear out.
 *
 * @module
 */
import { decodeAscii } from "../ascii.ts";
import { NO_BYTES } from "../bytes.ts";
import { ProtocolError } from "../errors.ts";
import { opcodeText } from "./opcodes.ts";
import {
  kindOf,
  type PyDict,
  pyDict,
  pyGlobal,
  pyList,
  type PyNode,
  pyObject,
  pySet,
  pyTuple,
  type PyValue,
} from "./value.ts";

/** The newest protocol that we read. */
export const PROTOCOL_MAX = 5;

/** Integers longer than this are refused: no sane value needs them, and printing one would take minutes. */
export const INTEGER_BYTES_MAX = 1 << 16;

/**
 * The most marks at a time, and the most values on the stack below the first of them: a level of nesting needs at most
 * one mark or four values (a function, its arguments, a key, what holds them), and no reader takes more than a
 * thousand levels. Without it, a byte that opens a level would cost a hundred until that is seen.
 */
export const OPEN_MAX = 5_000;

/**
 * Reads one pickle; bytes after its STOP are ignored, as in Python. `buffers` are its out-of-band buffers, in order.
 * Bytes in the result are views on `bytes` and `buffers`.
 *
 * @throws {ProtocolError} when it is no pickle, is cut short, needs something from outside, or contradicts itself.
 */
export function decodePickle(bytes: Uint8Array, buffers: readonly Uint8Array[] = []): PyValue {
  return reader.read(bytes, buffers);
}

/** Its arrays serve one pickle after the other: most are small, and many. */
class PickleReader {
  #bytes = NO_BYTES;
  #view: DataView | null = null;
  #buffers: readonly Uint8Array[] = [];
  #buffersRead = 0;
  #at = 0;
  #end = 0;
  #stack: PyValue[] = [];
  readonly #marks: number[] = [];
  /** The height of the stack at the last mark: nothing below it can be popped. */
  #floor = 0;
  /** How high the stack may get; without a limit above a mark, where the items of a list lie. */
  #ceiling = OPEN_MAX;
  #memo: PyValue[] = [];
  #memoSize = 0;

  read(bytes: Uint8Array, buffers: readonly Uint8Array[]): PyValue {
    this.#bytes = bytes;
    this.#buffers = buffers;
    this.#end = bytes.length;
    try {
      return this.#run(bytes);
    } finally {
      this.#clear();
    }
  }

  /** Lets go of everything that belongs to the pickle just read. */
  #clear(): void {
    this.#bytes = NO_BYTES;
    this.#view = null;
    this.#buffers = [];
    this.#stack = emptied(this.#stack);
    this.#memo = emptied(this.#memo);
    this.#marks.length = 0;
    this.#ceiling = OPEN_MAX;
    this.#buffersRead =
      this.#at =
      this.#end =
      this.#floor =
      this.#memoSize =
        0;
  }

  #fail(problem: string): never {
    throw new ProtocolError(`Cannot read a pickle at byte ${this.#at} of ${this.#end}: ${problem}`);
  }
  #pop(): PyValue {
    if (this.#stack.length <= this.#floor) this.#fail("expected a value on the stack, got none");
    return this.#stack.pop()!;
  }
  #top(): PyValue {
    if (this.#stack.length <= this.#floor) this.#fail("expected a value on the stack, got none");
    return this.#stack[this.#stack.length - 1]!;
  }
  /** Everything since the last mark, in a fresh array; the mark is gone. */
  #sinceMark(): PyValue[] {
    const mark = this.#popMark();
    return this.#stack.splice(mark);
  }
  #popMark(): number {
    const mark = this.#marks.pop();
    if (mark === undefined) this.#fail("expected a mark on the stack, got none");
    if (this.#marks.length === 0) {
      this.#floor = 0;
      this.#ceiling = OPEN_MAX;
    } else this.#floor = this.#marks[this.#marks.length - 1]!;
    return mark;
  }
  /** Claims the next `count` bytes; gives where they begin. */
  #take(count: number): number {
    if (count > this.#end - this.#at) this.#fail(`expected ${count} more bytes, got ${this.#end - this.#at}`);
    const start = this.#at;
    this.#at += count;
    return start;
  }
  #u4(): number {
    const i = this.#take(4);
    return (this.#bytes[i]! | this.#bytes[i + 1]! << 8 | this.#bytes[i + 2]! << 16 |
      this.#bytes[i + 3]! << 24) >>> 0;
  }
  #u8(): number {
    const low = this.#u4();
    return this.#u4() * 0x1_0000_0000 + low;
  }
  #text(length: number): string {
    const start = this.#take(length);
    return decodeText(this.#bytes, start, start + length) ??
      this.#fail("expected text in UTF-8, got other bytes");
  }
  #raw(length: number): Uint8Array {
    const start = this.#take(length);
    return this.#bytes.subarray(start, start + length);
  }
  #line(): string {
    const stop = this.#bytes.indexOf(0x0a, this.#at);
    if (stop < 0) this.#fail("expected a line of text, got no end of line");
    const content = this.#text(stop - this.#at);
    this.#at++;
    return content;
  }
  #remember(index: number): void {
    // An honest pickle stores at most one entry a byte: this bounds the table by what was really sent.
    if (index > this.#end) this.#fail(`expected a memo index below ${this.#end}, got ${index}`);
    const value = this.#top();
    if (this.#memo[index] === undefined) this.#memoSize++;
    this.#memo[index] = value;
  }
  #recall(index: number): PyValue {
    const value = this.#memo[index];
    if (value === undefined) this.#fail(`expected a memo entry ${index}, got none`);
    return value;
  }
  #argumentsOf(value: PyValue): readonly PyValue[] {
    if (!isContainer(value) || value.$ !== "tuple") {
      this.#fail(`expected a tuple of arguments, got ${kindOf(value)}`);
    }
    return value.items;
  }
  #callable(value: PyValue): PyValue {
    if (!isContainer(value) || (value.$ !== "global" && value.$ !== "object")) {
      this.#fail(`expected something to call, got ${kindOf(value)}`);
    }
    return value;
  }
  /** Where APPEND and APPENDS put items. */
  #itemsOf(value: PyValue): PyValue[] {
    if (!isContainer(value) || (value.$ !== "list" && value.$ !== "object")) {
      this.#fail(`expected a list to append to, got ${kindOf(value)}`);
    }
    return value.items;
  }
  #entriesOf(value: PyValue): PyValue[] {
    if (!isContainer(value) || (value.$ !== "dict" && value.$ !== "object")) {
      this.#fail(`expected a dict to set items of, got ${kindOf(value)}`);
    }
    return value.entries;
  }
  /** Moves everything since the last mark into `target` and drops it from the stack. */
  #pour(mark: number, target: PyValue[]): void {
    for (let i = mark; i < this.#stack.length; i++) target.push(this.#stack[i]!);
    this.#stack.length = mark;
  }

  #run(bytes: Uint8Array): PyValue {
    if (this.#end < 2 || bytes[0] !== 0x80) {
      this.#fail(
        `expected a pickle of protocol 2 to 5, got ${this.#end === 0 ? "no bytes" : opcodeText(bytes[0]!)}`,
      );
    }
    for (;;) {
      if (this.#at >= this.#end) this.#fail("expected STOP, got the end");
      if (this.#stack.length > this.#ceiling) this.#fail("expected at most 1000 levels of nesting, got more");
      const opcode = bytes[this.#at++]!;
      switch (opcode) {
        case 0x28: // MARK
          this.#floor = this.#stack.length;
          this.#marks.push(this.#floor);
          this.#ceiling = this.#marks.length > OPEN_MAX ? -1 : Infinity;
          break;
        case 0x29: // EMPTY_TUPLE
          this.#stack.push(pyTuple([]));
          break;
        case 0x2e: { // STOP
          if (this.#marks.length > 0) this.#fail("expected no mark on the stack at STOP");
          return this.#pop();
        }
        case 0x30: // POP
          if (this.#stack.length > this.#floor) this.#stack.pop();
          else this.#popMark();
          break;
        case 0x31: // POP_MARK
          this.#stack.length = this.#popMark();
          break;
        case 0x32: // DUP
          this.#stack.push(this.#top());
          break;
        case 0x42: // BINBYTES
          this.#stack.push(this.#raw(this.#u4()));
          break;
        case 0x43: // SHORT_BINBYTES
          this.#stack.push(this.#raw(bytes[this.#take(1)]!));
          break;
        case 0x47: { // BINFLOAT
          this.#view ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
          this.#stack.push(this.#view.getFloat64(this.#take(8)));
          break;
        }
        case 0x4a: // BININT
          this.#stack.push(this.#u4() | 0);
          break;
        case 0x4b: // BININT1
          this.#stack.push(bytes[this.#take(1)]!);
          break;
        case 0x4d: { // BININT2
          const i = this.#take(2);
          this.#stack.push(bytes[i]! | bytes[i + 1]! << 8);
          break;
        }
        case 0x4e: // NONE
          this.#stack.push(null);
          break;
        case 0x52: { // REDUCE
          const args = this.#argumentsOf(this.#pop());
          this.#stack.push(pyObject(this.#callable(this.#pop()), args, null));
          break;
        }
        case 0x58: // BINUNICODE
          this.#stack.push(this.#text(this.#u4()));
          break;
        case 0x5d: // EMPTY_LIST
          this.#stack.push(pyList());
          break;
        case 0x61: { // APPEND
          const value = this.#pop();
          this.#itemsOf(this.#top()).push(value);
          break;
        }
        case 0x62: { // BUILD
          const state = this.#pop();
          const target = this.#top();
          if (!isContainer(target) || target.$ !== "object") {
            this.#fail(`expected an object to build, got ${kindOf(target)}`);
          }
          if (target.state !== undefined) this.#fail("expected one state for an object, got a second");
          target.state = state;
          break;
        }
        case 0x63: { // GLOBAL
          const module = this.#line();
          this.#stack.push(pyGlobal(module, this.#line()));
          break;
        }
        case 0x65: { // APPENDS
          const mark = this.#popMark();
          if (mark <= this.#floor) this.#fail("expected a list below the mark, got nothing");
          this.#pour(mark, this.#itemsOf(this.#stack[mark - 1]!));
          break;
        }
        case 0x68: // BINGET
          this.#stack.push(this.#recall(bytes[this.#take(1)]!));
          break;
        case 0x6a: // LONG_BINGET
          this.#stack.push(this.#recall(this.#u4()));
          break;
        case 0x71: // BINPUT
          this.#remember(bytes[this.#take(1)]!);
          break;
        case 0x72: // LONG_BINPUT
          this.#remember(this.#u4());
          break;
        case 0x73: { // SETITEM
          const value = this.#pop();
          const key = this.#pop();
          this.#entriesOf(this.#top()).push(key, value);
          break;
        }
        case 0x74: // TUPLE
          this.#stack.push(pyTuple(this.#sinceMark()));
          break;
        case 0x75: { // SETITEMS
          const mark = this.#popMark();
          if (mark <= this.#floor) this.#fail("expected a dict below the mark, got nothing");
          if ((this.#stack.length - mark) % 2 !== 0) {
            this.#fail("expected keys and values by turns, got a key too many");
          }
          this.#pour(mark, this.#entriesOf(this.#stack[mark - 1]!));
          break;
        }
        case 0x7d: // EMPTY_DICT
          this.#stack.push(pyDict());
          break;
        case 0x80: { // PROTO
          const protocol = bytes[this.#take(1)]!;
          if (protocol < 2 || protocol > PROTOCOL_MAX) {
            this.#fail(`expected a pickle of protocol 2 to ${PROTOCOL_MAX}, got protocol ${protocol}`);
          }
          break;
        }
        case 0x81: { // NEWOBJ
          const args = this.#argumentsOf(this.#pop());
          this.#stack.push(pyObject(this.#callable(this.#pop()), args, null));
          break;
        }
        case 0x85: // TUPLE1
          this.#stack.push(pyTuple([this.#pop()]));
          break;
        case 0x86: { // TUPLE2
          const second = this.#pop();
          this.#stack.push(pyTuple([this.#pop(), second]));
          break;
        }
        case 0x87: { // TUPLE3
          const third = this.#pop();
          const second = this.#pop();
          this.#stack.push(pyTuple([this.#pop(), second, third]));
          break;
        }
        case 0x88: // NEWTRUE
          this.#stack.push(true);
          break;
        case 0x89: // NEWFALSE
          this.#stack.push(false);
          break;
        case 0x8a: // LONG1
        case 0x8b: { // LONG4
          const length = opcode === 0x8a ? bytes[this.#take(1)]! : this.#u4();
          if (length > INTEGER_BYTES_MAX) {
            this.#fail(`expected an integer of at most ${INTEGER_BYTES_MAX} bytes, got one of ${length}`);
          }
          const start = this.#take(length);
          this.#stack.push(decodeInteger(bytes, start, start + length));
          break;
        }
        case 0x8c: // SHORT_BINUNICODE
          this.#stack.push(this.#text(bytes[this.#take(1)]!));
          break;
        case 0x8d: // BINUNICODE8
          this.#stack.push(this.#text(this.#u8()));
          break;
        case 0x8e: // BINBYTES8
        case 0x96: // BYTEARRAY8
          this.#stack.push(this.#raw(this.#u8()));
          break;
        case 0x8f: // EMPTY_SET
          this.#stack.push(pySet(false, []));
          break;
        case 0x90: { // ADDITEMS
          const mark = this.#popMark();
          const target = mark <= this.#floor ? null : this.#stack[mark - 1]!;
          if (!isContainer(target) || target.$ !== "set" || target.frozen) {
            this.#fail(`expected a set to add to, got ${kindOf(target)}`);
          }
          this.#pour(mark, target.items);
          break;
        }
        case 0x91: // FROZENSET
          this.#stack.push(pySet(true, this.#sinceMark()));
          break;
        case 0x92: { // NEWOBJ_EX
          const kwargs: PyValue = this.#pop();
          if (!isContainer(kwargs) || kwargs.$ !== "dict") {
            this.#fail(`expected a dict of keyword arguments, got ${kindOf(kwargs)}`);
          }
          const args = this.#argumentsOf(this.#pop());
          this.#stack.push(pyObject(this.#callable(this.#pop()), args, kwargs as PyDict));
          break;
        }
        case 0x93: { // STACK_GLOBAL
          const name = this.#pop();
          const module = this.#pop();
          if (typeof name !== "string" || typeof module !== "string") {
            this.#fail(`expected a module and a name as text, got ${kindOf(module)} and ${kindOf(name)}`);
          }
          this.#stack.push(pyGlobal(module, name));
          break;
        }
        case 0x94: // MEMOIZE
          this.#remember(this.#memoSize);
          break;
        case 0x95: // FRAME
          this.#take(8);
          break;
        case 0x97: { // NEXT_BUFFER
          const buffer = this.#buffers[this.#buffersRead++];
          if (buffer === undefined) {
            this.#fail(`expected more than ${this.#buffers.length} out-of-band buffers`);
          }
          this.#stack.push(buffer);
          break;
        }
        case 0x98: // READONLY_BUFFER
          this.#top();
          break;
        default:
          this.#at--;
          this.#fail(`expected an opcode of protocol 2 to 5, got ${opcodeText(opcode)}`);
      }
    }
  }
}

/** Entries up to which a used array is kept for the next pickle. */
const KEPT_ENTRIES_MAX = 1024;

function emptied(array: PyValue[]): PyValue[] {
  if (array.length > KEPT_ENTRIES_MAX) return [];
  array.length = 0;
  return array;
}

const reader = new PickleReader();

function isContainer(value: PyValue): value is PyNode {
  return typeof value === "object" && value !== null && !(value instanceof Uint8Array);
}

/** Two's complement, little-endian, of any length. */
export function decodeInteger(bytes: Uint8Array, start: number, stop: number): number | bigint {
  const length = stop - start;
  if (length === 0) return 0;
  const negative = bytes[stop - 1]! >= 0x80;
  if (length <= 6) {
    let value = 0;
    for (let i = stop - 1; i >= start; i--) value = value * 256 + bytes[i]!;
    return negative ? value - 2 ** (8 * length) : value;
  }
  let hex = "0x";
  for (let i = stop - 1; i >= start; i--) hex += (bytes[i]! < 16 ? "0" : "") + bytes[i]!.toString(16);
  const value = BigInt.asIntN(8 * length, BigInt(hex));
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text in UTF-8 in which Python's lone surrogates may stand ("surrogatepass"); `null` when it is neither. */
export function decodeText(bytes: Uint8Array, start: number, stop: number): string | null {
  const ascii = decodeAscii(bytes, start, stop);
  if (ascii !== null) return ascii;
  try {
    return utf8.decode(bytes.subarray(start, stop));
  } catch {
    return decodeSurrogates(bytes, start, stop);
  }
}

function decodeSurrogates(bytes: Uint8Array, start: number, stop: number): string | null {
  let text = "";
  let from = start;
  try {
    for (let i = start; i + 2 < stop; i++) {
      if (bytes[i] !== 0xed || bytes[i + 1]! < 0xa0 || bytes[i + 1]! > 0xbf) continue;
      if ((bytes[i + 2]! & 0xc0) !== 0x80) return null;
      text += utf8.decode(bytes.subarray(from, i)) +
        String.fromCharCode(0xd000 | (bytes[i + 1]! & 0x3f) << 6 | bytes[i + 2]! & 0x3f);
      i += 2;
      from = i + 1;
    }
    return text + utf8.decode(bytes.subarray(from, stop));
  } catch {
    return null;
  }
}
