import { constants } from 'node:fs';
import { access, readdir, readFile, readlink, realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { BlockDevice, FabricDevice, RawFacts } from '../topology.js';
import type { RunCommand } from './command.js';
import { normalPciAddress, SMI_QUERY } from './inventory-parsers.js';

/** Reads the facts of this machine from /proc, /sys and the tools that are installed; nothing is judged here. */
export async function readRawFacts(run: RunCommand): Promise<RawFacts> {
  const output = async (program: string, args: readonly string[]) => {
    const result = await run(program, args);
    return result.exitCode === 0 ? result.stdout : null;
  };
  const [lspci, smiGpus, smiBanner, natRules, ovsBridges] = await Promise.all([
    output('lspci', ['-Dvmmnn']),
    output('nvidia-smi', [`--query-gpu=${SMI_QUERY}`, '--format=csv,noheader,nounits']),
    output('nvidia-smi', []),
    output('iptables', ['-t', 'nat', '-S']),
    output('ovs-vsctl', ['list-br']),
  ]);
  return {
    hostname: trimmed(await text('/proc/sys/kernel/hostname')),
    osRelease: (await text('/etc/os-release')) ?? (await text('/usr/lib/os-release')),
    kernel: trimmed(await text('/proc/sys/kernel/osrelease')),
    architecture: machine(),
    cpuInfo: await text('/proc/cpuinfo'),
    memInfo: await text('/proc/meminfo'),
    numaNodes: await count('/sys/devices/system/node', /^node\d+$/),
    bootId: trimmed(await text('/proc/sys/kernel/random/boot_id')),
    commandLine: await text('/proc/cmdline'),
    iommuGroups: await count('/sys/kernel/iommu_groups', /^\d+$/, 0),
    kvm: await exists('/dev/kvm'),
    vfio: await exists('/sys/bus/pci/drivers/vfio-pci'),
    ipForward: await text('/proc/sys/net/ipv4/ip_forward'),
    natRules,
    bridges: ovsBridges === null ? null : ovsBridges.split('\n').filter((line) => line !== ''),
    mountInfo: await text('/proc/self/mountinfo'),
    lspci,
    smiGpus,
    smiBanner,
    blockDevices: await blockDevices(),
    fabricDevices: await fabricDevices(),
  };
}

async function blockDevices(): Promise<BlockDevice[] | null> {
  const names = await list('/sys/class/block');
  if (names === null) return null;
  const disks = names.filter((name) => /^nvme\d+n\d+$/.test(name)).sort();
  return Promise.all(
    disks.map(async (name) => {
      const path = join('/sys/class/block', name);
      const parts = names.filter((other) => other === name || other.startsWith(`${name}p`));
      const numbers = await Promise.all(parts.map((part) => text(join('/sys/class/block', part, 'dev'))));
      const holders = await Promise.all(parts.map((part) => list(join('/sys/class/block', part, 'holders'))));
      return {
        name,
        wwn: trimmed(await text(join(path, 'wwid'))),
        sectors: trimmed(await text(join(path, 'size'))),
        numbers: numbers.flatMap((number) => trimmed(number) ?? []),
        holders: holders.flatMap((names) => names ?? []),
        pciAddress: normalPciAddress(trimmed(await text(join(path, 'device/address'))) ?? ''),
        numaNode: trimmed(await text(join(path, 'device/numa_node'))),
      };
    }),
  );
}

async function fabricDevices(): Promise<FabricDevice[] | null> {
  const names = await list('/sys/class/infiniband');
  // The directory exists only once a fabric driver is loaded; without the class tree nothing can be said at all.
  if (names === null) return (await exists('/sys/class')) ? [] : null;
  return Promise.all(
    names.sort().map(async (name) => {
      const path = join('/sys/class/infiniband', name);
      const device = await realpath(join(path, 'device')).catch(() => null);
      const links = device === null ? [] : ((await list(device)) ?? []).filter((entry) => /^virtfn\d+$/.test(entry));
      const vfs = await Promise.all(links.map((link) => readlink(join(device ?? '', link)).catch(() => '')));
      return {
        name,
        linkLayer: trimmed(await text(join(path, 'ports/1/link_layer'))),
        state: trimmed(await text(join(path, 'ports/1/state'))),
        pciAddress: device === null ? null : normalPciAddress(basename(device)),
        numaNode: device === null ? null : trimmed(await text(join(device, 'numa_node'))),
        vfs: vfs.flatMap((target) => normalPciAddress(basename(target)) ?? []).sort(),
      };
    }),
  );
}

function machine(): string | null {
  const names: Partial<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' };
  return names[process.arch] ?? process.arch;
}

async function text(path: string): Promise<string | null> {
  return readFile(path, 'utf8').catch(() => null);
}

async function list(path: string): Promise<string[] | null> {
  return readdir(path).catch(() => null);
}

/** How many entries match; `whenAbsent` is for directories whose absence itself says so. */
async function count(path: string, pattern: RegExp, whenAbsent: number | null = null): Promise<number | null> {
  const names = await list(path);
  return names === null ? whenAbsent : names.filter((name) => pattern.test(name)).length;
}

async function exists(path: string): Promise<boolean> {
  return access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
}

function trimmed(value: string | null): string | null {
  const short = value?.trim();
  return short === undefined || short === '' ? null : short;
}
