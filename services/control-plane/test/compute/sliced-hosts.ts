import { until } from '../harness/waiting.js';
import type { ComputeSite, HostOptions, SimulatedNode } from './site-with-hosts.js';

export const SLICE_SKU = 'h200-sxm-slice';

/** What an operator adds to a host's own proposal of a slot before it is sold. */
const APPROVAL = { storage_ownership: 'slice', destructive_wipe_policy: 'blkdiscard' };

// biome-ignore lint/suspicious/noExplicitAny: a proposal is what the host said; the API judges it
type Proposal = any;

/** Asks the host what it is made of and waits for its answer: its own proposals of slots. */
export async function discover(site: ComputeSite, nodeId: string): Promise<readonly Proposal[]> {
  const path = `/api/v1/admin/nodes/${nodeId}/slice-topology/discovery`;
  const asked = await site.asOperator('POST', path);
  if (asked.status !== 202) throw new Error(`discovery was refused: ${JSON.stringify(asked.body)}`);
  const item = await until(async () => {
    const answer = await site.asOperator('GET', path);
    return answer.body.item?.status === 'completed' ? answer.body.item : null;
  });
  return item.output.candidate_slots;
}

/** A proposal as an operator approves it. */
export function approved(proposal: Proposal, more: Readonly<Record<string, unknown>> = {}): Proposal {
  const { capacity_metadata: metadata, ...slot } = proposal;
  return { ...slot, status: 'available', capacity_metadata: { ...metadata, ...APPROVAL }, ...more };
}

export function putSlots(site: ComputeSite, nodeId: string, slots: readonly unknown[]) {
  return site.asOperator('PUT', `/api/v1/admin/nodes/${nodeId}/resource-slots`, { slots });
}

/** A host with a real agent that is sold in slots: registered, discovered, approved. */
export async function addSlicedHost(
  site: ComputeSite,
  options: HostOptions & { readonly slots?: number } = {},
): Promise<SimulatedNode> {
  const node = await site.addHost({ sku: SLICE_SKU, ...options });
  const proposals = await discover(site, node.nodeId);
  const answer = await putSlots(
    site,
    node.nodeId,
    proposals.slice(0, options.slots ?? 8).map((proposal) => approved(proposal)),
  );
  if (answer.status !== 200) throw new Error(`the slots were refused: ${JSON.stringify(answer.body)}`);
  return node;
}

/** A launch of one guest. */
export const guest = (gpuCount: number, region: string, more: Readonly<Record<string, unknown>> = {}) => ({
  capacity_shape: 'gpu_slice',
  gpu_count: gpuCount,
  scheduler_request: { sku: SLICE_SKU, region_code: region },
  ...more,
});
