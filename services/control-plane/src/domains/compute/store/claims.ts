import { type AllocationId, asId, type SlotId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import { jsonObject } from './json.js';

export interface SlotClaim {
  readonly slotId: SlotId;
  readonly snapshot: Readonly<Record<string, unknown>>;
}

/** Whether what an allocation occupies waits for a person, because its host could not prove that nothing is left. */
export async function isBlocked(reader: Reader, allocationId: AllocationId): Promise<boolean> {
  const row = await reader
    .selectFrom('placement_claims')
    .select('id')
    .where('allocation_id', '=', allocationId)
    .where('released_at', 'is', null)
    .where('status', '=', 'failed')
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
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
