import { createHash, randomBytes } from 'node:crypto';

/** A refresh token: 256 random bits, recognisable by its prefix to those who scan for leaked secrets. */
export function newRefreshToken(): string {
  return `gpr_${randomBytes(32).toString('base64url')}`;
}

/** The secret of a service account's key. */
export function newClientSecret(): string {
  return `gps_${randomBytes(32).toString('base64url')}`;
}

/** The public half of a service account's key. */
export function newKeyId(): string {
  return `gpk_${randomBytes(12).toString('base64url')}`;
}

/** What is stored of a random secret: there is nothing to guess, so a fast hash is enough. */
export function secretHash(secret: string): Buffer {
  return createHash('sha256').update(secret, 'utf8').digest();
}
