import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { posixNameCandidate } from './posix-name.js';
import { deriveSlug, firstFreeSlug, slugStem } from './slug.js';
import { decideUsername, normaliseUsername } from './username.js';

const SLUG = /^[a-z0-9][a-z0-9-]{1,62}$/;

describe('decideUsername', () => {
  it('takes two spellings of one name for one user', () => {
    expect(decideUsername('  Ann ')).toMatchObject({ ok: true, username: 'Ann', normalised: 'ann' });
    expect(normaliseUsername('ＡＮＮ')).toBe('ann');
    expect(normaliseUsername('Ann')).toBe(normaliseUsername('ann '));
  });

  it('takes an address for an unverified e-mail and nothing else for one', () => {
    expect(decideUsername('Ann@Acme.example')).toMatchObject({ ok: true, email: 'ann@acme.example' });
    for (const name of ['ann', 'ann@', '@acme.example', 'ann@localhost', 'ann@-acme.example']) {
      expect(decideUsername(name)).toMatchObject({ ok: true, email: null });
    }
  });

  it.each(['', '   ', 'a b', 'a\u200bb', 'a\u202eb', 'a\u0000b', 'x'.repeat(255)])('refuses %j', (name) => {
    expect(decideUsername(name).ok).toBe(false);
  });

  it('normalises to a fixed point', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (name) => {
        const once = decideUsername(name);
        if (once.ok) expect(normaliseUsername(once.normalised)).toBe(once.normalised);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('deriveSlug', () => {
  it('keeps letters and digits of a name', () => {
    expect(deriveSlug('Café & Bar  No. 7', 'project')).toBe('cafe-bar-no-7');
    expect(deriveSlug('日本', 'project')).toBe('project');
    expect(deriveSlug('x', 'project')).toBe('x-project');
  });

  it('always gives a slug, also behind many taken ones', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.nat({ max: 30 }), (name, count) => {
        const base = deriveSlug(name, 'project');
        expect(base).toMatch(SLUG);
        const taken = new Set<string>();
        for (let index = 0; index <= count; index += 1) {
          const slug = firstFreeSlug(base, taken);
          expect(slug).toMatch(SLUG);
          expect(slug.startsWith(slugStem(base))).toBe(true);
          expect(taken.has(slug)).toBe(false);
          taken.add(slug);
        }
      }),
    );
  });
});

describe('posixNameCandidate', () => {
  it('cannot name an account that a host has already', () => {
    expect(posixNameCandidate('root', 1)).toBe('u-root');
    expect(posixNameCandidate('Ann.Lee@acme.example', 2)).toBe('u-ann-lee-2');
    expect(posixNameCandidate('-日本-', 1)).toBe('u-user');
  });

  it('is always safe for useradd and differs between attempts', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 1, max: 99_999 }), (name, attempt) => {
        const candidate = posixNameCandidate(name, attempt);
        expect(candidate).toMatch(/^u-[a-z0-9_-]{1,29}$/);
        expect(candidate).not.toMatch(/-$/);
        expect(posixNameCandidate(name, attempt + 1)).not.toBe(candidate);
      }),
    );
  });
});
