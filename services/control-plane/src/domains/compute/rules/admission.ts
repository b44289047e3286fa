import type { ErrorCode, Schema } from '@gpuaas/contract';
import {
  type CapacityShape,
  decideGpuCount,
  imageTargetOf,
  type ResourceClass,
  type SkuFacts,
  shapeOf,
} from './sku.js';

/** The checks of a launch, under the names that a precheck shows. */
export type CheckId =
  | 'project'
  | 'sku'
  | 'image'
  | 'region'
  | 'ssh_key'
  | 'capacity'
  | 'concurrency'
  | 'financial_posture'
  | 'balance'
  | 'budget'
  | 'storage'
  | 'network_policy';

export interface GateRefusal {
  readonly ok: false;
  readonly check: CheckId;
  readonly code: ErrorCode;
  /** where the code's own status does not fit */
  readonly status?: number;
  readonly reason: string;
  readonly message: string;
}

/** What one gate of admission decides; a warning lets the launch pass and is shown to who asks beforehand. */
export type Gate = { readonly ok: true; readonly warning?: string } | GateRefusal;

export const OPEN: Gate = { ok: true };

export interface SkuWish {
  readonly resourceClass?: ResourceClass | null;
  readonly shape: CapacityShape | null;
  readonly gpuCount: number | null;
}

/** Whether the SKU is on sale and is the kind of thing that was asked for. */
export function decideSku(sku: SkuFacts | null, wish: SkuWish): Gate {
  if (sku === null) {
    return {
      ok: false,
      check: 'sku',
      code: 'sku_not_found',
      status: 400,
      reason: 'sku_not_found',
      message: 'no such SKU',
    };
  }
  if (!sku.active) {
    return {
      ok: false,
      check: 'sku',
      code: 'sku_unavailable',
      reason: 'sku_inactive',
      message: `${sku.sku} is not on sale`,
    };
  }
  if (wish.resourceClass && wish.resourceClass !== sku.resourceClass) {
    return mismatch('resource_class_mismatch', `${sku.sku} is ${sku.resourceClass}`);
  }
  const shape = shapeOf(sku.resourceClass);
  if (wish.shape !== null && wish.shape !== shape) {
    return mismatch('capacity_shape_mismatch', `${sku.sku} is not launched as ${wish.shape}`);
  }
  const count = decideGpuCount(sku, wish.gpuCount);
  if (!count.ok) {
    return mismatch('gpu_count_not_offered', `${sku.sku} comes with ${count.offered.join(', ')} GPUs`);
  }
  return OPEN;
}

function mismatch(reason: string, message: string): GateRefusal {
  return { ok: false, check: 'sku', code: 'invalid_request', status: 400, reason, message };
}

export interface ImageFacts {
  readonly slug: string;
  readonly status: Schema<'OSImageStatus'>;
  readonly target: Schema<'OSImageTarget'>;
  readonly compatibleSkus: readonly string[];
  readonly acceleratorVendor: string | null;
}

/** Whether a named image may boot on the SKU; without a name the platform's choice applies. */
export function decideImage(slug: string | null, image: ImageFacts | null, sku: SkuFacts): Gate {
  if (slug === null) return OPEN;
  if (image === null) return badImage('os_image_not_found', `no such image: ${slug}`);
  if (image.status === 'disabled') {
    return {
      ok: false,
      check: 'image',
      code: 'invalid_request',
      status: 409,
      reason: 'os_image_disabled',
      message: `${slug} is disabled`,
    };
  }
  const listed = image.compatibleSkus.length === 0 || image.compatibleSkus.includes(sku.sku);
  const vendorFits = image.acceleratorVendor === null || image.acceleratorVendor === sku.acceleratorVendor;
  if (image.target !== imageTargetOf(sku) || !listed || !vendorFits) {
    return badImage('os_image_incompatible', `${slug} does not run on ${sku.sku}`);
  }
  return image.status === 'deprecated' ? { ok: true, warning: `${slug} is deprecated` } : OPEN;
}

function badImage(reason: string, message: string): GateRefusal {
  return { ok: false, check: 'image', code: 'invalid_request', status: 400, reason, message };
}

export interface BundleFacts {
  readonly slug: string;
  readonly status: Schema<'ManagedRuntimeBundle'>['status'];
  readonly compatibleAccelerators: readonly string[];
}

/** Whether a runtime bundle can be applied on the accelerators of the SKU. */
export function decideBundle(bundle: BundleFacts | null, acceleratorVendor: string | null): Gate {
  const refused = { ok: false, check: 'image', code: 'invalid_request' } as const;
  if (bundle === null) {
    return { ...refused, status: 400, reason: 'runtime_bundle_not_found', message: 'no such runtime bundle' };
  }
  if (bundle.status === 'disabled') {
    return { ...refused, status: 409, reason: 'runtime_bundle_disabled', message: `${bundle.slug} is disabled` };
  }
  const fits =
    bundle.compatibleAccelerators.length === 0 ||
    (acceleratorVendor !== null && bundle.compatibleAccelerators.includes(acceleratorVendor));
  if (!fits) {
    return {
      ...refused,
      status: 409,
      reason: 'runtime_bundle_incompatible',
      message: `${bundle.slug} does not run on these accelerators`,
    };
  }
  return bundle.status === 'deprecated' ? { ok: true, warning: `${bundle.slug} is deprecated` } : OPEN;
}

/** The full number asked for must fit under the limit: what is allowed is never cut down silently. */
export function decideConcurrency(facts: { maximum: number; current: number; wanted: number }): Gate {
  if (facts.current + facts.wanted <= facts.maximum) return OPEN;
  return {
    ok: false,
    check: 'concurrency',
    code: 'allocation_concurrency_limit',
    reason: 'allocation_concurrency_limit',
    message: `${facts.current} of ${facts.maximum} allocations are in use; ${facts.wanted} more do not fit`,
  };
}

export type CapacityReason = 'no_capacity_in_region' | 'no_single_node_fit' | 'readiness_blocked';

export interface CapacityFacts {
  /** places that could be taken right now */
  readonly free: number;
  /** hosts or GPUs that are unclaimed, whether or not they could be scheduled on */
  readonly unclaimed: number;
  /** free GPUs over all hosts, where one allocation must fit on one of them */
  readonly freeGpus?: number;
  readonly gpusWanted?: number;
}

/** Why there is no room, in the words that a launch and its precheck share. */
export function capacityReason(facts: CapacityFacts): CapacityReason {
  if (facts.freeGpus !== undefined && facts.gpusWanted !== undefined && facts.freeGpus >= facts.gpusWanted) {
    return 'no_single_node_fit';
  }
  return facts.unclaimed > 0 ? 'readiness_blocked' : 'no_capacity_in_region';
}

export function refuseCapacity(sku: string, reason: CapacityReason): GateRefusal {
  const words: Record<CapacityReason, string> = {
    no_capacity_in_region: `no ${sku} is free`,
    no_single_node_fit: `no single host has enough free GPUs for this ${sku}`,
    readiness_blocked: `the free hosts of ${sku} are not ready`,
  };
  return { ok: false, check: 'capacity', code: 'sku_unavailable', reason, message: words[reason] };
}
