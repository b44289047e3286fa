import type { ErrorCode } from '@gpuaas/contract';
import type { AllocationStatus } from './allocation-state.js';

export interface CleanupFacts {
  readonly status: AllocationStatus;
  readonly occupies: boolean;
  /** a person vouches that nothing of the runtime is left */
  readonly verifiedAbsent: boolean;
  /** the host still polls: it can clean up by itself, and must */
  readonly hostResponds: boolean;
}

export type CleanupDecision =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly code: ErrorCode;
      readonly status: number;
      readonly reason: string;
      readonly message: string;
    };

/** Whether an operator's word may stand in for the proof that a silent host cannot give. */
export function decideForceCleanup(facts: CleanupFacts): CleanupDecision {
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
  if (facts.hostResponds) {
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
  return { ok: true };
}
