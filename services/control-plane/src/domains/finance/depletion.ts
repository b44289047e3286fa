import { assertNever } from '@gpuaas/kernel';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import { publish } from '../../spine/outbox.js';
import type { PeriodicJob } from '../../spine/periodic-jobs.js';
import type { Policies } from '../../spine/policy-registry.js';
import { inTransaction } from '../../spine/transaction.js';
import { type Wallet, walletKey } from './rules/journal.js';
import {
  DEPLETION_NOTICE_MILLISECONDS,
  type DepletionAction,
  decidePosture,
  defaultDepletionAction,
  isReleaseDue,
  type PostureDecision,
  restrictionOf,
  type WalletPosture,
  worstPosture,
} from './rules/posture.js';
import {
  isUnwell,
  noteReleaseRequest,
  type PostureReading,
  posturesOfUser,
  readPostures,
  saveTransition,
} from './store/postures.js';
import { findRestrictionState, setRestriction } from './store/restrictions.js';
import { billingAccountOf, lockSpendingWallets } from './store/wallets.js';

const SWEEP_PERIOD_MILLISECONDS = 60_000;

/** Keeps the postures of wallets: warns before they run dry, and acts when they have. */
export interface DepletionWatch {
  readonly sweep: PeriodicJob;
  /** Looks at a wallet that was just credited, so that its owner need not wait for the sweep. The caller holds its lock. */
  afterCredit(tx: Tx, ctx: CallContext, wallet: Wallet): Promise<void>;
}

export function createDepletionWatch({ policies }: { readonly policies: Policies }): DepletionWatch {
  return {
    sweep: {
      name: 'finance.depletion',
      everyMilliseconds: SWEEP_PERIOD_MILLISECONDS,
      run: (db, ctx, signal) => sweepWallets(policies, db, ctx, signal),
    },
    async afterCredit(tx, ctx, wallet) {
      if (await isUnwell(tx, wallet)) await settleWallet(policies, tx, ctx, wallet);
    },
  };
}

