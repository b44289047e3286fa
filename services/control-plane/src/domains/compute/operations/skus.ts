import type { RequestBody, Schema } from '@gpuaas/contract';
import type { UserId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { type CommandContext, command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import { badRequest, conflict, refuse } from '../../../spine/refusal.js';
import type { RecordListPrice } from '../ports.js';
import { findSkuFault } from '../rules/sku.js';
import {
  appendPrice,
  insertSku,
  listSkus,
  lockSku,
  type SkuContent,
  type SkuRow,
  setSkuActive,
  updateSku,
} from '../store/skus.js';
import { adminSkuView, skuView } from '../views/sku-view.js';

/** The catalogue as customers see it, and as operators keep it. The two spellings for operators share one service. */
export function skuOperations(recordListPrice: RecordListPrice) {
  const create = command<'adminCreateSku'>(async ({ tx, ctx, body }) => ({
    status: 201,
    body: await createSku(tx, ctx, recordListPrice, body),
  }));
  const update = command<'adminUpdateSku'>(async ({ tx, ctx, path, body }) => ({
    status: 200,
    body: await changeSku(tx, ctx, recordListPrice, path.sku, body),
  }));
  const activate = command<'adminActivateSku'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await putOnSale(tx, ctx, path.sku, true),
  }));
  const deactivate = command<'adminDeactivateSku'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await putOnSale(tx, ctx, path.sku, false),
  }));

  return {
    listSkus: query<'listSkus'>(async ({ db, ctx, query: parameters }) => {
      const page = pageRequest(
        ctx,
        { operation: 'listSkus', context: 'catalogue', filters: {}, sort: 'sku' },
        parameters,
      );
      const rows = await listSkus(db, { onSaleOnly: true, after: page.after, limit: page.pageSize + 1 });
      const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.sku]);
      return { status: 200, body: { items: items.map(skuView), pagination } };
    }),

    adminListSkus: query<'adminListSkus'>(async ({ db, ctx, query: parameters }) => {
      const page = pageRequest(
        ctx,
        { operation: 'adminListSkus', context: 'catalogue', filters: {}, sort: 'sku' },
        parameters,
      );
      const rows = await listSkus(db, { onSaleOnly: false, after: page.after, limit: page.pageSize + 1 });
      const { rows: items, pagination } = pageOf(ctx, page, rows, (row) => [row.sku]);
      return { status: 200, body: { items: items.map(adminSkuView), pagination } };
    }),

    adminCreateSku: create,
    createV3PlatformConfigSkuCompat: create,

    adminUpdateSku: update,
    updateV3PlatformConfigSkuCompat: update,

    adminActivateSku: activate,
    activateV3PlatformConfigSkuCompat: activate,

    adminDeactivateSku: deactivate,
    deactivateV3PlatformConfigSkuCompat: deactivate,
  } satisfies OperationHandlers;
}

async function createSku(
  tx: Tx,
  ctx: CommandContext,
  recordListPrice: RecordListPrice,
  body: RequestBody<'adminCreateSku'>,
): Promise<Schema<'AdminSku'>> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$/.test(body.sku)) {
    throw badRequest('sku_malformed', '/body/sku', 'must be letters, digits, dots, dashes and underscores');
  }
  const content = contentOf(body, { familyId: body.sku, familyVersion: '1', resourceProfile: {} });
  const now = ctx.clock.now();
  const inserted = await insertSku(tx, body.sku, content, now);
  if (!inserted) throw conflict('sku_already_exists', { resource: 'sku' }, `${body.sku} exists already`);
  await appendPrice(tx, body.sku, content, actorOf(ctx), now);
  await recordListPrice(tx, { sku: body.sku, ...content }, now, now);
  await audit(tx, ctx, {
    action: 'sku.create',
    targetType: 'sku',
    targetId: body.sku,
    metadata: { resource_class: content.resourceClass, ...priceFacts(content) },
  });
  return adminSkuView(await getSku(tx, body.sku));
}

