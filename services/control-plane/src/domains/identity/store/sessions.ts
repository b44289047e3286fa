import { asId, newId, type SessionId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';

export type SessionEnd = 'logout' | 'refresh_reuse' | 'rehome' | 'tenant_removal' | 'user_revoked' | 'password_reset';

export interface NewSession {
  readonly userId: UserId;
  readonly tenantId: string | null;
  readonly authProvider: string;
  readonly amr: readonly string[];
  /** the assurance that an outside provider claims; absent where nobody does */
  readonly acr?: string | null;
  /** when the person last proved who they are; default: now */
  readonly authTime?: Date;
  readonly ip: string | null;
  readonly userAgent: string | null;
  readonly now: Date;
  readonly expiresAt: Date;
}

export async function insertSession(tx: Tx, session: NewSession): Promise<SessionId> {
  const id = newId<'session'>();
  await tx
    .insertInto('sessions')
    .values({
      id,
      user_id: session.userId,
      tenant_id: session.tenantId,
      auth_provider: session.authProvider,
      amr: [...session.amr],
      acr: session.acr ?? null,
      auth_time: session.authTime ?? session.now,
      ip: session.ip,
      user_agent: session.userAgent,
      created_at: session.now,
      last_seen_at: session.now,
      expires_at: session.expiresAt,
    })
    .execute();
  return id;
}

/** Ends a session that is not ended yet; false where it was. */
export async function revokeSession(tx: Tx, sessionId: string, reason: SessionEnd, now: Date): Promise<boolean> {
  const result = await tx
    .updateTable('sessions')
    .set({ revoked_at: now, revoke_reason: reason })
    .where('id', '=', sessionId)
    .where('revoked_at', 'is', null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Ends every session of a user; the ids of those that ended now. The caller holds the user's row. */
export async function revokeSessionsOfUser(
  tx: Tx,
  userId: string,
  reason: SessionEnd,
  now: Date,
): Promise<readonly SessionId[]> {
  const rows = await tx
    .updateTable('sessions')
    .set({ revoked_at: now, revoke_reason: reason })
    .where('user_id', '=', userId)
    .where('revoked_at', 'is', null)
    .returning('id')
    .execute();
  return rows.map((row) => asId(row.id));
}

/** Notes that sessions were used. Never moves the time back: two processes may write in either order. */
export async function recordPresence(db: Reader, sessionIds: readonly string[], now: Date): Promise<void> {
  if (sessionIds.length === 0) return;
  await db
    .updateTable('sessions')
    .set({ last_seen_at: now })
    // one order for all processes, so that two batches never wait for each other in a circle
    .where('id', 'in', (query) =>
      query
        .selectFrom('sessions')
        .select('id')
        .where('id', 'in', [...sessionIds])
        .where('last_seen_at', '<', now)
        .where('revoked_at', 'is', null)
        .orderBy('id')
        .forUpdate()
        .skipLocked(),
    )
    .execute();
}

export interface RefreshTokenRow {
  readonly tokenId: string;
  readonly usedAt: Date | null;
  readonly successorSealed: string | null;
  readonly sessionId: SessionId;
  readonly userId: UserId;
  readonly authTime: Date;
  readonly amr: readonly string[];
  readonly session: { readonly revokedAt: Date | null; readonly lastSeenAt: Date; readonly expiresAt: Date };
}

/** Locks the session of a refresh token and the token until commit, in this order everywhere. */
export async function lockRefreshToken(tx: Tx, tokenHash: Uint8Array): Promise<RefreshTokenRow | undefined> {
  const found = await tx
    .selectFrom('refresh_tokens')
    .select(['id', 'session_id'])
    .where('token_hash', '=', Buffer.from(tokenHash))
    .executeTakeFirst();
  if (!found) return undefined;
  const session = await tx
    .selectFrom('sessions')
    .select(['id', 'user_id', 'auth_time', 'amr', 'revoked_at', 'last_seen_at', 'expires_at'])
    .where('id', '=', found.session_id)
    .forUpdate()
    .executeTakeFirstOrThrow();
  // read after the lock: a rotation that we waited for has changed it
  const token = await tx
    .selectFrom('refresh_tokens')
    .select(['used_at', 'successor_sealed'])
    .where('id', '=', found.id)
    .executeTakeFirstOrThrow();
  return {
    tokenId: found.id,
    usedAt: token.used_at,
    successorSealed: token.successor_sealed,
    sessionId: asId(session.id),
    userId: asId(session.user_id),
    authTime: session.auth_time,
    amr: session.amr,
    session: { revokedAt: session.revoked_at, lastSeenAt: session.last_seen_at, expiresAt: session.expires_at },
  };
}

export async function insertRefreshToken(
  tx: Tx,
  token: { sessionId: string; hash: Uint8Array; parentId: string | null; now: Date },
): Promise<void> {
  await tx
    .insertInto('refresh_tokens')
    .values({
      id: newId(),
      session_id: token.sessionId,
      token_hash: Buffer.from(token.hash),
      parent_id: token.parentId,
      issued_at: token.now,
    })
    .execute();
}

/** Marks a token as used and keeps its successor, sealed, for the grace. The caller holds the session's row. */
export async function useRefreshToken(tx: Tx, tokenId: string, successorSealed: string, now: Date): Promise<void> {
  const result = await tx
    .updateTable('refresh_tokens')
    .set({ used_at: now, successor_sealed: successorSealed })
    .where('id', '=', tokenId)
    .where('used_at', 'is', null)
    .executeTakeFirst();
  if (result.numUpdatedRows !== 1n) throw new Error('a refresh token was rotated twice under its session lock');
}

export async function touchSession(tx: Tx, sessionId: string, now: Date): Promise<void> {
  await tx
    .updateTable('sessions')
    .set((eb) => ({ last_seen_at: eb.fn('greatest', ['last_seen_at', eb.val(now)]) }))
    .where('id', '=', sessionId)
    .execute();
}

/** The session that a refresh token belongs to, if it is the user's. */
export async function findSessionOfToken(tx: Tx, tokenHash: Uint8Array, userId: string): Promise<string | null> {
  const row = await tx
    .selectFrom('refresh_tokens')
    .innerJoin('sessions', 'sessions.id', 'refresh_tokens.session_id')
    .select('sessions.id')
    .where('refresh_tokens.token_hash', '=', Buffer.from(tokenHash))
    .where('sessions.user_id', '=', userId)
    .executeTakeFirst();
  return row?.id ?? null;
}

export interface SweepTimes {
  /** successors of tokens that were used before are forgotten */
  readonly successorsBefore: Date;
  /** refresh tokens that were issued before belong to sessions that are over */
  readonly tokensBefore: Date;
  readonly now: Date;
}

const DAY_MILLISECONDS = 24 * 3_600_000;
/** How long a session stays in lists and investigations after it ended. */
const SESSION_HISTORY_DAYS = 180;

/** Removes what no decision can need any more; bounded, so that one run never holds locks for long. */
export async function sweepCredentials(db: Reader, times: SweepTimes): Promise<void> {
  const daysAgo = (days: number) => new Date(times.now.getTime() - days * DAY_MILLISECONDS);
  await db
    .updateTable('refresh_tokens')
    .set({ successor_sealed: null })
    .where('successor_sealed', 'is not', null)
    .where('used_at', '<', times.successorsBefore)
    .execute();
  await sql`DELETE FROM machine_tokens WHERE jti IN (
    SELECT jti FROM machine_tokens WHERE expires_at < ${daysAgo(1)} LIMIT 10000)`.execute(db);
  await sql`DELETE FROM authentication_attempts WHERE window_start < ${daysAgo(2)}`.execute(db);
  await sql`DELETE FROM denial_marks WHERE minute < ${daysAgo(1)}`.execute(db);
  await sql`DELETE FROM refresh_tokens WHERE id IN (
    SELECT id FROM refresh_tokens WHERE issued_at < ${times.tokensBefore} ORDER BY issued_at LIMIT 10000)`.execute(db);
  await sql`DELETE FROM sessions WHERE id IN (
    SELECT s.id FROM sessions s WHERE s.expires_at < ${daysAgo(SESSION_HISTORY_DAYS)}
      AND NOT EXISTS (SELECT FROM refresh_tokens r WHERE r.session_id = s.id)
    ORDER BY s.expires_at LIMIT 10000)`.execute(db);
}
