import type { Schema } from '@gpuaas/contract';
import { resourceName, toWireTime } from '../../../spine/wire.js';
import { hasRuntime } from '../rules/allocation-state.js';
import { groupStatusOf } from '../rules/group-status.js';
import type { GroupRow } from '../store/groups.js';

/** A group on the wire; status and counters are recounted from the members each time. */
export function groupView(row: GroupRow): Schema<'AllocationGroup'> {
  const { members } = row;
  const count = (...statuses: string[]) => members.filter((member) => statuses.includes(member.status)).length;
  const status = groupStatusOf(
    members.map((member) => ({
      status: member.status,
      required: member.required,
      wasActive: member.active_at !== null,
    })),
    row.release_requested_at !== null,
  );
  const ends = members.flatMap((member) => member.released_at ?? []).sort();
  return {
    id: row.id,
    resource_name: resourceName({
      region: members[0]?.region_code ?? null,
      tenantId: row.tenant_id,
      projectId: row.project_id,
      kind: 'gpuaas/allocation-group',
      id: row.id,
    }),
    org_id: row.tenant_id,
    project_id: row.project_id,
    requested_by_user_id: row.requested_by_user_id,
    group_kind: row.group_kind,
    display_name: row.display_name,
    status,
    owner: { owner_kind: row.owner_kind, owner_id: row.owner_id },
    desired_member_count: row.desired_member_count,
    required_member_count: row.required_member_count,
    active_member_count: count('active'),
    failed_member_count: count('failed', 'restart_failed', 'release_failed'),
    releasing_member_count: count('releasing'),
    released_member_count: count('released'),
    members: members.map((member) => ({
      id: member.id,
      allocation_group_id: row.id,
      allocation_id: member.allocation_id,
      member_role: member.member_role,
      ordinal: member.ordinal,
      required: member.required,
      status: member.status,
      ...(member.capacity_shape !== null && { capacity_shape: member.capacity_shape }),
      sku: member.sku,
      gpus_total: member.gpus_total,
      node_id: member.node_id,
      connection:
        hasRuntime(member.status) && member.connection_host !== null && member.connection_port !== null
          ? {
              host: member.connection_host,
              hostname: member.connection_hostname,
              port: member.connection_port,
              username_on_node: member.username_on_node,
            }
          : null,
      created_at: member.created_at,
      active_at: member.active_at,
      released_at: member.released_at,
    })),
    created_at: toWireTime(row.created_at),
    updated_at: toWireTime(row.updated_at),
    released_at: status === 'released' ? (ends.at(-1) ?? null) : null,
  };
}
