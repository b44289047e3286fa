import { asId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { command, type OperationHandlers, query } from '../../../spine/operation.js';
import { conflict, Refusal } from '../../../spine/refusal.js';
import { publishSlotChange } from '../events.js';
import { decideSlots } from '../rules/slot-declaration.js';
import type { FleetServices } from '../services.js';
import { getNode, lockNode } from '../store/nodes.js';
import { findTopology, keepSliceMode, listSlots, upsertSlots } from '../store/slots.js';
import { slotView } from '../views/slot.js';

/** The slots of a node: what operators let be sold of it. */
export function slotOperations({ skuCatalog }: FleetServices): OperationHandlers {
  const list = query<'adminListNodeResourceSlots'>(async ({ db, path }) => {
    const node = await getNode(db, asId(path.node_id));
    return { status: 200, body: { items: (await listSlots(db, node.id)).map(slotView) } };
  });

  const upsert = command<'adminUpsertNodeResourceSlots'>(async ({ tx, ctx, path, body }) => {
    const node = await lockNode(tx, asId(path.node_id));
    if (node.status === 'retired' || node.status === 'removing') {
      throw conflict(`node_is_${node.status}`, { current_status: node.status });
    }
    const before = await listSlots(tx, node.id);
    const decision = decideSlots(body.slots, {
      node,
      known: before.map((row) => ({
        id: row.id,
        slotIndex: row.slot_index,
        status: row.status,
        claimed: row.claimed_by !== null,
        gpuUuid: row.gpu_uuid,
        pciAddress: row.pci_address,
        nvmeDevice: row.nvme_device,
        nvmeWwn: row.nvme_wwn,
        fabricVfPciAddress: row.fabric_vf_pci_address,
        macAddress: row.mac_address,
        privateIp: row.private_ip,
      })),
      topology: await findTopology(tx, node.id),
    });
    if (!decision.ok) throw slotRefusal(decision.reason, decision.issues);
    for (const sku of new Set(decision.slots.map((slot) => slot.sku))) {
      if (sku === node.sku || (await skuCatalog.findSku(tx, sku)) !== null) continue;
      const at = decision.slots.findIndex((slot) => slot.sku === sku);
      const pointer = `/body/slots/${at}/capacity_metadata/sku`;
      throw slotRefusal('sku_not_found', [{ pointer, message: 'is not in the catalogue' }]);
    }

    const now = ctx.clock.now();
    await upsertSlots(tx, node.id, decision.slots, now);
    const sliceMode = await keepSliceMode(tx, node.id, now);
    const rows = await listSlots(tx, node.id);
    const declared = new Set(decision.slots.map((slot) => slot.slotIndex));
    const changed = rows.filter((row) => declared.has(row.slot_index));
    await publishSlotChange(tx, ctx, {
      nodeId: node.id,
      slotIds: changed.map((row) => row.id),
      cause: 'declared',
      allocationId: null,
    });
    await audit(tx, ctx, {
      action: 'node.slots.upsert',
      targetType: 'node',
      targetId: node.id,
      metadata: {
        slice_mode: sliceMode,
        slots: changed.map((row) => ({
          slot_index: row.slot_index,
          from: before.find((slot) => slot.slot_index === row.slot_index)?.status ?? null,
          to: row.status,
        })),
      },
    });
    return { status: 200, body: { items: rows.map(slotView) } };
  });

  return {
    adminListNodeResourceSlots: list,
    listV3PlatformNodeResourceSlots: list,
    adminUpsertNodeResourceSlots: upsert,
    upsertV3PlatformNodeResourceSlots: upsert,
  };
}

function slotRefusal(reason: string, issues: readonly { readonly pointer: string; readonly message: string }[]) {
  const words = issues.map(({ pointer, message }) => `${pointer.split('/').slice(2).join('.')}: ${message}`);
  return new Refusal('invalid_request', { details: { reason, issues }, message: words.slice(0, 5).join('; ') });
}
