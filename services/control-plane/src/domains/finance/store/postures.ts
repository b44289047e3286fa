import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { CallContext, Reader, Tx } from '../../../spine/operation.js';
import type { Wallet } from '../rules/journal.js';
import type { DepletionAction, WalletPosture, WalletReading } from '../rules/posture.js';
import { unratedMinor } from './wallets.js';

/** A wallet with what it can still spend, what runs on it, and the posture it was last seen in. */
export interface PostureReading extends WalletReading {
  readonly wallet: Wallet;
  readonly posture: WalletPosture;
  readonly creditLimitMinor: bigint;
  /** when the release of what runs was last asked for in this depletion; null before */
  readonly releaseRequestedAt: Date | null;
}

/**
 * Readings of every wallet on which something runs or which was not well the last time, or of one wallet alone.
 * Where a tenant shares its wallets, each of them reads what all of them have and burn together.
 */
export async function readPostures(
  reader: Reader,
  now: Date,
  only: Wallet | null = null,
): Promise<readonly PostureReading[]> {
  const inScope = only === null ? sql`true` : sql`tenant_id = ${only.tenantId} AND currency = ${only.currency}`;
  const { rows } = await sql<{
    tenant_id: string;
    user_id: string;
    currency: string;
    posture: WalletPosture;
    release_requested_at: Date | null;
    credit_limit_minor: bigint;
    available_minor: bigint;
    burn_minor: bigint;
  }>`
    WITH accruing AS (
      SELECT tenant_id, user_id, currency, sum(${unratedMinor(now)}) AS unrated_minor,
        coalesce(sum(unit_price_minor::numeric * units) FILTER (WHERE end_time IS NULL), 0) AS burn_minor
      FROM usage_records WHERE next_rate_at IS NOT NULL AND ${inScope}
      GROUP BY tenant_id, user_id, currency
    ), concerned AS (
      SELECT tenant_id, currency FROM accruing
      UNION
      SELECT tenant_id, currency FROM wallet_postures WHERE posture <> 'healthy' AND ${inScope}
    ), wallet AS (
      SELECT tenant_id, user_id, currency,
        coalesce(posture.posture, 'healthy') AS posture, posture.release_requested_at,
        accruing.tenant_id IS NOT NULL AS accrues,
        CASE WHEN account.default_currency = currency THEN account.credit_limit_minor ELSE 0 END AS credit_limit_minor,
        CASE WHEN account.wallet_scope = 'tenant' THEN sum(balance.balance_minor) OVER shared
          ELSE balance.balance_minor END AS balance_minor,
        CASE WHEN account.wallet_scope = 'tenant' THEN sum(coalesce(accruing.unrated_minor, 0)) OVER shared
          ELSE coalesce(accruing.unrated_minor, 0) END AS unrated_minor,
        CASE WHEN account.wallet_scope = 'tenant' THEN sum(coalesce(accruing.burn_minor, 0)) OVER shared
          ELSE coalesce(accruing.burn_minor, 0) END AS burn_minor
      FROM wallet_balances AS balance
      JOIN concerned USING (tenant_id, currency)
      LEFT JOIN accruing USING (tenant_id, user_id, currency)
      LEFT JOIN wallet_postures AS posture USING (tenant_id, user_id, currency)
      LEFT JOIN billing_accounts AS account USING (tenant_id)
      WINDOW shared AS (PARTITION BY tenant_id, currency)
    )
    SELECT tenant_id, user_id, currency, posture, release_requested_at, credit_limit_minor::bigint,
      (balance_minor + credit_limit_minor - unrated_minor)::bigint AS available_minor, burn_minor::bigint
    FROM wallet
    WHERE (accrues OR posture <> 'healthy') AND ${only === null ? sql`true` : sql`user_id = ${only.userId}`}
    ORDER BY tenant_id, user_id, currency`.execute(reader);
  return rows.map((row) => ({
    wallet: { tenantId: row.tenant_id, userId: row.user_id, currency: row.currency },
    posture: row.posture,
    releaseRequestedAt: row.release_requested_at,
    creditLimitMinor: row.credit_limit_minor,
    availableMinor: row.available_minor,
    burnMinorPerHour: row.burn_minor,
  }));
}

/** The posture in which the wallet was last seen; healthy where it never was. */
export async function postureOf(reader: Reader, wallet: Wallet): Promise<WalletPosture> {
  const row = await reader
    .selectFrom('wallet_postures')
    .select('posture')
    .where('tenant_id', '=', wallet.tenantId)
    .where('user_id', '=', wallet.userId)
    .where('currency', '=', wallet.currency)
    .executeTakeFirst();
  return row?.posture ?? 'healthy';
}

/** Whether the wallet was last seen in another posture than healthy. */
export async function isUnwell(reader: Reader, wallet: Wallet): Promise<boolean> {
  return (await postureOf(reader, wallet)) !== 'healthy';
}

export interface PostureTransition {
  readonly reading: PostureReading;
  readonly to: WalletPosture;
  readonly projectedDepletionAt: Date | null;
  readonly selectedAction: '' | DepletionAction;
}

/** Writes a wallet's new posture and remembers the transition. The wallet is locked by the caller. */
export async function saveTransition(tx: Tx, ctx: CallContext, transition: PostureTransition): Promise<void> {
  const now = ctx.clock.now();
  const { reading, to, projectedDepletionAt } = transition;
  const { wallet } = reading;
  const key = { tenant_id: wallet.tenantId, user_id: wallet.userId, currency: wallet.currency };
  const values = {
    posture: to,
    since: now,
    projected_depletion_at: projectedDepletionAt,
    release_requested_at: null,
    updated_at: now,
  };
  await tx
    .insertInto('wallet_postures')
    .values({ ...key, ...values })
    .onConflict((conflict) => conflict.columns(['tenant_id', 'user_id', 'currency']).doUpdateSet(values))
    .execute();
  await tx
    .insertInto('posture_transitions')
    .values({
      id: newId(),
      ...key,
      from_posture: reading.posture,
      to_posture: to,
      selected_action: transition.selectedAction,
      available_minor: reading.availableMinor,
      burn_minor_per_hour: reading.burnMinorPerHour,
      projected_depletion_at: projectedDepletionAt,
      correlation_id: ctx.correlationId,
      created_at: now,
    })
    .execute();
}

/** Remembers that the release of what runs on a depleted wallet was asked for now. */
export async function noteReleaseRequest(tx: Tx, wallet: Wallet, now: Date): Promise<void> {
  await tx
    .updateTable('wallet_postures')
    .set({ release_requested_at: now, updated_at: now })
    .where('tenant_id', '=', wallet.tenantId)
    .where('user_id', '=', wallet.userId)
    .where('currency', '=', wallet.currency)
    .execute();
}

/** The postures of all wallets that a person has, whatever the tenant and currency. */
export async function posturesOfUser(reader: Reader, userId: string): Promise<readonly WalletPosture[]> {
  const rows = await reader.selectFrom('wallet_postures').select('posture').where('user_id', '=', userId).execute();
  return rows.map((row) => row.posture);
}
