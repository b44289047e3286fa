import type { Schema } from '@gpuaas/contract';
import { asId, type UserId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { type CommandContext, command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import { badRequest, notFound, Refusal, refuse } from '../../../spine/refusal.js';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { AdmissionServices } from '../admission/admit.js';
import type { SshKey } from '../ports.js';
import { changeKeySet } from '../provisioning/key-sync.js';
import { acceptsAccessChanges, hasRuntime } from '../rules/allocation-state.js';
import { findGrant, type GrantRow, listGrants, revokeGrant, upsertGrant } from '../store/access-grants.js';
import { type LockedAllocation, lockAllocation } from '../store/allocations.js';
import { findAllocation } from '../views/allocation-view.js';
import { holdProjectMember } from '../views/project-members.js';
import { owns, projectIdOf, requireOwnership } from './caller.js';

/** Shares the account of an allocation with another member of its project, by a key of that member. */
export function accessGrantOperations(services: AdmissionServices) {
  return {
    listAllocationAccessGrants: query<'listAllocationAccessGrants'>(async ({ db, ctx, path }) => {
      const allocation = await findAllocation(db, { projectId: projectIdOf(ctx) }, path.allocation_id);
      if (!allocation) throw refuse('allocation_not_found');
      const rows = await listGrants(db, allocation.id);
      return { status: 200, body: { items: rows.map(grantView) } };
    }),

    createAllocationAccessGrant: command<'createAllocationAccessGrant'>(async ({ tx, ctx, path, body }) => {
      const allocation = await lockShared(tx, ctx, path.allocation_id);
      if (!isPlatformAdmin(ctx)) requireOwnership(ctx, allocation);
      requireChangeable(allocation);
      const granteeId = asId<'user'>(body.grantee_user_id);
      if (granteeId === allocation.requestedByUserId) {
        throw badRequest('grantee_is_owner', '/body/grantee_user_id', 'owns the allocation already');
      }
      const grantee = await holdProjectMember(tx, allocation.projectId, granteeId);
      if (grantee === null) {
        throw badRequest('grantee_not_member', '/body/grantee_user_id', 'must be a member of the project');
      }
      const key = await keyOf(tx, services, allocation, granteeId, body.ssh_key_id);
      const grantId = await upsertGrant(
        tx,
        {
          allocationId: allocation.id,
          projectId: allocation.projectId,
          granteeUserId: granteeId,
          granteeUsername: grantee.username,
          key,
          keySetVersion: allocation.keySetVersion + 1,
          reason: body.reason ?? null,
          createdByUserId: callerId(ctx),
        },
        ctx.clock.now(),
      );
      await changeKeySet(tx, ctx, services.fleet, allocation);
      await auditGrant(tx, ctx, 'allocation.access_grant.create', allocation, grantId, granteeId);
      return { status: 201, body: { grant: await grantOf(tx, allocation.id, grantId) } };
    }),

    revokeAllocationAccessGrant: command<'revokeAllocationAccessGrant'>(async ({ tx, ctx, path }) => {
      const allocation = await lockShared(tx, ctx, path.allocation_id);
      const grant = await findGrant(tx, allocation.id, path.grant_id);
      if (!grant) throw notFound('access_grant');
      const isGrantee = callerId(ctx) === grant.grantee_user_id;
      if (!isGrantee && !isPlatformAdmin(ctx) && !owns(ctx, allocation)) {
        throw refuse('ownership_required', { reason: 'owner_grantee_or_project_admin_required' });
      }
      if (grant.status === 'active') {
        const now = ctx.clock.now();
        await revokeGrant(tx, grant.id, callerId(ctx), allocation.keySetVersion + 1, now);
        if (acceptsAccessChanges(allocation.status)) await changeKeySet(tx, ctx, services.fleet, allocation);
      }
      await auditGrant(tx, ctx, 'allocation.access_grant.revoke', allocation, grant.id, asId(grant.grantee_user_id));
      return { status: 200, body: { grant: await grantOf(tx, allocation.id, grant.id) } };
    }),
  } satisfies OperationHandlers;
}

async function lockShared(tx: Tx, ctx: CommandContext, id: string): Promise<LockedAllocation> {
  // An operator of the platform may come without being of the project; then the header names it all the same.
  const allocation = await lockAllocation(tx, id, ctx.project?.projectId ?? null);
  if (!allocation || (ctx.project === null && !isPlatformAdmin(ctx))) throw refuse('allocation_not_found');
  return allocation;
}

function requireChangeable(allocation: LockedAllocation): void {
  if (acceptsAccessChanges(allocation.status)) return;
  throw refuse('allocation_not_active', { reason: `allocation_is_${allocation.status}` });
}

async function keyOf(
  tx: Tx,
  services: AdmissionServices,
  allocation: LockedAllocation,
  granteeId: UserId,
  keyId: string,
): Promise<SshKey> {
  const pointer = '/body/ssh_key_id';
  try {
    const [key] = await services.identity.sshKeysFor(tx, {
      userId: granteeId,
      projectId: allocation.projectId,
      ids: [keyId],
      held: true,
    });
    if (key && key.ownerScope === 'user') return key;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  throw badRequest('ssh_key_not_found', pointer, 'must be a personal key of the grantee');
}

async function grantOf(tx: Tx, allocationId: string, grantId: string): Promise<Schema<'AllocationAccessGrant'>> {
  const row = await findGrant(tx, allocationId, grantId);
  if (!row) throw new Error(`grant ${grantId} has gone`);
  return grantView(row);
}

async function auditGrant(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  allocation: LockedAllocation,
  grantId: string,
  granteeId: UserId,
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'allocation',
    targetId: allocation.id,
    targetUserId: granteeId,
    tenantId: allocation.tenantId,
    projectId: allocation.projectId,
    metadata: { grant_id: grantId },
  });
}

function callerId(ctx: CommandContext): UserId | null {
  return ctx.principal.kind === 'user' ? ctx.principal.userId : null;
}

function isPlatformAdmin(ctx: CommandContext): boolean {
  return ctx.principal.kind === 'user' && ctx.principal.capabilities.has('platform.admin');
}

/** In step with the host once it has proven a set at least as new as the one that the change made. */
function syncStatusOf(row: GrantRow): Schema<'AllocationAccessGrantRuntimeSyncStatus'> {
  if ((row.key_set_applied_version ?? 0) >= row.key_set_version) return 'not_required';
  if (!hasRuntime(row.allocation_status)) {
    return acceptsAccessChanges(row.allocation_status) ? 'pending' : 'not_required';
  }
  return row.key_sync_error === null ? 'queued' : 'failed';
}

function grantView(row: GrantRow): Schema<'AllocationAccessGrant'> {
  const status = syncStatusOf(row);
  return {
    id: row.id,
    allocation_id: row.allocation_id,
    project_id: row.project_id,
    grantee_user_id: row.grantee_user_id,
    grantee_username: row.grantee_username,
    ssh_key: { id: row.ssh_key_id, name: row.ssh_key_name, fingerprint: row.ssh_key_fingerprint },
    status: row.status,
    runtime_sync_status: status,
    runtime_sync_task_id: row.key_sync_task_id,
    runtime_sync_error: status === 'failed' ? row.key_sync_error : null,
    reason: row.reason,
    created_by_user_id: row.created_by_user_id,
    created_at: toWireTime(row.created_at),
    revoked_by_user_id: row.revoked_by_user_id,
    revoked_at: toWireTimeOrNull(row.revoked_at),
  };
}
