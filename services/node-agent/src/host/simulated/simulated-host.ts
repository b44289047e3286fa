import { createHash, randomUUID } from 'node:crypto';
import type { NodeTaskType, TopologyReport } from '@gpuaas/node-protocol';
import { isNodeTaskType } from '@gpuaas/node-protocol';
import { z } from 'zod';
import { systemTimer, type Timer } from '../../agent/timing.js';
import type { StateStore } from '../../store/state-store.js';
import { HostError, type HostErrorCode, type HostPort, hostErrorCodes, type RuntimeUser } from '../host-port.js';
import { Mutex } from '../mutex.js';
import { assembleTopology, type RawFacts } from '../topology.js';
import { decideKeySet, describeKeySet, UserRegistry } from '../user-registry.js';
import { SimulatedGuests } from './simulated-guests.js';

const NAME = 'simulated-host.json';

const hostDocument = z.object({
  boot_id: z.string(),
  bundles: z.record(z.string(), z.string()),
  /** How often each fault of the control file has struck. */
  faults_used: z.record(z.string(), z.int()),
});
type HostDocument = z.infer<typeof hostDocument>;

/** What the machine is made of. */
export interface SimulatedShape {
  gpuModel: string;
  gpuCount: number;
  gpuMemoryMib: number;
  vcpuCount: number;
  memoryMib: number;
  numaNodes: number;
}

export const H200_SHAPE: SimulatedShape = {
  gpuModel: 'NVIDIA H200',
  gpuCount: 8,
  gpuMemoryMib: 143_771,
  vcpuCount: 192,
  memoryMib: 2_063_937,
  numaNodes: 2,
};

/** Makes the next tasks of a type fail or take time. */
export interface SimulatedFault {
  /** Tells faults of a control file apart: a fault that was used up comes back under a new id. */
  id: string;
  task: NodeTaskType | '*';
  /** How many tasks it strikes; without it, all. */
  times?: number | undefined;
  fail?: string | undefined;
  /** The code that it fails with; without it, `injected_fault`. */
  code?: HostErrorCode | undefined;
  delayMilliseconds?: number | undefined;
}

const faultFile = z.object({
  faults: z.array(
    z.object({
      id: z.string(),
      task: z.union([z.literal('*'), z.string().refine(isNodeTaskType, 'is no task type')]),
      times: z.int().positive().optional(),
      fail: z.string().optional(),
      code: z.enum(hostErrorCodes).optional(),
      delay_ms: z.int().nonnegative().optional(),
    }),
  ),
});

export interface SimulatedImage {
  ref: string;
  /** `sha256:` and hex */
  digest: string;
}

export interface SimulatedHostOptions {
  nodeId: string;
  store: StateStore;
  shape?: SimulatedShape;
  faults?: readonly SimulatedFault[];
  /** The guest images that the host keeps, by digest; without it, it keeps none and fetches what a launch names. */
  images?: readonly SimulatedImage[];
  /** Reads a control file, before each task, that an operator of the simulation writes; null when there is none. */
  readFaultFile?: () => Promise<string | null>;
  timer?: Timer;
}

/**
 * A machine that exists only as a record in the agent's state, and keeps it over restarts of the agent.
 * It has the same accounts, guests, key sets, bundles and boot ids as a real one, and its inventory follows from the
 * node id.
 */
