import { type AllocationId, asId, type NodeId, newId, redact, type SlotId } from '@gpuaas/kernel';
import { type TopologyReport, topologyReport } from '@gpuaas/node-protocol';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { pciOf, type SlotContent } from '../rules/slot-declaration.js';
import { type SlotEvent, type SlotStatus, slotMove } from '../rules/slot-state.js';

const COLUMNS = [
  'id',
  'node_id',
  'parent_slot_id',
  'slot_index',
  'status',
  'capacity_shape',
  'sku',
  'sharing_model',
  'profile_name',
  'accelerator_vendor',
  'accelerator_model',
  'gpu_index',
  'gpu_uuid',
  'pci_address',
  'numa_node',
  'nvme_device',
  'nvme_wwn',
  'fabric_kind',
  'fabric_device',
  'fabric_vf_pci_address',
  'vcpu_count',
  'memory_mib',
  'gpu_memory_mib',
  'compute_milli',
  'max_claims',
  'mac_address',
  'private_ip',
  'health_state',
  'health_detail',
  'capacity_metadata',
  'claimed_by',
  'created_at',
  'updated_at',
] as const;

const selectSlots = (reader: Reader) => reader.selectFrom('gpuaas_node_resource_slots').select(COLUMNS);

export type SlotRow = Awaited<ReturnType<ReturnType<typeof selectSlots>['executeTakeFirstOrThrow']>>;

/** A jsonb column that holds an object; anything else there means that program and table disagree. */
export function jsonObject(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error('a stored JSON object has lost its form');
  }
  return { ...value };
}

/** The slots of a node, by index. */
export function listSlots(reader: Reader, nodeId: NodeId): Promise<SlotRow[]> {
  return selectSlots(reader).where('node_id', '=', nodeId).orderBy('slot_index').execute();
}

/** What the host last reported of itself; null where it never did, or in words that are no longer understood. */
export async function findTopology(reader: Reader, nodeId: NodeId): Promise<TopologyReport | null> {
  const row = await reader.selectFrom('node_facts').select('topology').where('node_id', '=', nodeId).executeTakeFirst();
  const parsed = topologyReport.safeParse(row?.topology ?? null);
  return parsed.success ? parsed.data : null;
}

/** Writes declared slots over those of the same index, in one statement. The caller has locked the node. */
export async function upsertSlots(tx: Tx, nodeId: NodeId, slots: readonly SlotContent[], now: Date): Promise<void> {
  await tx
    .insertInto('gpuaas_node_resource_slots')
    .values(
      slots.map((slot) => ({
        id: newId(),
        node_id: nodeId,
        parent_slot_id: slot.parentSlotId,
        slot_index: slot.slotIndex,
        status: slot.status,
        capacity_shape: slot.capacityShape,
        sku: slot.sku,
        sharing_model: slot.sharingModel,
        profile_name: slot.profileName,
        accelerator_vendor: slot.acceleratorVendor,
        accelerator_model: slot.acceleratorModel,
        gpu_index: slot.gpuIndex,
        gpu_uuid: slot.gpuUuid,
        pci_address: slot.pciAddress,
        numa_node: slot.numaNode,
        nvme_device: slot.nvmeDevice,
        nvme_wwn: slot.nvmeWwn,
        fabric_kind: slot.fabricKind,
        fabric_device: slot.fabricDevice,
        fabric_vf_pci_address: slot.fabricVfPciAddress,
        vcpu_count: slot.vcpuCount,
        memory_mib: slot.memoryMib,
        gpu_memory_mib: slot.gpuMemoryMib,
        compute_milli: slot.computeMilli,
        max_claims: slot.maxClaims,
        mac_address: slot.macAddress,
        private_ip: slot.privateIp,
        health_state: slot.healthState,
        health_detail: JSON.stringify(redact(slot.healthDetail)),
        capacity_metadata: JSON.stringify(redact(slot.capacityMetadata)),
        approved: slot.approved,
        created_at: now,
        updated_at: now,
      })),
    )
    .onConflict((conflict) =>
      conflict.columns(['node_id', 'slot_index']).doUpdateSet((eb) => ({
        ...Object.fromEntries(REPLACED.map((column) => [column, eb.ref(`excluded.${column}`)])),
      })),
    )
    .execute();
}

/** What a declaration leaves as it was; it says everything else anew. */
const KEPT: readonly string[] = ['id', 'node_id', 'slot_index', 'claimed_by', 'created_at'];
const REPLACED = [...COLUMNS.filter((column) => !KEPT.includes(column)), 'approved' as const];

/** Whether the node is sold in slices: exactly while a slot of it is in use at all. The caller has locked the node. */
export async function keepSliceMode(tx: Tx, nodeId: NodeId, now: Date): Promise<boolean> {
  const result = await sql<{ slice_mode: boolean }>`
    UPDATE nodes SET updated_at = ${now}, slice_mode = EXISTS (
      SELECT FROM gpuaas_node_resource_slots s WHERE s.node_id = nodes.id AND s.status <> 'disabled')
    WHERE id = ${nodeId} RETURNING slice_mode`.execute(tx);
  const [row] = result.rows;
  if (row === undefined) throw new Error(`node ${nodeId} has gone`);
  return row.slice_mode;
}

