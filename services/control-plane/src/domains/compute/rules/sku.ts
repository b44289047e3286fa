import type { Schema } from '@gpuaas/contract';

export type ResourceClass = Schema<'SkuResourceClass'>;
export type BillingUnit = Schema<'SkuBillingUnit'>;
export type SchedulingUnit = Schema<'SkuSchedulingUnit'>;
export type CapacityShape = Schema<'CapacityShape'>;

/** What the rules must know of a SKU. */
export interface SkuFacts {
  readonly sku: string;
  readonly active: boolean;
  readonly resourceClass: ResourceClass;
  readonly billingUnit: BillingUnit;
  readonly schedulingUnit: SchedulingUnit;
  readonly vcpuCount: number | null;
  readonly acceleratorVendor: string | null;
  readonly acceleratorCount: number | null;
  readonly allowedAcceleratorCounts: readonly number[];
  readonly unitPriceMinor: bigint;
  readonly currency: string;
}

export interface SkuFault {
  readonly pointer: string;
  readonly reason: string;
  readonly message: string;
}

const UNITS: Record<ResourceClass, { scheduling: readonly SchedulingUnit[]; billing: readonly BillingUnit[] }> = {
  gpu_baremetal: { scheduling: ['node'], billing: ['gpu_hour', 'node_hour'] },
  gpu_slice: { scheduling: ['slice'], billing: ['gpu_hour'] },
  cpu_vm: { scheduling: ['vm'], billing: ['vcpu_hour', 'node_hour'] },
  cpu_baremetal: { scheduling: ['node'], billing: ['node_hour', 'vcpu_hour'] },
  control_plane: { scheduling: ['node', 'vm'], billing: ['node_hour', 'vcpu_hour'] },
};

/** The first thing that is wrong with a SKU as an operator wrote it, or null. */
export function findSkuFault(sku: Omit<SkuFacts, 'sku' | 'active'>): SkuFault | null {
  const units = UNITS[sku.resourceClass];
  if (!units.scheduling.includes(sku.schedulingUnit)) {
    return {
      pointer: '/body/scheduling_unit',
      reason: 'scheduling_unit_mismatch',
      message: `${sku.resourceClass} is scheduled by ${units.scheduling.join(' or ')}`,
    };
  }
  if (!units.billing.includes(sku.billingUnit)) {
    return {
      pointer: '/body/billing_unit',
      reason: 'billing_unit_mismatch',
      message: `${sku.resourceClass} is billed by ${units.billing.join(' or ')}`,
    };
  }
  const free = sku.resourceClass === 'control_plane';
  if (sku.unitPriceMinor < 0n || (sku.unitPriceMinor === 0n && !free)) {
    return { pointer: '/body/unit_price/amount_minor', reason: 'price_not_positive', message: 'must be above zero' };
  }
  if (sku.unitPriceMinor > MAXIMUM_PRICE_MINOR) {
    return { pointer: '/body/unit_price/amount_minor', reason: 'price_too_high', message: 'is beyond any real price' };
  }
  // Without the number of units an hour has no price, so nobody could be asked whether they can pay it.
  if (sku.resourceClass === 'gpu_baremetal' && sku.billingUnit === 'gpu_hour' && !sku.acceleratorCount) {
    return {
      pointer: '/body/resources/accelerator_count',
      reason: 'accelerator_count_required',
      message: 'is needed to price a host by the GPU',
    };
  }
  if (sku.billingUnit === 'vcpu_hour' && !sku.vcpuCount) {
    return {
      pointer: '/body/resources/vcpu_count',
      reason: 'vcpu_count_required',
      message: 'is needed to price by the vCPU',
    };
  }
  const most = sku.acceleratorCount;
  if (most !== null && sku.allowedAcceleratorCounts.some((count) => count > most)) {
    return {
      pointer: '/body/resources/allowed_accelerator_counts',
      reason: 'accelerator_count_exceeded',
      message: `must not exceed accelerator_count (${most})`,
    };
  }
  return null;
}

const MAXIMUM_PRICE_MINOR = 1_000_000_000n;

/** The shape that a class of SKU is placed in; VMs have none in the contract. */
export function shapeOf(resourceClass: ResourceClass): CapacityShape | null {
  switch (resourceClass) {
    case 'gpu_baremetal':
    case 'cpu_baremetal':
      return 'baremetal';
    case 'gpu_slice':
      return 'gpu_slice';
    case 'cpu_vm':
    case 'control_plane':
      return null;
  }
}

/** The kind of image that boots on the SKU. */
export function imageTargetOf(sku: SkuFacts): Schema<'OSImageTarget'> {
  const shape = shapeOf(sku.resourceClass);
  if (shape === 'baremetal') return 'baremetal';
  return shape === 'gpu_slice' ? 'vm_slice' : 'compute_vm';
}

/** The numbers of GPUs that one allocation of the SKU may have. */
export function offeredGpuCounts(sku: SkuFacts): readonly number[] {
  if (sku.resourceClass !== 'gpu_slice') return [sku.acceleratorCount ?? 0];
  return sku.allowedAcceleratorCounts.length > 0 ? sku.allowedAcceleratorCounts : [sku.acceleratorCount ?? 1];
}

export type GpuCount =
  | { readonly ok: true; readonly gpus: number }
  | { readonly ok: false; readonly offered: readonly number[] };

/** The GPUs of one allocation: the number asked for if the SKU offers it, else the smallest that it offers. */
export function decideGpuCount(sku: SkuFacts, asked: number | null): GpuCount {
  const offered = [...offeredGpuCounts(sku)].sort((left, right) => left - right);
  const gpus = asked ?? offered[0] ?? 0;
  return offered.includes(gpus) ? { ok: true, gpus } : { ok: false, offered };
}
