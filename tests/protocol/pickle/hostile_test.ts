/**
 * Pickles made to do harm. Each must come out as a value that names what it is, or as a typed error; quickly, with
 * nothing run, no prototype touched, and little memory.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { decodeCall } from "../../../protocol/call.ts";
import { ProtocolError, SerializationError } from "../../../protocol/errors.ts";
import { decodePickle } from "../../../protocol/pickle/decode.ts";
import { plain } from "../../../protocol/pickle/globals.ts";
import { readException } from "../../../protocol/remote_error.ts";
import { readTaskSpec } from "../../../protocol/task_spec.ts";
import { encodeValue } from "../../../protocol/value.ts";
import { hostilePickles, pickleBytes, textOf } from "./hostile.ts";

for (const [name, opcodes, named] of hostilePickles) {
  Deno.test(`hostile pickle: ${name}`, () => {
    const pickle = pickleBytes(opcodes);
    const start = performance.now();
    let outcome: string;
    try {
      const value = plain(decodePickle(pickle));
      outcome = textOf(value);
      // Whatever was read can be looked at, and written or refused, without end of it.
      try {
        encodeValue(value);
      } catch (error) {
        assert(error instanceof SerializationError, String(error));
      }
    } catch (error) {
      assert(error instanceof ProtocolError || error instanceof SerializationError, `${error}`);
      outcome = error.message;
    }
    assert(named.test(outcome), `expected ${named}, got ${outcome.slice(0, 300)}`);

    // The same bytes wherever else a pickle is read.
    for (const read of [() => readTaskSpec(pickle), () => decodeCall(pickle)]) {
      try {
        read();
      } catch (error) {
        assert(error instanceof ProtocolError || error instanceof SerializationError, `${error}`);
      }
    }
    assertEquals(typeof readException(pickle, pickle).message, "string");

    assertEquals(({} as Record<string, unknown>).polluted, undefined);
    assertEquals(({} as Record<string, unknown>).toJSON, undefined);
    assert(performance.now() - start < 2000, "too slow");
  });
}

Deno.test("hostile pickle: there are at least 71 of them, and random bytes do no better", () => {
  assert(hostilePickles.length >= 71);
  const seed = 20260711;
  let state = seed;
  const random = (below: number) => {
    state = Math.imul(state ^ state >>> 15, state | 1) + 0x6d2b79f5 | 0;
    return (state >>> 0) % below;
  };
  const opcodes =
    "(.01234BCGJKMNRX]abcehjqrstu}\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98)";
  for (let round = 0; round < 20_000; round++) {
    let text = "";
    for (let i = random(40); i >= 0; i--) {
      text += random(4) === 0 ? String.fromCharCode(random(8)) : opcodes[random(opcodes.length)];
    }
    try {
      plain(decodePickle(pickleBytes(text)));
    } catch (error) {
      assert(
        error instanceof ProtocolError || error instanceof SerializationError,
        `seed ${seed}, round ${round}: ${error}`,
      );
    }
  }
});
