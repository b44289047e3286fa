import { audit } from '../../../spine/audit.js';
import { command, query } from '../../../spine/operation.js';
import { publish } from '../../../spine/outbox.js';
import { badRequest, conflict, Refusal, refuse } from '../../../spine/refusal.js';
import type { DepletionWatch } from '../depletion.js';
import { decideAdjustment } from '../rules/adjustment.js';
import { walletEntry } from '../rules/journal.js';
import { MAXIMUM_AMOUNT_MINOR, parseAmount } from '../rules/money.js';
import { postEntries } from '../store/journal.js';
import { billingAccountOf, lockWallet } from '../store/wallets.js';
import { findUserHome } from '../views/directory.js';
import { NO_MONEY, supportsCurrency, walletBalancesOf } from '../wallets.js';

/** The caller's money by currency, default first. Ledger only: running usage that is not yet rated is not taken off. */
export const getBillingBalance = query<'getBillingBalance'>(async ({ db, ctx }) => {
  const { principal } = ctx;
  if (principal.kind !== 'user') throw refuse('insufficient_permissions', { reason: 'user_required' });
  const balances =
    principal.tenantId === null
      ? ([NO_MONEY] as const)
      : await walletBalancesOf(db, { tenantId: principal.tenantId, userId: principal.userId });
  return { status: 200, body: { balance: balances[0], balances: [...balances] } };
});

/** Gives a person credit or takes it back, at most what is there. The money lies in the wallet of their home tenant. */
export const createAdminAdjustBalance = (depletion: DepletionWatch) =>
  command<'adminAdjustBalance'>(
    async ({ tx, ctx, path, body }) => {
      const amountMinor = parseAmount(body.amount_minor);
      if (amountMinor === null)
        throw badRequest('amount_out_of_range', '/body/amount_minor', `must lie in 1..${MAXIMUM_AMOUNT_MINOR}`);
      const user = await findUserHome(tx, path.user_id);
      if (user === undefined) throw refuse('user_not_found');
      const { userId, tenantId } = user;
      if (tenantId === null) throw conflict('user_has_no_tenant', {}, 'only someone with a home tenant has a wallet');
      const account = await billingAccountOf(tx, tenantId);
      if (!supportsCurrency(account, body.currency))
        throw badRequest(
          'currency_not_supported',
          '/body/currency',
          `must be ${account.supportedCurrencies.join(' or ')}`,
        );

      const wallet = { tenantId, userId, currency: body.currency };
      const decision = decideAdjustment(body.direction, amountMinor, await lockWallet(tx, wallet));
      // A request that asks for too much, not a launch that meets an empty wallet: 400, where the code says 409.
      if (!decision.allowed)
        throw new Refusal('insufficient_balance', { status: 400, details: { reason: 'debit_exceeds_balance' } });

      const auditId = await audit(tx, ctx, {
        action: 'user.balance.adjust',
        targetType: 'user',
        targetId: userId,
        targetUserId: userId,
        tenantId,
        metadata: {
          direction: body.direction,
          amount_minor: body.amount_minor,
          currency: body.currency,
          reason: body.reason,
        },
      });
      await postEntries(tx, ctx, [
        walletEntry({
          kind: decision.kind,
          wallet,
          amountMinor,
          idempotencyKey: `adjust:${auditId}`,
          referenceType: 'audit_log',
          referenceId: auditId,
        }),
      ]);
      await publish(tx, ctx, {
        type: 'platform.billing.balance.adjusted',
        aggregateType: 'wallet',
        aggregateId: `${tenantId}:${userId}:${body.currency}`,
        payload: {
          tenant_id: tenantId,
          user_id: userId,
          currency: body.currency,
          direction: body.direction,
          amount_minor: amountMinor.toString(),
        },
      });
      await depletion.afterCredit(tx, ctx, wallet);
      return { status: 200, body: { ok: true } };
    },
    { keepsKeyForMoney: true },
  );
