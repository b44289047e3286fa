import { type AllocationId, newId, type ProjectId, type UserId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';

const selectGrants = (reader: Reader) =>
  reader
    .selectFrom('allocation_access_grants as grant')
    .innerJoin('allocations', 'allocations.id', 'grant.allocation_id')
    .select([
      'grant.id',
      'grant.allocation_id',
      'grant.project_id',
      'grant.grantee_user_id',
      'grant.grantee_username',
      'grant.ssh_key_id',
      'grant.ssh_key_name',
      'grant.ssh_key_fingerprint',
      'grant.status',
      'grant.key_set_version',
      'grant.reason',
      'grant.created_by_user_id',
      'grant.created_at',
      'grant.revoked_by_user_id',
      'grant.revoked_at',
      'allocations.status as allocation_status',
      'allocations.key_set_applied_version',
      'allocations.key_sync_task_id',
      'allocations.key_sync_error',
    ]);

export type GrantRow = Awaited<ReturnType<ReturnType<typeof selectGrants>['executeTakeFirstOrThrow']>>;

export function listGrants(reader: Reader, allocationId: string): Promise<GrantRow[]> {
  return selectGrants(reader)
    .where('grant.allocation_id', '=', allocationId)
    .orderBy('grant.created_at', 'desc')
    .orderBy('grant.id', 'desc')
    .limit(1000)
    .execute();
}

export function findGrant(reader: Reader, allocationId: string, grantId: string): Promise<GrantRow | undefined> {
  return selectGrants(reader)
    .where('grant.allocation_id', '=', allocationId)
    .where('grant.id', '=', grantId)
    .executeTakeFirst();
}

export interface NewGrant {
  readonly allocationId: AllocationId;
  readonly projectId: ProjectId;
  readonly granteeUserId: UserId;
  readonly granteeUsername: string;
  readonly key: {
    readonly id: string;
    readonly name: string;
    readonly fingerprint: string;
    readonly publicKey: string;
  };
  readonly keySetVersion: number;
  readonly reason: string | null;
  readonly createdByUserId: UserId | null;
}

/** One active grant a person: a second one replaces the key and the reason of the first. Returns its id. */
export async function upsertGrant(tx: Tx, grant: NewGrant, now: Date): Promise<string> {
  const changed = {
    ssh_key_id: grant.key.id,
    ssh_key_name: grant.key.name,
    ssh_key_fingerprint: grant.key.fingerprint,
    ssh_public_key: grant.key.publicKey,
    key_set_version: grant.keySetVersion,
    reason: grant.reason,
  };
  const row = await tx
    .insertInto('allocation_access_grants')
    .values({
      id: newId(),
      allocation_id: grant.allocationId,
      project_id: grant.projectId,
      grantee_user_id: grant.granteeUserId,
      grantee_username: grant.granteeUsername,
      status: 'active',
      created_by_user_id: grant.createdByUserId,
      created_at: now,
      ...changed,
    })
    .onConflict((conflict) =>
      conflict.columns(['allocation_id', 'grantee_user_id']).where('status', '=', 'active').doUpdateSet(changed),
    )
    .returning('id')
    .executeTakeFirstOrThrow();
  return row.id;
}

export async function revokeGrant(
  tx: Tx,
  id: string,
  by: UserId | null,
  keySetVersion: number,
  now: Date,
): Promise<void> {
  await tx
    .updateTable('allocation_access_grants')
    .set({ status: 'revoked', revoked_by_user_id: by, revoked_at: now, key_set_version: keySetVersion })
    .where('id', '=', id)
    .where('status', '=', 'active')
    .execute();
}

export function findGrantsWithKey(reader: Reader, keyId: string): Promise<{ id: string; allocation_id: string }[]> {
  return reader
    .selectFrom('allocation_access_grants')
    .select(['id', 'allocation_id'])
    .where('status', '=', 'active')
    .where('ssh_key_id', '=', keyId)
    .execute();
}

/** The active grants that a person holds in a tenant. */
export function findGrantsOfPerson(
  reader: Reader,
  person: { readonly userId: string; readonly tenantId: string },
): Promise<{ id: string; allocation_id: string }[]> {
  return reader
    .selectFrom('allocation_access_grants as grant')
    .innerJoin('allocations', 'allocations.id', 'grant.allocation_id')
    .select(['grant.id', 'grant.allocation_id'])
    .where('grant.status', '=', 'active')
    .where('grant.grantee_user_id', '=', person.userId)
    .where('allocations.tenant_id', '=', person.tenantId)
    .execute();
}
