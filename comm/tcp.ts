/**
 * TCP, by Deno's own sockets. Addresses are `tcp://host:port`; IPv6 hosts stand in brackets, and an IPv4 peer that
 * shows up in IPv6 clothes is given as IPv4.
 *
 * @module
 */
import {
  type Address,
  formatAddress,
  isWildcardHost,
  normalizeAddress,
  parseAddress,
} from "../protocol/address.ts";
import { CommClosedError, DaskError } from "../protocol/errors.ts";
import type { Comm, CommOptions, Listener, Transport } from "./comm.ts";
import { StreamComm } from "./stream.ts";

/** Wait before accepting again when the system refused (as a rule: too many open files). */
const ACCEPT_AGAIN_MS = 50;

/** Connects and listens by TCP. */
export const tcp: Transport = { connect, listen };

async function connect(
  text: string,
  options: CommOptions & { readonly signal?: AbortSignal } = {},
): Promise<Comm> {
  const address = parse(text, "connect to");
  requirePort(address);
  const { signal } = options;
  signal?.throwIfAborted();
  let conn: Deno.TcpConn;
  try {
    conn = await Deno.connect({ hostname: address.host, port: address.port, ...(signal && { signal }) });
  } catch (cause) {
    signal?.throwIfAborted();
    throw new CommClosedError(
      `Cannot connect to ${formatAddress(address)}: ${refusalReason(cause, address)}`,
      formatAddress(address),
      { cause },
    );
  }
  if (signal?.aborted) {
    conn.close();
    throw signal.reason;
  }
  return commOf(conn, options, formatAddress(address));
}

function listen(text: string, onComm: (comm: Comm) => void, options: CommOptions = {}): Promise<Listener> {
  let listener: Deno.TcpListener;
  try {
    listener = openListener(parse(text, "listen on"));
  } catch (error) {
    return Promise.reject(error);
  }
  const accepting = accept(listener, (conn) => onComm(commOf(conn, options)));
  const close = async (): Promise<void> => {
    try {
      listener.close();
    } catch {
      // Closed already.
    }
    await accepting;
  };
  return Promise.resolve({ address: addressOf(listener.addr), close, [Symbol.asyncDispose]: close });
}

/**
 * Opens a listening socket.
 *
 * @throws {DaskError} that names the address and the way out.
 */
export function openListener(address: Address): Deno.TcpListener {
  try {
    return Deno.listen({ hostname: address.host, port: address.port });
  } catch (cause) {
    const way = cause instanceof Deno.errors.AddrInUse
      ? "the port is taken; choose another one, or 0 for any"
      : cause instanceof Error
      ? cause.message
      : String(cause);
    throw new DaskError(`Cannot listen on ${formatAddress(address)}: ${way}`, { cause });
  }
}

/** Accepts until the listener is closed; no failure of one connection ends it. */
export async function accept<C extends Deno.Conn>(
  listener: { accept(): Promise<C> },
  onConn: (conn: C) => void,
): Promise<void> {
  while (true) {
    let conn: C;
    try {
      conn = await listener.accept();
    } catch (error) {
      if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
      await new Promise((resolve) => setTimeout(resolve, ACCEPT_AGAIN_MS));
      continue;
    }
    onConn(conn);
  }
}

function commOf(conn: Deno.TcpConn, options: CommOptions, peer = addressOf(conn.remoteAddr)): Comm {
  try {
    conn.setNoDelay(true);
    conn.setKeepAlive(true);
  } catch {
    // The other side is gone already; the first read will say so.
  }
  return new StreamComm(conn, addressOf(conn.localAddr), peer, options);
}

/** The address of one end of a socket, in canonical form. */
export function addressOf(addr: Deno.NetAddr, scheme: Address["scheme"] = "tcp"): string {
  const host = addr.hostname.includes(":") ? `[${addr.hostname}]` : addr.hostname;
  return normalizeAddress(`${scheme}://${host}:${addr.port}`);
}

/** @throws {CommClosedError} for an address to listen on only. */
export function requirePort(address: Address): void {
  if (address.port !== 0) return;
  const text = formatAddress(address);
  throw new CommClosedError(
    `Cannot connect to ${text}: the port is missing, expected "${address.scheme}://host:port"`,
    text,
  );
}

function parse(text: string, verb: string): Address {
  const address = parseAddress(text);
  if (address.scheme === "tls") throw new DaskError(certificatesMissing(verb, text));
  return address;
}

/** What is said to those who want TLS without certificates. */
export function certificatesMissing(verb: string, text: string): string {
  return `Cannot ${verb} ${text}: TLS needs certificates; give \`tls: { ca, cert, key }\`, or --tls-ca-file, --tls-cert ` +
    `and --tls-key`;
}

/** Why there is no connection, and the way out. */
export function refusalReason(cause: unknown, address: Address): string {
  if (cause instanceof Deno.errors.ConnectionRefused) {
    const hint = isWildcardHost(address.host) ? "; this address is good to listen on only" : "";
    return `connection refused; nothing listens there, is the process running and the port right${hint}`;
  }
  if (cause instanceof Deno.errors.NotCapable) return `no permission, run with --allow-net=${address.host}`;
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (reason.includes("failed to lookup")) return `the host name "${address.host}" is not known`;
  if (cause instanceof Deno.errors.TimedOut) return "the host does not answer";
  return reason;
}
