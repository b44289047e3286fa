import { asId, newId, type ProjectId, type TenantId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { ProjectRole } from '../../../spine/principal.js';
import { type Refusal, refuse } from '../../../spine/refusal.js';
import { guarded } from './constraints.js';

/** The one answer for a project that is unknown, deleted or somebody else's. */
export function projectInaccessible(): Refusal {
  return refuse('insufficient_permissions', { reason: 'project_inaccessible' });
}

export interface ProjectRow {
  readonly projectId: ProjectId;
  readonly tenantId: TenantId;
  readonly tenantName: string;
  readonly departmentId: string;
  readonly departmentName: string;
  readonly departmentSlug: string;
  readonly name: string;
  readonly slug: string;
  readonly directRole: ProjectRole | null;
  readonly isDefault: boolean;
  readonly createdAt: Date;
  readonly createdAtText: string;
}

/** Live projects as one user sees them. */
function projectsOf(reader: Reader, userId: string) {
  return reader
    .selectFrom('projects as p')
    .innerJoin('tenants as t', 't.id', 'p.tenant_id')
    .innerJoin('departments as d', 'd.id', 'p.department_id')
    .innerJoin('users as u', (join) => join.on('u.id', '=', userId))
    .leftJoin('project_memberships as m', (join) =>
      join.onRef('m.project_id', '=', 'p.id').onRef('m.user_id', '=', 'u.id').on('m.ended_at', 'is', null),
    )
    .select([
      'p.id',
      'p.tenant_id',
      't.name as tenant_name',
      'd.id as department_id',
      'd.display_name as department_name',
      'd.slug as department_slug',
      'p.name',
      'p.slug',
      'm.role as direct_role',
      'p.created_at',
      sql<string>`p.created_at::text`.as('created_at_text'),
      sql<boolean>`u.default_project_id IS NOT DISTINCT FROM p.id`.as('is_default'),
    ])
    .where('p.deleted_at', 'is', null)
    .where('t.deleted_at', 'is', null);
}

type Row = Awaited<ReturnType<ReturnType<typeof projectsOf>['execute']>>[number];

const toProject = (row: Row): ProjectRow => ({
  projectId: asId(row.id),
  tenantId: asId(row.tenant_id),
  tenantName: row.tenant_name,
  departmentId: row.department_id,
  departmentName: row.department_name,
  departmentSlug: row.department_slug,
  name: row.name,
  slug: row.slug,
  directRole: row.direct_role,
  isDefault: row.is_default,
  createdAt: row.created_at,
  createdAtText: row.created_at_text,
});

/** Projects of the user's home tenant: all of them for who rules the tenant, else those with a direct role. */
export async function findProjectsOf(
  reader: Reader,
  who: { userId: string; tenantId: string; rulesTenant: boolean },
  after: { createdAtText: string; id: string } | null,
  limit: number,
): Promise<readonly ProjectRow[]> {
  const rows = await projectsOf(reader, who.userId)
    .where('p.tenant_id', '=', who.tenantId)
    .$if(!who.rulesTenant, (query) => query.where('m.id', 'is not', null))
    .$if(after !== null, (query) =>
      query.where(sql<boolean>`(p.created_at, p.id) < (${after?.createdAtText}::timestamptz, ${after?.id}::uuid)`),
    )
    .orderBy('p.created_at', 'desc')
    .orderBy('p.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(toProject);
}

/** A live project as the user sees it; refuses like an inaccessible one. */
export async function getProjectOf(reader: Reader, userId: string, projectId: string): Promise<ProjectRow> {
  const row = await projectsOf(reader, userId).where('p.id', '=', projectId).executeTakeFirst();
  if (!row) throw projectInaccessible();
  return toProject(row);
}

export interface NewProject {
  readonly tenantId: string;
  readonly departmentId: string;
  readonly name: string;
  readonly slug: string;
  readonly now: Date;
}

/** Refuses with 409 `project_slug_taken`. */
export async function insertProject(tx: Tx, project: NewProject): Promise<ProjectId> {
  const id = newId<'project'>();
  await guarded(
    tx
      .insertInto('projects')
      .values({
        id,
        tenant_id: project.tenantId,
        department_id: project.departmentId,
        name: project.name,
        slug: project.slug,
        created_at: project.now,
        updated_at: project.now,
      })
      .execute(),
  );
  return id;
}

/** Slugs of a tenant's live projects that begin like this. The caller holds the tenant's row. */
export async function findSlugsLike(tx: Tx, tenantId: string, stem: string): Promise<ReadonlySet<string>> {
  const rows = await tx
    .selectFrom('projects')
    .select('slug')
    .where('tenant_id', '=', tenantId)
    .where('deleted_at', 'is', null)
    .where(sql<boolean>`starts_with(slug, ${stem})`)
    .execute();
  return new Set(rows.map((row) => row.slug));
}

export interface LockedProject {
  readonly projectId: ProjectId;
  readonly tenantId: TenantId;
  readonly name: string;
  readonly slug: string;
}

/** Locks a live project until commit: nothing new can start in it meanwhile. Refuses like an inaccessible one. */
export async function lockProject(tx: Tx, projectId: string): Promise<LockedProject> {
  const row = await tx
    .selectFrom('projects')
    .select(['id', 'tenant_id', 'name', 'slug'])
    .where('id', '=', projectId)
    .where('deleted_at', 'is', null)
    .forUpdate()
    .executeTakeFirst();
  if (!row) throw projectInaccessible();
  return { projectId: asId(row.id), tenantId: asId(row.tenant_id), name: row.name, slug: row.slug };
}

/** Shares a live project until commit: it cannot be deleted meanwhile. */
export async function findSharedProject(tx: Tx, projectId: string): Promise<LockedProject | null> {
  const row = await tx
    .selectFrom('projects')
    .select(['id', 'tenant_id', 'name', 'slug'])
    .where('id', '=', projectId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst();
  return row ? { projectId: asId(row.id), tenantId: asId(row.tenant_id), name: row.name, slug: row.slug } : null;
}

/** The same, refusing like an inaccessible one. */
export async function shareProject(tx: Tx, projectId: ProjectId): Promise<LockedProject> {
  const project = await findSharedProject(tx, projectId);
  if (!project) throw projectInaccessible();
  return project;
}

export async function updateProjectRow(
  tx: Tx,
  projectId: string,
  values: { name: string; slug: string; now: Date },
): Promise<void> {
  await guarded(
    tx
      .updateTable('projects')
      .set({ name: values.name, slug: values.slug, updated_at: values.now })
      .where('id', '=', projectId)
      .execute(),
  );
}

export interface ProjectEnd {
  readonly members: number;
  readonly serviceAccounts: readonly string[];
  readonly sshKeys: readonly string[];
}

/** Ends a project and everything that lives by it here. The caller holds the project's row. */
export async function endProject(tx: Tx, projectId: string, now: Date): Promise<ProjectEnd> {
  await tx.updateTable('projects').set({ deleted_at: now, updated_at: now }).where('id', '=', projectId).execute();
  const members = await tx
    .updateTable('project_memberships')
    .set({ ended_at: now, end_reason: 'project_deleted', updated_at: now })
    .where('project_id', '=', projectId)
    .where('ended_at', 'is', null)
    .returning('id')
    .execute();
  const accounts = await tx
    .updateTable('service_accounts')
    .set({ state: 'deleted', deleted_at: now })
    .where('project_id', '=', projectId)
    .where('state', '<>', 'deleted')
    .returning('id')
    .execute();
  await tx
    .updateTable('service_account_keys')
    .set({ revoked_at: now })
    .where('revoked_at', 'is', null)
    .where('service_account_id', 'in', (query) =>
      query.selectFrom('service_accounts').select('id').where('project_id', '=', projectId),
    )
    .execute();
  const keys = await tx
    .updateTable('ssh_keys')
    .set({ revoked_at: now })
    .where('project_id', '=', projectId)
    .where('revoked_at', 'is', null)
    .returning('id')
    .execute();
  await tx
    .updateTable('users')
    .set({ default_project_id: null, updated_at: now })
    .where('default_project_id', '=', projectId)
    .execute();
  return {
    members: members.length,
    serviceAccounts: accounts.map((row) => row.id),
    sshKeys: keys.map((row) => row.id),
  };
}

export interface DepartmentRow {
  readonly id: string;
  readonly state: 'active' | 'disabled';
}

/** A department of the tenant: the named one, or the default one. */
export async function findDepartment(
  reader: Reader,
  tenantId: string,
  departmentId: string | null,
): Promise<DepartmentRow | undefined> {
  const row = await reader
    .selectFrom('departments')
    .select(['id', 'lifecycle_state'])
    .where('tenant_id', '=', tenantId)
    .$if(departmentId !== null, (query) => query.where('id', '=', departmentId ?? ''))
    .$if(departmentId === null, (query) => query.where('is_default', '=', true))
    .executeTakeFirst();
  return row && { id: row.id, state: row.lifecycle_state };
}

export async function findProjectName(reader: Reader, projectId: string): Promise<string | null> {
  const row = await reader.selectFrom('projects').select('name').where('id', '=', projectId).executeTakeFirst();
  return row?.name ?? null;
}
