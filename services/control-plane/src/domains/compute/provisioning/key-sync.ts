import type { CallContext, Tx } from '../../../spine/operation.js';
import type { FleetPort } from '../ports.js';
import { hasRuntime } from '../rules/allocation-state.js';
import type { LockedAllocation } from '../store/allocations.js';
import { keySetOf, raiseKeySetVersion, recordKeySyncQueued } from '../store/keys.js';

/**
 * Makes what the tables say the newest key set and sends it to the host if the runtime is there; before that, the
 * activation sends it. Returns whether it was sent.
 */
export async function changeKeySet(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  allocation: LockedAllocation,
): Promise<{ readonly version: number; readonly queued: boolean }> {
  const version = await raiseKeySetVersion(tx, allocation.id, ctx.clock.now());
  if (!hasRuntime(allocation.status)) return { version, queued: false };
  await syncKeys(tx, ctx, fleet, { ...allocation, keySetVersion: version });
  return { version, queued: true };
}

/** Sends the full set under its version: a host that gets sets out of order keeps the newest. */
export async function syncKeys(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  allocation: Pick<LockedAllocation, 'id' | 'username' | 'uid' | 'nodeId' | 'keySetVersion'>,
): Promise<void> {
  if (allocation.nodeId === null) throw new Error(`allocation ${allocation.id} has no host`);
  const taskId = await fleet.queueNodeTask(tx, ctx, {
    nodeId: allocation.nodeId,
    type: 'allocation.install_authorized_keys',
    params: {
      allocation_id: allocation.id,
      username: allocation.username,
      uid: allocation.uid,
      keys: await keySetOf(tx, allocation.id),
      key_set_version: allocation.keySetVersion,
    },
    // not of the lifecycle: a key set is good or stale by its version, whatever operation runs
    operationId: null,
    subjectType: 'allocation',
    subjectId: allocation.id,
  });
  await recordKeySyncQueued(tx, allocation.id, taskId);
}
