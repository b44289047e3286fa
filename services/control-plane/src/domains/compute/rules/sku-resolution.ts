import type { CapacityShape } from './sku.js';

/**
 * A create request names no SKU of its own. It follows from the node that it names, else from the scheduler's request,
 * else from there being only one on sale in that shape; a guess is never made.
 */
export type SkuResolution =
  | { readonly ok: true; readonly sku: string }
  | { readonly ok: false; readonly reason: 'sku_required' | 'sku_not_of_node'; readonly message: string };

export function resolveSku(facts: {
  readonly nodeSku: string | null;
  readonly requested: string | null;
  readonly shape: CapacityShape;
  /** the SKUs on sale in that shape */
  readonly onSale: readonly string[];
}): SkuResolution {
  if (facts.nodeSku !== null) {
    if (facts.requested !== null && facts.requested !== facts.nodeSku) {
      return { ok: false, reason: 'sku_not_of_node', message: `the node is sold as ${facts.nodeSku}` };
    }
    return { ok: true, sku: facts.nodeSku };
  }
  if (facts.requested !== null) return { ok: true, sku: facts.requested };
  const [only, ...others] = facts.onSale;
  if (only !== undefined && others.length === 0) return { ok: true, sku: only };
  return {
    ok: false,
    reason: 'sku_required',
    message: `name a SKU in scheduler_request.sku: ${facts.onSale.length} are on sale as ${facts.shape}`,
  };
}

export interface LaunchHints {
  readonly sku: string | null;
  readonly osImageSlug: string | null;
  readonly regionCode: string | null;
  readonly name: string | null;
}

/** What the platform reads in a scheduler's request; everything else there is the scheduler's own. */
export function launchHints(schedulerRequest: Readonly<Record<string, unknown>> | undefined): LaunchHints {
  const text = (name: string): string | null => {
    const value = schedulerRequest?.[name];
    return typeof value === 'string' && value.trim() !== '' ? value.trim() : null;
  };
  return {
    sku: text('sku'),
    osImageSlug: text('os_image_slug'),
    regionCode: text('region_code'),
    name: text('name')?.slice(0, 120) ?? null,
  };
}
