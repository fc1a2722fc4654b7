/**
 * Connections inside one process, byte for byte as TCP would carry them: for embedded clusters and for tests, which can
 * hold the bytes back, break connections and count what is open.
 *
 * @module
 */
import { normalizeAddress, parseAddress } from "../protocol/address.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import type { Comm, CommOptions, Listener, Transport } from "./comm.ts";
import { type ByteStream, StreamComm } from "./stream.ts";

/** A network of its own: addresses of one transport mean nothing to another. */
export interface MemoryTransport extends Transport {
  /** Holds back all bytes, and ends of connections, from now on. */
  fence(): void;
  /** Lets them through again. */
  releaseFence(): void;
  /** Breaks connections as a pulled cable would: all, or those with `address` at either end. Gives how many. */
  drop(address?: string): number;
  /** Ends of connections that are open, two per connection. */
  readonly openCount: number;
  /** Bytes written and not yet read. */
  readonly pendingBytes: number;
}

/** Bytes that a writer may be ahead of its reader. */
const PIPE_BYTES_MAX = 1 << 20;

/** A new network. Ports are given out from 1 on. */
export function memoryTransport(): MemoryTransport {
  const listeners = new Map<string, { onComm: (comm: Comm) => void; options: CommOptions }>();
  const links = new Set<Link>();
  const gate: Gate = { fenced: false, waiting: [] };
  let lastPort = 0;

  const link = (local: string, peer: string): [ByteStream, ByteStream] => {
    const there = new Pipe(gate);
    const back = new Pipe(gate);
    const made: Link = { addresses: [local, peer], pipes: [there, back], open: 2 };
    links.add(made);
    const ended = () => {
      if (--made.open === 0) links.delete(made);
    };
    return [new End(back, there, ended), new End(there, back, ended)];
  };

  return {
    connect(text, options = {}) {
      const address = normalizeAddress(text);
      const listener = listeners.get(address);
      if (options.signal?.aborted) return Promise.reject(options.signal.reason);
      if (listener === undefined) {
        return Promise.reject(
          new CommClosedError(
            `Cannot connect to ${address}: connection refused; nothing listens there`,
            address,
          ),
        );
      }
      const local = `tcp://127.0.0.1:${++lastPort}`;
      const [near, far] = link(local, address);
      listener.onComm(new StreamComm(far, address, local, listener.options));
      return Promise.resolve(new StreamComm(near, local, address, options));
    },
    listen(text, onComm, options = {}) {
      const { scheme, host, port } = parseAddress(text);
      const address = normalizeAddress(text, { defaultPort: port === 0 ? ++lastPort : port });
      const bound = port === 0 ? normalizeAddress(`${scheme}://${bracketed(host)}:${lastPort}`) : address;
      if (listeners.has(bound)) {
        return Promise.reject(new DaskError(`Cannot listen on ${bound}: the port is taken`));
      }
      listeners.set(bound, { onComm, options });
      const close = (): Promise<void> => {
        listeners.delete(bound);
        return Promise.resolve();
      };
      const listener: Listener = { address: bound, close, [Symbol.asyncDispose]: close };
      return Promise.resolve(listener);
    },
    fence() {
      gate.fenced = true;
    },
    releaseFence() {
      gate.fenced = false;
      for (const go of gate.waiting.splice(0)) go();
    },
    drop(text) {
      const address = text === undefined ? null : normalizeAddress(text);
      let dropped = 0;
      for (const { addresses, pipes } of links) {
        if (address !== null && !addresses.includes(address)) continue;
        for (const pipe of pipes) pipe.break();
        dropped++;
      }
      return dropped;
    },
    get openCount() {
      let open = 0;
      for (const { open: ends } of links) open += ends;
      return open;
    },
    get pendingBytes() {
      let bytes = 0;
      for (const { pipes } of links) for (const pipe of pipes) bytes += pipe.byteLength;
      return bytes;
    },
  };
}

interface Link {
  readonly addresses: readonly string[];
  readonly pipes: readonly Pipe[];
  /** Ends that are not closed yet. */
  open: number;
}

/** While `fenced`, readers wait in `waiting`. */
interface Gate {
  fenced: boolean;
  readonly waiting: (() => void)[];
}

/** Bytes one way. */
class Pipe {
  readonly #gate: Gate;
  readonly #chunks: Uint8Array[] = [];
  #byteLength = 0;
  #state: "open" | "ended" | "broken" = "open";
  /** Whoever waits for a change. */
  #waiting: (() => void)[] = [];

  constructor(gate: Gate) {
    this.#gate = gate;
  }

  get byteLength(): number {
    return this.#byteLength;
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (true) {
      if (this.#state === "broken") throw new Deno.errors.ConnectionReset("The connection is broken");
      if (this.#gate.fenced) {
        await new Promise<void>((resolve) => {
          this.#gate.waiting.push(resolve);
          this.#waiting.push(resolve);
        });
        continue;
      }
      const [chunk] = this.#chunks;
      if (chunk !== undefined) {
        const part = chunk.subarray(0, into.byteLength);
        into.set(part);
        if (part.byteLength === chunk.byteLength) this.#chunks.shift();
        else this.#chunks[0] = chunk.subarray(part.byteLength);
        this.#byteLength -= part.byteLength;
        this.#changed();
        return part.byteLength;
      }
      if (this.#state === "ended") return null;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    while (this.#state === "open" && this.#byteLength >= PIPE_BYTES_MAX) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#state !== "open") throw new Deno.errors.BrokenPipe("The other side closed the connection");
    const part = bytes.slice(0, PIPE_BYTES_MAX);
    this.#chunks.push(part);
    this.#byteLength += part.byteLength;
    this.#changed();
    return part.byteLength;
  }

  /** Nothing is written any more; what is there can be read. */
  end(): void {
    if (this.#state === "open") this.#state = "ended";
    this.#changed();
  }

  break(): void {
    this.#state = "broken";
    this.#chunks.length = 0;
    this.#byteLength = 0;
    this.#changed();
  }

  #changed(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }
}

/** One end of a connection. */
class End implements ByteStream {
  readonly #incoming: Pipe;
  readonly #outgoing: Pipe;
  readonly #ended: () => void;
  #closed = false;

  constructor(incoming: Pipe, outgoing: Pipe, ended: () => void) {
    this.#incoming = incoming;
    this.#outgoing = outgoing;
    this.#ended = ended;
  }
  read(into: Uint8Array): Promise<number | null> {
    return this.#incoming.read(into);
  }
  write(bytes: Uint8Array): Promise<number> {
    return this.#outgoing.write(bytes);
  }
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outgoing.end();
    this.#incoming.break();
    this.#ended();
  }
}

function bracketed(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}
