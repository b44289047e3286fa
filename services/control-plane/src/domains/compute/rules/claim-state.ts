import type { Schema } from '@gpuaas/contract';
import type { AllocationStatus } from './allocation-state.js';

export type ClaimStatus = Schema<'AllocationPlacementClaim'>['status'];

/** Every legal move of a claim. Each status but `released` still occupies: only proof of absence frees hardware. */
const MOVES: Record<ClaimStatus, readonly ClaimStatus[]> = {
  reserved: ['provisioning', 'active', 'releasing', 'released', 'failed'],
  provisioning: ['active', 'releasing', 'failed'],
  active: ['releasing', 'failed'],
  releasing: ['released', 'failed'],
  failed: ['releasing', 'released'],
  released: [],
};

export function mayClaimMove(from: ClaimStatus, to: ClaimStatus): boolean {
  return MOVES[from].includes(to);
}

/** The statuses from which a claim may move to `to`. */
export function claimStatusesBefore(to: ClaimStatus): readonly ClaimStatus[] {
  return CLAIM_STATUSES.filter((from) => mayClaimMove(from, to));
}

export const CLAIM_STATUSES = Object.keys(MOVES).filter((value): value is ClaimStatus => Object.hasOwn(MOVES, value));

/**
 * The claim that goes with an allocation's new status. A failed launch may have left a runtime behind, so its claim
 * goes to `releasing` with the teardown that follows it.
 */
export function claimStatusOf(status: AllocationStatus): ClaimStatus {
  switch (status) {
    case 'requested':
      return 'reserved';
    case 'provisioning':
      return 'provisioning';
    case 'active':
    case 'restarting':
    case 'restart_failed':
      return 'active';
    case 'releasing':
    case 'failed':
      return 'releasing';
    case 'release_failed':
      return 'failed';
    case 'released':
      return 'released';
  }
}

/** What happens to the slots of a guest when its allocation moves; null where they stay as they are. */
export function slotEventOf(from: AllocationStatus, to: AllocationStatus): SlotEvent | null {
  const [before, after] = [claimStatusOf(from), claimStatusOf(to)];
  if (before === after) return null;
  switch (after) {
    case 'reserved':
      return 'reserve';
    case 'provisioning':
      return 'provision';
    case 'active':
      return 'activate';
    case 'releasing':
      return 'release';
    case 'failed':
      return 'block';
    case 'released':
      return 'free';
  }
}

export type SlotEvent = 'reserve' | 'provision' | 'activate' | 'release' | 'free' | 'block';
