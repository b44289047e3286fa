import type { Schema } from '@gpuaas/contract';
import {
  type AllocationId,
  newId,
  type ProjectId,
  type ServiceAccountId,
  type TenantId,
  type UserId,
} from '@gpuaas/kernel';
import { sql } from 'kysely';
import { jsonArrayFrom } from 'kysely/helpers/postgres';
import type { Position } from '../../../spine/cursors.js';
import type { Reader, Tx } from '../../../spine/operation.js';

export interface NewGroup {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  readonly requestedByUserId: UserId;
  readonly serviceAccountId: ServiceAccountId | null;
  readonly kind: Schema<'AllocationGroupKind'>;
  readonly displayName: string;
  readonly owner: { readonly kind: Schema<'AllocationGroupOwnerKind'>; readonly id: string | null };
  readonly desiredMemberCount: number;
  readonly members: readonly {
    readonly allocationId: AllocationId;
    readonly role: string | null;
    readonly required: boolean;
  }[];
}

/** Writes a group with its members, in their order. */
export async function insertGroup(tx: Tx, group: NewGroup, now: Date): Promise<void> {
  await tx
    .insertInto('allocation_groups')
    .values({
      id: group.id,
      tenant_id: group.tenantId,
      project_id: group.projectId,
      requested_by_user_id: group.requestedByUserId,
      service_account_id: group.serviceAccountId,
      group_kind: group.kind,
      display_name: group.displayName,
      owner_kind: group.owner.kind,
      owner_id: group.owner.id,
      desired_member_count: group.desiredMemberCount,
      required_member_count: group.members.filter((member) => member.required).length,
      created_at: now,
      updated_at: now,
    })
    .execute();
  if (group.members.length === 0) return;
  await tx
    .insertInto('allocation_group_members')
    .values(
      group.members.map((member, ordinal) => ({
        id: newId(),
        allocation_group_id: group.id,
        allocation_id: member.allocationId,
        ordinal,
        member_role: member.role,
        required: member.required,
      })),
    )
    .execute();
}

const selectGroups = (reader: Reader) =>
  reader
    .selectFrom('allocation_groups')
    .select([
      'allocation_groups.id',
      'allocation_groups.tenant_id',
      'allocation_groups.project_id',
      'allocation_groups.requested_by_user_id',
      'allocation_groups.service_account_id',
      'allocation_groups.group_kind',
      'allocation_groups.display_name',
      'allocation_groups.owner_kind',
      'allocation_groups.owner_id',
      'allocation_groups.desired_member_count',
      'allocation_groups.required_member_count',
      'allocation_groups.release_requested_at',
      'allocation_groups.created_at',
      'allocation_groups.updated_at',
    ])
    .select((eb) =>
      jsonArrayFrom(
        eb
          .selectFrom('allocation_group_members as member')
          .innerJoin('allocations', 'allocations.id', 'member.allocation_id')
          .select([
            'member.id',
            'member.allocation_id',
            'member.member_role',
            'member.ordinal',
            'member.required',
            'allocations.status',
            'allocations.capacity_shape',
            'allocations.sku',
            'allocations.region_code',
            'allocations.gpus_total',
            'allocations.node_id',
            'allocations.connection_host',
            'allocations.connection_hostname',
            'allocations.connection_port',
            'allocations.username_on_node',
            sql<string>`to_char(allocations.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`.as(
              'created_at',
            ),
            sql<string | null>`to_char(allocations.active_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`.as(
              'active_at',
            ),
            sql<string | null>`to_char(allocations.released_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`.as(
              'released_at',
            ),
          ])
          .whereRef('member.allocation_group_id', '=', 'allocation_groups.id')
          .orderBy('member.ordinal'),
      ).as('members'),
    );

export type GroupRow = Awaited<ReturnType<ReturnType<typeof selectGroups>['executeTakeFirstOrThrow']>>;

export function findGroup(reader: Reader, projectId: string, id: string): Promise<GroupRow | undefined> {
  return selectGroups(reader)
    .where('allocation_groups.project_id', '=', projectId)
    .where('allocation_groups.id', '=', id)
    .executeTakeFirst();
}

/** Newest first; one row more than the page tells whether there are more. */
export function listGroups(
  reader: Reader,
  projectId: string,
  page: { readonly after: Position | null; readonly limit: number },
): Promise<GroupRow[]> {
  let query = selectGroups(reader)
    .where('allocation_groups.project_id', '=', projectId)
    .orderBy('allocation_groups.created_at', 'desc')
    .orderBy('allocation_groups.id', 'desc')
    .limit(page.limit);
  if (page.after) {
    const [createdAt, id] = page.after;
    query = query.where(
      sql<boolean>`(allocation_groups.created_at, allocation_groups.id) < (${createdAt}::timestamptz, ${id}::uuid)`,
    );
  }
  return query.execute();
}

export interface LockedGroup {
  readonly id: string;
  readonly requestedByUserId: string;
  readonly serviceAccountId: string | null;
  readonly memberIds: readonly string[];
}

/** Locks the group until commit, not its members. Undefined for an id that is unknown or of another project. */
export async function lockGroup(tx: Tx, projectId: string, id: string): Promise<LockedGroup | undefined> {
  const row = await tx
    .selectFrom('allocation_groups')
    .select(['id', 'requested_by_user_id', 'service_account_id'])
    .where('project_id', '=', projectId)
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst();
  if (!row) return undefined;
  const members = await tx
    .selectFrom('allocation_group_members')
    .select('allocation_id')
    .where('allocation_group_id', '=', id)
    .execute();
  return {
    id: row.id,
    requestedByUserId: row.requested_by_user_id,
    serviceAccountId: row.service_account_id,
    memberIds: members.map((member) => member.allocation_id),
  };
}

/** Notes that the group is to go; the first such wish stays. */
export async function requestGroupRelease(tx: Tx, id: string, reason: string | null, now: Date): Promise<void> {
  await tx
    .updateTable('allocation_groups')
    .set({
      release_requested_at: sql<Date>`coalesce(release_requested_at, ${now})`,
      release_reason: sql<string | null>`coalesce(release_reason, ${reason})`,
      updated_at: now,
    })
    .where('id', '=', id)
    .execute();
}
