import { type AllocationId, asId, type SlotId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import { jsonObject } from './json.js';

export interface SlotClaim {
  readonly slotId: SlotId;
  readonly snapshot: Readonly<Record<string, unknown>>;
}

/** The slots that an allocation occupies, as they were when it took them. */
export async function openSlotClaims(reader: Reader, allocationId: AllocationId): Promise<readonly SlotClaim[]> {
  const rows = await reader
    .selectFrom('placement_claims')
    .select(['slot_id', 'resource_snapshot'])
    .where('allocation_id', '=', allocationId)
    .where('kind', '=', 'slot')
    .where('released_at', 'is', null)
    .orderBy('slot_id')
    .execute();
  return rows.flatMap((row) =>
    row.slot_id === null ? [] : [{ slotId: asId<'slot'>(row.slot_id), snapshot: jsonObject(row.resource_snapshot) }],
  );
}
