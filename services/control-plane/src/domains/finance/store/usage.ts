import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { toWireInteger } from '../../../spine/wire.js';
import type { Wallet } from '../rules/journal.js';
import type { RateableUsage, RatedWindow } from '../rules/rating.js';

/** A usage record as rating and posting need it. */
export interface MeteredUsage extends RateableUsage, Wallet {
  readonly projectId: string;
  readonly allocationId: string | null;
  readonly endTime: Date | null;
}

export interface NewUsage extends Wallet {
  readonly projectId: string;
  readonly allocationId: string;
  readonly sku: string;
  readonly unit: 'gpu_hour' | 'node_hour' | 'vcpu_hour';
  readonly units: bigint;
  readonly unitPriceMinor: bigint;
  readonly priceVersionId: string;
  readonly rule: string;
  readonly startedAt: Date;
  readonly correlationId: string;
}

/**
 * Opens the record of an allocation and returns its id, or null where one is open already.
 * A start inside an earlier record of the allocation is moved to that record's end: no moment is charged twice.
 */
export async function openAllocationUsage(tx: Tx, usage: NewUsage, now: Date): Promise<string | null> {
  const startTime = await latestEnd(tx, usage.allocationId, usage.startedAt);
  const opened = await tx
    .insertInto('usage_records')
    .values({
      id: newId(),
      tenant_id: usage.tenantId,
      project_id: usage.projectId,
      user_id: usage.userId,
      usage_source: 'allocation',
      allocation_id: usage.allocationId,
      sku: usage.sku,
      usage_unit: usage.unit,
      units: usage.units,
      unit_price_minor: usage.unitPriceMinor,
      currency: usage.currency,
      pricing_source: 'sku_list_price',
      pricing_snapshot: JSON.stringify({
        rule: usage.rule,
        unit_price_minor: toWireInteger(usage.unitPriceMinor),
        units: toWireInteger(usage.units),
        start_ms: startTime.getTime(),
        price_version_id: usage.priceVersionId,
      }),
      start_time: startTime,
      // At once: the rater knows the window length and schedules from there.
      next_rate_at: startTime,
      correlation_id: usage.correlationId,
      created_at: now,
    })
    .onConflict((conflict) => conflict.column('allocation_id').where('end_time', 'is', null).doNothing())
    .returning('id')
    .executeTakeFirst();
  return opened?.id ?? null;
}

async function latestEnd(tx: Tx, allocationId: string, startedAt: Date): Promise<Date> {
  const last = await tx
    .selectFrom('usage_records')
    .select('end_time')
    .where('allocation_id', '=', allocationId)
    .orderBy('start_time', 'desc')
    .limit(1)
    .executeTakeFirst();
  const end = last?.end_time ?? startedAt;
  return end > startedAt ? end : startedAt;
}

/** Locks the open record of an allocation until the commit; null where none is open. */
export async function lockOpenUsage(tx: Tx, allocationId: string): Promise<MeteredUsage | null> {
  const row = await tx
    .selectFrom('usage_records')
    .select(METERED_COLUMNS)
    .where('allocation_id', '=', allocationId)
    .where('end_time', 'is', null)
    .forUpdate()
    .executeTakeFirst();
  return row ? meteredUsage(row) : null;
}

/** A record with what its lines sum to. */
export interface RatedUsage {
  readonly id: string;
  readonly tenantId: string;
  readonly allocationId: string | null;
  readonly currency: string;
  readonly unit: string;
  readonly units: bigint;
  readonly startTime: Date;
  readonly lastBilledAt: Date | null;
  readonly ratedMinor: bigint;
}

/** The records among `ids` that exist, in no particular order. */
export async function findRatedUsage(reader: Reader, ids: readonly string[]): Promise<readonly RatedUsage[]> {
  const rows = await reader
    .selectFrom('usage_records')
    .select([
      'id',
      'tenant_id',
      'allocation_id',
      'currency',
      'usage_unit',
      'units',
      'start_time',
      'last_billed_at',
      'rated_minor',
    ])
    .where('id', '=', sql<string>`ANY (${ids}::uuid[])`)
    .execute();
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    allocationId: row.allocation_id,
    currency: row.currency,
    unit: row.usage_unit,
    units: row.units,
    startTime: row.start_time,
    lastBilledAt: row.last_billed_at,
    ratedMinor: row.rated_minor,
  }));
}

export interface DueUsage extends Wallet {
  readonly id: string;
}

/** Records whose next rating is due, longest overdue first, without those in `except`. Locks nothing. */
export async function findDueUsage(
  reader: Reader,
  now: Date,
  except: readonly string[],
  limit: number,
): Promise<readonly DueUsage[]> {
  const rows = await reader
    .selectFrom('usage_records')
    .select(['id', 'tenant_id', 'user_id', 'currency'])
    .where('next_rate_at', '<=', now)
    .where('id', '<>', sql<string>`ALL (${except}::uuid[])`)
    .orderBy('next_rate_at')
    .limit(limit)
    .execute();
  return rows.map((row) => ({
    id: row.id,
    tenantId: row.tenant_id,
    userId: row.user_id,
    currency: row.currency,
  }));
}

