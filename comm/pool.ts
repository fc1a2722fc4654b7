/**
 * Requests and answers over connections that are kept and reused. The law: one request at a time per connection; a
 * connection whose answer did not come whole is never used again; no more connections are open than the limit allows,
 * and whoever comes at the limit waits in line.
 *
 * @module
 */
import { normalizeAddress } from "../protocol/address.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import { type Channel, CONNECT_MS_MAX, connectChannel } from "./channel.ts";
import type { FrameAllocator, Transport } from "./comm.ts";

/** Options of a {@linkcode RpcPool}. */
export interface RpcPoolOptions {
  /** Connections open at once, idle and busy. Default 512. */
  readonly connectionsMax?: number;
  /** For connecting and the handshake, ms. Default 30 000. */
  readonly timeoutMs?: number;
  /** Where large frames of answers go. */
  readonly allocate?: FrameAllocator;
  /** Brings an address to the form under which connections are shared. Default `normalizeAddress`. */
  readonly canonicalAddress?: (address: string) => string;
}

/** Options of one call. */
export interface CallOptions {
  /** Gives up the call and closes its connection. */
  readonly signal?: AbortSignal;
  /** For the whole call, waiting in line included, ms. Default: no limit but that of connecting. */
  readonly timeoutMs?: number;
  /**
   * Looks at the reply and gives the bare message to send after it (`"OK"` for `get_data`), or undefined for none.
   */
  readonly acknowledge?: (reply: unknown) => unknown | undefined;
}

/** A request. Fields that the other side does not know make it answer with an error. */
export interface Request {
  readonly op: string;
  readonly [field: string]: unknown;
}

/** See the law of this file. */
export class RpcPool implements AsyncDisposable {
  readonly #transport: Transport;
  readonly #connectionsMax: number;
  readonly #timeoutMs: number;
  readonly #allocate: FrameAllocator | undefined;
  readonly #canonicalAddress: (address: string) => string;

