/**
 * Connecting again when the connection with the scheduler has broken: how often, how long, and what ends it.
 *
 * The law: one series of attempts lasts from a loss until a connection has stood for a while, so that a scheduler that
 * takes every connection and drops it is given up, too, and not for ever sent the same again.
 *
 * @module
 */
import { toError } from "../actors/kernel/mod.ts";
import type { Waiting } from "../dispatch/mod.ts";
import { CommClosedError, DaskError, ProtocolError, TlsError } from "../protocol/errors.ts";
import { describe, signalOf, sleep } from "./future.ts";

/** Options of `connect({ reconnect })`. */
export interface ReconnectOptions extends Waiting {
  /**
   * How long to try after a loss, ms; `Infinity`: until the client is closed. Default: the `timeout` of `connect`, which
   * is `distributed.comm.timeouts.connect` of dask's configuration, else 30,000: as long as Python's client tries.
   */
  readonly timeout?: number;
}

/** The first pause is about this long; each is up to twice as long as the one before, ms. */
const PAUSE_MS_MIN = 100;
/** No pause is longer, ms. */
const PAUSE_MS_MAX = 5_000;
/** One attempt takes no longer: what accepts connections for a scheduler that is not there yet may never answer, ms. */
const ATTEMPT_MS_MAX = 10_000;
/** A connection that has stood for this long was a good one: what comes after it is another loss, ms. */
const STEADY_MS = 10_000;

/** Options of {@linkcode Reconnection}. */
export interface ReconnectionOptions {
  /** Of the scheduler, for errors. */
  readonly address: string;
  /** For one attempt, ms. */
  readonly attemptMs: number;
  /** For a series of attempts, ms. */
  readonly limitMs: number;
  /** Ends the attempts, and so the client. */
  readonly signal: AbortSignal | undefined;
}

/** The pause before attempt `attempt`, from 1. `chance` is between 0 and 1: clients of one scheduler come one by one. */
export function pauseMs(attempt: number, chance: number): number {
  return Math.min(PAUSE_MS_MIN * 2 ** (attempt - 1), PAUSE_MS_MAX) * (0.5 + chance / 2);
}

/** See the law of this file. */
export class Reconnection {
  readonly #options: ReconnectionOptions;
  /** Of this series: when it began, and how often it was tried. */
  #since = 0;
  #attempts = 0;
  #stoodSince = -Infinity;

  constructor(options: ReconnectionOptions) {
    this.#options = options;
  }

  /**
   * Tries until `attempt` succeeds. `loss` is what happened; `end` ends the attempts with its reason.
   *
   * @throws {DaskError} when the time is over, when the signal aborts, or when a scheduler answers that it cannot work
   * with this client.
   */
  async run<T>(
    loss: Error,
    end: AbortSignal,
    attempt: (timeoutMs: number, stop: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { attemptMs, limitMs, signal } = this.#options;
    if (performance.now() - this.#stoodSince > STEADY_MS) {
      this.#since = performance.now();
      this.#attempts = 0;
    }
    const leftMs = () => this.#since + limitMs - performance.now();
    const stop = signal === undefined ? end : AbortSignal.any([end, signal]);
    let last = loss;
    for (;;) {
      try {
        await sleep(Math.min(pauseMs(this.#attempts + 1, Math.random()), Math.max(leftMs(), 0)), stop);
        if (leftMs() <= 0) break;
        this.#attempts++;
        const done = await attempt(Math.ceil(Math.min(attemptMs, ATTEMPT_MS_MAX, leftMs())), stop);
        this.#stoodSince = performance.now();
        return done;
      } catch (error) {
        end.throwIfAborted();
        if (signal?.aborted === true) {
          throw this.#gaveUp(loss, "the signal ended the attempts", signal.reason);
        }
        if (isRefusal(error)) throw this.#gaveUp(loss, error.message, error);
        last = toError(error);
      }
    }
    const why = last === loss ? "the time is over" : `the last time: ${last.message}`;
    throw this.#gaveUp(loss, why, last);
  }

  #gaveUp(loss: Error, why: string, cause: unknown): DaskError {
    const seconds = ((performance.now() - this.#since) / 1_000).toFixed(1);
    const times = this.#attempts === 1 ? "once" : `${this.#attempts} times`;
    return new DaskError(
      `${loss.message}. Tried ${times} within ${seconds} s to connect with ${this.#options.address} again: ${why}`,
      { cause },
    );
  }
}

/** It was a scheduler that answered, and it will answer so again. */
function isRefusal(error: unknown): error is DaskError {
  if (error instanceof TlsError) return true;
  return error instanceof DaskError && !(error instanceof CommClosedError || error instanceof ProtocolError);
}

/**
 * The option `reconnect` of `connect`, checked; null: a broken connection is the end.
 *
 * @throws {TypeError} for what makes no sense.
 */
export function readReconnect(option: unknown): ReconnectOptions | null {
  if (option === undefined || option === false) return null;
  if (option === true) return {};
  if (typeof option !== "object" || option === null) {
    throw new TypeError(
      `Cannot use the option "reconnect" of connect: expected true, false, or { timeout, signal }, got ${
        describe(option)
      }`,
    );
  }
  for (const name of Object.keys(option)) {
    if (name === "timeout" || name === "signal") continue;
    throw new TypeError(
      `Cannot use the option "${name}" of connect's reconnect: expected one of timeout, signal`,
    );
  }
  const { timeout } = option as ReconnectOptions;
  if (timeout !== undefined && !(typeof timeout === "number" && timeout > 0)) {
    throw new TypeError(
      `Cannot use the option "timeout" of connect's reconnect: expected milliseconds above 0, got ${
        describe(timeout)
      }`,
    );
  }
  signalOf(option);
  return option;
}
