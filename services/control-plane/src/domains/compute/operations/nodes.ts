import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { type OperationHandlers, query } from '../../../spine/operation.js';
import { toWireTime } from '../../../spine/wire.js';
import { jsonObject } from '../store/json.js';
import { listBundles } from '../store/runtime-bundles.js';
import { listNodeSummaries, nodeSummaryView } from '../views/node-summaries.js';

/** What any user may browse: the fleet without its addresses, and the runtime bundles. */
export const nodeOperations = {
  listNodeSummaries: query<'listNodeSummaries'>(async ({ db, ctx, query: parameters }) => {
    const filters = { status: parameters.status, regionCode: parameters.region_code };
    const page = pageRequest(
      ctx,
      { operation: 'listNodeSummaries', context: 'fleet', filters, sort: 'created_at_desc' },
      parameters,
    );
    const now = ctx.clock.now();
    const rows = await listNodeSummaries(db, filters, { after: page.after, limit: page.pageSize + 1 }, now);
    const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.created_at.toISOString(), row.id]);
    return { status: 200, body: { items: items.map((row) => nodeSummaryView(row, now)), pagination } };
  }),

  listManagedRuntimeBundles: query<'listManagedRuntimeBundles'>(async ({ db, query: parameters }) => {
    const rows = await listBundles(db, parameters.status);
    return {
      status: 200,
      body: {
        items: rows.map((row) => ({
          id: row.id,
          slug: row.slug,
          display_name: row.display_name,
          version: row.version,
          support_level: row.support_level,
          status: row.status,
          install_root: row.install_root,
          activation_hint: row.activation_hint,
          description: row.description,
          compatible_accelerators: row.compatible_accelerators,
          metadata: jsonObject(row.metadata),
          created_at: toWireTime(row.created_at),
          updated_at: toWireTime(row.updated_at),
        })),
      },
    };
  }),
} satisfies OperationHandlers;