export function createSimulatedHost(options: SimulatedHostOptions): HostPort {
  const { nodeId, store } = options;
  const shape = options.shape ?? H200_SHAPE;
  const timer = options.timer ?? systemTimer;
  const registry = new UserRegistry(store);
  const guests = new SimulatedGuests(store);
  const mutex = new Mutex();
  let loaded: HostDocument | null = null;

  const load = async (): Promise<HostDocument> => {
    if (loaded === null) {
      const text = await store.read(NAME);
      if (text === null) await save({ boot_id: randomUUID(), bundles: {}, faults_used: {} });
      else loaded = hostDocument.parse(JSON.parse(text));
    }
    return loaded ?? load();
  };
  const save = async (document: HostDocument) => {
    await store.write(NAME, JSON.stringify(document));
    loaded = document;
  };
  const faults = async (): Promise<SimulatedFault[]> => {
    const text = await options.readFaultFile?.();
    if (text === undefined || text === null) return [...(options.faults ?? [])];
    const file = faultFile.parse(JSON.parse(text));
    return [
      ...(options.faults ?? []),
      ...file.faults.map(({ delay_ms, ...fault }) => ({ ...fault, delayMilliseconds: delay_ms })),
    ];
  };

  return {
    kind: 'simulated',
    bootId: () => mutex.run(async () => (await load()).boot_id),
    reboot: () => mutex.run(async () => save({ ...(await load()), boot_id: randomUUID() })),

    ensureUser: (user, wanted) =>
      mutex.run(async () => {
        const entry = await registry.claim(user);
        const keySet = decideKeySet(entry?.key_set ?? null, wanted);
        await registry.put({ ...identify(user), state: 'present', key_set: { ...keySet, keys: [...keySet.keys] } });
        return describeKeySet(keySet);
      }),
    ensureAuthorizedKeys: (user, wanted) =>
      mutex.run(async () => {
        if ((await guests.find(user.allocationId)) !== undefined) return guests.setKeys(user, wanted);
        const entry = await registry.present(user);
        const keySet = decideKeySet(entry.key_set, wanted);
        await registry.put({ ...entry, key_set: { ...keySet, keys: [...keySet.keys] } });
        return describeKeySet(keySet);
      }),
    ensureUserAbsent: (user) =>
      mutex.run(async () => {
        const guest = await guests.find(user.allocationId);
        if (guest !== undefined) return [`guest:${guest.vm_name}`];
        const entry = await registry.find(user.allocationId);
        if (entry !== undefined && (entry.username !== user.username || entry.uid !== user.uid)) {
          return [`account:${entry.username} is registered for this allocation`];
        }
        const document = await load();
        const bundles = Object.fromEntries(
          Object.entries(document.bundles).filter(
            ([path]) => !path.startsWith(`${bundleDirectory(user.allocationId)}/`),
          ),
        );
        await save({ ...document, bundles });
        await registry.release(user.allocationId);
        return [];
      }),
    runtimeUsers: () =>
      mutex.run(async () => [
        ...(await registry.users()).map((entry) => ({
          allocationId: entry.allocation_id,
          username: entry.username,
          uid: entry.uid,
        })),
        ...(await guests.users()),
      ]),

    ensureRuntimeBundle: ({ allocationId, slug, version, env }) =>
      mutex.run(async () => {
        const entry = await registry.find(allocationId);
        if (entry?.state !== 'present' && (await guests.find(allocationId)) === undefined) {
          throw new HostError('allocation_not_provisioned', 'the allocation has no account on this host');
        }
        const document = await load();
        const path = `${bundleDirectory(allocationId)}/${slug}.env`;
        await save({ ...document, bundles: { ...document.bundles, [path]: JSON.stringify({ version, env }) } });
        return path;
      }),

    guests: {
      ensureGuest: (order) =>
        mutex.run(() => {
          const kept = options.images?.some((image) => image.digest === order.image.digest) ?? true;
          if (!kept) throw new HostError('image', 'the host keeps no image of this digest');
          return guests.ensure(order);
        }),
      ensureGuestAbsent: (allocationId, slots, wipePolicy) =>
        mutex.run(async () => {
          const document = await load();
          const bundles = Object.entries(document.bundles).filter(
            ([path]) => !path.startsWith(`${bundleDirectory(allocationId)}/`),
          );
          await save({ ...document, bundles: Object.fromEntries(bundles) });
          return guests.ensureAbsent(allocationId, slots, wipePolicy);
        }),
      guest: (allocationId) => mutex.run(() => guests.state(allocationId)),
      rebootGuest: (allocationId) => mutex.run(() => guests.reboot(allocationId)),
    },

    topology: () =>
      mutex.run(async () => ({
        ...simulatedTopology(nodeId, shape, (await load()).boot_id),
        images: options.images?.map((image) => ({ ...image, verified_at: IMAGES_VERIFIED_AT })) ?? null,
      })),
    healthChecks: async (allocationId) => {
      const gpus = { name: 'gpus', status: 'ok', detail: `${shape.gpuCount} of ${shape.gpuCount} answer` } as const;
      if (allocationId === null) return [gpus];
      const guest = await mutex.run(() => guests.state(allocationId));
      if (guest !== null) {
        const serves = guest.domainState === 'running' && guest.sshReachable;
        return [gpus, { name: 'guest', status: serves ? 'ok' : 'failed', detail: `it is ${guest.domainState}` }];
      }
      const entry = await mutex.run(() => registry.find(allocationId));
      const there = entry?.state === 'present';
      return [
        gpus,
        {
          name: 'runtime_user',
          status: there ? 'ok' : 'failed',
          detail: there ? 'the account exists' : 'there is no account',
        },
      ];
    },
    ensureUninstalled: () =>
      mutex.run(async () => {
        const document = await load();
        const removed = Object.keys(document.bundles);
        await save({ ...document, bundles: {} });
        return removed;
      }),

    beforeTask: async (type, signal) => {
      const strikes = await mutex.run(async () => {
        const document = await load();
        const used = { ...document.faults_used };
        const striking = (await faults()).filter((fault) => {
          if (fault.task !== '*' && fault.task !== type) return false;
          if (fault.times === undefined) return true;
          const before = used[fault.id] ?? 0;
          if (before >= fault.times) return false;
          used[fault.id] = before + 1;
          return true;
        });
        if (striking.some((fault) => fault.times !== undefined)) await save({ ...document, faults_used: used });
        return striking;
      });
      for (const fault of strikes) {
        if (fault.delayMilliseconds !== undefined) await timer.sleep(fault.delayMilliseconds, signal);
        if (fault.fail !== undefined) throw new HostError(fault.code ?? 'injected_fault', fault.fail);
      }
    },
  };
}

