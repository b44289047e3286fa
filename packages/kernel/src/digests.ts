import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { canonicalJson } from './canonical-json.js';

/** SHA-256 in lower-case hex. */
export function sha256Hex(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** SHA-256 of the canonical form of a JSON value, in hex: equal for values that differ only in key order. */
export function canonicalHash(value: unknown): string {
  return sha256Hex(canonicalJson(value));
}

export function hmacSha256(key: Uint8Array, data: string | Uint8Array): Buffer {
  return createHmac('sha256', key).update(data).digest();
}

/** Compares in constant time; unequal lengths are simply unequal. */
export function equalBytes(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && timingSafeEqual(left, right);
}

/** An unguessable token of 256 bits in base64url, for one-time secrets that are stored only as a hash. */
export function newSecretToken(): string {
  return randomBytes(32).toString('base64url');
}
