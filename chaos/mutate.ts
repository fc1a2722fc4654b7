/**
 * Messages made wrong, by chance. Pure.
 *
 * @module
 */
import type { Randomness } from "../tests/protocol/randomness.ts";

type Fields = Record<string, unknown>;

/** Values that stand where others are expected. */
const ODD: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  2 ** 31,
  2 ** 53,
  -(2 ** 63),
  1e308,
  NaN,
  Infinity,
  "",
  "\u0000",
  "__proto__",
  "constructor",
  "tcp://127.0.0.1:1",
  "x".repeat(10_000),
  [],
  [[]],
  {},
  { __proto__: null, op: "ping" },
  { constructor: { prototype: { polluted: true } } },
  { __Serialized__: 1 },
  { __Pickled__: 10 ** 9 },
  { __Set__: true, "as-list": [1, "x", null] },
  { __Enum__: true, name: "running", __module__: "os", __name__: "system" },
  new Uint8Array(0),
  new Uint8Array(1000),
  ["code", ["nested", 1]],
];

/** The message with one to three of its fields dropped, replaced, renamed, doubled or mixed up. */
export function mutateFields(message: Fields, chance: Randomness): unknown {
  let mutant: Fields = { ...message };
  for (let times = 1 + chance.below(3); times > 0; times--) {
    const names = Object.keys(mutant);
    const name = names[chance.below(names.length)] ?? "op";
    switch (chance.below(7)) {
      case 0:
        delete mutant[name];
        break;
      case 1:
      case 2:
        mutant[name] = pick(ODD, chance);
        break;
      case 3:
        mutant[`${name}${chance.below(3) === 0 ? "" : "_"}`] = pick(ODD, chance);
        break;
      case 4:
        mutant[name] = deeper(mutant[name], chance);
        break;
      case 5:
        mutant[name] = mutant[names[chance.below(names.length)] ?? name];
        break;
      default:
        if (chance.below(20) === 0) return pick(ODD, chance);
        mutant = { ...mutant, [String(chance.below(10))]: mutant };
    }
  }
  return mutant;
}

/** One step further in: an item of a list or a map is replaced. */
function deeper(value: unknown, chance: Randomness): unknown {
  if (Array.isArray(value)) {
    const copy: unknown[] = [...value];
    copy[chance.below(copy.length + 1)] = pick(ODD, chance);
    return copy;
  }
  // Serialized values and pickles are for the encoder, which would refuse them here; their frames are made wrong instead.
  if (typeof value === "object" && value !== null && "$" in value) return pick(ODD, chance);
  if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    const names = Object.keys(value);
    const name = chance.below(2) === 0 ? names[chance.below(names.length)] : undefined;
    return { ...value, [name ?? String(chance.below(100))]: pick(ODD, chance) };
  }
  return [value];
}

/** Bytes with one to four bits, bytes or stretches changed, cut, put in or doubled. */
export function mutateBytes(bytes: Uint8Array, chance: Randomness): Uint8Array {
  let mutant = Array.from(bytes);
  for (let times = 1 + chance.below(4); times > 0; times--) {
    const at = chance.below(mutant.length + 1);
    const length = chance.below(16);
    switch (chance.below(6)) {
      case 0:
        mutant[at % Math.max(1, mutant.length)]! ^= 1 << chance.below(8);
        break;
      case 1:
        mutant[at] = pick([0, 1, 0x7f, 0x80, 0xff, 0xc1, 0xdd, 0xdf, 0xc6, 0xdb], chance);
        break;
      case 2:
        mutant = mutant.slice(0, at);
        break;
      case 3:
        mutant.splice(at, length);
        break;
      case 4:
        mutant.splice(at, 0, ...Array.from({ length }, () => chance.below(256)));
        break;
      default:
        mutant.splice(at, 0, ...mutant.slice(chance.below(mutant.length + 1)).slice(0, 64));
    }
  }
  return Uint8Array.from(mutant);
}

/** One of them. */
export function pick<T>(list: readonly T[], chance: Randomness): T {
  return list[chance.below(list.length)]!;
}
