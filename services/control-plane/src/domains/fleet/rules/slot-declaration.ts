import type { Schema } from '@gpuaas/contract';
import { NODE_TASKS, type SliceSlot, type TopologyReport } from '@gpuaas/node-protocol';
import type { SlotStatus } from './slot-state.js';

export type DeclaredSlot = Schema<'AdminUpsertNodeResourceSlot'>;

/** What the rule must know of a slot that is there already. */
export interface KnownSlot extends SlotDevices {
  readonly id: string;
  readonly slotIndex: number;
  readonly status: SlotStatus;
  readonly claimed: boolean;
}

/** What no two slots of a node may share. */
export interface SlotDevices {
  readonly gpuUuid: string | null;
  readonly pciAddress: string | null;
  readonly nvmeDevice: string | null;
  readonly nvmeWwn: string | null;
  readonly fabricVfPciAddress: string | null;
  readonly macAddress: string | null;
  readonly privateIp: string | null;
}

/** A slot as it is to be written. */
export interface SlotContent extends SlotDevices {
  readonly slotIndex: number;
  readonly status: Schema<'AdminUpsertNodeResourceSlotStatus'>;
  readonly capacityShape: Schema<'CapacityShape'>;
  readonly sku: string;
  readonly parentSlotId: string | null;
  readonly sharingModel: 'exclusive_device' | null;
  readonly profileName: string | null;
  readonly acceleratorVendor: string | null;
  readonly acceleratorModel: string | null;
  readonly gpuIndex: number | null;
  readonly numaNode: number | null;
  readonly fabricKind: 'ib' | 'roce' | 'ethernet' | null;
  readonly fabricDevice: string | null;
  readonly vcpuCount: number | null;
  readonly memoryMib: number | null;
  readonly gpuMemoryMib: number | null;
  readonly computeMilli: number | null;
  readonly maxClaims: number | null;
  readonly healthState: string | null;
  readonly healthDetail: Readonly<Record<string, unknown>>;
  readonly capacityMetadata: Readonly<Record<string, unknown>>;
  /** a guest can be started in it as declared */
  readonly approved: boolean;
}

export interface SlotIssue {
  /** names the field in the request */
  readonly pointer: string;
  readonly message: string;
}

export type SlotDecision =
  | { readonly ok: true; readonly slots: readonly SlotContent[] }
  | { readonly ok: false; readonly reason: string; readonly issues: readonly SlotIssue[] };

export interface SlotFacts {
  readonly node: { readonly sku: string; readonly openClaims: number; readonly sliceMode: boolean };
  readonly known: readonly KnownSlot[];
  /** what the host last reported of itself; null where it never did */
  readonly topology: TopologyReport | null;
}

/**
 * Whether an operator may declare these slots of a node, and what is then written. A declared slot replaces the one of
 * the same index as a whole; what was left out of it is taken from the host's report where that says it. A slot that
 * somebody claims is not touched. The first kind of fault is named, with all its places.
 */
export function decideSlots(declared: readonly DeclaredSlot[], facts: SlotFacts): SlotDecision {
  const repeated = declared.flatMap((slot, at) =>
    declared.findIndex((other) => other.slot_index === slot.slot_index) === at
      ? []
      : [issue(at, 'slot_index', `${slot.slot_index} is declared twice`)],
  );
  if (repeated.length > 0) return refused('slot_index_repeated', repeated);

  const claimed = declared.flatMap((slot, at) =>
    facts.known.some((known) => known.claimed && known.slotIndex === slot.slot_index)
      ? [issue(at, 'slot_index', `slot ${slot.slot_index} is claimed by an allocation`)]
      : [],
  );
  if (claimed.length > 0) return refused('slot_claimed', claimed);

  // Claims on a node that is not sold in slices are of somebody who has it whole.
  const whole = facts.node.openClaims > 0 && !facts.node.sliceMode;
  const taken = declared.flatMap((slot, at) =>
    whole && slot.status !== 'disabled' ? [issue(at, 'status', 'the node is taken as a whole')] : [],
  );
  if (taken.length > 0) return refused('node_in_use', taken);

  const missing = declared.flatMap((slot, at) => (isOffered(slot) ? missingApprovals(slot, at) : []));
  if (missing.length > 0) return refused('slot_not_schedulable', missing);

  const parents = declared.flatMap((slot, at) => parentIssues(slot, at, facts.known));
  if (parents.length > 0) return refused('parent_slot_invalid', parents);

  const offered = declared.flatMap((slot, at) => (isOffered(slot) ? [{ slot, at }] : []));
  if (offered.length > 0) {
    const barred = hostIssues(facts.topology, offered[0]?.at ?? 0);
    if (barred !== null) return barred;
  }

  const contents: SlotContent[] = [];
  const unseen: SlotIssue[] = [];
  for (const [at, slot] of declared.entries()) {
    if (!isOffered(slot) || facts.topology === null) {
      contents.push(contentOf(slot, facts.node.sku, {}));
      continue;
    }
    const observed = observe(slot, at, facts.topology);
    if (observed.ok) contents.push(contentOf(slot, facts.node.sku, observed.devices));
    else unseen.push(...observed.issues);
  }
  if (unseen.length > 0) return refused('device_not_discovered', unseen);

  const malformed = contents.flatMap((content, at) => (isApprovable(content) ? formIssues(content, at) : []));
  if (malformed.length > 0) return refused('slot_device_invalid', malformed);

  const shared = sharedDevices(contents, facts.known);
  if (shared.length > 0) return refused('slot_device_shared', shared);
  return { ok: true, slots: contents };
}

