import { type AllocationId, asId, type OperationRunId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';

const selectOperations = (reader: Reader) =>
  reader
    .selectFrom('allocation_operations')
    .select([
      'id',
      'allocation_id',
      'kind',
      'status',
      'previous_status',
      'forced',
      'reason',
      'attempts',
      'failure_reason',
      'correlation_id',
      'deadline_at',
      'created_at',
      'started_at',
      'completed_at',
      'updated_at',
    ]);

export type OperationRow = Awaited<ReturnType<ReturnType<typeof selectOperations>['executeTakeFirstOrThrow']>>;

/** The row of the allocation is the lock; who holds it may read its operation. */
export function getOperation(reader: Reader, id: OperationRunId): Promise<OperationRow> {
  return selectOperations(reader).where('id', '=', id).executeTakeFirstOrThrow();
}

/** Counts one more node task for the operation and returns how many there are now. */
export async function countAttempt(tx: Tx, id: OperationRunId, now: Date): Promise<number> {
  const row = await tx
    .updateTable('allocation_operations')
    .set((eb) => ({ attempts: eb('attempts', '+', 1), updated_at: now }))
    .where('id', '=', id)
    .returning('attempts')
    .executeTakeFirstOrThrow();
  return row.attempts;
}

/** The oldest operations whose time is over. Not locked: whoever ends one locks its allocation and looks again. */
export async function findOverdueOperations(
  reader: Reader,
  now: Date,
  limit: number,
): Promise<readonly { readonly allocationId: AllocationId; readonly operationId: OperationRunId }[]> {
  const rows = await reader
    .selectFrom('allocation_operations')
    .select(['id', 'allocation_id'])
    .where('status', 'in', ['queued', 'running'])
    .where('deadline_at', '<=', now)
    .orderBy('deadline_at')
    .limit(limit)
    .execute();
  return rows.map((row) => ({
    allocationId: asId(row.allocation_id),
    operationId: asId(row.id),
  }));
}
