import type { Schema } from '@gpuaas/contract';
import { newId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  type CommandContext,
  command,
  type OperationHandlers,
  query,
  type Reader,
  type Tx,
} from '../../../spine/operation.js';
import { badRequest, conflict, notFound, refuse } from '../../../spine/refusal.js';
import { type AdmissionIntent, type AdmissionServices, admit } from '../admission/admit.js';
import { beginRelease } from '../provisioning/lifecycle.js';
import { isReleasedWithGroup } from '../rules/group-status.js';
import { launchHints } from '../rules/sku-resolution.js';
import { lockAllocations } from '../store/allocations.js';
import { findGroup, insertGroup, listGroups, lockGroup, requestGroupRelease } from '../store/groups.js';
import { groupView } from '../views/group-view.js';
import { boundedRequest } from './allocations.js';
import { owns, projectIdOf, projectOf, requesterOf } from './caller.js';

const MAXIMUM_MEMBERS = 100;

/** Allocations that are launched and released together. */
export function groupOperations(services: AdmissionServices) {
  return {
    listProjectAllocationGroups: query<'listProjectAllocationGroups'>(async ({ db, ctx, query: parameters }) => {
      const projectId = projectIdOf(ctx);
      const page = pageRequest(
        ctx,
        { operation: 'listProjectAllocationGroups', context: projectId, filters: {}, sort: 'created_at_desc' },
        parameters,
      );
      const rows = await listGroups(db, projectId, { after: page.after, limit: page.pageSize + 1 });
      const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.created_at.toISOString(), row.id]);
      return { status: 200, body: { items: items.map(groupView), pagination } };
    }),

    getProjectAllocationGroup: query<'getProjectAllocationGroup'>(async ({ db, ctx, path }) => ({
      status: 200,
      body: await viewOf(db, projectIdOf(ctx), path.allocation_group_id),
    })),

    createProjectAllocationGroup: command<'createProjectAllocationGroup'>(async ({ tx, ctx, body }) => {
      const owner = body.owner ?? { owner_kind: 'user_request' as const, owner_id: null };
      if (
        owner.owner_kind !== 'user_request' ||
        body.group_kind === 'app_runtime' ||
        body.group_kind === 'shared_runtime'
      ) {
        // Those belong to a runtime and are made by it, by no one else.
        throw refuse('insufficient_permissions', { reason: 'runtime_owner_required' });
      }
      const members = body.member_intents.flatMap((intent) =>
        Array.from({ length: Math.min(intent.requested_count, MAXIMUM_MEMBERS + 1) }, () => ({
          role: intent.member_role ?? null,
          required: intent.required ?? true,
        })),
      );
      if (members.length > MAXIMUM_MEMBERS) {
        throw badRequest(
          'group_too_large',
          '/body/member_intents',
          `must not exceed ${MAXIMUM_MEMBERS} members in all`,
        );
      }
      const hints = launchHints(body.scheduler_request);
      const group = await launchGroup(tx, ctx, services, {
        kind: body.group_kind,
        displayName: body.display_name,
        // required members come first, so that it is never one of them that finds no room
        members: [...members.filter((member) => member.required), ...members.filter((member) => !member.required)],
        intent: {
          sku: body.sku,
          resourceClass: null,
          shape: body.capacity_shape ?? null,
          gpuCount: null,
          regionCode: hints.regionCode,
          osImageSlug: hints.osImageSlug,
          sshKeyIds: body.ssh_key_ids ?? null,
          schedulerType: body.scheduler_type,
          schedulerRequest: boundedRequest(body.scheduler_request),
          name: body.display_name.slice(0, 120),
        },
      });
      return {
        status: 202,
        body: {
          allocation_group: await viewOf(tx, projectIdOf(ctx), group.id),
          requested_member_count: members.length,
          created_member_count: group.allocations.length,
        },
      };
    }),

    releaseProjectAllocationGroup: command<'releaseProjectAllocationGroup'>(async ({ tx, ctx, path, body }) => {
      const projectId = projectIdOf(ctx);
      const group = await lockGroup(tx, projectId, path.allocation_group_id);
      if (!group) throw notFound('allocation_group');
      const members = await lockAllocations(tx, group.memberIds);
      const mine = members.every((member) => owns(ctx, member));
      if (!mine) throw refuse('ownership_required', { reason: 'owner_or_project_admin_required' });

      const leaving = members.filter((member) =>
        isReleasedWithGroup(member.status, body?.release_strategy ?? 'all_members'),
      );
      if (leaving.length === 0) {
        const busy = members.some((member) => member.status === 'releasing');
        throw busy
          ? refuse('allocation_already_releasing', { resource: 'allocation_group' })
          : conflict('no_members_to_release', { resource: 'allocation_group' }, 'no member is left to release');
      }
      const reason = body?.reason ?? null;
      for (const member of leaving) await beginRelease(tx, ctx, services, member, { forced: false, reason });
      if ((body?.release_strategy ?? 'all_members') === 'all_members') {
        await requestGroupRelease(tx, group.id, reason, ctx.clock.now());
      }
      await audit(tx, ctx, {
        action: 'allocation_group.release',
        targetType: 'allocation_group',
        targetId: group.id,
        projectId,
        tenantId: projectOf(ctx).tenantId,
        metadata: { reason, allocation_ids: leaving.map((member) => member.id) },
      });
      return {
        status: 202,
        body: {
          allocation_group: await viewOf(tx, projectId, group.id),
          release_requested_member_count: leaving.length,
        },
      };
    }),
  } satisfies OperationHandlers;
}

