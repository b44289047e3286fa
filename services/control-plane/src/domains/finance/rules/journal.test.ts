import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type WalletEntryKind, walletEntry, walletMovements } from './journal.js';

const KINDS: readonly WalletEntryKind[] = [
  'payment_credit',
  'usage_charge',
  'usage_reversal',
  'tax_charge',
  'admin_credit',
  'admin_debit',
  'refund_debit',
  'refund_reversal',
  'refund_credit',
  'chargeback_debit',
  'chargeback_reversal',
];
const INTO_THE_WALLET: readonly WalletEntryKind[] = [
  'usage_reversal',
  'payment_credit',
  'admin_credit',
  'refund_reversal',
  'refund_credit',
  'chargeback_reversal',
];

const entry = fc
  .record({
    kind: fc.constantFrom(...KINDS),
    wallet: fc.record({
      tenantId: fc.constantFrom('t1', 't2'),
      userId: fc.constantFrom('u1', 'u2', 'u3'),
      currency: fc.constantFrom('EUR', 'USD'),
    }),
    amountMinor: fc.bigInt({ min: 1n, max: 1_000_000_000_000n }),
  })
  .map((facts) => ({ ...facts, idempotencyKey: 'k', referenceType: 'test', referenceId: 'r' }));

describe('journal entries', () => {
  it('balance in one currency, whatever the kind, with the wallet moving as the kind says', () => {
    fc.assert(
      fc.property(entry, (facts) => {
        const { postings, currency } = walletEntry(facts);
        expect(postings.reduce((sum, posting) => sum + posting.amountMinor, 0n)).toBe(0n);
        expect(currency).toBe(facts.wallet.currency);
        expect(postings.map((posting) => posting.wallet)).toEqual([facts.wallet, null]);
        expect(postings[0].amountMinor > 0n).toBe(INTO_THE_WALLET.includes(facts.kind));
      }),
    );
  });

  it('never post nothing', () => {
    const facts = { kind: 'usage_charge', wallet: { tenantId: 't', userId: 'u', currency: 'USD' } } as const;
    const rest = { idempotencyKey: 'k', referenceType: 'test', referenceId: 'r' };
    expect(() => walletEntry({ ...facts, ...rest, amountMinor: 0n })).toThrow(RangeError);
    expect(() => walletEntry({ ...facts, ...rest, amountMinor: -5n })).toThrow(RangeError);
  });

  it('move each wallet once, in one order, by the sum of its postings', () => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 30 }), (facts) => {
        const entries = facts.map(walletEntry);
        const movements = walletMovements(entries);
        const keys = movements.map((movement) => `${movement.tenantId}:${movement.userId}:${movement.currency}`);
        expect(keys).toEqual([...new Set(keys)].sort());
        expect(walletMovements([...entries].reverse())).toEqual(movements);
        const posted = entries.reduce((sum, { postings }) => sum + postings[0].amountMinor, 0n);
        expect(movements.reduce((sum, movement) => sum + movement.amountMinor, 0n)).toBe(posted);
      }),
    );
  });
});
