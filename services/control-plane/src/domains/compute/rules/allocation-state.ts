import type { ErrorCode, Schema } from '@gpuaas/contract';

export type AllocationStatus = Schema<'Allocation'>['status'];
export type PlacementStatus = Schema<'AllocationPlacementStatus'>;

export type AllocationEvent =
  /** the host took the launch */
  | 'dispatch'
  /** the host proved that the runtime serves */
  | 'activate'
  | 'restart'
  | 'release'
  /** the host proved that nothing of the runtime is left */
  | 'tornDown'
  /** the host has been silent for so long that the runtime counts as gone; whether it is, nobody knows */
  | 'lose'
  /** the running operation ended without what it promised */
  | 'fail';

export type Step<To> =
  | { readonly ok: true; readonly to: To }
  | { readonly ok: false; readonly code: ErrorCode; readonly reason?: string };

/** Every legal move. A new status does not compile until it has a row. */
const MOVES: Record<AllocationStatus, Partial<Record<AllocationEvent, AllocationStatus>>> = {
  requested: { dispatch: 'provisioning', activate: 'active', release: 'releasing', fail: 'failed' },
  provisioning: { activate: 'active', release: 'releasing', fail: 'failed' },
  active: { restart: 'restarting', release: 'releasing', lose: 'failed' },
  restarting: { activate: 'active', release: 'releasing', fail: 'restart_failed', lose: 'failed' },
  restart_failed: { restart: 'restarting', release: 'releasing' },
  releasing: { tornDown: 'released', fail: 'release_failed' },
  release_failed: { tornDown: 'released', release: 'releasing' },
  failed: { tornDown: 'released' },
  released: {},
};

export const ALLOCATION_STATUSES = Object.keys(MOVES).filter(isAllocationStatus);
export const ALLOCATION_EVENTS: readonly AllocationEvent[] = [
  'dispatch',
  'activate',
  'restart',
  'release',
  'tornDown',
  'lose',
  'fail',
];

export function isAllocationStatus(value: string): value is AllocationStatus {
  return Object.hasOwn(MOVES, value);
}

/** The status after an event, or the refusal that a caller gets for it. */
export function advance(from: AllocationStatus, event: AllocationEvent): Step<AllocationStatus> {
  const to = MOVES[from][event];
  if (to) return { ok: true, to };
  const twice = from === 'releasing' && event === 'release';
  return { ok: false, code: twice ? 'allocation_already_releasing' : 'allocation_not_active' };
}

/** Whether the tenant pays: serving, or away for a restart that was asked for. Cleaning up is never paid for. */
export function isMetered(status: AllocationStatus): boolean {
  return status === 'active' || status === 'restarting';
}

/** What a change of status does to the one usage window: it is open exactly while the allocation is metered. */
export function meteringEffect(from: AllocationStatus, to: AllocationStatus): 'start' | 'stop' | 'none' {
  if (isMetered(from) === isMetered(to)) return 'none';
  return isMetered(to) ? 'start' : 'stop';
}

/** Whether keys, grants and bundles may still be changed; before `active` they are kept for the activation. */
export function acceptsAccessChanges(status: AllocationStatus): boolean {
  return status !== 'releasing' && status !== 'released' && status !== 'failed' && status !== 'release_failed';
}

/** Whether the runtime is on its host, so that a change of keys must be sent there. */
export function hasRuntime(status: AllocationStatus): boolean {
  return status === 'active' || status === 'restarting' || status === 'restart_failed';
}

const PLACEMENT_OF: Record<AllocationStatus, PlacementStatus> = {
  requested: 'reserved',
  provisioning: 'provisioning',
  active: 'active',
  restarting: 'active',
  restart_failed: 'active',
  releasing: 'releasing',
  released: 'released',
  failed: 'failed',
  release_failed: 'failed',
};

/** The placement that goes with a status once the allocation has its place. */
export function placementStatusOf(status: AllocationStatus): PlacementStatus {
  return PLACEMENT_OF[status];
}
