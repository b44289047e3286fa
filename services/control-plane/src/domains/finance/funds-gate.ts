import type { AllocationId, Clock, ProjectId, TenantId, UserId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../spine/operation.js';
import { decideFunds } from './rules/funds.js';
import { type Wallet, walletKey } from './rules/journal.js';
import { launchBar, type RestrictionScopeType, type RestrictionState } from './rules/restriction.js';
import { dropHolds, putHolds } from './store/holds.js';
import { postureOf } from './store/postures.js';
import { restrictionsOf } from './store/restrictions.js';
import { type BillingAccount, billingAccountOf, lockSpendingWallets, walletFundsOf } from './store/wallets.js';

export interface FundsRequest {
  readonly tenantId: TenantId;
  /** whose wallet pays; for a service account its owning person */
  readonly userId: UserId;
  readonly projectId: ProjectId;
  /** what one hour costs in all, in minor units */
  readonly hourlyMinor: bigint;
  readonly currency: string;
}

export type HoldRequest = FundsRequest & { readonly allocationId: AllocationId };

/** A refusal is a value; the caller makes it an error: `throw refuse(decision.code, { reason: decision.reason })`. */
export type FundsDecision =
  | { readonly allowed: true }
  | {
      readonly allowed: false;
      readonly code: 'insufficient_balance';
      readonly reason: 'insufficient_funds';
      readonly currency: string;
      readonly availableMinor: bigint;
      readonly requiredMinor: bigint;
    }
  | {
      readonly allowed: false;
      readonly code: 'insufficient_permissions';
      readonly reason: 'financial_restriction';
      readonly scopeType: RestrictionScopeType;
      readonly state: RestrictionState;
    };

/** Whether a launch is funded: one hour of it must fit into what the wallet has and nothing else has claimed. */
export interface FundsGate {
  /** As of now and without a lock: a preview that a later hold may contradict. */
  check(reader: Reader, request: FundsRequest): Promise<FundsDecision>;
  /** Decides under the wallet's lock, which lasts until the commit, and reserves the hour where allowed. */
  hold(tx: Tx, request: HoldRequest): Promise<FundsDecision>;
  /** Like hold for several allocations, of one wallet or of several: all are reserved or none. */
  holdMany(tx: Tx, requests: readonly HoldRequest[]): Promise<FundsDecision>;
  /** Gives the reserved hour of an allocation free; nothing happens where there is none. */
  release(tx: Tx, allocationId: AllocationId): Promise<void>;
  /** Whether the wallet has run dry and was not topped up since. */
  isDepleted(reader: Reader, wallet: Wallet): Promise<boolean>;
}

export function createFundsGate({ clock }: { readonly clock: Clock }): FundsGate {
  const gate: FundsGate = {
    check: (reader, request) => decide(reader, [request], clock.now(), async () => undefined, []),

    hold: (tx, request) => gate.holdMany(tx, [request]),

    async holdMany(tx, requests) {
      const now = clock.now();
      const lock = (wallet: Wallet, scope: 'user' | 'tenant') => lockSpendingWallets(tx, wallet, scope);
      const decision = await decide(
        tx,
        requests,
        now,
        lock,
        requests.map((request) => request.allocationId),
      );
      if (!decision.allowed) return decision;
      const holds = requests.filter((request) => request.hourlyMinor > 0n);
      await putHolds(
        tx,
        holds.map((request) => ({ ...request, amountMinor: request.hourlyMinor })),
        now,
      );
      return decision;
    },

    release: (tx, allocationId) => dropHolds(tx, [allocationId]),

    isDepleted: async (reader, wallet) => (await postureOf(reader, wallet)) === 'depleted',
  };
  return gate;
}

/** The first refusal among the sums of what spends from the same money. */
async function decide(
  reader: Reader,
  requests: readonly FundsRequest[],
  now: Date,
  lock: (wallet: Wallet, scope: 'user' | 'tenant') => Promise<void>,
  ownAllocations: readonly string[],
): Promise<FundsDecision> {
  const bar = await findLaunchBar(reader, requests);
  if (bar !== null) return bar;
  for (const { wallet, account, hourlyMinor } of await sumBySource(reader, requests)) {
    await lock(wallet, account.walletScope);
    const answer = decideFunds(await walletFundsOf(reader, wallet, account, now, ownAllocations), hourlyMinor);
    if (!answer.enough) {
      return {
        allowed: false,
        code: 'insufficient_balance',
        reason: 'insufficient_funds',
        currency: wallet.currency,
        availableMinor: answer.availableMinor,
        requiredMinor: answer.requiredMinor,
      };
    }
  }
  return { allowed: true };
}

async function findLaunchBar(reader: Reader, requests: readonly FundsRequest[]): Promise<FundsDecision | null> {
  const scopes = new Map(
    requests.map((request) => [`${request.tenantId}:${request.userId}:${request.projectId}`, request]),
  );
  for (const request of scopes.values()) {
    const bar = launchBar(await restrictionsOf(reader, request));
    if (bar !== null) {
      return {
        allowed: false,
        code: 'insufficient_permissions',
        reason: 'financial_restriction',
        scopeType: bar.scopeType,
        state: bar.state,
      };
    }
  }
  return null;
}

interface Spending {
  readonly wallet: Wallet;
  readonly account: BillingAccount;
  readonly hourlyMinor: bigint;
}

/**
 * What is asked of each source of money: of one wallet, or of all wallets of a tenant whose members share them.
 * In the order in which every transaction locks wallets.
 */
async function sumBySource(reader: Reader, requests: readonly FundsRequest[]): Promise<readonly Spending[]> {
  const accounts = new Map<string, BillingAccount>();
  const sums = new Map<string, Spending>();
  for (const { tenantId, userId, currency, hourlyMinor } of requests) {
    const account = accounts.get(tenantId) ?? (await billingAccountOf(reader, tenantId));
    accounts.set(tenantId, account);
    const wallet = { tenantId, userId, currency };
    const source = account.walletScope === 'user' ? walletKey(wallet) : walletKey({ ...wallet, userId: '' });
    sums.set(source, { wallet, account, hourlyMinor: (sums.get(source)?.hourlyMinor ?? 0n) + hourlyMinor });
  }
  return [...sums.entries()].sort(([left], [right]) => (left < right ? -1 : 1)).map(([, spending]) => spending);
}
