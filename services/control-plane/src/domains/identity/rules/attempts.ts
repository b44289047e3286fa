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

/**
 * Where attempts of an address are counted: an IPv4 address by itself, an IPv6 one by its /64, which is what one
 * customer of a network gets.
 */
export function addressBucket(address: string | null): string {
  if (address === null) return 'unknown';
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1]) return mapped[1];
  if (!address.includes(':')) return address;
  const [head = '', tail] = (address.split('%')[0] ?? '').toLowerCase().split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros =
    tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0');
  return `${[...left, ...zeros, ...right]
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ''))
    .join(':')}::/64`;
}

/** What people type as a name may be a password, so only its hash is stored. */
export function usernameBucket(normalisedUsername: string): string {
  return createHash('sha256').update(normalisedUsername).digest('hex');
}
