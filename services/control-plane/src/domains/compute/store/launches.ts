import {
  type AllocationId,
  type NodeId,
  newId,
  type OperationRunId,
  type ProjectId,
  type ServiceAccountId,
  type SlotId,
  type TenantId,
  type UserId,
} from '@gpuaas/kernel';
import type { Database } from '../../../spine/database.generated.js';
import type { Tx } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import { placementStatusOf } from '../rules/allocation-state.js';
import { claimStatusOf } from '../rules/claim-state.js';
import type { BillingUnit, CapacityShape } from '../rules/sku.js';
import { type AllocationRow, allocationColumns, allocationSource } from '../views/allocation-view.js';

/** What the allocations of one launch share. */
export interface Launch {
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
  readonly billingUnit: BillingUnit;
  readonly billingUnits: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly osImageId: string | null;
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

/** One allocation of a launch with the host that it has taken. */
export interface PlacedAllocation {
  readonly id: AllocationId;
  readonly operationId: OperationRunId;
  readonly nodeId: NodeId;
  readonly regionCode: string;
  readonly gpusTotal: number;
  /** where its account will be; null for a guest that has no address yet */
  readonly address: { readonly host: string; readonly hostname: string | null; readonly port: number } | null;
  /** what it takes: the host as a whole, or some of its slots */
  readonly claims: readonly {
    readonly slotId: SlotId | null;
    readonly snapshot: Readonly<Record<string, unknown>>;
  }[];
}

const insertLaunchQuery = preparedQuery<AllocationRow>(
  'compute.insert_launch',
  `WITH place AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS p (id uuid, operation_id uuid, event_id uuid, node_id uuid,
      host text, hostname text, port integer, region_code text, gpus_total integer)
  ), allocation AS (
    INSERT INTO allocations (id, tenant_id, project_id, requested_by_user_id, service_account_id, name, scheduler_type,
      scheduler_request, capacity_shape, sku, sku_snapshot, gpus_total, billing_unit, billing_units, unit_price_minor,
      currency, region_code, os_image_id, status, placement_status, node_id, connection_host, connection_hostname,
      connection_port, username_on_node, uid_on_node, current_operation_id, created_at, updated_at)
    SELECT p.id, $2::uuid, $3::uuid, $4::uuid, $5::uuid, $6::text, $7::text, $8::jsonb, $9::text, $10::text, $11::jsonb,
      p.gpus_total, $12::text, $13::integer, $14::bigint, $15::text, p.region_code, $16::uuid, 'requested', $17::text,
      p.node_id, p.host, p.hostname, p.port, $18::text, $19::integer, p.operation_id, $20::timestamptz, $20::timestamptz
    FROM place AS p
    RETURNING *
  ), operation AS (
    INSERT INTO allocation_operations (id, allocation_id, kind, status, correlation_id, deadline_at, created_at,
      updated_at)
    SELECT p.operation_id, p.id, 'launch', 'queued', $21::text, $22::timestamptz, $20::timestamptz, $20::timestamptz
    FROM place AS p
  ), claim AS (
    INSERT INTO placement_claims (id, allocation_id, node_id, slot_id, kind, status, resource_snapshot, created_at)
    SELECT c.id, c.allocation_id, c.node_id, c.slot_id, CASE WHEN c.slot_id IS NULL THEN 'node_exclusive' ELSE 'slot' END,
      $23::text, c.snapshot, $20::timestamptz
    FROM jsonb_to_recordset($25::jsonb) AS c (id uuid, allocation_id uuid, node_id uuid, slot_id uuid, snapshot jsonb)
  ), event AS (
    INSERT INTO allocation_events (id, allocation_id, operation_id, name, status, occurred_at)
    SELECT p.event_id, p.id, p.operation_id, 'requested', 'succeeded', $20::timestamptz
    FROM place AS p
  ), key AS (
    INSERT INTO allocation_ssh_keys (allocation_id, ssh_key_id, position, name, fingerprint, public_key)
    SELECT p.id, k.id, k.position, k.name, k.fingerprint, k.public_key
    FROM place AS p
    CROSS JOIN jsonb_to_recordset($24::jsonb) AS k (id uuid, position integer, name text, fingerprint text,
      public_key text)
    RETURNING *
  )
  SELECT ${allocationColumns('key')} ${allocationSource('allocation')}`,
);

/**
 * Writes placed allocations with their launch operations, claims, keys and first events, in one statement, and returns
 * them as they are shown, in the order of their places.
 * A claim that a rival has won meanwhile raises its constraint; the caller lets the transaction be repeated.
 */
export async function insertLaunch(
  tx: Tx,
  launch: Launch,
  places: readonly PlacedAllocation[],
  now: Date,
): Promise<readonly AllocationRow[]> {
  const { rows } = await tx.executeQuery(
    insertLaunchQuery([
      JSON.stringify(
        places.map((place) => ({
          id: place.id,
          operation_id: place.operationId,
          event_id: newId(),
          node_id: place.nodeId,
          host: place.address?.host ?? null,
          hostname: place.address?.hostname ?? null,
          port: place.address?.port ?? null,
          region_code: place.regionCode,
          gpus_total: place.gpusTotal,
        })),
      ),
      launch.tenantId,
      launch.projectId,
      launch.requestedByUserId,
      launch.serviceAccountId,
      launch.name,
      launch.schedulerType,
      JSON.stringify(launch.schedulerRequest),
      launch.capacityShape,
      launch.sku,
      JSON.stringify(launch.skuSnapshot),
      launch.billingUnit,
      launch.billingUnits,
      launch.unitPriceMinor,
      launch.currency,
      launch.osImageId,
      placementStatusOf('requested'),
      launch.username,
      launch.uid,
      now,
      launch.correlationId,
      launch.deadlineAt,
      claimStatusOf('requested'),
      JSON.stringify(
        launch.keys.map((key, position) => ({
          id: key.id,
          position,
          name: key.name,
          fingerprint: key.fingerprint,
          public_key: key.publicKey,
        })),
      ),
      JSON.stringify(
        places.flatMap((place) =>
          place.claims.map((claim) => ({
            id: newId(),
            allocation_id: place.id,
            node_id: place.nodeId,
            slot_id: claim.slotId,
            snapshot: claim.snapshot,
          })),
        ),
      ),
    ]),
  );
  const byId = new Map(rows.map((row) => [row.id, row]));
  return places.flatMap((place) => byId.get(place.id) ?? []);
}
