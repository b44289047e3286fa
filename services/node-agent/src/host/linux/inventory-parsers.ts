/** Readers of what Linux and its tools print. Pure; what a text does not say is null. */

export interface SmiGpu {
  index: number;
  uuid: string;
  pciAddress: string;
  model: string;
  memoryMib: number | null;
  driverVersion: string | null;
}

/** The fields, in the order in which nvidia-smi is asked for them. */
export const SMI_QUERY = 'index,uuid,pci.bus_id,name,memory.total,driver_version';

/**
 * The lines of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`. A line that does not have the asked form makes
 * the whole answer unreadable (null): half an inventory would look like a host that lost GPUs.
 */
export function parseSmiGpus(csv: string): SmiGpu[] | null {
  const gpus: SmiGpu[] = [];
  for (const line of csv.split('\n')) {
    if (line.trim() === '') continue;
    const [index, uuid, busId, model, memory, driver, ...rest] = line.split(',').map((cell) => cell.trim());
    const pciAddress = busId === undefined ? null : normalPciAddress(busId);
    if (!index || !/^\d+$/.test(index) || !uuid?.startsWith('GPU-') || !pciAddress || !model || rest.length > 0)
      return null;
    gpus.push({
      index: Number(index),
      uuid,
      pciAddress,
      model,
      memoryMib: positive(memory),
      driverVersion: driver === undefined || /^(|\[.*\])$/.test(driver) ? null : driver,
    });
  }
  return gpus;
}

/** The CUDA version in the banner that nvidia-smi prints. */
export function parseCudaVersion(banner: string): string | null {
  return /CUDA Version\s*:\s*(\d+(?:\.\d+)*)/.exec(banner)?.[1] ?? null;
}

/** nvidia-smi writes an eight-digit upper-case domain, the kernel a four-digit lower-case one. */
export function normalPciAddress(text: string): string | null {
  const match = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$/i.exec(text.trim());
  if (!match) return null;
  const [, domain = '0', bus, device, fn] = match;
  const short = domain.replace(/^0+/, '').padStart(4, '0');
  return `${short}:${bus}:${device}.${fn}`.toLowerCase();
}

export interface PciDevice {
  address: string;
  classCode: string;
  vendorId: string;
  vendor: string;
  device: string;
  numaNode: number | null;
}

/** The records of `lspci -Dvmmnn`. */
export function parseLspci(text: string): PciDevice[] {
  return text.split(/\n\s*\n/).flatMap((record) => {
    const fields = new Map(
      record.split('\n').flatMap((line) => {
        const match = /^([A-Za-z]+):\s+(.*)$/.exec(line.trim());
        return match?.[1] !== undefined && match[2] !== undefined ? [[match[1], match[2]] as const] : [];
      }),
    );
    const address = normalPciAddress(fields.get('Slot') ?? '');
    const kind = named(fields.get('Class'));
    const vendor = named(fields.get('Vendor'));
    const device = named(fields.get('Device'));
    if (address === null || !kind || !vendor || !device) return [];
    const numa = fields.get('NUMANode');
    return [
      {
        address,
        classCode: kind.code,
        vendorId: vendor.code,
        vendor: vendor.name,
        device: device.name,
        numaNode: numa !== undefined && /^\d+$/.test(numa) ? Number(numa) : null,
      },
    ];
  });
}

/** `NVIDIA Corporation [10de]` → its two halves; the last bracket is the number. */
function named(text: string | undefined): { name: string; code: string } | null {
  const match = /^(.*)\s\[([0-9a-f]{4})\]$/.exec(text ?? '');
  return match?.[1] !== undefined && match[2] !== undefined ? { name: match[1], code: match[2] } : null;
}

const NVIDIA = '10de';
const DISPLAY_CLASSES = ['0300', '0302', '0380'];

