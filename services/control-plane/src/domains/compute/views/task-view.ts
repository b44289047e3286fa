// Beside compute's own tables this view reads the names of identity's `projects`; it changes nothing.
import type { Schema } from '@gpuaas/contract';
import type { Reader } from '../../../spine/operation.js';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import { taskStatusOf } from '../rules/operation-state.js';

const selectTasks = (reader: Reader) =>
  reader
    .selectFrom('allocation_operations as operation')
    .innerJoin('allocations', 'allocations.id', 'operation.allocation_id')
    .innerJoin('projects', 'projects.id', 'allocations.project_id')
    .select([
      'operation.id',
      'operation.kind',
      'operation.status',
      'operation.failure_reason',
      'operation.correlation_id',
      'operation.created_at',
      'operation.updated_at',
      'operation.completed_at',
      'allocations.id as allocation_id',
      'allocations.name as allocation_name',
      'allocations.sku',
      'allocations.project_id',
      'projects.name as project_name',
    ]);

export type TaskRow = Awaited<ReturnType<ReturnType<typeof selectTasks>['executeTakeFirstOrThrow']>>;

export function findTask(reader: Reader, projectId: string, id: string): Promise<TaskRow | undefined> {
  return selectTasks(reader)
    .where('operation.id', '=', id)
    .where('allocations.project_id', '=', projectId)
    .executeTakeFirst();
}

const VERBS: Record<TaskRow['kind'], string> = { launch: 'Launch', release: 'Release', restart: 'Restart' };

export function taskView(row: TaskRow): Schema<'V3TaskSummary'> {
  const name = row.allocation_name ?? row.sku;
  return {
    id: row.id,
    kind: row.kind,
    status: taskStatusOf(row.status),
    title: `${VERBS[row.kind]} ${name}`,
    summary: row.failure_reason,
    resource_kind: 'workload',
    resource_id: row.allocation_id,
    resource_name: name,
    project_id: row.project_id,
    project_name: row.project_name,
    correlation_id: row.correlation_id,
    created_at: toWireTime(row.created_at),
    updated_at: toWireTime(row.updated_at),
    completed_at: toWireTimeOrNull(row.completed_at),
    primary_action: { label: 'Open workload', href: `/workloads/${row.allocation_id}`, kind: 'open_resource' },
  };
}
