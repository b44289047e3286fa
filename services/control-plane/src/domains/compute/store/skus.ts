import { newId, type UserId } from '@gpuaas/kernel';
import type { Position } from '../../../spine/cursors.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import { preparedQuery } from '../../../spine/prepared-statements.js';
import type { BillingUnit, CapacityShape, ResourceClass, SchedulingUnit, SkuFacts } from '../rules/sku.js';

const COLUMNS = [
  'skus.sku',
  'skus.vendor',
  'skus.display_name',
  'skus.family_id',
  'skus.family_version',
  'skus.resource_class',
  'skus.billing_unit',
  'skus.scheduling_unit',
  'skus.vcpu_count',
  'skus.memory_mib',
  'skus.accelerator_vendor',
  'skus.accelerator_model',
  'skus.accelerator_count',
  'skus.accelerator_memory_mib',
  'skus.allowed_accelerator_counts',
  'skus.resource_profile',
  'skus.unit_price_minor',
  'skus.currency',
  'skus.active',
] as const;

const selectSkus = (reader: Reader) =>
  reader
    .selectFrom('skus')
    .innerJoin('sku_families', 'sku_families.family_id', 'skus.family_id')
    .select(COLUMNS)
    .select('sku_families.display_name as family_display_name');

export type SkuRow = Awaited<ReturnType<ReturnType<typeof selectSkus>['executeTakeFirstOrThrow']>>;

export function findSku(reader: Reader, code: string): Promise<SkuRow | undefined> {
  return selectSkus(reader).where('skus.sku', '=', code).executeTakeFirst();
}

const share = preparedQuery<SkuRow>(
  'compute.share_sku',
  `SELECT ${COLUMNS.join(', ')}, sku_families.display_name AS family_display_name
  FROM skus JOIN sku_families ON sku_families.family_id = skus.family_id
  WHERE skus.sku = $1::text FOR SHARE OF skus`,
);

/** Shares the row until commit: a SKU taken off sale waits for the launches that have seen it on sale. */
export async function shareSku(tx: Tx, code: string): Promise<SkuRow | undefined> {
  const { rows } = await tx.executeQuery(share([code]));
  return rows[0];
}

/** Locks the row until commit. */
export function lockSku(tx: Tx, code: string): Promise<SkuRow | undefined> {
  return selectSkus(tx).where('skus.sku', '=', code).forUpdate('skus').executeTakeFirst();
}

/** By code, one row more than `limit` tells whether there are more. */
export function listSkus(
  reader: Reader,
  list: { readonly onSaleOnly: boolean; readonly after: Position | null; readonly limit: number },
): Promise<SkuRow[]> {
  let query = selectSkus(reader).orderBy('skus.sku').limit(list.limit);
  if (list.onSaleOnly) query = query.where('skus.active', '=', true);
  const after = list.after?.[0];
  if (after) query = query.where('skus.sku', '>', after);
  return query.execute();
}

/** The SKUs on sale that are launched in this shape. */
export async function skusOnSale(reader: Reader, shape: CapacityShape): Promise<string[]> {
  const classes: ResourceClass[] = shape === 'baremetal' ? ['gpu_baremetal', 'cpu_baremetal'] : ['gpu_slice'];
  const rows = await reader
    .selectFrom('skus')
    .select('sku')
    .where('active', '=', true)
    .where('resource_class', 'in', classes)
    .orderBy('sku')
    .execute();
  return rows.map((row) => row.sku);
}

export interface SkuContent {
  readonly vendor: string;
  readonly displayName: string;
  readonly familyId: string;
  readonly familyVersion: string;
  readonly resourceClass: ResourceClass;
  readonly billingUnit: BillingUnit;
  readonly schedulingUnit: SchedulingUnit;
  readonly vcpuCount: number | null;
  readonly memoryMib: number | null;
  readonly acceleratorVendor: string | null;
  readonly acceleratorModel: string | null;
  readonly acceleratorCount: number | null;
  readonly acceleratorMemoryMib: number | null;
  readonly allowedAcceleratorCounts: readonly number[];
  readonly resourceProfile: Readonly<Record<string, unknown>>;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
}

/** False where the code is taken. */
export async function insertSku(tx: Tx, code: string, content: SkuContent, now: Date): Promise<boolean> {
  await ensureFamily(tx, content);
  const inserted = await tx
    .insertInto('skus')
    .values({ sku: code, ...columnsOf(content), active: true, created_at: now, updated_at: now })
    .onConflict((conflict) => conflict.column('sku').doNothing())
    .executeTakeFirst();
  return inserted.numInsertedOrUpdatedRows === 1n;
}

export async function updateSku(tx: Tx, code: string, content: SkuContent, now: Date): Promise<void> {
  await ensureFamily(tx, content);
  await tx
    .updateTable('skus')
    .set({ ...columnsOf(content), updated_at: now })
    .where('sku', '=', code)
    .execute();
}

export async function setSkuActive(tx: Tx, code: string, active: boolean, now: Date): Promise<void> {
  await tx.updateTable('skus').set({ active, updated_at: now }).where('sku', '=', code).execute();
}

export async function appendPrice(
  tx: Tx,
  code: string,
  content: SkuContent,
  by: UserId | null,
  now: Date,
): Promise<void> {
  await tx
    .insertInto('sku_prices')
    .values({
      id: newId(),
      sku: code,
      unit_price_minor: content.unitPriceMinor,
      currency: content.currency,
      billing_unit: content.billingUnit,
      effective_from: now,
      created_by_user_id: by,
    })
    .execute();
}

/** A family nobody described yet is called by its id. */
async function ensureFamily(tx: Tx, content: SkuContent): Promise<void> {
  await tx
    .insertInto('sku_families')
    .values({ family_id: content.familyId, display_name: content.familyId })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

function columnsOf(content: SkuContent) {
  return {
    vendor: content.vendor,
    display_name: content.displayName,
    family_id: content.familyId,
    family_version: content.familyVersion,
    resource_class: content.resourceClass,
    billing_unit: content.billingUnit,
    scheduling_unit: content.schedulingUnit,
    vcpu_count: content.vcpuCount,
    memory_mib: content.memoryMib,
    accelerator_vendor: content.acceleratorVendor,
    accelerator_model: content.acceleratorModel,
    accelerator_count: content.acceleratorCount,
    accelerator_memory_mib: content.acceleratorMemoryMib,
    allowed_accelerator_counts: [...content.allowedAcceleratorCounts],
    resource_profile: JSON.stringify(content.resourceProfile),
    unit_price_minor: content.unitPriceMinor,
    currency: content.currency,
  };
}

export function skuFacts(row: SkuRow): SkuFacts {
  return {
    sku: row.sku,
    active: row.active,
    resourceClass: row.resource_class,
    billingUnit: row.billing_unit,
    schedulingUnit: row.scheduling_unit,
    vcpuCount: row.vcpu_count,
    acceleratorVendor: row.accelerator_vendor,
    acceleratorCount: row.accelerator_count,
    allowedAcceleratorCounts: row.allowed_accelerator_counts,
    unitPriceMinor: row.unit_price_minor,
    currency: row.currency,
  };
}