  /** All and only idle connections by address, those used last behind; the outer order is that of first use. */
  readonly #idle = new Map<string, Connection[]>();
  /** All and only connections that carry a call. */
  readonly #busy = new Set<Connection>();
  /** Connections that are being opened. */
  #opening = 0;
  /** All and only those who wait at the limit, in order. */
  readonly #line: Waiting[] = [];
  /** Connections that are being closed. */
  readonly #farewells = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  constructor(transport: Transport, options: RpcPoolOptions = {}) {
    this.#transport = transport;
    this.#connectionsMax = options.connectionsMax ?? 512;
    this.#timeoutMs = options.timeoutMs ?? CONNECT_MS_MAX;
    this.#allocate = options.allocate;
    this.#canonicalAddress = options.canonicalAddress ?? normalizeAddress;
  }

  /** Connections open or being opened. */
  get open(): number {
    let idle = 0;
    for (const connections of this.#idle.values()) idle += connections.length;
    return idle + this.active;
  }

  /** Connections that carry a call or are being opened for one. */
  get active(): number {
    return this.#busy.size + this.#opening;
  }

  /**
   * Sends a request to `address` and gives the reply. A reply `null` is what servers say to an op that they do not know.
   *
   * @throws {CommClosedError} when there is no connection or it broke.
   * @throws {DaskError} when the other side failed; the message holds its text.
   */
  async call(address: string, message: Request, options: CallOptions = {}): Promise<unknown> {
    this.#closing.signal.throwIfAborted();
    options.signal?.throwIfAborted();
    const canonical = this.#canonicalAddress(address);
    const end = new Ending(this.#closing.signal, options, () =>
      new CommClosedError(
        `Cannot get an answer to "${message.op}" from ${canonical} within ${options.timeoutMs} ms`,
        canonical,
      ));
    try {
      const connection = await this.#take(canonical, end);
      try {
        return await this.#ask(connection, message, options, end);
      } catch (error) {
        // It was closed while nobody looked, before our request could reach anybody: once more, on a fresh one.
        if (!(error instanceof StaleConnection) || end.reason !== null) {
          throw error instanceof StaleConnection ? error.cause : error;
        }
        const fresh = await this.#take(canonical, end, true);
        try {
          return await this.#ask(fresh, message, options, end);
        } catch (again) {
          throw again instanceof StaleConnection ? again.cause : again;
        }
      }
    } catch (error) {
      throw end.reason ?? error;
    } finally {
      end.release();
    }
  }

  /** Closes the idle connections to `address`: that process is gone. There are none to what is no address. */
  forget(address: string): void {
    let canonical: string;
    try {
      canonical = this.#canonicalAddress(address);
    } catch {
      return;
    }
    for (const connection of this.#idle.get(canonical)?.slice() ?? []) this.#drop(connection);
  }

  /** Closes all connections; calls under way reject with `CommClosedError`. Idempotent. */
  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) {
      this.#closing.abort(new CommClosedError("The connection pool is closed", ""));
    }
    for (const connections of [...this.#idle.values()]) {
      for (const connection of connections.slice()) this.#drop(connection);
    }
    for (const connection of [...this.#busy]) connection.channel.abort();
    await Promise.all(this.#farewells);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #ask(connection: Connection, message: Request, options: CallOptions, end: Ending): Promise<unknown> {
    const { channel } = connection;
    end.on(() => channel.abort());
    let keep = false;
    try {
      channel.send(message);
      let answer: { readonly message: unknown } | null;
      try {
        answer = await connection.next;
      } catch (error) {
        throw connection.reused && !channel.midMessage && error instanceof CommClosedError
          ? new StaleConnection(error)
          : error;
      }
      if (answer === null) {
        const error = new CommClosedError(
          `Cannot get an answer to "${message.op}": ${connection.address} closed the connection`,
          connection.address,
        );
        throw connection.reused ? new StaleConnection(error) : error;
      }
      const acknowledgement = options.acknowledge?.(answer.message);
      if (acknowledgement !== undefined) {
        channel.send(acknowledgement);
        await channel.flush();
      }
      keep = end.reason === null;
      const failure = readFailure(answer.message, message.op, connection.address);
      if (failure !== null) throw failure;
      return answer.message;
    } finally {
      end.on(null);
      this.#busy.delete(connection);
      if (keep) this.#rest(connection);
      else channel.abort();
      this.#serveLine();
    }
  }

  /** A connection to `address` that is the caller's until `#ask` ends. */
  async #take(address: string, end: Ending, fresh = false): Promise<Connection> {
    if (!fresh) {
      const idle = this.#idle.get(address)?.at(-1);
      if (idle !== undefined) {
        this.#forgetIdle(idle);
        idle.reused = true;
        this.#busy.add(idle);
        return idle;
      }
    }
    if (!this.#makeRoom()) {
      const connection = await this.#waitInLine(address, end);
      if (connection !== null) return connection;
    } else {
      this.#opening++;
    }
    // From here on one place of the limit is ours.
    try {
      const channel = await connectChannel(this.#transport, address, {
        timeoutMs: this.#timeoutMs,
        signal: end.signal,
        ...(this.#allocate && { allocate: this.#allocate }),
      });
      const connection = new Connection(address, channel);
      this.#busy.add(connection);
      return connection;
    } finally {
      this.#opening--;
      if (this.#line.length > 0) this.#serveLine();
    }
  }

  /** Whether one more connection may be opened; closes the idle one that was unused longest when that helps. */
  #makeRoom(): boolean {
    if (this.open < this.#connectionsMax) return true;
    const [oldest] = this.#idle.values();
    const victim = oldest?.[0];
    if (victim === undefined) return false;
    this.#discard(victim);
    return true;
  }

  /** A connection that became free, or null: a place to open one, already counted as being opened. */
  #waitInLine(address: string, end: Ending): Promise<Connection | null> {
    const { promise, resolve, reject } = Promise.withResolvers<Connection | null>();
    const waiting: Waiting = { address, resolve };
    this.#line.push(waiting);
    end.on((reason) => {
      const at = this.#line.indexOf(waiting);
      if (at < 0) return;
      this.#line.splice(at, 1);
      reject(reason);
    });
    return promise.finally(() => end.on(null));
  }

  #serveLine(): void {
    while (this.#line.length > 0) {
      const [first] = this.#line;
      const idle = this.#idle.get(first!.address)?.at(-1);
      if (idle !== undefined) {
        this.#line.shift();
        this.#forgetIdle(idle);
        idle.reused = true;
        this.#busy.add(idle);
        first!.resolve(idle);
      } else if (this.#makeRoom()) {
        this.#line.shift();
        this.#opening++;
        first!.resolve(null);
      } else {
        return;
      }
    }
  }

  /** Keeps a connection for the next call. Whatever comes or ends on it meanwhile makes it unfit. */
  #rest(connection: Connection): void {
    if (this.#closing.signal.aborted) return connection.channel.abort();
    const list = this.#idle.get(connection.address);
    // The address used last goes behind all others.
    if (list !== undefined) this.#idle.delete(connection.address);
    this.#idle.set(connection.address, list ?? []);
    this.#idle.get(connection.address)!.push(connection);
    const unfit = () => {
      if (connection.idle) this.#drop(connection);
    };
    connection.idle = true;
    connection.next = connection.channel.receive();
    connection.next.then(unfit, unfit);
  }

  #forgetIdle(connection: Connection): void {
    connection.idle = false;
    const list = this.#idle.get(connection.address);
    const at = list?.indexOf(connection) ?? -1;
    if (list === undefined || at < 0) return;
    list.splice(at, 1);
    if (list.length === 0) this.#idle.delete(connection.address);
  }

  /** As `#discard`, and lets the next in line have the place. */
  #drop(connection: Connection): void {
    this.#discard(connection);
    this.#serveLine();
  }

  #discard(connection: Connection): void {
    this.#forgetIdle(connection);
    const farewell = connection.farewell().finally(() => this.#farewells.delete(farewell));
    this.#farewells.add(farewell);
  }
}

