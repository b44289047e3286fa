import { newId, type OperationRunId } from '@gpuaas/kernel';
import type { CallContext, Tx } from '../../../spine/operation.js';
import { publish } from '../../../spine/outbox.js';
import { Refusal, refuse } from '../../../spine/refusal.js';
import type { FleetPort, FundsPort, MeteringPort } from '../ports.js';
import {
  type AllocationEvent,
  type AllocationStatus,
  advance,
  meteringEffect,
  type Step,
} from '../rules/allocation-state.js';
import { type SlotEvent, slotEventOf } from '../rules/claim-state.js';
import { OPERATION_DEADLINE_SECONDS } from '../rules/operation-state.js';
import { decideTeardown } from '../rules/teardown.js';
import type { LockedAllocation } from '../store/allocations.js';
import { openSlotClaims, type SlotClaim } from '../store/claims.js';
import { appendEvent, type Move, moveClaims, recordMove } from '../store/moves.js';
import { countAttempt, getOperation } from '../store/operations.js';
import { findQueuedTask } from '../views/node-tasks.js';
import { syncKeys } from './key-sync.js';
import { applyPendingBundle } from './runtime-bundles.js';
import { queueRestartTask, queueTeardownTask } from './runtime-tasks.js';

/** What moving an allocation needs of others. */
export interface LifecycleServices {
  readonly funds: FundsPort;
  readonly metering: MeteringPort;
  readonly fleet: FleetPort;
}

/** The moment at which an operation that begins now has failed. */
export function operationDeadline(now: Date): Date {
  return new Date(now.getTime() + OPERATION_DEADLINE_SECONDS * 1000);
}

export interface ReleaseRequest {
  readonly forced: boolean;
  readonly reason: string | null;
}

/**
 * Accepts the release of a locked allocation: from here on nothing is billed. What no host has seen ends at once;
 * else the host is told to take everything away, and only its proof frees the hardware.
 */
export async function beginRelease(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  request: ReleaseRequest,
): Promise<LockedAllocation> {
  const to = accepted(advance(allocation.status, 'release'));
  const now = ctx.clock.now();
  const operationId = newId<'operation'>();
  const withdrawn = await withdrawCurrent(tx, ctx, services.fleet, allocation);
  const unseen = withdrawn && allocation.activeAt === null;

  await settle(tx, ctx, services, allocation, to, now);
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { releasing_at: now, release_failed_at: null, release_failed_reason: null },
    operation: {
      id: operationId,
      begin: {
        kind: 'release',
        forced: request.forced,
        reason: request.reason,
        correlationId: ctx.correlationId,
        deadlineAt: operationDeadline(now),
      },
    },
    event: { name: request.forced ? 'force_release_requested' : 'release_requested', status: 'succeeded' },
    endsGrants: true,
  });
  const releasing = { ...allocation, status: to, currentOperationId: operationId };

  if (request.forced) {
    await publishAllocation(tx, ctx, 'force_release_requested', releasing, {
      user_id: allocation.requestedByUserId,
      reason: request.reason,
    });
  }
  await publishAllocation(tx, ctx, 'releasing.requested', releasing, {});
  if (unseen) return release(tx, ctx, services, releasing);
  await queueTeardownTask(tx, ctx, services.fleet, releasing, OPERATION_DEADLINE_SECONDS);
  return releasing;
}

/** Whether a launch or a restart could be taken back before its host has seen it. */
async function withdrawCurrent(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  allocation: LockedAllocation,
): Promise<boolean> {
  if (!['requested', 'provisioning', 'restarting'].includes(allocation.status)) return false;
  const taskId = await findQueuedTask(tx, allocation.id, allocation.currentOperationId);
  return taskId !== null && fleet.withdrawNodeTask(tx, ctx, taskId);
}

/** Accepts the restart of a locked allocation. Its place, account, keys and disk stay. */
export async function beginRestart(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
): Promise<LockedAllocation> {
  const to = accepted(advance(allocation.status, 'restart'));
  const now = ctx.clock.now();
  const operationId = newId<'operation'>();
  await settle(tx, ctx, services, allocation, to, now);
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { restart_failed_at: null, restart_failed_reason: null },
    operation: {
      id: operationId,
      begin: {
        kind: 'restart',
        forced: false,
        reason: null,
        correlationId: ctx.correlationId,
        deadlineAt: operationDeadline(now),
      },
    },
    event: { name: 'restart_requested', status: 'succeeded' },
  });
  const restarting = { ...allocation, status: to, currentOperationId: operationId };
  await queueRestartTask(tx, ctx, services.fleet, restarting, OPERATION_DEADLINE_SECONDS);
  return restarting;
}

