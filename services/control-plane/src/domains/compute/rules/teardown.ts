import type { AllocationStatus } from './allocation-state.js';
import { RELEASE_ATTEMPTS } from './operation-state.js';

export interface TeardownFacts {
  readonly status: AllocationStatus;
  /** the host proved that nothing is left */
  readonly proven: boolean;
  /** node tasks sent so far */
  readonly attempts: number;
  /** the time of the operation is over; a teardown after a failed launch has attempts alone */
  readonly overdue: boolean;
}

/**
 * What the end of a teardown task means. Hardware is freed by proof alone; without it the claim stays, and a person
 * has to look.
 */
export type TeardownDecision =
  | 'release'
  /** the launch has failed before; only what it occupied is given back */
  | 'free_claims'
  | 'retry'
  | 'fail_release'
  | 'block_claims'
  | 'ignore';

export function decideTeardown(facts: TeardownFacts): TeardownDecision {
  switch (facts.status) {
    case 'releasing':
      if (facts.proven) return 'release';
      return facts.attempts < RELEASE_ATTEMPTS && !facts.overdue ? 'retry' : 'fail_release';
    case 'release_failed':
      return facts.proven ? 'release' : 'ignore';
    case 'failed':
      if (facts.proven) return 'free_claims';
      return facts.attempts < RELEASE_ATTEMPTS ? 'retry' : 'block_claims';
    default:
      return 'ignore';
  }
}