/** One query finds the wallets whose posture would change; only those are locked, read again and settled. */
async function sweepWallets(policies: Policies, db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void> {
  const readings = await readPostures(db, ctx.clock.now());
  for (const reading of readings) {
    if (signal.aborted) return;
    const { to } = await decide(policies, db, ctx, reading);
    const asksRelease = to === 'depleted' && isReleaseDue(reading, ctx.clock.now());
    if (to === reading.posture && !asksRelease) continue;
    await inTransaction(db, async (tx) => {
      const account = await billingAccountOf(tx, reading.wallet.tenantId);
      await lockSpendingWallets(tx, reading.wallet, account.walletScope);
      await settleWallet(policies, tx, ctx, reading.wallet);
    });
  }
}

async function settleWallet(policies: Policies, tx: Tx, ctx: CallContext, wallet: Wallet): Promise<void> {
  const [reading] = await readPostures(tx, ctx.clock.now(), wallet);
  if (reading === undefined) return;
  const decision = await decide(policies, tx, ctx, reading);
  const action = decision.to === 'depleted' ? await depletionAction(policies, tx, reading) : '';
  if (decision.to !== reading.posture) {
    await saveTransition(tx, ctx, { reading, ...decision, selectedAction: action });
    await restrictOwner(tx, ctx, wallet);
    await announce(policies, tx, ctx, reading, decision, action);
  }
  const fresh = decision.to === reading.posture ? reading : { ...reading, releaseRequestedAt: null };
  if (action === 'force_release' && isReleaseDue(fresh, ctx.clock.now())) await askRelease(tx, ctx, wallet);
}

async function decide(
  policies: Policies,
  reader: Reader,
  ctx: CallContext,
  reading: PostureReading,
): Promise<PostureDecision> {
  const lowBalance = await policies.policyNumber(
    reader,
    'billing.low_balance_threshold_minor',
    subjectOf(reading.wallet),
  );
  const limits = { lowBalanceMinor: BigInt(lowBalance), noticeMilliseconds: DEPLETION_NOTICE_MILLISECONDS };
  return decidePosture(reading.posture, reading, limits, ctx.clock.now());
}

/** What the site says where it says anything, else what suits the wallet. */
async function depletionAction(policies: Policies, reader: Reader, reading: PostureReading): Promise<DepletionAction> {
  const key = 'billing.depletion_action';
  const { source } = await policies.decision(reader, key, subjectOf(reading.wallet));
  if (source === 'default') return defaultDepletionAction(reading.creditLimitMinor);
  return (await policies.policyText(reader, key, subjectOf(reading.wallet))) === 'restrict'
    ? 'restrict'
    : 'force_release';
}

/** Automation's own word about the person, by their worst wallet; no other source's is touched. */
async function restrictOwner(tx: Tx, ctx: CallContext, wallet: Wallet): Promise<void> {
  const posture = worstPosture(await posturesOfUser(tx, wallet.userId));
  const place = { scopeType: 'user', scopeId: wallet.userId, source: 'depletion' } as const;
  const state = restrictionOf(posture);
  if (((await findRestrictionState(tx, place)) ?? 'healthy') === state) return;
  await setRestriction(tx, ctx, {
    ...place,
    state,
    reason: `wallet_${posture}`,
    metadata: { currency: wallet.currency },
  });
}

/** One event a transition. */
async function announce(
  policies: Policies,
  tx: Tx,
  ctx: CallContext,
  reading: PostureReading,
  { to, projectedDepletionAt }: PostureDecision,
  action: '' | DepletionAction,
): Promise<void> {
  const type = eventOf(reading.posture, to);
  if (type === null) return;
  const isWarning = to === 'low_balance';
  if (isWarning && !(await policies.policyFlag(tx, 'notification.low_balance_enabled', subjectOf(reading.wallet))))
    return;
  await publish(tx, ctx, {
    type,
    aggregateType: 'wallet',
    aggregateId: walletKey(reading.wallet),
    payload: {
      tenant_id: reading.wallet.tenantId,
      user_id: reading.wallet.userId,
      currency: reading.wallet.currency,
      from: reading.posture,
      to,
      available_minor: reading.availableMinor.toString(),
      burn_minor_per_hour: reading.burnMinorPerHour.toString(),
      projected_depletion_at: projectedDepletionAt?.toISOString() ?? null,
      selected_action: action,
      at: ctx.clock.now().toISOString(),
    },
  });
}

function eventOf(from: WalletPosture, to: WalletPosture): string | null {
  switch (to) {
    case 'healthy':
      return 'platform.billing.prepaid.restored';
    case 'low_balance':
      // Coming back from worse is no warning.
      return from === 'healthy' ? 'platform.billing.low_balance_warning' : null;
    case 'auto_release_pending':
      return 'platform.billing.auto_release_pending';
    case 'depleted':
      return 'platform.billing.balance_depleted';
    default:
      return assertNever(to);
  }
}

/** Whoever owns the running work releases it the ordinary way; nothing is restarted by a later top-up. */
async function askRelease(tx: Tx, ctx: CallContext, wallet: Wallet): Promise<void> {
  const now = ctx.clock.now();
  await noteReleaseRequest(tx, wallet, now);
  await publish(tx, ctx, {
    type: 'gpuaas.provisioning.force_release_requested',
    aggregateType: 'wallet',
    aggregateId: walletKey(wallet),
    payload: {
      tenant_id: wallet.tenantId,
      user_id: wallet.userId,
      currency: wallet.currency,
      reason: 'wallet_depleted',
      requested_at: now.toISOString(),
    },
  });
}

function subjectOf(wallet: Wallet): { userId: string; tenantId: string } {
  return { userId: wallet.userId, tenantId: wallet.tenantId };
}
