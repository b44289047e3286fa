import type { Reader } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import type { PlatformRole, TenantRole } from '../../../spine/principal.js';

export interface UserSessionRow {
  readonly user_id: string;
  readonly username: string;
  readonly role: 'user' | 'admin';
  readonly platform_role_source: 'users_role' | 'bindings';
  readonly platform_roles: readonly PlatformRole[];
  readonly tenant_id: string | null;
  readonly tenant_role: TenantRole | null;
  readonly amr: readonly string[];
  readonly auth_time: Date;
  readonly last_seen_at: Date;
  readonly expires_at: Date;
  readonly revoked_at: Date | null;
}

/**
 * Everything that a user's request needs to know about its caller, in one round trip over unique indexes: this runs
 * before every request of a person.
 */
export async function findUserSession(
  reader: Reader,
  sessionId: string,
  userId: string,
): Promise<UserSessionRow | undefined> {
  const { rows } = await reader.executeQuery(userSession([sessionId, userId]));
  return rows[0];
}

const userSession = preparedQuery<UserSessionRow>(
  'identity.user_session',
  `SELECT u.id AS user_id, u.username, u.role, u.platform_role_source,
  COALESCE((SELECT array_agg(b.role) FROM platform_role_bindings b
    WHERE b.user_id = u.id AND b.revoked_at IS NULL), '{}') AS platform_roles,
  m.tenant_id, m.role AS tenant_role,
  s.amr, s.auth_time, s.last_seen_at, s.expires_at, s.revoked_at
FROM sessions s
JOIN users u ON u.id = s.user_id AND u.deleted_at IS NULL
LEFT JOIN (tenant_memberships m JOIN tenants t ON t.id = m.tenant_id AND t.deleted_at IS NULL)
  ON m.user_id = u.id AND m.ended_at IS NULL
WHERE s.id = $1 AND s.user_id = $2`,
);

export interface MachineTokenRow {
  readonly service_account_id: string;
  readonly tenant_id: string;
  readonly project_id: string;
  readonly purpose: 'operator' | 'controller' | 'automation';
  readonly created_by_user_id: string;
}

/** The robot behind a token, if its key, its account and its project are all alive. */
export async function findMachineToken(
  reader: Reader,
  jti: string,
  serviceAccountId: string,
): Promise<MachineTokenRow | undefined> {
  const { rows } = await reader.executeQuery(machineToken([jti, serviceAccountId]));
  return rows[0];
}

const machineToken = preparedQuery<MachineTokenRow>(
  'identity.machine_token',
  `SELECT a.id AS service_account_id, a.tenant_id, a.project_id, a.purpose, a.created_by_user_id
FROM machine_tokens t
JOIN service_account_keys k ON k.key_id = t.key_id AND k.revoked_at IS NULL
JOIN service_accounts a ON a.id = k.service_account_id AND a.state = 'active'
JOIN projects p ON p.id = a.project_id AND p.deleted_at IS NULL
WHERE t.jti = $1 AND a.id = $2`,
);

export interface ProjectAccessRow {
  readonly tenant_id: string;
  readonly direct_role: 'owner' | 'admin' | 'member' | 'viewer' | null;
}

/** A live project and the direct role of a user in it. */
export async function findProjectAccess(
  reader: Reader,
  projectId: string,
  userId: string | null,
): Promise<ProjectAccessRow | undefined> {
  const { rows } = await reader.executeQuery(projectAccess([projectId, userId]));
  return rows[0];
}

const projectAccess = preparedQuery<ProjectAccessRow>(
  'identity.project_access',
  `SELECT p.tenant_id, m.role AS direct_role
FROM projects p
LEFT JOIN project_memberships m ON m.project_id = p.id AND m.user_id = $2 AND m.ended_at IS NULL
WHERE p.id = $1 AND p.deleted_at IS NULL`,
);
