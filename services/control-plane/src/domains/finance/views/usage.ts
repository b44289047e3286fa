import type { QueryParameters, Schema } from '@gpuaas/contract';
import { sql } from 'kysely';
import type { Position } from '../../../spine/cursors.js';
import type { Reader } from '../../../spine/operation.js';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { UsageVisibility } from '../rules/visibility.js';
import { money } from '../wallets.js';

export type UsageSort = NonNullable<QueryParameters<'listBillingUsage'>['sort']>;

export interface UsageFilter {
  readonly visibility: UsageVisibility;
  readonly allocationId: string | null;
  readonly appInstanceId: string | null;
  readonly source: 'allocation' | 'app_runtime' | null;
  /** usage that ran at some moment of [from, to) */
  readonly from: Date | null;
  readonly to: Date | null;
}

/** Sort key and id of the last row of a page; the key is a time, or minor units where the list is sorted by cost. */
export interface UsagePosition {
  readonly key: Date | bigint;
  readonly id: string;
}

export type UsageRow = Awaited<ReturnType<typeof selectUsage>>[number];

/**
 * Usage with its cost as of `asOf`: what is rated, and what has accrued since. Pages that share one `asOf` agree on
 * every cost, whatever is used or rated between them.
 */
export function selectUsage(
  reader: Reader,
  filter: UsageFilter,
  order: {
    readonly sort: UsageSort;
    readonly asOf: Date;
    readonly after: UsagePosition | null;
    readonly limit: number;
  },
) {
  const byCost = order.sort === 'cost_asc' || order.sort === 'cost_desc';
  const direction = order.sort === 'cost_asc' || order.sort === 'start_time_asc' ? 'asc' : 'desc';
  const { visibility, from, to } = filter;
  const costed = reader
    .selectFrom('usage_records')
    .select([
      'id',
      'usage_source',
      'usage_unit',
      'allocation_id',
      'app_instance_id',
      'user_id',
      'sku',
      'control_plane_component',
      'operating_mode',
      'control_plane_scope',
      'runtime_backend',
      'start_time',
      'end_time',
      'last_billed_at',
      'currency',
      sql<bigint>`rated_minor
        + usage_cost_minor(unit_price_minor, units,
            elapsed_milliseconds(start_time, least(${order.asOf}::timestamptz, end_time)))
        - usage_cost_minor(unit_price_minor, units,
            elapsed_milliseconds(start_time, coalesce(last_billed_at, start_time)))`.as('cost_minor'),
    ])
    .where('tenant_id', '=', visibility.tenantId)
    .$if(visibility.userId !== null, (query) => query.where('user_id', '=', visibility.userId))
    .$if(visibility.projectId !== null, (query) => query.where('project_id', '=', visibility.projectId))
    .$if(filter.allocationId !== null, (query) => query.where('allocation_id', '=', filter.allocationId))
    .$if(filter.appInstanceId !== null, (query) => query.where('app_instance_id', '=', filter.appInstanceId))
    .$if(filter.source !== null, (query) => query.where('usage_source', '=', filter.source))
    .$if(to !== null, (query) => query.where('start_time', '<', to))
    .$if(from !== null, (query) => query.where((or) => or.or([or('end_time', 'is', null), or('end_time', '>', from)])));

  const key = byCost ? ('cost_minor' as const) : ('start_time' as const);
  const { after } = order;
  return reader
    .selectFrom(costed.as('usage'))
    .selectAll()
    .$if(after !== null, (query) =>
      query.where(
        sql<boolean>`(${sql.ref(key)}, id) ${direction === 'asc' ? sql`>` : sql`<`} (${after?.key}, ${after?.id}::uuid)`,
      ),
    )
    .orderBy(key, direction)
    .orderBy('id', direction)
    .limit(order.limit)
    .execute();
}

/** The position of a row as a cursor carries it, with the moment that its list's costs are of. */
export function usagePosition(row: UsageRow, sort: UsageSort, asOf: Date): Position {
  const key = sort === 'cost_asc' || sort === 'cost_desc' ? row.cost_minor.toString() : toWireTime(row.start_time);
  return [toWireTime(asOf), key, row.id];
}

/** Reads a position back; a cursor is signed, so anything else is a bug and throws. */
export function parseUsagePosition(position: Position, sort: UsageSort): { asOf: Date; after: UsagePosition } {
  const [asOf, key, id] = position;
  if (!asOf || !key || !id) throw new TypeError('a usage cursor holds another list’s position');
  const byCost = sort === 'cost_asc' || sort === 'cost_desc';
  return { asOf: new Date(asOf), after: { key: byCost ? BigInt(key) : new Date(key), id } };
}

export function usageView(row: UsageRow): Schema<'UsageRecord'> {
  return {
    id: row.id,
    usage_source: row.usage_source,
    usage_unit: row.usage_unit,
    allocation_id: row.allocation_id,
    app_instance_id: row.app_instance_id,
    requested_by_user_id: row.user_id,
    sku: row.sku,
    control_plane_component: row.control_plane_component,
    operating_mode: row.operating_mode,
    control_plane_scope: row.control_plane_scope,
    runtime_backend: row.runtime_backend,
    start_time: toWireTime(row.start_time),
    end_time: toWireTimeOrNull(row.end_time),
    last_billed_at: toWireTimeOrNull(row.last_billed_at),
    cost: money(row.cost_minor, row.currency),
  };
}
