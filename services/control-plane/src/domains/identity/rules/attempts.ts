import { createHash } from 'node:crypto';

export interface AttemptLimits {
  /** failed sign-ins of one name within the window, from anywhere */
  readonly perUsername: number;
  /** failed sign-ins from one address within the window */
  readonly perAddress: number;
  readonly windowSeconds: number;
  /** new accounts from one address within the sign-up window */
  readonly signupsPerAddress: number;
  readonly signupWindowSeconds: number;
}

export const DEFAULT_ATTEMPT_LIMITS: AttemptLimits = {
  perUsername: 20,
  perAddress: 100,
  windowSeconds: 900,
  signupsPerAddress: 50,
  signupWindowSeconds: 3600,
};

/** What people type as a name may be a password, so only its hash is stored. */
export function usernameBucket(normalisedUsername: string): string {
  return createHash('sha256').update(normalisedUsername).digest('hex');
}