function isOffered(slot: DeclaredSlot): boolean {
  return slot.status === 'available' && slot.capacity_shape === 'gpu_slice';
}

function isApprovable(content: SlotContent): boolean {
  return content.status === 'available' && content.capacityShape === 'gpu_slice';
}

/** What an operator must have said about a slot before a stranger's guest may use, and then lose, what is in it. */
function missingApprovals(slot: DeclaredSlot, at: number): SlotIssue[] {
  const metadata = slot.capacity_metadata ?? {};
  const issues: SlotIssue[] = [];
  const need = (key: string, met: boolean, message: string) => {
    if (!met) issues.push(issue(at, `capacity_metadata/${key}`, message));
  };
  const isText = (value: unknown) => typeof value === 'string' && value.trim() !== '';
  need('storage_ownership', metadata.storage_ownership === 'slice', 'must be "slice"');
  need('destructive_wipe_policy', isText(metadata.destructive_wipe_policy), 'must name how the disk is wiped');
  need('fabric_claim_mode', metadata.fabric_claim_mode === 'per_slot_vf', 'must be "per_slot_vf"');
  need(
    'fabric_vf_pci_address',
    isText(metadata.fabric_vf_pci_address),
    'must be the PCI address of the virtual function',
  );
  if ((slot.max_claims ?? 1) !== 1) issues.push(issue(at, 'max_claims', 'a slot has one guest at a time'));
  return issues;
}

function parentIssues(slot: DeclaredSlot, at: number, known: readonly KnownSlot[]): SlotIssue[] {
  const parentId = slot.parent_slot_id ?? null;
  if (parentId === null) return [];
  const parent = known.find((other) => other.id === parentId);
  if (parent === undefined) return [issue(at, 'parent_slot_id', 'is no slot of this node')];
  if (parent.slotIndex === slot.slot_index) return [issue(at, 'parent_slot_id', 'is the slot itself')];
  // Its devices would be sold twice.
  return isOffered(slot) ? [issue(at, 'parent_slot_id', 'a part of another slot is not sold on its own')] : [];
}

/** Without the host's own word that it can carry slices, none is offered. */
function hostIssues(topology: TopologyReport | null, at: number): SlotDecision | null {
  if (topology === null) {
    return refused('discovery_missing', [issue(at, 'status', 'the host has not reported its topology yet')]);
  }
  if (topology.blockers.length === 0) return null;
  const blockers = topology.blockers.map((blocker) => blocker.code).join(', ');
  return refused('discovery_blocked', [issue(at, 'status', `the host cannot carry slices: ${blockers}`)]);
}

type Observed = Partial<
  Pick<SlotContent, 'pciAddress' | 'gpuUuid' | 'gpuIndex' | 'numaNode' | 'nvmeDevice' | 'nvmeWwn'>
>;

