import { asId, type Clock, type ProjectId, type SessionId } from '@gpuaas/kernel';
import type { Reader } from '../../spine/operation.js';
import type { Principal, ProjectScope, ServiceAccountScope } from '../../spine/principal.js';
import { refuse } from '../../spine/refusal.js';
import {
  type AccessClaims,
  type AccessTokens,
  invalidToken,
  type ServiceAccountClaims,
  type UserClaims,
} from './crypto/access-tokens.js';
import type { PresenceRecorder } from './presence.js';
import { platformStanding } from './rules/platform-roles.js';
import { rulesTenant } from './rules/roles.js';
import { scopesOfPurpose } from './rules/service-accounts.js';
import { presenceIsDue, type SessionLifetimes, sessionState } from './rules/session.js';
import { findMachineToken, findProjectAccess, findUserSession } from './store/principals.js';

export interface AuthenticationParts {
  readonly tokens: AccessTokens;
  readonly clock: Clock;
  readonly lifetimes: SessionLifetimes;
  readonly presence: PresenceRecorder;
}

/** Who a bearer token stands for at this very moment; refuses with 401 `token_invalid` or `token_expired`. */
export type AuthenticateBearer = (db: Reader, token: string) => Promise<Principal>;

/**
 * The signature is checked in memory, everything else in one query: that the session or key is alive, and what its
 * holder may do now. A token whose session has ended is as good as any invalid one.
 */
export function createAuthenticateBearer(parts: AuthenticationParts): AuthenticateBearer {
  return async (db, token) => {
    const claims: AccessClaims = await parts.tokens.verify(token);
    switch (claims.actor_type) {
      case 'user':
        return userPrincipal(db, parts, claims);
      case 'service_account':
        return serviceAccountPrincipal(db, claims);
      case 'shared_runtime_operator':
        // Nothing issues such tokens yet: none can be live, whoever signed it.
        throw invalidToken();
    }
  };
}

async function userPrincipal(db: Reader, parts: AuthenticationParts, claims: UserClaims): Promise<Principal> {
  const row = await findUserSession(db, claims.sid, claims.sub);
  if (!row) throw invalidToken();
  const now = parts.clock.now();
  const session = { revokedAt: row.revoked_at, lastSeenAt: row.last_seen_at, expiresAt: row.expires_at };
  const state = sessionState(session, now, parts.lifetimes);
  if (state === 'revoked') throw invalidToken();
  if (state !== 'live') throw refuse('token_expired', { reason: 'session_expired' }, 'the session has expired');

  const sessionId: SessionId = asId(claims.sid);
  if (presenceIsDue(row.last_seen_at, now)) parts.presence.seen(sessionId, now);
  const standing = platformStanding({
    role: row.role,
    source: row.platform_role_source,
    bindings: row.platform_roles,
  });
  return {
    kind: 'user',
    userId: asId(row.user_id),
    username: row.username,
    sessionId,
    tenantId: row.tenant_id === null ? null : asId(row.tenant_id),
    tenantRole: row.tenant_id === null ? null : row.tenant_role,
    capabilities: standing.capabilities,
    isSuperadmin: standing.isSuperadmin,
    authenticationMethods: row.amr,
    authenticatedAt: row.auth_time,
  };
}

async function serviceAccountPrincipal(db: Reader, claims: ServiceAccountClaims): Promise<Principal> {
  const row = await findMachineToken(db, claims.jti, claims.sub);
  if (!row || row.project_id !== claims.project_id) throw invalidToken();
  // The token may have asked for less than the purpose gives, and the purpose may give less than it did.
  const scopes = scopesOfPurpose(row.purpose).filter((scope) => claims.scope.includes(scope));
  return {
    kind: 'service_account',
    serviceAccountId: asId(row.service_account_id),
    projectId: asId(row.project_id),
    tenantId: asId(row.tenant_id),
    createdByUserId: asId(row.created_by_user_id),
    scopes: new Set<ServiceAccountScope>(scopes),
    purpose: row.purpose,
  };
}

/**
 * The project as the principal may work in it; null where it is unknown, deleted or not theirs. A direct role counts
 * only together with a home in the project's tenant.
 */
export async function projectScopeOf(
  db: Reader,
  principal: Principal,
  projectId: string,
): Promise<ProjectScope | null> {
  const id: ProjectId = asId(projectId.toLowerCase());
  switch (principal.kind) {
    case 'user': {
      if (principal.tenantId === null) return null;
      const access = await findProjectAccess(db, id, principal.userId);
      if (!access || access.tenant_id !== principal.tenantId) return null;
      const inheritsTenantAdmin = rulesTenant(principal.tenantRole);
      if (access.direct_role === null && !inheritsTenantAdmin) return null;
      return { projectId: id, tenantId: principal.tenantId, directRole: access.direct_role, inheritsTenantAdmin };
    }
    case 'service_account':
      // alive with its token: the query that authenticated it joined the project
      if (principal.projectId !== id) return null;
      return { projectId: id, tenantId: principal.tenantId, directRole: null, inheritsTenantAdmin: false };
    case 'shared_runtime_operator':
    case 'node':
    case 'system':
    case 'anonymous':
      return null;
  }
}
