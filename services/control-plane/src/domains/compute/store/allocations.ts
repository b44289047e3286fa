import {
  type AllocationId,
  asId,
  type NodeId,
  newId,
  type OperationRunId,
  type ProjectId,
  type ServiceAccountId,
  type SkuCode,
  type TenantId,
  type UserId,
} from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Database } from '../../../spine/database.generated.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import { type AllocationStatus, placementStatusOf } from '../rules/allocation-state.js';
import { type ClaimStatus, claimStatusesBefore, claimStatusOf } from '../rules/claim-state.js';
import type { OperationKind, OperationStatus } from '../rules/operation-state.js';
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
  readonly connectionHostname: string | null;
  readonly username: string;
  readonly uid: number;
  readonly currentOperationId: OperationRunId;
  readonly keySetVersion: number;
  readonly keySetAppliedVersion: number | null;
  readonly keySyncAttempts: number;
  readonly activeAt: Date | null;
}

const selectForLock = (tx: Tx) =>
  tx
    .selectFrom('allocations')
    .select([
      'id',
      'tenant_id',
      'project_id',
      'requested_by_user_id',
      'service_account_id',
      'status',
      'sku',
      'capacity_shape',
      'billing_unit',
      'billing_units',
      'unit_price_minor',
      'currency',
      'node_id',
      'connection_hostname',
      'username_on_node',
      'uid_on_node',
      'current_operation_id',
      'key_set_version',
      'key_set_applied_version',
      'key_sync_attempts',
      'active_at',
    ]);

type LockRow = Awaited<ReturnType<ReturnType<typeof selectForLock>['executeTakeFirstOrThrow']>>;

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
    connectionHostname: row.connection_hostname,
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
  let query = selectForLock(tx).where('id', '=', id).forUpdate();
  if (projectId !== null) query = query.where('project_id', '=', projectId);
  const row = await query.executeTakeFirst();
  return row && locked(row);
}

/** Locks them in the order of their ids, the order in which everyone takes more than one. */
export async function lockAllocations(tx: Tx, ids: readonly string[]): Promise<LockedAllocation[]> {
  if (ids.length === 0) return [];
  const rows = await selectForLock(tx).where('id', 'in', ids).orderBy('id').forUpdate().execute();
  return rows.map(locked);
}

export interface NewAllocation {
  readonly id: AllocationId;
  readonly operationId: OperationRunId;
  readonly claimId: string;
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  readonly requestedByUserId: UserId;
  readonly serviceAccountId: ServiceAccountId | null;
  readonly name: string | null;
  readonly schedulerType: Database['allocations']['scheduler_type'];
  readonly schedulerRequest: Readonly<Record<string, unknown>>;
  readonly capacityShape: CapacityShape | null;
  readonly sku: string;
  readonly skuSnapshot: Readonly<Record<string, unknown>>;
  readonly gpusTotal: number;
  readonly billingUnit: BillingUnit;
  readonly billingUnits: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly osImageId: string | null;
  readonly node: {
    readonly nodeId: NodeId;
    readonly host: string;
    readonly hostname: string | null;
    readonly port: number;
    readonly regionCode: string;
  };
  readonly username: string;
  readonly uid: number;
  readonly keys: readonly {
    readonly id: string;
    readonly name: string;
    readonly fingerprint: string;
    readonly publicKey: string;
  }[];
  readonly correlationId: string;
  readonly deadlineAt: Date;
}

/**
 * Writes placed allocations with their launch operations, claims, keys and first events, in one statement.
 * A claim that a rival has won meanwhile raises its constraint; the caller lets the transaction be repeated.
 */