/** The slot's devices among those that the host reports: all that is named must be there and belong together. */
function observe(
  slot: DeclaredSlot,
  at: number,
  topology: TopologyReport,
): { readonly ok: true; readonly devices: Observed } | { readonly ok: false; readonly issues: readonly SlotIssue[] } {
  const pciAddress = pciOf(slot.pci_address);
  const gpuUuid = slot.gpu_uuid ?? null;
  const gpuIndex = slot.gpu_index ?? null;
  if (pciAddress === null && gpuUuid === null && gpuIndex === null) {
    return { ok: false, issues: [issue(at, 'pci_address', 'the slot names no GPU')] };
  }
  const issues: SlotIssue[] = [];
  const gpu = (topology.gpus ?? []).find(
    (seen) =>
      (pciAddress === null || pciOf(seen.pci_address) === pciAddress) &&
      (gpuUuid === null || seen.gpu_uuid === gpuUuid) &&
      (gpuIndex === null || seen.gpu_index === gpuIndex),
  );
  if (gpu === undefined) {
    const field = pciAddress !== null ? 'pci_address' : gpuUuid !== null ? 'gpu_uuid' : 'gpu_index';
    issues.push(issue(at, field, 'the host reports no such GPU'));
  }

  const device = slot.nvme_device ?? null;
  const wwn = slot.nvme_wwn ?? null;
  const named = device !== null || wwn !== null;
  const disk = (topology.nvme ?? []).find(
    (seen) => named && (device === null || seen.device === device) && (wwn === null || seen.wwn === wwn),
  );
  const diskField = wwn !== null ? 'nvme_wwn' : 'nvme_device';
  if (named && disk === undefined) issues.push(issue(at, diskField, 'the host reports no such disk'));
  // A disk that is mounted, or of which that is not known, is the host's own and is never wiped.
  if (disk !== undefined && disk.mounted !== false) issues.push(issue(at, diskField, 'the host uses this disk itself'));

  const vf = pciOf(textOf(slot.capacity_metadata?.fabric_vf_pci_address));
  const functions = (topology.fabric ?? []).flatMap((port) => port.vfs.map((address) => pciOf(address)));
  if (!functions.includes(vf)) {
    issues.push(issue(at, 'capacity_metadata/fabric_vf_pci_address', 'the host reports no such virtual function'));
  }
  if (issues.length > 0 || gpu === undefined) return { ok: false, issues };
  return {
    ok: true,
    devices: {
      pciAddress: pciOf(gpu.pci_address),
      gpuUuid: gpu.gpu_uuid,
      gpuIndex: gpu.gpu_index,
      numaNode: slot.numa_node ?? gpu.numa_node,
      nvmeDevice: disk?.device ?? null,
      nvmeWwn: disk?.wwn ?? null,
    },
  };
}

function contentOf(slot: DeclaredSlot, nodeSku: string, observed: Observed): SlotContent {
  const metadata = slot.capacity_metadata ?? {};
  const content = {
    slotIndex: slot.slot_index,
    status: slot.status,
    capacityShape: slot.capacity_shape,
    sku: textOf(metadata.sku) ?? nodeSku,
    parentSlotId: slot.parent_slot_id ?? null,
    sharingModel: slot.sharing_model ?? null,
    profileName: slot.profile_name ?? null,
    acceleratorVendor: slot.accelerator_vendor ?? null,
    acceleratorModel: slot.accelerator_model ?? null,
    gpuIndex: slot.gpu_index ?? null,
    gpuUuid: slot.gpu_uuid ?? null,
    pciAddress: pciOf(slot.pci_address),
    numaNode: slot.numa_node ?? null,
    nvmeDevice: slot.nvme_device ?? null,
    nvmeWwn: slot.nvme_wwn ?? null,
    fabricKind: slot.fabric_kind ?? null,
    fabricDevice: slot.fabric_device ?? null,
    fabricVfPciAddress: pciOf(textOf(metadata.fabric_vf_pci_address)),
    vcpuCount: slot.vcpu_count ?? null,
    memoryMib: slot.memory_mib ?? null,
    gpuMemoryMib: slot.gpu_memory_mib ?? null,
    computeMilli: slot.compute_milli ?? null,
    maxClaims: slot.max_claims ?? null,
    macAddress: slot.mac_address?.toLowerCase() ?? null,
    privateIp: slot.private_ip ?? null,
    // The host has just been seen to have what is offered; what nobody has looked at stays unknown.
    healthState: slot.health_state ?? (isOffered(slot) ? 'healthy' : null),
    healthDetail: slot.health_detail ?? {},
    capacityMetadata: metadata,
    ...observed,
  };
  return { ...content, approved: isOffered(slot) && wipePolicyOf(metadata) !== null };
}

