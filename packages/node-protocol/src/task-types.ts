import { z } from 'zod';
import {
  allocationId,
  environment,
  fileLabel,
  keySetVersion,
  managedKey,
  managedKeys,
  mountPath,
  pciAddress,
  pinnedImage,
  reason,
  runtimeUid,
  runtimeUsername,
  sha256,
  timestamp,
  wipePolicy,
} from './shapes.js';

/**
 * What a task is for, which decides on which nodes it may run:
 * `setup` brings tenant work, `teardown` takes it away, `repair` keeps the agent trusted and current,
 * `diagnose` only looks, `retire` takes the node out of service, `remove` takes the agent off the host.
 */
export type TaskPurpose = 'setup' | 'teardown' | 'repair' | 'diagnose' | 'retire' | 'remove';

const MINUTE = 60;
const HOUR = 60 * MINUTE;

/**
 * Params are closed: a key that an agent does not know is an instruction it cannot obey, so it refuses the task.
 * Outputs are open: an older control plane drops what a newer agent adds.
 */
const define = <Params extends z.ZodType, Output extends z.ZodType>(definition: {
  params: Params;
  output: Output;
  ttlSeconds?: number;
  purpose: TaskPurpose;
  /** Runs alone on the host: waits for all that runs, and all that follows waits for it. */
  exclusive?: boolean;
}) => ({ ttlSeconds: HOUR, exclusive: false, ...definition });

const runtimeUser = { allocation_id: allocationId, username: runtimeUsername, uid: runtimeUid };
const sshEndpoint = { host: z.string().min(1), port: z.int().min(1).max(65_535) };
const keySet = { count: z.int().nonnegative(), sha256, version: keySetVersion };

const sliceSlot = z.strictObject({
  slot_index: z.int().nonnegative(),
  gpu_pci_address: pciAddress,
  gpu_uuid: z.string().max(128).optional(),
  nvme_device: z
    .string()
    .regex(/^\/dev\/[A-Za-z0-9/_.:-]+$/)
    .optional(),
  nvme_wwn: z.string().max(128).optional(),
  fabric_vf_pci_address: pciAddress.optional(),
  mac_address: z
    .string()
    .regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/)
    .optional(),
  private_ip: z.ipv4().optional(),
});
export type SliceSlot = z.infer<typeof sliceSlot>;
const sliceSlots = z.array(sliceSlot).min(1).max(64);

const wiped = z.array(z.string());
const guestState = {
  vm_name: z.string(),
  private_ip: z.string().nullable(),
  domstate: z.string(),
  ssh_reachable: z.boolean(),
};

const component = {
  app_instance_id: z.guid(),
  allocation_id: allocationId,
  component_key: fileLabel,
};
const containerSpec = {
  ...component,
  image_ref: pinnedImage,
  command: z.array(z.string().max(8192)).max(200).optional(),
  env: environment,
  ports: z
    .array(
      z.strictObject({
        host_port: z.int().min(1024).max(65_535),
        container_port: z.int().min(1).max(65_535),
        protocol: z.enum(['tcp', 'udp']),
      }),
    )
    .max(100),
  mounts: z.array(z.strictObject({ host_path: mountPath, container_path: mountPath, read_only: z.boolean() })).max(100),
  gpu_uuids: z.array(z.string().max(128)).max(64),
  generation: z.int().nonnegative(),
};
const containerState = z.object({
  state: z.enum(['running', 'stopped', 'absent']),
  image_digest: z.string().nullable(),
});

const agentPackage = z.strictObject({
  target_version: z.string().min(1).max(128),
  package_url: z.url({ protocol: /^https?$/ }).max(2048),
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
});

const gpuFact = z.object({
  gpu_index: z.int().nonnegative().nullable(),
  gpu_uuid: z.string().nullable(),
  pci_address: z.string(),
  vendor: z.string().nullable(),
  model: z.string().nullable(),
  memory_mib: z.int().positive().nullable(),
  numa_node: z.int().nonnegative().nullable(),
});
const nvmeFact = z.object({
  device: z.string(),
  wwn: z.string().nullable(),
  size_bytes: z.int().positive().nullable(),
  mounted: z.boolean().nullable(),
  pci_address: z.string().nullable(),
  numa_node: z.int().nonnegative().nullable(),
});
const fabricFact = z.object({
  device: z.string(),
  kind: z.enum(['ib', 'roce', 'ethernet']),
  pci_address: z.string().nullable(),
  numa_node: z.int().nonnegative().nullable(),
  state: z.string().nullable(),
  vfs: z.array(z.string()),
});

