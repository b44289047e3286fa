import type { CallContext, Tx } from '../../../spine/operation.js';
import type { FleetPort } from '../ports.js';
import type { LockedAllocation } from '../store/allocations.js';
import { bundleEnvironment, findPendingBundle, markBundleQueued } from '../store/runtime-bundles.js';

/** Sends the bundle that waited for the activation, if there is one. */
export async function applyPendingBundle(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  allocation: LockedAllocation,
): Promise<void> {
  const pending = await findPendingBundle(tx, allocation.id);
  if (!pending || allocation.nodeId === null) return;
  const taskId = await fleet.queueNodeTask(tx, ctx, {
    nodeId: allocation.nodeId,
    type: 'runtime_bundle.apply',
    params: {
      allocation_id: allocation.id,
      slug: pending.slug,
      version: pending.version,
      env: bundleEnvironment(pending),
    },
    operationId: null,
    subjectType: 'allocation',
    subjectId: allocation.id,
  });
  await markBundleQueued(tx, pending.id, taskId, ctx.clock.now());
}
