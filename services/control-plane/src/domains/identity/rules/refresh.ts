import type { SessionState } from './session.js';

export interface RefreshTokenFacts {
  readonly usedAt: Date | null;
  /** whether the successor can still be read */
  readonly successorKept: boolean;
}

/** Two tabs may present one token at once; the later one gets what the first one got. */
export const REFRESH_GRACE_SECONDS = 10;

export type RefreshDecision =
  /** first use: issue a successor */
  | { readonly kind: 'rotate' }
  /** a racing tab: answer with the successor that exists */
  | { readonly kind: 'repeat' }
  /** an old token after the grace: somebody else has it, so the whole family ends */
  | { readonly kind: 'reused' }
  | { readonly kind: 'over'; readonly state: Exclude<SessionState, 'live'> };

/** What presenting a known refresh token means. A session that is over decides before everything else. */
export function decideRefresh(token: RefreshTokenFacts, session: SessionState, now: Date): RefreshDecision {
  if (session !== 'live') return { kind: 'over', state: session };
  if (token.usedAt === null) return { kind: 'rotate' };
  const age = now.getTime() - token.usedAt.getTime();
  if (age < REFRESH_GRACE_SECONDS * 1000 && token.successorKept) return { kind: 'repeat' };
  return { kind: 'reused' };
}
