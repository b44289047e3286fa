import type { Schema } from '@gpuaas/contract';
import { assertNever } from '@gpuaas/kernel';
import type { NodeOccupant } from '../ports.js';
import { isSchedulable } from './freshness.js';
import type { NodeStatus } from './node-state.js';

export type OccupancyStatus = Schema<'NodeAdmin'>['occupancy_status'];

/** How a node is taken, from the outside. A claim without a known occupant still occupies it. */
export function occupancyStatus(
  node: {
    readonly status: NodeStatus;
    readonly openClaims: number;
    readonly lastSeenAt: Date | null;
    /** slots that could be taken right now; null where the node is not sold in slots */
    readonly freeSlots: number | null;
  },
  occupant: NodeOccupant | null,
  now: Date,
): OccupancyStatus {
  if (occupant !== null) return statusOfOccupant(occupant.allocationStatus);
  if (node.freeSlots !== null && node.freeSlots > 0) return 'available';
  if (node.openClaims > 0) return 'assigned';
  if (node.freeSlots !== null) return 'unavailable';
  return isSchedulable(node, now) ? 'available' : 'unavailable';
}

function statusOfOccupant(status: NodeOccupant['allocationStatus']): OccupancyStatus {
  switch (status) {
    case 'requested':
    case 'provisioning':
      return 'reserved';
    case 'active':
      return 'assigned';
    case 'restarting':
      return 'restarting';
    case 'restart_failed':
      return 'restart_failed';
    case 'releasing':
      return 'releasing';
    // Its claim stands until a teardown is proven.
    case 'release_failed':
    case 'failed':
    case 'released':
      return 'cleanup';
    default:
      return assertNever(status);
  }
}

/** The occupant as the admin list shows it; null before there is somebody on the node, and after. */
export function currentAllocation(occupant: NodeOccupant | null): Schema<'NodeOccupancy'> | null {
  if (occupant === null || occupant.usernameOnNode === null) return null;
  const status = shownStatus(occupant.allocationStatus);
  if (status === null) return null;
  return {
    allocation_id: occupant.allocationId,
    user_id: occupant.userId,
    username_on_node: occupant.usernameOnNode,
    status,
  };
}

function shownStatus(status: NodeOccupant['allocationStatus']): Schema<'NodeOccupancy'>['status'] | null {
  switch (status) {
    case 'active':
    case 'restarting':
    case 'restart_failed':
      return 'active';
    case 'releasing':
      return 'releasing';
    case 'release_failed':
      return 'release_failed';
    case 'requested':
    case 'provisioning':
    case 'failed':
    case 'released':
      return null;
    default:
      return assertNever(status);
  }
}
