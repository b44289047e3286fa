import type { Schema } from '@gpuaas/contract';
import type { Reader } from '../../../spine/operation.js';
import { toWireInteger, toWireTime } from '../../../spine/wire.js';
import type { UsageVisibility } from '../rules/visibility.js';
import { money } from '../wallets.js';

export type RatedUsageRow = Awaited<ReturnType<typeof selectRatedUsage>>[number];

/** Rated lines, newest first, with the price and rule that their usage was started under. */
export function selectRatedUsage(
  reader: Reader,
  filter: { readonly visibility: UsageVisibility; readonly usageRecordId: string | null; readonly lineId?: string },
  page: { readonly after: { readonly createdAt: Date; readonly id: string } | null; readonly limit: number },
) {
  const { visibility, usageRecordId, lineId } = filter;
  const { after } = page;
  return reader
    .selectFrom('rated_usage_lines as line')
    .innerJoin('usage_records as usage', 'usage.id', 'line.usage_record_id')
    .select([
      'line.id',
      'line.usage_record_id',
      'line.tenant_id',
      'line.project_id',
      'line.user_id',
      'line.bill_from',
      'line.bill_to',
      'line.unit_quantity_millis',
      'line.amount_minor',
      'line.currency',
      'line.rating_key',
      'line.ledger_entry_id',
      'line.invoice_line_id',
      'line.invoice_id',
      'line.created_at',
      'usage.usage_source',
      'usage.usage_unit',
      'usage.unit_price_minor',
      'usage.units',
      'usage.pricing_source',
      'usage.pricing_plan_id',
      'usage.pricing_plan_version',
      'usage.pricing_snapshot',
    ])
    .where('line.tenant_id', '=', visibility.tenantId)
    .$if(visibility.userId !== null, (query) => query.where('line.user_id', '=', visibility.userId))
    .$if(visibility.projectId !== null, (query) => query.where('line.project_id', '=', visibility.projectId))
    .$if(usageRecordId !== null, (query) => query.where('line.usage_record_id', '=', usageRecordId))
    .$if(lineId !== undefined, (query) => query.where('line.id', '=', lineId ?? null))
    .$if(after !== null, (query) =>
      query.where(({ eb, refTuple, tuple }) =>
        eb(refTuple('line.created_at', 'line.id'), '<', tuple(after?.createdAt ?? new Date(0), after?.id ?? '')),
      ),
    )
    .orderBy('line.created_at', 'desc')
    .orderBy('line.id', 'desc')
    .limit(page.limit)
    .execute();
}

export function ratedUsageView(row: RatedUsageRow): Schema<'BillingRatedUsageLine'> {
  return {
    id: row.id,
    usage_record_id: row.usage_record_id,
    org_id: row.tenant_id,
    project_id: row.project_id,
    requested_by_user_id: row.user_id,
    usage_source: row.usage_source,
    usage_unit: row.usage_unit,
    bill_from: toWireTime(row.bill_from),
    bill_to: toWireTime(row.bill_to),
    unit_quantity_millis: toWireInteger(row.unit_quantity_millis),
    unit_price: money(row.unit_price_minor, row.currency),
    units: toWireInteger(row.units),
    amount: money(row.amount_minor, row.currency),
    pricing_source: row.pricing_source,
    pricing_plan_id: row.pricing_plan_id,
    pricing_plan_version: row.pricing_plan_version,
    pricing_snapshot: snapshotOf(row.pricing_snapshot),
    // An invoice in another currency would link the rate it used; usage posts in the currency of its price.
    fx_snapshot: null,
    rating_key: row.rating_key,
    ledger_entry_id: row.ledger_entry_id,
    invoice_line_id: row.invoice_line_id,
    invoice_id: row.invoice_id,
    created_at: toWireTime(row.created_at),
  };
}

/** A snapshot is written as an object; anything else in its column is corruption. */
export function snapshotOf(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError('pricing_snapshot holds no object');
  return { ...value };
}
