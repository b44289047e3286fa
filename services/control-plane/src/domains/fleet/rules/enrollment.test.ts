import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decideEnrollment, mayBootstrap, type TokenFacts } from './enrollment.js';

const start = Date.parse('2026-11-20T12:00:00Z');
const at = (seconds: number) => new Date(start + seconds * 1000);
const fresh: TokenFacts = { expiresAt: at(900), consumedAt: null, revokedAt: null, consumedByKey: null };

describe('an enrolment token', () => {
  it('enrols one key, however many race for it', () =>
    fc.assert(
      fc.property(
        fc.array(fc.record({ key: fc.constantFrom('a', 'b', 'c'), seconds: fc.integer({ min: 0, max: 2000 }) }), {
          maxLength: 20,
        }),
        (attempts) => {
          let token = fresh;
          const enrolled = new Set<string>();
          for (const { key, seconds } of [...attempts].sort((left, right) => left.seconds - right.seconds)) {
            const decision = decideEnrollment(token, key, at(seconds));
            if (decision.kind === 'repeat') expect(enrolled.has(key)).toBe(true);
            if (decision.kind !== 'enroll') continue;
            expect(seconds).toBeLessThan(900);
            enrolled.add(key);
            token = { ...token, consumedAt: at(seconds), consumedByKey: key };
          }
          expect(enrolled.size).toBeLessThanOrEqual(1);
        },
      ),
    ));

  it('answers the same key again for ten minutes, even beyond its own expiry', () => {
    const used = { ...fresh, consumedAt: at(890), consumedByKey: 'a' };
    expect(decideEnrollment(used, 'a', at(890 + 600)).kind).toBe('repeat');
    expect(decideEnrollment(used, 'a', at(890 + 601)).kind).toBe('refuse');
    expect(decideEnrollment(used, 'b', at(891)).kind).toBe('refuse');
  });

  it('is dead once expired or revoked', () => {
    expect(decideEnrollment(fresh, 'a', at(900)).kind).toBe('refuse');
    expect(decideEnrollment({ ...fresh, revokedAt: at(1) }, 'a', at(2)).kind).toBe('refuse');
  });
});

describe('a bootstrap token', () => {
  it('serves many fetches until it has enrolled, and reports until it expires', () => {
    const used = { ...fresh, consumedAt: at(10), consumedByKey: 'a' };
    expect(mayBootstrap(fresh, 'fetch', at(1))).toBe(true);
    expect(mayBootstrap(used, 'fetch', at(11))).toBe(false);
    expect(mayBootstrap(used, 'report', at(11))).toBe(true);
    expect(mayBootstrap(used, 'report', at(900))).toBe(false);
  });
});
