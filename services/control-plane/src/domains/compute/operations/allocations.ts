import type { Schema } from '@gpuaas/contract';
import { asId, type UserId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  type CommandContext,
  command,
  type OperationHandlers,
  query,
  type Reader,
  type RequestContext,
  type Tx,
} from '../../../spine/operation.js';
import { badRequest, refuse } from '../../../spine/refusal.js';
import { type AdmissionIntent, type AdmissionServices, admit } from '../admission/admit.js';
import { changeKeySet } from '../provisioning/key-sync.js';
import { beginRelease, beginRestart } from '../provisioning/lifecycle.js';
import { type AllocationStatus, acceptsAccessChanges } from '../rules/allocation-state.js';
import { CONCURRENCY_POLICY, limitsOf } from '../rules/limits.js';
import { launchHints, resolveSku } from '../rules/sku-resolution.js';
import { countLiveAllocations, type LockedAllocation, lockAllocation } from '../store/allocations.js';
import { replaceOwnerKeys } from '../store/keys.js';
import { skusOnSale } from '../store/skus.js';
import {
  type AllocationFilters,
  type AllocationScope,
  allocationView,
  claimedAllocationView,
  findAllocation,
  getAllocations,
  listAllocations,
  listClaimedAllocations,
} from '../views/allocation-view.js';
import { timelineView } from '../views/timeline-view.js';
import { projectIdOf, projectOf, requesterOf, requireOwnership } from './caller.js';

