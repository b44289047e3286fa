// Beside compute's own tables this view reads the names of people (`users`) and projects (`projects`) of identity; it
// changes nothing.
import type { Schema } from '@gpuaas/contract';
import type { CompiledQuery } from 'kysely';
import type { Position } from '../../../spine/cursors.js';
import type { Reader } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import { resourceName, toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { AllocationStatus } from '../rules/allocation-state.js';

/** An allocation with what people call its parts. */
export interface AllocationRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly project_id: string;
  readonly requested_by_user_id: string;
  readonly username: string | null;
  readonly display_name: string | null;
  readonly project_name: string | null;
  readonly node_id: string | null;
  readonly scheduler_type: Schema<'Allocation'>['scheduler_type'];
  readonly capacity_shape: Schema<'CapacityShape'> | null;
  readonly placement_status: Schema<'AllocationPlacementStatus'>;
  readonly region_code: string | null;
  readonly sku: string;
  readonly gpus_total: number;
  readonly status: AllocationStatus;
  readonly failure_reason: string | null;
  readonly provisioning_started_at: Date | null;
  readonly active_at: Date | null;
  readonly restart_failed_at: Date | null;
  readonly restart_failed_reason: string | null;
  readonly released_at: Date | null;
  readonly release_failed_at: Date | null;
  readonly release_failed_reason: string | null;
  readonly connection_host: string | null;
  readonly connection_hostname: string | null;
  readonly connection_port: number | null;
  readonly username_on_node: string;
  readonly created_at: Date;
  readonly ssh_keys: Schema<'SshPublicKeyRef'>[];
}

export interface ClaimedAllocationRow extends AllocationRow {
  readonly claims: Schema<'AllocationPlacementClaim'>[];
}

/** The columns of an AllocationRow from `a`, `u` and `p`; the keys from wherever they can be read. */
export const allocationColumns = (
  keys: string,
): string => `a.id, a.tenant_id, a.project_id, a.requested_by_user_id, u.username, u.display_name,
  p.name AS project_name, a.node_id, a.scheduler_type, a.capacity_shape, a.placement_status, a.region_code, a.sku,
  a.gpus_total, a.status, a.failure_reason, a.provisioning_started_at, a.active_at, a.restart_failed_at,
  a.restart_failed_reason, a.released_at, a.release_failed_at, a.release_failed_reason, a.connection_host,
  a.connection_hostname, a.connection_port, a.username_on_node, a.created_at,
  (SELECT coalesce(json_agg(json_build_object('id', k.ssh_key_id, 'name', k.name, 'fingerprint', k.fingerprint)
     ORDER BY k.position), '[]')
   FROM ${keys} k WHERE k.allocation_id = a.id) AS ssh_keys`;
const COLUMNS = allocationColumns('allocation_ssh_keys');

const WIRE_TIME = `'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'`;
const CLAIMS = `(SELECT coalesce(json_agg(json_build_object('id', c.id, 'allocation_id', c.allocation_id,
     'node_id', c.node_id, 'slot_id', c.slot_id, 'claim_kind', c.kind, 'status', c.status,
     'resource_snapshot', c.resource_snapshot,
     'created_at', to_char(c.created_at AT TIME ZONE 'UTC', ${WIRE_TIME}),
     'released_at', to_char(c.released_at AT TIME ZONE 'UTC', ${WIRE_TIME})) ORDER BY c.created_at, c.id), '[]')
   FROM placement_claims c WHERE c.allocation_id = a.id) AS claims`;

/** Whose and where; `allocations` is the table, or what a statement has just written to it. */
export const allocationSource = (allocations: string): string => `FROM ${allocations} a
  LEFT JOIN users u ON u.id = a.requested_by_user_id
  LEFT JOIN projects p ON p.id = a.project_id`;
const FROM = allocationSource('allocations');

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

/** Conditions of a statement with their parameters; the words alone decide which statement it is. */
class Conditions {
  readonly parameters: unknown[] = [];
  readonly #texts: string[] = [];

  /** `$` in `text` stands for the next of `values`. */
  add(text: string, ...values: readonly unknown[]): this {
    const rest = [...values];
    this.#texts.push(
      text.replaceAll('$', () => {
        this.parameters.push(rest.shift());
        return `$${this.parameters.length}`;
      }),
    );
    return this;
  }

  bind(value: unknown): string {
    this.parameters.push(value);
    return `$${this.parameters.length}`;
  }

  get text(): string {
    return this.#texts.length === 0 ? '' : `WHERE ${this.#texts.join(' AND ')}`;
  }
}

