import { newId, type UserId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';

/** When and by whom the limit was last set; the first version is that of the installation. */
export function findLatestLimitVersion(reader: Reader) {
  return reader
    .selectFrom('allocation_limit_versions')
    .select(['value', 'reason', 'created_by_user_id', 'correlation_id', 'created_at'])
    .orderBy('created_at', 'desc')
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirstOrThrow();
}

export async function appendLimitVersion(
  tx: Tx,
  version: {
    readonly value: number;
    readonly reason: string | null;
    readonly createdByUserId: UserId | null;
    readonly correlationId: string;
    readonly now: Date;
  },
): Promise<void> {
  await tx
    .insertInto('allocation_limit_versions')
    .values({
      id: newId(),
      value: version.value,
      reason: version.reason,
      created_by_user_id: version.createdByUserId,
      correlation_id: version.correlationId,
      created_at: version.now,
    })
    .execute();
}
