/** What the programs report, apart from the programs: importing one of those would run it. */

/** Clients launch one host each, again and again, for `{ admit: seconds }`. Times are milliseconds. */
export const ADMIT_REPORT = ['admitted', 'seconds', 'p50', 'p99'] as const;

/**
 * Clients claim one to three of a few hosts and give them back, again and again, for `{ storm: tries }`.
 * `short` are tries that got fewer than they wanted, `failed` those that PostgreSQL ended in spite of all retries.
 */
export const STORM_REPORT = ['tries', 'placed', 'short', 'rolledBack', 'failed', 'hosts'] as const;

export const REPLAY_REPORT = ['transactions', 'transactionsPerSecond', 'averageMilliseconds'] as const;

/**
 * For `{ seconds }`. Times are milliseconds from the request to the host's report that made the allocation active, and
 * to the proof of its teardown.
 */
export const JOURNEY_REPORT = [
  'completed',
  'seconds',
  'activeP50',
  'activeP99',
  'releasedP50',
  'releasedP99',
  'problems',
] as const;
