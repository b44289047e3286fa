import type { Acceptance } from './task-runner.js';

/** A poll that came back without work in less than this was not held. */
export const HELD_MILLISECONDS = 500;
/** As often a thing may come to nothing in a row without suspicion: a restart of the control plane makes one or two. */
const TOLERATED = 2;

/**
 * Keeps an agent from spinning when polls come back at once and to no end: unheld, unusable, or with a task that was
 * answered already, over and over. Work is never slowed, nor is the return of many finished tasks after an outage.
 */
export class PollRestraint {
  #idle = 0;
  readonly #repeats = new Map<string, number>();

  /** How many answers to no end there were in a row beyond the tolerated ones; 0 means to poll again at once. */
  after(got: Acceptance | null, unheld: boolean): number {
    if (!unheld) this.#repeats.clear();
    this.#idle = this.#isIdle(got, unheld) ? this.#idle + 1 : 0;
    return Math.max(0, this.#idle - TOLERATED);
  }

  #isIdle(got: Acceptance | null, unheld: boolean): boolean {
    if (got === null) return unheld;
    if (got.verdict === 'taken') return false;
    if (got.verdict === 'unusable' || got.taskId === null) return true;
    const times = (this.#repeats.get(got.taskId) ?? 0) + 1;
    this.#repeats.set(got.taskId, times);
    return times > TOLERATED;
  }
}
