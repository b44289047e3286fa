import { assertNever } from '@gpuaas/kernel';
import type { SkuFacts } from './sku.js';

/** Hours of a month in estimates: a year's hours by twelve. */
const HOURS_A_MONTH = 730n;

/** How many billing units one allocation has: its GPUs, its vCPUs, or itself. */
export function billingUnits(sku: SkuFacts, gpus: number): number {
  switch (sku.billingUnit) {
    case 'gpu_hour':
      return gpus;
    case 'node_hour':
      return 1;
    case 'vcpu_hour':
      return sku.vcpuCount ?? 0;
    default:
      return assertNever(sku.billingUnit);
  }
}

/** What one allocation costs an hour, in minor units of the SKU's currency. */
export function hourlyMinor(sku: SkuFacts, gpus: number): bigint {
  return sku.unitPriceMinor * BigInt(billingUnits(sku, gpus));
}

export function monthlyMinor(hourly: bigint): bigint {
  return hourly * HOURS_A_MONTH;
}
