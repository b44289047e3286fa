import type { ErrorCode } from '@gpuaas/contract';
import type { AllocationStatus } from './allocation-state.js';

export interface CleanupFacts {
  readonly status: AllocationStatus;
  /** a guest in slots of its host, and not the host as a whole */
  readonly guest: boolean;
  /** the host was asked to clean up as often as it is asked, and could not prove it */
  readonly blocked: boolean;
  readonly occupies: boolean;
  /** a person vouches that nothing of the runtime is left */
  readonly verifiedAbsent: boolean;
  /** the host still polls: it can clean up by itself, and must */
  readonly hostResponds: boolean;
}

/** What an operator's word does. */
export type CleanupEffect =
  /** the allocation is over and what it occupied is free */
  | 'release'
  /** a launch that goes nowhere has failed, and its slots are free */
  | 'fail_and_free'
  /** a launch that goes nowhere has failed, and its slots stay blocked until someone has looked */
  | 'fail_and_block';

export type CleanupDecision =
  | { readonly ok: true; readonly effect: CleanupEffect }
  | {
      readonly ok: false;
      readonly code: ErrorCode;
      readonly status: number;
      readonly reason: string;
      readonly message: string;
    };

/** Whether an operator's word may stand in for the proof that a silent host cannot give. */
export function decideForceCleanup(facts: CleanupFacts): CleanupDecision {
  if (facts.guest && (facts.status === 'requested' || facts.status === 'provisioning')) {
    return { ok: true, effect: facts.verifiedAbsent ? 'fail_and_free' : 'fail_and_block' };
  }
  const stuck = facts.status === 'releasing' || facts.status === 'release_failed';
  if (!stuck && !(facts.status === 'failed' && facts.occupies)) {
    return {
      ok: false,
      code: 'invalid_request',
      status: 409,
      reason: 'cleanup_not_applicable',
      message: `an allocation that is ${facts.status} has nothing to clean up`,
    };
  }
  // A host that has tried and could not prove it is not asked any more, so it need not be silent.
  const givenUp = facts.guest && facts.status === 'failed' && facts.blocked;
  if (facts.hostResponds && !givenUp) {
    return {
      ok: false,
      code: 'node_in_use',
      status: 409,
      reason: 'node_responds',
      message: 'the host responds: it has to prove the cleanup itself',
    };
  }
  if (!facts.verifiedAbsent) {
    return {
      ok: false,
      code: 'invalid_request',
      status: 400,
      reason: 'runtime_absence_not_verified',
      message: 'runtime_verified_absent: someone has to have verified that nothing is left on the host',
    };
  }
  return { ok: true, effect: 'release' };
}