async function viewOf(reader: Reader, projectId: string, id: string): Promise<Schema<'AllocationGroup'>> {
  const row = await findGroup(reader, projectId, id);
  if (!row) throw notFound('allocation_group');
  return groupView(row);
}

export interface GroupLaunch {
  readonly kind: Schema<'AllocationGroupKind'>;
  readonly displayName: string;
  /** required ones first */
  readonly members: readonly { readonly role: string | null; readonly required: boolean }[];
  readonly intent: Pick<
    AdmissionIntent,
    | 'sku'
    | 'resourceClass'
    | 'shape'
    | 'gpuCount'
    | 'regionCode'
    | 'osImageSlug'
    | 'sshKeyIds'
    | 'schedulerType'
    | 'schedulerRequest'
    | 'name'
  >;
}

/** Places every required member or nothing; the others as far as there is room. */
export async function launchGroup(
  tx: Tx,
  ctx: CommandContext,
  services: AdmissionServices,
  launch: GroupLaunch,
): Promise<{ readonly id: string; readonly allocations: Awaited<ReturnType<typeof admit>>['allocations'] }> {
  const project = projectOf(ctx);
  const requester = requesterOf(ctx.principal);
  const required = launch.members.filter((member) => member.required).length;
  const admission = await admit(tx, ctx, services, {
    ...launch.intent,
    ...requester,
    projectId: project.projectId,
    count: launch.members.length,
    atLeast: Math.max(1, required),
    nodeId: null,
    runtimeBundle: null,
  });
  const id = newId();
  const members = admission.allocations.map((allocation, index) => {
    const member = launch.members[index];
    if (member === undefined) throw new Error('more members were placed than asked for');
    return { allocationId: allocation.id, ...member };
  });
  await insertGroup(
    tx,
    {
      id,
      tenantId: project.tenantId,
      projectId: project.projectId,
      requestedByUserId: requester.userId,
      serviceAccountId: requester.serviceAccountId,
      kind: launch.kind,
      displayName: launch.displayName,
      owner: { kind: 'user_request', id: null },
      desiredMemberCount: launch.members.length,
      members,
    },
    ctx.clock.now(),
  );
  await audit(tx, ctx, {
    action: 'allocation_group.create',
    targetType: 'allocation_group',
    targetId: id,
    projectId: project.projectId,
    tenantId: project.tenantId,
    metadata: {
      sku: launch.intent.sku,
      requested_count: launch.members.length,
      allocation_ids: admission.allocations.map((allocation) => allocation.id),
    },
  });
  return { id, allocations: admission.allocations };
}
