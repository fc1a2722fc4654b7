/**
 * A scheduler that says to a worker what no real one says.
 *
 * @module
 */
import { type Channel, openChannel } from "../../comm/channel.ts";
import type { Comm } from "../../comm/comm.ts";
import { tcp } from "../../comm/tcp.ts";

/** A message of the stream, or a request. */
export type Message = Record<string, unknown>;

/** A scheduler that registers every worker, keeps what it says, and says what the test wants. */
export class FakeScheduler implements AsyncDisposable {
  readonly address: string;
  /** What the worker said on its stream, oldest first. */
  readonly heard: Message[] = [];
  release: string;
  heartbeat: Message = { status: "OK", time: Date.now() / 1000, "heartbeat-interval": 0.05 };
  #stream: { readonly comm: Comm; readonly channel: Channel } | null = null;
  readonly #running = new Set<Promise<void>>();
  readonly #comms = new Set<Comm>();
  readonly #wakes = new Set<() => void>();
  #listener: Awaited<ReturnType<typeof tcp.listen>> | null = null;

  private constructor(address: string, release: string) {
    this.address = address;
    this.release = release;
  }

  static async start(release = "2026.8.0"): Promise<FakeScheduler> {
    // The listener needs the scheduler and the scheduler the address: connections come later than both.
    let scheduler: FakeScheduler | null = null;
    const listener = await tcp.listen("tcp://127.0.0.1:0", (comm) => scheduler?.attend(comm));
    scheduler = new FakeScheduler(listener.address, release);
    scheduler.#listener = listener;
    return scheduler;
  }

  attend(comm: Comm): void {
    this.#comms.add(comm);
    const running = this.#converse(comm).catch(() => {}).finally(() => this.#running.delete(running));
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
    await this.#listener?.close();
    for (const comm of this.#comms) comm.abort();
    await Promise.all(this.#running);
  }

  async #converse(comm: Comm): Promise<void> {
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
          this.#stream = { comm, channel };
          channel.send({
            status: "OK",
            time: Date.now() / 1000,
            "heartbeat-interval": 0.05,
            "worker-plugins": {},
          });
          break;
        case "heartbeat_worker":
          channel.send(this.heartbeat);
          break;
        default:
          channel.send("OK");
      }
    }
  }
}