/** Allocations: lists for a project, a tenant and the platform; launch, release, restart and keys for their owners. */
export function allocationOperations(services: AdmissionServices) {
  const limits = async (reader: Reader, ctx: RequestContext): Promise<Schema<'AllocationLimits'>> => {
    const userId = callerUserOf(ctx);
    // An identity without a person behind it launches nothing: its own use is none.
    const current = userId === null ? 0 : await countLiveAllocations(reader, userId);
    const maximum = await services.policies.policyNumber(reader, CONCURRENCY_POLICY, {
      userId,
      projectId: ctx.project?.projectId ?? null,
      tenantId: ctx.project?.tenantId ?? ctx.tenantId,
    });
    return limitsOf(maximum, current);
  };

  const list = async (
    db: Reader,
    ctx: RequestContext,
    name: { readonly operation: string; readonly context: string },
    scope: AllocationScope,
    parameters: { readonly cursor?: string; readonly page_size?: number; readonly status?: AllocationStatus },
  ): Promise<Schema<'AllocationListResponse'>> => {
    const filters: AllocationFilters = { status: parameters.status };
    const page = pageRequest(ctx, { ...name, filters: { ...filters }, sort: 'created_at_desc' }, parameters);
    const rows = await listAllocations(db, scope, filters, { after: page.after, limit: page.pageSize + 1 });
    const { rows: items, pagination } = pageOf(ctx, page, rows, positionOf);
    return { items: items.map(allocationView), limits: await limits(db, ctx), pagination };
  };

  const setKeys = async (
    tx: Tx,
    ctx: CommandContext,
    id: string,
    keyIds: readonly string[],
  ): Promise<{ allocation: Schema<'Allocation'>; queued: boolean }> => {
    const allocation = await lockOwn(tx, ctx, id);
    if (!acceptsAccessChanges(allocation.status)) {
      throw refuse('allocation_not_active', { reason: `allocation_is_${allocation.status}` });
    }
    const keys = await services.identity.sshKeysFor(tx, {
      userId: allocation.requestedByUserId,
      projectId: allocation.projectId,
      ids: keyIds,
      held: true,
    });
    await replaceOwnerKeys(tx, allocation.id, keys);
    const { version, queued } = await changeKeySet(tx, ctx, services.fleet, allocation);
    await audit(tx, ctx, {
      action: 'allocation.ssh_keys.update',
      targetType: 'allocation',
      targetId: allocation.id,
      targetUserId: allocation.requestedByUserId,
      tenantId: allocation.tenantId,
      projectId: allocation.projectId,
      metadata: { key_ids: keys.map((key) => key.id), key_set_version: version },
    });
    return { allocation: await viewOf(tx, allocation.id), queued };
  };

  return {
    listAllocations: query<'listAllocations'>(async ({ db, ctx, query: parameters }) => {
      const projectId = projectIdOf(ctx);
      const name = { operation: 'listAllocations', context: projectId };
      return { status: 200, body: await list(db, ctx, name, { projectId }, parameters) };
    }),

    listProjectAllocations: query<'listProjectAllocations'>(async ({ db, ctx, query: parameters }) => {
      const projectId = projectIdOf(ctx);
      const name = { operation: 'listProjectAllocations', context: projectId };
      return { status: 200, body: await list(db, ctx, name, { projectId }, parameters) };
    }),

    listOrgAllocations: query<'listOrgAllocations'>(async ({ db, ctx, path, query: parameters }) => {
      const name = { operation: 'listOrgAllocations', context: path.org_id };
      return { status: 200, body: await list(db, ctx, name, tenantScope(ctx, path.org_id), parameters) };
    }),

    adminListAllocations: query<'adminListAllocations'>(async ({ db, ctx, query: parameters }) => {
      const { status, user_id: userId, node_id: nodeId } = parameters;
      const filters: AllocationFilters = { status, userId, nodeId };
      const page = pageRequest(
        ctx,
        { operation: 'adminListAllocations', context: 'platform', filters: { ...filters }, sort: 'created_at_desc' },
        parameters,
      );
      const rows = await listClaimedAllocations(db, filters, { after: page.after, limit: page.pageSize + 1 });
      const { rows: items, pagination } = pageOf(ctx, page, rows, positionOf);
      return {
        status: 200,
        body: { items: items.map(claimedAllocationView), limits: await limits(db, ctx), pagination },
      };
    }),

    getAllocationById: query<'getAllocationById'>(async ({ db, ctx, path }) => ({
      status: 200,
      body: await viewIn(db, { projectId: projectIdOf(ctx) }, path.allocation_id),
    })),

    getProjectAllocationById: query<'getProjectAllocationById'>(async ({ db, ctx, path }) => ({
      status: 200,
      body: await viewIn(db, { projectId: projectIdOf(ctx) }, path.allocation_id),
    })),

    getOrgAllocationById: query<'getOrgAllocationById'>(async ({ db, ctx, path }) => ({
      status: 200,
      body: await viewIn(db, tenantScope(ctx, path.org_id), path.allocation_id),
    })),

    getAllocationLimits: query<'getAllocationLimits'>(async ({ db, ctx }) => ({
      status: 200,
      body: await limits(db, ctx),
    })),

    getAllocationTimeline: query<'getAllocationTimeline'>(async ({ db, ctx, path, query: parameters }) => {
      const row = await findAllocation(db, { projectId: projectIdOf(ctx) }, path.allocation_id);
      if (!row) throw refuse('allocation_not_found');
      return { status: 200, body: await timelineView(db, ctx, 'getAllocationTimeline', row, parameters) };
    }),

    adminGetAllocationTimeline: query<'adminGetAllocationTimeline'>(async ({ db, ctx, path, query: parameters }) => {
      const row = await findAllocation(db, 'all', path.allocation_id);
      if (!row) throw refuse('allocation_not_found');
      return { status: 200, body: await timelineView(db, ctx, 'adminGetAllocationTimeline', row, parameters) };
    }),

    /** What the contract leaves out of this request is read from `scheduler_request`. */
    createAllocation: command<'createAllocation'>(async ({ tx, ctx, body }) => {
      const { projectId } = projectOf(ctx);
      const hints = launchHints(body.scheduler_request);
      const nodeId = body.node_id ? asId<'node'>(body.node_id) : null;
      const shape = body.capacity_shape ?? 'baremetal';
      if (nodeId !== null && body.requested_count > 1 && shape === 'baremetal') {
        throw badRequest('node_id_with_count', '/body/requested_count', 'must be 1 where a node is named');
      }
      const node = nodeId === null ? null : await services.fleet.findNode(tx, nodeId);
      if (nodeId !== null && node === null) throw refuse('node_not_found');
      // Its SKU may be one of slices, of which the rules would say only that it is no whole host.
      if (node?.sliceMode && body.capacity_shape === 'baremetal') {
        throw refuse('node_in_use', { reason: 'node_is_sold_in_slices' });
      }
      // A host that is sold in slices is often known by what it would be sold as whole.
      const nodeSku = shape === 'baremetal' ? (node?.sku ?? null) : null;
      const resolved = resolveSku({
        nodeSku,
        requested: hints.sku,
        shape,
        onSale: nodeSku === null && hints.sku === null ? await skusOnSale(tx, shape) : [],
      });
      if (!resolved.ok) throw badRequest(resolved.reason, '/body/scheduler_request/sku', resolved.message);

      const intent: AdmissionIntent = {
        projectId,
        ...requesterOf(ctx.principal),
        sku: resolved.sku,
        resourceClass: null,
        shape: body.capacity_shape ?? null,
        gpuCount: body.gpu_count ?? null,
        count: body.requested_count,
        atLeast: 1,
        nodeId,
        regionCode: hints.regionCode,
        osImageSlug: hints.osImageSlug,
        sshKeyIds: body.ssh_key_ids ?? null,
        runtimeBundle: bundleWish(body),
        schedulerType: body.scheduler_type,
        schedulerRequest: boundedRequest(body.scheduler_request),
        name: hints.name,
      };
      const admission = await admit(tx, ctx, services, intent);
      const [first] = admission.allocations;
      if (first === undefined) throw new Error('an admission without allocations');
      await auditCreate(tx, ctx, intent, admission);
      const views = admission.rows.map(allocationView);
      const [view] = views;
      if (view === undefined) throw new Error(`allocation ${first.id} was not written`);
      return {
        status: 201,
        body: {
          allocation: view,
          allocations: views,
          requested_count: admission.requested,
          created_count: views.length,
          failed_count: admission.requested - views.length,
        },
      };
    }),

    releaseAllocation: command<'releaseAllocation'>(async ({ tx, ctx, path }) => {
      const before = await lockOwn(tx, ctx, path.allocation_id);
      const after = await beginRelease(tx, ctx, services, before, { forced: false, reason: null });
      await auditLifecycle(tx, ctx, 'allocation.release', before, after);
      return {
        status: 202,
        body: { allocation: await viewOf(tx, after.id), operation: mutationResult(ctx, 'release', before, after) },
      };
    }),

    restartAllocation: command<'restartAllocation'>(async ({ tx, ctx, path }) => {
      const before = await lockOwn(tx, ctx, path.allocation_id);
      const after = await beginRestart(tx, ctx, services, before);
      await auditLifecycle(tx, ctx, 'allocation.restart', before, after);
      return {
        status: 202,
        body: { allocation: await viewOf(tx, after.id), operation: mutationResult(ctx, 'restart', before, after) },
      };
    }),

    setAllocationSshKeys: command<'setAllocationSshKeys'>(async ({ tx, ctx, path, body }) => {
      const { allocation } = await setKeys(tx, ctx, path.allocation_id, body.ssh_key_ids);
      return { status: 200, body: allocation };
    }),

    /** Says also whether the host was told; otherwise it learns the keys when the allocation becomes active. */
    setV3AllocationSshKeysCompat: command<'setV3AllocationSshKeysCompat'>(async ({ tx, ctx, path, body }) => {
      const { allocation, queued } = await setKeys(tx, ctx, path.allocation_id, body.ssh_key_ids);
      return { status: 200, body: { allocation, runtime_sync_queued: queued } };
    }),
  } satisfies OperationHandlers;
}

