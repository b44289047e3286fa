/** The only source of "now" outside the database; everything that waits or compares times takes one. */
export interface Clock {
  now(): Date;
}

export const systemClock: Clock = { now: () => new Date() };

/** A clock that a test moves by hand. It never runs by itself. */
export class ManualClock implements Clock {
  #milliseconds: number;

  constructor(start: Date) {
    this.#milliseconds = start.getTime();
  }

  now(): Date {
    return new Date(this.#milliseconds);
  }

  /** Moves by `milliseconds`, which may be negative: clocks do step back. */
  advance(milliseconds: number): void {
    this.#milliseconds += milliseconds;
  }
}
