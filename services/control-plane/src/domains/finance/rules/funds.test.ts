import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { availableFunds, decideFunds } from './funds.js';

const amount = fc.bigInt({ min: 0n, max: 1_000_000_000_000n });
const funds = fc.record({
  balanceMinor: fc.bigInt({ min: -1_000_000_000n, max: 1_000_000_000_000n }),
  creditLimitMinor: amount,
  unratedMinor: amount,
  heldMinor: amount,
});

describe('funds', () => {
  it('are enough exactly when one hour fits into what nobody else has claimed', () => {
    fc.assert(
      fc.property(funds, fc.bigInt({ min: 1n, max: 1_000_000_000n }), (wallet, hourly) => {
        const left = { ...wallet, heldMinor: wallet.heldMinor + hourly };
        expect(decideFunds(wallet, hourly).enough).toBe(availableFunds(left) >= 0n);
      }),
    );
  });

  it('are enough for what costs nothing, even when overdrawn', () => {
    const overdrawn = { balanceMinor: -5n, creditLimitMinor: 0n, unratedMinor: 3n, heldMinor: 0n };
    expect(decideFunds(overdrawn, 0n)).toEqual({ enough: true, availableMinor: -8n });
    expect(decideFunds(overdrawn, 1n)).toEqual({ enough: false, availableMinor: -8n, requiredMinor: 1n });
  });
});
