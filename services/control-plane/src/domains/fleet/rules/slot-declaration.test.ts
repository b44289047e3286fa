import type { TopologyReport } from '@gpuaas/node-protocol';
import { describe, expect, it } from 'vitest';
import { type DeclaredSlot, decideSlots, type KnownSlot, type SlotFacts } from './slot-declaration.js';

const pci = (bus: number, index: number, fn = 0) => `0000:${(bus + index * 16).toString(16).padStart(2, '0')}:00.${fn}`;
const indexes = [0, 1, 2, 3];

const topology: TopologyReport = {
  schema_version: 1,
  host: {
    hostname: 'h',
    os: 'o',
    kernel: 'k',
    architecture: 'x86_64',
    driver: 'd',
    cuda: 'c',
    cpu_model: 'm',
    vcpu_count: 8,
    memory_mib: 1024,
    numa: 1,
    boot_id: 'b',
  },
  prerequisites: { kvm_available: true, iommu_group_count: 1, iommu_kernel_args: [], vfio_available: true },
  slice_network: { bridge: 'br', ip_forwarding: true, nat: true },
  gpus: indexes.map((index) => ({
    gpu_index: index,
    gpu_uuid: `GPU-${index}`,
    pci_address: pci(0x0b, index),
    vendor: 'nvidia',
    model: 'H200',
    memory_mib: 1,
    numa_node: index % 2,
  })),
  nvme: indexes.map((index) => ({
    device: `/dev/nvme${index}n1`,
    wwn: `eui.${index}`,
    size_bytes: 1,
    mounted: index === 3 ? null : false,
    pci_address: null,
    numa_node: 0,
  })),
  fabric: [
    {
      device: 'mlx5_0',
      kind: 'ib',
      pci_address: pci(0x0c, 0),
      numa_node: 0,
      state: null,
      vfs: indexes.map((index) => pci(0x0c, 0, index + 1)),
    },
  ],
  candidate_slots: [],
  blockers: [],
  warnings: [],
};
const facts: SlotFacts = { node: { sku: 'whole', openClaims: 0, sliceMode: false }, known: [], topology };

const approval = (index: number) => ({
  storage_ownership: 'slice',
  destructive_wipe_policy: 'blkdiscard',
  fabric_claim_mode: 'per_slot_vf',
  fabric_vf_pci_address: pci(0x0c, 0, index + 1),
});
const offered = (index: number, more: Partial<DeclaredSlot> = {}): DeclaredSlot => ({
  slot_index: index,
  status: 'available',
  capacity_shape: 'gpu_slice',
  gpu_uuid: `GPU-${index}`,
  capacity_metadata: approval(index),
  ...more,
});
const known = (slotIndex: number, more: Partial<KnownSlot> = {}): KnownSlot => ({
  id: `slot-${slotIndex}`,
  slotIndex,
  status: 'available',
  claimed: false,
  gpuUuid: `GPU-${slotIndex}`,
  pciAddress: pci(0x0b, slotIndex),
  nvmeDevice: null,
  nvmeWwn: null,
  fabricVfPciAddress: pci(0x0c, 0, slotIndex + 1),
  macAddress: null,
  privateIp: null,
  ...more,
});
const fault = (declared: readonly DeclaredSlot[], with_: Partial<SlotFacts> = {}) => {
  const decision = decideSlots(declared, { ...facts, ...with_ });
  return decision.ok ? 'none' : [decision.reason, ...decision.issues.map((issue) => issue.pointer)];
};

