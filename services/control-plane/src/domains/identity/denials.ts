import { type AuditEntry, audit } from '../../spine/audit.js';
import type { CallContext, Reader } from '../../spine/operation.js';
import { principalKey } from '../../spine/principal.js';
import { inTransaction } from '../../spine/transaction.js';
import { markDenial } from './store/attempts.js';

/**
 * Puts a refusal on record in a transaction of its own, because the refused command has rolled back: one row an
 * actor, action and minute. `who` names the actor where the principal does not (an address, a name that was tried).
 */
export async function recordDenial(
  db: Reader,
  ctx: CallContext,
  denial: Omit<AuditEntry, 'result'> & { readonly who?: string },
): Promise<void> {
  const actor = denial.who ?? principalKey(ctx.principal);
  await inTransaction(db, async (tx) => {
    if (!(await markDenial(tx, actor, denial.action, ctx.clock.now()))) return;
    const { who: _who, ...entry } = denial;
    await audit(tx, ctx, { ...entry, result: 'failure' });
  });
}
