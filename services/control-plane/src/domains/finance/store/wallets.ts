import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { WalletFunds } from '../rules/funds.js';
import type { Wallet } from '../rules/journal.js';

export const DEFAULT_CURRENCY = 'USD';

export interface BillingAccount {
  readonly defaultCurrency: string;
  readonly supportedCurrencies: readonly string[];
  /** whose money counts when one person spends */
  readonly walletScope: 'user' | 'tenant';
  /** minor units of the default currency */
  readonly creditLimitMinor: bigint;
}

/** What a tenant has that was never given an account of its own. */
const DERIVED_ACCOUNT: BillingAccount = {
  defaultCurrency: DEFAULT_CURRENCY,
  supportedCurrencies: [DEFAULT_CURRENCY],
  walletScope: 'user',
  creditLimitMinor: 0n,
};

/** The account of a tenant, or the derived one; never misses. */
export async function billingAccountOf(reader: Reader, tenantId: string): Promise<BillingAccount> {
  const row = await reader
    .selectFrom('billing_accounts')
    .select(['default_currency', 'supported_currencies', 'wallet_scope', 'credit_limit_minor'])
    .where('tenant_id', '=', tenantId)
    .executeTakeFirst();
  if (row === undefined) return DERIVED_ACCOUNT;
  return {
    defaultCurrency: row.default_currency,
    supportedCurrencies: row.supported_currencies,
    walletScope: row.wallet_scope,
    creditLimitMinor: row.credit_limit_minor,
  };
}

