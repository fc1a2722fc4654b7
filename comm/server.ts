/**
 * The answering side of rpc. The law: requests of one connection are answered one by one and in order, those of
 * different connections at once; nothing that a peer sends or does ends more than its own connection.
 *
 * @module
 */
import { serialized } from "../protocol/envelope.ts";
import { CommClosedError } from "../protocol/errors.ts";
import { errorData, writeException } from "../protocol/exception.ts";
import { type Logger, silent } from "../base/log.ts";
import { type Channel, openChannel } from "./channel.ts";
import type { Comm, CommOptions, Listener, Transport } from "./comm.ts";

/** A request as a handler sees it. */
export interface ServerRequest {
  readonly op: string;
  /** All fields but those that the server itself consumes (`op`, `reply`, `close`, `serializers`). */
  readonly fields: Record<string, unknown>;
  /** The forms in which the other side would like values, when it says so. */
  readonly serializers: unknown;
  /** Address of the other end of the connection; not the address under which that process listens. */
  readonly peer: string;
  /**
   * Resolves when the reply is done with: sent, and, when it asked for an acknowledgement, acknowledged. Also when the
   * connection ended instead. Never rejects.
   */
  acknowledged(): Promise<void>;
}

/** What a handler answers. */
export interface ServerReply {
  readonly reply: unknown;
  /** The other side says a bare `"OK"` after this reply, before its next request. */
  readonly acknowledge?: boolean;
}

/** Answers a request; null for an op that it does not know. What it throws is sent to the other side. */
export type ServerHandler = (request: ServerRequest) => Promise<ServerReply | null>;

/** Options of {@linkcode serve}. */
export interface ServeOptions extends CommOptions {
  /** A connection that says nothing is closed after this, ms. Default 30 000. */
  readonly handshakeTimeoutMs?: number;
  /** Connections at once; further ones are closed at once. Default 2048. */
  readonly connectionsMax?: number;
  /** How long `close` lets requests under way finish, ms. Default 2000. */
  readonly closeMsMax?: number;
  /** Fields of the reply to a request whose handler threw. Default: an exception that Python can read. */
  readonly writeFailure?: (error: unknown) => Record<string, unknown>;
  /** Hears of what ended connections. */
  readonly logger?: Logger;
}

/** A listener with its connections. */
export interface Server extends Listener {
  /** Connections open now. */
  readonly connections: number;
}

/** Listens on `address` and answers requests by `handler`. Closing it ends its connections, too. */
export async function serve(
  transport: Transport,
  address: string,
  handler: ServerHandler,
  options: ServeOptions = {},
): Promise<Server> {
  const { connectionsMax = 2048, closeMsMax = 2000, logger = silent } = options;
  const connections = new Map<Comm, Connection | null>();
  const ended = new Set<Promise<void>>();

  const attend = async (comm: Comm): Promise<void> => {
    try {
      const { handshakeTimeoutMs } = options;
      const channel = await openChannel(comm, handshakeTimeoutMs === undefined ? {} : { handshakeTimeoutMs });
      const connection = new Connection(channel, handler, options);
      connections.set(comm, connection);
      if (closing) connection.close();
      await connection.run();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      logger.log("debug", "A connection ended", { peer: comm.peer, reason });
    } finally {
      comm.abort();
      connections.delete(comm);
    }
  };
  let closing = false;
  const listener = await transport.listen(address, (comm) => {
    if (closing || connections.size >= connectionsMax) {
      logger.log("warning", "A connection was refused: there are too many", {
        peer: comm.peer,
        connectionsMax,
      });
      return comm.abort();
    }
    connections.set(comm, null);
    const running = attend(comm).finally(() => ended.delete(running));
    ended.add(running);
  }, { onRefused: (error) => logger.log("warning", error.message), ...options });

  const close = async (): Promise<void> => {
    closing = true;
    await listener.close();
    for (const [comm, connection] of connections) {
      if (connection === null) comm.abort();
      else connection.close();
    }
    const patience = setTimeout(() => {
      for (const comm of connections.keys()) comm.abort();
    }, closeMsMax);
    await Promise.all(ended);
    clearTimeout(patience);
  };
  return {
    address: listener.address,
    get connections() {
      return connections.size;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** One connection: a loop of request and reply. */
class Connection {
  readonly #channel: Channel;
  readonly #handler: ServerHandler;
  readonly #writeFailure: (error: unknown) => Record<string, unknown>;
  #busy = false;
  #closing = false;

  constructor(channel: Channel, handler: ServerHandler, options: ServeOptions) {
    this.#channel = channel;
    this.#handler = handler;
    this.#writeFailure = options.writeFailure ?? writeFailure;
  }

  /** Ends now, or when the request under way is answered. */
  close(): void {
    this.#closing = true;
    if (!this.#busy) this.#channel.abort();
  }

  async run(): Promise<void> {
    while (!this.#closing) {
      const arrived = await this.#channel.receive();
      if (arrived === null) return;
      this.#busy = true;
      const more = await this.#answer(arrived.message);
      this.#busy = false;
      if (!more) break;
    }
    await this.#channel.close();
  }

  /** Whether the connection goes on. */
  async #answer(message: unknown): Promise<boolean> {
    const channel = this.#channel;
    if (!isRequest(message)) {
      channel.send(this.#failed(new TypeError('Cannot read the request: expected a map with a text "op"')));
      return false;
    }
    const { op, reply: wanted = true, close = false, serializers, ...fields } = message;
    if (op === "close") {
      if (wanted !== false) channel.send("OK");
      return false;
    }
    const done = Promise.withResolvers<void>();
    try {
      let answer: ServerReply | null;
      try {
        answer = await this.#handler({
          op,
          fields,
          serializers,
          peer: channel.peer,
          acknowledged: () => done.promise,
        });
      } catch (error) {
        answer = { reply: this.#failure(error) };
      }
      if (wanted !== false) {
        this.#reply(answer?.reply ?? null);
        await channel.flush();
        if (answer?.acknowledge === true) {
          const acknowledgement = await channel.receive();
          if (acknowledgement === null) return false;
          if (acknowledgement.message !== "OK") {
            throw new CommClosedError(
              `Cannot go on with ${channel.peer}: expected "OK" after a reply`,
              channel.peer,
            );
          }
        }
      }
    } finally {
      done.resolve();
    }
    return close !== true;
  }

  #reply(reply: unknown): void {
    try {
      this.#channel.send(reply);
    } catch (error) {
      this.#channel.send(this.#failed(error));
    }
  }

  #failure(error: unknown): Record<string, unknown> {
    try {
      return this.#failed(error);
    } catch {
      return { status: "uncaught-error", ...failureText(error) };
    }
  }

  #failed(error: unknown): Record<string, unknown> {
    return { status: "uncaught-error", ...this.#writeFailure(error) };
  }
}

function isRequest(message: unknown): message is Record<string, unknown> & { readonly op: string } {
  return typeof message === "object" && message !== null && !Array.isArray(message) && "op" in message &&
    typeof message.op === "string";
}

function writeFailure(error: unknown): Record<string, unknown> {
  const written = writeException(errorData(error));
  return {
    exception: serialized(written.exception),
    traceback: written.traceback,
    exception_text: written.exceptionText,
    traceback_text: written.tracebackText,
  };
}

/** The least that can be said, for errors that cannot even be written. */
function failureText(error: unknown): Record<string, unknown> {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return {
    exception: null,
    traceback: null,
    exception_text: text,
    traceback_text: error instanceof Error ? error.stack ?? "" : "",
  };
}
