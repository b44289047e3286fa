// Reads fleet's `node_tasks` and changes nothing.
import { type AllocationId, asId, type NodeTaskId, type OperationRunId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';

/** The task of an operation that still waits for its host. */
export async function findQueuedTask(
  reader: Reader,
  allocationId: AllocationId,
  operationId: OperationRunId,
): Promise<NodeTaskId | null> {
  const row = await reader
    .selectFrom('node_tasks')
    .select('id')
    .where('subject_type', '=', 'allocation')
    .where('subject_id', '=', allocationId)
    .where('operation_id', '=', operationId)
    .where('status', '=', 'queued')
    .where('attempt', '=', 0)
    .executeTakeFirst();
  return row ? asId(row.id) : null;
}