interface Waiting {
  readonly address: string;
  resolve(connection: Connection | null): void;
}

class Connection {
  readonly address: string;
  readonly channel: Channel;
  /** What comes next. Asked for even while idle, so that an end is seen at once. */
  next: Promise<{ readonly message: unknown } | null>;
  idle = false;
  reused = false;

  constructor(address: string, channel: Channel) {
    this.address = address;
    this.channel = channel;
    this.next = channel.receive();
    this.next.catch(() => {});
  }

  /** Takes leave of the other side and closes. */
  farewell(): Promise<void> {
    this.channel.send({ op: "close", reply: false });
    return this.channel.close();
  }
}

/** The other side closed a reused connection before a byte of the answer came. */
class StaleConnection extends Error {
  constructor(cause: unknown) {
    super("stale", { cause });
  }
}

/** What may end a call early: its signal, its time limit, the end of the pool. */
class Ending {
  readonly #controller = new AbortController();
  readonly #sources: readonly (AbortSignal | undefined)[];
  readonly #timer: ReturnType<typeof setTimeout> | undefined;
  #action: ((reason: unknown) => void) | null = null;

  constructor(pool: AbortSignal, options: CallOptions, late: () => Error) {
    this.#sources = [pool, options.signal];
    for (const source of this.#sources) source?.addEventListener("abort", this.#onAbort);
    if (options.timeoutMs !== undefined) this.#timer = setTimeout(() => this.#end(late()), options.timeoutMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why the call ended early; null while it has not. */
  get reason(): unknown {
    return this.signal.aborted ? this.signal.reason : null;
  }

  /** What to do when the end comes; replaces what was to be done. */
  on(action: ((reason: unknown) => void) | null): void {
    this.#action = action;
    if (action !== null && this.signal.aborted) action(this.signal.reason);
  }

  release(): void {
    clearTimeout(this.#timer);
    for (const source of this.#sources) source?.removeEventListener("abort", this.#onAbort);
  }

  readonly #onAbort = (event: Event): void => this.#end((event.target as AbortSignal).reason);

  #end(reason: unknown): void {
    if (this.signal.aborted) return;
    this.#controller.abort(reason);
    this.#action?.(reason);
  }
}

/** The error in a reply, if it is one. */
function readFailure(reply: unknown, op: string, address: string): DaskError | null {
  if (
    typeof reply !== "object" || reply === null || !("status" in reply) || reply.status !== "uncaught-error"
  ) {
    return null;
  }
  const { exception_text: text, traceback_text: traceback } = reply as Record<string, unknown>;
  const remote = new Error(typeof text === "string" ? text : "unknown");
  if (typeof traceback === "string" && traceback !== "") remote.stack = traceback;
  return new DaskError(`Cannot perform "${op}" at ${address}: ${remote.message}`, { cause: remote });
}
