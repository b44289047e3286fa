// Beside compute's own tables this view reads the names of people (`users`) and projects (`projects`) of identity; it
// changes nothing.
import type { Schema } from '@gpuaas/contract';
import { sql } from 'kysely';
import { jsonArrayFrom } from 'kysely/helpers/postgres';
import type { Position } from '../../../spine/cursors.js';
import type { Reader } from '../../../spine/operation.js';
import { resourceName, toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { AllocationStatus } from '../rules/allocation-state.js';
import { jsonObject } from '../store/json.js';

const selectAllocations = (reader: Reader) =>
  reader
    .selectFrom('allocations')
    .leftJoin('users', 'users.id', 'allocations.requested_by_user_id')
    .leftJoin('projects', 'projects.id', 'allocations.project_id')
    .select([
      'allocations.id',
      'allocations.tenant_id',
      'allocations.project_id',
      'allocations.requested_by_user_id',
      'users.username',
      'users.display_name',
      'projects.name as project_name',
      'allocations.node_id',
      'allocations.scheduler_type',
      'allocations.capacity_shape',
      'allocations.placement_status',
      'allocations.region_code',
      'allocations.sku',
      'allocations.gpus_total',
      'allocations.status',
      'allocations.failure_reason',
      'allocations.provisioning_started_at',
      'allocations.active_at',
      'allocations.restart_failed_at',
      'allocations.restart_failed_reason',
      'allocations.released_at',
      'allocations.release_failed_at',
      'allocations.release_failed_reason',
      'allocations.connection_host',
      'allocations.connection_hostname',
      'allocations.connection_port',
      'allocations.username_on_node',
      'allocations.created_at',
    ])
    .select((eb) =>
      jsonArrayFrom(
        eb
          .selectFrom('allocation_ssh_keys as key')
          .select(['key.ssh_key_id as id', 'key.name', 'key.fingerprint'])
          .whereRef('key.allocation_id', '=', 'allocations.id')
          .orderBy('key.position'),
      ).as('ssh_keys'),
    );

const selectWithClaims = (reader: Reader) =>
  selectAllocations(reader).select((eb) =>
    jsonArrayFrom(
      eb
        .selectFrom('placement_claims as claim')
        .select([
          'claim.id',
          'claim.allocation_id',
          'claim.node_id',
          'claim.slot_id',
          'claim.kind as claim_kind',
          'claim.status',
          'claim.resource_snapshot',
          sql<string>`to_char(claim.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`.as('created_at'),
          sql<string | null>`to_char(claim.released_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`.as(
            'released_at',
          ),
        ])
        .whereRef('claim.allocation_id', '=', 'allocations.id')
        .orderBy('claim.created_at'),
    ).as('claims'),
  );

export type AllocationRow = Awaited<ReturnType<ReturnType<typeof selectAllocations>['executeTakeFirstOrThrow']>>;
export type ClaimedAllocationRow = Awaited<ReturnType<ReturnType<typeof selectWithClaims>['executeTakeFirstOrThrow']>>;

/** Which allocations a list or a look-up may see. */
export type AllocationScope =
  | { readonly projectId: string }
  | { readonly tenantId: string; readonly sharedRuntimeId: string | null }
  | 'all';

export interface AllocationFilters {
  readonly status?: AllocationStatus | undefined;
  readonly userId?: string | undefined;
  readonly nodeId?: string | undefined;
}

type AllocationQuery = ReturnType<typeof selectAllocations>;

function inScope(query: AllocationQuery, scope: AllocationScope): AllocationQuery {
  if (scope === 'all') return query;
  if ('projectId' in scope) return query.where('allocations.project_id', '=', scope.projectId);
  const ofTenant = query.where('allocations.tenant_id', '=', scope.tenantId);
  const { sharedRuntimeId } = scope;
  if (sharedRuntimeId === null) return ofTenant;
  return ofTenant.where((eb) =>
    eb.exists(
      eb
        .selectFrom('allocation_group_members as member')
        .innerJoin('allocation_groups as group', 'group.id', 'member.allocation_group_id')
        .select('member.id')
        .whereRef('member.allocation_id', '=', 'allocations.id')
        .where('group.owner_kind', '=', 'shared_app_runtime')
        .where('group.owner_id', '=', sharedRuntimeId),
    ),
  );
}

function onPage(
  query: AllocationQuery,
  filters: AllocationFilters,
  page: { readonly after: Position | null; readonly limit: number },
): AllocationQuery {
  let result = query.orderBy('allocations.created_at', 'desc').orderBy('allocations.id', 'desc').limit(page.limit);
  if (filters.status) result = result.where('allocations.status', '=', filters.status);
  if (filters.userId) result = result.where('allocations.requested_by_user_id', '=', filters.userId);
  if (filters.nodeId) result = result.where('allocations.node_id', '=', filters.nodeId);
  if (page.after) {
    const [createdAt, id] = page.after;
    result = result.where(
      sql<boolean>`(allocations.created_at, allocations.id) < (${createdAt}::timestamptz, ${id}::uuid)`,
    );
  }
  return result;
}

/** Newest first; one row more than the page tells whether there are more. */
export function listAllocations(
  reader: Reader,
  scope: AllocationScope,
  filters: AllocationFilters,
  page: { readonly after: Position | null; readonly limit: number },
): Promise<AllocationRow[]> {
  return onPage(inScope(selectAllocations(reader), scope), filters, page).execute();
}

export function findAllocation(reader: Reader, scope: AllocationScope, id: string): Promise<AllocationRow | undefined> {
  return inScope(selectAllocations(reader), scope).where('allocations.id', '=', id).executeTakeFirst();
}

/** In the order of `ids`. */
export async function getAllocations(reader: Reader, ids: readonly string[]): Promise<AllocationRow[]> {
  const rows = await selectAllocations(reader).where('allocations.id', 'in', ids).execute();
  const byId = new Map(rows.map((row) => [row.id, row]));
  return ids.flatMap((id) => byId.get(id) ?? []);
}

/** As operators see them: with what they occupy. */
export function listClaimedAllocations(
  reader: Reader,
  filters: AllocationFilters,
  page: { readonly after: Position | null; readonly limit: number },
): Promise<ClaimedAllocationRow[]> {
  let query = selectWithClaims(reader)
    .orderBy('allocations.created_at', 'desc')
    .orderBy('allocations.id', 'desc')
    .limit(page.limit);
  if (filters.status) query = query.where('allocations.status', '=', filters.status);
  if (filters.userId) query = query.where('allocations.requested_by_user_id', '=', filters.userId);
  if (filters.nodeId) query = query.where('allocations.node_id', '=', filters.nodeId);
  if (page.after) {
    const [createdAt, id] = page.after;
    query = query.where(
      sql<boolean>`(allocations.created_at, allocations.id) < (${createdAt}::timestamptz, ${id}::uuid)`,
    );
  }
  return query.execute();
}

export function getClaimedAllocation(reader: Reader, id: string): Promise<ClaimedAllocationRow> {
  return selectWithClaims(reader).where('allocations.id', '=', id).executeTakeFirstOrThrow();
}

/** Statuses in which the account on the host is there, so that its address is of use. */
const REACHABLE: readonly AllocationStatus[] = ['active', 'restarting', 'restart_failed'];

/** An allocation on the wire: nothing of its host but what it takes to connect. */
export function allocationView(row: AllocationRow): Schema<'Allocation'> {
  const reachable = REACHABLE.includes(row.status) && row.connection_host !== null && row.connection_port !== null;
  return {
    id: row.id,
    resource_name: resourceName({
      region: row.region_code,
      tenantId: row.tenant_id,
      projectId: row.project_id,
      kind: 'gpuaas/allocation',
      id: row.id,
    }),
    requested_by_user_id: row.requested_by_user_id,
    requested_by_username: row.username,
    requested_by_display_name: row.display_name,
    org_id: row.tenant_id,
    project_id: row.project_id,
    project_name: row.project_name,
    node_id: row.node_id,
    node_hostname: row.connection_hostname,
    scheduler_type: row.scheduler_type,
    ...(row.capacity_shape !== null && { capacity_shape: row.capacity_shape }),
    placement_status: row.placement_status,
    placement_metadata: row.region_code === null ? {} : { region_code: row.region_code },
    sku: row.sku,
    gpus_total: row.gpus_total,
    status: row.status,
    failure_reason: row.failure_reason,
    provisioning_started_at: toWireTimeOrNull(row.provisioning_started_at),
    active_at: toWireTimeOrNull(row.active_at),
    restart_failed_at: toWireTimeOrNull(row.restart_failed_at),
    restart_failed_reason: row.restart_failed_reason,
    released_at: toWireTimeOrNull(row.released_at),
    release_failed_at: toWireTimeOrNull(row.release_failed_at),
    release_failed_reason: row.release_failed_reason,
    connection:
      reachable && row.connection_host !== null && row.connection_port !== null
        ? {
            host: row.connection_host,
            hostname: row.connection_hostname,
            port: row.connection_port,
            username_on_node: row.username_on_node,
          }
        : null,
    ssh_keys: row.ssh_keys,
    created_at: toWireTime(row.created_at),
  };
}

export function claimedAllocationView(row: ClaimedAllocationRow): Schema<'Allocation'> {
  return {
    ...allocationView(row),
    placement_claims: row.claims.map((claim) => ({
      ...claim,
      resource_snapshot: jsonObject(claim.resource_snapshot),
    })),
  };
}
