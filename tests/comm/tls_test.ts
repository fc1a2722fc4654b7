/** Certificates that are refused, in both directions, and what is said then: our two ends, and Python's. */
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { type Channel, connectChannel } from "../../comm/channel.ts";
import type { Comm, Transport } from "../../comm/comm.ts";
import { serve } from "../../comm/server.ts";
import { tcp } from "../../comm/tcp.ts";
import { readTls, tlsTransport } from "../../comm/tls.ts";
import { CommClosedError, DaskError, TlsError } from "../../protocol/errors.ts";
import { authority, certificateFiles } from "../support/certificates.ts";
import { runPython, startScheduler } from "../support/scheduler.ts";

const root = await authority();
const good = await root.issue();
const foreign = await (await authority()).issue();
const expired = await root.issue({ fromDays: -3, toDays: -1 });
const early = await root.issue({ fromDays: 2 });

/** Limit for what must not hang. */
const SOON_MS = 15_000;

/** One request, answered. */
async function ask(transport: Transport, address: string): Promise<unknown> {
  const channel: Channel = await connectChannel(transport, address, { timeoutMs: SOON_MS });
  try {
    channel.send({ op: "identity" });
    return (await channel.receive())?.message;
  } finally {
    channel.abort();
  }
}

/** Those who come with bad papers: what they are told, and what the listener says. */
const STRANGERS = [
  {
    name: "another authority",
    tls: { ...foreign, ca: good.ca },
    told: /refused our certificate/,
    log: "authority",
  },
  { name: "an expired certificate", tls: expired, told: /refused our certificate/, log: "expired" },
  { name: "a certificate not valid yet", tls: early, told: /refused our certificate/, log: "not valid yet" },
] as const;

for (const side of ["typescript", "python"] as const) {
  Deno.test(`${side} listens: who comes with a bad certificate hears why, others are served`, async () => {
    await using stack = new AsyncDisposableStack();
    let said = Promise.withResolvers<string>();
    let address: string;
    if (side === "python") {
      const files = stack.use(await certificateFiles(good));
      address = stack.use(await startScheduler({ tls: files })).address;
    } else {
      const server = stack.use(
        await serve(tlsTransport(good), "tls://127.0.0.1:0", () => Promise.resolve({ reply: "here" }), {
          logger: { log: (level, message) => level === "warning" && said.resolve(message) },
        }),
      );
      address = server.address;
    }
    assert(address.startsWith("tls://127.0.0.1:"));
    const plain = address.replace("tls:", "tcp:");
    for (const { name, tls, told, log } of STRANGERS) {
      const error = await assertRejects(() => ask(tlsTransport(tls), address), CommClosedError);
      assert(told.test(error.message), `${name}: ${error.message}`);
      assertStringIncludes(error.message, "the text of `cert`");
      if (side === "typescript") assertStringIncludes(await said.promise, log);
      said = Promise.withResolvers();
    }
    const other = await assertRejects(
      () => ask(tlsTransport({ ...good, ca: foreign.ca }), address),
      TlsError,
    );
    assertStringIncludes(other.message, "not signed by the authority in the text of `ca`");
    // Without a certificate: only by hand.
    const bare = await Deno.connectTls({
      hostname: "127.0.0.1",
      port: Number(address.split(":").at(-1)),
      caCerts: [good.ca],
      unsafelyDisableHostnameVerification: true,
    });
    await assertRejects(async () => {
      if (await bare.read(new Uint8Array(1)) === null) throw new Error("closed");
    });
    bare.close();
    const error = await assertRejects(() => ask(tcp, plain), DaskError);
    assertStringIncludes(error.message, "tls://");
    await assertRejects(() => ask(tcp, address), DaskError, "TLS needs certificates");
    await assertRejects(() => ask(tlsTransport(good), plain), TlsError, "encryption is required");
    assert(await ask(tlsTransport(good), address) !== undefined);
  });

  Deno.test(`${side} listens with a bad certificate: who connects says why`, async () => {
    for (
      const [tls, told] of [
        [{ ...foreign, ca: good.ca }, "not signed by the authority"],
        [expired, "has expired"],
        [early, "not valid yet"],
      ] as const
    ) {
      await using stack = new AsyncDisposableStack();
      const address = side === "python"
        ? stack.use(await startScheduler({ tls: stack.use(await certificateFiles(tls)) })).address
        : stack.use(await tlsTransport(tls).listen("tls://127.0.0.1:0", () => {})).address;
      const error = await assertRejects(() => ask(tlsTransport(good), address), TlsError);
      assertStringIncludes(error.message, told);
    }
  });

  Deno.test(`${side} listens without TLS: who wants it hears that it is not spoken there`, async () => {
    await using stack = new AsyncDisposableStack();
    const address = side === "python"
      ? stack.use(await startScheduler()).address
      : stack.use(await serve(tcp, "tcp://127.0.0.1:0", () => Promise.resolve({ reply: "here" }))).address;
    const error = await assertRejects(
      () => ask(tlsTransport(good), address.replace("tcp:", "tls:")),
      CommClosedError,
    );
    assertStringIncludes(error.message, `write "${address}"`);
    assert(await ask(tlsTransport({ ...good, requireEncryption: false }), address) !== undefined);
  });
}

