import { topologyReport } from '@gpuaas/node-protocol';
import { describe, expect, it } from 'vitest';
import { assembleTopology, type RawFacts } from './topology.js';

const NOTHING: RawFacts = {
  hostname: null,
  osRelease: null,
  kernel: null,
  architecture: null,
  cpuInfo: null,
  memInfo: null,
  numaNodes: null,
  bootId: null,
  commandLine: null,
  iommuGroups: null,
  kvm: null,
  vfio: null,
  ipForward: null,
  natRules: null,
  bridges: null,
  mountInfo: null,
  lspci: null,
  smiGpus: null,
  smiBanner: null,
  blockDevices: null,
  fabricDevices: null,
};

const GPU =
  'Slot:\t0000:18:00.0\nClass:\t3D controller [0302]\nVendor:\tNVIDIA Corporation [10de]\nDevice:\tGH100 [2335]\nNUMANode:\t1\n';
const SMI = '0, GPU-1, 00000000:18:00.0, NVIDIA H200, 143771, 570.1\n';
const codes = (remarks: Array<{ code: string }>) => remarks.map((remark) => remark.code);

describe('a topology report', () => {
  it('of a host that says nothing knows nothing, offers nothing and blocks everything', () => {
    const report = assembleTopology(NOTHING);
    expect(topologyReport.parse(report)).toEqual(report);
    expect(report).toMatchObject({ gpus: null, nvme: null, fabric: null, candidate_slots: [] });
    expect(Object.values(report.host).every((value) => value === null)).toBe(true);
    expect(codes(report.blockers)).toEqual([
      'gpus_unknown',
      'gpu_driver_unknown',
      'kvm_unknown',
      'iommu_unknown',
      'vfio_unknown',
      'bridge_unknown',
      'ip_forwarding_unknown',
      'nat_unknown',
    ]);
    expect(codes(report.warnings)).toEqual(
      expect.arrayContaining(['gpu_driver_tool_absent', 'pci_tool_absent', 'fabric_unknown']),
    );
  });

  it('tells a host without GPUs from one whose GPUs are unknown', () => {
    expect(assembleTopology({ ...NOTHING, lspci: '' }).gpus).toEqual([]);
    expect(codes(assembleTopology({ ...NOTHING, lspci: '' }).blockers)).toContain('gpus_missing');
  });

  it('shows a GPU that the driver lost, and offers no slot for it', () => {
    const report = assembleTopology({ ...NOTHING, lspci: GPU, smiGpus: '' });
    expect(report.gpus).toMatchObject([
      { pci_address: '0000:18:00.0', gpu_uuid: null, memory_mib: null, numa_node: 1 },
    ]);
    expect(report.candidate_slots).toEqual([]);
    expect(codes(report.blockers)).toContain('gpu_driver_missing');
    expect(codes(report.warnings)).toContain('gpu_without_driver');
  });

  it('proposes a disk only when it is known to be free', () => {
    const disk = {
      name: 'nvme0n1',
      wwn: 'eui.1',
      sectors: '2048',
      numbers: ['259:0', '259:1'],
      holders: [],
      pciAddress: null,
      numaNode: '-1',
    };
    const base = { ...NOTHING, lspci: GPU, smiGpus: SMI, blockDevices: [disk] };
    const slot = (raw: RawFacts) => assembleTopology(raw).candidate_slots[0];
    const mountInfo = (device: string) => `1 0 ${device} / / rw - ext4 /dev/x rw\n`;
    expect(slot({ ...base, mountInfo: mountInfo('8:1') })).toMatchObject({
      nvme_device: '/dev/nvme0n1',
      nvme_wwn: 'eui.1',
    });
    expect(slot({ ...base, mountInfo: mountInfo('259:1') })).not.toHaveProperty('nvme_device');
    expect(slot(base)).not.toHaveProperty('nvme_device');
    expect(
      slot({ ...base, mountInfo: mountInfo('8:1'), blockDevices: [{ ...disk, holders: ['dm-0'] }] }),
    ).not.toHaveProperty('nvme_device');
    expect(slot({ ...base, mountInfo: mountInfo('8:1') })).toMatchObject({
      status: 'disabled',
      numa_node: 1,
      gpu_uuid: 'GPU-1',
    });
  });

  it('blocks slices on a host whose network does not carry them', () => {
    const ready = {
      ...NOTHING,
      lspci: GPU,
      smiGpus: SMI,
      kvm: true,
      vfio: true,
      iommuGroups: 10,
      bridges: ['br'],
      ipForward: '1\n',
      natRules: '-A POSTROUTING -j MASQUERADE',
    };
    expect(assembleTopology(ready).blockers).toEqual([]);
    expect(codes(assembleTopology({ ...ready, ipForward: '0\n' }).blockers)).toEqual(['ip_forwarding_missing']);
    expect(codes(assembleTopology({ ...ready, natRules: '-P POSTROUTING ACCEPT' }).blockers)).toEqual(['nat_missing']);
  });
});
