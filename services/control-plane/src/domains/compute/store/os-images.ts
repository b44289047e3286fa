import type { Schema } from '@gpuaas/contract';
import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Position } from '../../../spine/cursors.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { ImageFacts } from '../rules/admission.js';
import { jsonObject } from './json.js';

const selectImages = (reader: Reader) =>
  reader
    .selectFrom('os_images')
    .select([
      'id',
      'slug',
      'display_name',
      'target',
      'image_format',
      'source_uri',
      'digest_sha256',
      'default_username',
      'accelerator_vendor',
      'driver_strategy',
      'compatible_skus',
      'status',
      'metadata',
      'created_at',
      'updated_at',
    ]);

export type ImageRow = Awaited<ReturnType<ReturnType<typeof selectImages>['executeTakeFirstOrThrow']>>;

export function findImageBySlug(reader: Reader, slug: string): Promise<ImageRow | undefined> {
  return selectImages(reader).where('slug', '=', slug).executeTakeFirst();
}

/** Shares the row until commit, so that the image is not disabled under a launch. */
export function shareImageBySlug(tx: Tx, slug: string): Promise<ImageRow | undefined> {
  return selectImages(tx).where('slug', '=', slug).forShare().executeTakeFirst();
}

/** What boots where no image was named: one on sale that names the SKU, else one that fits any; by slug. */
export function findDefaultImage(
  reader: Reader,
  target: Schema<'OSImageTarget'>,
  sku: string,
): Promise<ImageRow | undefined> {
  return selectImages(reader)
    .where('status', '=', 'active')
    .where('target', '=', target)
    .where(sql<boolean>`(compatible_skus = '{}' OR ${sku} = ANY (compatible_skus))`)
    .orderBy(sql`compatible_skus = '{}'`)
    .orderBy('slug')
    .limit(1)
    .executeTakeFirst();
}

/** Locks the row until commit. */
export function lockImage(tx: Tx, id: string): Promise<ImageRow | undefined> {
  return selectImages(tx).where('id', '=', id).forUpdate().executeTakeFirst();
}

/** Newest first, one row more than `limit` tells whether there are more. */
export function listImages(
  reader: Reader,
  list: {
    readonly target: Schema<'OSImageTarget'> | undefined;
    readonly status: Schema<'OSImageStatus'> | undefined;
    readonly sku: string | undefined;
    readonly after: Position | null;
    readonly limit: number;
  },
): Promise<ImageRow[]> {
  let query = selectImages(reader).orderBy('created_at', 'desc').orderBy('id', 'desc').limit(list.limit);
  if (list.target) query = query.where('target', '=', list.target);
  if (list.status) query = query.where('status', '=', list.status);
  if (list.sku) {
    query = query.where(sql<boolean>`(compatible_skus = '{}' OR ${list.sku} = ANY (compatible_skus))`);
  }
  if (list.after) {
    const [createdAt, id] = list.after;
    query = query.where(sql<boolean>`(created_at, id) < (${createdAt}::timestamptz, ${id}::uuid)`);
  }
  return query.execute();
}

export interface ImageContent {
  readonly slug: string;
  readonly displayName: string;
  readonly target: Schema<'OSImageTarget'>;
  readonly imageFormat: Schema<'OSImageFormat'>;
  readonly sourceUri: string;
  readonly digestSha256: string;
  readonly defaultUsername: string;
  readonly acceleratorVendor: string | null;
  readonly driverStrategy: Schema<'OSImageDriverStrategy'>;
  readonly compatibleSkus: readonly string[];
  readonly status: Schema<'OSImageStatus'>;
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** Undefined where the slug is taken. */
export async function insertImage(tx: Tx, content: ImageContent, now: Date): Promise<ImageRow | undefined> {
  const id = newId();
  const inserted = await tx
    .insertInto('os_images')
    .values({ id, ...columnsOf(content), created_at: now, updated_at: now })
    .onConflict((conflict) => conflict.constraint('os_images_slug_taken').doNothing())
    .executeTakeFirst();
  return inserted.numInsertedOrUpdatedRows === 1n
    ? selectImages(tx).where('id', '=', id).executeTakeFirst()
    : undefined;
}

export async function updateImage(tx: Tx, id: string, content: ImageContent, now: Date): Promise<ImageRow> {
  await tx
    .updateTable('os_images')
    .set({ ...columnsOf(content), updated_at: now })
    .where('id', '=', id)
    .execute();
  return selectImages(tx).where('id', '=', id).executeTakeFirstOrThrow();
}

export async function setImageStatus(
  tx: Tx,
  id: string,
  status: Schema<'OSImageStatus'>,
  now: Date,
): Promise<ImageRow> {
  await tx.updateTable('os_images').set({ status, updated_at: now }).where('id', '=', id).execute();
  return selectImages(tx).where('id', '=', id).executeTakeFirstOrThrow();
}

/** Whether an allocation was ever launched from it. */
export async function isImageUsed(reader: Reader, id: string): Promise<boolean> {
  const row = await reader
    .selectFrom('allocations')
    .select('id')
    .where('os_image_id', '=', id)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

export async function deleteImage(tx: Tx, id: string): Promise<void> {
  await tx.deleteFrom('os_images').where('id', '=', id).execute();
}

function columnsOf(content: ImageContent) {
  return {
    slug: content.slug,
    display_name: content.displayName,
    target: content.target,
    image_format: content.imageFormat,
    source_uri: content.sourceUri,
    digest_sha256: content.digestSha256,
    default_username: content.defaultUsername,
    accelerator_vendor: content.acceleratorVendor,
    driver_strategy: content.driverStrategy,
    compatible_skus: [...content.compatibleSkus],
    status: content.status,
    metadata: JSON.stringify(content.metadata),
  };
}

export function imageContent(row: ImageRow): ImageContent {
  return {
    slug: row.slug,
    displayName: row.display_name,
    target: row.target,
    imageFormat: row.image_format,
    sourceUri: row.source_uri,
    digestSha256: row.digest_sha256,
    defaultUsername: row.default_username,
    acceleratorVendor: row.accelerator_vendor,
    driverStrategy: row.driver_strategy,
    compatibleSkus: row.compatible_skus,
    status: row.status,
    metadata: jsonObject(row.metadata),
  };
}

export function imageFacts(row: ImageRow): ImageFacts {
  return {
    slug: row.slug,
    status: row.status,
    target: row.target,
    compatibleSkus: row.compatible_skus,
    acceleratorVendor: row.accelerator_vendor,
  };
}
