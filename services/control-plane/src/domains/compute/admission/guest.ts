import { z } from 'zod';
import type { Reader } from '../../../spine/operation.js';
import type { GuestShape } from '../provisioning/runtime-tasks.js';
import type { Gate } from '../rules/admission.js';
import { imageTargetOf, type SkuFacts, shapeOf } from '../rules/sku.js';
import { findDefaultImage, type ImageRow } from '../store/os-images.js';
import type { SkuRow } from '../store/skus.js';

const sliceProfiles = z.object({
  slice_vm_profiles: z.record(z.string(), z.object({ vcpu_count: z.int().positive(), memory_mib: z.int().positive() })),
});

export interface Guest {
  readonly image: ImageRow;
  /** `sha256:` and hex */
  readonly digest: string;
  readonly shape: GuestShape;
}

export type GuestDecision =
  /** null: a whole host, which is made from nothing */
  { readonly ok: true; readonly guest: Guest | null } | (Gate & { readonly ok: false });

/**
 * What a guest is made from: the image that was named, else the platform's choice for the SKU, and the size that the
 * SKU gives to its number of GPUs.
 */
export async function decideGuest(
  reader: Reader,
  row: SkuRow,
  sku: SkuFacts,
  gpus: number,
  named: ImageRow | undefined,
): Promise<GuestDecision> {
  if (shapeOf(sku.resourceClass) !== 'gpu_slice') return { ok: true, guest: null };
  const image = named ?? (await findDefaultImage(reader, imageTargetOf(sku), sku.sku));
  if (!image) {
    return {
      ok: false,
      check: 'image',
      code: 'invalid_request',
      status: 409,
      reason: 'os_image_required',
      message: `there is no image for ${sku.sku}`,
    };
  }
  const profiles = sliceProfiles.safeParse(row.resource_profile);
  const profile = profiles.success ? profiles.data.slice_vm_profiles[String(gpus)] : undefined;
  if (!profile) {
    return {
      ok: false,
      check: 'sku',
      code: 'sku_unavailable',
      reason: 'slice_profile_missing',
      message: `${sku.sku} does not say how big a guest with ${gpus} GPUs is`,
    };
  }
  return {
    ok: true,
    guest: {
      image,
      digest: `sha256:${image.digest_sha256}`,
      shape: {
        imageRef: image.source_uri,
        digestSha256: image.digest_sha256,
        vcpuCount: profile.vcpu_count,
        memoryMib: profile.memory_mib,
      },
    },
  };
}
