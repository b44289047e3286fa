import type { NodeId } from '@gpuaas/kernel';
import type { CallContext, Tx } from '../../spine/operation.js';
import { publish } from '../../spine/outbox.js';
import type { NodePlace, NodeStatus } from './rules/node-state.js';
import type { SlotEvent } from './rules/slot-state.js';

/** What the rest of the product may learn of nodes. */
export const NODE_STATUS_CHANGED = 'fleet.node.status_changed';
/** A drain began; whoever has work on the node should hear of it. */
export const NODE_DRAINING = 'fleet.node.draining';
/** The node left the fleet; its host may be registered anew. */
export const NODE_REMOVED = 'fleet.node.removed';
/** Slots of a node were declared anew, taken or given back. */
export const SLOT_CHANGED = 'fleet.slot.changed';

/** `cause`: the event of the node's state machine. */
export async function publishStatusChange(
  tx: Tx,
  ctx: CallContext,
  nodeId: NodeId,
  from: NodeStatus,
  to: NodePlace,
  cause: string,
): Promise<void> {
  await publish(tx, ctx, {
    type: to === 'gone' ? NODE_REMOVED : NODE_STATUS_CHANGED,
    aggregateType: 'node',
    aggregateId: nodeId,
    payload: { node_id: nodeId, from, to, cause },
  });
}

/** `cause`: what happened to the slots, the event of their state machine or an operator's declaration. */
export async function publishSlotChange(
  tx: Tx,
  ctx: CallContext,
  change: {
    readonly nodeId: NodeId;
    readonly slotIds: readonly string[];
    readonly cause: SlotEvent | 'declared';
    readonly allocationId: string | null;
  },
): Promise<void> {
  await publish(tx, ctx, {
    type: SLOT_CHANGED,
    aggregateType: 'node',
    aggregateId: change.nodeId,
    payload: {
      node_id: change.nodeId,
      slot_ids: change.slotIds,
      cause: change.cause,
      allocation_id: change.allocationId,
    },
  });
}
