import type { Schema } from '@gpuaas/contract';
import { type Clock, newId, type SessionId } from '@gpuaas/kernel';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import type { UserPrincipal } from '../../spine/principal.js';
import type { AccessTokens } from './crypto/access-tokens.js';
import { newRefreshToken, secretHash } from './crypto/opaque-tokens.js';
import { platformStanding } from './rules/platform-roles.js';
import type { SessionLifetimes } from './rules/session.js';
import { insertRefreshToken, insertSession } from './store/sessions.js';
import type { UserProfile } from './store/users.js';
import type { UserViews } from './views/user-view.js';

export const REFRESH_SEAL = 'identity.refresh-successor';

export interface SessionIssuer {
  /** A new session with its first tokens, in the caller's transaction. */
  open(tx: Tx, ctx: CallContext, user: UserProfile, how: SignInMethod): Promise<OpenedSession>;
  /** A new access token for a session that lives on. */
  accessToken(session: {
    readonly sessionId: SessionId;
    readonly user: UserProfile;
    readonly amr: readonly string[];
    readonly authTime: Date;
  }): Promise<string>;
  /** The body of every answer that carries tokens. */
  answer(reader: Reader, user: UserProfile, tokens: IssuedTokens): Promise<Schema<'LoginResponse'>>;
  readonly accessTokenSeconds: number;
}

export interface SignInMethod {
  /** as sessions show it */
  readonly provider: 'local' | 'oidc';
  /** RFC 8176 */
  readonly amr: readonly string[];
  readonly acr?: string | null;
  /** when the person proved who they are, where that was before now; a time to come counts as now */
  readonly authTime?: Date | null;
}

export interface IssuedTokens {
  readonly accessToken: string;
  readonly refreshToken: string;
}

export interface OpenedSession extends IssuedTokens {
  /** the person as whom the caller has just become known: the actor of the sign-in */
  readonly principal: UserPrincipal;
}

export function createSessionIssuer(parts: {
  readonly tokens: AccessTokens;
  readonly clock: Clock;
  readonly lifetimes: SessionLifetimes;
  readonly accessTokenSeconds: number;
  readonly views: UserViews;
}): SessionIssuer {
  const accessToken: SessionIssuer['accessToken'] = ({ sessionId, user, amr, authTime }) =>
    parts.tokens.sign(
      {
        actor_type: 'user',
        sub: user.userId,
        sid: sessionId,
        ...(user.tenantId !== null && { org_id: user.tenantId }),
        amr: [...amr],
        auth_time: Math.floor(authTime.getTime() / 1000),
        jti: newId(),
      },
      parts.accessTokenSeconds,
    );

  return {
    accessTokenSeconds: parts.accessTokenSeconds,
    accessToken,
    async open(tx, ctx, user, how) {
      const now = parts.clock.now();
      const authTime = how.authTime && how.authTime < now ? how.authTime : now;
      const sessionId = await insertSession(tx, {
        userId: user.userId,
        tenantId: user.tenantId,
        authProvider: how.provider,
        amr: how.amr,
        acr: how.acr ?? null,
        authTime,
        ip: ctx.actorIp,
        userAgent: ctx.userAgent,
        now,
        expiresAt: new Date(now.getTime() + parts.lifetimes.absoluteSeconds * 1000),
      });
      const refreshToken = newRefreshToken();
      await insertRefreshToken(tx, { sessionId, hash: secretHash(refreshToken), parentId: null, now });
      return {
        accessToken: await accessToken({ sessionId, user, amr: how.amr, authTime }),
        refreshToken,
        principal: principalOf(user, { sessionId, amr: how.amr, authTime }),
      };
    },
    async answer(reader, user, tokens) {
      return {
        access_token: tokens.accessToken,
        expires_in_seconds: parts.accessTokenSeconds,
        refresh_token: tokens.refreshToken,
        account_type: user.tenantType === 'enterprise' ? 'enterprise' : 'personal',
        org_id: user.tenantId,
        user: await parts.views.withBalance(reader, user),
      };
    },
  };
}

/** A person as the principal of one of their sessions. */
export function principalOf(
  user: UserProfile,
  session: { readonly sessionId: SessionId; readonly amr: readonly string[]; readonly authTime: Date },
): UserPrincipal {
  const standing = platformStanding({
    role: user.role,
    source: user.platformRoleSource,
    bindings: user.platformRoles,
  });
  return {
    kind: 'user',
    userId: user.userId,
    username: user.username,
    sessionId: session.sessionId,
    tenantId: user.tenantId,
    tenantRole: user.tenantRole,
    capabilities: standing.capabilities,
    isSuperadmin: standing.isSuperadmin,
    authenticationMethods: session.amr,
    authenticatedAt: session.authTime,
  };
}
