import type { TopologyReport } from '@gpuaas/node-protocol';
import {
  gpuDevices,
  type Mount,
  type PciDevice,
  parseCpuInfo,
  parseCudaVersion,
  parseIommuArguments,
  parseLspci,
  parseMemoryMib,
  parseMountInfo,
  parseOsName,
  parseSmiGpus,
  type SmiGpu,
} from './linux/inventory-parsers.js';

export interface BlockDevice {
  /** Kernel name, such as nvme0n1. */
  name: string;
  wwn: string | null;
  sectors: string | null;
  /** Major and minor number of the disk and of its partitions. */
  numbers: string[];
  /** Devices stacked on it: LVM, RAID, encryption. */
  holders: string[];
  pciAddress: string | null;
  numaNode: string | null;
}

export interface FabricDevice {
  name: string;
  linkLayer: string | null;
  state: string | null;
  pciAddress: string | null;
  numaNode: string | null;
  vfs: string[];
}

/** What was read, unjudged. Null: it could not be read, or the program that says it is not there. */
export interface RawFacts {
  hostname: string | null;
  osRelease: string | null;
  kernel: string | null;
  architecture: string | null;
  cpuInfo: string | null;
  memInfo: string | null;
  numaNodes: number | null;
  bootId: string | null;
  commandLine: string | null;
  iommuGroups: number | null;
  kvm: boolean | null;
  vfio: boolean | null;
  ipForward: string | null;
  natRules: string | null;
  bridges: string[] | null;
  mountInfo: string | null;
  lspci: string | null;
  smiGpus: string | null;
  smiBanner: string | null;
  blockDevices: BlockDevice[] | null;
  fabricDevices: FabricDevice[] | null;
}

const SECTOR_BYTES = 512;

type Remark = TopologyReport['warnings'][number];
type Gpu = NonNullable<TopologyReport['gpus']>[number];
type Nvme = NonNullable<TopologyReport['nvme']>[number];
type Fabric = NonNullable<TopologyReport['fabric']>[number];

/** Judges raw facts. What is unknown stays null and is warned of; what bars slices is named as a blocker. */
export function assembleTopology(raw: RawFacts): TopologyReport {
  const warnings: Remark[] = [];
  const warn = (code: string, message: string) => void warnings.push({ code, message });

  const smi = raw.smiGpus === null ? null : parseSmiGpus(raw.smiGpus);
  if (raw.smiGpus === null)
    warn('gpu_driver_tool_absent', 'nvidia-smi gave no answer: GPU ids, memory and driver are unknown');
  else if (smi === null) warn('gpu_driver_tool_unreadable', 'nvidia-smi gave an answer that cannot be read');
  const pci = raw.lspci === null ? null : parseLspci(raw.lspci);
  if (pci === null) warn('pci_tool_absent', 'lspci gave no answer: devices without a driver are unknown');

  const gpus = mergeGpus(pci === null ? null : gpuDevices(pci), smi, warn);
  const nvme = nvmeFacts(raw, warn);
  const fabric = fabricFacts(raw, warn);
  const cpu = raw.cpuInfo === null ? null : parseCpuInfo(raw.cpuInfo);

  const host: TopologyReport['host'] = {
    hostname: raw.hostname,
    os: raw.osRelease === null ? null : parseOsName(raw.osRelease),
    kernel: raw.kernel,
    architecture: raw.architecture,
    driver: smi?.[0]?.driverVersion ?? null,
    cuda: raw.smiBanner === null ? null : parseCudaVersion(raw.smiBanner),
    cpu_model: cpu?.model ?? null,
    vcpu_count: cpu?.vcpuCount ?? null,
    memory_mib: raw.memInfo === null ? null : parseMemoryMib(raw.memInfo, 'MemTotal'),
    numa: raw.numaNodes,
    boot_id: raw.bootId,
  };
  for (const [name, value] of Object.entries(host)) {
    if (value === null) warn('host_fact_unknown', `host.${name} could not be read`);
  }

  const prerequisites = {
    kvm_available: raw.kvm,
    iommu_group_count: raw.iommuGroups,
    iommu_kernel_args: raw.commandLine === null ? null : parseIommuArguments(raw.commandLine),
    vfio_available: raw.vfio,
  };
  const sliceNetwork = {
    bridge: raw.bridges?.[0] ?? null,
    ip_forwarding: raw.ipForward === null ? null : raw.ipForward.trim() === '1',
    nat: raw.natRules === null ? null : /\bMASQUERADE\b|\bSNAT\b/.test(raw.natRules),
  };

  return {
    schema_version: 1,
    host,
    prerequisites,
    slice_network: sliceNetwork,
    gpus,
    nvme,
    fabric,
    candidate_slots: candidateSlots(gpus ?? [], nvme ?? [], fabric ?? []),
    blockers: blockersOf(prerequisites, sliceNetwork, gpus),
    warnings,
  };
}

