import { type AllocationId, asId, type NodeId, type UserId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import { type AllocationStatus, hasRuntime } from '../rules/allocation-state.js';

/** Who holds a node whole. */
export interface NodeOccupancy {
  readonly allocationId: AllocationId;
  readonly userId: UserId;
  /** null until the account exists */
  readonly usernameOnNode: string | null;
  readonly allocationStatus: AllocationStatus;
}

/** The occupants of these nodes; a node without one has no entry. */
export async function occupancyOf(
  reader: Reader,
  nodeIds: readonly NodeId[],
): Promise<ReadonlyMap<NodeId, NodeOccupancy>> {
  if (nodeIds.length === 0) return new Map();
  const rows = await reader
    .selectFrom('placement_claims as claim')
    .innerJoin('allocations', 'allocations.id', 'claim.allocation_id')
    .select([
      'claim.node_id',
      'allocations.id',
      'allocations.requested_by_user_id',
      'allocations.username_on_node',
      'allocations.status',
    ])
    .where('claim.node_id', 'in', nodeIds)
    .where('claim.released_at', 'is', null)
    .where('claim.kind', '=', 'node_exclusive')
    .execute();
  return new Map(
    rows.map((row) => [
      asId<'node'>(row.node_id),
      {
        allocationId: asId<'allocation'>(row.id),
        userId: asId<'user'>(row.requested_by_user_id),
        usernameOnNode: hasRuntime(row.status) ? row.username_on_node : null,
        allocationStatus: row.status,
      },
    ]),
  );
}
