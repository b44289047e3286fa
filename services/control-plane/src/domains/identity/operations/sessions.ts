import { audit } from '../../../spine/audit.js';
import type { Custody } from '../../../spine/custody.js';
import { command, type Exchange, exchange, type OperationHandlers, type Tx } from '../../../spine/operation.js';
import { inTransaction } from '../../../spine/transaction.js';
import { invalidToken } from '../crypto/access-tokens.js';
import { newRefreshToken, secretHash } from '../crypto/opaque-tokens.js';
import type { IdentityDependencies } from '../dependencies.js';
import { announce } from '../events.js';
import { decideRefresh } from '../rules/refresh.js';
import { type SessionLifetimes, sessionState } from '../rules/session.js';
import { type IssuedTokens, principalOf, REFRESH_SEAL, type SessionIssuer } from '../sign-in.js';
import {
  findSessionOfToken,
  insertRefreshToken,
  lockRefreshToken,
  type RefreshTokenRow,
  revokeSession,
  touchSession,
  useRefreshToken,
} from '../store/sessions.js';
import { getUserProfile, type UserProfile } from '../store/users.js';
import { userOf } from './caller.js';

export interface SessionParts extends Pick<IdentityDependencies, 'db' | 'clock' | 'custody'> {
  readonly sessions: SessionIssuer;
  readonly lifetimes: SessionLifetimes;
}

export function sessionOperations(parts: SessionParts): OperationHandlers {
  return { refreshToken: refresh(parts), logout: logout(parts) };
}

/**
 * 200: the next refresh token and a new access token. A token that was used before ends its whole session, and that
 * must be kept although the caller is refused: so the transaction commits first.
 */
function refresh(parts: SessionParts): Exchange<'refreshToken'> {
  const { db, clock, custody, sessions, lifetimes } = parts;
  return exchange<'refreshToken'>(async ({ body, ctx }) => {
    const outcome = await inTransaction(db, async (tx): Promise<{ user: UserProfile; tokens: IssuedTokens } | null> => {
      const token = await lockRefreshToken(tx, secretHash(body.refresh_token));
      if (!token) return null;
      const now = clock.now();
      const decision = decideRefresh(
        { usedAt: token.usedAt, successorKept: token.successorSealed !== null },
        sessionState(token.session, now, lifetimes),
        now,
      );
      if (decision.kind === 'over') return null;
      const user = await getUserProfile(tx, token.userId);
      const as = { ...ctx, principal: principalOf(user, token) };
      if (decision.kind === 'reused') {
        await revokeSession(tx, token.sessionId, 'refresh_reuse', now);
        await audit(tx, as, {
          action: 'auth.refresh.reuse_detected',
          targetType: 'session',
          targetId: token.sessionId,
          tenantId: user.tenantId,
          result: 'failure',
        });
        await announce(tx, as, 'identity.session.revoked', token.sessionId, {
          session_id: token.sessionId,
          user_id: token.userId,
          reason: 'refresh_reuse',
        });
        return null;
      }
      const refreshToken =
        decision.kind === 'repeat' && token.successorSealed !== null
          ? custody.openInline(REFRESH_SEAL, token.successorSealed)
          : await rotate(tx, custody, token, now);
      await touchSession(tx, token.sessionId, now);
      await audit(tx, as, {
        action: 'auth.refresh',
        targetType: 'session',
        targetId: token.sessionId,
        tenantId: user.tenantId,
      });
      const accessToken = await sessions.accessToken({ ...token, user });
      return { user, tokens: { accessToken, refreshToken } };
    });
    if (outcome === null) throw invalidToken();
    const { account_type: _accountType, ...answer } = await sessions.answer(db, outcome.user, outcome.tokens);
    return { status: 200, body: answer };
  });
}

async function rotate(tx: Tx, custody: Custody, token: RefreshTokenRow, now: Date): Promise<string> {
  const successor = newRefreshToken();
  await insertRefreshToken(tx, {
    sessionId: token.sessionId,
    hash: secretHash(successor),
    parentId: token.tokenId,
    now,
  });
  await useRefreshToken(tx, token.tokenId, custody.sealInline(REFRESH_SEAL, successor), now);
  return successor;
}

/** 200: this session ends, and the one of the refresh token where it is another of the caller's. */
function logout({ clock }: SessionParts) {
  return command<'logout'>(async ({ tx, ctx, body }) => {
    const user = userOf(ctx);
    const now = clock.now();
    const other = body?.refresh_token
      ? await findSessionOfToken(tx, secretHash(body.refresh_token), user.userId)
      : null;
    const ended: string[] = [];
    for (const sessionId of new Set([user.sessionId, ...(other === null ? [] : [other])])) {
      if (!(await revokeSession(tx, sessionId, 'logout', now))) continue;
      ended.push(sessionId);
      await announce(tx, ctx, 'identity.session.revoked', sessionId, {
        session_id: sessionId,
        user_id: user.userId,
        reason: 'logout',
      });
    }
    await audit(tx, ctx, {
      action: 'auth.logout',
      targetType: 'session',
      targetId: user.sessionId,
      metadata: { sessions_ended: ended.length },
    });
    return { status: 200, body: { ok: true } };
  });
}
