/**
 * Certificates for tests, made when they are needed: no key lies in the tree.
 *
 * @module
 */
import * as x509 from "npm:@peculiar/x509@1.14.0";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;

/** PEM texts, as the option `tls` takes them. */
export interface Certificates {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** When a certificate is valid, in days from now. */
export interface Validity {
  readonly fromDays?: number;
  readonly toDays?: number;
}

/** Signs certificates. */
export interface Authority {
  issue(validity?: Validity): Promise<Certificates>;
}

/** A certificate authority of its own. */
export async function authority(): Promise<Authority> {
  const keys = await newKeys();
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    name: "CN=Test authority",
    ...dates({}),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  });
  return {
    async issue(validity = {}) {
      const own = await newKeys();
      const cert = await x509.X509CertificateGenerator.create({
        subject: "CN=Test process",
        issuer: root.subject,
        ...dates(validity),
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: ALGORITHM,
        extensions: [
          new x509.SubjectAlternativeNameExtension([{ type: "dns", value: "dask.test" }]),
          await x509.AuthorityKeyIdentifierExtension.create(root),
        ],
      });
      const key = await crypto.subtle.exportKey("pkcs8", own.privateKey);
      return {
        ca: `${root.toString("pem")}\n`,
        cert: `${cert.toString("pem")}\n`,
        key: `${x509.PemConverter.encode(key, "PRIVATE KEY")}\n`,
      };
    },
  };
}

/** Writes certificates to a folder that goes with the holder, and names the files as flags of `dask`. */
export async function certificateFiles(
  certificates: Certificates,
): Promise<Certificates & { readonly flags: readonly string[] } & AsyncDisposable> {
  const folder = await Deno.makeTempDir({ prefix: "dask-ts-certificates-" });
  const [ca, cert, key] = [`${folder}/ca.pem`, `${folder}/cert.pem`, `${folder}/key.pem`];
  await Deno.writeTextFile(ca, certificates.ca);
  await Deno.writeTextFile(cert, certificates.cert);
  await Deno.writeTextFile(key, certificates.key);
  return {
    ca,
    cert,
    key,
    flags: ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key],
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

function dates({ fromDays = -1, toDays = 30 }: Validity): { notBefore: Date; notAfter: Date } {
  return {
    notBefore: new Date(Date.now() + fromDays * DAY_MS),
    notAfter: new Date(Date.now() + toDays * DAY_MS),
  };
}

async function newKeys(): Promise<CryptoKeyPair> {
  return await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}
