export type AdjustmentDecision =
  | { readonly allowed: true; readonly kind: 'admin_credit' | 'admin_debit' }
  | { readonly allowed: false; readonly balanceMinor: bigint };

/** An operator may give anything and take back no more than there is. */
export function decideAdjustment(
  direction: 'credit' | 'debit',
  amountMinor: bigint,
  balanceMinor: bigint,
): AdjustmentDecision {
  if (direction === 'credit') return { allowed: true, kind: 'admin_credit' };
  return amountMinor <= balanceMinor ? { allowed: true, kind: 'admin_debit' } : { allowed: false, balanceMinor };
}