/** The report of a host whose agent cannot run guests: no slice of it could ever be started. */
export function withoutGuests(report: TopologyReport): TopologyReport {
  const blocker = { code: 'guest_driver_missing', message: 'slices need an agent that can run guests on this host' };
  return { ...report, blockers: [...report.blockers, blocker] };
}

function mergeGpus(
  devices: PciDevice[] | null,
  smi: SmiGpu[] | null,
  warn: (code: string, message: string) => void,
): Gpu[] | null {
  if (devices === null && smi === null) return null;
  const addresses = new Set([
    ...(devices ?? []).map((device) => device.address),
    ...(smi ?? []).map((gpu) => gpu.pciAddress),
  ]);
  return [...addresses].sort().map((address) => {
    const device = devices?.find((candidate) => candidate.address === address);
    const driven = smi?.find((candidate) => candidate.pciAddress === address);
    if (driven === undefined) warn('gpu_without_driver', `the driver does not report the GPU at ${address}`);
    return {
      gpu_index: driven?.index ?? null,
      gpu_uuid: driven?.uuid ?? null,
      pci_address: address,
      vendor: driven !== undefined || device?.vendorId === '10de' ? 'nvidia' : (device?.vendor ?? null),
      model: driven?.model ?? device?.device ?? null,
      memory_mib: driven?.memoryMib ?? null,
      numa_node: device?.numaNode ?? null,
    };
  });
}

function nvmeFacts(raw: RawFacts, warn: (code: string, message: string) => void): Nvme[] | null {
  if (raw.blockDevices === null) {
    warn('block_devices_unknown', 'the block devices could not be read');
    return null;
  }
  const mounts: Mount[] | null = raw.mountInfo === null ? null : parseMountInfo(raw.mountInfo);
  if (mounts === null) warn('mounts_unknown', 'the mounts could not be read: no disk is known to be free');
  return raw.blockDevices.map((device) => ({
    device: `/dev/${device.name}`,
    wwn: device.wwn,
    size_bytes:
      device.sectors !== null && /^[1-9]\d*$/.test(device.sectors) ? Number(device.sectors) * SECTOR_BYTES : null,
    mounted:
      mounts === null
        ? null
        : device.holders.length > 0 || mounts.some((mount) => device.numbers.includes(mount.device)),
    pci_address: device.pciAddress,
    numa_node: numa(device.numaNode),
  }));
}

function fabricFacts(raw: RawFacts, warn: (code: string, message: string) => void): Fabric[] | null {
  if (raw.fabricDevices === null) {
    warn('fabric_unknown', 'the fabric devices could not be read');
    return null;
  }
  return raw.fabricDevices.flatMap((device) => {
    const kind = device.linkLayer === 'InfiniBand' ? 'ib' : device.linkLayer === 'Ethernet' ? 'roce' : null;
    if (kind === null) {
      warn('fabric_link_unknown', `${device.name} reports no link layer`);
      return [];
    }
    return [
      {
        device: device.name,
        kind,
        pci_address: device.pciAddress,
        numa_node: numa(device.numaNode),
        state: device.state,
        vfs: device.vfs,
      },
    ];
  });
}

