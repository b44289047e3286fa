import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  gpuDevices,
  mountsBelow,
  normalPciAddress,
  parseAccount,
  parseCpuInfo,
  parseCudaVersion,
  parseIommuArguments,
  parseIpcIds,
  parseLspci,
  parseMemoryMib,
  parseMountInfo,
  parseOsName,
  parseProcessUids,
  parseSmiGpus,
} from './inventory-parsers.js';

const SMI = `0, GPU-6b3f1a52-9d0c-4f6e-8a71-2f0f7a1c9e01, 00000000:18:00.0, NVIDIA H200, 143771, 570.133.20
1, GPU-0c7a2b9e-1f44-4a0b-b1de-66f5a3a7c002, 00000000:2A:00.0, NVIDIA H200, 143771, 570.133.20
`;

const LSPCI = `Slot:\t0000:18:00.0
Class:\t3D controller [0302]
Vendor:\tNVIDIA Corporation [10de]
Device:\tGH100 [H200 SXM 141GB] [2335]
SVendor:\tNVIDIA Corporation [10de]
SDevice:\tDevice [18be]
Rev:\ta1
NUMANode:\t0
IOMMUGroup:\t45

Slot:\t0000:2a:00.0
Class:\t3D controller [0302]
Vendor:\tNVIDIA Corporation [10de]
Device:\tGH100 [H200 SXM 141GB] [2335]
NUMANode:\t1

Slot:\t0000:07:00.0
Class:\tBridge [0680]
Vendor:\tNVIDIA Corporation [10de]
Device:\tGH100 [H100 NVSwitch] [22a3]
NUMANode:\t0

Slot:\t00:02.0
Class:\tVGA compatible controller [0300]
Vendor:\tASPEED Technology, Inc. [1a03]
Device:\tASPEED Graphics Family [2000]
`;

describe('nvidia-smi', () => {
  it('is read field by field', () => {
    expect(parseSmiGpus(SMI)).toEqual([
      {
        index: 0,
        uuid: 'GPU-6b3f1a52-9d0c-4f6e-8a71-2f0f7a1c9e01',
        pciAddress: '0000:18:00.0',
        model: 'NVIDIA H200',
        memoryMib: 143_771,
        driverVersion: '570.133.20',
      },
      expect.objectContaining({ index: 1, pciAddress: '0000:2a:00.0' }),
    ]);
  });

  it('leaves unknown what it does not support, and is unreadable as a whole when one line is', () => {
    expect(parseSmiGpus(SMI.replace('143771', '[N/A]'))?.[0]?.memoryMib).toBeNull();
    expect(parseSmiGpus(SMI.replaceAll('570.133.20', '[N/A]'))?.[0]?.driverVersion).toBeNull();
    expect(
      parseSmiGpus(`${SMI}Unable to determine the device handle for GPU 0000:3A:00.0: Unknown Error\n`),
    ).toBeNull();
    expect(parseSmiGpus('No devices were found\n')).toBeNull();
    expect(parseSmiGpus('')).toEqual([]);
  });

  it('names the CUDA version in its banner', () => {
    const banner = '| NVIDIA-SMI 570.133.20             Driver Version: 570.133.20     CUDA Version: 12.8     |';
    expect(parseCudaVersion(banner)).toBe('12.8');
    expect(parseCudaVersion('| CUDA Version: N/A |')).toBeNull();
  });
});

describe('lspci', () => {
  it('gives the GPUs, without switches and displays of the board', () => {
    expect(gpuDevices(parseLspci(LSPCI)).map((device) => [device.address, device.device, device.numaNode])).toEqual([
      ['0000:18:00.0', 'GH100 [H200 SXM 141GB]', 0],
      ['0000:2a:00.0', 'GH100 [H200 SXM 141GB]', 1],
    ]);
    expect(parseLspci(LSPCI)).toHaveLength(4);
  });
});

it('PCI addresses of tools and kernel become one', () => {
  expect(normalPciAddress('00000000:2A:00.0')).toBe('0000:2a:00.0');
  expect(normalPciAddress('00010000:2A:00.0')).toBe('10000:2a:00.0');
  expect(normalPciAddress('02:00.1')).toBe('0000:02:00.1');
  for (const text of ['', '2a', '0000:2a:00.9', 'xx:00.0']) expect(normalPciAddress(text)).toBeNull();
  fc.assert(
    fc.property(fc.string(), (text) => {
      const once = normalPciAddress(text);
      if (once !== null) expect(normalPciAddress(once)).toBe(once);
    }),
  );
});

describe('files of the kernel', () => {
  it('say what the machine is', () => {
    expect(
      parseCpuInfo('processor\t: 0\nmodel name\t: Xeon 8480C\n\nprocessor\t: 1\nmodel name\t: Xeon 8480C\n'),
    ).toEqual({
      model: 'Xeon 8480C',
      vcpuCount: 2,
    });
    expect(parseCpuInfo('')).toEqual({ model: null, vcpuCount: null });
    expect(parseMemoryMib('MemTotal:       2113471488 kB\nMemAvailable:   1024 kB\n', 'MemTotal')).toBe(2_063_937);
    expect(parseMemoryMib('', 'MemTotal')).toBeNull();
    expect(parseOsName('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n')).toBe('Ubuntu 24.04.2 LTS');
    expect(parseIommuArguments('ro quiet intel_iommu=on iommu=pt\n')).toEqual(['intel_iommu=on', 'iommu=pt']);
  });

  it('list mounts, also those with spaces', () => {
    const mounts = parseMountInfo(
      '36 35 98:0 /mnt1 /home/ada/my\\040data rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:40 / /home/adam rw - tmpfs none rw\n',
    );
    expect(mounts[0]).toEqual({ device: '98:0', mountPoint: '/home/ada/my data', source: '/dev/root' });
    expect(mountsBelow(mounts, '/home/ada')).toEqual(['/home/ada/my data']);
    expect(mountsBelow(mounts, '/home/adam')).toEqual(['/home/adam']);
  });

  it('tell whose a process is', () => {
    expect(parseProcessUids('Name:\tsh\nUid:\t1000\t0\t0\t1000\nGid:\t1\t1\t1\t1\n')).toEqual([1000, 0, 0, 1000]);
    expect(parseProcessUids('')).toEqual([]);
  });

  it('tell whose a shared memory segment is', () => {
    const table = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid
         0          7  1600                  4096   100   100      1  1000  1000  1000  1000
         0          8  1600                  4096   100   100      1     0     0     0     0
`;
    expect(parseIpcIds(table, 1000)).toEqual([7]);
    expect(parseIpcIds('', 1000)).toEqual([]);
  });
});

it('accounts are read as getent prints them', () => {
  expect(parseAccount('ada:x:20001:20002:gpuaas-allocation 1:/home/ada:/bin/bash\n')).toEqual({
    username: 'ada',
    uid: 20_001,
    gid: 20_002,
    comment: 'gpuaas-allocation 1',
    home: '/home/ada',
  });
  expect(parseAccount('ada:x:20001')).toBeNull();
});
