import type { NodeId } from '@gpuaas/kernel';
import type { Tx } from '../../../spine/operation.js';

/** An image as a host has it: `digest` is `sha256:` and hex. */
export interface VerifiedImage {
  readonly ref: string;
  readonly digest: string;
  readonly verified_at: string;
}

/** Makes what a host reports all that it has. */
export async function replaceImages(tx: Tx, nodeId: NodeId, images: readonly VerifiedImage[]): Promise<void> {
  let gone = tx.deleteFrom('node_image_cache').where('node_id', '=', nodeId);
  const byDigest = new Map(images.map((image) => [image.digest, image]));
  if (byDigest.size > 0) gone = gone.where('digest', 'not in', [...byDigest.keys()]);
  await gone.execute();
  if (byDigest.size === 0) return;
  await tx
    .insertInto('node_image_cache')
    .values(
      [...byDigest.values()].map((image) => ({
        node_id: nodeId,
        digest: image.digest,
        image_ref: image.ref,
        verified_at: new Date(image.verified_at),
      })),
    )
    .onConflict((conflict) =>
      conflict.columns(['node_id', 'digest']).doUpdateSet((eb) => ({
        image_ref: eb.ref('excluded.image_ref'),
        verified_at: eb.ref('excluded.verified_at'),
      })),
    )
    .execute();
}