/**
 * What a host reports of itself. Every fact that could not be observed is null and has a warning:
 * null means unknown, never zero or healthy.
 */
export const topologyReport = z.object({
  schema_version: z.literal(1),
  host: z.object({
    hostname: z.string().nullable(),
    os: z.string().nullable(),
    kernel: z.string().nullable(),
    architecture: z.string().nullable(),
    driver: z.string().nullable(),
    cuda: z.string().nullable(),
    cpu_model: z.string().nullable(),
    vcpu_count: z.int().positive().nullable(),
    memory_mib: z.int().positive().nullable(),
    numa: z.int().positive().nullable(),
    boot_id: z.string().nullable(),
  }),
  prerequisites: z.object({
    kvm_available: z.boolean().nullable(),
    iommu_group_count: z.int().nonnegative().nullable(),
    iommu_kernel_args: z.array(z.string()).nullable(),
    vfio_available: z.boolean().nullable(),
  }),
  slice_network: z.object({
    bridge: z.string().nullable(),
    ip_forwarding: z.boolean().nullable(),
    nat: z.boolean().nullable(),
  }),
  gpus: z.array(gpuFact).nullable(),
  nvme: z.array(nvmeFact).nullable(),
  fabric: z.array(fabricFact).nullable(),
  /**
   * The guest images that the host keeps and has verified: it starts guests from no others. Absent or null where it
   * keeps none and fetches what a launch names.
   */
  images: z
    .array(z.object({ ref: z.string(), digest: z.string().regex(/^sha256:[0-9a-f]{64}$/), verified_at: timestamp }))
    .nullable()
    .optional(),
  /** Proposals in the shape that the slots of a node are written in; always `disabled`, an operator decides. */
  candidate_slots: z.array(
    z.object({
      slot_index: z.int().nonnegative(),
      status: z.literal('disabled'),
      capacity_shape: z.literal('gpu_slice'),
      sharing_model: z.literal('exclusive_device').optional(),
      accelerator_vendor: z.string().optional(),
      accelerator_model: z.string().optional(),
      gpu_index: z.int().optional(),
      gpu_uuid: z.string().optional(),
      pci_address: z.string().optional(),
      numa_node: z.int().optional(),
      gpu_memory_mib: z.int().positive().optional(),
      nvme_device: z.string().optional(),
      nvme_wwn: z.string().optional(),
      fabric_kind: z.enum(['ib', 'roce', 'ethernet']).optional(),
      fabric_device: z.string().optional(),
      max_claims: z.int().positive().optional(),
      capacity_metadata: z.record(z.string(), z.json()).optional(),
    }),
  ),
  /** Why the host cannot carry slices as it is; while one stands, no slot of it is schedulable. */
  blockers: z.array(z.object({ code: z.string(), message: z.string() })),
  warnings: z.array(z.object({ code: z.string(), message: z.string() })),
});
export type TopologyReport = z.infer<typeof topologyReport>;

export const healthReport = z.object({
  /** The worst of the checks; `unknown` is worse than `ok` and is never read as it. */
  status: z.enum(['ok', 'degraded', 'failed', 'unknown']),
  checks: z.array(
    z.object({ name: z.string(), status: z.enum(['ok', 'degraded', 'failed', 'unknown']), detail: z.string() }),
  ),
});
export type HealthReport = z.infer<typeof healthReport>;

/**
 * The one registry of node task types. A type that is not here does not exist: the control plane cannot queue it and
 * the agent refuses it.
 */
