import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { REDACTED, redact, redactText } from './redactor.js';

describe('redactor', () => {
  it('replaces the value under every key that names a secret, at any depth', () => {
    const keys = fc.constantFrom(
      'password',
      'client_secret',
      'Authorization',
      'private_key',
      'apiKey',
      'credential_data',
      'access_token',
    );
    fc.assert(
      fc.property(keys, fc.string({ minLength: 1 }), fc.integer({ min: 0, max: 8 }), (key, secret, depth) => {
        let value: unknown = { [key]: `~${secret}~` };
        for (let level = 0; level < depth; level += 1) value = { inner: [value] };
        expect(JSON.stringify(redact(value))).not.toContain(JSON.stringify(`~${secret}~`));
      }),
    );
  });

  it('keeps facts as they are', () => {
    const facts = {
      node_id: 'a',
      count: 3,
      token_type: true,
      digest: `sha256:${'a'.repeat(64)}`,
      nested: [null, { ok: false }],
    };
    expect(redact(facts)).toEqual(facts);
  });

  it('finds secrets inside text: bearer headers, JSON web tokens, credentials in URLs, private keys', () => {
    expect(redactText('Authorization: Bearer abcdefghij1234')).not.toContain('abcdefghij1234');
    expect(redactText('t=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl')).toBe(`t=${REDACTED}`);
    expect(redactText('postgres://app:hunter22@db/x')).toBe(`postgres://${REDACTED}@db/x`);
    expect(redactText('-----BEGIN PRIVATE KEY-----\nMIGH')).toBe(REDACTED);
  });
});