/** The host has taken the launch. */
export async function markProvisioning(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
): Promise<void> {
  const now = ctx.clock.now();
  await move(tx, ctx, services, {
    allocation,
    to: expected(allocation.status, 'dispatch'),
    at: now,
    milestones: { provisioning_started_at: now },
    operation: { id: allocation.currentOperationId, status: 'running' },
    event: { name: 'provisioning_started', status: 'succeeded' },
  });
}

/**
 * The runtime serves: after a launch or after a restart. Opens the usage window in the same transaction, and brings
 * what was asked for meanwhile.
 */
export async function activate(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  proof: {
    readonly keySetVersion: number | null;
    /** of a guest, which had none before */
    readonly address?: { readonly host: string; readonly port: number };
  },
): Promise<void> {
  const to = expected(allocation.status, 'activate');
  const now = ctx.clock.now();
  const first = allocation.activeAt === null;
  await settle(tx, ctx, services, allocation, to, now);
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: {
      ...(first && { active_at: now }),
      ...(allocation.status === 'requested' && { provisioning_started_at: now }),
      ...(proof.keySetVersion !== null && { key_set_applied_version: proof.keySetVersion }),
      ...(proof.address && { connection_host: proof.address.host, connection_port: proof.address.port }),
    },
    operation: { id: allocation.currentOperationId, status: 'succeeded' },
    event: { name: first ? 'active' : 'restarted', status: 'succeeded' },
  });
  const active: LockedAllocation = {
    ...allocation,
    status: to,
    activeAt: allocation.activeAt ?? now,
    keySetAppliedVersion: proof.keySetVersion ?? allocation.keySetAppliedVersion,
  };
  if (first) await publishAllocation(tx, ctx, 'active', active, { started_at: now.toISOString() });
  if ((active.keySetAppliedVersion ?? 0) < active.keySetVersion) await syncKeys(tx, ctx, services.fleet, active);
  await applyPendingBundle(tx, ctx, services.fleet, active);
}

/** The launch ended without a runtime that serves. What it may have left behind is taken away; until then it occupies. */
export async function failLaunch(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  reason: string,
): Promise<void> {
  const failed = await endUnserved(tx, ctx, services, allocation, 'fail', reason, 'failed');
  await retryTeardown(tx, ctx, services, failed);
}

/**
 * Ends a launch by an operator's word, without asking its host: what it occupies is free where someone has verified that
 * nothing is there, and waits for such a word where nobody has.
 */
export async function abandonLaunch(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  facts: { readonly verifiedAbsent: boolean },
): Promise<LockedAllocation> {
  const failed = await endUnserved(tx, ctx, services, allocation, 'fail', 'force_cleanup', 'failed');
  if (facts.verifiedAbsent) await freeClaims(tx, ctx, services, failed);
  else await blockClaims(tx, ctx, services, failed, 'runtime_absence_not_verified');
  return failed;
}

/** The host of a serving allocation is gone for too long: nothing is billed from its last sign of life on. */
export async function loseRuntime(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  lastSeenAt: Date,
): Promise<void> {
  const lost = await endUnserved(tx, ctx, services, allocation, 'lose', 'runtime_lost', 'runtime_lost', lastSeenAt);
  await retryTeardown(tx, ctx, services, lost);
}

async function endUnserved(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  cause: 'fail' | 'lose',
  reason: string,
  eventName: string,
  servedUntil?: Date,
): Promise<LockedAllocation> {
  const to = expected(allocation.status, cause);
  const now = ctx.clock.now();
  await settle(tx, ctx, services, allocation, to, servedUntil ?? now, servedUntil !== undefined);
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { failed_at: now, failure_reason: reason },
    operation: { id: allocation.currentOperationId, status: 'failed', failureReason: reason },
    event: { name: eventName, status: 'failed', summary: reason },
    endsGrants: true,
  });
  const failed = { ...allocation, status: to };
  await publishAllocation(tx, ctx, 'failed', failed, { reason });
  return failed;
}

