/**
 * What both sides of a connection say first: their compression, their Python and the pickle protocol they read. Nobody
 * waits: both write one message and both read one.
 *
 * @module
 */
import { ProtocolError } from "./errors.ts";

/** The first message of a connection. */
export interface Hello {
  /** Compression that the speaker would like, or null. */
  readonly compression: string | null;
  /** Highest pickle protocol that the speaker reads. */
  readonly pickleProtocol: number;
}

/**
 * What we say. No compression: then no peer compresses for us. The Python version is read by no one but must be there;
 * ours says which one the forms that we write are those of.
 */
export const HELLO: Readonly<Record<string, unknown>> = Object.freeze({
  compression: null,
  python: [3, 11, 0],
  "pickle-protocol": 5,
});

/** Pickle protocols below this one lack out-of-band buffers and the opcodes that we write. */
export const PICKLE_PROTOCOL_MIN = 4;

/**
 * Reads what the other side said.
 *
 * @throws {ProtocolError} when it is no handshake, or of a side that is too old.
 */
export function readHello(message: unknown): Hello {
  if (typeof message !== "object" || message === null || Array.isArray(message)) {
    throw new ProtocolError(
      "Cannot read the handshake: expected a map; the other side may not speak dask's protocol",
    );
  }
  const fields = message as Record<string, unknown>;
  const pickleProtocol = fields["pickle-protocol"];
  if (typeof pickleProtocol !== "number") {
    throw new ProtocolError(
      `Cannot read the handshake: expected "pickle-protocol" to be a number, got ${typeof pickleProtocol}`,
    );
  }
  if (pickleProtocol < PICKLE_PROTOCOL_MIN) {
    throw new ProtocolError(
      `Cannot talk to this side: it reads pickle protocol ${pickleProtocol}, expected at least ${PICKLE_PROTOCOL_MIN}`,
    );
  }
  const compression = typeof fields.compression === "string" ? fields.compression : null;
  return { compression, pickleProtocol };
}
