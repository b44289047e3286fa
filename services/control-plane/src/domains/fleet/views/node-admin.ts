import type { Schema } from '@gpuaas/contract';
import { resourceName, toWireTimeOrNull } from '../../../spine/wire.js';
import type { NodeOccupant } from '../ports.js';
import { currentAllocation, occupancyStatus } from '../rules/occupancy.js';
import type { HeartbeatRow, NodeRow } from '../store/nodes.js';
import { type SlotTally, slotSummary } from './slot.js';

/** A node as operators see it in the list and after registering it. */
export function nodeAdminView(
  node: NodeRow,
  heartbeat: HeartbeatRow | null,
  use: { readonly occupant: NodeOccupant | null; readonly slots: SlotTally | undefined },
  now: Date,
): Schema<'NodeAdmin'> {
  const reported = heartbeat?.agentVersion ?? null;
  const seen = { ...node, lastSeenAt: heartbeat?.lastSeenAt ?? null };
  const slots = slotSummary(use.slots, seen, now);
  const freeSlots = node.sliceMode ? (slots?.schedulable_available ?? 0) : null;
  return {
    id: node.id,
    resource_name: nodeResourceName(node),
    sku: node.sku,
    gpus_total: node.gpusTotal,
    status: node.status,
    occupancy_status: occupancyStatus({ ...seen, freeSlots }, use.occupant, now),
    in_use: node.openClaims > 0,
    slot_summary: slots,
    region_code: node.regionCode,
    onboarding_mode: node.onboardingMode,
    host: node.host,
    hostname: node.hostname,
    port: node.port,
    ssh_username: node.sshUsername,
    agent_version: reported,
    agent_commit: heartbeat?.agentCommit ?? null,
    agent_built_at: heartbeat?.agentBuiltAt ?? null,
    agent_reported_at: toWireTimeOrNull(heartbeat?.lastSeenAt ?? null),
    agent_lifecycle: {
      desired_agent_version: node.desiredAgentVersion,
      reported_agent_version: reported,
      desired_delivery_mode: node.desiredDeliveryMode,
      drift_state: driftState(node.desiredAgentVersion, reported),
    },
    current_allocation: currentAllocation(use.occupant),
  };
}

export function nodeResourceName(node: { readonly id: string; readonly regionCode: string }): string {
  return resourceName({ region: node.regionCode, kind: 'gpuaas/node', id: node.id });
}

/** Without a wish or without a report there is nothing to compare. */
function driftState(desired: string | null, reported: string | null): Schema<'NodeAgentDriftState'> {
  if (desired === null || reported === null) return 'unknown';
  return desired === reported ? 'in_sync' : 'version_drift';
}
