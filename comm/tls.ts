/**
 * TLS as dask does it: both sides show a certificate of the cluster's own authority, and host names are not looked at.
 * Addresses are `tls://host:port`. The law: a connection counts only when both certificates were found good, what a
 * refusal says names the file to look at, and a reader that does not read holds the other side back.
 *
 * Connecting is Deno's own. Listening is `node:tls`, for `Deno.listenTls` cannot ask for a certificate; its sockets read
 * on while nobody takes what came, so they get their bytes from us, as many as there is room for.
 *
 * @module
 */
import { type Address, formatAddress, parseAddress } from "../protocol/address.ts";
import { CommClosedError, DaskError, TlsError } from "../protocol/errors.ts";
import type { Comm, CommOptions, Listener, Transport } from "./comm.ts";
import type { TLSSocket } from "./deps.ts";
import { type ByteStream, StreamComm } from "./stream.ts";
import { accept, addressOf, openListener, refusalReason, requirePort, tcp } from "./tcp.ts";

/** An incoming connection must have shown its certificate within this, ms. */
const HANDSHAKE_MS_MAX = 10_000;
/** Plain bytes that may wait for a reader before the socket is left unread. */
const UNREAD_BYTES_MAX = 1 << 18;
/** Bytes read from the socket at a time. */
const READ_BYTES = 1 << 16;
/** Longest piece given to the cipher at a time, bytes. */
const WRITE_BYTES_MAX = 1 << 20;

/**
 * Certificates. Each is PEM text, or the file that holds it (a path, or a `file:` URL); what contains `-----BEGIN` is
 * taken for the text.
 */
export interface TlsOptions {
  /** The certificate authorities that sign for this cluster. */
  readonly ca: string | URL;
  /** Own certificate, with the chain up to the authority if there is one. */
  readonly cert: string | URL;
  /** Private key of `cert`, without a passphrase. Default: it is in `cert`, too. */
  readonly key?: string | URL;
  /** Refuses `tcp://` in both directions. Default true, as in dask when certificates are given by name. */
  readonly requireEncryption?: boolean;
}

/** Certificates, read. */
export interface TlsMaterial {
  /** PEM text. */
  readonly ca: string;
  /** PEM text. */
  readonly cert: string;
  /** PEM text. */
  readonly key: string;
  /** Where each came from, for messages. */
  readonly names: { readonly ca: string; readonly cert: string; readonly key: string };
}

/**
 * Reads certificates and looks whether they are what they should be.
 *
 * @throws {TypeError} for options that make no sense. @throws {DaskError} that names the file and the way out.
 */
export function readTls(options: TlsOptions): TlsMaterial {
  if (typeof options !== "object" || options === null) {
    throw new TypeError('Cannot read the option "tls": expected { ca, cert, key }, PEM texts or files');
  }
  const { ca, cert, key = options.cert } = options;
  return {
    ca: readPem("ca", ca, "CERTIFICATE"),
    cert: readPem("cert", cert, "CERTIFICATE"),
    key: readPem("key", key, "PRIVATE KEY"),
    names: { ca: nameOf("ca", ca), cert: nameOf("cert", cert), key: nameOf("key", key) },
  };
}

function isPem(given: string | URL): given is string {
  return typeof given === "string" && given.includes("-----BEGIN");
}

function nameOf(what: string, given: string | URL): string {
  return isPem(given) ? `the text of \`${what}\`` : `"${given}"`;
}

function readPem(what: string, given: string | URL, kind: string): string {
  if (typeof given !== "string" && !(given instanceof URL) || given === "") {
    throw new TypeError(`Cannot read the option "tls": \`${what}\` is missing, expected PEM text or a file`);
  }
  const file = typeof given === "string" && given.startsWith("file:") ? new URL(given) : given;
  const name = nameOf(what, given);
  let pem: string;
  try {
    pem = isPem(given) ? given : Deno.readTextFileSync(file);
  } catch (cause) {
    const reason = cause instanceof Deno.errors.NotFound ? "there is no such file" : (cause as Error).message;
    throw new DaskError(`Cannot read ${name} for TLS (${what}): ${reason}`, { cause });
  }
  if (kind === "PRIVATE KEY" && /-----BEGIN ENCRYPTED|Proc-Type: 4,ENCRYPTED/.test(pem)) {
    throw new DaskError(
      `Cannot use ${name} for TLS (${what}): the key is encrypted; take off its passphrase, as with: openssl pkey -in ` +
        `KEY -out PLAIN`,
    );
  }
  const block = new RegExp(
    `-----BEGIN (?:[A-Z]+ )*${kind}-----[A-Za-z0-9+/=\\s]+-----END (?:[A-Z]+ )*${kind}-----`,
  );
  if (!block.test(pem)) {
    throw new DaskError(
      `Cannot use ${name} for TLS (${what}): expected PEM text with a whole block "-----BEGIN ${kind}-----"`,
    );
  }
  return pem;
}