async function changeSku(
  tx: Tx,
  ctx: CommandContext,
  recordListPrice: RecordListPrice,
  code: string,
  body: RequestBody<'adminUpdateSku'>,
): Promise<Schema<'AdminSku'>> {
  const before = await getSku(tx, code);
  const content = contentOf(body, {
    familyId: before.family_id,
    familyVersion: before.family_version,
    resourceProfile: adminSkuView(before).resource_profile ?? {},
  });
  const now = ctx.clock.now();
  await updateSku(tx, code, content, now);
  const repriced =
    before.unit_price_minor !== content.unitPriceMinor ||
    before.currency !== content.currency ||
    before.billing_unit !== content.billingUnit;
  if (repriced) {
    await appendPrice(tx, code, content, actorOf(ctx), now);
    await recordListPrice(tx, { sku: code, ...content }, now, now);
  }
  await audit(tx, ctx, {
    action: 'sku.update',
    targetType: 'sku',
    targetId: code,
    metadata: { repriced, ...priceFacts(content), unit_price_minor_before: String(before.unit_price_minor) },
  });
  return adminSkuView(await getSku(tx, code));
}

/** Taking a SKU off sale waits for launches that are under way; what runs is not touched. */
async function putOnSale(tx: Tx, ctx: CommandContext, code: string, active: boolean): Promise<Schema<'AdminSku'>> {
  const before = await getSku(tx, code);
  if (before.active !== active) await setSkuActive(tx, code, active, ctx.clock.now());
  await audit(tx, ctx, {
    action: active ? 'sku.activate' : 'sku.deactivate',
    targetType: 'sku',
    targetId: code,
    metadata: { changed: before.active !== active },
  });
  return adminSkuView({ ...before, active });
}

async function getSku(tx: Tx, code: string): Promise<SkuRow> {
  const row = await lockSku(tx, code);
  if (!row) throw refuse('sku_not_found');
  return row;
}

function contentOf(
  body: RequestBody<'adminUpdateSku'>,
  kept: { familyId: string; familyVersion: string; resourceProfile: Readonly<Record<string, unknown>> },
): SkuContent {
  const { resources } = body;
  if (!Number.isSafeInteger(body.unit_price.amount_minor)) {
    throw badRequest('price_too_high', '/body/unit_price/amount_minor', 'is beyond any real price');
  }
  const content: SkuContent = {
    vendor: body.vendor,
    displayName: body.display_name,
    familyId: body.family_id ?? kept.familyId,
    familyVersion: body.family_version ?? kept.familyVersion,
    resourceClass: body.resource_class,
    billingUnit: body.billing_unit,
    schedulingUnit: body.scheduling_unit,
    vcpuCount: resources.vcpu_count ?? null,
    memoryMib: resources.memory_mib ?? null,
    acceleratorVendor: resources.accelerator_vendor ?? null,
    acceleratorModel: resources.accelerator_model ?? null,
    acceleratorCount: resources.accelerator_count ?? null,
    acceleratorMemoryMib: resources.accelerator_memory_mib ?? null,
    allowedAcceleratorCounts: [...new Set(resources.allowed_accelerator_counts)].sort((left, right) => left - right),
    resourceProfile: body.resource_profile ?? kept.resourceProfile,
    unitPriceMinor: BigInt(body.unit_price.amount_minor),
    currency: body.unit_price.currency,
  };
  const fault = findSkuFault(content);
  if (fault) throw badRequest(fault.reason, fault.pointer, fault.message);
  return content;
}

function priceFacts(content: SkuContent): Record<string, unknown> {
  return {
    unit_price_minor: String(content.unitPriceMinor),
    currency: content.currency,
    billing_unit: content.billingUnit,
  };
}

function actorOf(ctx: CommandContext): UserId | null {
  return ctx.principal.kind === 'user' ? ctx.principal.userId : null;
}
