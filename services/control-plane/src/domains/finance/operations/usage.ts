import type { QueryParameters } from '@gpuaas/contract';
import { audit } from '../../../spine/audit.js';
import { type PageRequest, pageOf, pageRequest } from '../../../spine/cursors.js';
import { command, query, type RequestContext } from '../../../spine/operation.js';
import { badRequest, notFound } from '../../../spine/refusal.js';
import { csvLine, toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import { decimalAmount } from '../rules/money.js';
import { type UsageVisibility, usageVisibleTo } from '../rules/visibility.js';
import { ratedUsageView, selectRatedUsage } from '../views/rated-usage.js';
import {
  parseUsagePosition,
  selectUsage,
  type UsageFilter,
  type UsagePosition,
  type UsageRow,
  usagePosition,
  usageView,
} from '../views/usage.js';

const EXPORT_ROWS = 50_000;
const EXPORT_ROWS_A_QUERY = 5_000;

/** Usage with its cost of this moment. A cursor carries the moment of the first page, so that pages agree. */
export const listBillingUsage = query<'listBillingUsage'>(async ({ db, ctx, query }) => {
  const { sort } = query;
  const request = pageRequest(
    ctx,
    { operation: 'listBillingUsage', context: contextOf(ctx), filters: filtersOf(query), sort },
    query,
  );
  const visibility = usageVisibleTo(ctx.principal);
  if (visibility === null) return { status: 200, body: { items: [], pagination: emptyPage(request) } };

  const { asOf, after } = request.after
    ? parseUsagePosition(request.after, sort)
    : { asOf: ctx.clock.now(), after: null };
  const found = await selectUsage(db, usageFilter(visibility, query), {
    sort,
    asOf,
    after,
    limit: request.pageSize + 1,
  });
  const { rows, pagination } = pageOf(ctx, request, found, (row) => usagePosition(row, sort, asOf));
  return { status: 200, body: { items: rows.map(usageView), pagination } };
});

/** The same list as a file, without pages. What would be cut is refused instead. */
export const exportBillingUsageCsv = command<'exportBillingUsageCsv'>(async ({ tx, ctx, query }) => {
  const visibility = usageVisibleTo(ctx.principal);
  const rows = visibility === null ? [] : await readAll(usageFilter(visibility, query));
  await audit(tx, ctx, {
    action: 'billing.usage.export',
    targetType: 'usage_records',
    targetId: null,
    tenantId: visibility?.tenantId ?? null,
    projectId: visibility?.projectId ?? null,
    metadata: { rows: rows.length, ...filtersOf(query) },
  });
  return {
    status: 200,
    contentType: 'text/csv; charset=utf-8',
    content: [csvLine(CSV_HEADER), ...rows.map(usageCsvLine)].join(''),
    headers: { 'content-disposition': 'attachment; filename="usage.csv"' },
  };

  async function readAll(filter: UsageFilter): Promise<readonly UsageRow[]> {
    const asOf = ctx.clock.now();
    const { sort } = query;
    const rows: UsageRow[] = [];
    let after: UsagePosition | null = null;
    for (;;) {
      const found: readonly UsageRow[] = await selectUsage(tx, filter, {
        sort,
        asOf,
        after,
        limit: EXPORT_ROWS_A_QUERY,
      });
      rows.push(...found);
      if (rows.length > EXPORT_ROWS)
        throw badRequest(
          'export_too_large',
          '/query/from',
          `more than ${EXPORT_ROWS} rows: narrow the time or the filters`,
        );
      const last = found.at(-1);
      if (last === undefined || found.length < EXPORT_ROWS_A_QUERY) return rows;
      after = parseUsagePosition(usagePosition(last, sort, asOf), sort).after;
    }
  }
});

export const listBillingRatedUsage = query<'listBillingRatedUsage'>(async ({ db, ctx, query }) => {
  const request = pageRequest(
    ctx,
    {
      operation: 'listBillingRatedUsage',
      context: contextOf(ctx),
      filters: { usage_record_id: query.usage_record_id },
      sort: 'created_at_desc',
    },
    query,
  );
  const visibility = usageVisibleTo(ctx.principal);
  if (visibility === null) return { status: 200, body: { items: [], pagination: emptyPage(request) } };

  const [createdAt, id] = request.after ?? [];
  const found = await selectRatedUsage(
    db,
    { visibility, usageRecordId: query.usage_record_id ?? null },
    { after: createdAt && id ? { createdAt: new Date(createdAt), id } : null, limit: request.pageSize + 1 },
  );
  const { rows, pagination } = pageOf(ctx, request, found, (row) => [toWireTime(row.created_at), row.id]);
  return { status: 200, body: { items: rows.map(ratedUsageView), pagination } };
});

export const getBillingRatedUsage = query<'getBillingRatedUsage'>(async ({ db, ctx, path }) => {
  const visibility = usageVisibleTo(ctx.principal);
  const filter = visibility && { visibility, usageRecordId: null, lineId: path.rated_usage_line_id };
  const [line] = filter ? await selectRatedUsage(db, filter, { after: null, limit: 1 }) : [];
  if (line === undefined) throw notFound('rated_usage_line');
  return { status: 200, body: ratedUsageView(line) };
});

type UsageFilterQuery = Pick<
  QueryParameters<'listBillingUsage'>,
  'allocation_id' | 'app_instance_id' | 'usage_source' | 'from' | 'to'
>;

function usageFilter(visibility: UsageVisibility, query: UsageFilterQuery): UsageFilter {
  const from = query.from === undefined ? null : new Date(query.from);
  const to = query.to === undefined ? null : new Date(query.to);
  if (from !== null && to !== null && from >= to)
    throw badRequest('time_range_empty', '/query/from', 'must be before to');
  return {
    visibility,
    allocationId: query.allocation_id ?? null,
    appInstanceId: query.app_instance_id ?? null,
    source: query.usage_source ?? null,
    from,
    to,
  };
}

/** As the caller wrote them: what a cursor is bound to and what an export is remembered by. */
function filtersOf(query: UsageFilterQuery): Record<string, string | undefined> {
  return {
    allocation_id: query.allocation_id,
    app_instance_id: query.app_instance_id,
    usage_source: query.usage_source,
    from: query.from,
    to: query.to,
  };
}

/** Whose list it is: a cursor of one caller's rows says nothing about another's. */
function contextOf(ctx: RequestContext): string {
  const visibility = usageVisibleTo(ctx.principal);
  return visibility ? [visibility.tenantId, visibility.userId, visibility.projectId].join(':') : '';
}

function emptyPage(request: PageRequest) {
  return { next_cursor: null, page_size: request.pageSize };
}

const CSV_HEADER = [
  'id',
  'usage_source',
  'usage_unit',
  'allocation_id',
  'app_instance_id',
  'requested_by_user_id',
  'sku',
  'control_plane_component',
  'operating_mode',
  'control_plane_scope',
  'runtime_backend',
  'start_time',
  'end_time',
  'last_billed_at',
  'cost_minor',
  'cost',
  'currency',
];

function usageCsvLine(row: UsageRow): string {
  return csvLine([
    row.id,
    row.usage_source,
    row.usage_unit,
    row.allocation_id,
    row.app_instance_id,
    row.user_id,
    row.sku,
    row.control_plane_component,
    row.operating_mode,
    row.control_plane_scope,
    row.runtime_backend,
    toWireTime(row.start_time),
    toWireTimeOrNull(row.end_time),
    toWireTimeOrNull(row.last_billed_at),
    row.cost_minor,
    decimalAmount(row.cost_minor, row.currency),
    row.currency,
  ]);
}