function blockersOf(
  prerequisites: TopologyReport['prerequisites'],
  network: TopologyReport['slice_network'],
  gpus: Gpu[] | null,
): Remark[] {
  const needs: Array<[boolean | null, string, string]> = [
    [gpus === null ? null : gpus.length > 0, 'gpus', 'GPUs on the host'],
    [
      gpus === null ? null : gpus.every((gpu) => gpu.gpu_uuid !== null),
      'gpu_driver',
      'every GPU reported by its driver',
    ],
    [prerequisites.kvm_available, 'kvm', 'hardware virtualisation (/dev/kvm)'],
    [prerequisites.iommu_group_count === null ? null : prerequisites.iommu_group_count > 0, 'iommu', 'an active IOMMU'],
    [prerequisites.vfio_available, 'vfio', 'the vfio-pci driver'],
    [network.bridge === null ? null : true, 'bridge', 'a bridge for the slices'],
    [network.ip_forwarding, 'ip_forwarding', 'IP forwarding'],
    [network.nat, 'nat', 'address translation for the private subnet'],
  ];
  return needs.flatMap(([met, code, need]) =>
    met === true ? [] : [{ code: `${code}_${met === false ? 'missing' : 'unknown'}`, message: `slices need ${need}` }],
  );
}

/** One proposal for each GPU, with a disk and a virtual function near it where the host has one to spare. */
function candidateSlots(gpus: Gpu[], nvme: Nvme[], fabric: Fabric[]): TopologyReport['candidate_slots'] {
  const disks = nvme.filter((disk) => disk.mounted === false && disk.wwn !== null);
  const functions = fabric.flatMap((device) => device.vfs.map((vf) => ({ device, vf, numa_node: device.numa_node })));
  return gpus
    .filter((gpu) => gpu.gpu_uuid !== null)
    .map((gpu, slotIndex) => {
      const disk = takeNearest(disks, gpu.numa_node);
      const fn = takeNearest(functions, gpu.numa_node);
      return {
        slot_index: slotIndex,
        status: 'disabled',
        capacity_shape: 'gpu_slice',
        sharing_model: 'exclusive_device',
        pci_address: gpu.pci_address,
        max_claims: 1,
        ...(gpu.vendor === null ? {} : { accelerator_vendor: gpu.vendor }),
        ...(gpu.model === null ? {} : { accelerator_model: gpu.model }),
        ...(gpu.gpu_index === null ? {} : { gpu_index: gpu.gpu_index }),
        ...(gpu.gpu_uuid === null ? {} : { gpu_uuid: gpu.gpu_uuid }),
        ...(gpu.numa_node === null ? {} : { numa_node: gpu.numa_node }),
        ...(gpu.memory_mib === null ? {} : { gpu_memory_mib: gpu.memory_mib }),
        ...(disk === undefined ? {} : { nvme_device: disk.device }),
        ...(disk?.wwn ? { nvme_wwn: disk.wwn } : {}),
        ...(fn === undefined
          ? {}
          : {
              fabric_kind: fn.device.kind,
              fabric_device: fn.device.device,
              capacity_metadata: { fabric_claim_mode: 'per_slot_vf', fabric_vf_pci_address: fn.vf },
            }),
      };
    });
}

function takeNearest<Item extends { numa_node: number | null }>(
  items: Item[],
  numaNode: number | null,
): Item | undefined {
  const near = items.findIndex((item) => item.numa_node !== null && item.numa_node === numaNode);
  return items.splice(Math.max(near, 0), 1)[0];
}

/** The kernel writes -1 for "no node". */
function numa(text: string | null): number | null {
  return text !== null && /^\d+$/.test(text.trim()) ? Number(text) : null;
}
