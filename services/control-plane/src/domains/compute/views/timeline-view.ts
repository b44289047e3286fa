// Beside compute's own tables this view reads fleet's `node_tasks`: type, status and times, never params or output.
import type { Schema } from '@gpuaas/contract';
import { sql } from 'kysely';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import type { Reader, RequestContext } from '../../../spine/operation.js';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { AllocationRow } from './allocation-view.js';

export interface TimelineRow {
  readonly kind: 'allocation_state' | 'placement_claim' | 'node_task';
  readonly id: string;
  readonly at: Date;
  readonly name: string;
  readonly status: string;
  readonly task_id: string | null;
  readonly node_id: string | null;
  readonly started_at: Date | null;
  readonly completed_at: Date | null;
  readonly summary: string | null;
}

/** What happened to an allocation, newest first: its moves, what it occupies, and what its host was told. */
export async function timelineView(
  db: Reader,
  ctx: RequestContext,
  operation: 'getAllocationTimeline' | 'adminGetAllocationTimeline',
  allocation: AllocationRow,
  parameters: { readonly cursor?: string; readonly limit: number; readonly page_size?: number },
): Promise<Schema<'AllocationTimelineResponse'>> {
  const page = pageRequest(
    ctx,
    { operation, context: allocation.id, filters: {}, sort: 'at_desc' },
    { cursor: parameters.cursor, page_size: parameters.page_size ?? parameters.limit },
  );
  const rows = await readTimeline(db, allocation.id, page.after, page.pageSize + 1);
  const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.at.toISOString(), row.kind, row.id]);
  return {
    allocation_id: allocation.id,
    status: allocation.status,
    generated_at: toWireTime(ctx.clock.now()),
    next_cursor: pagination.next_cursor,
    items: items.map(timelineItem),
  };
}

/** Oldest first, up to `limit` of them. */
export async function timelineOf(db: Reader, allocationId: string, limit: number): Promise<TimelineRow[]> {
  return (await readTimeline(db, allocationId, null, limit)).reverse();
}

async function readTimeline(
  db: Reader,
  allocationId: string,
  after: readonly (string | null)[] | null,
  limit: number,
): Promise<TimelineRow[]> {
  const beyond =
    after === null
      ? sql``
      : sql`WHERE (at, kind, id) < (${after[0]}::timestamptz, ${after[1]}::text, ${after[2]}::uuid)`;
  const result = await sql<TimelineRow>`
    SELECT kind, id, at, name, status, task_id, node_id, started_at, completed_at, summary FROM (
      SELECT 'allocation_state' AS kind, id, occurred_at AS at, name, status, NULL::uuid AS task_id,
             NULL::uuid AS node_id, occurred_at AS started_at, occurred_at AS completed_at, summary
      FROM allocation_events WHERE allocation_id = ${allocationId}
      UNION ALL
      SELECT 'placement_claim', id, created_at, CASE kind WHEN 'slot' THEN 'slot_reserved' ELSE 'placement_reserved' END,
             status, NULL, node_id, created_at, released_at, NULL
      FROM placement_claims WHERE allocation_id = ${allocationId}
      UNION ALL
      SELECT 'node_task', id, issued_at, task_type, status, id, node_id, coalesce(dispatched_at, issued_at),
             completed_at, NULL
      FROM node_tasks WHERE subject_type = 'allocation' AND subject_id = ${allocationId}
    ) AS happened
    ${beyond}
    ORDER BY at DESC, kind DESC, id DESC
    LIMIT ${limit}`.execute(db);
  return result.rows;
}

type ItemStatus = Schema<'AllocationTimelineItem'>['status'];

export function timelineItem(row: TimelineRow): Schema<'AllocationTimelineItem'> {
  return {
    kind: row.kind,
    name: row.name,
    status: itemStatus(row),
    task_id: row.task_id,
    node_id: row.node_id,
    started_at: toWireTimeOrNull(row.started_at),
    completed_at: toWireTimeOrNull(row.completed_at),
    duration_seconds:
      row.started_at && row.completed_at
        ? Math.max(0, Math.floor((row.completed_at.getTime() - row.started_at.getTime()) / 1000))
        : null,
    summary: row.summary,
  };
}

const STATUS_OF_STATE: Readonly<Record<string, ItemStatus>> = {
  pending: 'pending',
  running: 'running',
  succeeded: 'succeeded',
  failed: 'failed',
  skipped: 'skipped',
};
const STATUS_OF_CLAIM: Readonly<Record<string, ItemStatus>> = {
  reserved: 'running',
  provisioning: 'running',
  active: 'running',
  releasing: 'running',
  released: 'succeeded',
  failed: 'failed',
};
const STATUS_OF_TASK: Readonly<Record<string, ItemStatus>> = {
  queued: 'pending',
  dispatched: 'running',
  completed: 'succeeded',
  failed: 'failed',
  rejected: 'failed',
  expired: 'failed',
  superseded: 'skipped',
  withdrawn: 'skipped',
};

function itemStatus(row: TimelineRow): ItemStatus {
  const words =
    row.kind === 'allocation_state'
      ? STATUS_OF_STATE
      : row.kind === 'placement_claim'
        ? STATUS_OF_CLAIM
        : STATUS_OF_TASK;
  return words[row.status] ?? 'unknown';
}