describe('a slot that an operator offers', () => {
  it('is completed by what the host reports of its devices', () => {
    const decision = decideSlots([offered(1, { nvme_wwn: 'eui.1' })], facts);
    expect(decision).toMatchObject({
      ok: true,
      slots: [
        {
          sku: 'whole',
          pciAddress: pci(0x0b, 1),
          gpuIndex: 1,
          numaNode: 1,
          nvmeDevice: '/dev/nvme1n1',
          fabricVfPciAddress: pci(0x0c, 0, 2),
          healthState: 'healthy',
          approved: true,
        },
      ],
    });
  });

  it.each(['storage_ownership', 'destructive_wipe_policy', 'fabric_claim_mode', 'fabric_vf_pci_address'])(
    'needs %s, which the refusal names',
    (key) => {
      const metadata = { ...approval(0), [key]: '' };
      expect(fault([offered(1), offered(0, { capacity_metadata: metadata })])).toEqual([
        'slot_not_schedulable',
        `/body/slots/1/capacity_metadata/${key}`,
      ]);
    },
  );

  it('needs a host that has said that nothing bars slices', () => {
    expect(fault([offered(0)], { topology: null })).toEqual(['discovery_missing', '/body/slots/0/status']);
    const blocked = { ...topology, blockers: [{ code: 'nat_missing', message: 'no' }] };
    expect(fault([offered(0)], { topology: blocked })).toEqual(['discovery_blocked', '/body/slots/0/status']);
    expect(fault([offered(0, { status: 'disabled' })], { topology: blocked })).toBe('none');
  });

  it('names devices that the host has, and none that the host uses itself', () => {
    expect(fault([offered(0, { gpu_uuid: 'GPU-9' })])).toEqual(['device_not_discovered', '/body/slots/0/gpu_uuid']);
    expect(fault([offered(0, { gpu_uuid: null })])).toEqual(['device_not_discovered', '/body/slots/0/pci_address']);
    expect(fault([offered(0, { pci_address: pci(0x0b, 1) })])).toEqual([
      'device_not_discovered',
      '/body/slots/0/pci_address',
    ]);
    expect(fault([offered(0, { nvme_device: '/dev/sda' })])).toEqual([
      'device_not_discovered',
      '/body/slots/0/nvme_device',
    ]);
    // nobody could say whether it is mounted
    expect(fault([offered(0, { nvme_wwn: 'eui.3' })])).toEqual(['device_not_discovered', '/body/slots/0/nvme_wwn']);
    const elsewhere = { ...approval(0), fabric_vf_pci_address: pci(0x0d, 0, 1) };
    expect(fault([offered(0, { capacity_metadata: elsewhere })])).toEqual([
      'device_not_discovered',
      '/body/slots/0/capacity_metadata/fabric_vf_pci_address',
    ]);
  });

  it('says nothing that a host would not understand', () => {
    expect(fault([offered(0, { mac_address: 'nothing' })])).toEqual([
      'slot_device_invalid',
      '/body/slots/0/mac_address',
    ]);
    expect(fault([offered(0, { private_ip: '10.0.0.300' })])).toEqual([
      'slot_device_invalid',
      '/body/slots/0/private_ip',
    ]);
  });

  it('is not placed while its disk would be wiped in a way that no host has been taught', () => {
    const own = { ...approval(0), destructive_wipe_policy: 'site-erase-7' };
    expect(decideSlots([offered(0, { capacity_metadata: own })], facts)).toMatchObject({
      ok: true,
      slots: [{ approved: false }],
    });
  });

  it('is healthy by what was seen and not against what the operator says', () => {
    expect(decideSlots([offered(0, { health_state: 'degraded' })], facts)).toMatchObject({
      slots: [{ healthState: 'degraded' }],
    });
    expect(decideSlots([offered(0, { status: 'disabled' })], facts)).toMatchObject({ slots: [{ healthState: null }] });
  });
});

describe('a declaration of slots', () => {
  it('touches no slot that an allocation has', () => {
    const claimed = [known(0, { claimed: true, status: 'active' })];
    expect(fault([offered(1), offered(0, { status: 'disabled' })], { known: claimed })).toEqual([
      'slot_claimed',
      '/body/slots/1/slot_index',
    ]);
    expect(fault([offered(1)], { known: claimed })).toBe('none');
  });

  it('does not slice a node that somebody has whole', () => {
    const node = { sku: 'whole', openClaims: 1, sliceMode: false };
    expect(fault([offered(0)], { node })).toEqual(['node_in_use', '/body/slots/0/status']);
    expect(fault([offered(0, { status: 'disabled' })], { node })).toBe('none');
    expect(fault([offered(0)], { node: { ...node, sliceMode: true } })).toBe('none');
  });

  it('names each slot once, and each device in one slot', () => {
    expect(fault([offered(0), offered(0)])).toEqual(['slot_index_repeated', '/body/slots/1/slot_index']);
    expect(fault([offered(0), offered(1, { capacity_metadata: approval(0) })])).toEqual([
      'slot_device_shared',
      '/body/slots/1/capacity_metadata/fabric_vf_pci_address',
    ]);
    expect(fault([offered(5, { gpu_uuid: 'GPU-0', capacity_metadata: approval(2) })], { known: [known(0)] })).toEqual([
      'slot_device_shared',
      '/body/slots/0/gpu_uuid',
      '/body/slots/0/pci_address',
    ]);
    // two slots may exchange their devices
    const swapped = [
      offered(0, { gpu_uuid: 'GPU-1', capacity_metadata: approval(1) }),
      offered(1, { gpu_uuid: 'GPU-0', capacity_metadata: approval(0) }),
    ];
    expect(fault(swapped, { known: [known(0), known(1)] })).toBe('none');
  });

  it('sells no part of another slot', () => {
    const parent = [known(0)];
    expect(fault([offered(1, { parent_slot_id: 'slot-0' })], { known: parent })).toEqual([
      'parent_slot_invalid',
      '/body/slots/0/parent_slot_id',
    ]);
    expect(fault([offered(1, { parent_slot_id: 'slot-0', status: 'disabled' })], { known: parent })).toBe('none');
    expect(fault([offered(1, { parent_slot_id: 'slot-7', status: 'disabled' })], { known: parent })).toEqual([
      'parent_slot_invalid',
      '/body/slots/0/parent_slot_id',
    ]);
  });
});
