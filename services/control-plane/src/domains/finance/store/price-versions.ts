import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';

export interface ListPrice {
  readonly sku: string;
  readonly currency: string;
  readonly billingUnit: string;
  /** minor units for one unit and one hour */
  readonly unitPriceMinor: bigint;
}

/**
 * Records a SKU's list price from `effectiveFrom` on; nothing where the newest version states it already.
 * Versions are append-only: a price that comes back is a new version.
 */
export async function recordListPrice(tx: Tx, price: ListPrice, effectiveFrom: Date, now: Date): Promise<void> {
  await lockVersions(tx, price);
  const newest = await versionsOf(tx, price).executeTakeFirst();
  if (newest?.unit_price_minor !== price.unitPriceMinor) await insertVersion(tx, price, effectiveFrom, now);
}

/**
 * The newest version that states this price, made where none does. A usage may start under a price that has changed
 * since its launch, so an older version is as good.
 */
export async function ensurePriceVersion(tx: Tx, price: ListPrice, effectiveFrom: Date, now: Date): Promise<string> {
  const stating = () => versionsOf(tx, price).where('unit_price_minor', '=', price.unitPriceMinor).executeTakeFirst();
  const found = await stating();
  if (found) return found.id;
  await lockVersions(tx, price);
  return (await stating())?.id ?? insertVersion(tx, price, effectiveFrom, now);
}

function versionsOf(reader: Reader, price: ListPrice) {
  return reader
    .selectFrom('price_versions')
    .select(['id', 'unit_price_minor'])
    .where('sku', '=', price.sku)
    .where('currency', '=', price.currency)
    .where('billing_unit', '=', price.billingUnit)
    .orderBy('effective_from', 'desc')
    .orderBy('id', 'desc')
    .limit(1);
}

/** One writer a SKU until the commit: two that come with one new price make one version of it. */
async function lockVersions(tx: Tx, price: ListPrice): Promise<void> {
  const name = `price_versions:${price.sku}:${price.currency}:${price.billingUnit}`;
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${name}, 0))`.execute(tx);
}

async function insertVersion(tx: Tx, price: ListPrice, effectiveFrom: Date, now: Date): Promise<string> {
  const id = newId();
  await tx
    .insertInto('price_versions')
    .values({
      id,
      sku: price.sku,
      currency: price.currency,
      billing_unit: price.billingUnit,
      unit_price_minor: price.unitPriceMinor,
      effective_from: effectiveFrom,
      created_at: now,
    })
    .execute();
  return id;
}
