import type { Clock } from '@gpuaas/kernel';
import type { DomainModule } from '../../spine/domain.js';
import type { Reader } from '../../spine/operation.js';
import type { Policies } from '../../spine/policy-registry.js';
import { createDepletionWatch } from './depletion.js';
import { createFundsGate, type FundsGate } from './funds-gate.js';
import { type Metering, metering } from './metering.js';
import { createAdminAdjustBalance, getBillingBalance } from './operations/balance.js';
import { adminSetFinancialRestriction } from './operations/restrictions.js';
import { adminDryRunShadowRating } from './operations/shadow-rating.js';
import {
  exportBillingUsageCsv,
  getBillingRatedUsage,
  listBillingRatedUsage,
  listBillingUsage,
} from './operations/usage.js';
import { createRater } from './rater.js';
import { findLedgerErrors, type LedgerFinding } from './store/reconciliation.js';

export type { FundsDecision, FundsGate, FundsRequest, HoldRequest } from './funds-gate.js';
export type { Metering, MeteringStart, MeteringStop } from './metering.js';
export { type ListPrice, recordListPrice } from './store/price-versions.js';
export type { LedgerFinding, LedgerInvariant } from './store/reconciliation.js';
export { openWallet, type WalletOwner, walletBalanceOf, walletBalancesOf, walletBalancesOfPage } from './wallets.js';

export interface FinanceDependencies {
  readonly clock: Clock;
  readonly policies: Policies;
}

export interface FinanceDomain extends DomainModule {
  readonly fundsGate: FundsGate;
  readonly metering: Metering;
  /** What is wrong with the books, in one snapshot of the database; empty when they hold. */
  reconcile(reader: Reader): Promise<readonly LedgerFinding[]>;
}

export function createFinanceDomain(dependencies: FinanceDependencies): FinanceDomain {
  const { clock, policies } = dependencies;
  const depletion = createDepletionWatch({ policies });
  return {
    name: 'finance',
    operations: {
      getBillingBalance,
      adminAdjustBalance: createAdminAdjustBalance(depletion),
      listBillingUsage,
      exportBillingUsageCsv,
      listBillingRatedUsage,
      getBillingRatedUsage,
      adminSetFinancialRestriction,
      adminDryRunShadowRating,
    },
    periodicJobs: [
      createRater({ windowSeconds: (reader) => policies.policyNumber(reader, 'billing.window_seconds', {}) }),
      depletion.sweep,
    ],
    fundsGate: createFundsGate({ clock }),
    metering,
    reconcile: (reader) => findLedgerErrors(reader, clock.now()),
  };
}
