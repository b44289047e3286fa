import type { Schema } from '@gpuaas/contract';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import { shownStatus } from '../rules/workflow-search.js';
import type { WorkflowRun } from '../store/workflow-runs.js';

export function workflowRunView(run: WorkflowRun): Schema<'V3PlatformTemporalWorkflowItem'> {
  return {
    workflow_id: run.workflow_id,
    workflow_run_id: run.run_id,
    family: run.family,
    status: shownStatus(run.status),
    source: 'product_record',
    owner: { org_id: run.tenant_id, project_id: run.project_id, actor_user_id: run.actor_user_id },
    target: {
      allocation_id: run.allocation_id,
      node_id: run.node_id,
      site_id: run.site_id,
      resource_type: run.resource_type,
    },
    timestamps: {
      started_at: toWireTimeOrNull(run.started_at),
      updated_at: toWireTime(run.updated_at),
      closed_at: toWireTimeOrNull(run.closed_at),
    },
    correlation_id: run.correlation_id,
    summary: run.summary === '' ? `${run.name}: ${run.status.replaceAll('_', ' ')}` : run.summary,
    detail_href: detailHref(run),
    evidence_href:
      run.correlation_id === null
        ? null
        : `/platform/evidence/audit?correlation_id=${encodeURIComponent(run.correlation_id)}`,
    temporal_href: null,
  };
}

/** The console's page of what the workflow works on, where there is one. */
function detailHref(run: WorkflowRun): string | null {
  if (run.allocation_id !== null) return `/allocations/${run.allocation_id}`;
  if (run.node_id !== null) return `/platform/lifecycle/nodes/${run.node_id}`;
  return null;
}