const positionOf = (row: { created_at: Date; id: string }) => [row.created_at.toISOString(), row.id];

/** An operator of a shared runtime sees the allocations of its runtime alone. */
function tenantScope(ctx: RequestContext, tenantId: string): AllocationScope {
  const { principal } = ctx;
  return {
    tenantId,
    sharedRuntimeId: principal.kind === 'shared_runtime_operator' ? principal.sharedRuntimeId : null,
  };
}

/** Whose limit it is; null for an identity that launches nothing. */
function callerUserOf(ctx: RequestContext): UserId | null {
  const { principal } = ctx;
  if (principal.kind === 'user') return principal.userId;
  return principal.kind === 'service_account' ? principal.createdByUserId : null;
}

/** Locks the allocation of the caller's project. Refuses (404) any other, and (403) who neither owns nor administers it. */
export async function lockOwn(tx: Tx, ctx: CommandContext, id: string): Promise<LockedAllocation> {
  const allocation = await lockAllocation(tx, id, projectIdOf(ctx));
  if (!allocation) throw refuse('allocation_not_found');
  requireOwnership(ctx, allocation);
  return allocation;
}

async function viewIn(db: Reader, scope: AllocationScope, id: string): Promise<Schema<'Allocation'>> {
  const row = await findAllocation(db, scope, id);
  if (!row) throw refuse('allocation_not_found');
  return allocationView(row);
}

