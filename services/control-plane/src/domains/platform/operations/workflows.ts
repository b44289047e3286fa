import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { query } from '../../../spine/operation.js';
import { badRequest } from '../../../spine/refusal.js';
import { toWireTime } from '../../../spine/wire.js';
import { decideWorkflowSearch } from '../rules/workflow-search.js';
import { listWorkflowRuns } from '../store/workflow-runs.js';
import { workflowRunView } from '../views/workflow-runs.js';

/** A search over the product's own records of its workflows; never over all of them. */
export const listV3PlatformTemporalWorkflows = query<'listV3PlatformTemporalWorkflows'>(async ({ db, ctx, query }) => {
  const now = ctx.clock.now();
  const decision = decideWorkflowSearch(query, now);
  if (!decision.ok) throw badRequest(decision.reason, decision.pointer, decision.message);
  const { cursor, page_size, ...filters } = query;
  const request = pageRequest(
    ctx,
    { operation: 'workflows', context: 'platform', filters, sort: '-created_at' },
    { cursor, page_size },
  );
  const [time, id] = request.after ?? [];
  const after = time && id ? { createdAt: new Date(time), workflowId: id } : null;
  const found = await listWorkflowRuns(db, decision.filter, { after, limit: request.pageSize + 1 });
  const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.created_at.toISOString(), row.workflow_id]);
  return {
    status: 200,
    body: {
      items: rows.map(workflowRunView),
      pagination,
      meta: {
        generated_at: toWireTime(now),
        sources: ['product_record'],
        temporal_search_attributes_enabled: false,
      },
    },
  };
});