/**
 * A transport for both kinds of addresses: `tls://` with these certificates, and `tcp://` if `requireEncryption` is
 * false.
 *
 * @throws as {@linkcode readTls}.
 */
export function tlsTransport(options: TlsOptions): Transport {
  const material = readTls(options);
  let checked: Promise<void> | null = null;
  const check = (): Promise<void> => checked ??= checkPair(material);
  const plain = (address: Address): Transport => {
    if (options.requireEncryption ?? true) {
      throw new TlsError(
        `Cannot use ${formatAddress(address)}: certificates are given, so encryption is required; write ` +
          `"${formatAddress({ ...address, scheme: "tls" })}"`,
        formatAddress(address),
      );
    }
    return tcp;
  };
  return {
    connect: async (text, given = {}) => {
      const address = parseAddress(text);
      if (address.scheme === "tls") await check();
      return address.scheme === "tls"
        ? await connect(address, material, given)
        : await plain(address).connect(text, given);
    },
    listen: async (text, onComm, given = {}) => {
      const address = parseAddress(text);
      if (address.scheme === "tls") await check();
      return address.scheme === "tls"
        ? await listen(address, material, onComm, given)
        : await plain(address).listen(text, onComm, given);
    },
  };
}

/** Whether certificate and key can be read and belong together: the runtime's own words for that help nobody. */
async function checkPair({ ca, cert, key, names }: TlsMaterial): Promise<void> {
  const { createPrivateKey, createPublicKey, X509Certificate } = await import("./deps.ts");
  const parse = <T>(what: "ca" | "cert" | "key", parser: () => T): T => {
    try {
      return parser();
    } catch (cause) {
      throw new TlsError(`Cannot use ${names[what]} for TLS (${what}): ${(cause as Error).message}`, "", {
        cause,
      });
    }
  };
  parse("ca", () => new X509Certificate(ca));
  const certified = parse("cert", () => new X509Certificate(cert).publicKey);
  const own = parse("key", () => createPublicKey(createPrivateKey(key)));
  const der = { type: "spki", format: "der" } as const;
  if (!certified.export(der).equals(own.export(der))) {
    throw new TlsError(
      `Cannot use TLS: the key in ${names.key} does not belong to the certificate in ${names.cert}`,
      "",
    );
  }
}

