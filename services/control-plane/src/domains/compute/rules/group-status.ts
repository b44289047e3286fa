import type { Schema } from '@gpuaas/contract';
import type { AllocationStatus } from './allocation-state.js';

export interface MemberFacts {
  readonly status: AllocationStatus;
  readonly required: boolean;
  readonly wasActive: boolean;
}

const ENDED: readonly AllocationStatus[] = ['released', 'failed'];
const BROKEN: readonly AllocationStatus[] = ['failed', 'restart_failed', 'release_failed', 'released'];

/** The status of a group follows from its members and from whether its release was asked for; the first match wins. */
export function groupStatusOf(
  members: readonly MemberFacts[],
  releaseRequested: boolean,
): Schema<'AllocationGroupStatus'> {
  if (members.every((member) => ENDED.includes(member.status))) {
    return members.some((member) => member.wasActive) || releaseRequested ? 'released' : 'failed';
  }
  if (releaseRequested)
    return members.some((member) => member.status === 'release_failed') ? 'release_failed' : 'releasing';
  const named = members.filter((member) => member.required);
  // where no member is required, the group is as good as all of them
  const required = named.length > 0 ? named : members;
  const active = required.filter((member) => member.status === 'active');
  if (active.length === required.length) return 'active';
  const broken = required.some((member) => BROKEN.includes(member.status));
  if (active.length > 0 && broken) return 'degraded';
  if (active.length === 0 && required.some((member) => member.status === 'failed')) return 'failed';
  if (members.some((member) => member.status === 'active' || member.status === 'provisioning')) return 'provisioning';
  return 'requested';
}

/** The members that a release of the group touches. */
export function isReleasedWithGroup(
  status: AllocationStatus,
  strategy: Schema<'ReleaseAllocationGroupRequest'>['release_strategy'],
): boolean {
  if (strategy === 'all_members') return status !== 'releasing' && status !== 'released' && status !== 'failed';
  return status === 'active' || status === 'restart_failed' || status === 'release_failed';
}