export async function insertAllocations(tx: Tx, rows: readonly NewAllocation[], now: Date): Promise<void> {
  const keys = rows.flatMap((row) =>
    row.keys.map((key, position) => ({
      allocation_id: row.id,
      ssh_key_id: key.id,
      position,
      name: key.name,
      fingerprint: key.fingerprint,
      public_key: key.publicKey,
    })),
  );
  const statement = tx
    .with('allocation', (db) =>
      db
        .insertInto('allocations')
        .values(
          rows.map((row) => ({
            id: row.id,
            tenant_id: row.tenantId,
            project_id: row.projectId,
            requested_by_user_id: row.requestedByUserId,
            service_account_id: row.serviceAccountId,
            name: row.name,
            scheduler_type: row.schedulerType,
            scheduler_request: JSON.stringify(row.schedulerRequest),
            capacity_shape: row.capacityShape,
            sku: row.sku,
            sku_snapshot: JSON.stringify(row.skuSnapshot),
            gpus_total: row.gpusTotal,
            billing_unit: row.billingUnit,
            billing_units: row.billingUnits,
            unit_price_minor: row.unitPriceMinor,
            currency: row.currency,
            region_code: row.node.regionCode,
            os_image_id: row.osImageId,
            status: 'requested' as const,
            placement_status: placementStatusOf('requested'),
            node_id: row.node.nodeId,
            connection_host: row.node.host,
            connection_hostname: row.node.hostname,
            connection_port: row.node.port,
            username_on_node: row.username,
            uid_on_node: row.uid,
            current_operation_id: row.operationId,
            created_at: now,
            updated_at: now,
          })),
        )
        .returning('id'),
    )
    .with('operation', (db) =>
      db
        .insertInto('allocation_operations')
        .values(
          rows.map((row) => ({
            id: row.operationId,
            allocation_id: row.id,
            kind: 'launch' as const,
            status: 'queued' as const,
            correlation_id: row.correlationId,
            deadline_at: row.deadlineAt,
            created_at: now,
            updated_at: now,
          })),
        )
        .returning('id'),
    )
    .with('claim', (db) =>
      db
        .insertInto('placement_claims')
        .values(
          rows.map((row) => ({
            id: row.claimId,
            allocation_id: row.id,
            node_id: row.node.nodeId,
            kind: 'node_exclusive' as const,
            status: claimStatusOf('requested'),
            resource_snapshot: JSON.stringify({
              sku: row.sku,
              gpus_total: row.gpusTotal,
              region_code: row.node.regionCode,
            }),
            created_at: now,
          })),
        )
        .returning('id'),
    )
    .with('event', (db) =>
      db
        .insertInto('allocation_events')
        .values(
          rows.map((row) => ({
            id: newId(),
            allocation_id: row.id,
            operation_id: row.operationId,
            name: 'requested',
            status: 'succeeded' as const,
            occurred_at: now,
          })),
        )
        .returning('id'),
    );
  if (keys.length === 0) {
    await statement.selectFrom('allocation').select('id').execute();
    return;
  }
  await statement
    .with('key', (db) => db.insertInto('allocation_ssh_keys').values(keys).returning('ssh_key_id'))
    .selectFrom('allocation')
    .select('id')
    .execute();
}

/** What a move writes beside the status. */
export interface MilestonePatch {
  readonly provisioning_started_at?: Date;
  readonly active_at?: Date;
  readonly failed_at?: Date;
  readonly failure_reason?: string;
  readonly restart_failed_at?: Date | null;
  readonly restart_failed_reason?: string | null;
  readonly releasing_at?: Date;
  readonly released_at?: Date;
  readonly release_failed_at?: Date | null;
  readonly release_failed_reason?: string | null;
  readonly key_set_applied_version?: number;
}

export interface Move {
  readonly allocation: Pick<LockedAllocation, 'id' | 'status'>;
  readonly to: AllocationStatus;
  readonly at: Date;
  readonly milestones: MilestonePatch;
  /** what the running operation becomes; an ended one stays as it is */
  readonly operation:
    | { readonly id: OperationRunId; readonly status: OperationStatus; readonly failureReason?: string | null }
    | { readonly id: OperationRunId; readonly begin: NewOperation };
  readonly event: {
    readonly name: string;
    readonly status: Database['allocation_events']['status'];
    readonly summary?: string | null;
  };
}

export interface NewOperation {
  readonly kind: OperationKind;
  readonly forced: boolean;
  readonly reason: string | null;
  readonly correlationId: string;
  readonly deadlineAt: Date;
}

/**
 * Moves a locked allocation with its claims, its operation and its history, in one statement.
 * Throws where the row is no longer in the status that the caller decided on: that would be a lock that was not held.
 */
export async function recordMove(tx: Tx, move: Move): Promise<void> {
  const { allocation, to, at, operation } = move;
  const claimTo = claimStatusOf(to);
  const begins = 'begin' in operation;
  const moved = await tx
    .with('moved', (db) =>
      db
        .updateTable('allocations')
        .set({
          status: to,
          placement_status: placementStatusOf(to),
          updated_at: at,
          ...(begins && { current_operation_id: operation.id }),
          ...move.milestones,
        })
        .where('id', '=', allocation.id)
        .where('status', '=', allocation.status)
        .returning('id'),
    )
    .with('claims', (db) =>
      db
        .updateTable('placement_claims')
        .set({ status: claimTo, ...(claimTo === 'released' && { released_at: at }) })
        .where('allocation_id', '=', allocation.id)
        .where('status', 'in', claimStatusesBefore(claimTo))
        .returning('id'),
    )
    // one operation at a time: what is open ends here, as overtaken unless the move says how
    .with('ended', (db) =>
      db
        .updateTable('allocation_operations')
        .set(
          begins
            ? { status: 'canceled' as const, completed_at: at, updated_at: at }
            : {
                status: operation.status,
                updated_at: at,
                ...(operation.status === 'running'
                  ? { started_at: sql<Date>`coalesce(started_at, ${at})` }
                  : { completed_at: at, failure_reason: operation.failureReason ?? null }),
              },
        )
        .where('allocation_id', '=', allocation.id)
        .where('status', 'in', ['queued', 'running'])
        .returning('id'),
    )
    .with('event', (db) =>
      db
        .insertInto('allocation_events')
        .values({
          id: newId(),
          allocation_id: allocation.id,
          operation_id: operation.id,
          name: move.event.name,
          status: move.event.status,
          summary: move.event.summary ?? null,
          occurred_at: at,
        })
        .returning('id'),
    )
    .selectFrom('moved')
    .select('id')
    .executeTakeFirst();
  if (!moved) throw new Error(`allocation ${allocation.id} is not ${allocation.status} any more`);
  if (begins) await insertOperation(tx, allocation, operation.id, operation.begin, at);
}