async function connect(
  address: Address,
  material: TlsMaterial,
  options: CommOptions & { readonly signal?: AbortSignal },
): Promise<Comm> {
  requirePort(address);
  const { signal } = options;
  signal?.throwIfAborted();
  const peer = formatAddress(address);
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {});
  let conn: Deno.TlsConn | null = null;
  const onAbort = (): void => {
    aborted.reject(signal?.reason);
    conn?.close();
    conn = null;
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  const connecting = async (): Promise<Deno.TlsConn> => {
    const made = await Deno.connectTls({
      hostname: address.host,
      port: address.port,
      caCerts: [material.ca],
      cert: material.cert,
      key: material.key,
      // As dask: the authority is the cluster's own, and people use numbers for hosts.
      unsafelyDisableHostnameVerification: true,
    });
    if (signal?.aborted) {
      made.close();
      throw signal.reason;
    }
    conn = made;
    await made.handshake();
    return made;
  };
  try {
    const made = await Promise.race([connecting(), aborted.promise]);
    return new StreamComm(
      new Dialled(made, peer, material),
      addressOf(made.localAddr as Deno.NetAddr, "tls"),
      peer,
      options,
    );
  } catch (cause) {
    (conn as Deno.TlsConn | null)?.close();
    signal?.throwIfAborted();
    throw failureOf(cause, peer, material) ??
      new CommClosedError(`Cannot connect to ${peer}: ${refusalReason(cause, address)}`, peer, { cause });
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** The connecting end. With TLS 1.3 the other side's opinion of our certificate comes with its first bytes. */
class Dialled implements ByteStream {
  readonly #conn: Deno.TlsConn;
  readonly #peer: string;
  readonly #material: TlsMaterial;
  /** Resolves when the first read has ended. */
  readonly #heard = Promise.withResolvers<unknown>();
  #trusted = false;

  constructor(conn: Deno.TlsConn, peer: string, material: TlsMaterial) {
    this.#conn = conn;
    this.#peer = peer;
    this.#material = material;
  }

  async read(into: Uint8Array): Promise<number | null> {
    try {
      const n = await this.#conn.read(into);
      if (n === null && !this.#trusted) throw new Deno.errors.UnexpectedEof("closed");
      this.#trusted = true;
      return n;
    } catch (cause) {
      // Python closes without a word of TLS. Where messages end is known without it.
      if (this.#trusted && cause instanceof Deno.errors.UnexpectedEof) return null;
      const failure = this.#explain(cause);
      this.#heard.resolve(failure);
      throw failure;
    } finally {
      this.#heard.resolve(null);
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    try {
      return await this.#conn.write(bytes.subarray(0, WRITE_BYTES_MAX));
    } catch (cause) {
      // Only what is read says why.
      throw await this.#heard.promise ?? cause;
    }
  }

  close(): void {
    this.#heard.resolve(null);
    this.#conn.close();
  }

  #explain(cause: unknown): unknown {
    if (
      this.#trusted || cause instanceof Deno.errors.BadResource || cause instanceof Deno.errors.Interrupted
    ) {
      return cause;
    }
    return failureOf(cause, this.#peer, this.#material) ?? cause;
  }
}

/** What went wrong between two ends that wanted TLS, in words; null when that was not it. */
function failureOf(cause: unknown, peer: string, { names }: TlsMaterial): CommClosedError | null {
  const text = cause instanceof Error ? cause.message : String(cause);
  const refused = (reason: string) => new TlsError(`Cannot connect to ${peer}: ${reason}`, peer, { cause });
  const theirs = /invalid peer certificate: ?(.*)/s.exec(text)?.[1];
  if (theirs !== undefined) {
    if (/NotValidYet|not valid yet/i.test(theirs)) {
      return refused("its certificate is not valid yet; check the clocks, or make it a new one");
    }
    if (/Expired/i.test(theirs)) return refused("its certificate has expired; make it a new one");
    if (/UnknownIssuer|BadSignature/.test(theirs)) {
      return refused(
        `its certificate is not signed by the authority in ${names.ca}; both sides need the same one (--tls-ca-file)`,
      );
    }
    return refused(`its certificate will not do: ${theirs}`);
  }
  const alert = /received fatal alert: (?:the peer )?(\w+)/i.exec(text)?.[1];
  if (alert !== undefined) {
    const why = ALERTS[alert];
    if (why !== undefined) {
      return refused(`it refused our certificate (${names.cert}): ${why} (--tls-cert, --tls-key)`);
    }
    return refused(`the other side ended the TLS handshake: ${alert}; its log says more`);
  }
  if (/corrupt message|InvalidContentType/.test(text)) {
    return refused(
      `what answers there does not speak TLS; write "${
        peer.replace(/^tls/, "tcp")
      }", or start it with certificates`,
    );
  }
  if (cause instanceof Deno.errors.InvalidData) {
    return refused(`${text}; check ${names.ca}, ${names.cert} and ${names.key}`);
  }
  if (
    cause instanceof Deno.errors.UnexpectedEof || cause instanceof Deno.errors.ConnectionReset ||
    cause instanceof Deno.errors.BrokenPipe || cause instanceof Deno.errors.ConnectionAborted
  ) {
    // It may also have ended just now: worth another try.
    return new CommClosedError(
      `Cannot connect to ${peer}: the other side closed the connection during the TLS handshake; as a rule it refused ` +
        `our certificate (${names.cert}), its log says why`,
      peer,
      { cause },
    );
  }
  return null;
}

const ALERTS: Readonly<Record<string, string>> = {
  CertificateRequired: "it saw none",
  UnknownCA: "it is not signed by the authority that the other side trusts",
  DecryptError: "it is not signed by the authority that the other side trusts",
  CertificateExpired: "it has expired, or is not valid yet",
  CertificateRevoked: "it was revoked",
  BadCertificate: "it is not valid, now or at all; see its dates",
  CertificateUnknown: "it is not valid for the other side",
  UnsupportedCertificate: "its kind is not supported",
  AccessDenied: "access denied",
};

async function listen(
  address: Address,
  material: TlsMaterial,
  onComm: (comm: Comm) => void,
  options: CommOptions,
): Promise<Listener> {
  const runtime = await import("./deps.ts");
  const secure = {
    ca: material.ca,
    cert: material.cert,
    key: material.key,
    requestCert: true,
    rejectUnauthorized: true,
  };
  const listener = openListener(address);
  /** Connections that are not let in yet, or are being turned away. */
  const strangers = new Set<Accepted>();
  const accepting = accept(listener, (conn) => {
    const peer = addressOf(conn.remoteAddr, "tls");
    const local = addressOf(conn.localAddr, "tls");
    const stream = new Accepted(conn, runtime.Duplex);
    let decided = false;
    const refuse = (reason: string): void => {
      if (decided) return;
      decided = true;
      clearTimeout(timer);
      options.onRefused?.(
        new CommClosedError(`Refused the connection from ${peer} to ${local}: ${reason}`, peer),
      );
      stream.refuse();
    };
    const timer = setTimeout(
      () => refuse(`no TLS handshake within ${HANDSHAKE_MS_MAX} ms`),
      HANDSHAKE_MS_MAX,
    );
    strangers.add(stream);
    // The cipher may tell its reason only after that.
    stream.onClosed = () => {
      clearTimeout(timer);
      strangers.delete(stream);
    };
    // One for each connection: so it is known whose certificate was good. It never listens itself.
    const server = runtime.createServer(secure);
    server.on("tlsClientError", (error: Error) => refuse(strangerReason(error, material)));
    server.on("secureConnection", (socket: TLSSocket) => {
      if (decided || stream.closed) return void socket.destroy();
      if (!socket.authorized) return refuse("its certificate was not verified");
      decided = true;
      stream.onClosed();
      stream.attach(socket);
      onComm(new StreamComm(stream, local, peer, options));
    });
    server.emit("connection", stream.cipherSide);
  });
  const close = async (): Promise<void> => {
    try {
      listener.close();
    } catch {
      // Closed already.
    }
    await accepting;
    for (const stream of [...strangers]) stream.close();
  };
  return { address: addressOf(listener.addr, "tls"), close, [Symbol.asyncDispose]: close };
}

/** Why somebody who came was not let in. */
function strangerReason(error: Error, { names }: TlsMaterial): string {
  const text = error.message;
  if (/no certificates|DID_NOT_RETURN/i.test(text)) return "it showed no certificate";
  if (/corrupt message|WRONG_VERSION/i.test(text)) return "it does not speak TLS; it needs a tls:// address";
  if (/UnknownIssuer|BadSignature|unknown issuer/i.test(text)) {
    return `its certificate is not signed by the authority in ${names.ca}`;
  }
  if (/NotValidYet|not valid yet/i.test(text)) return "its certificate is not valid yet";
  if (/expired/i.test(text)) return "its certificate has expired";
  const alert = /received fatal alert: (\w+)/.exec(text)?.[1];
  if (alert === undefined && /hang up|ECONNRESET/.test(text)) {
    // All that the runtime tells of most refusals.
    return `it ended during the TLS handshake; as a rule its certificate is not signed by the authority in ${names.ca}, ` +
      `has expired, or is not valid yet`;
  }
  return alert === undefined
    ? `the TLS handshake failed: ${text}`
    : `it refused our certificate (${names.cert}): ${ALERTS[alert] ?? alert}`;
}

/** The listening end: a socket on one side, plain bytes on the other, the cipher between them. */
class Accepted implements ByteStream {
  /** What the cipher reads from and writes to. */
  readonly cipherSide: InstanceType<typeof import("./deps.ts").Duplex>;
  /** Told when it is closed. */
  onClosed: () => void = () => {};
  readonly #conn: Deno.TcpConn;
  #socket: TLSSocket | null = null;
  /** Plain bytes that came, and how many. */
  readonly #chunks: Uint8Array[] = [];
  #unread = 0;
  /** Whether the cipher wants more than there was room for. */
  #parked = false;
  #pump: () => void = () => {};
  #writes = 0;
  #refused = false;
  /** Whether the other side will send no more. */
  #over = false;
  #closed = false;
  /** Why there will be no more; `undefined` while there may be. */
  #ended: { readonly cause: unknown } | undefined;
  #wake: () => void = () => {};
  /** Why nothing can be written any more; null while it can. */
  #broken: { readonly cause: unknown } | null = null;
  /** Rejects the write under way. */
  #breakWrite: ((cause: unknown) => void) | null = null;

  constructor(conn: Deno.TcpConn, Duplex: typeof import("./deps.ts").Duplex) {
    this.#conn = conn;
    try {
      conn.setNoDelay(true);
      conn.setKeepAlive(true);
    } catch {
      // The other side is gone already; the first read will say so.
    }
    const buffer = new Uint8Array(READ_BYTES);
    this.#pump = () => {
      conn.read(buffer).then((n) => {
        if (n === null) this.#over = true;
        // What the cipher still holds comes first; it tells of the end itself.
        if (n === null && this.#socket === null) this.#end(null);
        this.cipherSide.push(n === null ? null : buffer.slice(0, n));
      }, (cause) => {
        this.#end(cause);
        this.cipherSide.destroy();
      });
    };
    this.cipherSide = new Duplex({
      writableHighWaterMark: WRITE_BYTES_MAX,
      read: () => {
        if (this.#unread > UNREAD_BYTES_MAX) this.#parked = true;
        else this.#pump();
      },
      write: (chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void) => {
        this.#writes++;
        writeAll(conn, chunk).then(() => done(), (cause) => {
          // The cipher swallows it.
          this.#broken ??= { cause };
          this.#breakWrite?.(cause);
          done(cause);
        }).finally(() => {
          this.#writes--;
          this.#leave();
        });
      },
      destroy: (error: Error | null, done: (error?: Error | null) => void) => {
        this.#end(error);
        done();
      },
    });
    this.cipherSide.on("error", () => {});
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** From here on the other side is trusted. */
  attach(socket: TLSSocket): void {
    this.#socket = socket;
    socket.on("data", (chunk: Uint8Array) => {
      this.#chunks.push(chunk);
      this.#unread += chunk.byteLength;
      this.#wake();
    });
    socket.on("end", () => this.#end(null));
    // Python closes without a word of TLS. Where messages end is known without it.
    socket.on("error", (error: Error) => this.#end(this.#over ? null : error));
    socket.on("close", () => {
      this.#end(null);
      this.#breakWrite?.(new Deno.errors.BrokenPipe("closed"));
    });
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (this.#chunks.length === 0) {
      if (this.#closed) throw new Deno.errors.BadResource("closed");
      if (this.#ended !== undefined) {
        if (this.#ended.cause === null) return null;
        throw this.#ended.cause;
      }
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    let n = 0;
    while (n < into.byteLength && this.#chunks.length > 0) {
      const [first] = this.#chunks as [Uint8Array];
      const part = first.subarray(0, into.byteLength - n);
      into.set(part, n);
      n += part.byteLength;
      if (part.byteLength === first.byteLength) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(part.byteLength);
    }
    this.#unread -= n;
    if (this.#parked && this.#unread <= UNREAD_BYTES_MAX) {
      this.#parked = false;
      this.#pump();
    }
    return n;
  }

  write(bytes: Uint8Array): Promise<number> {
    const piece = bytes.subarray(0, WRITE_BYTES_MAX);
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    if (this.#closed || this.#socket === null) {
      reject(new Deno.errors.BadResource("closed"));
      return promise;
    }
    if (this.#broken !== null || this.#socket.destroyed) {
      reject(this.#broken?.cause ?? new Deno.errors.BrokenPipe("closed"));
      return promise;
    }
    this.#breakWrite = reject;
    this.#socket.write(piece, (error) => {
      this.#breakWrite = null;
      if (error) reject(error);
      else if (this.#broken !== null) reject(this.#broken.cause);
      else resolve(piece.byteLength);
    });
    return promise;
  }

  /** Closes when what the cipher had to say, an alert, is out. */
  refuse(): void {
    if (this.#refused) return;
    this.#refused = true;
    // The cipher tells its reason, and whom it refused, in the same turn.
    queueMicrotask(() => this.#leave());
  }

  #leave(): void {
    if (this.#refused && this.#writes === 0) this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket?.destroy();
    this.cipherSide.destroy();
    const closed = new Deno.errors.BadResource("closed");
    this.#end(closed);
    this.#breakWrite?.(closed);
    this.#wake();
    try {
      this.#conn.close();
    } catch {
      // Closed by its other end already.
    }
    this.onClosed();
  }

  #end(cause: unknown): void {
    if (cause !== null) this.#breakWrite?.(cause);
    if (this.#ended !== undefined) return;
    this.#ended = { cause };
    this.#wake();
    // Nobody reads from who was not let in.
    if (this.#socket === null) this.refuse();
  }
}

async function writeAll(conn: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength;) at += await conn.write(at === 0 ? bytes : bytes.subarray(at));
}
