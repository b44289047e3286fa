import { ENROLLMENT_RETRY_SECONDS } from '@gpuaas/node-protocol';

/** Life of a token that an operator carries to a host by hand. */
export const ENROLLMENT_TOKEN_SECONDS = 15 * 60;
/** Life of a token that a first boot uses; installing takes its time. */
export const BOOTSTRAP_TOKEN_SECONDS = 60 * 60;

export interface TokenFacts {
  readonly expiresAt: Date;
  readonly consumedAt: Date | null;
  readonly revokedAt: Date | null;
  /** hash of the public key that used the token up */
  readonly consumedByKey: string | null;
}

export type EnrollmentDecision =
  | { readonly kind: 'enroll' }
  /** the same host asks again because it did not hear the answer */
  | { readonly kind: 'repeat' }
  /** unknown, expired, revoked and used up look alike to whoever holds the token */
  | { readonly kind: 'refuse' };

/** Whether a token still enrols a host whose public key has this hash. */
export function decideEnrollment(token: TokenFacts, keyHash: string, now: Date): EnrollmentDecision {
  if (token.consumedAt !== null) {
    const repeated =
      token.consumedByKey === keyHash && now.getTime() - token.consumedAt.getTime() <= ENROLLMENT_RETRY_SECONDS * 1000;
    return { kind: repeated ? 'repeat' : 'refuse' };
  }
  return { kind: token.revokedAt === null && token.expiresAt > now ? 'enroll' : 'refuse' };
}

/** What a first boot does with its token: fetching ends with the enrolment, reporting only with time. */
export type BootstrapUse = 'fetch' | 'report';

export function mayBootstrap(token: TokenFacts, use: BootstrapUse, now: Date): boolean {
  if (token.expiresAt <= now || token.revokedAt !== null) return false;
  return use === 'report' || token.consumedAt === null;
}
