import { LRUCache } from 'lru-cache';
import { Refusal } from '../spine/refusal.js';

/** Which allowance a request draws on; each has its own number in the policy registry. */
export type RateLimitClass = 'command' | 'read' | 'financial' | 'terminal_token' | 'sign_in' | 'none';

export interface RateLimitState {
  readonly limit: number;
  readonly remaining: number;
}

interface Bucket {
  tokens: number;
  refilledAt: number;
}

/** Principals whose buckets are remembered; the least recently seen starts over with a full one. */
const REMEMBERED_BUCKETS = 100_000;
const WINDOW_MILLISECONDS = 60_000;

/**
 * Token buckets, one per principal and class, refilled evenly over a minute. They hold per process: a site with n API
 * processes admits up to n times the number.
 */
export class RateLimiter {
  readonly #buckets = new LRUCache<string, Bucket>({ max: REMEMBERED_BUCKETS });

  /** Takes one token; refuses with 429 and Retry-After where there is none. `perMinute` is the bucket's size. */
  take(principal: string, limitClass: RateLimitClass, perMinute: number, now: number): RateLimitState {
    const key = `${limitClass} ${principal}`;
    const bucket = this.#buckets.get(key) ?? { tokens: perMinute, refilledAt: now };
    const elapsed = Math.max(0, now - bucket.refilledAt);
    bucket.tokens = Math.min(perMinute, bucket.tokens + (elapsed * perMinute) / WINDOW_MILLISECONDS);
    bucket.refilledAt = now;
    this.#buckets.set(key, bucket);
    if (bucket.tokens < 1) {
      throw new Refusal('rate_limit_exceeded', {
        message: `more than ${perMinute} requests in a minute`,
        details: { reason: `${limitClass}_requests_per_minute`, limit: perMinute },
        retryAfterSeconds: Math.max(1, Math.ceil(((1 - bucket.tokens) * WINDOW_MILLISECONDS) / perMinute / 1000)),
      });
    }
    bucket.tokens -= 1;
    return { limit: perMinute, remaining: Math.floor(bucket.tokens) };
  }
}
