import { NODE_TASKS, type NodeTaskType, type TaskOutput } from '@gpuaas/node-protocol';
import type { z } from 'zod';
import type { CallContext, Tx } from '../../../spine/operation.js';
import type { FinishedNodeTask, NodeTaskOutcome } from '../ports.js';
import { hasRuntime } from '../rules/allocation-state.js';
import { areWiped, decideGuestUp } from '../rules/guest.js';
import { KEY_SYNC_ATTEMPTS } from '../rules/operation-state.js';
import { type LockedAllocation, lockAllocation } from '../store/allocations.js';
import { openSlotClaims } from '../store/claims.js';
import { recordKeySetApplied, recordKeySyncFailed } from '../store/keys.js';

import { appendEvent } from '../store/moves.js';
import { finishBundle } from '../store/runtime-bundles.js';
import { syncKeys } from './key-sync.js';
import { activate, endTeardown, failLaunch, failRestart, type LifecycleServices } from './lifecycle.js';
import { slotsOf } from './runtime-tasks.js';

export interface TaskResult {
  readonly task: FinishedNodeTask;
  readonly outcome: NodeTaskOutcome;
}

/** The node tasks whose results move allocations. */
export const COMPUTE_TASK_TYPES = [
  'allocation.provision_user',
  'allocation.deprovision_user',
  'allocation.restart',
  'allocation.install_authorized_keys',
  'slice.vm_provision',
  'slice.vm_release',
  'slice.restart',
  'runtime_bundle.apply',
] as const satisfies readonly NodeTaskType[];

export interface AllocationTaskResults {
  readonly taskTypes: readonly NodeTaskType[];
  handle(tx: Tx, ctx: CallContext, result: TaskResult): Promise<void>;
}

/**
 * What hosts report about allocations, in the transaction that records the report. A report moves an allocation only
 * as part of its current operation: what comes from one that was overtaken changes nothing.
 */
export function createTaskResults(services: LifecycleServices): AllocationTaskResults {
  return {
    taskTypes: COMPUTE_TASK_TYPES,
    async handle(tx, ctx, result) {
      if (result.task.subjectType !== 'allocation') return;
      const allocation = await lockAllocation(tx, result.task.subjectId);
      if (!allocation) return;
      switch (result.task.type) {
        case 'allocation.provision_user':
        case 'slice.vm_provision':
          return endLaunch(tx, ctx, services, allocation, result);
        case 'allocation.restart':
        case 'slice.restart':
          return endRestart(tx, ctx, services, allocation, result);
        case 'allocation.deprovision_user':
        case 'slice.vm_release':
          return endRelease(tx, ctx, services, allocation, result);
        case 'allocation.install_authorized_keys':
          return endKeySync(tx, ctx, services, allocation, result);
        case 'runtime_bundle.apply':
          return endBundle(tx, ctx, allocation, result);
        default:
          return;
      }
    },
  };
}

function isCurrent(allocation: LockedAllocation, task: FinishedNodeTask): boolean {
  return task.operationId === allocation.currentOperationId;
}

async function endLaunch(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  { task, outcome }: TaskResult,
): Promise<void> {
  if (!isCurrent(allocation, task)) return;
  // Failed by its deadline meanwhile: the teardown that follows it takes away what the host has just made.
  if (allocation.status !== 'requested' && allocation.status !== 'provisioning') return;
  if (allocation.capacityShape === 'gpu_slice') {
    const output = NODE_TASKS['slice.vm_provision'].output.safeParse(outcome.output);
    const guest = await guestOf(tx, allocation, output, outcome);
    if (!guest.ok) return failLaunch(tx, ctx, services, allocation, guest.reason);
    // The guest was made with the keys that its launch named.
    const params = NODE_TASKS['slice.vm_provision'].params.parse(task.params);
    await appendEvent(tx, allocation, { name: 'ssh_ready', status: 'succeeded' }, ctx.clock.now());
    return activate(tx, ctx, services, allocation, { keySetVersion: params.key_set_version, address: guest.address });
  }
  const output = NODE_TASKS['allocation.provision_user'].output.safeParse(outcome.output);
  if (outcome.status !== 'completed' || !output.success) {
    return failLaunch(tx, ctx, services, allocation, reasonOf(outcome));
  }
  // Its address is the one that the operator registered: what a host says of itself must not send tenants elsewhere.
  const keySetVersion = Math.min(output.data.authorized_keys.version, allocation.keySetVersion);
  return activate(tx, ctx, services, allocation, { keySetVersion });
}

const SSH_PORT = 22;