const provision = NODE_TASKS['slice.vm_provision'].params.shape;
export type WipePolicy = ReturnType<typeof provision.wipe_policy.parse>;

/** How the slot's disk is wiped; null for a way of the site's own, which no host has been taught. */
export function wipePolicyOf(metadata: Readonly<Record<string, unknown>>): WipePolicy | null {
  const parsed = provision.wipe_policy.safeParse(metadata.destructive_wipe_policy);
  return parsed.success ? parsed.data : null;
}

/** The slot as a host is told of it. */
export function sliceSlotOf(slot: SlotDevices & { readonly slotIndex: number }): SliceSlot {
  return {
    slot_index: slot.slotIndex,
    gpu_pci_address: slot.pciAddress ?? '',
    ...(slot.gpuUuid !== null && { gpu_uuid: slot.gpuUuid }),
    ...(slot.nvmeDevice !== null && { nvme_device: slot.nvmeDevice }),
    ...(slot.nvmeWwn !== null && { nvme_wwn: slot.nvmeWwn }),
    ...(slot.fabricVfPciAddress !== null && { fabric_vf_pci_address: slot.fabricVfPciAddress }),
    ...(slot.macAddress !== null && { mac_address: slot.macAddress }),
    ...(slot.privateIp !== null && { private_ip: slot.privateIp }),
  };
}

/** Where each device of a task's slot comes from in the request. */
const FIELD_OF: Readonly<Record<keyof SliceSlot, string>> = {
  slot_index: 'slot_index',
  gpu_pci_address: 'pci_address',
  gpu_uuid: 'gpu_uuid',
  nvme_device: 'nvme_device',
  nvme_wwn: 'nvme_wwn',
  fabric_vf_pci_address: 'capacity_metadata/fabric_vf_pci_address',
  mac_address: 'mac_address',
  private_ip: 'private_ip',
};

/** What a host would refuse to be told. */
function formIssues(content: SlotContent, at: number): SlotIssue[] {
  const parsed = provision.slots.safeParse([sliceSlotOf(content)]);
  if (parsed.success) return [];
  return parsed.error.issues.map(({ path, message }) => {
    const key = path[1];
    const field = Object.entries(FIELD_OF).find(([name]) => name === key)?.[1] ?? 'slot_index';
    return issue(at, field, message);
  });
}

const UNIQUE: readonly (readonly [keyof SlotDevices, string])[] = [
  ['gpuUuid', 'gpu_uuid'],
  ['pciAddress', 'pci_address'],
  ['nvmeDevice', 'nvme_device'],
  ['nvmeWwn', 'nvme_wwn'],
  ['fabricVfPciAddress', 'capacity_metadata/fabric_vf_pci_address'],
  ['macAddress', 'mac_address'],
  ['privateIp', 'private_ip'],
];

/** Devices that a slot would share with another of the node, as it stands after the change. */
function sharedDevices(contents: readonly SlotContent[], known: readonly KnownSlot[]): SlotIssue[] {
  const staying = known.filter((slot) => !contents.some((content) => content.slotIndex === slot.slotIndex));
  return contents.flatMap((content, at) =>
    UNIQUE.flatMap(([device, field]) => {
      const value = content[device];
      const holder =
        value === null ? undefined : [...staying, ...contents.slice(0, at)].find((other) => other[device] === value);
      return holder === undefined ? [] : [issue(at, field, `is also in slot ${holder.slotIndex}`)];
    }),
  );
}

const PCI = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$/;

/** A PCI address as the kernel writes it; a text that is none stays as it is, for the form's own check. */
export function pciOf(text: string | null | undefined): string | null {
  if (text === null || text === undefined || text.trim() === '') return null;
  const address = text.trim().toLowerCase();
  const match = PCI.exec(address);
  return match === null ? address : `${(match[1] ?? '').replace(/^0+/, '').padStart(4, '0')}:${match[2]}`;
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' && value.trim() !== '' ? value.trim() : null;
}

function issue(at: number, field: string, message: string): SlotIssue {
  return { pointer: `/body/slots/${at}/${field}`, message };
}

function refused(reason: string, issues: readonly SlotIssue[]): SlotDecision {
  return { ok: false, reason, issues };
}
