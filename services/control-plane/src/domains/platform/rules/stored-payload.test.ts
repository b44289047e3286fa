import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { shownPayload } from './stored-payload.js';

const SECRET = 'hunter2-hunter2';
const secretKey = fc.constantFrom(
  'password',
  'api_key',
  'clientSecret',
  'authorization',
  'private_key',
  'access-key',
  'token',
  'x_token',
);
const carriers = fc.oneof(
  secretKey.map((key) => ({ [key]: SECRET })),
  fc.constant(`Bearer ${SECRET}`),
  fc.constant(`https://user:${SECRET}@host/path`),
  fc.constant(`-----BEGIN EC PRIVATE KEY-----\n${SECRET}\n-----END EC PRIVATE KEY-----`),
);
/** Anything JSON, with a secret somewhere inside. */
const withSecret = fc.letrec<{ node: unknown }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 5 },
    carriers,
    fc.tuple(fc.jsonValue(), tie('node')).map((pair) => pair),
    fc.tuple(fc.string(), tie('node'), fc.jsonValue()).map(([key, inner, other]) => ({ other, [key]: inner })),
  ),
})).node;

describe('a stored payload as it is shown', () => {
  it('never holds a recognisable secret, wherever it was', () => {
    fc.assert(
      fc.property(withSecret, (payload) => {
        expect(JSON.stringify(shownPayload(payload))).not.toContain(SECRET);
      }),
    );
  });

  it('is always an object, and the same one where there is nothing to hide', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (payload) => {
        const shown = shownPayload(payload);
        expect(Object.prototype.toString.call(shown)).toBe('[object Object]');
      }),
    );
    const plain = { allocation_id: 'a', count: 3, nested: { at: '2026-01-01T00:00:00Z', list: [1, null, true] } };
    expect(shownPayload(plain)).toEqual(plain);
  });
});
