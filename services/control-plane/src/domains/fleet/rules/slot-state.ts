import type { Schema } from '@gpuaas/contract';

export type SlotStatus = Schema<'NodeResourceSlotStatus'>;

export type SlotEvent =
  /** a launch was given the slot */
  | 'reserve'
  /** the host took the launch */
  | 'provision'
  /** the guest serves */
  | 'activate'
  /** the guest has to go */
  | 'release'
  /** nothing is left of the guest, and the disk was wiped */
  | 'free'
  /** nobody could prove that nothing is left */
  | 'block';

const TARGETS: Readonly<Record<SlotEvent, SlotStatus>> = {
  reserve: 'reserved',
  provision: 'provisioning',
  activate: 'active',
  release: 'releasing',
  free: 'available',
  block: 'cleanup_blocked',
};

/**
 * What may happen to a slot in each status. Whoever claims it moves it; an operator sets it where nobody does, and is
 * the only one to leave `cleanup`, `failed` and `disabled`. A host wipes within the task that takes the guest away, so
 * `releasing` stands until the wipe is proven.
 */
const EVENTS: Readonly<Record<SlotStatus, readonly SlotEvent[]>> = {
  available: ['reserve'],
  reserved: ['provision', 'activate', 'release', 'free', 'block'],
  provisioning: ['activate', 'release', 'block'],
  active: ['release', 'block'],
  releasing: ['free', 'block'],
  cleanup_blocked: ['release', 'free'],
  cleanup: [],
  failed: [],
  disabled: [],
};

/** Where an event leads from a status; null where it does not exist there. */
export function advanceSlot(from: SlotStatus, event: SlotEvent): SlotStatus | null {
  return EVENTS[from].includes(event) ? TARGETS[event] : null;
}

/** The statuses in which an event exists, and where it leads: for the WHERE clause of a set-wise move. */
export function slotMove(event: SlotEvent): { readonly from: readonly SlotStatus[]; readonly to: SlotStatus } {
  return { from: slotStatuses.filter((status) => EVENTS[status].includes(event)), to: TARGETS[event] };
}

export const slotStatuses: readonly SlotStatus[] = Object.keys(EVENTS).filter((value): value is SlotStatus =>
  Object.hasOwn(EVENTS, value),
);
export const slotEvents: readonly SlotEvent[] = Object.keys(TARGETS).filter((value): value is SlotEvent =>
  Object.hasOwn(TARGETS, value),
);