function inScope(conditions: Conditions, scope: AllocationScope): Conditions {
  if (scope === 'all') return conditions;
  if ('projectId' in scope) return conditions.add('a.project_id = $::uuid', scope.projectId);
  conditions.add('a.tenant_id = $::uuid', scope.tenantId);
  if (scope.sharedRuntimeId === null) return conditions;
  return conditions.add(
    `EXISTS (SELECT FROM allocation_group_members m JOIN allocation_groups g ON g.id = m.allocation_group_id
      WHERE m.allocation_id = a.id AND g.owner_kind = 'shared_app_runtime' AND g.owner_id = $::uuid)`,
    scope.sharedRuntimeId,
  );
}

const names = new Map<string, string>();

/** Few texts come of few conditions, so that each may be planned once a connection. */
function statement<Row>(text: string): (parameters: readonly unknown[]) => CompiledQuery<Row> {
  const name = names.get(text) ?? `compute.allocations.${names.size}`;
  names.set(text, name);
  return preparedQuery<Row>(name, text);
}

interface Page {
  readonly after: Position | null;
  readonly limit: number;
}

async function readPage<Row extends AllocationRow>(
  reader: Reader,
  columns: string,
  scope: AllocationScope,
  filters: AllocationFilters,
  page: Page,
): Promise<Row[]> {
  const conditions = inScope(new Conditions(), scope);
  if (filters.status) conditions.add('a.status = $::text', filters.status);
  if (filters.userId) conditions.add('a.requested_by_user_id = $::uuid', filters.userId);
  if (filters.nodeId) conditions.add('a.node_id = $::uuid', filters.nodeId);
  if (page.after) conditions.add('(a.created_at, a.id) < ($::timestamptz, $::uuid)', ...page.after);
  const limit = conditions.bind(page.limit);
  const query = statement<Row>(`SELECT ${columns} ${FROM} ${conditions.text}
    ORDER BY a.created_at DESC, a.id DESC LIMIT ${limit}::integer`);
  return (await reader.executeQuery(query(conditions.parameters))).rows;
}

/** Newest first; one row more than the page tells whether there are more. */
export function listAllocations(
  reader: Reader,
  scope: AllocationScope,
  filters: AllocationFilters,
  page: Page,
): Promise<AllocationRow[]> {
  return readPage(reader, COLUMNS, scope, filters, page);
}

/** As operators see them: with what they occupy. */
export function listClaimedAllocations(
  reader: Reader,
  filters: AllocationFilters,
  page: Page,
): Promise<ClaimedAllocationRow[]> {
  return readPage(reader, `${COLUMNS}, ${CLAIMS}`, 'all', filters, page);
}

export async function findAllocation(
  reader: Reader,
  scope: AllocationScope,
  id: string,
): Promise<AllocationRow | undefined> {
  const conditions = inScope(new Conditions(), scope).add('a.id = $::uuid', id);
  const query = statement<AllocationRow>(`SELECT ${COLUMNS} ${FROM} ${conditions.text}`);
  return (await reader.executeQuery(query(conditions.parameters))).rows[0];
}

/** In the order of `ids`. */
export async function getAllocations(reader: Reader, ids: readonly string[]): Promise<AllocationRow[]> {
  const query = statement<AllocationRow>(`SELECT ${COLUMNS} ${FROM} WHERE a.id = ANY ($1::uuid[])`);
  const { rows } = await reader.executeQuery(query([ids]));
  const byId = new Map(rows.map((row) => [row.id, row]));
  return ids.flatMap((id) => byId.get(id) ?? []);
}

export async function getClaimedAllocation(reader: Reader, id: string): Promise<ClaimedAllocationRow> {
  const query = statement<ClaimedAllocationRow>(`SELECT ${COLUMNS}, ${CLAIMS} ${FROM} WHERE a.id = $1::uuid`);
  const { rows } = await reader.executeQuery(query([id]));
  if (!rows[0]) throw new Error(`allocation ${id} has gone`);
  return rows[0];
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
  return { ...allocationView(row), placement_claims: row.claims };
}
