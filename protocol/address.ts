/**
 * Addresses of processes, `tcp://host:port`. An address is passed around as its text in canonical form, so that equal
 * addresses are equal strings; {@linkcode parseAddress} takes it apart where the parts are needed. Nothing here looks
 * up a name.
 *
 * @module
 */

/** The parts of an address. */
export interface Address {
  readonly scheme: "tcp" | "tls";
  /** Host name, IPv4 address, or IPv6 address without brackets. */
  readonly host: string;
  /** 0 when the text has none. */
  readonly port: number;
}

/** How texts are completed. */
export interface AddressOptions {
  /** Port of an address that has none. Default 0. */
  readonly defaultPort?: number;
  /** Scheme of an address that has none. Default `"tcp"`. */
  readonly defaultScheme?: Address["scheme"];
}

/** Port on which schedulers listen unless told otherwise. */
export const SCHEDULER_PORT = 8786;

/**
 * Takes an address apart. The scheme may be missing (`tcp` is meant unless told otherwise) and so may the port.
 *
 * @throws {TypeError} when the text is not an address; the message names the text.
 * @example
 * ```ts
 * import { parseAddress } from "./address.ts";
 * parseAddress("scheduler.example:8786"); // { scheme: "tcp", host: "scheduler.example", port: 8786 }
 * parseAddress("tls://[::1]", { defaultPort: 8786 }); // { scheme: "tls", host: "::1", port: 8786 }
 * ```
 */
export function parseAddress(text: string, options: AddressOptions = {}): Address {
  const parts = /^(?:([A-Za-z][A-Za-z0-9+.-]*):\/\/)?(\[[^\]]*\]|[^:/[\]\s]*)(?::([0-9]*))?$/.exec(text);
  if (parts === null) throw invalid(text, 'expected "tcp://host:port", with an IPv6 host in brackets');
  const [, scheme = options.defaultScheme ?? "tcp", hostText = "", portText = ""] = parts;
  if (scheme !== "tcp" && scheme !== "tls") {
    throw invalid(text, `the scheme "${scheme}" is not known, expected "tcp" or "tls"`);
  }
  if (hostText === "") throw invalid(text, "the host is missing");
  if (/^[0-9]+$/.test(hostText)) {
    throw invalid(text, `the host "${hostText}" is a bare number, write "tcp://host:${hostText}" for a port`);
  }
  const port = portText === "" ? options.defaultPort ?? 0 : Number(portText);
  if (port > 65535) throw invalid(text, `the port ${portText} is greater than 65535`);
  return { scheme, host: canonicalHost(hostText, text), port };
}

/** The text of an address, `tcp://host:port`. */
export function formatAddress(address: Address): string {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${address.scheme}://${host}:${address.port}`;
}

/** The canonical form of an address: two texts that mean the same parts give the same string. */
export function normalizeAddress(text: string, options?: AddressOptions): string {
  return formatAddress(parseAddress(text, options));
}

/** Whether the host is this machine seen from itself; such an address is of no use to other machines. */
export function isLoopbackHost(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.[0-9]+){3}$/.test(host);
}

/** Whether the host stands for all interfaces of a machine: good to listen on, not to connect to. */
export function isWildcardHost(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}

/**
 * The address under which a process makes itself known: a listening address whose host is a wildcard or the loopback
 * interface gets the host `outward` instead.
 */
export function announcedAddress(listening: string, outward: string): string {
  const address = parseAddress(listening);
  if (!isLoopbackHost(address.host) && !isWildcardHost(address.host)) return formatAddress(address);
  return formatAddress({ ...address, host: canonicalHost(bracketed(outward), outward) });
}

/** Host in lower case; IPv6 in its shortest form; IPv4 that came in IPv6 clothes as IPv4. */
function canonicalHost(hostText: string, text: string): string {
  if (!hostText.startsWith("[")) return hostText.toLowerCase();
  const host = hostText.slice(1, -1);
  const mapped = /^::ffff:([0-9]{1,3}(?:\.[0-9]{1,3}){3})$/i.exec(host);
  if (mapped?.[1] !== undefined) return mapped[1];
  const zone = host.indexOf("%"); // a zone, fe80::1%eth0, means nothing to URL
  const url = URL.parse(`http://[${zone < 0 ? host : host.slice(0, zone)}]/`);
  if (url === null || host === "") throw invalid(text, `"${host}" is not an IPv6 address`);
  return url.hostname.slice(1, -1) + (zone < 0 ? "" : host.slice(zone));
}

/** An IPv6 host gets its brackets. */
function bracketed(host: string): string {
  return host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
}

function invalid(text: string, reason: string): TypeError {
  return new TypeError(`Cannot parse the address "${text}": ${reason}`);
}
