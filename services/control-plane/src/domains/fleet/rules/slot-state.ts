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

type Moves = Readonly<Partial<Record<SlotEvent, SlotStatus>>>;

/**
 * Every move that a claim may make. What an operator has set (`reserved` or `active` without a claim among it) is left
 * by an operator alone, and nobody but an operator leaves `failed`, `cleanup` and `disabled`. A host wipes within the
 * task that takes the guest away, so `releasing` stands until the wipe is proven.
 */
const MOVES: Readonly<Record<SlotStatus, Moves>> = {
  available: { reserve: 'reserved' },
  reserved: { provision: 'provisioning', activate: 'active', release: 'releasing', free: 'available', block: 'cleanup_blocked' },
  provisioning: { activate: 'active', release: 'releasing', block: 'cleanup_blocked' },
  active: { release: 'releasing', block: 'cleanup_blocked' },
  releasing: { free: 'available', block: 'cleanup_blocked' },
  cleanup_blocked: { release: 'releasing', free: 'available' },
  cleanup: {},
  failed: {},
  disabled: {},
};

/** Where an event leads from a status; null where it does not exist there. */
export function advanceSlot(from: SlotStatus, event: SlotEvent): SlotStatus | null {
  return MOVES[from][event] ?? null;
}

/** The one status that an event leads to, and those from which it does. */
export function slotMove(event: SlotEvent): { readonly from: readonly SlotStatus[]; readonly to: SlotStatus } {
  const from = slotStatuses.filter((status) => advanceSlot(status, event) !== null);
  return { from, to: TARGET[event] };
}

const TARGET: Readonly<Record<SlotEvent, SlotStatus>> = {
  reserve: 'reserved',
  provision: 'provisioning',
  activate: 'active',
  release: 'releasing',
  free: 'available',
  block: 'cleanup_blocked',
};

export const slotStatuses: readonly SlotStatus[] = Object.keys(MOVES).filter(isSlotStatus);
export const slotEvents: readonly SlotEvent[] = Object.keys(TARGET).filter((event): event is SlotEvent =>
  Object.hasOwn(TARGET, event),
);

function isSlotStatus(value: string): value is SlotStatus {
  return Object.hasOwn(MOVES, value);
}
