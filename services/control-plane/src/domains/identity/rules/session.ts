export interface SessionFacts {
  readonly revokedAt: Date | null;
  readonly lastSeenAt: Date;
  /** absolute end */
  readonly expiresAt: Date;
}

export interface SessionLifetimes {
  readonly idleSeconds: number;
  readonly absoluteSeconds: number;
}

export const DEFAULT_SESSION_LIFETIMES: SessionLifetimes = {
  idleSeconds: 24 * 3600,
  absoluteSeconds: 14 * 24 * 3600,
};

export type SessionState = 'live' | 'idle_expired' | 'expired' | 'revoked';

/** Where a session stands at `now`. The ends are exclusive: at its last instant it is over. */
export function sessionState(session: SessionFacts, now: Date, lifetimes: SessionLifetimes): SessionState {
  if (session.revokedAt !== null) return 'revoked';
  if (now.getTime() >= session.expiresAt.getTime()) return 'expired';
  if (now.getTime() >= session.lastSeenAt.getTime() + lifetimes.idleSeconds * 1000) return 'idle_expired';
  return 'live';
}

/** Presence is recorded at most this often: a write a request would cost more than the request. */
export const PRESENCE_INTERVAL_MILLISECONDS = 60_000;

export function presenceIsDue(lastSeenAt: Date, now: Date): boolean {
  return now.getTime() - lastSeenAt.getTime() >= PRESENCE_INTERVAL_MILLISECONDS;
}
