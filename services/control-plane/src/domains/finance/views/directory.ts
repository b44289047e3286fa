import type { TenantId, UserId } from '@gpuaas/kernel';
import { asId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import type { RestrictionScopeType } from '../rules/restriction.js';

// Reads of identity's tables: users, tenant_memberships, tenants, projects. Never writes or locks them.

/** A person who is not deleted, with their home tenant if they have one; undefined for anyone else. */
export async function findUserHome(
  reader: Reader,
  userId: string,
): Promise<{ readonly userId: UserId; readonly tenantId: TenantId | null } | undefined> {
  const row = await reader
    .selectFrom('users')
    .leftJoin('tenant_memberships as home', (join) =>
      join.onRef('home.user_id', '=', 'users.id').on('home.ended_at', 'is', null),
    )
    .select(['users.id', 'home.tenant_id'])
    .where('users.id', '=', userId)
    .where('users.deleted_at', 'is', null)
    .executeTakeFirst();
  return row && { userId: asId(row.id), tenantId: row.tenant_id === null ? null : asId(row.tenant_id) };
}

/** What a restriction would hang on, with the tenant it belongs to; undefined where it is unknown or deleted. */
export async function findRestrictionScope(
  reader: Reader,
  scopeType: RestrictionScopeType,
  scopeId: string,
): Promise<{ readonly tenantId: string | null } | undefined> {
  switch (scopeType) {
    case 'user':
      return findUserHome(reader, scopeId);
    case 'tenant': {
      const row = await reader
        .selectFrom('tenants')
        .select('id')
        .where('id', '=', scopeId)
        .where('deleted_at', 'is', null)
        .executeTakeFirst();
      return row && { tenantId: row.id };
    }
    case 'project': {
      const row = await reader
        .selectFrom('projects')
        .select('tenant_id')
        .where('id', '=', scopeId)
        .where('deleted_at', 'is', null)
        .executeTakeFirst();
      return row && { tenantId: row.tenant_id };
    }
  }
}
