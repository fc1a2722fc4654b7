/**
 * A scheduler that says to a worker what no real one says.
 *
 * @module
 */
import { type Channel, openChannel } from "../../comm/channel.ts";
import type { Comm } from "../../comm/comm.ts";
import { StreamComm } from "../../comm/stream.ts";
import { accept } from "../../comm/tcp.ts";

/** A message of the stream, or a request. */
export type Message = Record<string, unknown>;

/** A scheduler that registers every worker, keeps what it says, and says what the test wants. */
export class FakeScheduler implements AsyncDisposable {
  readonly address: string;
  /** What the worker said on its stream, oldest first. */
  readonly heard: Message[] = [];
  release: string;
  /** Heartbeats as they came, oldest first. */
  readonly beats: { readonly at: number; readonly message: Message }[] = [];
  heartbeat: Message = { status: "OK", time: Date.now() / 1000, "heartbeat-interval": 0.05 };
  #stream: { readonly comm: Comm; readonly channel: Channel; readonly conn: Deno.Conn } | null = null;
  readonly #running = new Set<Promise<void>>();
  readonly #comms = new Set<Comm>();
  readonly #wakes = new Set<() => void>();
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #accepting: Promise<void>;

  private constructor(release: string) {
    this.address = `tcp://127.0.0.1:${this.#listener.addr.port}`;
    this.release = release;
    this.#accepting = accept(this.#listener, (conn) => this.#attend(conn));
  }

  static start(release = "2026.8.0"): Promise<FakeScheduler> {
    return Promise.resolve(new FakeScheduler(release));
  }

  #attend(conn: Deno.Conn): void {
    const { port } = conn.remoteAddr as Deno.NetAddr;
    const comm = new StreamComm(conn, this.address, `tcp://127.0.0.1:${port}`);
    this.#comms.add(comm);
    const running = this.#converse(comm, conn).catch(() => {}).finally(() => {
      this.#comms.delete(comm);
      this.#running.delete(running);
    });
    this.#running.add(running);
  }

  /** Sends one batch on the stream. */
  say(...messages: unknown[]): void {
    this.#stream?.channel.send(messages);
  }

  /** Sends a message whose framing is whole and whose content is nonsense. */
  async babble(frames: Uint8Array[]): Promise<void> {
    await this.#stream?.comm.send(frames);
  }

  /** Sends bytes that are perhaps no message at all. */
  async babbleBytes(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength;) {
      at += await this.#stream?.conn.write(bytes.subarray(at)) ?? bytes.byteLength;
    }
  }

  hangUp(): void {
    this.#stream?.comm.abort();
  }

  /** The first message that `fits`, now or later. */
  async hears(fits: (message: Message) => boolean): Promise<Message> {
    for (;;) {
      const found = this.heard.find(fits);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#wakes.add(resolve));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#accepting;
    for (const comm of this.#comms) comm.abort();
    await Promise.all(this.#running);
  }

  async #converse(comm: Comm, conn: Deno.Conn): Promise<void> {
    const channel = await openChannel(comm);
    for (;;) {
      const received = await channel.receive();
      if (received === null) return;
      const { message } = received;
      if (Array.isArray(message)) {
        this.heard.push(...message as Message[]);
        for (const wake of this.#wakes) wake();
        this.#wakes.clear();
        continue;
      }
      switch ((message as Message)["op"]) {
        case "versions":
          channel.send({ host: {}, packages: { distributed: this.release } });
          break;
        case "register-worker":
          this.#stream = { comm, channel, conn };
          channel.send({
            status: "OK",
            time: Date.now() / 1000,
            "heartbeat-interval": this.heartbeat["heartbeat-interval"],
            "worker-plugins": {},
          });
          break;
        case "heartbeat_worker":
          this.beats.push({ at: performance.now(), message: message as Message });
          channel.send(this.heartbeat);
          break;
        default:
          channel.send("OK");
      }
    }
  }
}
