import type { Schema } from '@gpuaas/contract';
import type { TenantId, UserId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../spine/operation.js';
import { toWireInteger } from '../../spine/wire.js';
import {
  type BillingAccount,
  balancesOf,
  billingAccountOf,
  DEFAULT_CURRENCY,
  defaultBalancesOf,
  ensureWallets,
} from './store/wallets.js';

export interface WalletOwner {
  readonly tenantId: TenantId;
  readonly userId: UserId;
}

/** Opens a person's wallet at zero, in the tenant's default currency unless told otherwise. May be repeated. */
export async function openWallet(tx: Tx, owner: WalletOwner & { readonly currency?: string }): Promise<void> {
  const currency = owner.currency ?? (await billingAccountOf(tx, owner.tenantId)).defaultCurrency;
  await ensureWallets(tx, [{ tenantId: owner.tenantId, userId: owner.userId, currency }]);
}

/**
 * What a person may count as theirs, default currency first and always present, the others by code. Where a tenant
 * shares its wallets it is the tenant's money. Ledger only: what runs and is not yet rated is not taken off.
 */
export async function walletBalancesOf(
  reader: Reader,
  owner: WalletOwner,
): Promise<readonly [Schema<'Money'>, ...Schema<'Money'>[]]> {
  const account = await billingAccountOf(reader, owner.tenantId);
  const userId = account.walletScope === 'user' ? owner.userId : null;
  const balances = await balancesOf(reader, { tenantId: owner.tenantId, userId });
  const inDefault = balances.find((balance) => balance.currency === account.defaultCurrency);
  return [
    money(inDefault?.balanceMinor ?? 0n, account.defaultCurrency),
    ...balances
      .filter((balance) => balance.currency !== account.defaultCurrency)
      .map((balance) => money(balance.balanceMinor, balance.currency)),
  ];
}

/** The balance in the default currency. */
export async function walletBalanceOf(reader: Reader, owner: WalletOwner): Promise<Schema<'Money'>> {
  return (await walletBalancesOfPage(reader, [owner])).get(owner.userId) ?? NO_MONEY;
}

/** The balances in the default currency of many people, each in their tenant, by user id; one query for all. */
export async function walletBalancesOfPage(
  reader: Reader,
  owners: readonly WalletOwner[],
): Promise<ReadonlyMap<string, Schema<'Money'>>> {
  const balances = owners.length === 0 ? [] : await defaultBalancesOf(reader, owners);
  return new Map(balances.map(({ userId, balanceMinor, currency }) => [userId, money(balanceMinor, currency)]));
}

/** What someone without a tenant, and so without a wallet, has. */
export const NO_MONEY: Schema<'Money'> = { amount_minor: 0, currency: DEFAULT_CURRENCY };

/** The currencies a tenant's wallets may be credited in. */
export function supportsCurrency(account: BillingAccount, currency: string): boolean {
  return account.supportedCurrencies.includes(currency);
}

/** Minor units as the contract writes money. */
export function money(amountMinor: bigint, currency: string): Schema<'Money'> {
  return { amount_minor: toWireInteger(amountMinor), currency };
}