/** Devices that compute: display controllers of the vendor whose driver this agent speaks to. */
export function gpuDevices(devices: readonly PciDevice[]): PciDevice[] {
  return devices.filter((device) => device.vendorId === NVIDIA && DISPLAY_CLASSES.includes(device.classCode));
}

export interface CpuInfo {
  model: string | null;
  vcpuCount: number | null;
}

export function parseCpuInfo(text: string): CpuInfo {
  const count = text.match(/^processor\s*:/gm)?.length ?? 0;
  return { model: /^model name\s*:\s*(.+)$/m.exec(text)?.[1]?.trim() ?? null, vcpuCount: count > 0 ? count : null };
}

/** One field of /proc/meminfo in MiB. */
export function parseMemoryMib(text: string, field: 'MemTotal' | 'MemAvailable'): number | null {
  const kib = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1];
  return kib === undefined ? null : Math.floor(Number(kib) / 1024);
}

export function parseOsName(text: string): string | null {
  return /^PRETTY_NAME="?([^"\n]+)"?$/m.exec(text)?.[1] ?? null;
}

/** The words of the kernel command line that concern the IOMMU. */
export function parseIommuArguments(commandLine: string): string[] {
  return commandLine
    .trim()
    .split(/\s+/)
    .filter((word) => /^(intel_iommu|amd_iommu|iommu|vfio)/.test(word));
}

export interface Mount {
  /** Major and minor number of the device. */
  device: string;
  mountPoint: string;
  source: string;
}

/** The mounts of /proc/self/mountinfo, with the kernel's octal escapes undone. */
export function parseMountInfo(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const [head, tail] = line.split(' - ');
    const fields = head?.split(' ') ?? [];
    const [, , device, , mountPoint] = fields;
    const source = tail?.split(' ')[1];
    if (device === undefined || mountPoint === undefined || source === undefined) return [];
    return [{ device, mountPoint: unescapeOctal(mountPoint), source: unescapeOctal(source) }];
  });
}

function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_escape, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** The mount points at or below a directory. */
export function mountsBelow(mounts: readonly Mount[], directory: string): string[] {
  return mounts
    .map((mount) => mount.mountPoint)
    .filter((point) => point === directory || point.startsWith(`${directory}/`));
}

export interface Account {
  username: string;
  uid: number;
  gid: number;
  comment: string;
  home: string;
}

/** One line as `getent passwd` prints it. */
export function parseAccount(line: string): Account | null {
  const fields = line.trim().split(':');
  const [username, , uid, gid, comment, home] = fields;
  if (fields.length !== 7 || !username || !uid || !gid || comment === undefined || home === undefined) return null;
  return /^\d+$/.test(uid) && /^\d+$/.test(gid)
    ? { username, uid: Number(uid), gid: Number(gid), comment, home }
    : null;
}

/** The user ids (real, effective, saved, file system) of a process, from /proc/<pid>/status. */
export function parseProcessUids(status: string): number[] {
  const match = /^Uid:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)$/m.exec(status);
  return match ? match.slice(1).map(Number) : [];
}

/** A zombie holds nothing and cannot be ended; only its parent can take it away. */
export function isZombie(status: string): boolean {
  return /^State:\s+Z/m.test(status);
}

/** The ids of the objects in /proc/sysvipc/{shm,sem,msg} that a user owns. */
export function parseIpcIds(table: string, uid: number): number[] {
  const [header, ...rows] = table
    .trim()
    .split('\n')
    .map((row) => row.trim().split(/\s+/));
  const uidColumn = header?.indexOf('uid') ?? -1;
  const idColumn = header?.findIndex((name) => ['shmid', 'semid', 'msqid'].includes(name)) ?? -1;
  if (uidColumn < 0 || idColumn < 0) return [];
  return rows.filter((row) => Number(row[uidColumn]) === uid).map((row) => Number(row[idColumn]));
}

function positive(text: string | undefined): number | null {
  return text !== undefined && /^\d+$/.test(text) && Number(text) > 0 ? Number(text) : null;
}
