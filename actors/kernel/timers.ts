/**
 * Time for actors: a clock that tests can drive, and timers by name.
 *
 * @module
 */

/** What tells the time and wakes. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls `fire` once, in a later turn, when it is `at` or later. Gives the way to call it off (idempotent). */
  setTimer(at: number, fire: () => void): () => void;
}

/** `setTimeout` takes 32 bits; longer waits take several. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;

/** The time of this machine. */
export const systemClock: Clock = {
  now: () => Date.now(),
  setTimer(at, fire) {
    let timeout: ReturnType<typeof setTimeout>;
    const arm = (ms: number): void => {
      timeout = ms > TIMEOUT_MS_MAX
        ? setTimeout(() => arm(ms - TIMEOUT_MS_MAX), TIMEOUT_MS_MAX)
        : setTimeout(fire, Math.max(0, ms));
    };
    arm(at - Date.now());
    return () => clearTimeout(timeout);
  },
};

/** A clock that stands still until it is told to go on. For tests and simulations. */
export class ManualClock implements Clock {
  #now: number;
  /** Timers in the order in which they were set. */
  #timers: { readonly at: number; readonly fire: () => void }[] = [];

  constructor(now = 0) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  setTimer(at: number, fire: () => void): () => void {
    const timer = { at, fire };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  /** Timers that are set and have not fired. */
  get timers(): number {
    return this.#timers.length;
  }

  /** Lets `ms` pass. Timers fire in order of their time, those of one time in order of their setting. */
  advance(ms: number): void {
    const end = this.#now + ms;
    while (true) {
      let next: { readonly at: number; readonly fire: () => void } | undefined;
      for (const timer of this.#timers) {
        if (timer.at <= end && (next === undefined || timer.at < next.at)) next = timer;
      }
      if (next === undefined) break;
      const fired = next;
      this.#timers = this.#timers.filter((other) => other !== fired);
      this.#now = Math.max(this.#now, fired.at);
      fired.fire();
    }
    this.#now = end;
  }
}

/** Timers of one actor, by name. Each name has at most one; setting it again moves it. */
export class Timers<Name extends string> {
  readonly #clock: Clock;
  readonly #fired: (name: Name, at: number) => void;
  /** All and only timers that are set and have not fired, with the way to call each off. */
  readonly #set = new Map<Name, () => void>();

  /** `fired` is called with the name and the time; inside an actor it only tells the actor itself. */
  constructor(clock: Clock, fired: (name: Name, at: number) => void) {
    this.#clock = clock;
    this.#fired = fired;
  }

  /** Fires `name` at `at`, milliseconds since the epoch, instead of when it was set to before. */
  set(name: Name, at: number): void {
    this.#set.get(name)?.();
    this.#set.set(
      name,
      this.#clock.setTimer(at, () => {
        this.#set.delete(name);
        this.#fired(name, this.#clock.now());
      }),
    );
  }

  /** Calls one off. */
  clear(name: Name): void {
    this.#set.get(name)?.();
    this.#set.delete(name);
  }

  /** Calls all off; for the end of the actor. */
  clearAll(): void {
    for (const clear of this.#set.values()) clear();
    this.#set.clear();
  }

  /** How many are set. */
  get size(): number {
    return this.#set.size;
  }
}