export const NODE_TASKS = {
  'allocation.provision_user': define({
    params: z.strictObject({ ...runtimeUser, authorized_keys: managedKeys, key_set_version: keySetVersion }),
    output: z.object({ ...sshEndpoint, authorized_keys: z.object(keySet) }),
    purpose: 'setup',
  }),
  'allocation.deprovision_user': define({
    params: z.strictObject(runtimeUser),
    /** `clean` is proof of absence; each leftover names what still stands. */
    output: z.object({ clean: z.boolean(), leftovers: z.array(z.string()) }),
    purpose: 'teardown',
  }),
  'allocation.restart': define({
    params: z.strictObject(runtimeUser),
    output: z.object({ ...sshEndpoint, previous_boot_id: z.string(), boot_id: z.string() }),
    purpose: 'setup',
  }),
  'allocation.install_authorized_keys': define({
    params: z.strictObject({ ...runtimeUser, keys: managedKeys, key_set_version: keySetVersion }),
    /** What the host has now; a `version` above the one sent means that a newer set was already there. */
    output: z.object(keySet),
    purpose: 'setup',
  }),
  'slice.vm_provision': define({
    params: z.strictObject({
      ...runtimeUser,
      slots: sliceSlots,
      image_ref: z.string().min(1).max(1024),
      digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
      vcpu_count: z.int().positive(),
      memory_mib: z.int().positive(),
      authorized_keys: managedKeys,
      key_set_version: keySetVersion,
      wipe_policy: wipePolicy,
    }),
    output: z.object(guestState),
    purpose: 'setup',
  }),
  'slice.vm_release': define({
    params: z.strictObject({ allocation_id: allocationId, slots: sliceSlots, wipe_policy: wipePolicy }),
    /**
     * `clean` is proof that the guest is gone, its devices are free and its disks are wiped. `wiped` names each disk
     * as the task did: by its WWN where it has one, else by its device.
     */
    output: z.object({ clean: z.boolean(), wiped, leftovers: z.array(z.string()) }),
    purpose: 'teardown',
  }),
  'slice.restart': define({
    params: z.strictObject({ allocation_id: allocationId }),
    /** boot ids of the guest's kernel: that it restarted shows in nothing else */
    output: z.object({ ...guestState, previous_boot_id: z.string(), boot_id: z.string() }),
    purpose: 'setup',
  }),
  'slice.topology_discover': define({
    params: z.strictObject({ schema_version: z.literal(1) }),
    output: topologyReport,
    ttlSeconds: 15 * MINUTE,
    purpose: 'diagnose',
  }),
  'diag.health_probe': define({
    params: z.strictObject({ allocation_id: allocationId.optional() }),
    output: healthReport,
    purpose: 'diagnose',
  }),
  'app.bootstrap_ssh.reconcile': define({
    params: z.discriminatedUnion('desired_state', [
      z.strictObject({
        app_instance_id: z.guid(),
        allocation_id: allocationId,
        username: runtimeUsername,
        managed_key_id: managedKey.shape.managed_key_id,
        desired_state: z.literal('present'),
        public_key: managedKey.shape.public_key,
      }),
      z.strictObject({
        app_instance_id: z.guid(),
        allocation_id: allocationId,
        username: runtimeUsername,
        managed_key_id: managedKey.shape.managed_key_id,
        desired_state: z.literal('absent'),
      }),
    ]),
    output: z.object({ changed: z.boolean() }),
    purpose: 'setup',
  }),
  'app.container.deploy': define({ params: z.strictObject(containerSpec), output: containerState, purpose: 'setup' }),
  'app.container.stop': define({ params: z.strictObject(component), output: containerState, purpose: 'teardown' }),
  'app.container.start': define({ params: z.strictObject(component), output: containerState, purpose: 'setup' }),
  'app.container.restart': define({ params: z.strictObject(component), output: containerState, purpose: 'setup' }),
  'app.container.upgrade': define({ params: z.strictObject(containerSpec), output: containerState, purpose: 'setup' }),
  'app.container.remove': define({
    params: z.strictObject({ ...component, purge_data: z.boolean() }),
    output: containerState,
    purpose: 'teardown',
  }),
  'runtime_bundle.apply': define({
    params: z.strictObject({
      allocation_id: allocationId,
      slug: fileLabel,
      version: z.string().min(1).max(128),
      env: environment,
    }),
    output: z.object({ path: z.string() }),
    purpose: 'setup',
  }),
  'storage.mount': define({
    params: z.strictObject({
      attachment_id: z.guid(),
      generation: z.int().nonnegative(),
      allocation_id: allocationId,
      mount_path: mountPath,
      access_mode: z.enum(['read_only', 'read_write']),
      backend: z.record(z.string(), z.json()),
      credential_ref: z.string().max(8192).nullable(),
    }),
    output: z.object({ mounted: z.boolean() }),
    ttlSeconds: 10 * MINUTE,
    purpose: 'setup',
  }),
  'storage.unmount': define({
    params: z.strictObject({
      attachment_id: z.guid(),
      generation: z.int().nonnegative(),
      allocation_id: allocationId,
      mount_path: mountPath,
    }),
    output: z.object({ mounted: z.boolean() }),
    ttlSeconds: 10 * MINUTE,
    purpose: 'teardown',
  }),
  'terminal.open': define({
    params: z.strictObject({
      session_id: z.guid(),
      allocation_id: allocationId,
      target: z.enum(['host', 'guest']),
      runtime_username: runtimeUsername,
      uid: runtimeUid,
      gid: runtimeUid,
      cols: z.int().min(1).max(512),
      rows: z.int().min(1).max(512),
    }),
    output: z.object({ runtime_username: z.string() }),
    ttlSeconds: 30,
    purpose: 'setup',
  }),
  'node.drain': define({
    params: z.strictObject({
      reason: reason.nullable(),
      intent: z.enum(['maintenance', 'retire', 'agent_upgrade', 'decommission']),
    }),
    /** `quiesced` only when no runtime remains and no other task is in hand. */
    output: z.object({
      quiesced: z.boolean(),
      remaining_runtimes: z.array(z.object({ allocation_id: z.string(), username: z.string() })),
    }),
    ttlSeconds: 24 * HOUR,
    purpose: 'retire',
  }),
  'node.uninstall': define({
    params: z.strictObject({ purge_data: z.boolean(), reason: reason.nullable() }),
    output: z.object({ removed: z.array(z.string()) }),
    ttlSeconds: 24 * HOUR,
    purpose: 'remove',
    exclusive: true,
  }),
  'node.soft_reset': define({
    params: z.strictObject({ reason: reason.nullable() }),
    output: z.object({ removed: z.array(z.string()), failed: z.array(z.string()) }),
    purpose: 'teardown',
    exclusive: true,
  }),
  'node.storage_cleanup': define({
    params: z.strictObject({ slots: sliceSlots, wipe_policy: wipePolicy }),
    output: z.object({ wiped, failed: z.array(z.string()) }),
    purpose: 'teardown',
    exclusive: true,
  }),
  'agent.upgrade': define({
    params: agentPackage,
    output: z.object({ version: z.string() }),
    purpose: 'repair',
    exclusive: true,
  }),
  'agent.rebootstrap': define({
    params: agentPackage,
    output: z.object({ version: z.string() }),
    purpose: 'repair',
    exclusive: true,
  }),
  'agent.renew_cert': define({
    params: z.strictObject({ reason: reason.nullable() }),
    output: z.object({ serial_number: z.string(), not_after: timestamp }),
    purpose: 'repair',
  }),
  'agent.trust_bundle_update': define({
    /** A file left out stays as it is. The API's anchors and the node CA's are two files and are never merged. */
    params: z.strictObject({
      version: z.int().positive(),
      ca_pem: z.string().max(262_144).optional(),
      node_ca_pem: z.string().max(262_144).optional(),
      signing_pubkeys: z.string().max(65_536).optional(),
    }),
    output: z.object({ version: z.int(), signing_key_ids: z.array(z.string()) }),
    purpose: 'repair',
  }),
  'power.limit.apply': define({
    params: z.strictObject({
      generation: z.int().nonnegative(),
      caps: z
        .array(z.strictObject({ gpu_uuid: z.string().min(1).max(128), limit_mw: z.int().positive() }))
        .min(1)
        .max(64),
      lease_until: timestamp,
      cause: reason,
    }),
    output: z.object({
      generation: z.int(),
      enforced: z.array(z.object({ gpu_uuid: z.string(), enforced_mw: z.int().nonnegative() })),
    }),
    purpose: 'repair',
  }),
  'power.limit.clear': define({
    params: z.strictObject({ generation: z.int().nonnegative(), cause: reason }),
    output: z.object({
      generation: z.int(),
      enforced: z.array(z.object({ gpu_uuid: z.string(), enforced_mw: z.int().nonnegative() })),
    }),
    purpose: 'repair',
  }),
};

export type NodeTaskType = keyof typeof NODE_TASKS;
export type TaskParams<Type extends NodeTaskType> = z.infer<(typeof NODE_TASKS)[Type]['params']>;
export type TaskOutput<Type extends NodeTaskType> = z.infer<(typeof NODE_TASKS)[Type]['output']>;

/** A task by its type and the params that belong to it; narrow by `task_type`. */
export type NodeTaskParams = { [Type in NodeTaskType]: { task_type: Type; params: TaskParams<Type> } }[NodeTaskType];
/** An output by the type of its task; narrow by `task_type`. */
export type NodeTaskOutput = { [Type in NodeTaskType]: { task_type: Type; output: TaskOutput<Type> } }[NodeTaskType];