/** A restart that did not bring the runtime back. The claim stays; the owner may restart again or release. */
export async function failRestart(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  reason: string,
): Promise<void> {
  const to = expected(allocation.status, 'fail');
  const now = ctx.clock.now();
  await settle(tx, ctx, services, allocation, to, now);
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { restart_failed_at: now, restart_failed_reason: reason },
    operation: { id: allocation.currentOperationId, status: 'failed', failureReason: reason },
    event: { name: 'restart_failed', status: 'failed', summary: reason },
  });
}

/** A release that could not be proven in time: the claim stays and blocks. */
export async function failRelease(
  tx: Tx,
  ctx: CallContext,
  services: Pick<LifecycleServices, 'fleet'>,
  allocation: LockedAllocation,
  reason: string,
): Promise<void> {
  const to = expected(allocation.status, 'fail');
  const now = ctx.clock.now();
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { release_failed_at: now, release_failed_reason: reason },
    operation: { id: allocation.currentOperationId, status: 'failed', failureReason: reason },
    event: { name: 'release_failed', status: 'failed', summary: reason },
  });
  await publishAllocation(
    tx,
    ctx,
    'release_failed',
    { ...allocation, status: to },
    {
      failed_at: now.toISOString(),
      reason,
    },
  );
}

export interface TeardownResult {
  readonly proven: boolean;
  readonly reason: string;
}

/** A teardown task of the current operation has ended. */
export async function endTeardown(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  result: TeardownResult,
): Promise<void> {
  const operation = await getOperation(tx, allocation.currentOperationId);
  const decision = decideTeardown({
    status: allocation.status,
    proven: result.proven,
    attempts: operation.attempts,
    overdue: ctx.clock.now() >= operation.deadline_at,
  });
  switch (decision) {
    case 'release':
      await release(tx, ctx, services, allocation);
      return;
    case 'free_claims':
      await freeClaims(tx, ctx, services, allocation);
      return;
    case 'retry':
      await retryTeardown(tx, ctx, services, allocation);
      return;
    case 'fail_release':
      await failRelease(tx, ctx, services, allocation, result.reason);
      return;
    case 'block_claims':
      await blockClaims(tx, ctx, services, allocation, result.reason);
      return;
    case 'ignore':
      return;
  }
}

/** Ends an allocation whose absence is proven, or vouched for by an operator: its hardware is free from now on. */
export async function release(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
): Promise<LockedAllocation> {
  const to = expected(allocation.status, 'tornDown');
  const now = ctx.clock.now();
  await move(tx, ctx, services, {
    allocation,
    to,
    at: now,
    milestones: { released_at: now },
    operation: { id: allocation.currentOperationId, status: 'succeeded' },
    event: { name: 'released', status: 'succeeded' },
  });
  await publishAllocation(
    tx,
    ctx,
    'releasing.completed',
    { ...allocation, status: to },
    {
      released_at: now.toISOString(),
    },
  );
  if (allocation.nodeId !== null) await services.fleet.claimsEnded(tx, ctx, allocation.nodeId);
  return { ...allocation, status: to };
}

/** Gives back what a failed launch occupied; the allocation stays failed. */
export async function freeClaims(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
): Promise<void> {
  const now = ctx.clock.now();
  const claims = await openSlotClaims(tx, allocation.id);
  const freed = await moveClaims(tx, allocation.id, 'released', now);
  if (freed === 0) return;
  await moveSlots(tx, ctx, services.fleet, allocation, claims, 'free', null);
  await appendEvent(tx, allocation, { name: 'cleanup_completed', status: 'succeeded' }, now);
  if (allocation.nodeId !== null) await services.fleet.claimsEnded(tx, ctx, allocation.nodeId);
}

async function blockClaims(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  reason: string,
): Promise<void> {
  const now = ctx.clock.now();
  const claims = await openSlotClaims(tx, allocation.id);
  const blocked = await moveClaims(tx, allocation.id, 'failed', now);
  if (blocked === 0) return;
  await moveSlots(tx, ctx, services.fleet, allocation, claims, 'block', reason);
  await appendEvent(tx, allocation, { name: 'cleanup_blocked', status: 'failed', summary: reason }, now);
}

/** Sends one more teardown. A host that may not be given one any more cannot prove anything: that ends the attempts. */
async function retryTeardown(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
): Promise<void> {
  const now = ctx.clock.now();
  await countAttempt(tx, allocation.currentOperationId, now);
  const seconds = allocation.status === 'failed' ? OPERATION_DEADLINE_SECONDS : await secondsLeft(tx, allocation, now);
  try {
    await queueTeardownTask(tx, ctx, services.fleet, allocation, seconds);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const reason = error.details?.reason ?? error.code;
    if (allocation.status === 'failed') await blockClaims(tx, ctx, services, allocation, reason);
    else await failRelease(tx, ctx, services, allocation, reason);
  }
}

