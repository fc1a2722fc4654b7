/**
 * The client inside an executor, for tasks that start tasks. Law: there is one for a process, made when a task first
 * asks; a task that waits for a future of it has no slot, and one that ended holds no futures.
 *
 * @module
 */
import type { Client, OpenedClient } from "../../client/client.ts";
import type { TlsOptions } from "../../comm/tls.ts";
import { parseAddress } from "../../protocol/address.ts";
import { DaskError } from "../../protocol/errors.ts";

/** The module is loaded when it is needed. (Were its name written into the `import`, Deno would read it at the start.) */
const CLIENT = new URL("../../client/client.ts", import.meta.url).href;

/** The running task, as the client sees it. */
export interface InsideTask {
  readonly key: string;
  /** How many tasks stand between it and a program. */
  readonly depth: number;
  readonly secede: () => void;
}

/** See the law of this file. */
export class InsideClient {
  readonly #scheduler: string | null;
  readonly #tls: TlsOptions | null;
  readonly #running: () => InsideTask | null;
  #opened: Promise<OpenedClient> | null = null;
  /** Whether the running task may have futures. */
  #used = false;

  /** `scheduler`: its address, null when the worker did not tell. */
  constructor(scheduler: string | null, tls: TlsOptions | null, running: () => InsideTask | null) {
    this.#scheduler = scheduler;
    this.#tls = tls;
    this.#running = running;
  }

  /**
   * The client.
   *
   * @throws {DaskError} when there is no scheduler, or no permission to reach it.
   */
  async client(): Promise<Client> {
    this.#used = true;
    for (;;) {
      const opened = this.#opened ??= this.#open();
      const known = await opened.catch((error) => {
        this.#forget(opened);
        throw error;
      });
      if (known.isOpen()) return known.client;
      this.#forget(opened);
    }
  }

  /**
   * Gives up all futures: those who wait are refused for this reason. Null when there is nothing to give up.
   */
  release(reason: string): Promise<void> | null {
    if (this.#opened === null || !this.#used) return null;
    this.#used = false;
    return this.#opened.then(({ giveUp }) => giveUp(reason)).catch(() => {}); // closed already, or lost
  }

  /** Closes the client, if there is one. */
  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => null);
    this.#opened = null;
    await opened?.client.close();
  }

  #forget(opened: Promise<OpenedClient>): void {
    if (this.#opened === opened) this.#opened = null;
  }

  async #open(): Promise<OpenedClient> {
    const address = this.#scheduler;
    if (address === null) {
      throw new DaskError("Cannot give this task a client: its worker did not name a scheduler");
    }
    const { host, port } = parseAddress(address);
    const net = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    if (Deno.permissions.querySync({ name: "net", host: net }).state !== "granted") {
      throw new DaskError(
        `Cannot give this task a client: it lacks the permission "net" to reach the scheduler at ${address}; ` +
          `grant net=${net} to the tasks of its worker`,
      );
    }
    const { openClient }: typeof import("../../client/client.ts") = await import(CLIENT);
    const opened = openClient({ address, name: "task", ...(this.#tls === null ? {} : { tls: this.#tls }) }, {
      inside: {
        task: () => {
          this.#used = true;
          return this.#running();
        },
        waits: () => this.#running()?.secede(),
      },
    });
    try {
      await opened.connected;
    } catch (error) {
      await opened.client.close();
      throw error;
    }
    return opened;
  }
}
