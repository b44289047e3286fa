import type { AllocationId, NodeId, OperationRunId } from '@gpuaas/kernel';
import { type ManagedKey, NODE_TASKS, type TaskParams } from '@gpuaas/node-protocol';
import type { CallContext, Tx } from '../../../spine/operation.js';
import type { FleetPort, NodeTaskRequest } from '../ports.js';
import type { CapacityShape } from '../rules/sku.js';
import { openSlotClaims, type SlotClaim } from '../store/claims.js';

/** An allocation as its host is told of it. */
export interface Runtime {
  readonly id: AllocationId;
  readonly capacityShape: CapacityShape | null;
  readonly nodeId: NodeId | null;
  readonly username: string;
  readonly uid: number;
  readonly currentOperationId: OperationRunId;
}

/** What a guest is made from. */
export interface GuestShape {
  readonly imageRef: string;
  readonly digestSha256: string;
  readonly vcpuCount: number;
  readonly memoryMib: number;
}

export interface LaunchTask {
  readonly keys: readonly ManagedKey[];
  readonly keySetVersion: number;
  /** null for a whole host, which is not made from anything */
  readonly guest: GuestShape | null;
  readonly expiresInSeconds: number;
}

/** Tells the host to bring the runtime up: an account on the host itself, or a guest in its slots. */
export async function queueLaunchTask(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  runtime: Runtime,
  launch: LaunchTask,
): Promise<void> {
  const request = requestOf(runtime, launch.expiresInSeconds);
  const keys = { authorized_keys: [...launch.keys], key_set_version: launch.keySetVersion };
  if (launch.guest === null) {
    const params = { ...accountOf(runtime), ...keys };
    await fleet.queueNodeTask(tx, ctx, { ...request, type: 'allocation.provision_user', params });
    return;
  }
  await fleet.queueNodeTask(tx, ctx, {
    ...request,
    type: 'slice.vm_provision',
    params: {
      ...accountOf(runtime),
      ...keys,
      ...slotsOf(runtime.id, await openSlotClaims(tx, runtime.id)),
      image_ref: launch.guest.imageRef,
      digest: `sha256:${launch.guest.digestSha256}`,
      vcpu_count: launch.guest.vcpuCount,
      memory_mib: launch.guest.memoryMib,
    },
  });
}

/** Tells the host to take everything of the runtime away and to prove it. */
export async function queueTeardownTask(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  runtime: Runtime,
  expiresInSeconds: number,
): Promise<void> {
  const request = requestOf(runtime, expiresInSeconds);
  if (runtime.capacityShape !== 'gpu_slice') {
    await fleet.queueNodeTask(tx, ctx, { ...request, type: 'allocation.deprovision_user', params: accountOf(runtime) });
    return;
  }
  const params = slotsOf(runtime.id, await openSlotClaims(tx, runtime.id));
  await fleet.queueNodeTask(tx, ctx, { ...request, type: 'slice.vm_release', params });
}

export async function queueRestartTask(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  runtime: Runtime,
  expiresInSeconds: number,
): Promise<void> {
  const request = requestOf(runtime, expiresInSeconds);
  if (runtime.capacityShape === 'gpu_slice') {
    await fleet.queueNodeTask(tx, ctx, { ...request, type: 'slice.restart', params: { allocation_id: runtime.id } });
  } else {
    await fleet.queueNodeTask(tx, ctx, { ...request, type: 'allocation.restart', params: accountOf(runtime) });
  }
}

function requestOf(runtime: Runtime, expiresInSeconds: number): Omit<NodeTaskRequest, 'type' | 'params'> {
  // Every allocation has its host from the moment it exists.
  if (runtime.nodeId === null) throw new Error(`allocation ${runtime.id} has no host`);
  return {
    nodeId: runtime.nodeId,
    operationId: runtime.currentOperationId,
    subjectType: 'allocation',
    subjectId: runtime.id,
    expiresInSeconds,
  };
}

/** The account of the allocation, as every task of it names it. */
function accountOf(runtime: Runtime) {
  return { allocation_id: runtime.id, username: runtime.username, uid: runtime.uid };
}

/** The slots as they were when they were taken; what stands in a claim was written by an admission. */
export function slotsOf(allocationId: AllocationId, claims: readonly SlotClaim[]): TaskParams<'slice.vm_release'> {
  const policies = claims.map((claim) => claim.snapshot.wipe_policy);
  return NODE_TASKS['slice.vm_release'].params.parse({
    allocation_id: allocationId,
    slots: claims.map((claim) => claim.snapshot.slot),
    // One task wipes all disks of a guest in one way: the thorough one where any of them asks for it.
    wipe_policy: policies.includes('nvme_format') ? 'nvme_format' : policies[0],
  });
}
