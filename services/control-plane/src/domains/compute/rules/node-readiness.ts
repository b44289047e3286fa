import type { Schema } from '@gpuaas/contract';
import { assertNever } from '@gpuaas/kernel';
import type { AllocationStatus } from './allocation-state.js';

export interface NodeFacts {
  readonly status: Schema<'NodeSummary'>['status'];
  /** null: no poll was ever seen */
  readonly lastSeenAt: Date | null;
  /** of the allocation that holds the node; null where none does */
  readonly occupant: AllocationStatus | null;
  /** slots that could be taken, and slots that somebody holds; null where the node is not sold in slices */
  readonly slices: { readonly free: number; readonly claimed: number } | null;
  /** the oldest poll that still counts */
  readonly freshSince: Date;
}

type Readiness = Schema<'NodeInventoryReadiness'>;

/** Whether something could be launched on a node, and what stands against it; the first that applies. */
export function readinessOf(node: NodeFacts): Readiness {
  switch (node.status) {
    case 'retired':
    case 'removing':
      return blocked('decommissioned', 'decommissioned_node', 'the node has left service');
    case 'quarantined':
      return blocked('unavailable', 'node_unavailable', 'the node is set apart');
    case 'offline':
      return blocked('unavailable', 'node_unavailable', 'the node is offline');
    case 'registered':
    case 'bootstrap_issued':
    case 'enrolling':
      return notSchedulable(node.status, 'the node is not in service yet');
    case 'cordoned':
    case 'draining':
      return notSchedulable(node.status, 'the node takes no new work');
    case 'active':
      if (node.lastSeenAt === null || node.lastSeenAt < node.freshSince) {
        return blocked('agent_unreachable', 'node_agent_unreachable', 'the node does not answer');
      }
      return node.occupant === null && (node.slices === null || node.slices.free > 0)
        ? { state: 'ready', schedulable: true, severity: 'ok', reason_code: 'ready', summary: 'ready' }
        : {
            state: 'capacity_exhausted',
            schedulable: false,
            severity: 'info',
            reason_code: 'no_schedulable_gpu_capacity',
            summary: 'the node has nothing free',
          };
    default:
      return assertNever(node.status);
  }
}

function blocked(state: Readiness['state'], reason: Readiness['reason_code'], summary: string): Readiness {
  return { state, schedulable: false, severity: 'error', reason_code: reason, summary };
}

function notSchedulable(state: Readiness['state'], summary: string): Readiness {
  return { state, schedulable: false, severity: 'warn', reason_code: 'node_not_schedulable', summary };
}

/** What the node is taken for, as tenants see it. */
export function occupancyStatusOf(node: NodeFacts): Schema<'NodeSummary'>['occupancy_status'] {
  switch (node.occupant) {
    case null:
      if (readinessOf(node).schedulable) return 'available';
      return node.slices !== null && node.slices.claimed > 0 ? 'assigned' : 'unavailable';
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
    // what may be left there has to be taken away first
    case 'failed':
    case 'release_failed':
    case 'released':
      return 'cleanup';
  }
}
