import type { NodeId } from '@gpuaas/kernel';
import type { CallContext, Tx } from '../../../spine/operation.js';
import { publishSlotChange } from '../events.js';
import { moveSlotRows, type SlotsMove } from '../store/slots.js';

/**
 * Moves all slots of one guest, in the transaction that moves their claims, and tells the rest of the product. Throws
 * where one of them is not where its claim says.
 */
export async function moveSlots(tx: Tx, ctx: CallContext, move: SlotsMove): Promise<void> {
  const nodes: readonly NodeId[] = await moveSlotRows(tx, move, ctx.clock.now());
  for (const nodeId of nodes) {
    await publishSlotChange(tx, ctx, {
      nodeId,
      slotIds: move.slotIds,
      cause: move.event,
      allocationId: move.allocationId,
    });
  }
}