/** Locks those of `ids` that are still due and that nobody else holds, until the commit; never waits. */
export async function tryLockDueUsage(tx: Tx, ids: readonly string[], now: Date): Promise<readonly MeteredUsage[]> {
  const rows = await tx
    .selectFrom('usage_records')
    .select(METERED_COLUMNS)
    .where('id', '=', sql<string>`ANY (${ids}::uuid[])`)
    .where('next_rate_at', '<=', now)
    .forUpdate()
    .skipLocked()
    .execute();
  return rows.map(meteredUsage);
}

export interface UsageProgress {
  readonly id: string;
  readonly lastBilledAt: Date | null;
  readonly addedMinor: bigint;
  readonly endTime: Date | null;
  readonly nextRateAt: Date | null;
}

/** Moves locked records forward: how far they are rated, what that added, when they end, when to look again. */
export async function saveUsageProgress(tx: Tx, progress: readonly UsageProgress[]): Promise<void> {
  if (progress.length === 0) return;
  await sql`
    UPDATE usage_records AS usage
    SET last_billed_at = moved.last_billed_at, rated_minor = usage.rated_minor + moved.added_minor,
      end_time = moved.end_time, next_rate_at = moved.next_rate_at
    FROM unnest(
      ${progress.map((one) => one.id)}::uuid[],
      ${progress.map((one) => one.lastBilledAt)}::timestamptz[],
      ${progress.map((one) => one.addedMinor)}::bigint[],
      ${progress.map((one) => one.endTime)}::timestamptz[],
      ${progress.map((one) => one.nextRateAt)}::timestamptz[]
    ) AS moved (id, last_billed_at, added_minor, end_time, next_rate_at)
    WHERE usage.id = moved.id`.execute(tx);
}

export interface RatedLine extends RatedWindow {
  readonly usage: MeteredUsage;
  /** the posting that charged it; null where it cost nothing */
  readonly ledgerEntryId: string | null;
}

/** Appends rated lines. A window that was rated before fails the transaction (`rated_usage_lines_once`, `…_disjoint`). */
export async function insertRatedLines(tx: Tx, lines: readonly RatedLine[], now: Date): Promise<void> {
  if (lines.length === 0) return;
  await sql`
    INSERT INTO rated_usage_lines
      (id, usage_record_id, tenant_id, user_id, project_id, bill_from, bill_to, unit_quantity_millis, amount_minor,
       currency, rating_key, ledger_entry_id, created_at)
    SELECT id, usage_record_id, tenant_id, user_id, project_id, bill_from, bill_to, unit_quantity_millis, amount_minor,
      currency, rating_key, ledger_entry_id, ${now}::timestamptz
    FROM unnest(
      ${lines.map(() => newId())}::uuid[],
      ${lines.map(({ usage }) => usage.id)}::uuid[],
      ${lines.map(({ usage }) => usage.tenantId)}::uuid[],
      ${lines.map(({ usage }) => usage.userId)}::uuid[],
      ${lines.map(({ usage }) => usage.projectId)}::uuid[],
      ${lines.map((line) => line.from)}::timestamptz[],
      ${lines.map((line) => line.to)}::timestamptz[],
      ${lines.map((line) => line.unitQuantityMillis)}::bigint[],
      ${lines.map((line) => line.amountMinor)}::bigint[],
      ${lines.map(({ usage }) => usage.currency)}::text[],
      ${lines.map((line) => line.ratingKey)}::text[],
      ${lines.map((line) => line.ledgerEntryId)}::uuid[]
    ) AS line (id, usage_record_id, tenant_id, user_id, project_id, bill_from, bill_to, unit_quantity_millis,
      amount_minor, currency, rating_key, ledger_entry_id)`.execute(tx);
}

const METERED_COLUMNS = [
  'id',
  'tenant_id',
  'user_id',
  'project_id',
  'allocation_id',
  'currency',
  'unit_price_minor',
  'units',
  'start_time',
  'end_time',
  'last_billed_at',
] as const;

function meteredUsage(row: {
  id: string;
  tenant_id: string;
  user_id: string;
  project_id: string;
  allocation_id: string | null;
  currency: string;
  unit_price_minor: bigint;
  units: bigint;
  start_time: Date;
  end_time: Date | null;
  last_billed_at: Date | null;
}): MeteredUsage {
  return {
    id: row.id,
    tenantId: row.tenant_id,
    userId: row.user_id,
    projectId: row.project_id,
    allocationId: row.allocation_id,
    currency: row.currency,
    unitPriceMinor: row.unit_price_minor,
    units: row.units,
    startTime: row.start_time,
    endTime: row.end_time,
    lastBilledAt: row.last_billed_at,
  };
}
