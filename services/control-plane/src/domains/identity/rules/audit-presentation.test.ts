import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { wordAudit } from './audit-presentation.js';

const facts = {
  actorName: 'ann',
  targetType: 'ssh_key',
  targetId: 'key-1',
  result: 'success',
  metadata: { name: 'laptop', fingerprint: 'SHA256:x', internal_note: 'not for everyone' },
} as const;

describe('wordAudit', () => {
  it('reads as a sentence, with the safe facts and no others', () => {
    expect(wordAudit({ ...facts, action: 'ssh_key.revoke' })).toMatchObject({
      summary: 'ann revoked ssh key laptop',
      category: 'Access',
      family: 'ssh_key',
      severity: 'warning',
      safeDetails: { name: 'laptop', fingerprint: 'SHA256:x' },
    });
    expect(wordAudit({ ...facts, action: 'ssh_key.revoke' }).safeDetails).not.toHaveProperty('internal_note');
  });

  it('says of a failure that it was one', () => {
    const wording = wordAudit({ ...facts, action: 'auth.login', result: 'failure' });
    expect(wording).toMatchObject({ resultLabel: 'Failed', severity: 'warning' });
    expect(wording.summary).toContain('failed');
  });

  it('shows no fact of an action that nobody has judged, and still has words for it', () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1 }),
        fc.constantFrom('success' as const, 'failure' as const),
        (name, result) => {
          const wording = wordAudit({ ...facts, action: `unjudged.${name}`, result });
          expect(wording.safeDetails).toEqual({});
          expect(wording.category).toBe('Platform');
          expect(wording.summary).toContain('ann');
          expect(wording.summary).not.toContain('not for everyone');
        },
      ),
    );
    expect(wordAudit({ ...facts, action: 'constructor' }).category).toBe('Platform');
  });
});
