export type LedgerAccount =
  | 'wallet'
  | 'revenue:usage'
  | 'credits_granted'
  | 'tax_payable'
  | 'clearing:stripe'
  | 'refunds_in_flight'
  | 'suspense';

/** Entries that move a wallet. */
export type WalletEntryKind =
  | 'payment_credit'
  | 'usage_charge'
  | 'usage_reversal'
  | 'tax_charge'
  | 'admin_credit'
  | 'admin_debit'
  | 'refund_debit'
  | 'refund_reversal'
  | 'refund_credit'
  | 'chargeback_debit'
  | 'chargeback_reversal';

export interface Wallet {
  readonly tenantId: string;
  readonly userId: string;
  readonly currency: string;
}

export interface Posting {
  readonly account: LedgerAccount;
  /** present on the wallet's side only */
  readonly wallet: Wallet | null;
  readonly projectId: string | null;
  /** never zero; + is more for the holder of the account */
  readonly amountMinor: bigint;
}

export interface JournalEntry {
  readonly kind: WalletEntryKind;
  /** one business fact, one entry: a second with the same key is refused by the database */
  readonly idempotencyKey: string;
  readonly currency: string;
  readonly referenceType: string;
  readonly referenceId: string;
  /** the wallet's side first */
  readonly postings: readonly [Posting, Posting];
}

/** Which way the wallet moves, and the account on the other side. */
const CHART: Record<WalletEntryKind, { readonly wallet: '+' | '-'; readonly contra: LedgerAccount }> = {
  payment_credit: { wallet: '+', contra: 'clearing:stripe' },
  usage_charge: { wallet: '-', contra: 'revenue:usage' },
  usage_reversal: { wallet: '+', contra: 'revenue:usage' },
  tax_charge: { wallet: '-', contra: 'tax_payable' },
  admin_credit: { wallet: '+', contra: 'credits_granted' },
  admin_debit: { wallet: '-', contra: 'credits_granted' },
  refund_debit: { wallet: '-', contra: 'refunds_in_flight' },
  refund_reversal: { wallet: '+', contra: 'refunds_in_flight' },
  refund_credit: { wallet: '+', contra: 'credits_granted' },
  chargeback_debit: { wallet: '-', contra: 'clearing:stripe' },
  chargeback_reversal: { wallet: '+', contra: 'clearing:stripe' },
};

/**
 * The two-sided entry that moves `amountMinor` into or out of a wallet; the kind knows the direction and the other side.
 * Throws a RangeError for an amount that is not positive: nothing is posted for nothing.
 */
export function walletEntry(facts: {
  readonly kind: WalletEntryKind;
  readonly wallet: Wallet;
  readonly projectId?: string | null;
  readonly amountMinor: bigint;
  readonly idempotencyKey: string;
  readonly referenceType: string;
  readonly referenceId: string;
}): JournalEntry {
  if (facts.amountMinor <= 0n) throw new RangeError(`${facts.kind} of ${facts.amountMinor}`);
  const { wallet, contra } = CHART[facts.kind];
  const amountMinor = wallet === '+' ? facts.amountMinor : -facts.amountMinor;
  return {
    kind: facts.kind,
    idempotencyKey: facts.idempotencyKey,
    currency: facts.wallet.currency,
    referenceType: facts.referenceType,
    referenceId: facts.referenceId,
    postings: [
      { account: 'wallet', wallet: facts.wallet, projectId: facts.projectId ?? null, amountMinor },
      { account: contra, wallet: null, projectId: null, amountMinor: -amountMinor },
    ],
  };
}

/** By how much each wallet moves through these entries; one row a wallet, ordered so that all lock them alike. */
export function walletMovements(entries: readonly JournalEntry[]): readonly (Wallet & { amountMinor: bigint })[] {
  const sums = new Map<string, Wallet & { amountMinor: bigint }>();
  for (const { wallet, amountMinor } of entries.flatMap((entry) => entry.postings)) {
    if (wallet === null) continue;
    const key = walletKey(wallet);
    sums.set(key, { ...wallet, amountMinor: (sums.get(key)?.amountMinor ?? 0n) + amountMinor });
  }
  return [...sums.entries()].sort(([left], [right]) => (left < right ? -1 : 1)).map(([, movement]) => movement);
}

/** One text a wallet; sorts as the database sorts (tenant, user, currency). */
export function walletKey(wallet: Wallet): string {
  return `${wallet.tenantId}:${wallet.userId}:${wallet.currency}`;
}