async function secondsLeft(tx: Tx, allocation: LockedAllocation, now: Date): Promise<number> {
  const operation = await getOperation(tx, allocation.currentOperationId);
  return Math.max(1, Math.ceil((operation.deadline_at.getTime() - now.getTime()) / 1000));
}

/**
 * Money goes with the status: the usage window is open exactly while the allocation is metered, from and to the moment
 * `at` of the move, and the hour that was set aside at launch is given back where it never served; with `givesBack` so
 * is what was charged already for the time after `at`. Wallets are locked before claims and nodes.
 */
async function settle(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  to: AllocationStatus,
  at: Date,
  givesBack = false,
): Promise<void> {
  switch (meteringEffect(allocation.status, to)) {
    case 'start':
      await services.metering.start(tx, ctx, {
        source: 'allocation',
        allocationId: allocation.id,
        tenantId: allocation.tenantId,
        projectId: allocation.projectId,
        userId: allocation.requestedByUserId,
        sku: allocation.sku,
        unit: allocation.billingUnit,
        units: allocation.billingUnits,
        unitPriceMinor: allocation.unitPriceMinor,
        currency: allocation.currency,
        startedAt: at,
      });
      return;
    case 'stop':
      await services.metering.stop(tx, ctx, {
        allocationId: allocation.id,
        endedAt: at,
        givesBack,
      });
      return;
    case 'none':
      if (allocation.activeAt === null && (to === 'releasing' || to === 'failed')) {
        await services.funds.release(tx, allocation.id);
      }
  }
}

export type ProvisioningEvent =
  | 'requested'
  | 'active'
  | 'failed'
  | 'force_release_requested'
  | 'releasing.requested'
  | 'releasing.completed'
  | 'release_failed';

export async function publishAllocation(
  tx: Tx,
  ctx: CallContext,
  name: ProvisioningEvent,
  allocation: Pick<LockedAllocation, 'id' | 'tenantId' | 'projectId' | 'requestedByUserId' | 'status'> & {
    readonly currentOperationId: OperationRunId;
  },
  facts: Readonly<Record<string, unknown>>,
): Promise<void> {
  await publish(tx, ctx, {
    type: `gpuaas.provisioning.${name}`,
    aggregateType: 'allocation',
    aggregateId: allocation.id,
    payload: {
      allocation_id: allocation.id,
      operation_id: allocation.currentOperationId,
      tenant_id: allocation.tenantId,
      project_id: allocation.projectId,
      requested_by_user_id: allocation.requestedByUserId,
      status: allocation.status,
      ...facts,
    },
  });
}

/** Moves the allocation with everything that goes with it, its slots included. */
async function move(
  tx: Tx,
  ctx: CallContext,
  services: Pick<LifecycleServices, 'fleet'>,
  change: Omit<Move, 'allocation'> & { readonly allocation: LockedAllocation },
): Promise<void> {
  const { allocation, to } = change;
  const event = slotEventOf(allocation.status, to);
  const claims =
    event !== null && allocation.capacityShape === 'gpu_slice' ? await openSlotClaims(tx, allocation.id) : [];
  await recordMove(tx, change);
  if (event !== null) await moveSlots(tx, ctx, services.fleet, allocation, claims, event, change.event.summary ?? null);
}

async function moveSlots(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  allocation: LockedAllocation,
  claims: readonly SlotClaim[],
  event: SlotEvent,
  reason: string | null,
): Promise<void> {
  if (claims.length === 0) return;
  await fleet.moveSlots(tx, ctx, {
    slotIds: claims.map((claim) => claim.slotId),
    event,
    allocationId: allocation.id,
    ...(reason !== null && { reason }),
  });
}

/** The status after a move that a caller asked for. */
function accepted(step: Step<AllocationStatus>): AllocationStatus {
  if (!step.ok) throw refuse(step.code, step.reason === undefined ? undefined : { reason: step.reason });
  return step.to;
}

/** The status after a move that the platform makes; whoever makes an illegal one has not looked at the status. */
function expected(from: AllocationStatus, event: AllocationEvent): AllocationStatus {
  const step = advance(from, event);
  if (!step.ok) throw new Error(`an allocation that is ${from} cannot ${event}`);
  return step.to;
}
