// Reads fleet's `node_heartbeats` beside compute's own tables and changes nothing.
import { type AllocationId, asId, type NodeId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';

/** Serving allocations whose host has not polled since `silentSince`. A host without any heartbeat never served. */
export async function findLostRuntimes(
  reader: Reader,
  silentSince: Date,
  limit: number,
): Promise<readonly { readonly allocationId: AllocationId }[]> {
  const rows = await reader
    .selectFrom('node_heartbeats as heartbeat')
    .innerJoin('placement_claims as claim', 'claim.node_id', 'heartbeat.node_id')
    .innerJoin('allocations', 'allocations.id', 'claim.allocation_id')
    .select('allocations.id')
    .distinct()
    .where('heartbeat.last_seen_at', '<', silentSince)
    .where('claim.released_at', 'is', null)
    .where('allocations.status', 'in', ['active', 'restarting'])
    .limit(limit)
    .execute();
  return rows.map((row) => ({ allocationId: asId(row.id) }));
}

/** When the host last polled; null where it never did. */
export async function lastSignOfLife(reader: Reader, nodeId: NodeId): Promise<Date | null> {
  const row = await reader
    .selectFrom('node_heartbeats')
    .select('last_seen_at')
    .where('node_id', '=', nodeId)
    .executeTakeFirst();
  return row?.last_seen_at ?? null;
}
