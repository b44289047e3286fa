import { asId, newId, type ProjectId, type TenantId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { PlatformRole, TenantRole } from '../../../spine/principal.js';
import { refuse } from '../../../spine/refusal.js';
import { guarded } from './constraints.js';

export interface NewUser {
  readonly username: string;
  readonly normalised: string;
  readonly email: string | null;
  readonly passwordHash: string | null;
  readonly role: 'user' | 'admin';
  readonly now: Date;
}

/** Refuses with 409 `user_already_exists`. */
export async function insertUser(tx: Tx, user: NewUser): Promise<UserId> {
  const id = newId<'user'>();
  await guarded(
    tx
      .insertInto('users')
      .values({
        id,
        username: user.username,
        username_norm: user.normalised,
        email: user.email,
        password_hash: user.passwordHash,
        role: user.role,
        created_at: user.now,
        updated_at: user.now,
      })
      .execute(),
  );
  return id;
}

export interface CredentialRow {
  readonly userId: UserId;
  readonly username: string;
  readonly passwordHash: string | null;
}

export async function findCredential(reader: Reader, normalisedUsername: string): Promise<CredentialRow | undefined> {
  const row = await reader
    .selectFrom('users')
    .select(['id', 'username', 'password_hash'])
    .where('username_norm', '=', normalisedUsername)
    .where('deleted_at', 'is', null)
    .executeTakeFirst();
  return row && { userId: asId(row.id), username: row.username, passwordHash: row.password_hash };
}

export async function usernameExists(reader: Reader, normalisedUsername: string): Promise<boolean> {
  const row = await reader
    .selectFrom('users')
    .select('id')
    .where('username_norm', '=', normalisedUsername)
    .executeTakeFirst();
  return row !== undefined;
}

/**
 * Shares the user's row until commit: a new session and the end of all sessions cannot pass each other.
 * Returns the password's hash, so that a sign-in notices a password that changed under it.
 */
export async function shareUserForSession(
  tx: Tx,
  userId: string,
): Promise<{ passwordHash: string | null } | undefined> {
  const row = await tx
    .selectFrom('users')
    .select('password_hash')
    .where('id', '=', userId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst();
  return row && { passwordHash: row.password_hash };
}

export interface LockedUser {
  readonly userId: UserId;
  readonly username: string;
  readonly role: 'user' | 'admin';
  readonly platformRoleSource: 'users_role' | 'bindings';
}

/** Locks until commit: whoever changes a user's memberships, roles or sessions as a whole comes through here. */
export async function lockUser(tx: Tx, userId: string): Promise<LockedUser> {
  const row = await tx
    .selectFrom('users')
    .select(['id', 'username', 'role', 'platform_role_source'])
    .where('id', '=', userId)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (!row) throw refuse('user_not_found', { resource: 'user' });
  return {
    userId: asId(row.id),
    username: row.username,
    role: row.role,
    platformRoleSource: row.platform_role_source,
  };
}

/** Replaces a password, if it still is the one the caller knows; false where it is not. */
export async function replacePasswordHash(
  tx: Tx,
  userId: string,
  from: string | null,
  to: string,
  now: Date,
): Promise<boolean> {
  const result = await tx
    .updateTable('users')
    .set({ password_hash: to, updated_at: now })
    .where('id', '=', userId)
    .where(sql<boolean>`password_hash IS NOT DISTINCT FROM ${from}`)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

export async function setDefaultProjectOf(tx: Tx, userId: string, projectId: string | null, now: Date): Promise<void> {
  await tx
    .updateTable('users')
    .set({ default_project_id: projectId, updated_at: now })
    .where('id', '=', userId)
    .execute();
}

/** Takes the default away where it is one of these. */
export async function clearDefaultProjects(
  tx: Tx,
  userId: string,
  projectIds: readonly string[],
  now: Date,
): Promise<void> {
  if (projectIds.length === 0) return;
  await tx
    .updateTable('users')
    .set({ default_project_id: null, updated_at: now })
    .where('id', '=', userId)
    .where('default_project_id', 'in', [...projectIds])
    .execute();
}

export async function insertIdentityLink(
  tx: Tx,
  link: { userId: string; issuer: string; subject: string; now: Date },
): Promise<void> {
  await guarded(
    tx
      .insertInto('identity_links')
      .values({
        id: newId(),
        user_id: link.userId,
        provider_type: 'oidc',
        issuer: link.issuer,
        subject: link.subject,
        is_primary: true,
        created_at: link.now,
        updated_at: link.now,
      })
      .execute(),
  );
}

/** A user as lists and profiles show it, without money. */
export interface UserProfile {
  readonly userId: UserId;
  readonly username: string;
  readonly role: 'user' | 'admin';
  readonly platformRoleSource: 'users_role' | 'bindings';
  readonly platformRoles: readonly PlatformRole[];
  readonly tenantId: TenantId | null;
  readonly tenantName: string | null;
  readonly tenantType: 'personal' | 'enterprise' | null;
  readonly tenantRole: TenantRole | null;
  readonly projectId: ProjectId | null;
  readonly projectName: string | null;
  /** sort key of lists, with the microseconds that a Date would drop */
  readonly createdAtText: string;
}

function profiles(reader: Reader) {
  return reader
    .selectFrom('users as u')
    .leftJoin('tenant_memberships as m', (join) => join.onRef('m.user_id', '=', 'u.id').on('m.ended_at', 'is', null))
    .leftJoin('tenants as t', (join) => join.onRef('t.id', '=', 'm.tenant_id').on('t.deleted_at', 'is', null))
    .leftJoin('projects as p', (join) =>
      join.onRef('p.id', '=', 'u.default_project_id').onRef('p.tenant_id', '=', 't.id').on('p.deleted_at', 'is', null),
    )
    .select([
      'u.id',
      'u.username',
      'u.role',
      'u.platform_role_source',
      't.id as tenant_id',
      't.name as tenant_name',
      't.type as tenant_type',
      'm.role as tenant_role',
      'p.id as project_id',
      'p.name as project_name',
      sql<string>`u.created_at::text`.as('created_at_text'),
      sql<PlatformRole[]>`COALESCE((SELECT array_agg(b.role) FROM platform_role_bindings b
        WHERE b.user_id = u.id AND b.revoked_at IS NULL), '{}')`.as('platform_roles'),
    ])
    .where('u.deleted_at', 'is', null);
}

type ProfileRow = Awaited<ReturnType<ReturnType<typeof profiles>['execute']>>[number];

const toProfile = (row: ProfileRow): UserProfile => ({
  userId: asId(row.id),
  username: row.username,
  role: row.role,
  platformRoleSource: row.platform_role_source,
  platformRoles: row.platform_roles,
  tenantId: row.tenant_id === null ? null : asId(row.tenant_id),
  tenantName: row.tenant_name,
  tenantType: row.tenant_type,
  tenantRole: row.tenant_id === null ? null : row.tenant_role,
  projectId: row.project_id === null ? null : asId(row.project_id),
  projectName: row.project_name,
  createdAtText: row.created_at_text,
});

/** Refuses with 404 `user_not_found`. */
export async function getUserProfile(reader: Reader, userId: string): Promise<UserProfile> {
  const row = await profiles(reader).where('u.id', '=', userId).executeTakeFirst();
  if (!row) throw refuse('user_not_found', { resource: 'user' });
  return toProfile(row);
}

/** Newest first. */
export async function findUserProfiles(
  reader: Reader,
  after: { createdAtText: string; id: string } | null,
  limit: number,
): Promise<readonly UserProfile[]> {
  const rows = await profiles(reader)
    .$if(after !== null, (query) =>
      query.where(sql<boolean>`(u.created_at, u.id) < (${after?.createdAtText}::timestamptz, ${after?.id}::uuid)`),
    )
    .orderBy('u.created_at', 'desc')
    .orderBy('u.id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(toProfile);
}
