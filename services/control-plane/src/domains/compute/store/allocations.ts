import {
  type AllocationId,
  asId,
  type NodeId,
  type OperationRunId,
  type ProjectId,
  type ServiceAccountId,
  type SkuCode,
  type TenantId,
  type UserId,
} from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import type { AllocationStatus } from '../rules/allocation-state.js';
import type { BillingUnit, CapacityShape } from '../rules/sku.js';

/** An allocation as the rules need it, locked until commit. */
export interface LockedAllocation {
  readonly id: AllocationId;
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  readonly requestedByUserId: UserId;
  readonly serviceAccountId: ServiceAccountId | null;
  readonly status: AllocationStatus;
  readonly sku: SkuCode;
  readonly capacityShape: CapacityShape | null;
  readonly billingUnit: BillingUnit;
  readonly billingUnits: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly nodeId: NodeId | null;
  readonly username: string;
  readonly uid: number;
  readonly currentOperationId: OperationRunId;
  readonly keySetVersion: number;
  readonly keySetAppliedVersion: number | null;
  readonly keySyncAttempts: number;
  readonly activeAt: Date | null;
}

interface LockRow {
  readonly id: string;
  readonly tenant_id: string;
  readonly project_id: string;
  readonly requested_by_user_id: string;
  readonly service_account_id: string | null;
  readonly status: AllocationStatus;
  readonly sku: string;
  readonly capacity_shape: CapacityShape | null;
  readonly billing_unit: BillingUnit;
  readonly billing_units: number;
  readonly unit_price_minor: bigint;
  readonly currency: string;
  readonly node_id: string | null;
  readonly username_on_node: string;
  readonly uid_on_node: number;
  readonly current_operation_id: string;
  readonly key_set_version: number;
  readonly key_set_applied_version: number | null;
  readonly key_sync_attempts: number;
  readonly active_at: Date | null;
}

const LOCKED_COLUMNS = `id, tenant_id, project_id, requested_by_user_id, service_account_id, status, sku, capacity_shape,
  billing_unit, billing_units, unit_price_minor, currency, node_id, username_on_node, uid_on_node, current_operation_id,
  key_set_version, key_set_applied_version, key_sync_attempts, active_at`;

const lockOne = preparedQuery<LockRow>(
  'compute.lock_allocation',
  `SELECT ${LOCKED_COLUMNS} FROM allocations
  WHERE id = $1::uuid AND ($2::uuid IS NULL OR project_id = $2::uuid) FOR UPDATE`,
);
const lockMany = preparedQuery<LockRow>(
  'compute.lock_allocations',
  `SELECT ${LOCKED_COLUMNS} FROM allocations WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE`,
);

function locked(row: LockRow): LockedAllocation {
  return {
    id: asId(row.id),
    tenantId: asId(row.tenant_id),
    projectId: asId(row.project_id),
    requestedByUserId: asId(row.requested_by_user_id),
    serviceAccountId: row.service_account_id === null ? null : asId(row.service_account_id),
    status: row.status,
    sku: asId(row.sku),
    capacityShape: row.capacity_shape,
    billingUnit: row.billing_unit,
    billingUnits: row.billing_units,
    unitPriceMinor: row.unit_price_minor,
    currency: row.currency,
    nodeId: row.node_id === null ? null : asId(row.node_id),
    username: row.username_on_node,
    uid: row.uid_on_node,
    currentOperationId: asId(row.current_operation_id),
    keySetVersion: row.key_set_version,
    keySetAppliedVersion: row.key_set_applied_version,
    keySyncAttempts: row.key_sync_attempts,
    activeAt: row.active_at,
  };
}

/** Locks until commit; undefined for an id that is unknown or of another project. */
export async function lockAllocation(
  tx: Tx,
  id: string,
  projectId: ProjectId | null = null,
): Promise<LockedAllocation | undefined> {
  const { rows } = await tx.executeQuery(lockOne([id, projectId]));
  return rows[0] && locked(rows[0]);
}

/** Locks them in the order of their ids, the order in which everyone takes more than one. */
export async function lockAllocations(tx: Tx, ids: readonly string[]): Promise<LockedAllocation[]> {
  if (ids.length === 0) return [];
  const { rows } = await tx.executeQuery(lockMany([ids]));
  return rows.map(locked);
}

/** What a wallet pays for or would pay for again after a restart, of what there was at `at`. Locks nothing. */
export async function findPaidAllocations(
  reader: Reader,
  wallet: { readonly tenantId: string; readonly userId: string; readonly currency: string },
  at: Date,
): Promise<readonly string[]> {
  const rows = await reader
    .selectFrom('allocations')
    .select('id')
    .where('requested_by_user_id', '=', wallet.userId)
    .where('tenant_id', '=', wallet.tenantId)
    .where('currency', '=', wallet.currency)
    .where('status', 'in', ['requested', 'provisioning', 'active', 'restarting', 'restart_failed'])
    .where('unit_price_minor', '>', 0n)
    .where('created_at', '<=', at)
    .execute();
  return rows.map((row) => row.id);
}

/** Whether the allocation still occupies hardware. */
export async function hasOpenClaims(tx: Tx, allocationId: AllocationId): Promise<boolean> {
  const row = await tx
    .selectFrom('placement_claims')
    .select('id')
    .where('allocation_id', '=', allocationId)
    .where('released_at', 'is', null)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

const countLive = preparedQuery<{ count: bigint }>(
  'compute.count_live',
  `SELECT count(*) AS count FROM allocations WHERE requested_by_user_id = $1::uuid AND status NOT IN ('released', 'failed')`,
);

/** Counts what runs against the user's limit, over all projects. */
export async function countLiveAllocations(reader: Reader, userId: UserId): Promise<number> {
  const { rows } = await reader.executeQuery(countLive([userId]));
  return Number(rows[0]?.count ?? 0n);
}

const countInTurn = preparedQuery<{ count: bigint }>(
  'compute.count_in_turn',
  'SELECT count_allocations_in_turn($1::uuid) AS count',
);

/**
 * The same count, for a launch: lets one launch of a user go on at a time, until commit. A count is only a limit while
 * nobody else of the same user counts as well.
 */
export async function countInTurnOf(tx: Tx, userId: UserId): Promise<number> {
  const { rows } = await tx.executeQuery(countInTurn([userId]));
  if (!rows[0]) throw new Error('a count without a row');
  return Number(rows[0].count);
}

/** What a project still runs, for whoever wants to delete it; `failed` counts while it holds hardware. */
export async function countProjectUse(reader: Reader, projectId: ProjectId): Promise<number> {
  const row = await reader
    .selectFrom('allocations')
    .select((eb) => eb.fn.countAll<bigint>().as('count'))
    .where('project_id', '=', projectId)
    .where((eb) =>
      eb.or([
        eb('status', 'not in', ['released', 'failed']),
        eb.and([
          eb('status', '=', 'failed'),
          eb.exists(
            eb
              .selectFrom('placement_claims')
              .select('placement_claims.id')
              .whereRef('placement_claims.allocation_id', '=', 'allocations.id')
              .where('placement_claims.released_at', 'is', null),
          ),
        ]),
      ]),
    )
    .executeTakeFirstOrThrow();
  return Number(row.count);
}
