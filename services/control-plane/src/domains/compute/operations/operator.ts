import type { RequestBody, Schema } from '@gpuaas/contract';
import { assertNever } from '@gpuaas/kernel';
import { HEARTBEAT_FRESH_SECONDS } from '@gpuaas/node-protocol';
import {
  type CommandContext,
  command,
  type OperationHandlers,
  query,
  type Reader,
  type Tx,
} from '../../../spine/operation.js';
import { POLICY_DEFINITIONS, type Policies, setPolicyValue } from '../../../spine/policy-registry.js';
import { Refusal, refuse } from '../../../spine/refusal.js';
import { toWireTime } from '../../../spine/wire.js';
import type { AdmissionServices } from '../admission/admit.js';
import { abandonLaunch, beginRelease, release } from '../provisioning/lifecycle.js';
import { type CleanupEffect, decideForceCleanup } from '../rules/force-cleanup.js';
import { CONCURRENCY_POLICY } from '../rules/limits.js';
import { hasOpenClaims, type LockedAllocation, lockAllocation } from '../store/allocations.js';
import { isBlocked } from '../store/claims.js';
import { appendLimitVersion, findLatestLimitVersion } from '../store/limit-versions.js';
import { claimedAllocationView, getClaimedAllocation } from '../views/allocation-view.js';
import { lastSignOfLife } from '../views/lost-runtimes.js';
import { findQueuedTask } from '../views/node-tasks.js';
import { auditLifecycle, mutationResult } from './allocations.js';

/** What operators do to allocations of every tenant, and the limit that holds for all of them. */
export function operatorOperations(services: AdmissionServices) {
  const setConcurrencyPolicy = command<'adminSetAllocationConcurrencyPolicy'>(async ({ tx, ctx, body }) => ({
    status: 200,
    body: await setLimit(tx, ctx, services.policies, body),
  }));
  const getConcurrencyPolicy = query<'adminGetAllocationConcurrencyPolicy'>(async ({ db }) => ({
    status: 200,
    body: await policyView(db, services.policies),
  }));

  return {
    adminForceReleaseAllocation: command<'adminForceReleaseAllocation'>(async ({ tx, ctx, path, body }) => {
      const before = await lockAny(tx, path.allocation_id);
      const after = await beginRelease(tx, ctx, services, before, { forced: true, reason: body.reason });
      await auditLifecycle(tx, ctx, 'allocation.force_release', before, after, { reason: body.reason });
      return { status: 202, body: await releaseResponse(tx, ctx, before, after) };
    }),

    /** An operator's word in place of the proof that a silent host cannot give. */
    adminForceCleanupAllocation: command<'adminForceCleanupAllocation'>(async ({ tx, ctx, path, body }) => {
      const before = await lockAny(tx, path.allocation_id);
      const decision = decideForceCleanup({
        status: before.status,
        guest: before.capacityShape === 'gpu_slice',
        blocked: await isBlocked(tx, before.id),
        occupies: await hasOpenClaims(tx, before.id),
        verifiedAbsent: body.runtime_verified_absent === true,
        hostResponds: await responds(tx, ctx, before),
      });
      if (!decision.ok) {
        throw new Refusal(decision.code, {
          status: decision.status,
          details: { reason: decision.reason, current_status: before.status },
          message: decision.message,
        });
      }
      // Nobody has to clean up any more; a host that comes back must not do it to whoever is there by then.
      const task = await findQueuedTask(tx, before.id, before.currentOperationId);
      if (task !== null) await services.fleet.withdrawNodeTask(tx, ctx, task);
      const after = await applyCleanup(tx, ctx, services, before, decision.effect);
      await auditLifecycle(tx, ctx, 'allocation.force_cleanup', before, after, {
        reason: body.reason,
        runtime_verified_absent: body.runtime_verified_absent === true,
        effect: decision.effect,
      });
      return { status: 200, body: await releaseResponse(tx, ctx, before, after) };
    }),

    adminGetAllocationConcurrencyPolicy: getConcurrencyPolicy,
    getV3PlatformConfigAllocationConcurrencyPolicyCompat: getConcurrencyPolicy,

    adminSetAllocationConcurrencyPolicy: setConcurrencyPolicy,
    setV3PlatformConfigAllocationConcurrencyPolicyCompat: setConcurrencyPolicy,
  } satisfies OperationHandlers;
}

async function lockAny(tx: Tx, id: string): Promise<LockedAllocation> {
  const allocation = await lockAllocation(tx, id);
  if (!allocation) throw refuse('allocation_not_found');
  return allocation;
}

function applyCleanup(
  tx: Tx,
  ctx: CommandContext,
  services: AdmissionServices,
  allocation: LockedAllocation,
  effect: CleanupEffect,
): Promise<LockedAllocation> {
  switch (effect) {
    case 'release':
      return release(tx, ctx, services, allocation);
    case 'fail_and_free':
      return abandonLaunch(tx, ctx, services, allocation, { verifiedAbsent: true });
    case 'fail_and_block':
      return abandonLaunch(tx, ctx, services, allocation, { verifiedAbsent: false });
    default:
      return assertNever(effect);
  }
}

async function responds(tx: Tx, ctx: CommandContext, allocation: LockedAllocation): Promise<boolean> {
  if (allocation.nodeId === null) return false;
  const lastSeenAt = await lastSignOfLife(tx, allocation.nodeId);
  return lastSeenAt !== null && ctx.clock.now().getTime() - lastSeenAt.getTime() <= HEARTBEAT_FRESH_SECONDS * 1000;
}

async function releaseResponse(
  tx: Tx,
  ctx: CommandContext,
  before: LockedAllocation,
  after: LockedAllocation,
): Promise<Schema<'ReleaseAllocationResponse'>> {
  return {
    allocation: claimedAllocationView(await getClaimedAllocation(tx, after.id)),
    operation: mutationResult(ctx, 'release', before, after),
  };
}

/** Lowering the limit ends nothing that runs: it only refuses more. */
async function setLimit(
  tx: Tx,
  ctx: CommandContext,
  policies: Pick<Policies, 'policyNumber'>,
  body: RequestBody<'adminSetAllocationConcurrencyPolicy'>,
): Promise<Schema<'AdminAllocationConcurrencyPolicy'>> {
  await setPolicyValue(tx, ctx, { key: CONCURRENCY_POLICY, scope: 'global', scopeId: '', value: body.value });
  await appendLimitVersion(tx, {
    value: body.value,
    reason: body.reason ?? null,
    createdByUserId: ctx.principal.kind === 'user' ? ctx.principal.userId : null,
    correlationId: ctx.correlationId,
    now: ctx.clock.now(),
  });
  return policyView(tx, policies);
}

async function policyView(
  reader: Reader,
  policies: Pick<Policies, 'policyNumber'>,
): Promise<Schema<'AdminAllocationConcurrencyPolicy'>> {
  const definition = POLICY_DEFINITIONS[CONCURRENCY_POLICY];
  const version = await findLatestLimitVersion(reader);
  return {
    policy_key: CONCURRENCY_POLICY,
    description: definition.description,
    value_type: 'integer',
    scope_type: 'global',
    value: await policies.policyNumber(reader, CONCURRENCY_POLICY, {}),
    default_value: definition.default,
    bounds: { min_value: definition.minimum, max_value: definition.maximum },
    effective_at: toWireTime(version.created_at),
    created_at: toWireTime(version.created_at),
    created_by_user_id: version.created_by_user_id,
    reason: version.reason,
    correlation_id: version.correlation_id,
  };
}
