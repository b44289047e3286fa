import { z } from 'zod';
import { audit } from '../../../spine/audit.js';
import type { EventSubscriber } from '../../../spine/relay.js';
import { advance } from '../rules/allocation-state.js';
import { findPaidAllocations, lockAllocations } from '../store/allocations.js';
import { beginRelease, type LifecycleServices } from './lifecycle.js';

const RELEASE_REASON = 'wallet_depleted';

const releaseRequested = z.object({
  tenant_id: z.guid(),
  user_id: z.guid(),
  currency: z.string(),
  requested_at: z.iso.datetime(),
});

/**
 * Releases what a depleted wallet pays for, as its owner would: proven cleanup and all. Only what was there when it was
 * asked for, and only while the wallet is still dry: an event may come late, and who has paid meanwhile keeps all.
 */
export function depletedWalletSubscriber(services: LifecycleServices): EventSubscriber {
  return {
    name: 'compute.depleted-wallets',
    eventTypes: ['gpuaas.provisioning.force_release_requested'],
    async handle(tx, ctx, event) {
      // An operator's forced release of one allocation is told under the same name, and has happened already.
      if (event.aggregateType !== 'wallet') return;
      const asked = releaseRequested.parse(event.payload);
      const wallet = { tenantId: asked.tenant_id, userId: asked.user_id, currency: asked.currency };
      const ids = await findPaidAllocations(tx, wallet, new Date(asked.requested_at));
      const allocations = await lockAllocations(tx, ids);
      if (!(await services.funds.isDepleted(tx, wallet))) return;
      for (const before of allocations) {
        if (!advance(before.status, 'release').ok) continue;
        const after = await beginRelease(tx, ctx, services, before, { forced: false, reason: RELEASE_REASON });
        await audit(tx, ctx, {
          action: 'allocation.force_release',
          targetType: 'allocation',
          targetId: before.id,
          targetUserId: before.requestedByUserId,
          tenantId: before.tenantId,
          projectId: before.projectId,
          metadata: {
            from: before.status,
            to: after.status,
            operation_id: after.currentOperationId,
            reason: RELEASE_REASON,
          },
        });
      }
    },
  };
}