/**
 * Compares offered slots with the GPUs that the host reports: one whose GPU is gone is not healthy until it is back.
 * What somebody claims is left to its own teardown.
 */
export async function noteDevices(
  tx: Tx,
  nodeId: NodeId,
  gpus: readonly { readonly pci_address: string }[],
  now: Date,
): Promise<void> {
  const addresses = gpus.map((gpu) => pciOf(gpu.pci_address)).filter((address) => address !== null);
  const mark = (from: string, to: string, detail: Readonly<Record<string, unknown>>) =>
    tx
      .updateTable('gpuaas_node_resource_slots')
      .set({ health_state: to, health_detail: JSON.stringify(detail), updated_at: now })
      .where('node_id', '=', nodeId)
      .where('capacity_shape', '=', 'gpu_slice')
      .where('status', '=', 'available')
      .where('health_state', '=', from);
  await mark('healthy', DEVICE_MISSING, { reason: DEVICE_MISSING })
    .where(sql<boolean>`pci_address <> ALL (${addresses}::text[])`)
    .execute();
  await mark(DEVICE_MISSING, 'healthy', {}).where(sql<boolean>`pci_address = ANY (${addresses}::text[])`).execute();
}

const DEVICE_MISSING = 'device_missing';

export interface SlotsMove {
  readonly slotIds: readonly SlotId[];
  readonly event: SlotEvent;
  /** whose slots they are, or become */
  readonly allocationId: AllocationId;
  /** why nobody could prove that nothing is left; with `block` */
  readonly reason?: string;
}

/**
 * Moves the slots of one claimant together and returns the nodes they are on. Throws where one of them is not where
 * its claim says, or is somebody else's: claims and slots never part.
 */
export async function moveSlotRows(tx: Tx, move: SlotsMove, now: Date): Promise<readonly NodeId[]> {
  const { from, to } = slotMove(move.event);
  const reserves = move.event === 'reserve';
  const blocked = move.event === 'block';
  const moved = await tx
    .updateTable('gpuaas_node_resource_slots')
    .set({
      status: to,
      claimed_by: to === 'available' ? null : move.allocationId,
      updated_at: now,
      ...(blocked && {
        health_state: 'failed',
        health_detail: JSON.stringify({ allocation_id: move.allocationId, reason: move.reason ?? 'cleanup_unproven' }),
      }),
      // What was blocked had been healthy when it was taken, and is again once nothing is left on it.
      ...(to === 'available' && { health_state: 'healthy', health_detail: JSON.stringify({}) }),
    })
    .where('id', 'in', [...move.slotIds])
    .where('status', 'in', [...from])
    .where('claimed_by', reserves ? 'is' : '=', reserves ? null : move.allocationId)
    .returning('node_id')
    .execute();
  if (moved.length !== move.slotIds.length) {
    throw new Error(
      `of ${move.slotIds.length} slots of allocation ${move.allocationId} ${moved.length} can ${move.event}`,
    );
  }
  return [...new Set(moved.map((row) => asId<'node'>(row.node_id)))];
}

export interface SlotCount {
  readonly sku: string;
  readonly status: SlotStatus;
  readonly total: number;
  /** of them, those that nothing in the slot itself keeps from being taken */
  readonly schedulable: number;
}

/** How the slots of these nodes stand, and whether their hosts can carry slices; a node without slots has no entry. */
export async function countSlots(
  reader: Reader,
  nodeIds: readonly NodeId[],
): Promise<ReadonlyMap<NodeId, { readonly carriesSlices: boolean; readonly counts: readonly SlotCount[] }>> {
  if (nodeIds.length === 0) return new Map();
  const rows = await reader
    .selectFrom('gpuaas_node_resource_slots as slot')
    .leftJoin('node_facts', 'node_facts.node_id', 'slot.node_id')
    .select(['slot.node_id', 'slot.sku', 'slot.status', 'node_facts.carries_slices'])
    .select((eb) => [
      eb.fn.countAll<bigint>().as('total'),
      eb.fn.countAll<bigint>().filterWhere('slot.schedulable', '=', true).as('schedulable'),
    ])
    .where('slot.node_id', 'in', [...nodeIds])
    .groupBy(['slot.node_id', 'slot.sku', 'slot.status', 'node_facts.carries_slices'])
    .execute();
  const byNode = new Map<NodeId, { carriesSlices: boolean; counts: SlotCount[] }>();
  for (const row of rows) {
    const nodeId = asId<'node'>(row.node_id);
    const entry = byNode.get(nodeId) ?? { carriesSlices: row.carries_slices === true, counts: [] };
    entry.counts.push({
      sku: row.sku,
      status: row.status,
      total: Number(row.total),
      schedulable: Number(row.schedulable),
    });
    byNode.set(nodeId, entry);
  }
  return byNode;
}
