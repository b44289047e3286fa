import type { Schema } from '@gpuaas/contract';
import { toWireInteger } from '../../../spine/wire.js';
import { jsonObject } from '../store/json.js';
import type { SkuRow } from '../store/skus.js';

export function skuView(row: SkuRow): Schema<'Sku'> {
  return {
    sku: row.sku,
    vendor: row.vendor,
    name: row.display_name,
    resource_class: row.resource_class,
    billing_unit: row.billing_unit,
    scheduling_unit: row.scheduling_unit,
    resources: resourcesOf(row),
    unit_price: { amount_minor: toWireInteger(row.unit_price_minor), currency: row.currency },
  };
}

export function adminSkuView(row: SkuRow): Schema<'AdminSku'> {
  const profile = jsonObject(row.resource_profile);
  const runtimeProvider = profile.runtime_provider;
  return {
    sku: row.sku,
    vendor: row.vendor,
    display_name: row.display_name,
    family_id: row.family_id,
    family_version: row.family_version,
    family_display_name: row.family_display_name,
    ...(typeof runtimeProvider === 'string' && runtimeProvider !== '' && { runtime_provider: runtimeProvider }),
    resource_class: row.resource_class,
    billing_unit: row.billing_unit,
    scheduling_unit: row.scheduling_unit,
    resources: resourcesOf(row),
    resource_profile: profile,
    active: row.active,
    unit_price: { amount_minor: toWireInteger(row.unit_price_minor), currency: row.currency },
  };
}

function resourcesOf(row: SkuRow): Schema<'SkuResources'> {
  return {
    vcpu_count: row.vcpu_count,
    memory_mib: row.memory_mib,
    accelerator_vendor: row.accelerator_vendor,
    accelerator_model: row.accelerator_model,
    accelerator_count: row.accelerator_count,
    accelerator_memory_mib: row.accelerator_memory_mib,
    allowed_accelerator_counts: [...row.allowed_accelerator_counts],
  };
}
