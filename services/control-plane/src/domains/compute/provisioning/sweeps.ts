import { errorChain } from '@gpuaas/kernel';
import type { CallContext, Reader, Tx } from '../../../spine/operation.js';
import type { PeriodicJob } from '../../../spine/periodic-jobs.js';
import type { Policies } from '../../../spine/policy-registry.js';
import { inTransaction } from '../../../spine/transaction.js';
import { isMetered } from '../rules/allocation-state.js';
import { isOperationOpen } from '../rules/operation-state.js';
import { lockAllocation } from '../store/allocations.js';
import { findOverdueOperations, getOperation } from '../store/operations.js';
import { continueWatch } from '../store/runtime-watch.js';
import { findLostRuntimes, lastSignOfLife } from '../views/lost-runtimes.js';
import { failLaunch, failRelease, failRestart, type LifecycleServices, loseRuntime } from './lifecycle.js';

const BATCH = 100;

/** One transaction each, and each for itself: an allocation that cannot be moved must not hold up the others. */
async function apart(
  ctx: CallContext,
  allocationId: string,
  db: Reader,
  work: (tx: Tx) => Promise<void>,
): Promise<void> {
  try {
    await inTransaction(db, work);
  } catch (error) {
    ctx.log.error({ error: errorChain(error), allocation_id: allocationId }, 'an allocation could not be swept');
  }
}

/** Operations whose time is over have failed, whatever became of their node tasks. */
export function overdueOperationsJob(services: LifecycleServices): PeriodicJob {
  return {
    name: 'compute.overdue-operations',
    everyMilliseconds: 15_000,
    async run(db, ctx, signal) {
      const overdue = await findOverdueOperations(db, ctx.clock.now(), BATCH);
      for (const { allocationId, operationId } of overdue) {
        if (signal.aborted) return;
        await apart(ctx, allocationId, db, async (tx) => {
          const allocation = await lockAllocation(tx, allocationId);
          if (!allocation || allocation.currentOperationId !== operationId) return;
          const operation = await getOperation(tx, operationId);
          if (!isOperationOpen(operation.status) || operation.deadline_at > ctx.clock.now()) return;
          await expireOperation(tx, { ...ctx, correlationId: operation.correlation_id }, services, allocation);
        });
      }
    },
  };
}

async function expireOperation(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: Parameters<typeof failLaunch>[3],
): Promise<void> {
  switch (allocation.status) {
    case 'requested':
    case 'provisioning':
      return failLaunch(tx, ctx, services, allocation, DEADLINE);
    case 'releasing':
      return failRelease(tx, ctx, services, allocation, DEADLINE);
    case 'restarting':
      return failRestart(tx, ctx, services, allocation, DEADLINE);
    default:
      return;
  }
}

const DEADLINE = 'deadline_exceeded';

/**
 * Fails what serves on a host that has been silent for the time that the site allows, all of which somebody listened.
 * Work may still run there: the claim stays until the host or a person says otherwise.
 */
export function lostRuntimesJob(services: LifecycleServices, policies: Pick<Policies, 'policyNumber'>): PeriodicJob {
  return {
    name: 'compute.lost-runtimes',
    everyMilliseconds: 60_000,
    async run(db: Reader, ctx, signal) {
      const seconds = await policies.policyNumber(db, 'allocation.runtime_lost_after_seconds', {});
      const now = ctx.clock.now();
      const silentSince = new Date(now.getTime() - seconds * 1000);
      if ((await continueWatch(db, now)) > silentSince) return;
      for (const { allocationId } of await findLostRuntimes(db, silentSince, BATCH)) {
        if (signal.aborted) return;
        await apart(ctx, allocationId, db, async (tx) => {
          const allocation = await lockAllocation(tx, allocationId);
          if (!allocation || !isMetered(allocation.status) || allocation.nodeId === null) return;
          const lastSeenAt = await lastSignOfLife(tx, allocation.nodeId);
          if (lastSeenAt === null || lastSeenAt >= silentSince) return;
          // A host that has been silent since before the launch became active was never paid for.
          const servedUntil =
            allocation.activeAt && allocation.activeAt > lastSeenAt ? allocation.activeAt : lastSeenAt;
          await loseRuntime(tx, ctx, services, allocation, servedUntil);
        });
      }
    },
  };
}