Deno.test("files of certificates are looked at before anything is sent", async () => {
  await using files = await certificateFiles(good);
  assertEquals(readTls(files).key, good.key);
  assertEquals(readTls({ ca: `file://${files.ca}`, cert: good.cert + good.key }).key, good.cert + good.key);
  const bad = (tls: Parameters<typeof readTls>[0], text: string) =>
    assertThrows(() => readTls(tls), DaskError, text);
  bad({ ...files, ca: "/no/such.pem" }, 'Cannot read "/no/such.pem" for TLS (ca): there is no such file');
  bad({ ...files, cert: files.key }, "-----BEGIN CERTIFICATE-----");
  bad({ ...files, key: files.cert }, "-----BEGIN PRIVATE KEY-----");
  bad({ ...good, key: good.key.replaceAll("PRIVATE", "ENCRYPTED PRIVATE") }, "passphrase");
  assertThrows(() => readTls({ ca: "", cert: good.cert }), TypeError, "`ca` is missing");
});

Deno.test("a key that does not belong to the certificate is refused on both sides", async () => {
  const mixed = tlsTransport({ ...good, key: foreign.key });
  await assertRejects(() => mixed.listen("tls://127.0.0.1:0", () => {}), TlsError, "does not belong");
  await using listener = await tlsTransport(good).listen("tls://127.0.0.1:0", () => {});
  await assertRejects(() => ask(mixed, listener.address), TlsError, "does not belong");
  const broken = tlsTransport({ ...good, cert: good.cert.replace(/\n[A-Za-z0-9+/]{20}/, "\nAAAA") });
  await assertRejects(() => broken.listen("tls://127.0.0.1:0", () => {}), DaskError, "the text of `cert`");
  await assertRejects(() => ask(broken, listener.address), DaskError, "the text of `cert`");
});

Deno.test("a peer that says nothing ends with the caller's signal, and with the listener", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using silent = await tcp.listen("tcp://127.0.0.1:0", arrived.resolve);
  const enough = new Error("enough");
  const stop = new AbortController();
  const connecting = assertRejects(
    () => tlsTransport(good).connect(silent.address.replace("tcp", "tls"), { signal: stop.signal }),
    Error,
    "enough",
  );
  const mutism = await arrived.promise;
  stop.abort(enough);
  await connecting;
  mutism.abort();
  const listener = await tlsTransport(good).listen("tls://127.0.0.1:0", () => {});
  const mute = await tcp.connect(listener.address.replace("tls", "tcp"));
  await new Promise((resolve) => setTimeout(resolve, 20));
  await listener.close();
  await mute.receive().catch(() => {});
  mute.abort();
});

Deno.test("a socket that closes without a word of TLS ends between messages as any other", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using listener = await tlsTransport(good).listen("tls://[::ffff:127.0.0.1]:0", arrived.resolve);
  await using files = await certificateFiles(good);
  const client = runPython(
    `
import socket, ssl, struct, sys
port, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
context.check_hostname = False
s = context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))))
big = b"x" * 3_000_000
s.sendall(struct.pack("<QQQ", 16 + len(big), 1, len(big)) + big)
raw = socket.socket(fileno=s.detach())
raw.shutdown(socket.SHUT_WR)
while raw.recv(1000): pass
`,
    [listener.address.split(":").at(-1)!, files.ca, files.cert, files.key],
  );
  const comm = await arrived.promise;
  assertEquals((await comm.receive())?.[0]?.byteLength, 3_000_000);
  assertEquals(await comm.receive(), null);
  assertEquals((await client).code, 0);
});

Deno.test("who listens takes no more than there is room for while nobody reads", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using listener = await tlsTransport(good).listen("tls://127.0.0.1:0", arrived.resolve);
  const near = await tlsTransport(good).connect(listener.address);
  const far = await arrived.promise;
  const piece = new Uint8Array(1 << 20);
  let done = 0;
  const sends = Promise.all(Array.from({ length: 100 }, () => near.send([piece]).then(() => done++)));
  // Until it stands still, or all went into memory.
  for (let before = -1; done !== before && done < 100;) {
    before = done;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  assert(done < 50, `${done} MiB were taken`);
  for (let i = 0; i < 100; i++) assertEquals((await far.receive())?.[0]?.byteLength, piece.byteLength);
  await sends;
  near.abort();
  far.abort();
});

Deno.test("a write of who listens ends when the other side goes away", async () => {
  const arrived = Promise.withResolvers<Comm>();
  await using listener = await tlsTransport(good).listen("tls://127.0.0.1:0", arrived.resolve);
  const near = await tlsTransport(good).connect(listener.address);
  const far = await arrived.promise;
  const stuck = assertRejects(() => far.send([new Uint8Array(50_000_000)]), CommClosedError);
  near.abort();
  await stuck;
  far.abort();
});
