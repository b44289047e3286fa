import type { Reader } from '../../../spine/operation.js';
import type { WorkflowFamily } from '../../../spine/workflows.js';
import { canMatch, type RunStatus, type WorkflowFilter } from '../rules/workflow-search.js';

export interface WorkflowRun {
  readonly workflow_id: string;
  readonly name: string;
  readonly run_id: string | null;
  readonly family: WorkflowFamily;
  readonly status: RunStatus;
  readonly resource_type: string;
  readonly summary: string;
  readonly tenant_id: string | null;
  readonly project_id: string | null;
  readonly actor_user_id: string | null;
  readonly allocation_id: string | null;
  readonly node_id: string | null;
  readonly site_id: string | null;
  readonly correlation_id: string | null;
  readonly created_at: Date;
  readonly started_at: Date | null;
  readonly updated_at: Date;
  readonly closed_at: Date | null;
}

export interface WorkflowRunPosition {
  readonly createdAt: Date;
  readonly workflowId: string;
}

/** Workflows by a filter, newest request first. */
export async function listWorkflowRuns(
  db: Reader,
  filter: WorkflowFilter,
  page: { readonly after: WorkflowRunPosition | null; readonly limit: number },
): Promise<readonly WorkflowRun[]> {
  if (!canMatch(filter)) return [];
  let rows = db
    .selectFrom('workflow_runs')
    .select([
      'workflow_id',
      'name',
      'run_id',
      'family',
      'status',
      'resource_type',
      'summary',
      'tenant_id',
      'project_id',
      'actor_user_id',
      'allocation_id',
      'node_id',
      'site_id',
      'correlation_id',
      'created_at',
      'started_at',
      'updated_at',
      'closed_at',
    ]);
  for (const column of [
    'workflow_id',
    'run_id',
    'tenant_id',
    'project_id',
    'allocation_id',
    'node_id',
    'actor_user_id',
    'correlation_id',
  ] as const) {
    const wanted = filter[column];
    if (wanted !== undefined) rows = rows.where(column, '=', wanted);
  }
  if (filter.family !== undefined) rows = rows.where('family', '=', filter.family);
  if (filter.statuses !== null) rows = rows.where('status', 'in', filter.statuses);
  if (filter.from !== null) rows = rows.where('created_at', '>=', filter.from);
  if (filter.to !== null) rows = rows.where('created_at', '<', filter.to);
  const { after } = page;
  if (after) {
    rows = rows.where((eb) =>
      eb(eb.refTuple('created_at', 'workflow_id'), '<', eb.tuple(after.createdAt, after.workflowId)),
    );
  }
  return rows.orderBy('created_at', 'desc').orderBy('workflow_id', 'desc').limit(page.limit).execute();
}
