import type { RequestBody, Schema } from '@gpuaas/contract';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { type CommandContext, command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import { badRequest, conflict, notFound } from '../../../spine/refusal.js';
import { violatedConstraint } from '../../../spine/transaction.js';
import { toWireTime } from '../../../spine/wire.js';
import { jsonObject } from '../store/json.js';
import {
  deleteImage,
  type ImageContent,
  type ImageRow,
  imageContent,
  insertImage,
  isImageUsed,
  listImages,
  lockImage,
  setImageStatus,
  updateImage,
} from '../store/os-images.js';

const create = command<'adminCreateOSImage'>(async ({ tx, ctx, body }) => ({
  status: 201,
  body: await createImage(tx, ctx, body),
}));
const remove = command<'adminRemoveOSImage'>(async ({ tx, ctx, path }) => {
  await removeImage(tx, ctx, path.image_id);
  return { status: 204, body: undefined };
});

/** Operating system images as operators keep them. The two spellings share one service. */
export const osImageOperations = {
  adminListOSImages: query<'adminListOSImages'>(async ({ db, ctx, query: parameters }) => {
    const { target, status, sku } = parameters;
    const page = pageRequest(
      ctx,
      {
        operation: 'adminListOSImages',
        context: 'catalogue',
        filters: { target, status, sku },
        sort: 'created_at_desc',
      },
      parameters,
    );
    const rows = await listImages(db, { target, status, sku, after: page.after, limit: page.pageSize + 1 });
    const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.created_at.toISOString(), row.id]);
    return { status: 200, body: { items: items.map(imageView), next_cursor: pagination.next_cursor } };
  }),

  adminCreateOSImage: create,
  createV3PlatformConfigOSImageCompat: create,

  adminRemoveOSImage: remove,
  deleteV3PlatformConfigOSImageCompat: remove,

  updateV3PlatformConfigOSImageCompat: command<'updateV3PlatformConfigOSImageCompat'>(
    async ({ tx, ctx, path, body }) => ({
      status: 200,
      body: await changeImage(tx, ctx, path.image_id, body),
    }),
  ),
  deprecateV3PlatformConfigOSImageCompat: command<'deprecateV3PlatformConfigOSImageCompat'>(
    async ({ tx, ctx, path }) => ({ status: 200, body: await moveImage(tx, ctx, path.image_id, 'deprecate') }),
  ),
  reactivateV3PlatformConfigOSImageCompat: command<'reactivateV3PlatformConfigOSImageCompat'>(
    async ({ tx, ctx, path }) => ({ status: 200, body: await moveImage(tx, ctx, path.image_id, 'reactivate') }),
  ),
} satisfies OperationHandlers;

async function createImage(
  tx: Tx,
  ctx: CommandContext,
  body: RequestBody<'adminCreateOSImage'>,
): Promise<Schema<'OSImage'>> {
  const content: ImageContent = {
    slug: body.slug,
    displayName: body.display_name,
    target: body.target,
    imageFormat: body.image_format,
    sourceUri: body.source_uri,
    digestSha256: body.digest_sha256,
    defaultUsername: body.default_username,
    acceleratorVendor: body.accelerator_vendor ?? null,
    driverStrategy: body.driver_strategy ?? 'none',
    compatibleSkus: [...new Set(body.compatible_skus ?? [])],
    status: body.status ?? 'active',
    metadata: body.metadata ?? {},
  };
  refuseSecretsIn(content.sourceUri);
  const row = await insertImage(tx, content, ctx.clock.now());
  if (!row) throw slugTaken(content.slug);
  await auditImage(tx, ctx, 'os_image.create', row);
  return imageView(row);
}