async function viewOf(tx: Tx, id: string): Promise<Schema<'Allocation'>> {
  const [row] = await getAllocations(tx, [id]);
  if (!row) throw new Error(`allocation ${id} has gone`);
  return allocationView(row);
}

function bundleWish(body: { runtime_bundle_id?: string | null; runtime_bundle_slug?: string | null }) {
  const id = body.runtime_bundle_id ?? null;
  const slug = body.runtime_bundle_slug ?? null;
  return id === null && slug === null ? null : { id, slug };
}

const MAXIMUM_SCHEDULER_REQUEST_BYTES = 16_384;

export function boundedRequest(
  request: Readonly<Record<string, unknown>> | undefined,
): Readonly<Record<string, unknown>> {
  const value = request ?? {};
  if (Buffer.byteLength(JSON.stringify(value)) > MAXIMUM_SCHEDULER_REQUEST_BYTES) {
    throw badRequest('scheduler_request_too_large', '/body/scheduler_request', 'must not exceed 16 KiB');
  }
  return value;
}

export async function auditCreate(
  tx: Tx,
  ctx: CommandContext,
  intent: AdmissionIntent,
  admission: { readonly allocations: readonly { readonly id: string }[]; readonly requested: number },
): Promise<void> {
  await audit(tx, ctx, {
    action: 'allocation.create',
    targetType: 'allocation',
    targetId: admission.allocations[0]?.id ?? null,
    targetUserId: intent.userId,
    tenantId: ctx.project?.tenantId ?? null,
    projectId: intent.projectId,
    metadata: {
      sku: intent.sku,
      requested_count: admission.requested,
      allocation_ids: admission.allocations.map(({ id }) => id),
    },
  });
}

export async function auditLifecycle(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  before: LockedAllocation,
  after: LockedAllocation,
  metadata: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'allocation',
    targetId: before.id,
    targetUserId: before.requestedByUserId,
    tenantId: before.tenantId,
    projectId: before.projectId,
    metadata: { from: before.status, to: after.status, operation_id: after.currentOperationId, ...metadata },
  });
}

/** What a lifecycle command answers beside the allocation: where to follow it. */
export function mutationResult(
  ctx: CommandContext,
  operation: 'release' | 'restart',
  before: LockedAllocation,
  after: LockedAllocation,
): Schema<'V3WorkloadLifecycleMutationResult'> {
  return {
    ok: true,
    operation,
    workload_id: after.id,
    allocation_id: after.id,
    previous_status: before.status,
    status: after.status,
    correlation_id: ctx.correlationId,
    task_href: `/tasks/${after.currentOperationId}`,
    evidence_href: `/workloads/${after.id}`,
  };
}
