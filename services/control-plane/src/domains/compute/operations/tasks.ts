import type { Schema } from '@gpuaas/contract';
import { type OperationHandlers, query } from '../../../spine/operation.js';
import { notFound } from '../../../spine/refusal.js';
import { toWireTime } from '../../../spine/wire.js';
import { findTask, taskView } from '../views/task-view.js';
import { timelineItem, timelineOf } from '../views/timeline-view.js';
import { projectIdOf } from './caller.js';

/** Operations of allocations, as tasks that a caller can follow. */
export const taskOperations = {
  getV3TaskDetail: query<'getV3TaskDetail'>(async ({ db, ctx, path }) => {
    const row = await findTask(db, projectIdOf(ctx), path.task_id);
    if (!row) throw notFound('task');
    const timeline = await timelineOf(db, row.allocation_id, MAXIMUM_TIMELINE);
    const body: Schema<'V3TaskDetailResponse'> = {
      task: taskView(row),
      context: {
        project: row.project_name,
        resource_href: `/workloads/${row.allocation_id}`,
        timeline_source: 'allocation_timeline',
      },
      timeline: timeline.map((entry) => {
        const item = timelineItem(entry);
        return {
          kind: KIND_OF_ENTRY[entry.kind],
          name: item.name,
          status: STATUS_OF_ITEM[item.status],
          started_at: item.started_at,
          completed_at: item.completed_at,
          duration_seconds: item.duration_seconds,
          summary: item.summary,
          source: entry.kind === 'node_task' ? ('node_task' as const) : ('allocation' as const),
        };
      }),
      meta: { generated_at: toWireTime(ctx.clock.now()), cache: 'bypass' },
    };
    return { status: 200, body, headers: { 'x-read-model-cache': 'bypass' } };
  }),
} satisfies OperationHandlers;

const MAXIMUM_TIMELINE = 200;

const KIND_OF_ENTRY = {
  allocation_state: 'workflow',
  placement_claim: 'placement',
  node_task: 'node_task',
} as const;

const STATUS_OF_ITEM: Record<Schema<'AllocationTimelineItem'>['status'], Schema<'V3TaskStatus'>> = {
  pending: 'queued',
  running: 'running',
  succeeded: 'succeeded',
  failed: 'failed',
  skipped: 'canceled',
  unknown: 'unknown',
};
