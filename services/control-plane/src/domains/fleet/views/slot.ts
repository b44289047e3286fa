import type { Schema } from '@gpuaas/contract';
import { toWireTime } from '../../../spine/wire.js';
import { isSchedulable } from '../rules/freshness.js';
import type { NodeStatus } from '../rules/node-state.js';
import { jsonObject, type SlotCount, type SlotRow } from '../store/slots.js';

/** A slot as operators see it. */
export function slotView(row: SlotRow): Schema<'NodeResourceSlot'> {
  return {
    id: row.id,
    node_id: row.node_id,
    parent_slot_id: row.parent_slot_id,
    slot_index: row.slot_index,
    status: row.status,
    capacity_shape: row.capacity_shape,
    sharing_model: row.sharing_model === null ? null : 'exclusive_device',
    profile_name: row.profile_name,
    accelerator_vendor: row.accelerator_vendor,
    accelerator_model: row.accelerator_model,
    gpu_index: row.gpu_index,
    gpu_uuid: row.gpu_uuid,
    pci_address: row.pci_address,
    numa_node: row.numa_node,
    nvme_device: row.nvme_device,
    nvme_wwn: row.nvme_wwn,
    fabric_kind: row.fabric_kind,
    fabric_device: row.fabric_device,
    vcpu_count: row.vcpu_count,
    memory_mib: row.memory_mib,
    gpu_memory_mib: row.gpu_memory_mib,
    compute_milli: row.compute_milli,
    max_claims: row.max_claims,
    mac_address: row.mac_address,
    private_ip: row.private_ip,
    health_state: row.health_state,
    health_detail: jsonObject(row.health_detail),
    capacity_metadata: jsonObject(row.capacity_metadata),
    created_at: toWireTime(row.created_at),
    updated_at: toWireTime(row.updated_at),
  };
}

/** What of a node's slots is counted. */
export interface SlotTally {
  readonly carriesSlices: boolean;
  readonly counts: readonly SlotCount[];
}

/** The slots of a node by status, in all and by what they are sold as; null for a node that has none. */
export function slotSummary(
  tally: SlotTally | undefined,
  node: { readonly status: NodeStatus; readonly lastSeenAt: Date | null },
  now: Date,
): Schema<'NodeSlotSummary'> | null {
  if (tally === undefined) return null;
  const hostReady = tally.carriesSlices && isSchedulable(node, now);
  const skus = [...new Set(tally.counts.map((one) => one.sku))].sort();
  return {
    ...sums(tally.counts, hostReady),
    by_sku: skus.map((sku) => ({
      sku,
      ...sums(
        tally.counts.filter((one) => one.sku === sku),
        hostReady,
      ),
    })),
  };
}

function sums(counts: readonly SlotCount[], hostReady: boolean) {
  const of = (status: SlotCount['status']) =>
    counts.filter((one) => one.status === status).reduce((sum, one) => sum + one.total, 0);
  return {
    total: counts.reduce((sum, one) => sum + one.total, 0),
    available: of('available'),
    schedulable_available: hostReady ? counts.reduce((sum, one) => sum + one.schedulable, 0) : 0,
    reserved: of('reserved'),
    provisioning: of('provisioning'),
    active: of('active'),
    releasing: of('releasing'),
    cleanup: of('cleanup'),
    cleanup_blocked: of('cleanup_blocked'),
    failed: of('failed'),
    disabled: of('disabled'),
  };
}
