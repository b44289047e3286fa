import { sql } from 'kysely';
import type { Tx } from '../../../spine/operation.js';
import type { Wallet } from '../rules/journal.js';

export interface Hold extends Wallet {
  readonly allocationId: string;
  readonly projectId: string;
  /** positive minor units */
  readonly amountMinor: bigint;
}

/** Reserves amounts, one an allocation; a second hold of an allocation replaces the first. The wallet is locked by the caller. */
export async function putHolds(tx: Tx, holds: readonly Hold[], now: Date): Promise<void> {
  if (holds.length === 0) return;
  await tx
    .insertInto('wallet_holds')
    .values(
      holds.map((hold) => ({
        allocation_id: hold.allocationId,
        tenant_id: hold.tenantId,
        user_id: hold.userId,
        project_id: hold.projectId,
        currency: hold.currency,
        amount_minor: hold.amountMinor,
        created_at: now,
      })),
    )
    .onConflict((conflict) =>
      conflict.column('allocation_id').doUpdateSet((row) => ({ amount_minor: row.ref('excluded.amount_minor') })),
    )
    .execute();
}

/** Gives reserved amounts free; allocations without a hold are skipped. */
export async function dropHolds(tx: Tx, allocationIds: readonly string[]): Promise<void> {
  if (allocationIds.length === 0) return;
  await tx
    .deleteFrom('wallet_holds')
    .where('allocation_id', '=', sql<string>`ANY (${allocationIds}::uuid[])`)
    .execute();
}
