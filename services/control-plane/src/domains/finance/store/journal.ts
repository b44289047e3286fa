import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { CallContext, Tx } from '../../../spine/operation.js';
import { principalKey } from '../../../spine/principal.js';
import { conflict } from '../../../spine/refusal.js';
import { violatedConstraint } from '../../../spine/transaction.js';
import { type JournalEntry, walletMovements } from '../rules/journal.js';

/**
 * Appends entries and moves the balances of their wallets in the caller's transaction; the wallets stay locked until
 * its commit. Returns the id of each entry's posting on the wallet, by idempotency key.
 *
 * An entry whose key was posted before fails the whole transaction (`journal_txns_once`): the caller's locks are what
 * keeps two from trying. Refuses 409 `balance_limit_reached` beyond what a JSON number carries.
 */
export async function postEntries(
  tx: Tx,
  ctx: CallContext,
  entries: readonly JournalEntry[],
): Promise<ReadonlyMap<string, string>> {
  if (entries.length === 0) return new Map();
  const now = ctx.clock.now();
  const written = entries.map((entry) => ({
    ...entry,
    id: newId(),
    legs: entry.postings.map((posting) => ({ ...posting, id: newId() })),
  }));

  await sql`
    INSERT INTO journal_txns
      (id, kind, idempotency_key, currency, reference_type, reference_id, correlation_id, actor, created_at)
    SELECT id, kind, idempotency_key, currency, reference_type, reference_id,
      ${ctx.correlationId}, ${principalKey(ctx.principal)}, ${now}::timestamptz
    FROM unnest(
      ${written.map((entry) => entry.id)}::uuid[],
      ${written.map((entry) => entry.kind)}::text[],
      ${written.map((entry) => entry.idempotencyKey)}::text[],
      ${written.map((entry) => entry.currency)}::text[],
      ${written.map((entry) => entry.referenceType)}::text[],
      ${written.map((entry) => entry.referenceId)}::text[]
    ) AS entry (id, kind, idempotency_key, currency, reference_type, reference_id)`.execute(tx);

  const legs = written.flatMap((entry) => entry.legs.map((leg) => ({ entry, leg })));
  await sql`
    INSERT INTO postings
      (id, txn_id, account_code, tenant_id, user_id, project_id, amount_minor, currency, entry_type, created_at)
    SELECT id, txn_id, account_code, tenant_id, user_id, project_id, amount_minor, currency, entry_type,
      ${now}::timestamptz
    FROM unnest(
      ${legs.map(({ leg }) => leg.id)}::uuid[],
      ${legs.map(({ entry }) => entry.id)}::uuid[],
      ${legs.map(({ leg }) => leg.account)}::text[],
      ${legs.map(({ leg }) => leg.wallet?.tenantId ?? null)}::uuid[],
      ${legs.map(({ leg }) => leg.wallet?.userId ?? null)}::uuid[],
      ${legs.map(({ leg }) => leg.projectId)}::uuid[],
      ${legs.map(({ leg }) => leg.amountMinor)}::bigint[],
      ${legs.map(({ entry }) => entry.currency)}::text[],
      ${legs.map(({ entry }) => entry.kind)}::text[]
    ) AS leg (id, txn_id, account_code, tenant_id, user_id, project_id, amount_minor, currency, entry_type)`.execute(
    tx,
  );

  await moveWallets(tx, entries, now);
  return new Map(
    written.flatMap((entry) =>
      entry.legs.filter((leg) => leg.wallet !== null).map((leg) => [entry.idempotencyKey, leg.id] as const),
    ),
  );
}

/** Rows are written, and so locked, in the order of the movements: alike in every transaction. */
async function moveWallets(tx: Tx, entries: readonly JournalEntry[], now: Date): Promise<void> {
  const movements = walletMovements(entries);
  try {
    await sql`
      INSERT INTO wallet_balances AS wallet (tenant_id, user_id, currency, balance_minor, created_at, updated_at)
      SELECT tenant_id, user_id, currency, amount_minor, ${now}::timestamptz, ${now}::timestamptz
      FROM unnest(
        ${movements.map((movement) => movement.tenantId)}::uuid[],
        ${movements.map((movement) => movement.userId)}::uuid[],
        ${movements.map((movement) => movement.currency)}::text[],
        ${movements.map((movement) => movement.amountMinor)}::bigint[]
      ) AS movement (tenant_id, user_id, currency, amount_minor)
      ON CONFLICT (tenant_id, user_id, currency) DO UPDATE
      SET balance_minor = wallet.balance_minor + excluded.balance_minor, updated_at = excluded.updated_at`.execute(tx);
  } catch (error) {
    if (violatedConstraint(error) === 'wallet_balances_range') throw conflict('balance_limit_reached');
    throw error;
  }
}
