import { type AllocationId, newId, type OperationRunId } from '@gpuaas/kernel';
import type { Database } from '../../../spine/database.generated.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import { type AllocationStatus, placementStatusOf } from '../rules/allocation-state.js';
import { type ClaimStatus, claimStatusesBefore, claimStatusOf } from '../rules/claim-state.js';
import type { OperationKind } from '../rules/operation-state.js';
import type { LockedAllocation } from './allocations.js';

/** What a move writes beside the status; absent leaves, null clears. */
export interface Milestones {
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
  readonly connection_host?: string;
  readonly connection_port?: number;
}

export interface NewOperation {
  readonly kind: OperationKind;
  readonly forced: boolean;
  readonly reason: string | null;
  readonly correlationId: string;
  readonly deadlineAt: Date;
}

export interface AllocationEventRow {
  readonly name: string;
  readonly status: Database['allocation_events']['status'];
  readonly summary?: string | null;
}

export interface Move {
  readonly allocation: Pick<LockedAllocation, 'id' | 'status'>;
  readonly to: AllocationStatus;
  readonly at: Date;
  readonly milestones: Milestones;
  /** how the open operation ends, or which one begins in its place; one that has ended stays as it is */
  readonly operation:
    | {
        readonly id: OperationRunId;
        readonly status: 'running' | 'succeeded' | 'failed';
        readonly failureReason?: string | null;
      }
    | { readonly id: OperationRunId; readonly begin: NewOperation };
  readonly event: AllocationEventRow;
  /** nobody is let in any more */
  readonly endsGrants?: boolean;
}

// The operation that begins is written after the one before has ended: the index of open ones allows no second.
const moveAllocation = preparedQuery<{ id: string }>(
  'compute.move_allocation',
  `WITH moved AS (
    UPDATE allocations AS a SET status = $3, placement_status = $4, updated_at = $5::timestamptz,
      current_operation_id = $6::uuid,
      (provisioning_started_at, active_at, failed_at, failure_reason, restart_failed_at, restart_failed_reason,
       releasing_at, released_at, release_failed_at, release_failed_reason, key_set_applied_version, connection_host,
       connection_port) =
      (SELECT p.provisioning_started_at, p.active_at, p.failed_at, p.failure_reason, p.restart_failed_at,
         p.restart_failed_reason, p.releasing_at, p.released_at, p.release_failed_at, p.release_failed_reason,
         p.key_set_applied_version, p.connection_host, p.connection_port
       FROM jsonb_populate_record(a, $7::jsonb) AS p)
    WHERE a.id = $1::uuid AND a.status = $2::text
    RETURNING a.id
  ), claims AS (
    UPDATE placement_claims SET status = $8::text,
      released_at = CASE WHEN $8::text = 'released' THEN $5::timestamptz END
    WHERE allocation_id = $1::uuid AND released_at IS NULL AND status = ANY ($9::text[])
  ), grants AS (
    UPDATE allocation_access_grants SET status = 'revoked', revoked_at = $5::timestamptz
    WHERE allocation_id = $1::uuid AND status = 'active' AND $10::boolean
  ), ended AS (
    UPDATE allocation_operations SET status = $11::text, failure_reason = $12::text, updated_at = $5::timestamptz,
      started_at = CASE WHEN $11::text = 'running' THEN $5::timestamptz ELSE started_at END,
      completed_at = CASE WHEN $11::text = 'running' THEN NULL ELSE $5::timestamptz END
    WHERE allocation_id = $1::uuid AND status IN ('queued', 'running')
    RETURNING id
  ), begun AS (
    INSERT INTO allocation_operations (id, allocation_id, kind, status, previous_status, forced, reason, attempts,
      correlation_id, deadline_at, created_at, updated_at)
    SELECT $6::uuid, $1::uuid, $13::text, 'queued', $2::text, $14::boolean, $15::text, 1, $16::text, $17::timestamptz,
      $5::timestamptz, $5::timestamptz
    FROM (SELECT count(*) FROM ended) AS before
    WHERE $13::text IS NOT NULL
  ), event AS (
    INSERT INTO allocation_events (id, allocation_id, operation_id, name, status, summary, occurred_at)
    VALUES ($18::uuid, $1::uuid, $6::uuid, $19::text, $20::text, $21::text, $5::timestamptz)
  )
  SELECT id FROM moved`,
);

/**
 * Moves a locked allocation with its claims, its operation and its history, in one statement.
 * Throws where the row is no longer in the status that the caller decided on: that would be a lock that was not held.
 */
export async function recordMove(tx: Tx, move: Move): Promise<void> {
  const { allocation, to, at, operation, event } = move;
  const claimTo = claimStatusOf(to);
  const begin = 'begin' in operation ? operation.begin : null;
  const { rows } = await tx.executeQuery(
    moveAllocation([
      allocation.id,
      allocation.status,
      to,
      placementStatusOf(to),
      at,
      operation.id,
      JSON.stringify(move.milestones),
      claimTo,
      claimStatusesBefore(claimTo),
      move.endsGrants ?? false,
      'begin' in operation ? 'canceled' : operation.status,
      'begin' in operation ? null : (operation.failureReason ?? null),
      begin?.kind ?? null,
      begin?.forced ?? null,
      begin?.reason ?? null,
      begin?.correlationId ?? null,
      begin?.deadlineAt ?? null,
      newId(),
      event.name,
      event.status,
      event.summary ?? null,
    ]),
  );
  if (rows.length !== 1) throw new Error(`allocation ${allocation.id} is not ${allocation.status} any more`);
}

const dispatch = preparedQuery(
  'compute.record_dispatch',
  `WITH taken AS (
    SELECT id, current_operation_id, status FROM allocations
    WHERE id = ANY ($1::uuid[]) AND current_operation_id = ANY ($2::uuid[])
    ORDER BY id FOR UPDATE SKIP LOCKED
  ), launched AS (
    UPDATE allocations SET status = 'provisioning', placement_status = $4::text, updated_at = $3::timestamptz,
      provisioning_started_at = $3::timestamptz
    FROM taken WHERE allocations.id = taken.id AND taken.status = 'requested'
    RETURNING allocations.id, allocations.current_operation_id
  ), claims AS (
    UPDATE placement_claims SET status = $5::text
    FROM launched WHERE placement_claims.allocation_id = launched.id AND placement_claims.status = ANY ($6::text[])
  ), event AS (
    INSERT INTO allocation_events (id, allocation_id, operation_id, name, status, occurred_at)
    SELECT gen_random_uuid(), id, current_operation_id, 'provisioning_started', 'succeeded', $3::timestamptz
    FROM launched
  )
  UPDATE allocation_operations SET status = 'running', started_at = $3::timestamptz, updated_at = $3::timestamptz
  FROM taken WHERE allocation_operations.id = taken.current_operation_id AND allocation_operations.status = 'queued'`,
);

/**
 * Notes for many operations at once that hosts have taken them: a launch is being provisioned from then on. Passes over
 * allocations that somebody is just moving, because whoever that is knows better.
 */
export async function recordDispatch(
  db: Reader,
  operations: readonly { readonly id: string; readonly allocationId: string }[],
  at: Date,
): Promise<void> {
  const claimTo = claimStatusOf('provisioning');
  await db.executeQuery(
    dispatch([
      operations.map((operation) => operation.allocationId),
      operations.map((operation) => operation.id),
      at,
      placementStatusOf('provisioning'),
      claimTo,
      claimStatusesBefore(claimTo),
    ]),
  );
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
  event: AllocationEventRow,
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