/** A statement of its own: the one-open index must see the end of the operation before. */
async function insertOperation(
  tx: Tx,
  allocation: Pick<LockedAllocation, 'id' | 'status'>,
  id: OperationRunId,
  operation: NewOperation,
  at: Date,
): Promise<void> {
  await tx
    .insertInto('allocation_operations')
    .values({
      id,
      allocation_id: allocation.id,
      kind: operation.kind,
      status: 'queued',
      previous_status: allocation.status,
      forced: operation.forced,
      reason: operation.reason,
      attempts: 1,
      correlation_id: operation.correlationId,
      deadline_at: operation.deadlineAt,
      created_at: at,
      updated_at: at,
    })
    .execute();
}

/**
 * Notes for many operations at once that hosts have taken them: a launch is being provisioned from then on. Passes over
 * allocations that somebody is just moving, because whoever that is knows better.
 */
export async function recordDispatch(
  db: Reader,
  operations: readonly { readonly id: string; readonly allocationId: string }[],
  at: Date,
): Promise<void> {
  const provisioning = { status: 'provisioning' as const, placement_status: placementStatusOf('provisioning') };
  await db
    .with('taken', (cte) =>
      cte
        .selectFrom('allocations')
        .select(['id', 'current_operation_id', 'status'])
        .where(
          'id',
          'in',
          operations.map((operation) => operation.allocationId),
        )
        .where(
          'current_operation_id',
          'in',
          operations.map((operation) => operation.id),
        )
        .orderBy('id')
        .forUpdate()
        .skipLocked(),
    )
    .with('launched', (cte) =>
      cte
        .updateTable('allocations')
        .from('taken')
        .set({ ...provisioning, provisioning_started_at: at, updated_at: at })
        .whereRef('allocations.id', '=', 'taken.id')
        .where('taken.status', '=', 'requested')
        .returning(['allocations.id', 'allocations.current_operation_id']),
    )
    .with('claims', (cte) =>
      cte
        .updateTable('placement_claims')
        .from('launched')
        .set({ status: claimStatusOf('provisioning') })
        .whereRef('placement_claims.allocation_id', '=', 'launched.id')
        .where('placement_claims.status', 'in', claimStatusesBefore(claimStatusOf('provisioning')))
        .returning('placement_claims.id'),
    )
    .with('events', (cte) =>
      cte
        .insertInto('allocation_events')
        .columns(['id', 'allocation_id', 'operation_id', 'name', 'status', 'occurred_at'])
        .expression((eb) =>
          eb
            .selectFrom('launched')
            .select([
              sql<string>`gen_random_uuid()`.as('id'),
              'launched.id as allocation_id',
              'launched.current_operation_id as operation_id',
              sql<string>`'provisioning_started'`.as('name'),
              sql<'succeeded'>`'succeeded'`.as('status'),
              sql<Date>`${at}::timestamptz`.as('occurred_at'),
            ]),
        )
        .returning('id'),
    )
    .updateTable('allocation_operations')
    .from('taken')
    .set({ status: 'running', started_at: at, updated_at: at })
    .whereRef('allocation_operations.id', '=', 'taken.current_operation_id')
    .where('allocation_operations.status', '=', 'queued')
    .execute();
}

/** Moves the claims of an allocation whose own status stays: the teardown after a failed launch. Returns how many. */
export async function moveClaims(tx: Tx, allocationId: AllocationId, to: ClaimStatus, at: Date): Promise<number> {
  const result = await tx
    .updateTable('placement_claims')
    .set({ status: to, ...(to === 'released' && { released_at: at }) })
    .where('allocation_id', '=', allocationId)
    .where('status', 'in', claimStatusesBefore(to))
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}

export async function appendEvent(
  tx: Tx,
  allocation: Pick<LockedAllocation, 'id' | 'currentOperationId'>,
  event: Move['event'],
  at: Date,
): Promise<void> {
  await tx
    .insertInto('allocation_events')
    .values({
      id: newId(),
      allocation_id: allocation.id,
      operation_id: allocation.currentOperationId,
      name: event.name,
      status: event.status,
      summary: event.summary ?? null,
      occurred_at: at,
    })
    .execute();
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

/** Counts what runs against the user's limit, over all projects. */
export async function countLiveAllocations(reader: Reader, userId: UserId): Promise<number> {
  const row = await reader
    .selectFrom('allocations')
    .select((eb) => eb.fn.countAll<bigint>().as('count'))
    .where('requested_by_user_id', '=', userId)
    .where('status', 'not in', ['released', 'failed'])
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

/** One launch at a time for a user: a count is only a limit while nobody else of the same user counts as well. */
export async function lockUserAdmissions(tx: Tx, userId: UserId): Promise<void> {
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`compute.admission:${userId}`}, 0))`.execute(tx);
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
