import type { CallContext, Tx } from '../../spine/operation.js';
import { publish } from '../../spine/outbox.js';
import { walletEntry, walletMovements } from './rules/journal.js';
import { overcharged, type RatedWindow } from './rules/rating.js';
import { dropHolds } from './store/holds.js';
import { postEntries } from './store/journal.js';
import { insertRatedLines, type MeteredUsage, saveUsageProgress } from './store/usage.js';

/** What a rating of one locked record found. */
export interface Rating {
  readonly usage: MeteredUsage;
  readonly windows: readonly RatedWindow[];
  /** null keeps the record open */
  readonly endTime: Date | null;
  /** when the rater looks again; null when nothing is left */
  readonly nextRateAt: Date | null;
}

/**
 * Charges rated windows in the caller's transaction: journal, wallets, lines, the records' progress, holds, event.
 * The caller holds the records' locks; the wallets are locked here, after them. A first charged window ends the hold
 * of its allocation: from then on the balance itself shows what runs.
 */
export async function chargeRatings(tx: Tx, ctx: CallContext, ratings: readonly Rating[]): Promise<void> {
  const windows = ratings.flatMap(({ usage, windows }) => windows.map((window) => ({ usage, window })));
  const entries = windows
    .filter(({ window }) => window.amountMinor > 0n)
    .map(({ usage, window }) =>
      walletEntry({
        kind: 'usage_charge',
        wallet: { tenantId: usage.tenantId, userId: usage.userId, currency: usage.currency },
        projectId: usage.projectId,
        amountMinor: window.amountMinor,
        idempotencyKey: `usage:${window.ratingKey}`,
        referenceType: 'usage_record',
        referenceId: usage.id,
      }),
    );
  const posted = await postEntries(tx, ctx, entries);
  await insertRatedLines(
    tx,
    windows.map(({ usage, window }) => ({
      ...window,
      usage,
      ledgerEntryId: posted.get(`usage:${window.ratingKey}`) ?? null,
    })),
    ctx.clock.now(),
  );
  await saveUsageProgress(
    tx,
    ratings.map(({ usage, windows, endTime, nextRateAt }) => ({
      id: usage.id,
      lastBilledAt: windows.at(-1)?.to ?? usage.lastBilledAt,
      addedMinor: windows.reduce((sum, window) => sum + window.amountMinor, 0n),
      endTime,
      nextRateAt,
    })),
  );
  await dropHolds(
    tx,
    ratings.flatMap(({ usage, windows, endTime }) =>
      usage.allocationId !== null && (windows.length > 0 || endTime !== null) ? [usage.allocationId] : [],
    ),
  );
  if (entries.length === 0) return;
  await publish(tx, ctx, {
    type: 'platform.billing.usage.rated',
    // One event a transaction, not one a wallet: its wallets are rated together or not at all.
    aggregateType: 'usage_rating',
    aggregateId: windows[0]?.window.ratingKey ?? ctx.correlationId,
    payload: {
      line_count: windows.length,
      wallets: walletMovements(entries).map((movement) => ({
        tenant_id: movement.tenantId,
        user_id: movement.userId,
        currency: movement.currency,
        charged_minor: (-movement.amountMinor).toString(),
      })),
    },
  });
}

/**
 * Gives back what a locked record was charged for the time after `servedUntil`. Lines are never edited: the wallet gets
 * an entry of its own, once a record.
 */
export async function reverseCharges(tx: Tx, ctx: CallContext, usage: MeteredUsage, servedUntil: Date): Promise<void> {
  const amountMinor = overcharged(usage, servedUntil);
  if (amountMinor <= 0n) return;
  const wallet = { tenantId: usage.tenantId, userId: usage.userId, currency: usage.currency };
  await postEntries(tx, ctx, [
    walletEntry({
      kind: 'usage_reversal',
      wallet,
      projectId: usage.projectId,
      amountMinor,
      idempotencyKey: `usage_reversal:${usage.id}`,
      referenceType: 'usage_record',
      referenceId: usage.id,
    }),
  ]);
  await publish(tx, ctx, {
    type: 'platform.billing.usage.reversed',
    aggregateType: 'usage_record',
    aggregateId: usage.id,
    payload: {
      tenant_id: wallet.tenantId,
      user_id: wallet.userId,
      currency: wallet.currency,
      allocation_id: usage.allocationId,
      reversed_minor: amountMinor.toString(),
      served_until: servedUntil.toISOString(),
    },
  });
}