/** Makes the wallets that do not exist yet, at zero. May be repeated; waits for nobody who merely uses one. */
export async function ensureWallets(tx: Tx, wallets: readonly Wallet[]): Promise<void> {
  await tx
    .insertInto('wallet_balances')
    .values(wallets.map(keyOf))
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/**
 * Locks the wallets that count for a spender until the commit and makes the spender's if it is missing: their own, or
 * with scope `tenant` every one of the tenant in that currency, always in one order.
 */
export async function lockSpendingWallets(tx: Tx, wallet: Wallet, scope: 'user' | 'tenant'): Promise<void> {
  const lock = () =>
    tx
      .selectFrom('wallet_balances')
      .select('user_id')
      .where('tenant_id', '=', wallet.tenantId)
      .where('currency', '=', wallet.currency)
      .$if(scope === 'user', (query) => query.where('user_id', '=', wallet.userId))
      .orderBy('user_id')
      .forUpdate()
      .execute();
  if ((await lock()).some((row) => row.user_id === wallet.userId)) return;
  await ensureWallets(tx, [wallet]);
  await lock();
}

/** Locks one wallet until the commit, making it at zero if it is missing, and reads its balance in minor units. */
export async function lockWallet(tx: Tx, wallet: Wallet): Promise<bigint> {
  await ensureWallets(tx, [wallet]);
  const row = await tx
    .selectFrom('wallet_balances')
    .select('balance_minor')
    .where('tenant_id', '=', wallet.tenantId)
    .where('user_id', '=', wallet.userId)
    .where('currency', '=', wallet.currency)
    .forUpdate()
    .executeTakeFirstOrThrow();
  return row.balance_minor;
}

/** Locks those of `wallets` that nobody else holds, until the commit; never waits. Returns the locked ones. */
export async function tryLockWallets(tx: Tx, wallets: readonly Wallet[]): Promise<readonly Wallet[]> {
  const { rows } = await sql<{ tenant_id: string; user_id: string; currency: string }>`
    SELECT tenant_id, user_id, currency FROM wallet_balances
    WHERE (tenant_id, user_id, currency) IN (SELECT * FROM unnest(
      ${wallets.map((wallet) => wallet.tenantId)}::uuid[],
      ${wallets.map((wallet) => wallet.userId)}::uuid[],
      ${wallets.map((wallet) => wallet.currency)}::text[]))
    ORDER BY tenant_id, user_id, currency
    FOR UPDATE SKIP LOCKED`.execute(tx);
  return rows.map((row) => ({ tenantId: row.tenant_id, userId: row.user_id, currency: row.currency }));
}

/**
 * What the wallets that count for a spender hold and what is spoken for, without the holds of `exceptAllocations`.
 * One statement, so one moment; after lockSpendingWallets it is a moment that nobody can change before the commit.
 */
export async function walletFundsOf(
  reader: Reader,
  wallet: Wallet,
  account: BillingAccount,
  now: Date,
  exceptAllocations: readonly string[] = [],
): Promise<WalletFunds> {
  const whose =
    account.walletScope === 'user'
      ? sql`tenant_id = ${wallet.tenantId} AND currency = ${wallet.currency} AND user_id = ${wallet.userId}`
      : sql`tenant_id = ${wallet.tenantId} AND currency = ${wallet.currency}`;
  const { rows } = await sql<{ balance: bigint; held: bigint; unrated: bigint }>`
    SELECT
      (SELECT coalesce(sum(balance_minor), 0) FROM wallet_balances WHERE ${whose})::bigint AS balance,
      (SELECT coalesce(sum(amount_minor), 0) FROM wallet_holds
        WHERE ${whose} AND allocation_id <> ALL (${exceptAllocations}::uuid[]))::bigint AS held,
      (SELECT coalesce(sum(${unratedMinor(now)}), 0) FROM usage_records
        WHERE ${whose} AND next_rate_at IS NOT NULL)::bigint AS unrated`.execute(reader);
  const [funds] = rows;
  if (funds === undefined) throw new Error('a select without FROM gave no row');
  return {
    balanceMinor: funds.balance,
    heldMinor: funds.held,
    unratedMinor: funds.unrated,
    creditLimitMinor: wallet.currency === account.defaultCurrency ? account.creditLimitMinor : 0n,
  };
}

/** SQL: what a usage record has cost up to `at` beyond its rated lines, in minor units; never negative. */
export const unratedMinor = (at: Date) => sql<bigint>`greatest(0,
  usage_cost_minor(unit_price_minor, units, elapsed_milliseconds(start_time, least(${at}::timestamptz, end_time)))
  - usage_cost_minor(unit_price_minor, units, elapsed_milliseconds(start_time, coalesce(last_billed_at, start_time))))`;

export interface CurrencyBalance {
  readonly currency: string;
  readonly balanceMinor: bigint;
}

/** The balances of one person in a tenant, or of the whole tenant, by currency; currencies without a wallet are absent. */
export async function balancesOf(
  reader: Reader,
  owner: { readonly tenantId: string; readonly userId: string | null },
): Promise<readonly CurrencyBalance[]> {
  const rows = await reader
    .selectFrom('wallet_balances')
    .select(['currency', sql<bigint>`sum(balance_minor)::bigint`.as('balance_minor')])
    .where('tenant_id', '=', owner.tenantId)
    .$if(owner.userId !== null, (query) => query.where('user_id', '=', owner.userId))
    .groupBy('currency')
    .orderBy('currency')
    .execute();
  return rows.map((row) => ({ currency: row.currency, balanceMinor: row.balance_minor }));
}

/** The balance in the tenant's default currency, and that currency, of each owner; in one query. */
export async function defaultBalancesOf(
  reader: Reader,
  owners: readonly { readonly tenantId: string; readonly userId: string }[],
): Promise<readonly (CurrencyBalance & { readonly userId: string })[]> {
  const { rows } = await sql<{ user_id: string; currency: string; balance_minor: bigint }>`
    SELECT owner.user_id, owner.currency, (
      SELECT coalesce(sum(wallet.balance_minor), 0)::bigint FROM wallet_balances AS wallet
      WHERE wallet.tenant_id = owner.tenant_id AND wallet.currency = owner.currency
        AND (owner.shared OR wallet.user_id = owner.user_id)) AS balance_minor
    FROM (
      SELECT asked.tenant_id, asked.user_id, coalesce(account.default_currency, ${DEFAULT_CURRENCY}) AS currency,
        coalesce(account.wallet_scope = 'tenant', false) AS shared
      FROM unnest(
        ${owners.map((owner) => owner.tenantId)}::uuid[],
        ${owners.map((owner) => owner.userId)}::uuid[]
      ) AS asked (tenant_id, user_id)
      LEFT JOIN billing_accounts AS account ON account.tenant_id = asked.tenant_id
    ) AS owner`.execute(reader);
  return rows.map((row) => ({ userId: row.user_id, currency: row.currency, balanceMinor: row.balance_minor }));
}

const keyOf = (wallet: Wallet) => ({
  tenant_id: wallet.tenantId,
  user_id: wallet.userId,
  currency: wallet.currency,
});