/** A guest serves once someone can log in to it. */
async function guestOf(
  tx: Tx,
  allocation: LockedAllocation,
  output: z.ZodSafeParseResult<TaskOutput<'slice.vm_provision'>>,
  outcome: NodeTaskOutcome,
): Promise<{ ok: true; address: { host: string; port: number } } | { ok: false; reason: string }> {
  if (outcome.status !== 'completed' || !output.success) return { ok: false, reason: reasonOf(outcome) };
  const { slots } = slotsOf(allocation.id, await openSlotClaims(tx, allocation.id));
  const { private_ip: privateIp, domstate: domainState, ssh_reachable: sshReachable } = output.data;
  const proof = decideGuestUp(
    { privateIp, domainState, sshReachable },
    slots.flatMap((slot) => slot.private_ip ?? []),
  );
  return proof.ok ? { ok: true, address: { host: proof.host, port: SSH_PORT } } : proof;
}

async function endRestart(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  { task, outcome }: TaskResult,
): Promise<void> {
  if (!isCurrent(allocation, task) || allocation.status !== 'restarting') return;
  if (allocation.capacityShape === 'gpu_slice') {
    const output = NODE_TASKS['slice.restart'].output.safeParse(outcome.output);
    const guest = await guestOf(tx, allocation, output, outcome);
    if (!guest.ok) return failRestart(tx, ctx, services, allocation, guest.reason);
    if (output.data?.boot_id === output.data?.previous_boot_id) {
      return failRestart(tx, ctx, services, allocation, 'not_restarted');
    }
    return activate(tx, ctx, services, allocation, { keySetVersion: null, address: guest.address });
  }
  const output = NODE_TASKS['allocation.restart'].output.safeParse(outcome.output);
  if (outcome.status !== 'completed' || !output.success) {
    return failRestart(tx, ctx, services, allocation, reasonOf(outcome));
  }
  // The same boot id would mean that nothing was restarted.
  if (output.data.boot_id === output.data.previous_boot_id) {
    return failRestart(tx, ctx, services, allocation, 'not_restarted');
  }
  return activate(tx, ctx, services, allocation, { keySetVersion: null });
}

async function endRelease(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  { task, outcome }: TaskResult,
): Promise<void> {
  if (!isCurrent(allocation, task)) return;
  if (allocation.capacityShape === 'gpu_slice') {
    const output = NODE_TASKS['slice.vm_release'].output.safeParse(outcome.output);
    const { slots } = NODE_TASKS['slice.vm_release'].params.parse(task.params);
    const clean = outcome.status === 'completed' && output.success && output.data.clean;
    // Whoever comes next must not find a stranger's data, whatever the host calls clean.
    const proven = clean && areWiped(slots, output.data.wiped);
    const reason = clean ? 'disks_not_wiped' : output.success && !output.data.clean ? 'leftovers' : reasonOf(outcome);
    return endTeardown(tx, ctx, services, allocation, { proven, reason });
  }
  const output = NODE_TASKS['allocation.deprovision_user'].output.safeParse(outcome.output);
  const proven = outcome.status === 'completed' && output.success && output.data.clean;
  const reason = output.success && !output.data.clean ? 'leftovers' : reasonOf(outcome);
  return endTeardown(tx, ctx, services, allocation, { proven, reason });
}

/** Keys go by their version, not by an operation: the newest set counts, whichever task brought it. */
async function endKeySync(
  tx: Tx,
  ctx: CallContext,
  services: LifecycleServices,
  allocation: LockedAllocation,
  { outcome }: TaskResult,
): Promise<void> {
  const output = NODE_TASKS['allocation.install_authorized_keys'].output.safeParse(outcome.output);
  if (outcome.status === 'completed' && output.success) {
    return recordKeySetApplied(tx, allocation.id, Math.min(output.data.version, allocation.keySetVersion));
  }
  const stale = (allocation.keySetAppliedVersion ?? 0) < allocation.keySetVersion;
  if (!hasRuntime(allocation.status) || !stale) return;
  if (allocation.keySyncAttempts < KEY_SYNC_ATTEMPTS) return syncKeys(tx, ctx, services.fleet, allocation);
  const reason = reasonOf(outcome);
  await recordKeySyncFailed(tx, allocation.id, reason);
  await appendEvent(tx, allocation, { name: 'key_sync_failed', status: 'failed', summary: reason }, ctx.clock.now());
}

async function endBundle(
  tx: Tx,
  ctx: CallContext,
  allocation: LockedAllocation,
  { task, outcome }: TaskResult,
): Promise<void> {
  const applied = outcome.status === 'completed';
  const now = ctx.clock.now();
  await finishBundle(tx, task.id, applied ? { applied } : { applied, reason: reasonOf(outcome) }, now);
  await appendEvent(
    tx,
    allocation,
    { name: applied ? 'runtime_bundle_active' : 'runtime_bundle_failed', status: applied ? 'succeeded' : 'failed' },
    now,
  );
}

/** A code, never a host's own words: those name its paths and devices, and a tenant reads this. */
function reasonOf(outcome: NodeTaskOutcome): string {
  if (outcome.status === 'expired') return 'host_did_not_answer';
  if (outcome.status === 'completed') return 'unusable_result';
  const code = /^([a-z][a-z0-9_]{1,63})(:|$)/.exec(outcome.error ?? '')?.[1];
  return code ?? `host_${outcome.status}`;
}
