/**
 * Lists the opcodes of a pickle, for messages of failing tests. Reads the same table as the decoder's error texts.
 *
 * @module
 */
import { opcodeTable } from "../../../protocol/pickle/opcodes.ts";

/** One line an opcode: offset, name, argument. Stops at what it cannot read. */
export function listing(pickle: Uint8Array, linesMax = 200): string {
  const view = new DataView(pickle.buffer, pickle.byteOffset, pickle.byteLength);
  const lines: string[] = [];
  let at = 0;
  const number = (bytes: number): number => {
    const value = bytes === 8
      ? Number(view.getBigUint64(at, true))
      : bytes === 4
      ? view.getUint32(at, true)
      : bytes === 2
      ? view.getUint16(at, true)
      : view.getUint8(at);
    at += bytes;
    return value;
  };
  const line = (): string => {
    const stop = pickle.indexOf(10, at);
    const text = new TextDecoder().decode(pickle.subarray(at, stop));
    at = stop + 1;
    return text;
  };
  try {
    while (at < pickle.length && lines.length < linesMax) {
      const start = at;
      const code = number(1);
      const opcode = opcodeTable().get(code);
      if (opcode === undefined) {
        lines.push(`${start}: no opcode 0x${code.toString(16)}`);
        break;
      }
      let argument = "";
      switch (opcode.argument) {
        case "none":
          break;
        case "u1":
          argument = String(number(1));
          break;
        case "u2":
          argument = String(number(2));
          break;
        case "i4":
          argument = String(number(4) | 0);
          break;
        case "u4":
          argument = String(number(4));
          break;
        case "u8":
          argument = String(number(8));
          break;
        case "f8":
          argument = String(view.getFloat64(at));
          at += 8;
          break;
        case "text":
          argument = line();
          break;
        case "text2":
          argument = `${line()} ${line()}`;
          break;
        default: {
          const length = number(Number(opcode.argument.slice(5)));
          argument = JSON.stringify(new TextDecoder().decode(pickle.subarray(at, at + Math.min(length, 60))));
          at += length;
        }
      }
      lines.push(`${start}: ${opcode.name} ${argument}`.trimEnd());
      if (opcode.name === "STOP") break;
    }
  } catch {
    lines.push(`${at}: cut short`);
  }
  return lines.join("\n");
}
