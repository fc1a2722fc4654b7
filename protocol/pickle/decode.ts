/**
 * Reads pickles of protocol 2 to 5 into {@linkcode PyValue}s. The law: a pickle is data. Nothing is imported, called or
 * constructed, whatever it names; one pass over the bytes, and memory for nothing but what the bytes bear out.
 *
 * @module
 */
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
 * Reads one pickle; bytes after its STOP are ignored, as in Python. `buffers` are its out-of-band buffers, in order.
 * Bytes in the result are views on `bytes` and `buffers`.
 *
 * @throws {ProtocolError} when it is no pickle, is cut short, needs something from outside, or contradicts itself.
 */
export function decodePickle(bytes: Uint8Array, buffers: readonly Uint8Array[] = []): PyValue {
  const end = bytes.length;
  let view: DataView | undefined;
  let at = 0;
  const stack: PyValue[] = [];
  const marks: number[] = [];
  /** The height of the stack at the last mark: nothing below it can be popped. */
  let floor = 0;
  const memo: PyValue[] = [];
  let memoSize = 0;
  let buffersRead = 0;

  function fail(problem: string): never {
    throw new ProtocolError(`Cannot read a pickle at byte ${at} of ${end}: ${problem}`);
  }
  function pop(): PyValue {
    if (stack.length <= floor) fail("expected a value on the stack, got none");
    return stack.pop()!;
  }
  function top(): PyValue {
    if (stack.length <= floor) fail("expected a value on the stack, got none");
    return stack[stack.length - 1]!;
  }
  /** Everything since the last mark, in a fresh array; the mark is gone. */
  function sinceMark(): PyValue[] {
    const mark = popMark();
    return stack.splice(mark);
  }
  function popMark(): number {
    const mark = marks.pop();
    if (mark === undefined) fail("expected a mark on the stack, got none");
    floor = marks.length === 0 ? 0 : marks[marks.length - 1]!;
    return mark;
  }
  /** Claims the next `count` bytes; gives where they begin. */
  function take(count: number): number {
    if (count > end - at) fail(`expected ${count} more bytes, got ${end - at}`);
    const start = at;
    at += count;
    return start;
  }
  function u4(): number {
    const i = take(4);
    return (bytes[i]! | bytes[i + 1]! << 8 | bytes[i + 2]! << 16 | bytes[i + 3]! << 24) >>> 0;
  }
  function u8(): number {
    const low = u4();
    return u4() * 0x1_0000_0000 + low;
  }
  function text(length: number): string {
    const start = take(length);
    return decodeText(bytes, start, start + length) ?? fail("expected text in UTF-8, got other bytes");
  }
  function raw(length: number): Uint8Array {
    const start = take(length);
    return bytes.subarray(start, start + length);
  }
  function line(): string {
    const stop = bytes.indexOf(0x0a, at);
    if (stop < 0) fail("expected a line of text, got no end of line");
    const content = text(stop - at);
    at++;
    return content;
  }
  function remember(index: number): void {
    // An honest pickle stores at most one entry a byte: this bounds the table by what was really sent.
    if (index > end) fail(`expected a memo index below ${end}, got ${index}`);
    const value = top();
    if (memo[index] === undefined) memoSize++;
    memo[index] = value;
  }
  function recall(index: number): PyValue {
    const value = memo[index];
    if (value === undefined) fail(`expected a memo entry ${index}, got none`);
    return value;
  }
  function argumentsOf(value: PyValue): readonly PyValue[] {
    if (!isContainer(value) || value.$ !== "tuple") {
      fail(`expected a tuple of arguments, got ${kindOf(value)}`);
    }
    return value.items;
  }
  function callable(value: PyValue): PyValue {
    if (!isContainer(value) || (value.$ !== "global" && value.$ !== "object")) {
      fail(`expected something to call, got ${kindOf(value)}`);
    }
    return value;
  }
  /** Where APPEND and APPENDS put items. */
  function itemsOf(value: PyValue): PyValue[] {
    if (!isContainer(value) || (value.$ !== "list" && value.$ !== "object")) {
      fail(`expected a list to append to, got ${kindOf(value)}`);
    }
    return value.items;
  }
  function entriesOf(value: PyValue): PyValue[] {
    if (!isContainer(value) || (value.$ !== "dict" && value.$ !== "object")) {
      fail(`expected a dict to set items of, got ${kindOf(value)}`);
    }
    return value.entries;
  }
  /** Moves everything since the last mark into `target` and drops it from the stack. */
  function pour(mark: number, target: PyValue[]): void {
    for (let i = mark; i < stack.length; i++) target.push(stack[i]!);
    stack.length = mark;
  }

  if (end < 2 || bytes[0] !== 0x80) {
    fail(`expected a pickle of protocol 2 to 5, got ${end === 0 ? "no bytes" : opcodeText(bytes[0]!)}`);
  }
  for (;;) {
    if (at >= end) fail("expected STOP, got the end");
    const opcode = bytes[at++]!;
    switch (opcode) {
      case 0x28: // MARK
        floor = stack.length;
        marks.push(floor);
        break;
      case 0x29: // EMPTY_TUPLE
        stack.push(pyTuple([]));
        break;
      case 0x2e: { // STOP
        if (marks.length > 0) fail("expected no mark on the stack at STOP");
        return pop();
      }
      case 0x30: // POP
        if (stack.length > floor) stack.pop();
        else popMark();
        break;
      case 0x31: // POP_MARK
        stack.length = popMark();
        break;
      case 0x32: // DUP
        stack.push(top());
        break;
      case 0x42: // BINBYTES
        stack.push(raw(u4()));
        break;
      case 0x43: // SHORT_BINBYTES
        stack.push(raw(bytes[take(1)]!));
        break;
      case 0x47: { // BINFLOAT
        view ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        stack.push(view.getFloat64(take(8)));
        break;
      }
      case 0x4a: // BININT
        stack.push(u4() | 0);
        break;
      case 0x4b: // BININT1
        stack.push(bytes[take(1)]!);
        break;
      case 0x4d: { // BININT2
        const i = take(2);
        stack.push(bytes[i]! | bytes[i + 1]! << 8);
        break;
      }
      case 0x4e: // NONE
        stack.push(null);
        break;
      case 0x52: { // REDUCE
        const args = argumentsOf(pop());
        stack.push(pyObject(callable(pop()), args, null));
        break;
      }
      case 0x58: // BINUNICODE
        stack.push(text(u4()));
        break;
      case 0x5d: // EMPTY_LIST
        stack.push(pyList());
        break;
      case 0x61: { // APPEND
        const value = pop();
        itemsOf(top()).push(value);
        break;
      }
      case 0x62: { // BUILD
        const state = pop();
        const target = top();
        if (!isContainer(target) || target.$ !== "object") {
          fail(`expected an object to build, got ${kindOf(target)}`);
        }
        if (target.state !== undefined) fail("expected one state for an object, got a second");
        target.state = state;
        break;
      }
      case 0x63: { // GLOBAL
        const module = line();
        stack.push(pyGlobal(module, line()));
        break;
      }
      case 0x65: { // APPENDS
        const mark = popMark();
        if (mark <= floor) fail("expected a list below the mark, got nothing");
        pour(mark, itemsOf(stack[mark - 1]!));
        break;
      }
      case 0x68: // BINGET
        stack.push(recall(bytes[take(1)]!));
        break;
      case 0x6a: // LONG_BINGET
        stack.push(recall(u4()));
        break;
      case 0x71: // BINPUT
        remember(bytes[take(1)]!);
        break;
      case 0x72: // LONG_BINPUT
        remember(u4());
        break;
      case 0x73: { // SETITEM
        const value = pop();
        const key = pop();
        entriesOf(top()).push(key, value);
        break;
      }
      case 0x74: // TUPLE
        stack.push(pyTuple(sinceMark()));
        break;
      case 0x75: { // SETITEMS
        const mark = popMark();
        if (mark <= floor) fail("expected a dict below the mark, got nothing");
        if ((stack.length - mark) % 2 !== 0) fail("expected keys and values by turns, got a key too many");
        pour(mark, entriesOf(stack[mark - 1]!));
        break;
      }
      case 0x7d: // EMPTY_DICT
        stack.push(pyDict());
        break;
      case 0x80: { // PROTO
        const protocol = bytes[take(1)]!;
        if (protocol < 2 || protocol > PROTOCOL_MAX) {
          fail(`expected a pickle of protocol 2 to ${PROTOCOL_MAX}, got protocol ${protocol}`);
        }
        break;
      }
      case 0x81: { // NEWOBJ
        const args = argumentsOf(pop());
        stack.push(pyObject(callable(pop()), args, null));
        break;
      }
      case 0x85: // TUPLE1
        stack.push(pyTuple([pop()]));
        break;
      case 0x86: { // TUPLE2
        const second = pop();
        stack.push(pyTuple([pop(), second]));
        break;
      }
      case 0x87: { // TUPLE3
        const third = pop();
        const second = pop();
        stack.push(pyTuple([pop(), second, third]));
        break;
      }
      case 0x88: // NEWTRUE
        stack.push(true);
        break;
      case 0x89: // NEWFALSE
        stack.push(false);
        break;
      case 0x8a: // LONG1
      case 0x8b: { // LONG4
        const length = opcode === 0x8a ? bytes[take(1)]! : u4();
        if (length > INTEGER_BYTES_MAX) {
          fail(`expected an integer of at most ${INTEGER_BYTES_MAX} bytes, got one of ${length}`);
        }
        const start = take(length);
        stack.push(decodeInteger(bytes, start, start + length));
        break;
      }
      case 0x8c: // SHORT_BINUNICODE
        stack.push(text(bytes[take(1)]!));
        break;
      case 0x8d: // BINUNICODE8
        stack.push(text(u8()));
        break;
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        stack.push(raw(u8()));
        break;
      case 0x8f: // EMPTY_SET
        stack.push(pySet(false, []));
        break;
      case 0x90: { // ADDITEMS
        const mark = popMark();
        const target = mark <= floor ? null : stack[mark - 1]!;
        if (!isContainer(target) || target.$ !== "set" || target.frozen) {
          fail(`expected a set to add to, got ${kindOf(target)}`);
        }
        pour(mark, target.items);
        break;
      }
      case 0x91: // FROZENSET
        stack.push(pySet(true, sinceMark()));
        break;
      case 0x92: { // NEWOBJ_EX
        const kwargs: PyValue = pop();
        if (!isContainer(kwargs) || kwargs.$ !== "dict") {
          fail(`expected a dict of keyword arguments, got ${kindOf(kwargs)}`);
        }
        const args = argumentsOf(pop());
        stack.push(pyObject(callable(pop()), args, kwargs as PyDict));
        break;
      }
      case 0x93: { // STACK_GLOBAL
        const name = pop();
        const module = pop();
        if (typeof name !== "string" || typeof module !== "string") {
          fail(`expected a module and a name as text, got ${kindOf(module)} and ${kindOf(name)}`);
        }
        stack.push(pyGlobal(module, name));
        break;
      }
      case 0x94: // MEMOIZE
        remember(memoSize);
        break;
      case 0x95: // FRAME
        take(8);
        break;
      case 0x97: { // NEXT_BUFFER
        const buffer = buffers[buffersRead++];
        if (buffer === undefined) fail(`expected more than ${buffers.length} out-of-band buffers`);
        stack.push(buffer);
        break;
      }
      case 0x98: // READONLY_BUFFER
        top();
        break;
      default:
        at--;
        fail(`expected an opcode of protocol 2 to 5, got ${opcodeText(opcode)}`);
    }
  }
}

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
  const length = stop - start;
  if (length <= 40) {
    // Short ASCII, nearly all there is, is faster without the decoder.
    let all = 0;
    let short = "";
    for (let i = start; i < stop; i++) {
      const code = bytes[i]!;
      all |= code;
      short += String.fromCharCode(code);
    }
    if (all < 0x80) return short;
  }
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
