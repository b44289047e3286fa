import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Refusal } from '../spine/refusal.js';
import { RateLimiter } from './rate-limit.js';

/** How many of `attempts`, one every `everyMilliseconds`, are let through. */
function admitted(limiter: RateLimiter, perMinute: number, attempts: number, everyMilliseconds: number): number {
  let count = 0;
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    try {
      limiter.take('user:a', 'command', perMinute, attempt * everyMilliseconds);
      count += 1;
    } catch (error) {
      expect(error).toBeInstanceOf(Refusal);
    }
  }
  return count;
}

describe('rate limiter', () => {
  it('lets a burst of the whole allowance through and no more', () => {
    expect(admitted(new RateLimiter(), 120, 500, 0)).toBe(120);
  });

  it('never admits more than the allowance plus what a minute refills', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 2000 }), (perMinute, every) => {
        const attempts = 300;
        const minutes = (attempts * every) / 60_000;
        expect(admitted(new RateLimiter(), perMinute, attempts, every)).toBeLessThanOrEqual(
          perMinute + perMinute * minutes + 1,
        );
      }),
    );
  });

  it('says when to come back, and keeps principals and classes apart', () => {
    const limiter = new RateLimiter();
    limiter.take('user:a', 'terminal_token', 1, 0);
    expect(() => limiter.take('user:a', 'terminal_token', 1, 0)).toThrow(
      expect.objectContaining({ status: 429, retryAfterSeconds: 60 }),
    );
    expect(limiter.take('user:b', 'terminal_token', 1, 0).remaining).toBe(0);
    expect(limiter.take('user:a', 'command', 2, 0).remaining).toBe(1);
  });

  it('does not lock a principal out when the clock steps back', () => {
    const limiter = new RateLimiter();
    limiter.take('user:a', 'command', 1, 1_000_000);
    expect(() => limiter.take('user:a', 'command', 1, 0)).toThrow(Refusal);
    expect(limiter.take('user:a', 'command', 1, 60_000).remaining).toBe(0);
  });
});
