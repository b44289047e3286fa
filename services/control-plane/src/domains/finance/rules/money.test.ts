import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decideAdjustment } from './adjustment.js';
import { decimalAmount, parseAmount } from './money.js';

describe('amounts of requests', () => {
  it('are whole numbers from 1 to 10^12, kept exactly', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_000_000_000_000 }), (amount) => {
        expect(parseAmount(amount)).toBe(BigInt(amount));
      }),
    );
  });

  it.each([0, -1, 0.5, 1e12 + 1, 2 ** 53, 1e300, Number.NaN, Number.POSITIVE_INFINITY])('are not %d', (amount) => {
    expect(parseAmount(amount)).toBeNull();
  });
});

describe('decimal amounts', () => {
  it('give the minor units back when the point is taken out', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: -(10n ** 15n), max: 10n ** 15n }),
        fc.constantFrom('USD', 'JPY', 'KWD'),
        (amount, currency) => {
          expect(BigInt(decimalAmount(amount, currency).replace('.', ''))).toBe(amount);
        },
      ),
    );
  });

  it.each([
    [1234n, 'USD', '12.34'],
    [-5n, 'EUR', '-0.05'],
    [0n, 'USD', '0.00'],
    [1234n, 'JPY', '1234'],
    [-1234n, 'KWD', '-1.234'],
    [7n, 'XQQ', '0.07'],
  ])('%d of %s is %s', (amount, currency, text) => {
    expect(decimalAmount(amount, currency)).toBe(text);
  });
});

describe('an adjustment', () => {
  it('never takes a wallet below zero', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 1_000n }), fc.bigInt({ min: -500n, max: 1_000n }), (amount, balance) => {
        expect(decideAdjustment('debit', amount, balance).allowed).toBe(balance - amount >= 0n);
        expect(decideAdjustment('credit', amount, balance)).toEqual({ allowed: true, kind: 'admin_credit' });
      }),
    );
  });
});