async function changeImage(
  tx: Tx,
  ctx: CommandContext,
  id: string,
  body: RequestBody<'updateV3PlatformConfigOSImageCompat'>,
): Promise<Schema<'OSImage'>> {
  const before = imageContent(await getImage(tx, id));
  const content: ImageContent = {
    slug: body.slug ?? before.slug,
    displayName: body.display_name ?? before.displayName,
    target: body.target ?? before.target,
    imageFormat: body.image_format ?? before.imageFormat,
    sourceUri: body.source_uri ?? before.sourceUri,
    digestSha256: body.digest_sha256 ?? before.digestSha256,
    defaultUsername: body.default_username ?? before.defaultUsername,
    // null clears, absent leaves
    acceleratorVendor: body.accelerator_vendor === undefined ? before.acceleratorVendor : body.accelerator_vendor,
    driverStrategy: body.driver_strategy ?? before.driverStrategy,
    compatibleSkus: body.compatible_skus ? [...new Set(body.compatible_skus)] : before.compatibleSkus,
    status: body.status ?? before.status,
    metadata: body.metadata ?? before.metadata,
  };
  refuseSecretsIn(content.sourceUri);
  try {
    const row = await updateImage(tx, id, content, ctx.clock.now());
    await auditImage(tx, ctx, 'os_image.update', row);
    return imageView(row);
  } catch (error) {
    if (violatedConstraint(error) === 'os_images_slug_taken') throw slugTaken(content.slug);
    throw error;
  }
}

async function moveImage(
  tx: Tx,
  ctx: CommandContext,
  id: string,
  move: 'deprecate' | 'reactivate',
): Promise<Schema<'OSImage'>> {
  const before = await getImage(tx, id);
  if (move === 'deprecate' && before.status === 'disabled') {
    throw conflict('os_image_disabled', { resource: 'os_image' }, 'a disabled image can only be reactivated');
  }
  const row = await setImageStatus(tx, id, move === 'deprecate' ? 'deprecated' : 'active', ctx.clock.now());
  await auditImage(tx, ctx, `os_image.${move}`, row);
  return imageView(row);
}

/** What was launched keeps its image: one that was ever used is disabled, any other is deleted. */
async function removeImage(tx: Tx, ctx: CommandContext, id: string): Promise<void> {
  const row = await getImage(tx, id);
  const used = await isImageUsed(tx, id);
  if (used) await setImageStatus(tx, id, 'disabled', ctx.clock.now());
  else await deleteImage(tx, id);
  await auditImage(tx, ctx, 'os_image.delete', row, { kept_as_disabled: used });
}

async function getImage(tx: Tx, id: string): Promise<ImageRow> {
  const row = await lockImage(tx, id);
  if (!row) throw notFound('os_image');
  return row;
}

function slugTaken(slug: string) {
  return conflict('os_image_already_exists', { resource: 'os_image' }, `there is an image ${slug} already`);
}

const SECRET_PARAMETER =
  /^(x-amz-|x-goog-|sig(nature)?$|token$|access_?key|awsaccesskeyid$|se$|sv$|policy$|key-pair-id$|password$|secret)/i;

/** An address is shown to every operator and goes to hosts: it must not be a key itself. */
function refuseSecretsIn(sourceUri: string): void {
  const pointer = '/body/source_uri';
  const [, authority = ''] = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i.exec(sourceUri) ?? [];
  if (authority.includes('@')) throw badRequest('source_uri_has_credentials', pointer, 'must not name a user');
  const start = sourceUri.indexOf('?');
  if (start === -1) return;
  const parameters = new URLSearchParams(sourceUri.slice(start + 1).split('#', 1)[0]);
  if ([...parameters.keys()].some((name) => SECRET_PARAMETER.test(name))) {
    throw badRequest('source_uri_has_credentials', pointer, 'must not be a signed address');
  }
}

async function auditImage(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  row: ImageRow,
  metadata: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'os_image',
    targetId: row.id,
    metadata: { slug: row.slug, status: row.status, ...metadata },
  });
}

function imageView(row: ImageRow): Schema<'OSImage'> {
  return {
    id: row.id,
    slug: row.slug,
    display_name: row.display_name,
    target: row.target,
    image_format: row.image_format,
    source_uri: row.source_uri,
    digest_sha256: row.digest_sha256,
    default_username: row.default_username,
    accelerator_vendor: row.accelerator_vendor,
    driver_strategy: row.driver_strategy,
    compatible_skus: row.compatible_skus,
    status: row.status,
    metadata: jsonObject(row.metadata),
    created_at: toWireTime(row.created_at),
    updated_at: toWireTime(row.updated_at),
  };
}
