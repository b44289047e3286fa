import { asId, newId, type ProjectId, type TenantId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { ProjectRole, TenantRole } from '../../../spine/principal.js';
import { notFound } from '../../../spine/refusal.js';
import { guarded } from './constraints.js';

export interface NewTenant {
  readonly type: 'personal' | 'enterprise';
  readonly name: string;
  readonly slug: string;
  readonly now: Date;
}

/** A tenant and its default department, without which no project can exist. */
export async function insertTenant(tx: Tx, tenant: NewTenant): Promise<{ tenantId: TenantId; departmentId: string }> {
  const tenantId = newId<'tenant'>();
  const departmentId = newId<'department'>();
  await guarded(
    tx
      .insertInto('tenants')
      .values({
        id: tenantId,
        type: tenant.type,
        name: tenant.name,
        slug: tenant.slug,
        created_at: tenant.now,
        updated_at: tenant.now,
      })
      .execute(),
  );
  await tx
    .insertInto('departments')
    .values({
      id: departmentId,
      tenant_id: tenantId,
      display_name: 'General',
      slug: 'general',
      is_default: true,
      created_at: tenant.now,
      updated_at: tenant.now,
    })
    .execute();
  return { tenantId, departmentId };
}

export interface LockedTenant {
  readonly tenantId: TenantId;
  readonly type: 'personal' | 'enterprise';
}

/** Locks until commit what is counted over a tenant's members: its owners. Refuses with 404. */
export async function lockTenant(tx: Tx, tenantId: string): Promise<LockedTenant> {
  const row = await tx
    .selectFrom('tenants')
    .select(['id', 'type'])
    .where('id', '=', tenantId)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (!row) throw notFound('tenant');
  return { tenantId: asId(row.id), type: row.type };
}

export async function tenantExists(reader: Reader, tenantId: string): Promise<boolean> {
  const row = await reader
    .selectFrom('tenants')
    .select('id')
    .where('id', '=', tenantId)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  return row !== undefined;
}

export interface HomeMembership {
  readonly membershipId: string;
  readonly tenantId: TenantId;
  readonly role: TenantRole;
}

/** The one live tenant membership of a user. Stable while the user's row is locked. */
export async function findHomeMembership(reader: Reader, userId: string): Promise<HomeMembership | null> {
  const row = await reader
    .selectFrom('tenant_memberships')
    .select(['id', 'tenant_id', 'role'])
    .where('user_id', '=', userId)
    .where('ended_at', 'is', null)
    .executeTakeFirst();
  return row ? { membershipId: row.id, tenantId: asId(row.tenant_id), role: row.role } : null;
}

export async function wasEverMember(reader: Reader, tenantId: string, userId: string): Promise<boolean> {
  const row = await reader
    .selectFrom('tenant_memberships')
    .select('id')
    .where('user_id', '=', userId)
    .where('tenant_id', '=', tenantId)
    .executeTakeFirst();
  return row !== undefined;
}

export async function insertTenantMembership(
  tx: Tx,
  membership: { tenantId: string; userId: string; role: TenantRole; now: Date },
): Promise<void> {
  await guarded(
    tx
      .insertInto('tenant_memberships')
      .values({
        id: newId(),
        tenant_id: membership.tenantId,
        user_id: membership.userId,
        role: membership.role,
        created_at: membership.now,
        updated_at: membership.now,
      })
      .execute(),
  );
}

export async function setTenantRole(tx: Tx, membershipId: string, role: TenantRole, now: Date): Promise<void> {
  await tx
    .updateTable('tenant_memberships')
    .set({ role, updated_at: now })
    .where('id', '=', membershipId)
    .where('ended_at', 'is', null)
    .execute();
}

export async function endTenantMembership(tx: Tx, membershipId: string, reason: string, now: Date): Promise<void> {
  await tx
    .updateTable('tenant_memberships')
    .set({ ended_at: now, end_reason: reason, updated_at: now })
    .where('id', '=', membershipId)
    .where('ended_at', 'is', null)
    .execute();
}

/** Owners of a tenant but for one user. The caller holds the tenant's row. */
export async function countOtherOwners(tx: Tx, tenantId: string, userId: string): Promise<number> {
  const rows = await tx
    .selectFrom('tenant_memberships as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select('m.id')
    .where('m.tenant_id', '=', tenantId)
    .where('m.role', '=', 'owner')
    .where('m.ended_at', 'is', null)
    .where('m.user_id', '<>', userId)
    .where('u.deleted_at', 'is', null)
    .limit(1)
    .execute();
  return rows.length;
}

export async function findProjectRole(
  reader: Reader,
  projectId: string,
  userId: string,
): Promise<{ membershipId: string; role: ProjectRole } | null> {
  const row = await reader
    .selectFrom('project_memberships')
    .select(['id', 'role'])
    .where('project_id', '=', projectId)
    .where('user_id', '=', userId)
    .where('ended_at', 'is', null)
    .executeTakeFirst();
  return row ? { membershipId: row.id, role: row.role } : null;
}

export async function insertProjectMembership(
  tx: Tx,
  membership: { tenantId: string; projectId: string; userId: string; role: ProjectRole; now: Date },
): Promise<void> {
  await guarded(
    tx
      .insertInto('project_memberships')
      .values({
        id: newId(),
        tenant_id: membership.tenantId,
        project_id: membership.projectId,
        user_id: membership.userId,
        role: membership.role,
        created_at: membership.now,
        updated_at: membership.now,
      })
      .execute(),
  );
}

export async function setProjectRole(tx: Tx, membershipId: string, role: ProjectRole, now: Date): Promise<void> {
  await tx
    .updateTable('project_memberships')
    .set({ role, updated_at: now })
    .where('id', '=', membershipId)
    .where('ended_at', 'is', null)
    .execute();
}

/** Whether someone is the owner of any project of the tenant. */
export async function ownsProjects(tx: Tx, tenantId: string, userId: string): Promise<boolean> {
  const row = await tx
    .selectFrom('project_memberships')
    .select('id')
    .where('user_id', '=', userId)
    .where('tenant_id', '=', tenantId)
    .where('role', '=', 'owner')
    .where('ended_at', 'is', null)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

/** Ends project memberships of a user: in one project, or in all of a tenant. Returns the projects. */
export async function endProjectMemberships(
  tx: Tx,
  scope: { userId: string; tenantId: string; projectId: string | null; reason: string; now: Date },
): Promise<readonly ProjectId[]> {
  const rows = await tx
    .updateTable('project_memberships')
    .set({ ended_at: scope.now, end_reason: scope.reason, updated_at: scope.now })
    .where('user_id', '=', scope.userId)
    .where('tenant_id', '=', scope.tenantId)
    .where('ended_at', 'is', null)
    .$if(scope.projectId !== null, (query) => query.where('project_id', '=', scope.projectId ?? ''))
    .returning('project_id')
    .execute();
  return rows.map((row) => asId(row.project_id));
}

export interface TenantMemberRow {
  readonly userId: UserId;
  readonly username: string;
  readonly tenantRole: TenantRole;
  readonly projectRole: ProjectRole | null;
  readonly createdAtText: string;
  readonly membershipId: string;
}

/** Members of a tenant, newest first; with a project also their direct role in it. */
export async function findTenantMembers(
  reader: Reader,
  scope: { tenantId: string; projectId: string | null },
  after: { createdAtText: string; id: string } | null,
  limit: number,
): Promise<readonly TenantMemberRow[]> {
  const rows = await reader
    .selectFrom('tenant_memberships as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .leftJoin('project_memberships as p', (join) =>
      join.onRef('p.user_id', '=', 'm.user_id').on('p.project_id', '=', scope.projectId).on('p.ended_at', 'is', null),
    )
    .select([
      'm.id as membership_id',
      'u.id as user_id',
      'u.username',
      'm.role as tenant_role',
      'p.role as project_role',
      sql<string>`m.created_at::text`.as('created_at_text'),
    ])
    .where('m.tenant_id', '=', scope.tenantId)
    .where('m.ended_at', 'is', null)
    .where('u.deleted_at', 'is', null)
    .$if(after !== null, (query) =>
      query.where(sql<boolean>`(m.created_at, m.id) < (${after?.createdAtText}::timestamptz, ${after?.id}::uuid)`),
    )
    .orderBy('m.created_at', 'desc')
    .orderBy('m.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map((row) => ({
    userId: asId(row.user_id),
    username: row.username,
    tenantRole: row.tenant_role,
    projectRole: row.project_role,
    createdAtText: row.created_at_text,
    membershipId: row.membership_id,
  }));
}