/** When the images of a simulated host were verified: before the host existed. */
const IMAGES_VERIFIED_AT = '2026-01-01T00:00:00.000Z';

const bundleDirectory = (allocationId: string) => `/etc/gpuaas/runtime/${allocationId}`;
const identify = (user: RuntimeUser) => ({ allocation_id: user.allocationId, username: user.username, uid: user.uid });

/** Texts such as a real host gives, so that the readers of real hosts read them. */
function simulatedTopology(nodeId: string, shape: SimulatedShape, bootId: string): TopologyReport {
  const digest = (label: string) => createHash('sha256').update(`${nodeId}/${label}`).digest('hex');
  const slots = Array.from({ length: shape.gpuCount }, (_, index) => index);
  const numaOf = (index: number) => Math.floor((index * shape.numaNodes) / Math.max(shape.gpuCount, 1));
  const bus = (first: number, index: number) => (first + index * 0x10).toString(16).padStart(2, '0').slice(-2);

  const raw: RawFacts = {
    hostname: `sim-${digest('host').slice(0, 8)}`,
    osRelease: 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\n',
    kernel: '6.8.0-60-generic',
    architecture: 'x86_64',
    cpuInfo: cpuInfo(shape.vcpuCount),
    memInfo: `MemTotal:       ${shape.memoryMib * 1024} kB\n`,
    numaNodes: shape.numaNodes,
    bootId,
    commandLine: 'BOOT_IMAGE=/vmlinuz root=UUID=0 ro intel_iommu=on iommu=pt',
    iommuGroups: 160,
    kvm: true,
    vfio: true,
    ipForward: '1\n',
    natRules: '-A POSTROUTING -s 10.77.0.0/24 -j MASQUERADE\n',
    bridges: ['br-slices'],
    mountInfo: '1 0 8:2 / / rw - ext4 /dev/sda2 rw\n',
    lspci: slots
      .map((index) =>
        [
          `Slot:\t0000:${bus(0x0b, index)}:00.0`,
          'Class:\t3D controller [0302]',
          'Vendor:\tNVIDIA Corporation [10de]',
          'Device:\tGH100 [H200 SXM 141GB] [2335]',
          `NUMANode:\t${numaOf(index)}`,
        ].join('\n'),
      )
      .join('\n\n'),
    smiGpus: slots
      .map((index) => {
        const hex = digest(`gpu-${index}`);
        const uuid = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join(
          '-',
        );
        const address = `00000000:${bus(0x0b, index).toUpperCase()}:00.0`;
        return `${index}, GPU-${uuid}, ${address}, ${shape.gpuModel}, ${shape.gpuMemoryMib}, 570.133.20`;
      })
      .join('\n'),
    smiBanner: 'NVIDIA-SMI 570.133.20   Driver Version: 570.133.20   CUDA Version: 12.8',
    blockDevices: slots.map((index) => ({
      name: `nvme${index}n1`,
      wwn: `eui.${digest(`nvme-${index}`).slice(0, 32)}`,
      sectors: String(7_501_476_528),
      numbers: [`259:${index}`],
      holders: [],
      pciAddress: `0000:${bus(0x0d, index)}:00.0`,
      numaNode: String(numaOf(index)),
    })),
    fabricDevices: slots.map((index) => ({
      name: `mlx5_${index}`,
      linkLayer: 'InfiniBand',
      state: '4: ACTIVE',
      pciAddress: `0000:${bus(0x0c, index)}:00.0`,
      numaNode: String(numaOf(index)),
      vfs: [`0000:${bus(0x0c, index)}:00.1`],
    })),
  };
  return assembleTopology(raw);
}

function cpuInfo(count: number): string {
  return Array.from(
    { length: count },
    (_, index) => `processor\t: ${index}\nmodel name\t: Intel(R) Xeon(R) Platinum 8480C\n`,
  ).join('\n');
}
